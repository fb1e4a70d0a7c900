//! A quantized matrix where it lies: borrowed from a blob, never copied.

use crate::blob::ALIGN;
use crate::math::f16_scale;
use crate::packing::{Packing, QUAD};

/// An int8 matrix `rows × cols` with its scales. The weight at (r, c) is `q[r][c] · scale[r][c / group] · factor`.
///
/// Lengths of the slices are checked by [`Matrix::new`]; kernels rely on them.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    rows: usize,
    cols: usize,
    packing: Packing,
    weights: &'a [u8],
    scales: &'a [u16],
    factor: f32,
}

impl<'a> Matrix<'a> {
    /// A view of `rows × cols` weights in `packing`; `scales` are f16 bits, `factor` the tensor's power of two.
    ///
    /// `None` unless both slices have exactly the lengths that [`Packing::weight_bytes`] and [`Packing::scale_count`]
    /// call for.
    pub fn new(
        rows: usize,
        cols: usize,
        packing: Packing,
        weights: &'a [u8],
        scales: &'a [u16],
        factor: f32,
    ) -> Option<Self> {
        let fits = rows > 0
            && cols > 0
            && packing.weight_bytes(rows, cols) == Some(weights.len())
            && packing.scale_count(rows, cols) == Some(scales.len());
        fits.then_some(Self { rows, cols, packing, weights, scales, factor })
    }

    /// The matrix that lies at the start of `bytes` as in a blob: weights, and the scales at the next multiple of
    /// [`ALIGN`](crate::blob::ALIGN). `None` if there are not that many bytes, or they are not aligned.
    #[inline]
    pub(crate) fn at_start_of(
        bytes: &'a [u8],
        rows: usize,
        cols: usize,
        packing: Packing,
        factor: f32,
    ) -> Option<Self> {
        let weights = packing.weight_bytes(rows, cols)?;
        let scales = packing.scale_count(rows, cols)?.checked_mul(size_of::<u16>())?;
        let scales = bytes.get(weights.checked_add(ALIGN - 1)? & !(ALIGN - 1)..)?.get(..scales)?;
        let scales = bytemuck::try_cast_slice(scales).ok()?;
        Some(Self { rows, cols, packing, weights: bytes.get(..weights)?, scales, factor })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Layout and group.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The power of two that all scales share.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Weights as [`crate::packing`] interleaves them.
    pub fn weights(&self) -> &'a [u8] {
        self.weights
    }

    /// f16 bits of the scales, `[block][group][row of block]`.
    pub fn scales(&self) -> &'a [u16] {
        self.scales
    }

    /// Blocks of interleaved rows.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(self.packing.layout.block_rows())
    }

    /// Writes row `row` as f32: `(q · scale) · factor`, each product rounded once. Rows out of range leave zeros.
    #[inline]
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        out.fill(0.0);
        if row >= self.rows {
            return;
        }
        let layout = self.packing.layout;
        let group_cols = self.packing.group_cols(self.cols);
        let at = layout.quad_offset(row, 0, self.cols);
        let Some(weights) = self.weights.get(at..) else { return };
        let mut quads = weights.chunks(layout.quad_bytes());
        // Every group but the last is whole quads.
        for (group, out) in out.get_mut(..self.cols).unwrap_or(&mut []).chunks_mut(group_cols).enumerate() {
            let bits = self.scales.get(self.packing.scale_index(row, group, self.cols)).copied().unwrap_or(0);
            let scale = f16_scale(bits);
            for (out, quad) in out.chunks_mut(QUAD).zip(&mut quads) {
                let quad = quad.first_chunk().map_or([0; QUAD], |&bytes| layout.decode(bytes));
                for (y, q) in out.iter_mut().zip(quad) {
                    *y = (f32::from(q) * scale) * self.factor;
                }
            }
        }
    }
}
