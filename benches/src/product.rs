//! One matrix product with made-up operands: for the criterion benches, and as the peak of backends whose instructions
//! [`crate::peak`] does not have.

use thumbformer::Backend;
use thumbformer::kernel::{Activations, TileMut, Write};
use thumbformer::matrix::Matrix;
use thumbformer::packing::Packing;
use thumbformer_convert::quantize::quantize_rows;

/// The operands.
#[derive(Debug)]
pub struct Product {
    rows: usize,
    cols: usize,
    packing: Packing,
    weights: Vec<u8>,
    scales: Vec<u16>,
    values: Vec<i8>,
    x_scales: Vec<f32>,
    starts: Vec<i32>,
}

impl Product {
    /// `rows × cols` weights and `tokens` quantized vectors, a function of the sizes alone.
    pub fn new(rows: usize, cols: usize, tokens: usize, packing: Packing) -> Self {
        let wave = |n: usize| (n.wrapping_mul(0x9E37_79B9) >> 7 & 0xFFFF) as f32 / 65536.0 - 0.5;
        let packed = quantize_rows(rows, cols, packing, |range, out| {
            out.iter_mut().zip(range.start * cols..).for_each(|(w, n)| *w = wave(n));
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(packed) = packed;
        let (stride, groups) = (packing.layout.vector_bytes(cols), packing.groups(cols));
        let mut product = Self {
            rows,
            cols,
            packing,
            weights: packed.weights,
            scales: packed.scales,
            values: vec![0; tokens * stride],
            x_scales: vec![0.0; tokens * groups],
            starts: vec![0; tokens * groups],
        };
        let vectors = product.values.chunks_exact_mut(stride);
        let scales = product.x_scales.chunks_exact_mut(groups).zip(product.starts.chunks_exact_mut(groups));
        for (t, (values, (scales, starts))) in vectors.zip(scales).enumerate() {
            let x: Vec<f32> = (0..cols).map(|i| wave((t + 7) * 65_537 + i)).collect();
            Backend::PORTABLE.quantize(packing.layout, &x, packing.group_cols(cols), values, scales, starts);
        }
        product
    }

    /// Numbers that come out of it: `tokens × rows`.
    pub fn outputs(&self) -> usize {
        self.values.len() / self.packing.layout.vector_bytes(self.cols) * self.rows
    }

    /// Multiply-adds of the product.
    pub fn macs(&self) -> usize {
        self.outputs() * self.cols
    }

    /// Computes the product into the [`Product::outputs`] elements of `out`.
    pub fn run(&self, backend: Backend, out: &mut [f32]) {
        let factor = 1.0;
        let Some(m) = Matrix::new(self.rows, self.cols, self.packing, &self.weights, &self.scales, factor) else {
            unreachable!("`new` made the slices as long as the packing calls for");
        };
        let x = Activations {
            values: &self.values,
            stride: self.packing.layout.vector_bytes(self.cols),
            scales: &self.x_scales,
            starts: &self.starts,
            groups: self.packing.groups(self.cols),
        };
        backend.linear(&m, 0, &x, None, Write::Store, TileMut::new(out, self.rows, self.rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thumbformer::packing::Layout;

    #[test]
    fn all_backends_compute_the_product_that_is_timed() {
        let product = Product::new(24, 100, 9, Packing { layout: Layout::Rows8, group: 32 });
        let [mut expected, mut found] = [vec![0f32; 24 * 9], vec![0f32; 24 * 9]];
        assert_eq!((product.outputs(), product.macs()), (24 * 9, 24 * 9 * 100));
        product.run(Backend::PORTABLE, &mut expected);
        assert!(expected.iter().all(|y| y.is_finite()) && expected.iter().any(|&y| y != expected[0]));
        for backend in Backend::available() {
            product.run(backend, &mut found);
            assert_eq!(found, expected, "{}", backend.name());
        }
    }
}
