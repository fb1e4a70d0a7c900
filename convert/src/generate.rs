//! Generation with an [`Engine`], as `run` and `eval --pairs` do it: the runtime's algorithms with buffers that grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use thumbformer::decode::{BeamSearch, BeamSettings, Constraint, PromptLookup, Sampler, argmax};

use crate::Result;
use crate::engine::Engine;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The model gave an end token.
    EndToken,
    /// A stop string came up.
    StopString,
    /// The text is one of the grammar, and none goes on from it.
    Complete,
    /// As many tokens as were asked for.
    MaxTokens,
    /// No position is left.
    ContextFull,
}

/// A generated sequence.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens, the end token included.
    pub ids: Vec<u32>,
    /// For each of them, the largest of the model's logits: `(id, value)`, descending. Empty unless asked for.
    pub logits: Vec<Vec<(u32, f32)>>,
    /// Why it ended.
    pub ended: Ended,
    /// From the first prompt token in to the first logits out.
    pub prefill: Duration,
    /// All steps after that.
    pub decode: Duration,
}

/// When to end, and what to report.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'s> {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the sequence.
    pub end: &'s [u32],
    /// How many of the largest logits to keep for each token; not with lookup.
    pub logits: usize,
}

/// How tokens are chosen: greedily, unless something else is asked for.
#[derive(Debug, Default)]
pub struct Choice<'c> {
    /// Draws tokens. Must know the prompt.
    pub sampler: Option<Sampler<'c>>,
    /// Allows tokens.
    pub constraint: Option<Constraint<'c>>,
    /// Drafts tokens for greedy decoding; not together with the others.
    pub lookup: Option<PromptLookup>,
}

impl Choice<'_> {
    /// The next token of at most `left`. The logits are used up. `None` if the text is complete.
    fn next(&mut self, logits: &mut [f32], left: usize) -> Result<Option<u32>> {
        if let Some(constraint) = &self.constraint
            && !constraint.apply(logits, left)?
        {
            return Ok(None);
        }
        let id = match &mut self.sampler {
            Some(sampler) => sampler.choose(logits)?,
            None => argmax(logits),
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.push(id);
        }
        Ok(Some(id))
    }
}

/// Generates greedily; see [`generate_with`].
///
/// # Errors
/// A prompt that is empty or does not fit.
pub fn generate(
    engine: &mut dyn Engine,
    prompt: &[u32],
    settings: Settings<'_>,
    each: impl FnMut(u32) -> Result<bool>,
) -> Result<Generated> {
    generate_with(engine, prompt, settings, &mut Choice::default(), each)
}

/// Continues `prompt`, of which the engine may hold the beginning already, but not all. `each` hears every token but an end
/// token; it ends the sequence by returning `false`.
///
/// # Errors
/// A prompt that is empty or does not fit; a grammar that cannot be met with the tokens and positions there are.
pub fn generate_with(
    engine: &mut dyn Engine,
    prompt: &[u32],
    settings: Settings<'_>,
    choice: &mut Choice<'_>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<Generated> {
    let start = Instant::now();
    let mut logits = Vec::new();
    engine.prefill(prompt.get(engine.position()..).unwrap_or(&[]), &mut logits)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    let mut generated =
        Generated { ids: Vec::new(), logits: Vec::new(), ended: Ended::MaxTokens, prefill, decode: Duration::ZERO };
    // With lookup: tokens found in one pass, and everything so far.
    let (mut found, mut room) = (VecDeque::new(), Vec::new());
    let mut history = prompt.to_vec();
    if settings.max_tokens == 0
        && let Some(constraint) = &choice.constraint
    {
        // No text is no text of the grammar.
        constraint.apply(&mut logits, 0)?;
    }
    while generated.ids.len() < settings.max_tokens {
        let left = settings.max_tokens - generated.ids.len();
        if settings.logits > 0 {
            generated.logits.push(largest(&logits, settings.logits));
        }
        let id = match found.pop_front() {
            Some(id) => id,
            // The last token needs no position.
            None => match choice.next(&mut logits, left.min(engine.context() - engine.position() + 1))? {
                Some(id) => id,
                None => {
                    generated.logits.truncate(generated.ids.len());
                    generated.ended = Ended::Complete;
                    break;
                }
            },
        };
        generated.ids.push(id);
        history.push(id);
        if settings.end.contains(&id) {
            generated.ended = Ended::EndToken;
            break;
        }
        if !each(id)? {
            generated.ended = Ended::StopString;
            break;
        }
        if left == 1 {
            break;
        }
        if !found.is_empty() {
            continue;
        }
        if engine.position() == engine.context() {
            generated.ended = Ended::ContextFull;
            break;
        }
        match &mut choice.lookup {
            Some(lookup) => {
                room.resize(left - 1, 0);
                let count = lookup.step(engine, &history, &mut room)?;
                found.extend(room.iter().take(count));
            }
            None => engine.prefill(&[id], &mut logits)?,
        }
    }
    generated.decode = start.elapsed();
    Ok(generated)
}

/// The result of a beam search.
#[derive(Clone, Debug)]
pub struct Searched {
    /// Tokens, the end token included, and score; the best first.
    pub hypotheses: Vec<(Vec<u32>, f32)>,
    /// From the first prompt token in to the first logits out.
    pub prefill: Duration,
    /// All steps after that.
    pub decode: Duration,
}

/// Searches for the likeliest continuations of `prompt`, of which the engine may hold the beginning already, but not all.
/// It must have been made for as many branches as beams.
///
/// # Errors
/// A prompt that is empty or does not fit; settings that make no sense.
pub fn search(engine: &mut dyn Engine, prompt: &[u32], settings: BeamSettings<'_>) -> Result<Searched> {
    let start = Instant::now();
    let mut logits = Vec::new();
    engine.prefill(prompt.get(engine.position()..).unwrap_or(&[]), &mut logits)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    // The last token needs no position.
    let max_tokens = settings.max_tokens.min(engine.context() - engine.position() + 1);
    let settings = BeamSettings { max_tokens, ..settings };
    let mut room = vec![0; BeamSearch::room(settings.beams, max_tokens, settings.end.len())];
    let mut search = BeamSearch::new(settings, &mut room)?;
    search.begin(&logits);
    while !search.is_done() {
        search.step(engine)?;
    }
    let mut ids = vec![0; max_tokens];
    let hypothesis = |n| search.hypothesis(n, &mut ids).map(|(len, score)| (ids[..len].to_vec(), score));
    let hypotheses = (0..search.hypotheses()).map_while(hypothesis).collect();
    Ok(Searched { hypotheses, prefill, decode: start.elapsed() })
}

/// The `count` largest values with their indices, descending; of equal ones the lower index first.
pub fn largest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_largest_come_in_order() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
        assert_eq!(super::largest(&logits, 3), [(1, 3.0), (3, 3.0), (4, 2.0)]);
        assert_eq!(super::largest(&logits, 9).len(), 5);
        assert_eq!(super::largest(&logits, 0), []);
    }
}
