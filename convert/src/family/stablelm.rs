//! StableLM: LLaMA with LayerNorm, and RoPE in a quarter of each head. The 12B model has norms of heads too.

use thumbformer::arch::{HeadNorm, Norm, Wiring};

use super::llama::Draft;
use super::{Family, Names, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family =
    Family { name: "stablelm", classes: &["StableLmForCausalLM", "StableLmModel"], recipe };

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = ["layer_norm_eps", "qk_layernorm", "use_parallel_residual", "use_qkv_bias"];
    let variant = rope::Variant { partial: Some(0.25), ..rope::Variant::default() };
    let mut draft = Draft::read(names, config, &own, variant)?;
    if config.boolean("qk_layernorm")?.unwrap_or(false) {
        draft.arch.head_norm = HeadNorm::LayerByHead;
    }
    if config.boolean("use_parallel_residual")?.unwrap_or(false) {
        draft.arch.wiring = Wiring::ParallelOneNorm;
    }
    draft.arch.norm = Norm::Layer;
    draft.arch.norm_eps = config.number("layer_norm_eps")?.unwrap_or(1e-5) as f32;
    draft.arch.biases.norm = true;
    draft.arch.biases.qkv = config.boolean("use_qkv_bias")?.unwrap_or(false);
    draft.assemble(FAMILY.name, names, config)
}
