//! In place of branches in a runtime that is built without them: one sequence, whose tiles lie in order.

use core::marker::PhantomData;

use crate::cache::TILE;
use crate::plan::Plan;

/// Tiles lie in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places<'b>(PhantomData<&'b [u16]>);

impl Places<'_> {
    #[inline(always)]
    pub(crate) fn of(self, tile: usize) -> usize {
        tile
    }

    #[allow(dead_code, reason = "for assembly, which walks by itself")]
    #[inline(always)]
    pub(crate) fn in_order(self, _tiles: usize) -> bool {
        true
    }
}

/// There is no table.
#[derive(Debug)]
pub(crate) struct Branches<'b>(PhantomData<&'b mut [u16]>);

/// Places for the one sequence.
pub(crate) const fn pool(context: u32, _branches: u32, _tail: u32) -> u64 {
    context.div_ceil(TILE as u32) as u64
}

/// Bytes of the table.
pub(crate) const fn table_bytes(_context: u32, _branches: u32) -> u64 {
    0
}

impl<'b> Branches<'b> {
    pub(crate) fn new(_: &Plan, _: &'b mut [u16]) -> Self {
        Self(PhantomData)
    }

    #[cfg(feature = "cross")]
    pub(crate) fn one() -> Self {
        Self(PhantomData)
    }

    pub(crate) fn live(&self) -> usize {
        1
    }

    #[inline(always)]
    pub(crate) fn places(&self) -> Places<'_> {
        Places::default()
    }

    pub(crate) fn select(&mut self, _branch: usize, _end: usize) {}

    pub(crate) fn cut(&mut self, _end: usize) {}
}
