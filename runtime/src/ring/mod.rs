//! Rings: layers with a window keep their last positions only.
//!
//! A query of such a layer sees [`Arch::window`] positions, so older ones need no memory: their place is the next ones'.
//! Tiles keep to their absolute positions, tile `t` of a ring of `n` tiles lies at place `t mod n`, and what attention
//! computes is what it computes with a cache of all positions; only how far a session can be rewound shows the
//! difference. How long a ring is follows from the plan: the window, and room for what is written while older positions
//! are still needed.
//!
//! This module knows which layer has how many positions and which of them are still there. Keys and values are
//! [`crate::cache`]'s business, and which queries see what is that of [`crate::layer::attention`].

use core::ops::Range;

use crate::arch::{Arch, Windows};
use crate::cache::{HeadShape, TILE};
use crate::plan::{Limits, Plan};

/// Positions by which a session can always go back, and which a snapshot holds beside the window.
pub(crate) const SLACK: u32 = TILE as u32;

/// Tiles of a layer with a window, as far as they are fewer than those of all positions: for the window of a query, and
/// for what is behind the oldest position of that window although the query does not see it. That is either the rest of
/// the chunk, or what has been written before the session went back by `rewind` positions more than by [`SLACK`].
pub(crate) const fn tiles(arch: &Arch, limits: Limits, rewind: u32) -> u64 {
    let back = SLACK as u64 + rewind as u64;
    let behind = if back > limits.chunk as u64 { back } else { limits.chunk as u64 };
    (arch.window as u64 + behind - 1).div_ceil(TILE as u64)
}

/// Which positions of a cache's layers there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    windows: Windows,
    /// Positions of a layer with a window, a multiple of [`TILE`].
    positions: usize,
    /// The first position that such layers still hold.
    oldest: usize,
}

impl Rings {
    pub(crate) fn new(plan: &Plan) -> Self {
        let windows = plan.arch().windows();
        if plan.arch().windowed_layers() == 0 {
            Self::none()
        } else {
            Self { windows, positions: plan.ring(), oldest: 0 }
        }
    }

    /// All layers hold all positions.
    pub(crate) const fn none() -> Self {
        Self { windows: Windows { window: 0, from: 0, global_every: 0, list: 0 }, positions: usize::MAX, oldest: 0 }
    }

    /// The heads of that layer, where `all` are those of a layer that sees all positions.
    pub(crate) fn shape(&self, layer: usize, all: HeadShape) -> HeadShape {
        if self.windows.has(layer as u32) { HeadShape { positions: self.positions, ..all } } else { all }
    }

    /// Where the layer's `heads` lie in a buffer that has `each` elements for a position, where a layer that sees all
    /// positions has `all`.
    pub(crate) fn span(&self, layer: usize, heads: usize, all: usize, each: usize) -> Range<usize> {
        let windowed = self.windows.before(layer as u32) as usize;
        let before = (layer - windowed) * all + if windowed == 0 { 0 } else { windowed * self.positions };
        let end = before + if self.windows.has(layer as u32) { self.positions } else { all };
        before * heads * each..end * heads * each
    }

    /// Takes note that positions before `end` are written.
    pub(crate) fn advance(&mut self, end: usize) {
        self.oldest = self.oldest.max(end.saturating_sub(self.positions));
    }

    /// Takes note of what is there: everything from `oldest` on.
    pub(crate) fn restart(&mut self, oldest: usize) {
        self.oldest = oldest;
    }

    /// The first position that all layers hold.
    pub(crate) fn oldest(&self) -> usize {
        self.oldest
    }

    /// Whether that layer holds that position, if it has been written.
    pub(crate) fn holds(&self, layer: usize, position: usize) -> bool {
        position >= self.oldest || !self.windows.has(layer as u32)
    }

    /// The fewest tokens, other than none, that a session can go back to.
    pub(crate) fn shortest(&self) -> usize {
        shortest(self.windows.window as usize, self.oldest)
    }
}

/// The fewest tokens, other than none, behind which a token finds all that its window shows, if positions from `oldest` on
/// are there.
pub(crate) const fn shortest(window: usize, oldest: usize) -> usize {
    // The token at position p sees p + 1 − window and what is behind it.
    if oldest == 0 { 0 } else { oldest + window - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::LayerSet;
    use crate::packing::Layout;
    use std::vec::Vec;

    /// Against a ring that remembers which position was written into each slot last.
    #[test]
    fn rings_hold_what_they_say_and_have_the_room_that_is_planned() {
        let rng = &mut fastrand::Rng::with_seed(2);
        for _ in 0..300 {
            let (window, chunk, rewind) = (rng.u32(1..200), rng.u32(1..100), rng.u32(0..80) * rng.u32(..2));
            let arch = Arch { window, ..Arch::PLAIN };
            let positions = tiles(&arch, Limits::new(1 << 20, chunk), rewind) as usize * TILE;
            let mut rings = Rings { windows: arch.windows(), positions, oldest: 0 };
            let mut slots = std::vec![None; positions];
            let (mut position, mut written) = (0, 0);
            for _ in 0..200 {
                let count = rng.usize(1..=chunk as usize);
                (position..position + count).for_each(|p| slots[p % positions] = Some(p));
                rings.advance(position + count);
                for query in position..position + count {
                    let seen = (query + 1).saturating_sub(window as usize)..=query;
                    assert!(seen.into_iter().all(|p| slots[p % positions] == Some(p)), "{window} {chunk} {rewind}");
                }
                position += count;
                written = written.max(position);
                if rng.bool() {
                    // The room is counted from the last position that was ever written.
                    let room = (SLACK + rewind) as usize;
                    assert!(rings.shortest() <= written.saturating_sub(room).max(1), "{window} {chunk} {rewind}");
                    position = rng.usize(rings.shortest().min(position)..=position);
                    if position == 0 {
                        rings.restart(0);
                        written = 0;
                    }
                }
                let there = |p: &usize| slots[p % positions] == Some(*p);
                assert!((rings.oldest()..position).collect::<Vec<_>>().iter().all(there));
            }
        }
    }

    #[test]
    fn layers_lie_one_behind_the_other() {
        let listed = [0b1_0011_0100_1101, 1 << 12].map(|bits| (0, 0, LayerSet::from_bits(bits)));
        let patterns = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 6), (5, 0), (4, 3), (12, 0)];
        for (window_from, global_every, window_list) in
            patterns.map(|(from, every)| (from, every, LayerSet::NONE)).into_iter().chain(listed)
        {
            let arch = Arch { window: 5, window_from, global_every, window_list, layers: 13, ..Arch::PLAIN };
            let rings = Rings { windows: arch.windows(), positions: 64, oldest: 0 };
            let mut before = 0;
            for layer in 0..arch.layers {
                let own = if arch.windowed(layer) { 64 } else { 320 };
                let all = HeadShape { layout: Layout::Rows8, head_dim: 6, positions: 320 };
                assert_eq!(
                    rings.shape(layer as usize, all),
                    HeadShape { positions: own, ..all },
                    "{window_from} {global_every}"
                );
                let span = before * 6..(before + own) * 6;
                assert_eq!(rings.span(layer as usize, 2, 320, 3), span, "{window_from} {global_every} {layer}");
                before += own;
            }
            let windowed = arch.windowed_layers() as usize;
            assert_eq!(before, windowed * 64 + (13 - windowed) * 320);
        }
    }
}
