//! Mistral: LLaMA whose attention sees a window of positions only.

use super::llama::Draft;
use super::{Family, Names, rope, sliding_window, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "mistral", classes: &["MistralForCausalLM", "MistralModel"], recipe };

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = ["rms_norm_eps", "sliding_window"];
    let mut draft = Draft::read(names, config, &own, rope::Variant::default())?;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    if let Some(window) = sliding_window(config, Some(4096))? {
        draft.limit_sight(config, window, windows::Layers::ALL)?;
    }
    draft.assemble(FAMILY.name, names, config)
}
