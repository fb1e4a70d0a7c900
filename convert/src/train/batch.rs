//! What goes through the model in one pass.

use std::sync::Arc;

use super::ops::Segments;

/// Sequences, one behind the other, with what each token should predict.
#[derive(Clone, Debug)]
pub struct Batch {
    /// All tokens.
    pub ids: Arc<[u32]>,
    /// Where each sequence begins and ends.
    pub segments: Arc<Segments>,
    /// What each token should predict.
    pub targets: Arc<[u32]>,
    /// How much each prediction counts.
    pub weights: Arc<[f32]>,
}

impl Batch {
    /// Sequences of tokens that predict the next one. A sequence has one token more than it has places: the last one is
    /// predicted only. `weights` has a weight for each prediction.
    pub fn next_token<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [f32])>) -> Self {
        let (mut ids, mut targets, mut weights, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (sequence, of_predictions) in sequences {
            let Some((_, given)) = sequence.split_last() else { continue };
            ids.extend_from_slice(given);
            targets.extend_from_slice(&sequence[1..]);
            weights.extend_from_slice(of_predictions);
            lengths.push(given.len());
        }
        Self {
            ids: ids.into(),
            segments: Arc::new(Segments::of(lengths)),
            targets: targets.into(),
            weights: weights.into(),
        }
    }

    /// The sum of the weights.
    pub fn weight(&self) -> f32 {
        self.weights.iter().sum()
    }
}
