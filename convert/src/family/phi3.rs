//! Phi-3 and Phi-4: LLaMA with queries, keys and values in one tensor, gate and up in another, LongRoPE for the long
//! contexts and a window for the short ones.

use super::llama::Draft;
use super::{Family, Names, rope, sliding_window, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "phi3", classes: &["Phi3ForCausalLM", "Phi3Model"], recipe };

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = ["rms_norm_eps", "sliding_window"];
    let variant =
        rope::Variant { partial: Some(1.0), original: Some(4096), phi3_names: true, ..rope::Variant::default() };
    let mut draft = Draft::read(names, config, &own, variant)?;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-5) as f32;
    draft.layout.fused_qkv = Some("self_attn.qkv_proj");
    draft.layout.fused_up = Some("mlp.gate_up_proj");
    if let Some(window) = sliding_window(config, None)? {
        draft.limit_sight(config, window, windows::Layers::ALL)?;
    }
    draft.assemble(FAMILY.name, names, config)
}
