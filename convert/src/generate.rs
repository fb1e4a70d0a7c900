//! Greedy generation with an [`Engine`], as `run` and `eval --pairs` do it.

use std::time::{Duration, Instant};

use serde::Serialize;
use thumbformer::decode::argmax;

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
    /// For each of them, the largest logits it was chosen from: `(id, value)`, descending. Empty unless asked for.
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
    /// How many of the largest logits to keep for each token.
    pub logits: usize,
}

/// Appends `prompt` and generates greedily. `each` hears every token but an end token; it ends the sequence by returning
/// `false`.
///
/// # Errors
/// A prompt that is empty or does not fit.
pub fn generate(
    engine: &mut dyn Engine,
    prompt: &[u32],
    settings: Settings<'_>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<Generated> {
    let start = Instant::now();
    let mut logits = Vec::new();
    engine.prefill(prompt, &mut logits)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    let mut generated =
        Generated { ids: Vec::new(), logits: Vec::new(), ended: Ended::MaxTokens, prefill, decode: Duration::ZERO };
    while generated.ids.len() < settings.max_tokens {
        let id = argmax(&logits);
        generated.ids.push(id);
        if settings.logits > 0 {
            generated.logits.push(largest(&logits, settings.logits));
        }
        if settings.end.contains(&id) {
            generated.ended = Ended::EndToken;
            break;
        }
        if !each(id)? {
            generated.ended = Ended::StopString;
            break;
        }
        if generated.ids.len() == settings.max_tokens {
            break;
        }
        if engine.position() == engine.context() {
            generated.ended = Ended::ContextFull;
            break;
        }
        engine.prefill(&[id], &mut logits)?;
    }
    generated.decode = start.elapsed();
    Ok(generated)
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
