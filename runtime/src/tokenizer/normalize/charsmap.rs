//! SentencePiece's `precompiled_charsmap`: a double-array trie (Aoe, 1989) from strings to what they become.

use super::super::property::word_at;
use super::super::section::Section;
use super::{Out, take_word};

/// A charsmap in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charsmap<'a> {
    /// The double array's units, a word each.
    trie: &'a [u8],
    /// Replacements, a zero byte after each.
    strings: &'a [u8],
}

impl<'a> Charsmap<'a> {
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (len, rest) = take_word(data)?;
        let (trie, strings) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        len.is_multiple_of(4).then_some(Charsmap { trie, strings })
    }

    /// Every replacement is text and ends. Positions are not trusted anywhere.
    pub(super) fn is_sound(self) -> bool {
        let Ok(strings) = core::str::from_utf8(self.strings) else { return false };
        let last_end = strings.rfind('\0');
        let is_string =
            |at: u32| last_end.is_some_and(|end| at as usize <= end) && strings.is_char_boundary(at as usize);
        let units = (0..self.trie.len() / 4).map(|index| word_at(self.trie, index));
        !self.trie.is_empty() && units.filter(|unit| unit >> 31 == 1).all(|unit| is_string(unit & 0x7FFF_FFFF))
    }

    fn string(self, at: u32) -> Option<&'a str> {
        let rest = self.strings.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        core::str::from_utf8(rest.get(..end)?).ok()
    }

    /// The strings of the map that `text` begins with, shortest first: their lengths and what they become.
    fn matches(self, text: &str) -> impl Iterator<Item = (usize, &'a str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut node = offset(word_at(self.trie, 0));
        let mut bytes = text.bytes().enumerate();
        core::iter::from_fn(move || {
            for (at, byte) in bytes.by_ref() {
                node ^= u32::from(byte);
                let unit = word_at(self.trie, node as usize);
                if unit & 0x8000_00FF != u32::from(byte) || byte == 0 {
                    // No further match.
                    bytes = "".bytes().enumerate();
                    return None;
                }
                node ^= offset(unit);
                if unit >> 8 & 1 != 0 {
                    let string = self.string(word_at(self.trie, node as usize) & 0x7FFF_FFFF)?;
                    return text.is_char_boundary(at + 1).then_some((at + 1, string));
                }
            }
            None
        })
    }

    /// What a text becomes if it begins with a string of the map: that of the shortest such string, for all of the text.
    pub(super) fn shortest(self, text: &str) -> Option<&'a str> {
        self.matches(text).next().map(|(_, string)| string)
    }

    /// Replaces the longest match everywhere, but leaves added tokens alone.
    pub(super) fn apply(self, section: &Section<'_>, text: &str, out: &mut Out<'_>) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let [_, normalized] = &section.added;
            let (len, string) = match section.longest_added(normalized, rest, false) {
                Some((_, len)) => (len, rest.get(..len)),
                None => self.matches(rest).last().map_or((c.len_utf8(), None), |(len, string)| (len, Some(string))),
            };
            let (before, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
            out.push(string.unwrap_or(before));
            rest = after;
        }
    }
}
