//! From f32 rows to packed int8: scales, rounding, interleaving, and what it cost.
//!
//! Symmetric, absmax/127 for each row and group: at eight bits a least-squares choice of scales gained nothing when it was
//! tried. Scales are f16; a power of two common to the tensor puts the largest of them just below 2¹⁵, so that f16's range
//! down to normal numbers of 2⁻¹⁴ serves the small ones. Weights are divided by the *rounded* scale.
//!
//! A tensor is read twice, a slice of rows at a time: first for the largest weight, then to quantize. Memory is a slice's
//! floats for each core and the packed tensor.

use half::f16;
use rayon::prelude::*;
use thumbformer::packing::{Packing, QUAD, round_up};

/// A tensor as the blob stores it.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Interleaved weights.
    pub weights: Vec<u8>,
    /// f16 bits, `[block][group][row of block]`.
    pub scales: Vec<u16>,
    /// All scales are to be multiplied by two to this power.
    pub exponent: i32,
    /// What rounding did.
    pub error: Error,
}

/// Signal and noise of a quantized tensor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Error {
    /// Σ w².
    pub signal: f64,
    /// Σ (w − ŵ)².
    pub noise: f64,
}

impl Error {
    /// Signal-to-quantization-noise ratio in decibels; infinite if nothing was lost.
    pub fn sqnr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }

    fn add(self, other: Self) -> Self {
        Self { signal: self.signal + other.signal, noise: self.noise + other.noise }
    }
}

/// Floats that a core holds at a time.
const SLICE_FLOATS: usize = 1 << 18;

/// Quantizes `rows × cols` floats that `read` supplies: it fills its second argument with the rows of its first.
///
/// # Errors
/// Whatever `read` returns.
pub fn quantize_rows<E: Send>(
    rows: usize,
    cols: usize,
    packing: Packing,
    read: impl Fn(std::ops::Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Packed, E> {
    let block_rows = packing.layout.block_rows();
    let slice_rows = (SLICE_FLOATS / cols).next_multiple_of(block_rows).max(block_rows);
    let slices = rows.div_ceil(slice_rows);
    let slice = |i: usize| i * slice_rows..rows.min((i + 1) * slice_rows);

    let largest = (0..slices)
        .into_par_iter()
        .map_init(Vec::new, |floats, i| {
            floats.resize(slice(i).len() * cols, 0f32);
            read(slice(i), floats)?;
            Ok(absmax(floats))
        })
        .try_reduce(|| 0f32, |a, b| Ok(a.max(b)))?;
    let exponent = exponent(largest / 127.0);

    let padded_rows = round_up(rows, block_rows);
    let mut weights = vec![0u8; padded_rows * round_up(cols, QUAD)];
    let mut scales = vec![0u16; padded_rows * packing.groups(cols)];
    let error = weights
        .par_chunks_mut(slice_rows * round_up(cols, QUAD))
        .zip(scales.par_chunks_mut(slice_rows * packing.groups(cols)))
        .enumerate()
        .map_init(Vec::new, |floats, (i, (weights, scales))| {
            floats.resize(slice(i).len() * cols, 0f32);
            read(slice(i), floats)?;
            Ok(pack(floats, cols, packing, exponent, weights, scales))
        })
        .collect::<Result<Vec<_>, E>>()?;
    // Added in order, so that reports are the same at any number of threads.
    let error = error.into_iter().fold(Error::default(), Error::add);
    Ok(Packed { weights, scales, exponent, error })
}

/// Elements that are worked on side by side: enough for the compiler to use wide registers.
const LANES: usize = 16;

#[inline(always)]
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(x.abs());
        }
    }
    lanes.iter().chain(tail).fold(0f32, |m, x| m.max(x.abs()))
}

/// The power of two that puts the largest scale of a tensor into [2¹⁴, 2¹⁵); 0 for a tensor of zeros.
fn exponent(largest_scale: f32) -> i32 {
    let limit = thumbformer::blob::MAX_EXPONENT;
    if largest_scale == 0.0 { 0 } else { (ilog2(largest_scale) - 14).clamp(-limit, limit) }
}

/// ⌊log₂ x⌋ of a positive float.
fn ilog2(x: f32) -> i32 {
    let bits = f64::from(x).to_bits();
    (bits >> 52) as i32 - 1023
}

/// Quantizes whole rows of floats into the blocks that begin with them.
fn pack(floats: &[f32], cols: usize, packing: Packing, exponent: i32, weights: &mut [u8], scales: &mut [u16]) -> Error {
    let factor = 2f32.powi(exponent);
    let group_cols = packing.group_cols(cols);
    let mut error = Error::default();
    let mut q = vec![0i8; round_up(cols, QUAD)];
    for (row, floats) in floats.chunks_exact(cols).enumerate() {
        for (group, x) in floats.chunks(group_cols).enumerate() {
            let stored = stored_scale(x, factor);
            scales[packing.scale_index(row, group, cols)] = stored.to_bits();
            let scale = stored.to_f32() * factor;
            let q = &mut q[group * group_cols..][..x.len()];
            let (signal, noise) = quantize_group(x, scale, q);
            error = error.add(Error { signal: signal.into(), noise: noise.into() });
        }
        for (i, quad) in q.as_chunks::<QUAD>().0.iter().enumerate() {
            let at = packing.layout.quad_offset(row, i * QUAD, cols);
            weights[at..at + QUAD].copy_from_slice(&packing.layout.encode(*quad));
        }
    }
    error
}

/// A group's scale in units of the tensor's `factor`.
fn stored_scale(x: &[f32], factor: f32) -> f16 {
    f16::from_f32(absmax(x) / 127.0 / factor)
}

/// The exponent of a whole tensor's scales, for [`round_weights`].
#[cfg(feature = "train")]
pub(crate) fn weight_exponent(x: &[f32]) -> i32 {
    exponent(absmax(x) / 127.0)
}

/// Gives the weights of one group the values that they have in a blob.
#[cfg(feature = "train")]
#[inline(always)]
pub(crate) fn round_weights(x: &mut [f32], exponent: i32) {
    let factor = 2f32.powi(exponent);
    let scale = stored_scale(x, factor).to_f32() * factor;
    if scale == 0.0 {
        return x.fill(0.0);
    }
    for x in x {
        *x = round(*x / scale) * scale;
    }
}

/// Half to even, within ±127.
#[cfg(feature = "train")]
#[inline(always)]
fn round(x: f32) -> f32 {
    x.clamp(-127.0, 127.0) + ROUND - ROUND
}

/// 1.5 · 2²³: added to a number within ±2²², it leaves no bits for a fraction, so the sum is rounded half to even.
const ROUND: f32 = 12_582_912.0;

/// Divides by the scale and rounds half to even, within ±127. Returns signal and noise.
fn quantize_group(x: &[f32], scale: f32, q: &mut [i8]) -> (f32, f32) {
    if scale == 0.0 {
        q.fill(0);
        let signal = x.iter().map(|x| x * x).sum();
        return (signal, signal);
    }
    let (mut signal, mut noise) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, tail) = x.as_chunks::<LANES>();
    let (q_chunks, q_tail) = q.as_chunks_mut::<LANES>();
    let lanes = |q: &mut [i8], x: &[f32], signal: &mut [f32; LANES], noise: &mut [f32; LANES]| {
        for (i, (q, &x)) in q.iter_mut().zip(x).enumerate() {
            // The sum's last bits are the rounded number: one addition, where rounding is a call without SSE 4.1.
            let shifted = (x / scale).clamp(-127.0, 127.0) + ROUND;
            *q = shifted.to_bits() as i8;
            let lost = x - (shifted - ROUND) * scale;
            signal[i] += x * x;
            noise[i] += lost * lost;
        }
    };
    for (q, x) in q_chunks.iter_mut().zip(chunks) {
        lanes(q, x, &mut signal, &mut noise);
    }
    lanes(q_tail, tail, &mut signal, &mut noise);
    (signal.iter().sum(), noise.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thumbformer::matrix::Matrix;
    use thumbformer::packing::Layout;

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() + next() + next()).collect()
    }

    fn round_trip(rows: usize, cols: usize, packing: Packing, data: &[f32]) -> (Vec<f32>, Packed) {
        let packed = quantize_rows(rows, cols, packing, |range, out| {
            out.copy_from_slice(&data[range.start * cols..range.end * cols]);
            Ok::<(), ()>(())
        })
        .unwrap();
        let factor = 2f32.powi(packed.exponent);
        let m = Matrix::new(rows, cols, packing, &packed.weights, &packed.scales, factor).unwrap();
        let mut back = vec![0f32; rows * cols];
        for (row, out) in back.chunks_mut(cols).enumerate() {
            m.dequantize_row(row, out);
        }
        (back, packed)
    }

    #[test]
    fn every_weight_comes_back_within_half_a_step() {
        for layout in [Layout::Rows8, Layout::Dsp] {
            for group in [0, 32, 64] {
                for (rows, cols) in [(1, 1), (3, 5), (8, 64), (13, 172), (700, 390)] {
                    for magnitude in [1e-30f32, 1e-3, 1.0, 1e20] {
                        let packing = Packing { layout, group };
                        let data: Vec<f32> = noise(rows * cols).iter().map(|x| x * magnitude).collect();
                        let (back, packed) = round_trip(rows, cols, packing, &data);
                        for (row, (a, b)) in data.chunks(cols).zip(back.chunks(cols)).enumerate() {
                            for (a, b) in a.chunks(packing.group_cols(cols)).zip(b.chunks(packing.group_cols(cols))) {
                                let step = absmax(a) / 127.0;
                                for (a, b) in a.iter().zip(b) {
                                    assert!((a - b).abs() <= 0.5005 * step, "{rows}x{cols} row {row}: {a} {b} {step}");
                                }
                            }
                        }
                        assert!(packed.error.sqnr_db() > 30.0);
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zero_and_cost_nothing() {
        let (back, packed) = round_trip(4, 40, Packing { layout: Layout::Rows8, group: 32 }, &[0.0; 160]);
        assert!(back.iter().all(|&x| x == 0.0));
        assert_eq!((packed.exponent, packed.error.sqnr_db()), (0, f64::INFINITY));
    }

    #[test]
    fn the_largest_scale_lies_just_below_two_to_the_fifteenth() {
        for x in [1e-38f32, 3.0, 127.0, 126.99, 1e30] {
            let e = exponent(x / 127.0);
            let scale = f64::from(x / 127.0) / 2f64.powi(e);
            assert!((16384.0..32768.0).contains(&scale) || e.abs() == 100, "{x}: {scale}");
        }
    }
}
