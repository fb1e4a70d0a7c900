//! Characters that become strings, each by itself: lower-casing, decompositions, accents taken away, spaces put around.

use super::super::kinds::MapRule;
use super::super::property::{partition, word_at};
use super::{Out, take_word, take_words};

const SYLLABLES: core::ops::RangeInclusive<u32> = 0xAC00..=0xD7A3;

/// A map in place: rules sorted by the characters that they begin with, and the strings they name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map<'a> {
    rules: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Map<'a> {
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (count, rest) = take_word(data)?;
        let (rules, strings) = take_words(rest, count.checked_mul(2)?)?;
        Some(Map { rules, strings })
    }

    fn len(self) -> usize {
        self.rules.len() / 8
    }

    /// First character, kind and argument of a rule.
    fn rule(self, index: usize) -> (u32, u8, u32) {
        let head = word_at(self.rules, 2 * index);
        (head & 0xFF_FFFF, (head >> 24) as u8, word_at(self.rules, 2 * index + 1))
    }

    fn text(self, arg: u32) -> Option<&'a str> {
        let start = (arg & 0xFF_FFFF) as usize;
        self.strings.get(start..start + (arg >> 24) as usize).and_then(|bytes| core::str::from_utf8(bytes).ok())
    }

    pub(super) fn is_sound(self) -> bool {
        let mut before = None;
        (0..self.len()).all(|index| {
            let (first, kind, arg) = self.rule(index);
            let last = if index + 1 < self.len() { self.rule(index + 1).0.wrapping_sub(1) } else { char::MAX as u32 };
            let ascends = before < Some(first) && first <= last && last <= char::MAX as u32;
            before = Some(first);
            ascends
                && match MapRule::from_u8(kind) {
                    Some(MapRule::Keep | MapRule::Spaced) => true,
                    Some(MapRule::Text) => self.text(arg).is_some(),
                    // Both ends on the same side of the surrogates.
                    Some(MapRule::Shift | MapRule::ShiftOdd) => {
                        let ends = [first, last].map(|code| char::from_u32(code.wrapping_add(arg)));
                        matches!(ends, [Some(a), Some(b)] if a <= b && (a < '\u{E000}') == (b < '\u{E000}'))
                    }
                    Some(MapRule::Hangul) => SYLLABLES.contains(&first) && SYLLABLES.contains(&last),
                    None => false,
                }
        })
    }

    pub(super) fn apply(self, text: &str, out: &mut Out<'_>) {
        for c in text.chars() {
            let after = partition(self.len(), |index| self.rule(index).0 <= c as u32);
            let Some(index) = after.checked_sub(1) else {
                out.push_char(c);
                continue;
            };
            let (first, kind, arg) = self.rule(index);
            let shifted = || char::from_u32((c as u32).wrapping_add(arg)).unwrap_or(c);
            match MapRule::from_u8(kind) {
                Some(MapRule::Text) => out.push(self.text(arg).unwrap_or_default()),
                Some(MapRule::Shift) => out.push_char(shifted()),
                Some(MapRule::ShiftOdd) if (c as u32 - first).is_multiple_of(2) => out.push_char(shifted()),
                Some(MapRule::Spaced) => [' ', c, ' '].into_iter().for_each(|c| out.push_char(c)),
                Some(MapRule::Hangul) => hangul(c, out),
                Some(MapRule::Keep | MapRule::ShiftOdd) | None => out.push_char(c),
            }
        }
    }
}

/// The letters of a syllable (The Unicode Standard, section 3.12).
fn hangul(syllable: char, out: &mut Out<'_>) {
    let index = (syllable as u32).wrapping_sub(*SYLLABLES.start());
    let letters = [0x1100 + index / 588, 0x1161 + index % 588 / 28, 0x11A7 + index % 28];
    let count = if index.is_multiple_of(28) { 2 } else { 3 };
    letters.into_iter().take(count).filter_map(char::from_u32).for_each(|c| out.push_char(c));
}
