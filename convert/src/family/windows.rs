//! Which layers see a window of positions only.

use thumbformer::arch::Arch;

use crate::Result;
use crate::config::Config;

/// Gives the record a window of `window` positions, the query's own included, in all layers but every `every`th (0: in
/// all); `layer_types` says it where it is there. One as long as the context hides nothing, but where only some layers have
/// it, those may differ in more.
pub(super) fn apply(arch: &mut Arch, config: &Config, window: u32, every: u32) -> Result<()> {
    if window == 0 {
        return Err(config.error("sliding_window", "a positive integer"));
    }
    let every = match config.get("layer_types") {
        None => Some(every),
        Some(types) => {
            let types = types.as_array().filter(|types| types.len() == arch.layers as usize);
            let windowed = types.and_then(|types| types.iter().map(|name| windowed(name.as_str()?)).collect());
            pattern(
                windowed
                    .ok_or_else(|| config.error("layer_types", "full_attention or sliding_attention for each layer"))?,
            )
            .ok_or_else(|| {
                config.error("layer_types", "full_attention in every so-many-th layer, sliding_attention in the others")
            })?
        }
    };
    if let Some(every) = every.filter(|&every| every > 1 || (every == 0 && window < arch.context)) {
        arch.window = window.min(arch.context);
        arch.global_every = if every > arch.layers { 0 } else { every };
    }
    Ok(())
}

fn windowed(name: &str) -> Option<bool> {
    match name {
        "full_attention" => Some(false),
        "sliding_attention" => Some(true),
        _ => None,
    }
}

/// `Some(None)` if no layer has a window, `Some(Some(0))` if all do, `None` if there is no pattern.
#[allow(clippy::option_option, reason = "three answers")]
fn pattern(windowed: Vec<bool>) -> Option<Option<u32>> {
    if !windowed.contains(&true) {
        return Some(None);
    }
    let Some(first) = windowed.iter().position(|windowed| !windowed) else { return Some(Some(0)) };
    let follows = windowed.iter().enumerate().all(|(layer, &windowed)| windowed == ((layer + 1) % (first + 1) != 0));
    follows.then_some(u32::try_from(first + 1).ok())
}
