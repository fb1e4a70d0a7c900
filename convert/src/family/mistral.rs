//! Mistral: LLaMA whose attention sees a window of positions only; in Ministral, which is Mistral with a list of the
//! layers' kinds, in some of its layers.

use super::llama::Draft;
use super::{Family, Names, rope, sliding_window, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    classes: &["MistralForCausalLM", "MistralModel"],
    recipe: |n, c, _| recipe(FAMILY, n, c),
};
pub(super) const MINISTRAL_FAMILY: Family = Family {
    name: "ministral",
    classes: &["MinistralForCausalLM", "MinistralModel"],
    recipe: |n, c, _| recipe(MINISTRAL_FAMILY, n, c),
};

fn recipe(family: Family, names: &Names<'_>, config: &Config) -> Result<Recipe> {
    let own = ["layer_types", "rms_norm_eps", "sliding_window"];
    let mut draft = Draft::read(names, config, &own, rope::Variant::default())?;
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    if let Some(window) = sliding_window(config, Some(4096))? {
        draft.limit_sight(config, window, windows::Layers::ALL)?;
    }
    draft.assemble(family.name, names, config)
}
