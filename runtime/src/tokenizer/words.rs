//! Pre-tokenization: where words end.
//!
//! Each function is one of the well-known patterns, matched by hand at the start of what is left of a text. They take
//! characters, not a string, because a text can begin with a space that is not in it, and they return the number of
//! characters of the first word: 0 only at the end. Time is linear in the word and the white space after it.

use super::kinds::{Digits, Split};
use super::unicode::{is_digit, is_letter, is_number, is_space};

/// Characters of the first word. `space_begins_word` allows cutting unsplit text before spaces.
pub(super) fn word_len(split: Split, space_begins_word: bool, chars: impl Iterator<Item = char> + Clone) -> usize {
    match split {
        Split::None if space_begins_word => run(&chars, run(&chars, 0, is_blank), is_no_blank),
        Split::None => chars.count(),
        Split::Spaces if chars.clone().next().is_none() => 0,
        Split::Spaces => run(&chars, 1, is_no_blank),
        Split::Words => match run(&chars, 0, is_blank) {
            0 => run(&chars, 0, is_no_blank),
            blanks => blanks,
        },
        Split::Gpt2 => gpt2(chars),
        Split::Llama3 => llama3(chars, 3),
        Split::Qwen2 => llama3(chars, 1),
    }
}

/// Characters up to where a run of digits (or a single one) must be cut off.
pub(super) fn digits_len(digits: Digits, chars: impl Iterator<Item = char> + Clone) -> usize {
    match (digits, chars.clone().next().map(is_digit)) {
        (_, None) => 0,
        (Digits::Joined, _) => usize::MAX,
        (Digits::Single, Some(true)) => 1,
        (Digits::Apart, Some(true)) => run(&chars, 0, is_digit),
        (_, Some(false)) => run(&chars, 0, is_no_digit),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(chars: impl Iterator<Item = char> + Clone) -> usize {
    let mut ahead = chars.clone();
    let Some(first) = ahead.next() else { return 0 };
    let second = ahead.next();
    if let Some(len) = contraction(first, second, ahead.next(), |c| c) {
        return len;
    }
    // A space belongs to what follows it, unless that is white space.
    let (skip, start) = match second {
        Some(second) if first == ' ' && !is_space(second) => (1, second),
        _ => (0, first),
    };
    let class = if is_letter(start) {
        is_letter
    } else if is_number(start) {
        is_number
    } else if !is_space(start) {
        is_other
    } else {
        return white_space(chars);
    };
    run(&chars, skip, class)
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
/// with `max_digits` for 3.
fn llama3(chars: impl Iterator<Item = char> + Clone, max_digits: usize) -> usize {
    let mut ahead = chars.clone();
    let Some(first) = ahead.next() else { return 0 };
    let second = ahead.next();
    if let Some(len) = contraction(first, second, ahead.next(), fold_case) {
        return len;
    }
    if is_letter(first) {
        return run(&chars, 0, is_letter);
    }
    if is_number(first) {
        return chars.take(max_digits).take_while(|&c| is_number(c)).count();
    }
    if !is_newline(first) && second.is_some_and(is_letter) {
        return run(&chars, 1, is_letter);
    }
    let skip = usize::from(first == ' ' && second.is_some_and(is_other));
    if skip == 1 || is_other(first) {
        return run(&chars, run(&chars, skip, is_other), is_newline);
    }
    // White space up to its last line end, if it has one.
    match chars.clone().take_while(|&c| is_space(c)).enumerate().filter(|&(_, c)| is_newline(c)).last() {
        Some((last, _)) => last + 1,
        None => white_space(chars),
    }
}

/// `\s+(?!\S)|\s+`: the last of several white-space characters is left to the word after it.
fn white_space(mut chars: impl Iterator<Item = char> + Clone) -> usize {
    let len = run(&chars, 0, is_space);
    if len > 1 && chars.nth(len).is_some() { len - 1 } else { len }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
fn contraction(first: char, second: Option<char>, third: Option<char>, fold: fn(char) -> char) -> Option<usize> {
    if first != '\'' {
        return None;
    }
    match (second.map(fold)?, third.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(2),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// The case folding that matters to [`contraction`]: the long s is an s.
fn fold_case(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

fn is_other(c: char) -> bool {
    !is_space(c) && !is_letter(c) && !is_number(c)
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

fn is_blank(c: char) -> bool {
    c == ' '
}

fn is_no_blank(c: char) -> bool {
    c != ' '
}

fn is_no_digit(c: char) -> bool {
    !is_digit(c)
}

/// Characters up to the end of the run of a class that begins behind the first `from`. The class is no parameter of a type,
/// so that there is only one of this function.
fn run(chars: &(impl Iterator<Item = char> + Clone), from: usize, class: fn(char) -> bool) -> usize {
    from + chars.clone().skip(from).take_while(|&c| class(c)).count()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    fn words(split: Split, text: &str) -> Vec<&str> {
        let (mut rest, mut words) = (text, Vec::new());
        while let len @ 1.. = word_len(split, true, rest.chars()) {
            let end = rest.char_indices().nth(len).map_or(rest.len(), |(at, _)| at);
            let (word, after) = rest.split_at(end);
            words.push(word);
            rest = after;
        }
        assert_eq!(words.concat(), text);
        words
    }

    /// What the patterns give in Hugging Face's library.
    #[test]
    fn the_patterns() {
        let text = "It'S  we've\t\n 1234!? \r\n\nx ";
        let gpt2 = ["It", "'", "S", " ", " we", "'ve", "\t\n", " 1234", "!?", " \r\n", "\n", "x", " "];
        assert_eq!(words(Split::Gpt2, text), gpt2);
        let llama3 = ["It", "'S", " ", " we", "'ve", "\t\n", " ", "123", "4", "!?", " \r\n\n", "x", " "];
        assert_eq!(words(Split::Llama3, text), llama3);
        let qwen2 = ["It", "'S", " ", " we", "'ve", "\t\n", " ", "1", "2", "3", "4", "!?", " \r\n\n", "x", " "];
        assert_eq!(words(Split::Qwen2, text), qwen2);
        assert_eq!(words(Split::Spaces, " a  b"), [" a", " ", " b"]);
        assert_eq!(words(Split::Words, " a  b"), [" ", "a", "  ", "b"]);
        assert_eq!(words(Split::None, " a  b"), [" a", "  b"]);
    }

    #[test]
    fn digits() {
        assert_eq!(digits_len(Digits::Joined, "12a".chars()), usize::MAX);
        assert_eq!(digits_len(Digits::Apart, "12a".chars()), 2);
        assert_eq!(digits_len(Digits::Single, "12a".chars()), 1);
        assert_eq!(digits_len(Digits::Single, "a1".chars()), 1);
        assert_eq!(digits_len(Digits::Single, "".chars()), 0);
    }
}
