//! The three character classes of the pre-tokenization patterns: `\p{L}`, `\p{N}` and `\s`.
//!
//! They are those of the regular expressions in Hugging Face's `tokenizers` (Unicode 16), fixed here so that a text has
//! the same tokens whatever compiler built the runtime. No other property is known.

mod tables;

/// A set of characters, as the offsets within each of the first four planes at which membership changes.
struct Class([&'static [u16]; 4]);

impl Class {
    fn contains(&self, c: char) -> bool {
        let code = c as u32;
        let changes = self.0.get((code >> 16) as usize).copied().unwrap_or_default();
        changes.partition_point(|&change| change <= code as u16) % 2 == 1
    }
}

/// `\p{L}`.
pub(super) fn is_letter(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { tables::LETTERS.contains(c) }
}

/// `\p{N}`.
pub(super) fn is_number(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { tables::NUMBERS.contains(c) }
}

/// A digit for the pre-tokenizer that sets digits apart: it knows a newer Unicode than the patterns do.
pub(super) fn is_digit(c: char) -> bool {
    is_number(c) || matches!(c, '\u{11DE0}'..='\u{11DE9}' | '\u{16FF4}'..='\u{16FF6}')
}

/// `\s`.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ' | '\u{85}' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{2028}' | '\u{2029}'
        | '\u{202F}' | '\u{205F}' | '\u{3000}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number and sum of the code points of a class.
    fn census(class: fn(char) -> bool) -> (u32, u64) {
        let members = ('\0'..=char::MAX).filter(|&c| class(c));
        members.fold((0, 0), |(count, sum), c| (count + 1, sum + u64::from(u32::from(c))))
    }

    /// The figures are those of the regular expressions in `tokenizers` 0.23.3, matched against every code point.
    #[test]
    fn classes_have_the_members_that_tokenizers_gives_them() {
        assert_eq!(census(is_letter), (141_028, 15_240_929_258));
        assert_eq!(census(is_number), (1_911, 110_651_895));
        assert_eq!(census(is_digit).0, 1_911 + 13);
        assert_eq!(census(is_space), census(char::is_whitespace));
    }
}
