//! AdamW (Loshchilov and Hutter, 2019), gradient clipping, and the schedule of the learning rate.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::parameters::{Parameter, Parameters};
use super::values_of;
use crate::Result;

/// The optimizer's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the gradient's mean.
    pub beta1: f32,
    /// Decay of its square's mean.
    pub beta2: f32,
    /// What is added to the root.
    pub eps: f32,
    /// Decay of matrices, in learning rates.
    pub weight_decay: f32,
    /// Largest norm of a gradient; longer ones are shortened to it. 0 leaves them.
    pub clip: f32,
}

/// The optimizer's memory: two numbers for each that is trained.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means of the gradients, a vector for each trained parameter.
    pub mean: Vec<Vec<f32>>,
    /// Means of their squares.
    pub square: Vec<Vec<f32>>,
}

impl Moments {
    /// Those of an optimizer that has seen nothing.
    pub fn zeros(parameters: &Parameters) -> Self {
        let zeros = || parameters.trained().map(|parameter| vec![0.0; parameter.var.elem_count()]).collect();
        Self { mean: zeros(), square: zeros() }
    }
}

/// The Euclidean norm of all gradients together.
pub fn norm(gradients: &[Vec<f32>]) -> f32 {
    let squares = gradients.iter().map(|gradient| gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>());
    squares.sum::<f64>().sqrt() as f32
}

impl AdamW {
    /// Changes the weights by one step, the `step`-th, which is 1 at first. `norm` is the gradients' [`norm`].
    ///
    /// # Errors
    /// None but candle's own.
    pub fn step(
        &self,
        parameters: &Parameters,
        moments: &mut Moments,
        gradients: &[Vec<f32>],
        rate: f32,
        norm: f32,
        step: u64,
    ) -> Result<()> {
        let shrink = if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let correct = |beta: f32| 1.0 - f64::from(beta).powi(step.min(i32::MAX as u64) as i32);
        let rate_of_mean = (f64::from(rate) / correct(self.beta1)) as f32;
        let root = correct(self.beta2).sqrt() as f32;
        type One<'a> = (((&'a Parameter, &'a mut Vec<f32>), &'a mut Vec<f32>), &'a Vec<f32>);
        let change = |(((parameter, m), v), gradient): One<'_>| -> Result<()> {
            let keep = if parameter.decays() { 1.0 - rate * self.weight_decay } else { 1.0 };
            let mut weights = values_of(&parameter.var)?;
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (((w, m), v), g) in weights.iter_mut().zip(m).zip(v).zip(gradient) {
                        let g = g * shrink;
                        *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                        *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
                        *w = *w * keep - rate_of_mean * *m / (v.sqrt() / root + self.eps);
                    }
                },
            );
            parameter.set(weights)
        };
        let all: Vec<_> = parameters.trained().zip(&mut moments.mean).zip(&mut moments.square).zip(gradients).collect();
        all.into_par_iter().try_for_each(change)
    }
}

/// The learning rate: a linear rise, then half a cosine down to the least.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The largest rate.
    pub peak: f32,
    /// The last one.
    pub least: f32,
    /// Steps of the rise.
    pub warmup: u64,
    /// All steps.
    pub steps: u64,
}

impl Schedule {
    /// The rate of the step after `step` others.
    pub fn rate(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.peak * (step + 1) as f32 / (self.warmup + 1) as f32;
        }
        let done = (step - self.warmup) as f64 / (self.steps.saturating_sub(self.warmup)).max(1) as f64;
        let share = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        (f64::from(self.least) + share * f64::from(self.peak - self.least)) as f32
    }
}
