//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{argument, by_rows, gradient, result, values};

/// Rotates each head's pairs (i, i + half) by the angle of their position.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Of each token in the batch.
    positions: Arc<[u32]>,
    /// Cosines, then sines: `half` of each for each position.
    table: Arc<[f32]>,
    half: usize,
}

impl Rope {
    /// Angles of `context` positions for heads of `head_dim`: position·base^(−2i/head_dim).
    pub fn table(context: usize, head_dim: usize, base: f64) -> Arc<[f32]> {
        let half = head_dim / 2;
        let mut table = Vec::with_capacity(context * head_dim);
        for position in 0..context {
            // In single precision, as transformers computes them.
            let angle = |i: usize| position as f32 * (1.0 / (base as f32).powf(2.0 * i as f32 / head_dim as f32));
            table.extend((0..half).map(|i| angle(i).cos()));
            table.extend((0..half).map(|i| angle(i).sin()));
        }
        table.into()
    }

    /// A rotation for tokens at `positions`, all of which stand in `table`.
    pub fn new(positions: Arc<[u32]>, table: Arc<[f32]>, head_dim: usize) -> Self {
        Self { positions, table, half: head_dim / 2 }
    }

    /// Rotates by the angle times `direction`.
    fn rotate(&self, x: &[f32], direction: f32) -> Vec<f32> {
        let half = self.half;
        let width = x.len() / self.positions.len().max(1);
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            width,
            #[inline(always)]
            |first, rows| {
                for (i, (y, x)) in rows.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)).enumerate()
                {
                    let at = self.positions[first + i] as usize * 2 * half;
                    let (cos, sin) = self.table[at..][..2 * half].split_at(half);
                    for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                        let ((y0, y1), (x0, x1)) = (y.split_at_mut(half), x.split_at(half));
                        for (((((y0, y1), x0), x1), cos), sin) in
                            y0.iter_mut().zip(y1).zip(x0).zip(x1).zip(cos).zip(sin)
                        {
                            let sin = sin * direction;
                            *y0 = x0 * cos - x1 * sin;
                            *y1 = x1 * cos + x0 * sin;
                        }
                    }
                }
            },
        );
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = lx.shape().dims2()?;
        if tokens != self.positions.len() || width % (2 * self.half) != 0 {
            candle_core::bail!(
                "rope of {} positions and {} pairs for {tokens}x{width}",
                self.positions.len(),
                self.half
            );
        }
        result(self.rotate(argument(x, lx)?, 1.0), lx.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        gradient(self.rotate(&values(grad)?, -1.0), x)
    }
}
