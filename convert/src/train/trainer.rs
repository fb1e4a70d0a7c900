//! Steps: loss, gradient, change of the weights.

use candle_core::Tensor;

use super::batch::Batch;
use super::model::{Model, Regularization};
use super::optimizer::{self, AdamW, Moments, Schedule};
use super::values_of;
use crate::{Error, Result};

/// A model that is being trained.
#[derive(Debug)]
pub struct Trainer {
    /// The model.
    pub model: Model,
    /// The optimizer's memory.
    pub moments: Moments,
    /// Steps that are done.
    pub step: u64,
    /// The optimizer's constants.
    pub optimizer: AdamW,
    /// The learning rates.
    pub schedule: Schedule,
    /// Dropout and label smoothing. The seed is the run's; each step's masks have one of their own.
    pub regularization: Regularization,
}

/// What a step has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Mean loss of the predictions.
    pub loss: f32,
    /// The gradient's norm before it was clipped.
    pub norm: f32,
    /// The learning rate.
    pub rate: f32,
}

/// Runs `f` on one of rayon's threads. From any other, each of the many parallel operations of a step would wait for a
/// sleeping one to wake up.
fn on_a_worker<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

impl Trainer {
    /// Starts with a model as it is.
    pub fn new(model: Model, optimizer: AdamW, schedule: Schedule, regularization: Regularization) -> Self {
        let moments = Moments::zeros(&model.parameters);
        Self { model, moments, step: 0, optimizer, schedule, regularization }
    }

    /// The mean loss over batches that count as one, and the gradient of each trained parameter.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn gradient(&self, batches: &[Batch]) -> Result<(f32, Vec<Vec<f32>>)> {
        let norm: f32 = batches.iter().map(Batch::weight).sum();
        let mut total = 0.0;
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            let place = (self.step << 20) | i as u64;
            let seed = crate::random::SplitMix64(self.regularization.seed ^ place).next_u64();
            let loss = self.model.loss(batch, norm, Regularization { seed, ..self.regularization })?;
            total += loss.to_scalar::<f32>()?;
            let gradients = loss.backward()?;
            let of = |tensor: &Tensor| match gradients.get(tensor) {
                Some(gradient) => values_of(gradient),
                None => Ok(vec![0.0; tensor.elem_count()]),
            };
            let found = self.model.parameters.trained().map(|parameter| of(&parameter.var));
            let found = found.collect::<Result<Vec<_>>>()?;
            if sums.is_empty() {
                sums = found;
            } else {
                for (sums, found) in sums.iter_mut().zip(&found) {
                    sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
                }
            }
        }
        Ok((total, sums))
    }

    /// Changes the weights by the gradient of batches that count as one.
    ///
    /// # Errors
    /// A batch that does not fit the model; a loss or gradient that is not a number, before the weights are changed.
    pub fn step(&mut self, batches: &[Batch]) -> Result<Step> {
        on_a_worker(|| self.step_here(batches))
    }

    fn step_here(&mut self, batches: &[Batch]) -> Result<Step> {
        let (loss, gradients) = self.gradient(batches)?;
        let norm = optimizer::norm(&gradients);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Usage(format!(
                "step {}: the loss is {loss}, the gradient's norm {norm}; training has stopped before it changed the \
                 weights. Try a smaller --learning-rate, more --warmup steps, or --clip 1",
                self.step + 1
            )));
        }
        let rate = self.schedule.rate(self.step);
        self.optimizer.step(&self.model.parameters, &mut self.moments, &gradients, rate, norm, self.step + 1)?;
        self.step += 1;
        Ok(Step { loss, norm, rate })
    }

    /// The mean loss of batches, without dropout or smoothing; NaN of none.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn evaluate(&self, batches: &[Batch]) -> Result<f32> {
        on_a_worker(|| self.evaluate_here(batches))
    }

    fn evaluate_here(&self, batches: &[Batch]) -> Result<f32> {
        let (mut sum, mut weight) = (0.0, 0.0);
        for batch in batches {
            let loss = self.model.loss(batch, 1.0, Regularization::default())?;
            sum += f64::from(loss.to_scalar::<f32>()?);
            weight += f64::from(batch.weight());
        }
        Ok((sum / weight) as f32)
    }
}
