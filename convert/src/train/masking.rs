//! BERT's masking (Devlin et al., 2019): some tokens of a text are to be guessed. Of these, four in five are replaced
//! by the mask token, one in ten by a token drawn at random, and the others are left as they are, so that the model
//! learns about tokens that it sees, too.
//!
//! Other tokens are chosen each time that a text is seen, as RoBERTa does it.

use super::batch::Masked;
use super::examples::draw;
use crate::random::SplitMix64;

/// How texts are masked.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// The token that stands for one to guess.
    pub mask: u32,
    /// Tokens that stand for text, ascending: these are chosen, and drawn as replacements.
    pub ordinary: Vec<u32>,
    /// Share of a text's tokens that is to be guessed; at least one is.
    pub share: f32,
}

impl Masking {
    /// Whether a text has a token that can be chosen.
    pub fn can_mask(&self, ids: &[u32]) -> bool {
        ids.iter().any(|&id| self.is_ordinary(id))
    }

    fn is_ordinary(&self, id: u32) -> bool {
        self.ordinary.binary_search(&id).is_ok()
    }

    /// A text with tokens hidden that follow from `seed` alone.
    pub fn apply(&self, ids: &[u32], seed: u64) -> Masked {
        let mut random = SplitMix64(seed);
        let mut candidates: Vec<usize> = (0..ids.len()).filter(|&i| self.is_ordinary(ids[i])).collect();
        let count = ((candidates.len() as f32 * self.share).round() as usize).max(1).min(candidates.len());
        // The first steps of a shuffle.
        for i in 0..count {
            let left = candidates.len() - i;
            candidates.swap(i, i + draw(left, &mut random));
        }
        candidates.truncate(count);
        candidates.sort_unstable();
        let mut masked = Masked { ids: ids.to_vec(), hidden: Vec::with_capacity(count) };
        for position in candidates {
            masked.hidden.push((position, ids[position]));
            masked.ids[position] = match draw(10, &mut random) {
                0..8 => self.mask,
                8 => self.ordinary[draw(self.ordinary.len(), &mut random)],
                _ => ids[position],
            };
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_hidden_in_berts_proportions() {
        let masking = Masking { mask: 4, ordinary: (5..1005).collect(), share: 0.15 };
        let text: Vec<u32> = [2].into_iter().chain((0..200).map(|i| 5 + i % 100)).chain([3]).collect();
        let (mut masks, mut kept, mut places) = (0, 0, vec![0; text.len()]);
        for seed in 0..1000 {
            let Masked { ids, hidden } = masking.apply(&text, seed);
            assert_eq!(hidden.len(), 30);
            let mut restored = ids.clone();
            for (position, id) in hidden {
                assert_eq!(id, text[position]);
                masks += usize::from(ids[position] == 4);
                kept += usize::from(ids[position] == id);
                places[position] += 1;
                restored[position] = id;
            }
            assert_eq!(restored, text, "a token was changed that is not to be guessed");
        }
        assert!((23_500..24_500).contains(&masks) && (2_700..3_300).contains(&kept), "{masks} masks, {kept} kept");
        assert_eq!((places[0], places[201]), (0, 0), "a special token was chosen");
        assert!(places[1..201].iter().all(|&count| (90..220).contains(&count)), "{places:?}");
        assert_eq!(masking.apply(&text, 7), masking.apply(&text, 7));
        assert_ne!(masking.apply(&text, 7), masking.apply(&text, 8));
    }

    #[test]
    fn a_short_text_has_one_token_to_guess_and_one_of_special_tokens_none() {
        let masking = Masking { mask: 4, ordinary: vec![5, 6], share: 0.15 };
        assert_eq!(masking.apply(&[2, 5, 3], 1).hidden, [(1, 5)]);
        assert!(masking.can_mask(&[2, 5, 3]) && !masking.can_mask(&[2, 3]));
        assert_eq!(masking.apply(&[2, 3], 1).hidden, []);
    }
}
