//! The KV cache: int8 keys and values with a scale for each position and head, in a buffer of fixed size.
//!
//! Positions are grouped in tiles of [`TILE`], aligned to the absolute position. Keys lie as a matrix whose rows are
//! positions, values as one matrix for each tile whose rows are dimensions, both in the model's own interleaving, so the
//! kernels for weights also score keys and sum values. Keys are stored minus their head's mean
//! ([`crate::arch::Role::KeyMean`]): that shifts all scores of a query alike, which softmax cannot see, and leaves more
//! of the eight bits for what tells keys apart.
//!
//! A position's entry depends only on that position. Rewinding is forgetting; what lies behind the end is never read
//! into a result.
//!
//! Where a session has several branches, a table says for each of them where its tiles lie ([`crate::branch`]), so that
//! branches share tiles. Without branches the table is empty and tiles lie in order; in layers with a window, which hold
//! the last positions only ([`crate::ring`]), the order begins again where their place ends.

use core::ops::Range;

use crate::arch::{Arch, SHAPING};
use crate::branch::{self, Branches, Places};
use crate::kernel::{Backend, PORTABLE};
use crate::packing::{Layout, QUAD, round_up};
use crate::plan::{Plan, aligned};
use crate::ring::Rings;

/// Positions that attention takes at a time.
pub(crate) const TILE: usize = 32;

/// Sizes of one head's part of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadShape {
    pub(crate) layout: Layout,
    pub(crate) head_dim: usize,
    /// Positions, a multiple of [`TILE`].
    pub(crate) positions: usize,
}

impl HeadShape {
    pub(crate) const fn new(arch: &Arch, layout: Layout, context: u32) -> Self {
        Self { layout, head_dim: arch.head_dim as usize, positions: round_up(context as usize, TILE) }
    }

    /// Where tile number `at` of the order lies.
    #[inline(always)]
    pub(crate) const fn wrap(&self, at: usize) -> usize {
        let tiles = self.positions / TILE;
        if SHAPING && at >= tiles && tiles > 0 { at % tiles } else { at }
    }

    /// Bytes of a key.
    pub(crate) const fn key_bytes(&self) -> usize {
        round_up(self.head_dim, QUAD)
    }

    /// Rows of a tile's value matrix.
    pub(crate) const fn value_rows(&self) -> usize {
        round_up(self.head_dim, self.layout.block_rows())
    }

    pub(crate) const fn keys(&self) -> usize {
        self.positions * self.key_bytes()
    }

    pub(crate) const fn values(&self) -> usize {
        self.positions * self.value_rows()
    }

    /// Bytes of a tile: keys, values and their scales.
    pub(crate) const fn tile_bytes(&self) -> usize {
        TILE * (self.key_bytes() + self.value_rows() + 2 * size_of::<f32>())
    }
}

/// A tile of one head, as a snapshot holds it.
pub(crate) struct Saved<B> {
    pub(crate) keys: B,
    pub(crate) values: B,
    pub(crate) key_scales: B,
    pub(crate) value_scales: B,
}

impl HeadShape {
    /// Cuts a saved tile.
    pub(crate) fn parts<'a>(&self, saved: &'a [u8]) -> Option<Saved<&'a [u8]>> {
        let (keys, rest) = saved.split_at_checked(TILE * self.key_bytes())?;
        let (values, scales) = rest.split_at_checked(TILE * self.value_rows())?;
        let (key_scales, value_scales) = scales.split_at_checked(TILE * size_of::<f32>())?;
        Some(Saved { keys, values, key_scales, value_scales })
    }

    fn parts_mut<'a>(&self, saved: &'a mut [u8]) -> Option<Saved<&'a mut [u8]>> {
        let (keys, rest) = saved.split_at_mut_checked(TILE * self.key_bytes())?;
        let (values, scales) = rest.split_at_mut_checked(TILE * self.value_rows())?;
        let (key_scales, value_scales) = scales.split_at_mut_checked(TILE * size_of::<f32>())?;
        Some(Saved { keys, values, key_scales, value_scales })
    }
}

impl Saved<&mut [u8]> {
    /// Zeros for all that is not of the positions `held`.
    fn clear(&mut self, shape: HeadShape, held: &Range<usize>) {
        let HeadShape { layout, head_dim, .. } = shape;
        for position in (0..TILE).filter(|position| !held.contains(position)) {
            for scales in [&mut self.key_scales, &mut self.value_scales] {
                if let Some(scale) = scales.as_chunks_mut::<{ size_of::<f32>() }>().0.get_mut(position) {
                    *scale = [0; size_of::<f32>()];
                }
            }
            for dim in (0..shape.key_bytes()).step_by(QUAD) {
                let at = layout.quad_offset(position, dim, head_dim);
                self.keys.get_mut(at..at + QUAD).unwrap_or(&mut []).fill(0);
            }
        }
        for row in 0..shape.value_rows() {
            for position in (0..TILE).filter(|position| row >= head_dim || !held.contains(position)) {
                let at = layout.quad_offset(row, position, TILE);
                if let Some(quad) = self.values.get_mut(at..).and_then(|quad| quad.first_chunk_mut()) {
                    layout.replace(quad, position % QUAD, 0);
                }
            }
        }
    }
}

/// One head's keys and values, for reading.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    pub(crate) shape: HeadShape,
    pub(crate) places: Places<'a>,
    pub(crate) keys: &'a [u8],
    pub(crate) values: &'a [u8],
    pub(crate) key_scales: &'a [f32],
    pub(crate) value_scales: &'a [f32],
}

/// The keys and values of [`TILE`] positions.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) keys: &'a [u8],
    pub(crate) values: &'a [u8],
    pub(crate) key_scales: &'a [f32; TILE],
    pub(crate) value_scales: &'a [f32; TILE],
}

impl<'a> HeadCache<'a> {
    /// A cache of `head_dim` wide keys and values in `layout`, for whole tiles of positions: keys as a matrix whose rows are
    /// positions, values as one for each tile whose rows are dimensions and whose columns are its positions.
    ///
    /// Of a sequence with more tiles than that, tile `t` of `n` lies at `t mod n`: a ring, for queries with a window.
    ///
    /// `None` unless all four slices have the lengths of one number of tiles.
    pub fn new(
        layout: Layout,
        head_dim: usize,
        keys: &'a [u8],
        values: &'a [u8],
        key_scales: &'a [f32],
        value_scales: &'a [f32],
    ) -> Option<Self> {
        let shape = HeadShape { layout, head_dim, positions: key_scales.len() };
        let fits = shape.positions.is_multiple_of(TILE)
            && value_scales.len() == shape.positions
            && keys.len() == shape.keys()
            && values.len() == shape.values();
        fits.then_some(Self { shape, places: Places::default(), keys, values, key_scales, value_scales })
    }

    /// The tiles from number `first` on that hold positions before `visible`.
    #[inline(always)]
    pub(crate) fn tiles(&self, first: usize, visible: usize) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let cache = *self;
        (first..visible.div_ceil(TILE)).map_while(move |tile| cache.tile(cache.shape.wrap(cache.places.of(tile))))
    }

    /// The tile that lies at `place`.
    #[inline(always)]
    fn tile(&self, place: usize) -> Option<Tile<'a>> {
        let (key_bytes, value_bytes) = (TILE * self.shape.key_bytes(), TILE * self.shape.value_rows());
        Some(Tile {
            keys: self.keys.get(place * key_bytes..(place + 1) * key_bytes)?,
            values: self.values.get(place * value_bytes..(place + 1) * value_bytes)?,
            key_scales: self.key_scales.as_chunks().0.get(place)?,
            value_scales: self.value_scales.as_chunks().0.get(place)?,
        })
    }
}

/// One head's keys and values, for writing.
#[derive(Debug)]
pub(crate) struct HeadCacheMut<'a> {
    pub(crate) shape: HeadShape,
    pub(crate) places: Places<'a>,
    pub(crate) keys: &'a mut [u8],
    pub(crate) values: &'a mut [u8],
    pub(crate) key_scales: &'a mut [f32],
    pub(crate) value_scales: &'a mut [f32],
}

impl HeadCacheMut<'_> {
    pub(crate) fn view(&self) -> HeadCache<'_> {
        HeadCache {
            shape: self.shape,
            places: self.places,
            keys: self.keys,
            values: self.values,
            key_scales: self.key_scales,
            value_scales: self.value_scales,
        }
    }

    /// Quantizes a centred key and a value (`head_dim` each) into the entry of `position`; `q` is room for one of them.
    pub(crate) fn write(&mut self, backend: Backend, position: usize, key: &[f32], value: &[f32], q: &mut [i8]) {
        let HeadShape { layout, head_dim, .. } = self.shape;
        let (tile, column) = (self.shape.wrap(self.places.of(position / TILE)), position % TILE);
        let position = tile * TILE + column;
        let Some(q) = q.get_mut(..self.shape.key_bytes()) else { return };
        let quantize = |x: &[f32], q: &mut [i8], scale: Option<&mut f32>| {
            if let Some(scale) = scale {
                // Plain bytes, whatever the layout: they become rows and columns of a matrix, not a vector.
                backend.quantize(Layout::Rows8, x, head_dim, q, core::slice::from_mut(scale), &mut []);
            }
        };
        quantize(key, q, self.key_scales.get_mut(position));
        let mut at = layout.quad_offset(position, 0, head_dim);
        for quad in q.as_chunks::<QUAD>().0 {
            if let Some(slot) = self.keys.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
                *slot = layout.encode(*quad);
            }
            at += layout.quad_bytes();
        }
        quantize(value, q, self.value_scales.get_mut(position));
        let at = tile * TILE * self.shape.value_rows();
        let values = self.values.get_mut(at..at + TILE * self.shape.value_rows()).unwrap_or(&mut []);
        let q = q.get(..head_dim).unwrap_or(&[]);
        match layout {
            Layout::Rows8 if PORTABLE => {
                write_column::<{ Layout::Rows8.block_rows() }>(Layout::Rows8, values, column, q)
            }
            _ => write_column::<{ Layout::Dsp.block_rows() }>(Layout::Dsp, values, column, q),
        }
    }
}

/// Puts a value into column `column` of its tile, in blocks of `R` rows: each dimension is a row.
#[inline(always)]
fn write_column<const R: usize>(layout: Layout, tile: &mut [u8], column: usize, q: &[i8]) {
    let mut blocks = tile.as_chunks_mut::<QUAD>().0.chunks_exact_mut(R * TILE / QUAD);
    let at = column / QUAD * R;
    let (whole, rest) = q.as_chunks::<R>();
    for (q, block) in whole.iter().zip(&mut blocks) {
        if let Some(slots) = block.get_mut(at..).and_then(<[_]>::first_chunk_mut::<R>) {
            slots.iter_mut().zip(q).for_each(|(slot, &q)| layout.replace(slot, column, q));
        }
    }
    if !rest.is_empty()
        && let Some(block) = blocks.next()
    {
        block.iter_mut().skip(at).zip(rest).for_each(|(slot, &q)| layout.replace(slot, column, q));
    }
}

/// A session's caches.
pub(crate) struct Caches<'b> {
    pub(crate) own: Cache<'b>,
    /// What an encoder-decoder keeps of a source.
    #[cfg(feature = "cross")]
    pub(crate) source: Option<Cache<'b>>,
}

/// The cache of all layers and heads, in its buffer.
#[derive(Debug)]
pub(crate) struct Cache<'b> {
    /// Of heads that hold all positions.
    shape: HeadShape,
    kv_heads: usize,
    pub(crate) branches: Branches<'b>,
    pub(crate) rings: Rings,
    keys: &'b mut [u8],
    values: &'b mut [u8],
    key_scales: &'b mut [f32],
    value_scales: &'b mut [f32],
}

impl<'b> Cache<'b> {
    /// Cuts a buffer of at least [`Plan::cache_bytes`] bytes; `None` if it is smaller.
    pub(crate) fn carve(plan: &Plan, buffer: &'b mut [u8]) -> Option<Caches<'b>> {
        let buffer = aligned(buffer.get_mut(..plan.cache_bytes())?)?;
        #[cfg(feature = "cross")]
        let (source, buffer) = Self::carve_source(plan, buffer)?;
        Some(Caches {
            own: Self::carve_own(plan, buffer)?,
            #[cfg(feature = "cross")]
            source,
        })
    }

    fn carve_own(plan: &Plan, buffer: &'b mut [u8]) -> Option<Self> {
        let shape = plan.head_shape();
        let kv_heads = plan.arch().kv_heads as usize;
        let positions = kv_heads * plan.cached_positions();
        let (scales, rest) = buffer.split_at_mut_checked(2 * positions * size_of::<f32>())?;
        let scales: &mut [f32] = bytemuck::try_cast_slice_mut(scales).ok()?;
        let (key_scales, value_scales) = scales.split_at_mut_checked(positions)?;
        let (keys, rest) = rest.split_at_mut_checked(positions * shape.key_bytes())?;
        let (values, rest) = rest.split_at_mut_checked(positions * shape.value_rows())?;
        let table = rest.get_mut(..branch::table_bytes(plan.limits().context, plan.branches()) as usize)?;
        let branches = Branches::new(plan, bytemuck::try_cast_slice_mut(table).ok()?);
        let rings = Rings::new(plan);
        Some(Self { shape, kv_heads, branches, rings, keys, values, key_scales, value_scales })
    }

    /// The source's cache, if there is one, and what is behind it.
    #[cfg(feature = "cross")]
    fn carve_source(plan: &Plan, buffer: &'b mut [u8]) -> Option<(Option<Self>, &'b mut [u8])> {
        let Some((heads, shape, borrowed, encoder)) = plan.source_cache() else { return Some((None, buffer)) };
        // As many as fit in the plan's sum, which fits in memory.
        let (heads, borrowed) = (heads as usize, borrowed as usize);
        let scales = heads.max(borrowed) * shape.positions;
        let (bytes, rest) = buffer.split_at_mut_checked(2 * scales * size_of::<f32>())?;
        let (key_scales, value_scales) = bytemuck::try_cast_slice_mut(bytes).ok()?.split_at_mut_checked(scales)?;
        let (keys, rest) = rest.split_at_mut_checked((heads * shape.keys()).max(borrowed * encoder.keys()))?;
        let (values, rest) = rest.split_at_mut_checked((heads * shape.values()).max(borrowed * encoder.values()))?;
        let (kv_heads, branches, rings) = (plan.arch().kv_heads as usize, Branches::one(), Rings::none());
        Some((Some(Self { shape, kv_heads, branches, rings, keys, values, key_scales, value_scales }), rest))
    }

    /// Makes it a cache of other heads, forgetting what it holds: the encoder's, while it works on a source.
    #[cfg(feature = "cross")]
    pub(crate) fn reshape(&mut self, shape: HeadShape, kv_heads: u32) {
        (self.shape, self.kv_heads) = (shape, kv_heads as usize);
    }

    /// The heads of layer `layer`, in ascending order.
    #[inline(always)]
    pub(crate) fn heads_mut(&mut self, layer: usize) -> impl Iterator<Item = HeadCacheMut<'_>> {
        let (all, rings, kv_heads) = (self.shape.positions, self.rings, self.kv_heads);
        let (shape, places) = (rings.shape(layer, self.shape), self.branches.places());
        let span = |each: usize| rings.span(layer, kv_heads, all, each);
        let keys = self.keys.get_mut(span(shape.key_bytes())).unwrap_or(&mut []).chunks_exact_mut(shape.keys());
        let values = self.values.get_mut(span(shape.value_rows())).unwrap_or(&mut []).chunks_exact_mut(shape.values());
        let positions = span(1);
        let key_scales = self.key_scales.get_mut(positions.clone()).unwrap_or(&mut []);
        let value_scales = self.value_scales.get_mut(positions).unwrap_or(&mut []);
        let scales = key_scales.chunks_exact_mut(shape.positions).zip(value_scales.chunks_exact_mut(shape.positions));
        keys.zip(values).zip(scales).map(move |((keys, values), (key_scales, value_scales))| HeadCacheMut {
            shape,
            places,
            keys,
            values,
            key_scales,
            value_scales,
        })
    }

    /// Reads the centred key of one layer, head and position back as f32 into `key` (`head_dim` values).
    pub(crate) fn read_key(&mut self, layer: usize, head: usize, position: usize, key: &mut [f32]) {
        let HeadShape { layout, head_dim, .. } = self.shape;
        let Some(head) = self.heads_mut(layer).nth(head) else { return key.fill(0.0) };
        let position = head.shape.wrap(head.places.of(position / TILE)) * TILE + position % TILE;
        let scale = head.key_scales.get(position).copied().unwrap_or(0.0);
        for (i, out) in key.chunks_mut(QUAD).enumerate() {
            let at = layout.quad_offset(position, i * QUAD, head_dim);
            let bytes = head.keys.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
            for (out, q) in out.iter_mut().zip(layout.decode(bytes)) {
                *out = f32::from(q) * scale;
            }
        }
    }

    /// Copies tile `tile` of the selected branch, of all heads of a layer, to `out`, one [`HeadShape::tile_bytes`] behind the
    /// other: keys, values and the scales of both, with zeros for all positions but `held`.
    pub(crate) fn save_tile(&mut self, layer: usize, tile: usize, held: &Range<usize>, out: &mut [u8]) {
        let start = tile * TILE;
        let held = held.start.saturating_sub(start)..held.end.saturating_sub(start);
        let bytes = self.shape.tile_bytes();
        for (head, out) in self.heads_mut(layer).zip(out.chunks_exact_mut(bytes)) {
            let (shape, at) = (head.shape, head.shape.wrap(head.places.of(tile)));
            let head = head.view();
            let (Some(tile), Some(mut parts)) = (head.tile(at), shape.parts_mut(out)) else { return };
            parts.keys.copy_from_slice(tile.keys);
            parts.values.copy_from_slice(tile.values);
            parts.key_scales.copy_from_slice(bytemuck::cast_slice(tile.key_scales));
            parts.value_scales.copy_from_slice(bytemuck::cast_slice(tile.value_scales));
            parts.clear(shape, &held);
        }
    }

    /// The reverse of [`Cache::save_tile`].
    pub(crate) fn load_tile(&mut self, layer: usize, tile: usize, from: &[u8]) {
        fn put<T: bytemuck::Pod>(all: &mut [T], at: usize, from: &[u8]) {
            let tile = from.len() / size_of::<T>();
            if let Some(tile) = all.get_mut(at * tile..(at + 1) * tile) {
                bytemuck::cast_slice_mut(tile).copy_from_slice(from);
            }
        }
        let bytes = self.shape.tile_bytes();
        for (head, from) in self.heads_mut(layer).zip(from.chunks_exact(bytes)) {
            let (shape, at) = (head.shape, head.shape.wrap(head.places.of(tile)));
            let Some(parts) = shape.parts(from) else { return };
            put(head.keys, at, parts.keys);
            put(head.values, at, parts.values);
            put(head.key_scales, at, parts.key_scales);
            put(head.value_scales, at, parts.value_scales);
        }
    }

    /// Turns to a branch, to write its positions before `end`.
    #[inline(always)]
    pub(crate) fn select(&mut self, branch: usize, end: usize) {
        self.branches.select(branch, end);
        self.rings.advance(end);
    }

    /// Keeps the first branch alone, and of it the positions before `end`.
    #[inline(always)]
    pub(crate) fn cut(&mut self, end: usize) {
        self.branches.cut(end);
        if end == 0 {
            self.rings.restart(0);
        }
    }

    /// Makes branches of branches, `position` long; see [`Branches::part`].
    #[cfg(feature = "branches")]
    pub(crate) fn part(&mut self, parents: &[u32], position: usize) {
        self.branches.part(parents, position);
        for branch in 1..parents.len() {
            if let Some(copy) = self.branches.separate(branch, position) {
                self.copy_tile(copy);
            }
        }
    }

    /// Copies a tile of all layers and heads.
    #[cfg(feature = "branches")]
    fn copy_tile(&mut self, branch::Copy { from, to }: branch::Copy) {
        fn copy<T: Copy>(all: &mut [T], head: usize, tile: usize, from: usize, to: usize) {
            for head in all.chunks_exact_mut(head) {
                // Both are places of the pool, within every head.
                if (from.max(to) + 1) * tile <= head.len() {
                    head.copy_within(from * tile..(from + 1) * tile, to * tile);
                }
            }
        }
        let shape = self.shape;
        copy(self.keys, shape.keys(), TILE * shape.key_bytes(), from, to);
        copy(self.values, shape.values(), TILE * shape.value_rows(), from, to);
        copy(self.key_scales, shape.positions, TILE, from, to);
        copy(self.value_scales, shape.positions, TILE, from, to);
    }
}
