//! What the runtime rounds to int8, rounded in floats.
//!
//! The forward pass sees the values that the runtime will compute with; gradients pass through as if nothing had been
//! rounded (the straight-through estimator: Bengio, Léonard and Courville, 2013, arXiv:1308.3432; for inference in
//! integers: Jacob et al., 2018, arXiv:1712.05877). A scale is its group's largest value over 127, so nothing is clipped.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{argument, by_rows, result};
use crate::quantize::{absmax, round_weights, weight_exponent};

/// Rounds groups of neighbours to 255 steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// As a layer's input, in groups of so many features, the last of them shorter; or a head's queries, keys or values.
    Features(usize),
    /// As a matrix `[rows, columns]` in the blob: in groups of so many columns, with scales in f16.
    Weights(usize),
}

/// Rounds to multiples of absmax/127, half to even.
#[inline(always)]
pub(super) fn round(x: &mut [f32]) {
    let largest = absmax(x);
    if largest > 0.0 {
        let (step, inverse) = (largest / 127.0, 127.0 / largest);
        for x in x {
            *x = (*x * inverse).round_ties_even() * step;
        }
    }
}

impl CustomOp1 for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = lx.shape().dims2()?;
        let mut y = argument(x, lx)?.to_vec();
        match *self {
            Quantize::Features(0) | Quantize::Weights(0) => bail!("groups of no values"),
            Quantize::Features(group) => by_rows(
                &mut y,
                cols,
                #[inline(always)]
                |_, rows| rows.chunks_mut(cols).for_each(|row| row.chunks_mut(group).for_each(round)),
            ),
            Quantize::Weights(group) => {
                let exponent = weight_exponent(&y);
                by_rows(
                    &mut y,
                    cols,
                    #[inline(always)]
                    |_, rows| {
                        rows.chunks_mut(cols).for_each(|row| {
                            row.chunks_mut(group).for_each(|group| round_weights(group, exponent));
                        });
                    },
                );
            }
        }
        result(y, (rows, cols))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}
