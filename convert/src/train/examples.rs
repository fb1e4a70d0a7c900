//! What is trained on, and the order in which it is seen.

use super::batch::Batch;
use crate::random::SplitMix64;

/// Tokens that are trained on together, and how much each prediction counts: one less than there are tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Weights of the predictions of all tokens but the first.
    pub weights: Vec<f32>,
}

/// What is trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum Examples {
    /// A packed text, cut into blocks.
    Stream {
        /// Its tokens: more than a block's predictions.
        ids: Vec<u32>,
        /// Predictions of a block.
        length: usize,
    },
    /// Examples of their own.
    Sequences(Vec<Sequence>),
}

impl Examples {
    /// Sequences in an epoch.
    pub fn count(&self) -> usize {
        match self {
            Examples::Stream { ids, length } => ((ids.len() - 1) / length).saturating_sub(1).max(1),
            Examples::Sequences(sequences) => sequences.len(),
        }
    }

    /// Batches that a model is validated with: all examples, or an even part of them, with about `most` predictions.
    /// A stream's blocks follow each other, the last one is shorter.
    pub fn validation(&self, size: usize, most: usize) -> Vec<Batch> {
        let blocks: Vec<Sequence> = match self {
            Examples::Sequences(sequences) => sequences.clone(),
            Examples::Stream { ids, length } => {
                let starts = (0..ids.len().saturating_sub(1)).step_by(*length);
                let block = |start: usize| {
                    let ids = ids[start..ids.len().min(start + length + 1)].to_vec();
                    Sequence { weights: vec![1.0; ids.len() - 1], ids }
                };
                starts.map(block).collect()
            }
        };
        let predictions: usize = blocks.iter().map(|block| block.weights.len()).sum();
        let every = predictions.div_ceil(most.max(1)).max(1);
        let some: Vec<&Sequence> = blocks.iter().step_by(every).collect();
        let batch = |blocks: &[&Sequence]| {
            Batch::next_token(blocks.iter().map(|block| (block.ids.as_slice(), block.weights.as_slice())))
        };
        some.chunks(size.max(1)).map(batch).collect()
    }
}

/// Draws batches: each example once in an epoch. Where a stream's first block begins is another place in each epoch. What
/// the n-th batch holds follows from the seed and n alone.
#[derive(Clone, Debug)]
pub struct Sampler {
    examples: Examples,
    seed: u64,
    epoch: Option<u64>,
    order: Vec<usize>,
    offset: usize,
}

impl Sampler {
    /// Draws of `examples`, of which there is at least one.
    pub fn new(examples: Examples, seed: u64) -> Self {
        Self { examples, seed, epoch: None, order: Vec::new(), offset: 0 }
    }

    /// The `n`-th batch of `size` sequences.
    pub fn batch(&mut self, n: u64, size: usize) -> Batch {
        let picks: Vec<(usize, usize)> = (0..size as u64).map(|i| self.pick(n * size as u64 + i)).collect();
        match &self.examples {
            Examples::Stream { ids, length } => {
                let weights = vec![1.0; *length];
                let block = |&(index, offset): &(usize, usize)| {
                    let start = offset + index * length;
                    (&ids[start..=start + length], weights.as_slice())
                };
                Batch::next_token(picks.iter().map(block))
            }
            Examples::Sequences(sequences) => Batch::next_token(picks.iter().map(|&(index, _)| {
                let Sequence { ids, weights } = &sequences[index];
                (ids.as_slice(), weights.as_slice())
            })),
        }
    }

    /// Which example the `n`-th is, and where the stream's first block begins.
    fn pick(&mut self, n: u64) -> (usize, usize) {
        let count = self.examples.count();
        let epoch = n / count as u64;
        if self.epoch != Some(epoch) {
            let mut random = SplitMix64(SplitMix64(self.seed ^ 0x5EED).next_u64().wrapping_add(epoch));
            self.offset = match &self.examples {
                Examples::Stream { ids, length } => {
                    let spare = (ids.len() - 1 - count * length).min(length - 1);
                    (random.next_u64() % (spare as u64 + 1)) as usize
                }
                Examples::Sequences(_) => 0,
            };
            self.order = shuffled(count, &mut random);
            self.epoch = Some(epoch);
        }
        (self.order[(n % count as u64) as usize], self.offset)
    }
}

/// The numbers below `count` in an order that is drawn (Fisher and Yates).
pub(super) fn shuffled(count: usize, random: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(tokens: u32) -> Examples {
        Examples::Stream { ids: (0..tokens).collect(), length: 10 }
    }

    #[test]
    fn every_block_is_seen_once_in_an_epoch_and_batches_do_not_depend_on_what_was_asked_before() {
        let mut sampler = Sampler::new(stream(1000), 7);
        let count = stream(1000).count();
        assert_eq!(count, 98);
        let batches: Vec<Batch> = (0..count as u64).map(|n| sampler.batch(n, 1)).collect();
        let mut first: Vec<u32> = batches.iter().map(|batch| batch.ids[0]).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] == pair[0] + 10), "{first:?}");
        for (n, batch) in batches.iter().enumerate().rev() {
            let again = Sampler::new(stream(1000), 7).batch(n as u64, 1);
            assert_eq!((&again.ids, &again.targets), (&batch.ids, &batch.targets));
            assert_eq!(batch.targets[..], batch.ids.iter().map(|id| id + 1).collect::<Vec<_>>()[..]);
        }
        let other = Sampler::new(stream(1000), 8).batch(0, 1);
        assert_ne!(other.ids, batches[0].ids);
    }

    #[test]
    fn validation_covers_the_stream_or_an_even_part_of_it() {
        let batches = stream(25).validation(2, 1000);
        let seen: Vec<u32> = batches.iter().flat_map(|batch| batch.targets.to_vec()).collect();
        assert_eq!(seen, (1..25).collect::<Vec<_>>());
        let some = stream(1001).validation(4, 100);
        assert_eq!(some.iter().map(|batch| batch.ids.len()).sum::<usize>(), 100);
    }
}
