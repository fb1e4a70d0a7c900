//! Qwen2 and Qwen2.5: LLaMA with biases of queries, keys and values, and on request a window in the upper layers.

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
    if windowed(config, draft.arch.layers)? {
        match window {
            // Layers without a window compute the same within that context.
            Some(window) => draft.cut_to_window(config, window)?,
            None if config.get("layer_types").is_some() => {
                return Err(config.error("layer_types", "full_attention in all layers of a model without a window"));
            }
            None => {}
        }
    }
    Ok(())
}

/// Whether any layer has the window, if there is one.
fn windowed(config: &Config, layers: u32) -> Result<bool> {
    let Some(types) = config.get("layer_types") else {
        return Ok(config.integer("max_window_layers")?.unwrap_or(28) < layers);
    };
    let expected = "full_attention or sliding_attention for each layer";
    let types = types.as_array().filter(|types| types.len() == layers as usize);
    let sliding = types.and_then(|types| {
        let sliding = types.iter().map(|name| match name.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        });
        sliding.collect::<Option<Vec<bool>>>()
    });
    Ok(sliding.ok_or_else(|| config.error("layer_types", expected))?.contains(&true))
}
