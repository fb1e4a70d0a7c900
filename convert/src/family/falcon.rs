//! Falcon: LayerNorm, few key/value heads, attention and MLP in parallel (with one norm in the smaller models, with two in
//! the larger), or one after the other. RoPE, or ALiBi in the models trained on RefinedWeb alone.
//!
//! ALiBi is added to scores before they are scaled. transformers multiplies slopes by positions in bfloat16: its slopes are
//! rounded so here too, but a product with a position is exact. The two are equal up to position 256 where slopes are
//! powers of two (eight heads, or fewer); elsewhere transformers rounds each position's bias to eight bits of its
//! own, so that what a token sees depends on how far it is from the text's beginning.

use thumbformer::arch::{Activation, Arch, Biases, Position, Role, TensorSpec, Wiring};

use super::spelling::{Qkv, Spelling};
use super::{Family, Names, Plan, activation, alibi, heads_of, inverse_sqrt, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "falcon", classes: &["FalconForCausalLM", "FalconModel"], recipe };

/// Fields that are read here; those of [`rope`] come on top.
const FIELDS: [&str; 17] = [
    "activation",
    "alibi",
    "apply_residual_connection_post_layernorm",
    "bias",
    "ffn_hidden_size",
    "hidden_size",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "multi_query",
    "new_decoder_architecture",
    "num_attention_heads",
    "num_hidden_layers",
    "num_kv_heads",
    "num_ln_in_parallel_attn",
    "parallel_attn",
    "tie_word_embeddings",
    "vocab_size",
];

const NAMES: [(Role, &str); 5] = [
    (Role::TokenEmbedding, "word_embeddings"),
    (Role::AttentionOut, "self_attention.dense"),
    (Role::MlpUp, "mlp.dense_h_to_4h"),
    (Role::MlpDown, "mlp.dense_4h_to_h"),
    (Role::FinalNorm, "ln_f"),
];
const ONE_NORM: [(Role, &str); 1] = [(Role::AttentionNorm, "input_layernorm")];
const SEQUENTIAL_NORMS: [(Role, &str); 2] =
    [(Role::AttentionNorm, "input_layernorm"), (Role::MlpNorm, "post_attention_layernorm")];
const PARALLEL_NORMS: [(Role, &str); 2] = [(Role::AttentionNorm, "ln_attn"), (Role::MlpNorm, "ln_mlp")];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&[FIELDS.as_slice(), &rope::FIELDS].concat())?;
    // Written into configurations, and used by no version of the model.
    config.boolean("apply_residual_connection_post_layernorm")?;
    let mut notes = Vec::new();
    let (dim, heads, head_dim) = heads_of(config, "hidden_size", "num_attention_heads")?;
    let context = config.integer("max_position_embeddings")?.unwrap_or(2048);
    let flag = |field: &str, default| config.boolean(field).map(|found| found.unwrap_or(default));
    let rope = match flag("alibi", false)? {
        true => None,
        false => Some(rope::Rope::read(config, head_dim, context, rope::Variant::default(), &mut notes)?),
    };
    let (grouped, parallel) = (flag("new_decoder_architecture", false)?, flag("parallel_attn", true)?);
    if grouped && !parallel {
        return Err(config.error("parallel_attn", "true in the new decoder architecture"));
    }
    let two = match config.integer("num_ln_in_parallel_attn")? {
        None => grouped,
        Some(1) => false,
        Some(2) if grouped => true,
        Some(_) => return Err(config.error("num_ln_in_parallel_attn", "1, or 2 in the new decoder architecture")),
    };
    let (wiring, norms) = match (parallel, two) {
        (false, _) => (Wiring::Sequential, &SEQUENTIAL_NORMS[..]),
        (true, false) => (Wiring::ParallelOneNorm, &ONE_NORM[..]),
        (true, true) => (Wiring::Parallel, &PARALLEL_NORMS[..]),
    };
    let kv_heads = match (grouped, flag("multi_query", true)?) {
        (true, _) => config.integer("num_kv_heads")?.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    let prefix = names.prefix(&["transformer."]);
    let tie = flag("tie_word_embeddings", true)?;
    let head = names.head(&format!("{prefix}word_embeddings.weight"), "lm_head.weight", tie, &mut notes);
    let bias = flag("bias", false)?;
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        hidden: config.integer("ffn_hidden_size")?.unwrap_or(dim.saturating_mul(4)),
        context,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        position: if rope.is_some() { Position::Rope } else { Position::Alibi },
        rotary_dim: rope.as_ref().map_or(0, |rope| rope.rotary_dim),
        activation: activation(config, "activation", Activation::Gelu)?,
        wiring,
        biases: Biases { norm: true, qkv: bias, attention_out: bias, mlp: bias, head: false },
        tied_head: head.is_tied(),
        attention_scale: match &rope {
            Some(rope) => rope.attention_scale(config, head_dim)?,
            None => inverse_sqrt(head_dim),
        },
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let spelling = Spelling {
        prefix,
        layers: "h.",
        names: &[&NAMES, norms].concat(),
        qkv: Qkv::ByKvHead("self_attention.query_key_value"),
        head_name: "lm_head",
        head,
    };
    let pieces = |spec: TensorSpec| spelling.pieces(&arch, spec);
    let ignorable = |name: &str| name.ends_with(".rotary_emb.inv_freq") || head.repeats(name, "lm_head.weight");
    let computed = vec![match &rope {
        Some(rope) => (Role::RopeFrequencies, rope.frequencies(config)?),
        None => (Role::AlibiSlopes, alibi::slopes_in_bf16(heads, arch.attention_scale)),
    }];
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
