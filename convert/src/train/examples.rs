//! What is trained on, and the order in which it is seen.

use super::batch::Batch;
use super::masking::Masking;
use crate::random::SplitMix64;

/// Tokens that are trained on together, and how much each prediction counts: one less than there are tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Weights of the predictions of all tokens but the first.
    pub weights: Vec<f32>,
}

/// A source and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What the encoder reads.
    pub source: Vec<u32>,
    /// What the decoder should say, the token that ends it included.
    pub answer: Vec<u32>,
}

/// Tokens that a thread takes at a time, about: with fewer, adding up the parts' gradients would cost more than it saves.
const PART: usize = 384;

/// Parts of a batch at most: each has a gradient of its own.
const PARTS: usize = 8;

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
    /// Texts with tokens to guess, others each time.
    Masked {
        /// The texts, with nothing hidden.
        texts: Vec<Vec<u32>>,
        /// What is hidden.
        masking: Masking,
    },
    /// Sources with their answers.
    Pairs {
        /// The pairs.
        pairs: Vec<Pair>,
        /// The token that the decoder begins with.
        start: u32,
    },
}

/// An example that was picked.
#[derive(Clone, Copy, Debug)]
struct Pick {
    index: usize,
    /// Where a stream's first block begins.
    offset: usize,
    /// What is drawn of it follows from this.
    seed: u64,
}

impl Examples {
    /// Sequences in an epoch.
    pub fn count(&self) -> usize {
        match self {
            Examples::Stream { ids, length } => ((ids.len() - 1) / length).saturating_sub(1).max(1),
            Examples::Sequences(sequences) => sequences.len(),
            Examples::Masked { texts, .. } => texts.len(),
            Examples::Pairs { pairs, .. } => pairs.len(),
        }
    }

    /// Tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        match self {
            Examples::Stream { ids, .. } => ids.len(),
            Examples::Sequences(sequences) => sequences.iter().map(|sequence| sequence.weights.len()).sum(),
            Examples::Masked { texts, .. } => texts.iter().map(Vec::len).sum(),
            Examples::Pairs { pairs, .. } => pairs.iter().map(|pair| pair.source.len() + pair.answer.len()).sum(),
        }
    }

    /// Sets a share of the examples aside: a stream's end, else at least one of those that are drawn.
    pub fn split(self, share: f32) -> (Self, Self) {
        match self {
            Examples::Stream { mut ids, length } => {
                let aside = ids.split_off(ids.len() - part(ids.len(), share));
                (Examples::Stream { ids, length }, Examples::Stream { ids: aside, length })
            }
            Examples::Sequences(mut list) => {
                let aside = set_aside(&mut list, share);
                (Examples::Sequences(list), Examples::Sequences(aside))
            }
            Examples::Masked { mut texts, masking } => {
                let aside = Examples::Masked { texts: set_aside(&mut texts, share), masking: masking.clone() };
                (Examples::Masked { texts, masking }, aside)
            }
            Examples::Pairs { mut pairs, start } => {
                let aside = Examples::Pairs { pairs: set_aside(&mut pairs, share), start };
                (Examples::Pairs { pairs, start }, aside)
            }
        }
    }

    /// Batches that a model is validated with: all examples, or an even part of them, with about `most` tokens. A
    /// stream's blocks follow each other, the last one is shorter. The same tokens of a text are hidden each time.
    pub fn validation(&self, size: usize, most: usize) -> Vec<Batch> {
        let count = match self {
            Examples::Stream { ids, length } => ids.len().saturating_sub(1).div_ceil(*length),
            _ => self.count(),
        };
        let every = self.tokens().div_ceil(most.max(1)).max(1);
        let picks = (0..count).step_by(every).map(|index| Pick { index, offset: 0, seed: index as u64 });
        picks.collect::<Vec<_>>().chunks(size.max(1)).map(|picks| self.batch(picks)).collect()
    }

    fn batch(&self, picks: &[Pick]) -> Batch {
        match self {
            Examples::Stream { ids, length } => {
                let weights = vec![1.0; *length];
                Batch::next_token(picks.iter().map(|pick| {
                    let start = pick.offset + pick.index * length;
                    let block = &ids[start..ids.len().min(start + length + 1)];
                    (block, &weights[..block.len() - 1])
                }))
            }
            Examples::Sequences(sequences) => Batch::next_token(picks.iter().map(|pick| {
                let Sequence { ids, weights } = &sequences[pick.index];
                (ids.as_slice(), weights.as_slice())
            })),
            Examples::Masked { texts, masking } => {
                let masked = picks.iter().map(|pick| masking.apply(&texts[pick.index], pick.seed));
                Batch::masked(&masked.collect::<Vec<_>>())
            }
            Examples::Pairs { pairs, start } => Batch::answers(
                picks.iter().map(|pick| {
                    let Pair { source, answer } = &pairs[pick.index];
                    (source.as_slice(), answer.as_slice())
                }),
                *start,
            ),
        }
    }
}

fn part(count: usize, share: f32) -> usize {
    (count as f64 * f64::from(share)) as usize
}

/// Takes a share of a list, where it is not zero at least one, and leaves at least one.
fn set_aside<T>(list: &mut Vec<T>, share: f32) -> Vec<T> {
    let least = usize::from(share > 0.0);
    let count = part(list.len(), share).max(least).min(list.len().saturating_sub(1));
    let mut drawn: Vec<usize> = shuffled(list.len(), &mut SplitMix64(0)).into_iter().take(count).collect();
    drawn.sort_unstable();
    drawn.into_iter().rev().map(|index| list.swap_remove(index)).collect()
}

/// Draws batches: each example once in an epoch. Where a stream's first block begins is another place in each epoch.
/// What the n-th batch holds follows from the seed and n alone.
#[derive(Clone, Debug)]
pub struct Sampler {
    examples: Examples,
    /// Sequences of a batch.
    size: usize,
    /// Parts of a batch.
    parts: usize,
    seed: u64,
    epoch: Option<u64>,
    order: Vec<usize>,
    offset: usize,
}

impl Sampler {
    /// Draws batches of `size` sequences of `examples`, of which there is at least one.
    pub fn new(examples: Examples, size: usize, seed: u64) -> Self {
        let tokens = size * examples.tokens() / examples.count();
        let parts = (tokens / PART).clamp(1, PARTS);
        Self { examples, size, parts, seed, epoch: None, order: Vec::new(), offset: 0 }
    }

    /// The `n`-th batch, in parts for threads to work on. How it is cut does not depend on their number.
    pub fn batch(&mut self, n: u64) -> Vec<Batch> {
        let size = self.size as u64;
        let picks: Vec<Pick> = (n * size..(n + 1) * size).map(|n| self.pick(n)).collect();
        picks.chunks(self.size.div_ceil(self.parts).max(1)).map(|picks| self.examples.batch(picks)).collect()
    }

    /// The `n`-th example.
    fn pick(&mut self, n: u64) -> Pick {
        let count = self.examples.count();
        let epoch = n / count as u64;
        if self.epoch != Some(epoch) {
            let mut random = SplitMix64(SplitMix64(self.seed ^ 0x5EED).next_u64().wrapping_add(epoch));
            self.offset = match &self.examples {
                Examples::Stream { ids, length } => {
                    let spare = (ids.len() - 1 - count * length).min(length - 1);
                    draw(spare + 1, &mut random)
                }
                _ => 0,
            };
            self.order = shuffled(count, &mut random);
            self.epoch = Some(epoch);
        }
        let seed = SplitMix64(SplitMix64(self.seed ^ 0x3A5C).next_u64().wrapping_add(n)).next_u64();
        Pick { index: self.order[(n % count as u64) as usize], offset: self.offset, seed }
    }
}

/// A number below `count`, which is not zero.
pub(super) fn draw(count: usize, random: &mut SplitMix64) -> usize {
    (random.next_u64() % count as u64) as usize
}

/// The numbers below `count` in an order that is drawn (Fisher and Yates).
fn shuffled(count: usize, random: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, draw(i + 1, random));
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
        let mut sampler = Sampler::new(stream(1000), 1, 7);
        let count = stream(1000).count();
        assert_eq!(count, 98);
        let batches: Vec<Batch> = (0..count as u64).flat_map(|n| sampler.batch(n)).collect();
        let mut first: Vec<u32> = batches.iter().map(|batch| batch.text.ids[0]).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] == pair[0] + 10), "{first:?}");
        for (n, batch) in batches.iter().enumerate().rev() {
            let again = Sampler::new(stream(1000), 1, 7).batch(n as u64);
            assert_eq!(&again[..], std::slice::from_ref(batch));
            assert_eq!(batch.targets[..], batch.text.ids.iter().map(|id| id + 1).collect::<Vec<_>>()[..]);
        }
        let other = Sampler::new(stream(1000), 1, 8).batch(0);
        assert_ne!(other[0].text.ids, batches[0].text.ids);
    }

    fn texts(count: u32) -> Examples {
        let masking = Masking { mask: 4, ordinary: (5..500).collect(), share: 0.3 };
        Examples::Masked { texts: (0..count).map(|i| vec![2, 5 + i, 5 + 2 * i, 6, 7, 3]).collect(), masking }
    }

    #[test]
    fn other_tokens_are_hidden_in_each_epoch_and_they_follow_from_the_batchs_number() {
        let mut sampler = Sampler::new(texts(20), 20, 7);
        let hidden = |batch: &Batch| (batch.chosen.clone(), batch.text.ids.clone());
        let epochs: Vec<Batch> = (0..2).flat_map(|n| sampler.batch(n)).collect();
        assert_ne!(epochs[0].chosen, epochs[1].chosen);
        assert_eq!(hidden(&Sampler::new(texts(20), 20, 7).batch(1)[0]), hidden(&epochs[1]));
        assert_eq!(texts(20).validation(4, 1000), texts(20).validation(4, 1000));
    }

    #[test]
    fn a_large_batch_comes_in_parts() {
        let parts = |size: usize| Sampler::new(stream(10_000), size, 7).batch(1);
        assert_eq!(parts(70).len(), 1);
        for (size, count) in [(80, 2), (200, 5), (900, PARTS)] {
            let parts = parts(size);
            assert_eq!(parts.len(), count);
            let lengths: Vec<usize> = parts.iter().map(|part| part.text.ids.len() / 10).collect();
            assert_eq!(lengths.iter().sum::<usize>(), size);
            assert!(lengths.iter().all(|&length| length <= size.div_ceil(count)), "{lengths:?}");
        }
    }

    #[test]
    fn some_examples_are_set_aside_and_none_is_lost() {
        for (count, share, aside) in [(20, 0.1, 2), (3, 0.1, 1), (2, 0.9, 1), (20, 0.0, 0), (1, 0.1, 0)] {
            let (train, valid) = texts(count).split(share);
            assert_eq!((train.count(), valid.count()), (count as usize - aside, aside), "{share} of {count}");
            let all = |examples: &Examples| match examples {
                Examples::Masked { texts, .. } => texts.clone(),
                _ => Vec::new(),
            };
            let mut both = [all(&train), all(&valid)].concat();
            both.sort_unstable();
            assert_eq!(both, all(&texts(count)));
        }
    }

    #[test]
    fn validation_covers_the_stream_or_an_even_part_of_it() {
        let batches = stream(25).validation(2, 1000);
        let seen: Vec<u32> = batches.iter().flat_map(|batch| batch.targets.to_vec()).collect();
        assert_eq!(seen, (1..25).collect::<Vec<_>>());
        let some = stream(1001).validation(4, 100);
        assert_eq!(some.iter().map(|batch| batch.text.ids.len()).sum::<usize>(), 100);
    }
}
