//! Qwen3: LLaMA with a norm of every query and key head.

use thumbformer::arch::HeadNorm;

use super::llama::Draft;
use super::{Family, Names, qwen2, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "qwen3", classes: &["Qwen3ForCausalLM", "Qwen3Model"], recipe };

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let mut draft =
        Draft::read(names, config, &[&qwen2::FIELDS[..], &["attention_bias"]].concat(), rope::Variant::default())?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    draft.arch.head_norm = HeadNorm::Rms;
    draft.arch.biases.qkv = bias;
    draft.arch.biases.attention_out = bias;
    qwen2::common(&mut draft, config)?;
    draft.assemble(FAMILY.name, names, config)
}
