//! In place of rings in a runtime that is built without windows: all layers hold all positions.

use core::ops::Range;

use crate::cache::HeadShape;
use crate::plan::Plan;

/// Nothing that a snapshot would hold beside a window.
pub(crate) const SLACK: u32 = 0;

/// There is nothing to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings;

impl Rings {
    pub(crate) fn new(_: &Plan) -> Self {
        Self
    }

    #[cfg(feature = "cross")]
    pub(crate) const fn none() -> Self {
        Self
    }

    #[inline(always)]
    pub(crate) fn shape(self, _layer: usize, all: HeadShape) -> HeadShape {
        all
    }

    #[inline(always)]
    pub(crate) fn span(self, layer: usize, heads: usize, all: usize, each: usize) -> Range<usize> {
        let head = all * each;
        layer * heads * head..(layer + 1) * heads * head
    }

    #[inline(always)]
    pub(crate) fn advance(self, _end: usize) {}

    #[inline(always)]
    pub(crate) fn restart(self, _oldest: usize) {}

    #[inline(always)]
    pub(crate) fn oldest(self) -> usize {
        0
    }

    #[inline(always)]
    pub(crate) fn holds(self, _layer: usize, _position: usize) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn shortest(self) -> usize {
        0
    }
}

pub(crate) const fn shortest(_window: usize, _oldest: usize) -> usize {
    0
}
