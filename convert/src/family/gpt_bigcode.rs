//! GPTBigCode, StarCoder and SantaCoder: GPT-2 with one key/value head for all queries, and matrices `[out, in]`.

use thumbformer::arch::TensorSpec;

use super::gpt2::{self, Fused, Layout};
use super::{Family, Names, Plan, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family =
    Family { name: "gpt_bigcode", classes: &["GPTBigCodeForCausalLM", "GPTBigCodeModel"], recipe };

/// Fields that are read, or say nothing; those of [`gpt2::arch`] come on top.
const FIELDS: [&str; 12] = [
    // Where the softmax is computed in mixed precision.
    "attention_softmax_in_fp32",
    "scale_attention_softmax_in_fp32",
    // Of a fused implementation that was given up.
    "inference_runner",
    "max_batch_size",
    "max_sequence_length",
    "pad_key_length",
    "pre_allocate_kv_cache",
    "runner_max_sequence_length",
    "validate_runner_input",
    "multi_query",
    "num_key_value_heads",
    "tie_word_embeddings",
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&[gpt2::FIELDS.as_slice(), &FIELDS].concat())?;
    let mut notes = Vec::new();
    let prefix = names.prefix(&["transformer."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let head = names.head(&format!("{prefix}wte.weight"), "lm_head.weight", tie, &mut notes);
    let mut arch = gpt2::arch(config, head)?;
    let multi_query = config.boolean("multi_query")?.unwrap_or(true);
    arch.kv_heads = if multi_query { 1 } else { arch.heads };
    if config.integer("num_key_value_heads")?.is_some_and(|found| found != arch.kv_heads) {
        return Err(config.error("num_key_value_heads", format!("{}, by multi_query", arch.kv_heads)));
    }
    let arch = validated(arch, config.path())?;
    let fused = if multi_query { Fused::Whole } else { Fused::ByHead };
    let layout = Layout { prefix, transposed: false, scale_by_layer: false, fused, head };
    let pieces = |spec: TensorSpec| layout.pieces(&arch, names, spec);
    let ignorable = |name: &str| layout.ignorable(name);
    Plan { family: FAMILY.name, arch, computed: Vec::new(), pieces: &pieces, ignorable: &ignorable, notes }
        .assemble(names)
}
