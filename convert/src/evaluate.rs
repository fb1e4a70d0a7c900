//! Measures a model: perplexity on text, the damage of quantization against f32, exact matches on pairs.

use serde::Serialize;
use thumbformer::decode::argmax;

use crate::engine::Engine;
use crate::generate::{Settings, generate};
use crate::{Error, Result};

/// Positions that go through both models before they are compared.
const BLOCK: usize = 64;

/// Negative log-likelihood over scored tokens.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Likelihood {
    /// Mean negative log-likelihood, in nats a token.
    pub nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// Tokens scored.
    pub tokens: u64,
}

impl Likelihood {
    fn of(sum: f64, tokens: u64) -> Self {
        let nll = sum / tokens.max(1) as f64;
        Self { nll, perplexity: nll.exp(), tokens }
    }
}

/// How far a model's distributions are from the reference's, over the scored positions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Divergence {
    /// Mean KL divergence of the model from the reference, in nats.
    pub kl_mean: f64,
    /// 99.9th percentile.
    pub kl_p999: f64,
    /// Largest.
    pub kl_max: f64,
    /// Share of positions at which both find the same token likeliest.
    pub top1_agreement: f64,
    /// Root mean square difference of the probability of the token that came.
    pub delta_p_rms: f64,
}

/// What [`text`] found.
#[derive(Clone, Debug, Serialize)]
pub struct TextReport {
    /// The model.
    pub model: Likelihood,
    /// The f32 reference, if there was one.
    pub reference: Option<Likelihood>,
    /// Model against reference.
    pub divergence: Option<Divergence>,
}

/// Scores `ids` in windows of `window` tokens, or of the context's length if `None`, each run alone from position 0; a
/// window's first token is not scored.
///
/// # Errors
/// Fewer than two ids, a window that does not fit, an id outside the vocabulary.
pub fn text(
    model: &mut dyn Engine,
    reference: Option<&mut dyn Engine>,
    ids: &[u32],
    window: Option<usize>,
    progress: impl FnMut(usize),
) -> Result<TextReport> {
    let context = reference.as_ref().map_or(model.context(), |r| r.context().min(model.context()));
    let window = window.unwrap_or(context);
    if window < 2 || window > context {
        return Err(Error::Usage(format!("a window of {window} tokens, expected 2 to {context}, the model's context")));
    }
    if ids.len() < 2 {
        return Err(Error::Usage(format!("{} tokens to score, expected at least 2", ids.len())));
    }
    windows(model, reference, ids.chunks(window), progress)
}

/// Scores sequences, each run alone from position 0; a sequence's first token is not scored.
///
/// # Errors
/// A sequence longer than the context, an id outside the vocabulary, a reference of another vocabulary.
pub fn windows<'w>(
    model: &mut dyn Engine,
    reference: Option<&mut dyn Engine>,
    windows: impl Iterator<Item = &'w [u32]>,
    progress: impl FnMut(usize),
) -> Result<TextReport> {
    score(model, reference, windows.map(|ids| Scored { source: None, ids, given: 1 }), progress)
}

/// A source and what should be answered to it, for an encoder-decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the encoder is given.
    pub source: Vec<u32>,
    /// What the decoder is given: what every answer starts with, then the answer.
    pub ids: Vec<u32>,
    /// How many of these start every answer, and are not scored.
    pub given: usize,
}

/// Scores the answers to sources.
///
/// # Errors
/// As [`windows`], or a source that is empty or does not fit.
pub fn records(
    model: &mut dyn Engine,
    reference: Option<&mut dyn Engine>,
    records: &[Record],
    progress: impl FnMut(usize),
) -> Result<TextReport> {
    let scored =
        records.iter().map(|record| Scored { source: Some(&record.source), ids: &record.ids, given: record.given });
    score(model, reference, scored, progress)
}

/// A sequence to score, behind its first tokens.
struct Scored<'s> {
    source: Option<&'s [u32]>,
    ids: &'s [u32],
    given: usize,
}

impl Scored<'_> {
    fn begin(&self, engine: &mut dyn Engine) -> Result<()> {
        match self.source {
            Some(source) => engine.encode_source(source),
            None => {
                engine.reset();
                Ok(())
            }
        }
    }
}

fn score<'s>(
    model: &mut dyn Engine,
    mut reference: Option<&mut dyn Engine>,
    sequences: impl Iterator<Item = Scored<'s>>,
    mut progress: impl FnMut(usize),
) -> Result<TextReport> {
    if let Some(reference) = &reference
        && reference.arch().vocab != model.arch().vocab
    {
        return Err(Error::Usage(format!(
            "the reference has a vocabulary of {}, the model one of {}: they do not belong together",
            reference.arch().vocab,
            model.arch().vocab
        )));
    }
    let (mut own, mut other) = (Sum::default(), Sum::default());
    let mut compared = Comparison::default();
    let mut rows = Rows::default();
    for sequence in sequences {
        sequence.begin(model)?;
        if let Some(reference) = &mut reference {
            sequence.begin(*reference)?;
        }
        for (block, given) in sequence.ids.chunks(BLOCK).enumerate() {
            let first = block * BLOCK + 1;
            // The token that each position should have predicted; none behind the last one.
            let next = |i: usize| sequence.ids.get(first + i).filter(|_| first + i >= sequence.given);
            rows.0.clear();
            model.score(given, &mut |i, logits| {
                if let Some(&id) = next(i) {
                    own.add(logits, id);
                    if reference.is_some() {
                        rows.0.extend_from_slice(logits);
                    }
                }
            })?;
            if let Some(reference) = &mut reference {
                reference.score(given, &mut |i, logits| {
                    if let Some(&id) = next(i) {
                        other.add(logits, id);
                        // The first rows of a sequence may not be scored.
                        let skipped = (sequence.given.saturating_sub(first)).min(given.len());
                        compared.add(rows.row(i - skipped, logits.len()), logits, id);
                    }
                })?;
            }
            progress(given.len());
        }
    }
    Ok(TextReport {
        model: own.likelihood(),
        reference: reference.is_some().then(|| other.likelihood()),
        divergence: reference.is_some().then(|| compared.divergence()),
    })
}

#[derive(Default)]
struct Rows(Vec<f32>);

impl Rows {
    fn row(&self, i: usize, len: usize) -> &[f32] {
        self.0.get(i * len..(i + 1) * len).unwrap_or(&[])
    }
}

#[derive(Default)]
struct Sum {
    nll: f64,
    tokens: u64,
}

impl Sum {
    fn add(&mut self, logits: &[f32], id: u32) {
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        self.nll += log_sum_exp(logits) - f64::from(logit);
        self.tokens += 1;
    }

    fn likelihood(&self) -> Likelihood {
        Likelihood::of(self.nll, self.tokens)
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

/// Sums up how far distributions are from each other.
#[derive(Default)]
pub(crate) struct Comparison {
    kl: Vec<f64>,
    same: u64,
    delta_p_squared: f64,
}

impl Comparison {
    /// Takes in one position: the model's and the reference's logits, and the token that came.
    pub(crate) fn add(&mut self, model: &[f32], reference: &[f32], id: u32) {
        let (total, reference_total) = (log_sum_exp(model), log_sum_exp(reference));
        let p = |logits: &[f32], total: f64| logits.get(id as usize).map_or(0.0, |&x| (f64::from(x) - total).exp());
        let kl = model.iter().zip(reference).map(|(&q, &p)| {
            let log_p = f64::from(p) - reference_total;
            log_p.exp() * (log_p - (f64::from(q) - total))
        });
        self.kl.push(kl.sum::<f64>().max(0.0));
        self.same += u64::from(argmax(model) == argmax(reference));
        self.delta_p_squared += (p(model, total) - p(reference, reference_total)).powi(2);
    }

    pub(crate) fn divergence(mut self) -> Divergence {
        let count = self.kl.len().max(1) as f64;
        self.kl.sort_unstable_by(f64::total_cmp);
        let rank = ((0.999 * self.kl.len() as f64).ceil() as usize).max(1) - 1;
        Divergence {
            kl_mean: self.kl.iter().sum::<f64>() / count,
            kl_p999: self.kl.get(rank).copied().unwrap_or(0.0),
            kl_max: self.kl.last().copied().unwrap_or(0.0),
            top1_agreement: self.same as f64 / count,
            delta_p_rms: (self.delta_p_squared / count).sqrt(),
        }
    }
}

/// A request and its answer, in tokens.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What the encoder of an encoder-decoder is given; the request is then what every answer starts with.
    pub source: Option<Vec<u32>>,
    /// The request as the model is asked, prompt format included.
    pub prompt: Vec<u32>,
    /// The answer, without an end token.
    pub answer: Vec<u32>,
    /// The answer's text.
    pub text: String,
}

/// What [`pairs`] found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairReport {
    /// Requests answered exactly.
    pub exact: u64,
    /// All requests.
    pub pairs: u64,
    /// `exact / pairs`.
    pub exact_rate: f64,
    /// Likelihood of the true answers, end token included.
    pub answers: Likelihood,
}

/// Answers each request greedily and compares the text; also scores the true answers.
///
/// `text` turns generated tokens (without an end token) into text, `end` are the tokens that end an answer. `wrong` hears
/// of each pair that was answered otherwise, with the answer given.
///
/// # Errors
/// A pair without a prompt, or one that does not fit the context.
pub fn pairs(
    model: &mut dyn Engine,
    pairs: &[Pair],
    end: &[u32],
    text: impl Fn(&[u32]) -> String,
    mut wrong: impl FnMut(usize, &str),
    mut progress: impl FnMut(usize),
) -> Result<PairReport> {
    let mut sum = Sum::default();
    let mut exact = 0;
    for (index, pair) in pairs.iter().enumerate() {
        let answer: Vec<u32> = pair.answer.iter().copied().chain(end.first().copied()).collect();
        let given: Vec<u32> = pair.prompt.iter().chain(&pair.answer).copied().collect();
        let no_prompt = || Error::Usage(format!("pair {}: found no prompt tokens, expected at least 1", index + 1));
        let first = pair.prompt.len().checked_sub(1).ok_or_else(no_prompt)?;
        match &pair.source {
            Some(source) => model.encode_source(source)?,
            None => model.reset(),
        }
        let mut greedy = true;
        model.score(&given, &mut |i, logits| {
            if let Some(&id) = i.checked_sub(first).and_then(|i| answer.get(i)) {
                sum.add(logits, id);
                greedy &= argmax(logits) == id;
            }
        })?;
        if !greedy {
            // Another spelling of the same text would also be right, so the answer itself decides.
            model.reset();
            let settings = Settings { max_tokens: model.context() - pair.prompt.len() + 1, end, logits: 0 };
            let mut ids = Vec::new();
            generate(model, &pair.prompt, settings, |id| {
                ids.push(id);
                Ok(true)
            })?;
            let answered = text(&ids);
            greedy = answered == pair.text;
            if !greedy {
                wrong(index, &answered);
            }
        }
        exact += u64::from(greedy);
        progress(1);
    }
    let count = pairs.len() as u64;
    Ok(PairReport { exact, pairs: count, exact_rate: exact as f64 / count.max(1) as f64, answers: sum.likelihood() })
}
