//! What a transformer computes, as operations of candle's tape with gradients of their own.
//!
//! Candle composes a norm, a softmax or an attention of a dozen elementary operations, each a pass over memory on one
//! core. Here each is one pass over rows, forward and backward, on all cores, compiled for the processor's widest vectors.
//! Matrix products are candle's.
//!
//! All tensors are f32 and contiguous: `[tokens, features]`. The tokens of a batch's sequences follow each other without
//! padding; [`Segments`] says where each begins. No result depends on the number of threads, so a seed gives the same
//! model again.

mod activation;
mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod linear;
mod norm;
mod quantize;
mod residual;
mod rope;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

pub use activation::{Activate, Activation, Gated};
pub use attention::{Attention, Segments};
pub use cross_entropy::CrossEntropy;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::Norm;
pub use quantize::Quantize;
pub use residual::Residual;
pub use rope::Rope;

/// Elements that a thread works on at a time, at least: less is not worth waking it.
const GRAIN: usize = 1 << 14;

/// Runs `f` compiled for the widest vectors that this processor has.
#[inline(always)]
fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A tensor's values.
struct Values<G> {
    storage: G,
    range: Range<usize>,
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // `values` lets no other through.
            _ => &[],
        }
    }
}

/// The values of a contiguous f32 tensor.
fn values(tensor: &Tensor) -> Result<Values<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!("expected f32 on the CPU, found {:?}", tensor.dtype());
    }
    Ok(Values { storage, range: start..end })
}

/// The same of an operation's argument.
fn argument<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

/// Values as an operation's result.
fn result(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient for `of`.
fn gradient(values: Vec<f32>, of: &Tensor) -> Result<Option<Tensor>> {
    Ok(Some(Tensor::from_vec(values, of.shape(), &Device::Cpu)?))
}

/// Rows that a thread takes at a time.
fn rows_at_a_time(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// Fills `out` row by row, in blocks of rows: `f(first_row, rows)`.
fn by_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_at_a_time(width);
    out.par_chunks_mut(rows * width.max(1)).enumerate().for_each(|(i, block)| {
        vectorized(
            #[inline(always)]
            || f(i * rows, block),
        )
    });
}

/// The sum over all rows of what `f(row, sums)` adds to `width` sums. Blocks of rows are summed one by one, then in
/// order, whatever the number of threads.
fn sum_rows(rows: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let block = rows_at_a_time(width);
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![0.0; width];
            vectorized(
                #[inline(always)]
                || (i * block..rows.min((i + 1) * block)).for_each(|row| f(row, &mut sums)),
            );
            sums
        })
        .collect();
    let mut total = vec![0.0; width];
    for sums in partial {
        add(&mut total, &sums);
    }
    total
}

/// The gradient of a bias, which is added to each row of what `grad` is the gradient of.
fn column_sums(bias: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    let (rows, width) = grad.dims2()?;
    let grad = values(grad)?;
    let grad = &*grad;
    let sums = sum_rows(
        rows,
        width,
        #[inline(always)]
        |row, sums| add(sums, &grad[row * width..][..width]),
    );
    gradient(sums, bias)
}

/// `to += x`
#[inline(always)]
pub(super) fn add(to: &mut [f32], x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

/// `to += a·x`
#[inline(always)]
fn axpy(to: &mut [f32], a: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += a * x;
    }
}

/// `to += Σ aᵢ·xᵢ`: rows that begin `stride` apart in `rows`, as many as there are factors, four at a time.
#[inline(always)]
fn add_rows(to: &mut [f32], factors: &[f32], rows: &[f32], stride: usize) {
    let width = to.len();
    let (fours, rest) = factors.as_chunks::<4>();
    for (i, &[a, b, c, d]) in fours.iter().enumerate() {
        let row = |j: usize| &rows[(4 * i + j) * stride..][..width];
        for ((((to, x), y), z), w) in to.iter_mut().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
            *to += (a * x + b * y) + (c * z + d * w);
        }
    }
    for (i, a) in rest.iter().enumerate() {
        axpy(to, *a, &rows[(4 * fours.len() + i) * stride..][..width]);
    }
}

/// Σ xᵢyᵢ, in eight lanes.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let ((x8, x1), (y8, y1)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for (x, y) in x8.iter().zip(y8) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    let tail: f32 = x1.iter().zip(y1).map(|(x, y)| x * y).sum();
    thumbformer::math::combine(lanes) + tail
}
