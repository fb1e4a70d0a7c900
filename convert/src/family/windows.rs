//! Which layers see a window of positions only.

use thumbformer::arch::{Arch, LayerSet};

use crate::Result;
use crate::config::Config;

/// Which layers have the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layers {
    /// The first one.
    pub(super) from: u32,
    /// From there on all but every so-many-th; 0 for all.
    pub(super) every: u32,
    /// A bit for each, where the two do not say it; else 0.
    list: u64,
}

impl Layers {
    pub(super) const ALL: Self = Self { from: 0, every: 0, list: 0 };

    /// All from that one on.
    pub(super) const fn from(from: u32) -> Self {
        Self { from, ..Self::ALL }
    }

    /// All but every so-many-th.
    pub(super) const fn but_every(every: u32) -> Self {
        Self { every, ..Self::ALL }
    }
}

/// Gives the record a window of `window` positions, the query's own included, in the layers that `layer_types` lists,
/// or in `layers` where the configuration has no such list; also one that hides nothing, as layers may differ in more.
/// `false`, and no window, where the list is none that a record can say.
pub(super) fn apply(arch: &mut Arch, config: &Config, window: u32, layers: Layers) -> Result<bool> {
    let layers = match listed(config, arch.layers)? {
        None => Some(layers).filter(|layers| layers.from < arch.layers && layers.every != 1),
        Some(list) if !list.contains(&true) => None,
        Some(list) => match pattern(&list).or_else(|| bits(&list)) {
            Some(layers) => Some(layers),
            None => return Ok(false),
        },
    };
    let Some(Layers { from, every, list }) = layers else { return Ok(true) };
    if window == 0 {
        return Err(config.error("sliding_window", "a positive integer"));
    }
    arch.window = window.min(arch.context);
    arch.window_from = from;
    arch.global_every = if every > arch.layers - from { 0 } else { every };
    arch.window_list = LayerSet::from_bits(list);
    Ok(true)
}

/// Whether each of so many layers has a window, where the configuration lists that.
pub(super) fn listed(config: &Config, layers: u32) -> Result<Option<Vec<bool>>> {
    let Some(types) = config.get("layer_types") else { return Ok(None) };
    let types = types.as_array().filter(|types| types.len() == layers as usize);
    let list = types.and_then(|types| types.iter().map(|name| windowed(name.as_str()?)).collect());
    list.map(Some).ok_or_else(|| config.error("layer_types", "full_attention or sliding_attention for each layer"))
}

fn windowed(name: &str) -> Option<bool> {
    match name {
        "full_attention" => Some(false),
        "sliding_attention" => Some(true),
        _ => None,
    }
}

/// The pattern of layers of which some have a window, if a record can say it.
fn pattern(windowed: &[bool]) -> Option<Layers> {
    let from = windowed.iter().position(|&windowed| windowed)?;
    let rest = windowed.get(from..)?;
    let every = rest.iter().position(|windowed| !windowed).map_or(0, |first| first + 1);
    let follows = |(i, &windowed): (usize, &bool)| every == 0 || windowed == ((i + 1) % every != 0);
    let layers = Layers { from: u32::try_from(from).ok()?, every: u32::try_from(every).ok()?, list: 0 };
    rest.iter().enumerate().all(follows).then_some(layers)
}

/// Any layers, of a model that has few enough.
fn bits(windowed: &[bool]) -> Option<Layers> {
    let list = windowed.iter().rev().fold(0, |list, &windowed| list << 1 | u64::from(windowed));
    (windowed.len() <= u64::BITS as usize).then_some(Layers { list, ..Layers::ALL })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_where_there_are_some() {
        let found = |layers: &str| pattern(&layers.bytes().map(|layer| layer == b'w').collect::<Vec<_>>());
        let layers = |from, every| Some(Layers { from, every, list: 0 });
        for (list, expected) in [
            ("wwww", layers(0, 0)),
            ("w", layers(0, 0)),
            ("..ww", layers(2, 0)),
            (".w.w", layers(1, 2)),
            ("w.w.", layers(0, 2)),
            ("ww.ww.w", layers(0, 3)),
            ("www.", layers(0, 4)),
            (".ww.w", layers(1, 3)),
            ("w..w", None),
            ("w.ww", None),
            ("ww.w.", None),
            ("....", None),
        ] {
            assert_eq!(found(list), expected, "{list}");
        }
    }

    #[test]
    fn other_layers_are_listed_where_there_are_few() {
        let list = |list| Some(Layers { list, ..Layers::ALL });
        assert_eq!(bits(&[true, false, false, true]), list(0b1001));
        let mut many = vec![false; 64];
        (many[0], many[63]) = (true, true);
        assert_eq!(bits(&many), list(1 << 63 | 1));
        many.push(true);
        assert_eq!(bits(&many), None);
    }
}
