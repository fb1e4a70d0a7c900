//! Which layers see a window of positions only.

use super::{Arch, SHAPING};

/// Some of a model's first 64 layers.
///
/// ```
/// use thumbformer::arch::LayerSet;
/// assert_eq!(LayerSet::from_bits(0b1001).bits(), 0b1001); // the first and the fourth
/// ```
// Halves, as records are copied all over: an alignment of eight costs a microcontroller code and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSet([u32; 2]);

impl LayerSet {
    /// None of them.
    pub const NONE: Self = Self([0; 2]);

    /// A bit for each layer, from the lowest on.
    pub const fn from_bits(bits: u64) -> Self {
        Self([bits as u32, (bits >> 32) as u32])
    }

    /// A bit for each layer, from the lowest on.
    pub const fn bits(self) -> u64 {
        self.0[0] as u64 | (self.0[1] as u64) << 32
    }
}

/// [`Arch::window`], and the layers that have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub(crate) window: u32,
    pub(crate) from: u32,
    pub(crate) global_every: u32,
    pub(crate) list: u64,
}

impl Windows {
    /// Whether that layer has it.
    pub(crate) const fn has(self, layer: u32) -> bool {
        if self.window == 0 || layer < self.from {
            return false;
        }
        if self.list != 0 {
            return layer < 64 && self.list >> layer & 1 != 0;
        }
        self.global_every == 0 || !(layer - self.from + 1).is_multiple_of(self.global_every)
    }

    /// How many of the first `layers` layers have it.
    pub(crate) const fn before(self, layers: u32) -> u32 {
        if self.window == 0 || layers <= self.from {
            return 0;
        }
        if self.list != 0 {
            let behind = if layers < 64 { self.list >> layers << layers } else { 0 };
            return (self.list ^ behind).count_ones();
        }
        let layers = layers - self.from;
        match layers.checked_div(self.global_every) {
            Some(global) => layers - global,
            None => layers,
        }
    }
}

impl Arch {
    /// Which layers have a window.
    pub(crate) const fn windows(&self) -> Windows {
        let window = if SHAPING { self.window } else { 0 };
        Windows { window, from: self.window_from, global_every: self.global_every, list: self.window_list.bits() }
    }

    /// Whether queries of that layer see the last [`Arch::window`] positions only.
    pub const fn windowed(&self, layer: u32) -> bool {
        self.windows().has(layer)
    }

    /// How many layers see the last [`Arch::window`] positions only.
    pub const fn windowed_layers(&self) -> u32 {
        self.windows().before(self.layers)
    }
}

#[cfg(all(test, feature = "shaping"))]
mod tests {
    use super::*;

    #[test]
    fn layers_with_a_window() {
        let windowed = |arch: Arch| {
            arch.validate().unwrap();
            (0..arch.layers).map(|layer| arch.windowed(layer)).collect::<std::vec::Vec<_>>()
        };
        let all = Arch { layers: 6, window: 3, ..Arch::PLAIN };
        assert_eq!(windowed(Arch { window: 0, ..all }), [false; 6]);
        assert_eq!(windowed(all), [true; 6]);
        assert_eq!(windowed(Arch { window_from: 4, ..all }), [false, false, false, false, true, true]);
        assert_eq!(windowed(Arch { global_every: 3, ..all }), [true, true, false, true, true, false]);
        assert_eq!(windowed(Arch { window_from: 1, global_every: 2, ..all }), [false, true, false, true, false, true]);
        assert_eq!(
            windowed(Arch { window_list: LayerSet::from_bits(0b10_0110), ..all }),
            [false, true, true, false, false, true]
        );
        let long = Arch { layers: 64, window_list: LayerSet::from_bits(1 << 63 | 1), ..all };
        assert!((0..64).all(|layer| long.windowed(layer) == (layer % 63 == 0)) && long.windowed_layers() == 2);
        for arch in [
            long,
            Arch { window_list: LayerSet::from_bits(0b10_0110), ..all },
            Arch { window_list: LayerSet::from_bits(0b1), ..all },
        ] {
            arch.validate().unwrap();
            for layers in 0..=arch.layers {
                let before = (0..layers).filter(|&layer| arch.windowed(layer)).count();
                assert_eq!(arch.windows().before(layers) as usize, before);
            }
        }
        for (arch, field) in [
            (Arch { window_list: LayerSet::from_bits(1 << 6), ..all }, "window_list"),
            (Arch { window_list: LayerSet::from_bits(1), window: 0, ..all }, "window_list"),
            (Arch { window_list: LayerSet::from_bits(1), window_from: 1, ..all }, "window_list"),
            (Arch { window_list: LayerSet::from_bits(1), global_every: 2, ..all }, "window_list"),
            (Arch { window_list: LayerSet::from_bits(1), layers: 65, ..all }, "window_list"),
            (Arch { window_from: 6, ..all }, "window_from"),
            (Arch { window_from: u32::MAX, ..all }, "window_from"),
            (Arch { window_from: 1, window: 0, ..all }, "window_from"),
            (Arch { global_every: 1, window: 0, ..all }, "global_every"),
        ] {
            assert_eq!(arch.validate().unwrap_err().field, field);
        }
    }
}
