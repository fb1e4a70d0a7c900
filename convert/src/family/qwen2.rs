//! Qwen2 and Qwen2.5: LLaMA with biases of queries, keys and values, and on request a window in the upper layers.

use super::llama::Draft;
use super::{Family, Names, rope, sliding_window, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "qwen2", classes: &["Qwen2ForCausalLM", "Qwen2Model"], recipe };

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let mut draft = Draft::read(names, config, &FIELDS, rope::Variant::default())?;
    draft.arch.biases.qkv = true;
    common(&mut draft, config)?;
    draft.assemble(FAMILY.name, names, config)
}

/// Fields that Qwen3 has too.
pub(super) const FIELDS: [&str; 5] =
    ["layer_types", "max_window_layers", "rms_norm_eps", "sliding_window", "use_sliding_window"];

/// What Qwen3 has too.
pub(super) fn common(draft: &mut Draft, config: &Config) -> Result<()> {
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    let window = match config.boolean("use_sliding_window")? {
        Some(true) => sliding_window(config, Some(4096))?,
        _ => None,
    };
    match window {
        Some(window) => {
            let from = config.integer("max_window_layers")?.unwrap_or(28);
            draft.limit_sight(config, window, windows::Layers::from(from))
        }
        None if windows::listed(config, draft.arch.layers)?.is_some_and(|list| list.contains(&true)) => {
            Err(config.error("layer_types", "full_attention in all layers of a model without a window"))
        }
        None => Ok(()),
    }
}
