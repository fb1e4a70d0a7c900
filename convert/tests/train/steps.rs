//! Losses, gradients and runs, against what PyTorch found (tests/fixtures/train/train.py).

use std::path::PathBuf;

use serde::Deserialize;
use thumbformer_convert::checkpoint::Checkpoint;
use thumbformer_convert::recipe::Part;
use thumbformer_convert::train::architecture::Architecture;
use thumbformer_convert::train::batch::Batch;
use thumbformer_convert::train::model::{Model, Regularization};
use thumbformer_convert::train::optimizer::{AdamW, Schedule};
use thumbformer_convert::train::parameters::Parameters;
use thumbformer_convert::train::trainer::Trainer;

use super::common::repository;

#[derive(Deserialize)]
struct Reference {
    step: OneStep,
    run: Run,
}

#[derive(Deserialize)]
struct OneStep {
    ids: Vec<Vec<u32>>,
    loss: f32,
    smooth_loss: f32,
    /// Tokens of each sequence that are given.
    prompts: Vec<usize>,
    answer_loss: f32,
}

#[derive(Deserialize)]
struct Run {
    tokens: Vec<u32>,
    starts: Vec<Vec<usize>>,
    losses: Vec<f32>,
    peak: f32,
    least: f32,
    warmup: u64,
    weight_decay: f32,
    clip: f32,
    beta1: f32,
    beta2: f32,
}

fn folder(name: &str) -> PathBuf {
    repository("tests/fixtures/train").join(name)
}

fn reference(name: &str) -> Reference {
    let text = std::fs::read_to_string(folder(name).join("reference.json")).expect("a fixture");
    serde_json::from_str(&text).expect("a reference")
}

fn trainer(name: &str, run: &Run, regularization: Regularization) -> Trainer {
    let architecture = Architecture::read(&folder(name)).expect("a configuration");
    let parameters = Parameters::read(&architecture, &folder(name)).expect("weights");
    let Run { beta1, beta2, weight_decay, clip, .. } = *run;
    let optimizer = AdamW { beta1, beta2, eps: 1e-8, weight_decay, clip };
    let schedule = Schedule { peak: run.peak, least: run.least, warmup: run.warmup, steps: run.losses.len() as u64 };
    Trainer::new(Model::new(architecture, parameters), optimizer, schedule, regularization)
}

fn batch<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Batch {
    let sequences: Vec<&[u32]> = sequences.into_iter().collect();
    let weights = vec![1.0; sequences.iter().map(|sequence| sequence.len()).max().unwrap_or(0)];
    Batch::next_token(sequences.iter().map(|&sequence| (sequence, &weights[..sequence.len() - 1])))
}

/// Asserts that each gradient is PyTorch's, within rounding.
fn assert_gradients(name: &str, prefix: &str, trainer: &Trainer, gradients: &[Vec<f32>]) {
    let expected = Checkpoint::open(&folder(name).join("gradients.safetensors")).expect("gradients");
    for (parameter, gradient) in trainer.model.parameters.iter().zip(gradients) {
        let tensor = format!("{prefix}{}", parameter.name);
        let shape = expected.shape(&tensor).expect("a gradient for each parameter");
        let (rows, cols) = (shape[0], shape.get(1).copied().unwrap_or(1));
        let mut values = vec![0.0; rows * cols];
        expected.read_part(&Part::whole(&tensor, rows), 0..rows, cols, &mut values).expect("values");
        let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        assert!(largest > 1e-6, "{name}: {tensor}: PyTorch's gradient is zero");
        for (i, (found, expected)) in gradient.iter().zip(&values).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= 2e-5 * largest + 1e-7, "{name}: {tensor}[{i}]: found {found}, PyTorch {expected}");
        }
    }
}

#[test]
fn loss_and_gradient_of_a_step_are_pytorchs() {
    for name in ["llama", "gpt2"] {
        let Reference { step, run } = reference(name);
        for (smoothing, loss, prefix) in [(0.0, step.loss, ""), (0.1, step.smooth_loss, "smooth.")] {
            let trainer = trainer(name, &run, Regularization { smoothing, ..Regularization::default() });
            let (found, gradients) = trainer.gradient(&[batch(step.ids.iter().map(Vec::as_slice))]).expect("a step");
            assert!((found - loss).abs() < 1e-5, "{name}: loss {found}, PyTorch {loss}");
            assert_gradients(name, prefix, &trainer, &gradients);
        }
    }
}

#[test]
fn requests_count_as_much_as_they_are_weighted() {
    for name in ["llama", "gpt2"] {
        let Reference { step, run } = reference(name);
        let trainer = trainer(name, &run, Regularization::default());
        let weighted = |weight: f32| {
            let weights = |prompt: usize| (1..17).map(|i| if i < prompt { weight } else { 1.0 }).collect::<Vec<f32>>();
            let weights: Vec<Vec<f32>> = step.prompts.iter().map(|&prompt| weights(prompt)).collect();
            let sequences = step.ids.iter().zip(&weights);
            Batch::next_token(sequences.map(|(ids, weights)| (ids.as_slice(), weights.as_slice())))
        };
        let (loss, gradients) = trainer.gradient(&[weighted(0.0)]).expect("a step");
        assert!((loss - step.answer_loss).abs() < 1e-5, "{name}: loss {loss}, PyTorch {}", step.answer_loss);
        assert_gradients(name, "answer.", &trainer, &gradients);
        let (loss, _) = trainer.gradient(&[weighted(1.0)]).expect("a step");
        assert!((loss - step.loss).abs() < 1e-5, "{name}: loss {loss}, PyTorch {}", step.loss);
    }
}

#[test]
fn accumulated_batches_count_as_one() {
    let Reference { step, run } = reference("llama");
    let trainer = trainer("llama", &run, Regularization::default());
    let batches: Vec<Batch> = step.ids.iter().map(|ids| batch([ids.as_slice()])).collect();
    let (loss, gradients) = trainer.gradient(&batches).expect("a step");
    assert!((loss - step.loss).abs() < 1e-5);
    assert_gradients("llama", "", &trainer, &gradients);
}

#[test]
fn a_few_hundred_steps_reach_pytorchs_loss() {
    for name in ["llama", "gpt2"] {
        let Reference { run, .. } = reference(name);
        let mut trainer = trainer(name, &run, Regularization::default());
        let mut losses = Vec::new();
        for starts in &run.starts {
            let sequences = starts.iter().map(|&start| &run.tokens[start..start + 17]);
            losses.push(trainer.step(&[batch(sequences)]).expect("a step").loss);
        }
        for (i, (found, expected)) in losses.iter().zip(&run.losses).take(20).enumerate() {
            assert!((found - expected).abs() < 2e-3, "{name}: step {i}: {found}, PyTorch {expected}");
        }
        let end = |losses: &[f32]| losses[losses.len() - 50..].iter().sum::<f32>() / 50.0;
        let (found, expected) = (end(&losses), end(&run.losses));
        assert!(expected < 0.75 * run.losses[0], "{name}: PyTorch learned nothing: {expected}");
        assert!((found / expected - 1.0).abs() < 0.02, "{name}: the last 50 steps: {found}, PyTorch {expected}");
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_weights_change() {
    let Reference { step, run } = reference("llama");
    let mut trainer = trainer("llama", &run, Regularization::default());
    let parameter = trainer.model.parameters.iter().next().expect("parameters").clone();
    parameter.set(vec![f32::NAN; parameter.var.elem_count()]).expect("set");
    let error = trainer.step(&[batch([step.ids[0].as_slice()])]).expect_err("NaN").to_string();
    assert!(error.contains("step 1: the loss is NaN") && error.contains("--learning-rate"), "{error}");
    assert_eq!(trainer.step, 0);
}

#[test]
fn dropout_is_the_same_for_a_seed_and_keeps_the_mean() {
    let Reference { step, run } = reference("gpt2");
    let of = |dropout, seed| {
        let trainer = trainer("gpt2", &run, Regularization { dropout, seed, smoothing: 0.0 });
        trainer.gradient(&[batch(step.ids.iter().map(Vec::as_slice))]).expect("a step")
    };
    assert_eq!(of(0.2, 1), of(0.2, 1));
    assert_ne!(of(0.2, 1).0, of(0.2, 2).0);
    let mean = (0..40).map(|seed| of(0.02, seed).0).sum::<f32>() / 40.0;
    assert!((mean - step.loss).abs() < 0.05 * step.loss, "{mean} for {}", step.loss);
}
