//! Qwen2 and Qwen2.5: LLaMA with biases of queries, keys and values, and on request a window in the upper layers.

use serde_json::Value;

use super::llama::Draft;
use super::{Family, Names, rope, sliding_window};
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
    match (windowed_layers(config, draft.arch.layers)?, window) {
        (0, _) => Ok(()),
        (some, Some(window)) if some == draft.arch.layers && window > 0 => {
            draft.arch.window = if window < draft.arch.context { window } else { 0 };
            Ok(())
        }
        // Layers without a window compute the same within that context.
        (_, Some(window)) => draft.cut_to_window(config, window),
        (_, None) if config.get("layer_types").is_some() => {
            Err(config.error("layer_types", "full_attention in all layers of a model without a window"))
        }
        (_, None) => Ok(()),
    }
}

/// How many layers have the window, if there is one.
fn windowed_layers(config: &Config, layers: u32) -> Result<u32> {
    let Some(types) = config.get("layer_types") else {
        return Ok(layers.saturating_sub(config.integer("max_window_layers")?.unwrap_or(28)));
    };
    let known = |name: &Value| name == "full_attention" || name == "sliding_attention";
    let types = types.as_array().filter(|types| types.len() == layers as usize && types.iter().all(known));
    let types =
        types.ok_or_else(|| config.error("layer_types", "full_attention or sliding_attention for each layer"))?;
    Ok(types.iter().map(|name| u32::from(name == "sliding_attention")).sum())
}
