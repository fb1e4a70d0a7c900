//! Dropout whose masks are a function of the seed and the place: nothing is stored, nothing depends on threads.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{GRAIN, argument, by_rows, gradient, result, values};

/// Sets each element to zero with probability `p` and scales the others by 1/(1 − p).
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of a zero, in [0, 1).
    pub p: f32,
    /// What the mask is made of: one for each use.
    pub seed: u64,
}

impl Dropout {
    /// The factor of element `i`.
    #[inline(always)]
    pub fn factor(self, i: usize) -> f32 {
        // The finalizer of SplitMix64.
        let mut z = self.seed.wrapping_add((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let uniform = ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32;
        if uniform < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }

    pub(super) fn mask(self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            GRAIN,
            #[inline(always)]
            |first, y| {
                let at = first * GRAIN;
                for (i, (y, x)) in y.iter_mut().zip(&x[at..]).enumerate() {
                    *y = x * self.factor(at + i);
                }
            },
        );
        y
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        result(self.mask(argument(x, lx)?), lx.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        gradient(self.mask(&values(grad)?), x)
    }
}
