//! Steps: loss, gradient, change of the weights.

use candle_core::Tensor;
use rayon::prelude::*;

use super::batch::Batch;
use super::model::{Model, Regularization};
use super::optimizer::{self, AdamW, Moments, Schedule};
use super::{ops, values_of};
use crate::random::SplitMix64;
use crate::{Error, Result};

/// Batches whose gradients are there at a time.
const AT_A_TIME: usize = 8;

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

    /// The mean loss over batches that count as one, and the gradient of each trained parameter. Threads take a batch
    /// each; the sums are over batches in their order.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn gradient(&self, batches: &[Batch]) -> Result<(f32, Vec<Vec<f32>>)> {
        let norm: f32 = batches.iter().map(Batch::weight).sum();
        let mut total = 0.0;
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for (first, some) in (0..).step_by(AT_A_TIME).zip(batches.chunks(AT_A_TIME)) {
            let of_each = some.par_iter().enumerate().map(|(i, batch)| self.gradient_of(batch, first + i, norm));
            for (loss, found) in of_each.collect::<Result<Vec<_>>>()? {
                total += loss;
                if sums.is_empty() {
                    sums = found;
                } else {
                    sums.par_iter_mut().zip(found).for_each(|(sums, found)| ops::add(sums, &found));
                }
            }
        }
        Ok((total, sums))
    }

    /// What batch `i` adds to loss and gradient.
    fn gradient_of(&self, batch: &Batch, i: usize, norm: f32) -> Result<(f32, Vec<Vec<f32>>)> {
        let place = (self.step << 20) | i as u64;
        let seed = SplitMix64(self.regularization.seed ^ place).next_u64();
        let loss = self.model.loss(batch, norm, Regularization { seed, ..self.regularization })?;
        let gradients = loss.backward()?;
        let of = |tensor: &Tensor| match gradients.get(tensor) {
            Some(gradient) => values_of(gradient),
            None => Ok(vec![0.0; tensor.elem_count()]),
        };
        let found = self.model.parameters.trained().map(|parameter| of(&parameter.var)).collect::<Result<_>>()?;
        Ok((loss.to_scalar()?, found))
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
        let of = |batch: &Batch| Ok(self.model.loss(batch, 1.0, Regularization::default())?.to_scalar::<f32>()?);
        let losses = batches.par_iter().map(of).collect::<Result<Vec<f32>>>()?;
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let weight: f64 = batches.iter().map(|batch| f64::from(batch.weight())).sum();
        Ok((sum / weight) as f32)
    }
}
