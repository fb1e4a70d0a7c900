//! Branches of a session: sequences that begin alike and share what they have in common.
//!
//! All branches are equally long. Each has a row in a table that says where the tiles of its positions lie in the cache;
//! whole tiles of a common beginning are the same ones in several rows, and only the tile in which branches part is
//! copied. So a beam search with K beams needs the memory of the prompt once, and K times that of the answer. How long
//! an answer may become is the plan's business ([`Plan::with_branches`]), so that a place is always free. Nothing here
//! touches keys or values: [`crate::cache`] copies what it is told to.

use crate::cache::TILE;
use crate::plan::Plan;

/// Entry of a row where there is no tile.
const NONE: u16 = u16::MAX;

/// A tile to copy, by places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// Where the tiles of a branch lie: a row of the table, or in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places<'b>(&'b [u16]);

impl Places<'_> {
    /// Where tile `tile` of the sequence lies.
    #[inline(always)]
    pub(crate) fn of(self, tile: usize) -> usize {
        self.0.get(tile).map_or(tile, |&place| usize::from(place))
    }

    /// The first `tiles` tiles lie one behind the other, from the cache's start.
    #[allow(dead_code, reason = "for assembly, which walks by itself")]
    #[inline(always)]
    pub(crate) fn in_order(self, tiles: usize) -> bool {
        /// Apart, so that a session without branches does not pay for it.
        #[inline(never)]
        fn ascend(row: &[u16], tiles: usize) -> bool {
            row.iter().take(tiles).enumerate().all(|(tile, &place)| tile == usize::from(place))
        }
        self.0.is_empty() || ascend(self.0, tiles)
    }
}

/// The table of a cache. Without branches it is empty, and nothing here does anything.
#[derive(Debug)]
pub(crate) struct Branches<'b> {
    /// Twice as many rows as branches: a half in use, a half to arrange the next rows in.
    table: &'b mut [u16],
    /// Entries of a row.
    tiles: usize,
    /// Places there are.
    pool: usize,
    /// Rows of a half.
    most: usize,
    /// The half in use.
    half: usize,
    live: usize,
    /// The branch that is read and written.
    selected: usize,
    /// The position where branches parted.
    parted: usize,
    /// Positions that they may go on for.
    tail: usize,
}

/// Places of a pool for `branches` branches that part at any position and go on for `tail` positions.
pub(crate) const fn pool(context: u32, branches: u32, tail: u32) -> u64 {
    let all = context.div_ceil(TILE as u32) as u64;
    // A tail that begins with a tile's last position reaches into the most tiles.
    let apart = (tail as u64 + TILE as u64 - 1).div_ceil(TILE as u64);
    all + (branches as u64 - 1) * if apart < all { apart } else { all }
}

/// Bytes of the table.
pub(crate) const fn table_bytes(context: u32, branches: u32) -> u64 {
    if branches > 1 { 2 * branches as u64 * context.div_ceil(TILE as u32) as u64 * size_of::<u16>() as u64 } else { 0 }
}

impl<'b> Branches<'b> {
    /// An empty sequence; `table` has [`table_bytes`].
    pub(crate) fn new(plan: &Plan, table: &'b mut [u16]) -> Self {
        let (most, tail) = (plan.branches() as usize, plan.tail() as usize);
        let tiles = if most > 1 { table.len() / (2 * most) } else { 0 };
        let pool = plan.head_shape().positions / TILE;
        table.fill(NONE);
        Self { table, tiles, pool, most, half: 0, live: 1, selected: 0, parted: 0, tail }
    }

    /// One sequence for good.
    #[cfg(feature = "cross")]
    pub(crate) fn one() -> Self {
        Self { table: &mut [], tiles: 0, pool: 0, most: 1, half: 0, live: 1, selected: 0, parted: 0, tail: 0 }
    }

    /// Branches there are.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Where the tiles of the selected branch lie.
    #[inline(always)]
    pub(crate) fn places(&self) -> Places<'_> {
        let row = (self.half * self.most + self.selected) * self.tiles;
        Places(self.table.get(row..row + self.tiles).unwrap_or(&[]))
    }

    /// Positions beyond which the branches must not grow.
    pub(crate) fn limit(&self, context: usize) -> usize {
        if self.live > 1 { context.min(self.parted.saturating_add(self.tail)) } else { context }
    }

    /// Turns to a branch and finds places for its positions before `end`.
    pub(crate) fn select(&mut self, branch: usize, end: usize) {
        self.selected = branch.min(self.live - 1);
        for tile in 0..end.div_ceil(TILE).min(self.tiles) {
            let at = (self.half * self.most + self.selected) * self.tiles + tile;
            if self.table.get(at) == Some(&NONE) {
                let free = self.free();
                if let Some(entry) = self.table.get_mut(at) {
                    *entry = free;
                }
            }
        }
    }

    /// Keeps the first branch alone, and of it the positions before `end`.
    pub(crate) fn cut(&mut self, end: usize) {
        (self.live, self.selected) = (1, 0);
        let (keep, first) = (end.div_ceil(TILE), self.half * self.most * self.tiles);
        for (at, entry) in self.table.iter_mut().enumerate() {
            if !(first..first + keep.min(self.tiles)).contains(&at) {
                *entry = NONE;
            }
        }
    }

    /// Makes a branch of each of `parents`, which are branches there are; at most as many as planned. `position` is their
    /// length. Each of the new branches is then to be [separated](Self::separate) before anything is written.
    pub(crate) fn part(&mut self, parents: &[u32], position: usize) {
        if self.live == 1 {
            self.parted = position;
        }
        let half = self.most * self.tiles;
        let (first, second) = self.table.split_at_mut(half.min(self.table.len()));
        let (old, new) = if self.half == 0 { (first, second) } else { (second, first) };
        let rows = new.chunks_exact_mut(self.tiles.max(1)).zip(parents);
        for (row, &parent) in rows {
            if let Some(parent) = old.chunks_exact(self.tiles).nth(parent as usize) {
                row.copy_from_slice(parent);
            }
        }
        old.fill(NONE);
        self.half = 1 - self.half;
        (self.live, self.selected) = (parents.len(), 0);
    }

    /// Gives a branch a tile of its own in which to go on behind `position`, if it shares that tile with a branch before
    /// it. The tile must be copied.
    pub(crate) fn separate(&mut self, branch: usize, position: usize) -> Option<Copy> {
        let tile = position / TILE;
        if position.is_multiple_of(TILE) || tile >= self.tiles {
            return None;
        }
        let at = |branch: usize| (self.half * self.most + branch) * self.tiles + tile;
        let from = *self.table.get(at(branch))?;
        if !(0..branch).any(|other| self.table.get(at(other)) == Some(&from)) {
            return None;
        }
        let (at, to) = (at(branch), self.free());
        *self.table.get_mut(at)? = to;
        Some(Copy { from: from.into(), to: to.into() })
    }

    /// A place that no branch uses. By the plan there is one.
    fn free(&self) -> u16 {
        (0..NONE).take(self.pool).find(|place| !self.table.contains(place)).unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any order of growing and parting: no branch ever lacks a tile, and none writes into another's.
    #[test]
    fn the_pool_suffices_and_tails_are_apart() {
        let rng = &mut fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            let (context, most) = (rng.u32(1..300), rng.u32(2..6));
            let start = rng.usize(1..=context as usize);
            let tail = rng.u32(1..=context);
            let places = pool(context, most, tail) as usize;
            let tiles = context.div_ceil(TILE as u32) as usize;
            let mut table = std::vec![NONE; 2 * most as usize * tiles];
            let mut branches = Branches {
                table: &mut table,
                tiles,
                pool: places,
                most: most as usize,
                half: 0,
                live: 1,
                selected: 0,
                parted: 0,
                tail: tail as usize,
            };
            branches.select(0, start);
            let mut position = start;
            loop {
                let parents: std::vec::Vec<u32> =
                    (0..rng.u32(1..=most)).map(|_| rng.u32(0..branches.live as u32)).collect();
                branches.part(&parents, position);
                for branch in 1..branches.live {
                    branches.separate(branch, position);
                }
                if position == branches.limit(context as usize) {
                    break;
                }
                let mut written = std::vec::Vec::new();
                for branch in 0..branches.live {
                    branches.select(branch, position + 1);
                    let places = branches.places();
                    assert!((0..=position / TILE).all(|tile| places.of(tile) < branches.pool), "{places:?}");
                    written.push(places.of(position / TILE));
                }
                position += 1;
                written.sort_unstable();
                assert!(written.windows(2).all(|pair| pair[0] != pair[1]), "{written:?}");
            }
        }
    }
}
