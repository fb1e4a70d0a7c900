//! Losses, gradients and runs, against what PyTorch found (tests/fixtures/train/train.py).

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thumbformer_convert::checkpoint::Checkpoint;
use thumbformer_convert::recipe::Part;
use thumbformer_convert::train::architecture::Architecture;
use thumbformer_convert::train::batch::{Batch, Masked};
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
    #[serde(flatten)]
    constants: Constants,
}

/// Of the optimizer.
#[derive(Deserialize)]
struct Constants {
    peak: f32,
    least: f32,
    warmup: u64,
    weight_decay: f32,
    clip: f32,
    beta1: f32,
    beta2: f32,
}

/// What PyTorch found for a model of masked texts or of sources.
#[derive(Deserialize)]
struct OfExamples {
    step: ExamplesStep,
    run: ExamplesRun,
}

#[derive(Deserialize)]
struct ExamplesStep {
    examples: Vec<Example>,
    loss: f32,
    smooth_loss: f32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Example {
    Masked { ids: Vec<u32>, hidden: Vec<(usize, u32)> },
    Pair { source: Vec<u32>, answer: Vec<u32> },
}

#[derive(Deserialize)]
struct ExamplesRun {
    examples: Vec<Example>,
    /// Numbers of the examples of each step.
    batches: Vec<Vec<usize>>,
    losses: Vec<f32>,
    #[serde(flatten)]
    constants: Constants,
}

fn folder(name: &str) -> PathBuf {
    repository("tests/fixtures/train").join(name)
}

fn reference<R: DeserializeOwned>(name: &str) -> R {
    let text = std::fs::read_to_string(folder(name).join("reference.json")).expect("a fixture");
    serde_json::from_str(&text).expect("a reference")
}

fn trainer(name: &str, run: &Run, regularization: Regularization) -> Trainer {
    with_constants(name, &run.constants, run.losses.len(), regularization)
}

fn with_constants(name: &str, constants: &Constants, steps: usize, regularization: Regularization) -> Trainer {
    let architecture = Architecture::read(&folder(name)).expect("a configuration");
    let parameters = Parameters::read(&architecture, &folder(name)).expect("weights");
    let Constants { peak, least, warmup, beta1, beta2, weight_decay, clip } = *constants;
    let optimizer = AdamW { beta1, beta2, eps: 1e-8, weight_decay, clip };
    let schedule = Schedule { peak, least, warmup, steps: steps as u64 };
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
        // A key's bias moves all scores of a query alike, which changes nothing: what is left is rounding.
        let is_zero = ["attention.self.key.bias", "k_proj.bias"].iter().any(|end| tensor.ends_with(end));
        assert_eq!(largest < 1e-6, is_zero, "{name}: {tensor}: PyTorch's gradient is {largest}");
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

/// Asserts that a run's losses are PyTorch's: nearly equal at first, and at the end within noise.
fn assert_losses(name: &str, losses: &[f32], expected: &[f32]) {
    for (i, (found, expected)) in losses.iter().zip(expected).take(20).enumerate() {
        assert!((found - expected).abs() < 2e-3, "{name}: step {i}: {found}, PyTorch {expected}");
    }
    let end = |losses: &[f32]| losses[losses.len() - 50..].iter().sum::<f32>() / 50.0;
    let (first, found, expected) = (expected[0], end(losses), end(expected));
    assert!(expected < 0.75 * first, "{name}: PyTorch learned nothing: {expected}");
    assert!((found / expected - 1.0).abs() < 0.02, "{name}: the last 50 steps: {found}, PyTorch {expected}");
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
        assert_losses(name, &losses, &run.losses);
    }
}

/// Of one kind of examples. Answers begin with token 1, as train.py has it.
fn batch_of(examples: &[&Example]) -> Batch {
    let (mut masked, mut pairs) = (Vec::new(), Vec::new());
    for example in examples {
        match example {
            Example::Masked { ids, hidden } => masked.push(Masked { ids: ids.clone(), hidden: hidden.clone() }),
            Example::Pair { source, answer } => pairs.push((source.as_slice(), answer.as_slice())),
        }
    }
    if pairs.is_empty() { Batch::masked(&masked) } else { Batch::answers(pairs, 1) }
}

/// PyTorch pads examples of several lengths and masks the padding, here there is none: losses and gradients are the
/// same.
#[test]
fn loss_and_gradient_of_masked_texts_and_of_answers_are_pytorchs() {
    for name in ["bert", "marian"] {
        let OfExamples { step, run } = reference(name);
        let examples: Vec<&Example> = step.examples.iter().collect();
        for (smoothing, mut expected, prefix) in [(0.0, step.loss, ""), (0.1, step.smooth_loss, "smooth.")] {
            if name == "marian" && smoothing > 0.0 {
                // PyTorch's is the divergence from the smoothed target: less by that target's entropy, a constant.
                let (vocab, spread) = (37.0, f64::from(smoothing) / 37.0);
                let hit = 1.0 - f64::from(smoothing) + spread;
                expected -= (hit * hit.ln() + (vocab - 1.0) * spread * spread.ln()) as f32;
            }
            let regularization = Regularization { smoothing, ..Regularization::default() };
            let trainer = with_constants(name, &run.constants, run.losses.len(), regularization);
            let (found, gradients) = trainer.gradient(&[batch_of(&examples)]).expect("a step");
            assert!((found - expected).abs() < 1e-5, "{name}: loss {found}, PyTorch {expected}");
            assert_gradients(name, prefix, &trainer, &gradients);
            // In two batches as in one.
            let (one, two) = examples.split_at(2);
            let (found, gradients) = trainer.gradient(&[batch_of(one), batch_of(two)]).expect("a step");
            assert!((found - expected).abs() < 1e-5, "{name}: loss {found} of two batches, PyTorch {expected}");
            assert_gradients(name, prefix, &trainer, &gradients);
        }
    }
}

#[test]
fn a_few_hundred_steps_on_masked_texts_and_on_answers_reach_pytorchs_loss() {
    for name in ["bert", "marian"] {
        let OfExamples { run, .. } = reference(name);
        let mut trainer = with_constants(name, &run.constants, run.losses.len(), Regularization::default());
        let step = |numbers: &Vec<usize>| {
            let examples: Vec<&Example> = numbers.iter().map(|&number| &run.examples[number]).collect();
            trainer.step(&[batch_of(&examples)]).expect("a step").loss
        };
        let losses: Vec<f32> = run.batches.iter().map(step).collect();
        assert_losses(name, &losses, &run.losses);
    }
}

#[test]
fn sequences_that_do_not_fit_are_refused() {
    let OfExamples { run, .. } = reference("marian");
    let trainer = with_constants("marian", &run.constants, 1, Regularization::default());
    for (source, answer, expected) in [
        (vec![3; 17], vec![2], "a sequence of 17 tokens, the context is 16"),
        (vec![3, 2], vec![3; 17], "a sequence of 17 tokens, the context is 16"),
        (vec![], vec![2], "a sequence of no tokens"),
        (vec![3, 2], vec![37], "target 37 of a vocabulary of 37"),
    ] {
        let batch = Batch::answers([(source.as_slice(), answer.as_slice())], 1);
        let error = trainer.gradient(&[batch]).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
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
