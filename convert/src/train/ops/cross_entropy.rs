//! Cross-entropy with label smoothing.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use thumbformer::math::{exp, max, sum};

use super::{argument, by_rows, gradient, result, rows_at_a_time, values, vectorized};

/// Σ wᵢ·((1 − ε)·(−log p(target)) + ε·mean(−log p)) / norm, over the rows of logits `[tokens, vocabulary]`: the
/// cross-entropy to targets of which ε is spread evenly over the vocabulary (Szegedy et al., 2016), as the first
/// transformer was trained. The divergence KL(target || p) is less by the targets' entropy, which is constant: its
/// gradient is the same.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// What each row should predict.
    pub targets: Arc<[u32]>,
    /// How much each row counts; rows of weight 0 cost nothing.
    pub weights: Arc<[f32]>,
    /// ε
    pub smoothing: f32,
    /// What the sum is divided by: the weights of the whole batch, of which these rows may be a part.
    pub norm: f32,
}

/// The largest of the logits, and log Σ exp.
#[inline(always)]
fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = max(row, f32::NEG_INFINITY, |x| x);
    largest + sum(row, |x| exp(x - largest)).ln()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocab) = layout.shape().dims2()?;
        if rows != self.targets.len() || rows != self.weights.len() {
            bail!("{rows} rows of logits for {} targets of {} weights", self.targets.len(), self.weights.len());
        }
        if let Some(target) = self.targets.iter().find(|&&target| target as usize >= vocab) {
            bail!("target {target} of a vocabulary of {vocab}");
        }
        let logits = argument(logits, layout)?;
        let one = |i: usize| -> f64 {
            if self.weights[i] == 0.0 {
                return 0.0;
            }
            let row = &logits[i * vocab..][..vocab];
            let total = log_sum_exp(row);
            let hit = total - row[self.targets[i] as usize];
            let every = total - sum(row, |x| x) / vocab as f32;
            f64::from(self.weights[i] * ((1.0 - self.smoothing) * hit + self.smoothing * every))
        };
        let block = rows_at_a_time(vocab);
        let sums: Vec<f64> = (0..rows.div_ceil(block))
            .into_par_iter()
            .map(|b| {
                vectorized(
                    #[inline(always)]
                    || (b * block..rows.min((b + 1) * block)).map(one).sum::<f64>(),
                )
            })
            .collect();
        result(vec![(sums.iter().sum::<f64>() / f64::from(self.norm)) as f32], ())
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, vocab) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? / self.norm;
        let xs = values(logits)?;
        let xs = &*xs;
        let mut dx = vec![0.0; xs.len()];
        by_rows(
            &mut dx,
            vocab,
            #[inline(always)]
            |first, rows| {
                for (i, dx) in rows.chunks_exact_mut(vocab).enumerate() {
                    let i = first + i;
                    let weight = self.weights[i] * scale;
                    if weight == 0.0 {
                        continue;
                    }
                    let x = &xs[i * vocab..][..vocab];
                    let total = log_sum_exp(x);
                    let spread = self.smoothing / vocab as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = weight * (exp(x - total) - spread);
                    }
                    dx[self.targets[i] as usize] -= weight * (1.0 - self.smoothing);
                }
            },
        );
        gradient(dx, logits)
    }
}
