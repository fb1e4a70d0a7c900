//! Unigram language models (Kudo, 2018, arXiv:1804.10959): of all ways to cut a text into tokens, the most probable one.
//!
//! The score of a path is the sum of its tokens' scores (logarithms of probabilities), and the best path to every position
//! follows from those to the positions before it (Viterbi). A character that is no token has a score below all tokens.
//! Which of two almost equal paths wins depends on how sums are rounded, so this is done as the library does it that the
//! model is for: SentencePiece keeps the score of a path in f32, Hugging Face's `tokenizers` in f64.

use super::bpe::Workspace;
use super::encode::{EncodeError, Symbols};
use super::section::Section;

/// No path ends here.
const NONE: u32 = u32::MAX;
/// The best path to here ends with a character that is no token.
const UNKNOWN: u32 = u32::MAX - 1;

/// Encodes the first `len` bytes of the workspace's word, which are text.
pub(super) fn encode(
    workspace: &mut Workspace<'_>,
    len: usize,
    symbols: &mut Symbols<'_, '_, '_>,
) -> Result<(), EncodeError> {
    let section = symbols.section;
    let word = workspace.word.get(..len).unwrap_or_default();
    let mut paths = Paths {
        ids: workspace.links.get_mut(..len).unwrap_or_default(),
        low: workspace.priorities.get_mut(..len).unwrap_or_default(),
        high: workspace.tree.get_mut(..len).unwrap_or_default(),
        origin: symbols.path_score,
    };
    paths.find(section, word);
    symbols.path_score = paths.score(len);
    paths.turn(section, word);
    // Neighbouring characters that are no tokens are unknown together.
    let (mut at, mut known) = (0, 0);
    while at < len {
        let end = paths.end(at);
        let id = paths.id(end);
        if id != UNKNOWN && Some(id) != section.header.unknown {
            symbols.push_some(word.get(known..at).unwrap_or_default())?;
            symbols.known(id)?;
            known = end;
        }
        at = end;
    }
    symbols.push_some(word.get(known..).unwrap_or_default())
}

/// The best paths to the positions after 0, each in the entries before it.
struct Paths<'w> {
    /// The last token.
    ids: &'w mut [u32],
    /// The score, an f64 in two halves; `low` is where the token ends that begins here, once paths are turned around.
    low: &'w mut [u32],
    high: &'w mut [u32],
    /// Score at position 0.
    origin: f64,
}

impl Paths<'_> {
    /// Finds the best path to every position.
    fn find(&mut self, section: &Section<'_>, word: &[u8]) {
        let single = |score: f64| if section.header.single_sums { f64::from(score as f32) } else { score };
        self.ids.fill(NONE);
        let mut at = 0;
        while let Some(rest) = word.get(at..).filter(|rest| !rest.is_empty()) {
            let char_len = rest.iter().skip(1).take_while(|&&byte| is_inner(byte)).count() + 1;
            let here = self.score(at);
            let mut is_token = false;
            let mut reach = |len: usize, id: u32| {
                is_token |= len == char_len;
                self.offer(at + len, id, single(here + section.score(id)));
            };
            section.prefixes(section.all(), 0, rest, &mut reach);
            if let Some(id) = named_byte(section, rest) {
                reach(NAME_LEN, id);
            }
            if !is_token {
                self.offer(at + char_len, UNKNOWN, single(here + section.header.unknown_score));
            }
            at += char_len;
        }
    }

    /// Takes a path to `end` if it is the first or better than the one there.
    fn offer(&mut self, end: usize, id: u32, score: f64) {
        if self.id(end) != NONE && score <= self.score(end) {
            return;
        }
        let bits = score.to_bits();
        let entries = (self.ids.get_mut(end - 1), self.low.get_mut(end - 1), self.high.get_mut(end - 1));
        if let (Some(last), Some(low), Some(high)) = entries {
            (*last, *low, *high) = (id, bits as u32, (bits >> 32) as u32);
        }
    }

    /// Makes the best path to the end one that can be walked from the start.
    fn turn(&mut self, section: &Section<'_>, word: &[u8]) {
        let mut end = word.len();
        while end > 0 {
            let len = match self.id(end) {
                UNKNOWN | NONE => {
                    let before = word.get(..end).unwrap_or_default();
                    before.iter().rev().take_while(|&&byte| is_inner(byte)).count() + 1
                }
                id if section.byte_of(id).is_some() => NAME_LEN,
                id => section.token(id).len(),
            };
            let start = end.saturating_sub(len.max(1));
            if let Some(entry) = self.low.get_mut(start) {
                *entry = end as u32;
            }
            end = start;
        }
    }

    fn id(&self, end: usize) -> u32 {
        end.checked_sub(1).and_then(|index| self.ids.get(index)).map_or(NONE, |&id| id)
    }

    fn score(&self, end: usize) -> f64 {
        let Some(index) = end.checked_sub(1) else { return self.origin };
        let half = |half: &[u32]| half.get(index).map_or(0, |&bits| u64::from(bits));
        f64::from_bits(half(self.low) | half(self.high) << 32)
    }

    /// Where the token ends that begins at `start`. Always beyond `start`, so that loops end.
    fn end(&self, start: usize) -> usize {
        self.low.get(start).map_or(start + 1, |&end| (end as usize).max(start + 1))
    }
}

/// A byte inside of a character.
fn is_inner(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// Length of `<0x41>`.
const NAME_LEN: usize = 6;

/// The byte token whose name `text` begins with, if names count.
fn named_byte(section: &Section<'_>, text: &[u8]) -> Option<u32> {
    let first = section.header.first_byte.filter(|_| section.header.named_bytes)?;
    let [b'<', b'0', b'x', high, low, b'>', ..] = *text else { return None };
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    Some(first + u32::from(digit(high)? << 4 | digit(low)?))
}
