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

use crate::arch::Arch;
use crate::kernel::Backend;
use crate::packing::{Layout, QUAD, round_up};
use crate::plan::{Plan, aligned};

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
}

/// One head's keys and values, for reading.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    pub(crate) shape: HeadShape,
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
        fits.then_some(Self { shape, keys, values, key_scales, value_scales })
    }

    /// The tiles that hold positions `0..visible`.
    #[inline(always)]
    pub(crate) fn tiles(&self, visible: usize) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let keys = self.keys.chunks_exact(TILE * self.shape.key_bytes());
        let values = self.values.chunks_exact(TILE * self.shape.value_rows());
        let scales = self.key_scales.as_chunks().0.iter().zip(self.value_scales.as_chunks().0);
        keys.zip(values)
            .zip(scales)
            .take(visible.div_ceil(TILE))
            .map(|((keys, values), (key_scales, value_scales))| Tile { keys, values, key_scales, value_scales })
    }
}

/// One head's keys and values, for writing.
#[derive(Debug)]
pub(crate) struct HeadCacheMut<'a> {
    pub(crate) shape: HeadShape,
    pub(crate) keys: &'a mut [u8],
    pub(crate) values: &'a mut [u8],
    pub(crate) key_scales: &'a mut [f32],
    pub(crate) value_scales: &'a mut [f32],
}

impl HeadCacheMut<'_> {
    pub(crate) fn view(&self) -> HeadCache<'_> {
        HeadCache {
            shape: self.shape,
            keys: self.keys,
            values: self.values,
            key_scales: self.key_scales,
            value_scales: self.value_scales,
        }
    }

    /// Quantizes a centred key and a value (`head_dim` each) into the entry of `position`; `q` is room for one of them.
    pub(crate) fn write(&mut self, backend: Backend, position: usize, key: &[f32], value: &[f32], q: &mut [i8]) {
        let HeadShape { layout, head_dim, .. } = self.shape;
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
        let at = position / TILE * TILE * self.shape.value_rows();
        let tile = self.values.get_mut(at..at + TILE * self.shape.value_rows()).unwrap_or(&mut []);
        let q = q.get(..head_dim).unwrap_or(&[]);
        match layout {
            Layout::Rows8 => write_column(Layout::Rows8, tile, position % TILE, q),
            Layout::Dsp => write_column(Layout::Dsp, tile, position % TILE, q),
        }
    }
}

/// Puts a value into column `column` of its tile: each dimension is a row.
#[inline(always)]
fn write_column(layout: Layout, tile: &mut [u8], column: usize, q: &[i8]) {
    for (row, &q) in q.iter().enumerate() {
        let at = layout.quad_offset(row, column, TILE);
        if let Some(slot) = tile.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            layout.replace(slot, column, q);
        }
    }
}

/// The cache of all layers and heads, in its buffer.
#[derive(Debug)]
pub(crate) struct Cache<'b> {
    shape: HeadShape,
    kv_heads: usize,
    keys: &'b mut [u8],
    values: &'b mut [u8],
    key_scales: &'b mut [f32],
    value_scales: &'b mut [f32],
}

impl<'b> Cache<'b> {
    /// Cuts a buffer of at least [`Plan::cache_bytes`] bytes; `None` if it is smaller.
    pub(crate) fn carve(plan: &Plan, buffer: &'b mut [u8]) -> Option<Self> {
        let shape = plan.head_shape();
        let (kv_heads, heads) =
            (plan.arch().kv_heads as usize, plan.arch().kv_heads as usize * plan.arch().layers as usize);
        let buffer = aligned(buffer.get_mut(..plan.cache_bytes())?)?;
        let (scales, rest) = buffer.split_at_mut_checked(2 * heads * shape.positions * size_of::<f32>())?;
        let scales: &mut [f32] = bytemuck::try_cast_slice_mut(scales).ok()?;
        let (key_scales, value_scales) = scales.split_at_mut_checked(heads * shape.positions)?;
        let (keys, values) = rest.split_at_mut_checked(heads * shape.keys())?;
        Some(Self { shape, kv_heads, keys, values, key_scales, value_scales })
    }

    /// The heads of layer `layer`, in ascending order.
    pub(crate) fn heads_mut(&mut self, layer: usize) -> impl Iterator<Item = HeadCacheMut<'_>> {
        let shape = self.shape;
        let range = layer * self.kv_heads..(layer + 1) * self.kv_heads;
        let bytes = |per_head: usize| range.start * per_head..range.end * per_head;
        let keys = self.keys.get_mut(bytes(shape.keys())).unwrap_or(&mut []).chunks_exact_mut(shape.keys());
        let values = self.values.get_mut(bytes(shape.values())).unwrap_or(&mut []).chunks_exact_mut(shape.values());
        let positions = bytes(shape.positions);
        let key_scales = self.key_scales.get_mut(positions.clone()).unwrap_or(&mut []);
        let value_scales = self.value_scales.get_mut(positions).unwrap_or(&mut []);
        let scales = key_scales.chunks_exact_mut(shape.positions).zip(value_scales.chunks_exact_mut(shape.positions));
        keys.zip(values).zip(scales).map(move |((keys, values), (key_scales, value_scales))| HeadCacheMut {
            shape,
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
        let scale = head.key_scales.get(position).copied().unwrap_or(0.0);
        for (i, out) in key.chunks_mut(QUAD).enumerate() {
            let at = layout.quad_offset(position, i * QUAD, head_dim);
            let bytes = head.keys.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
            for (out, q) in out.iter_mut().zip(layout.decode(bytes)) {
                *out = f32::from(q) * scale;
            }
        }
    }
}
