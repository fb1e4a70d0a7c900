//! Normalization: what is done to a text before it is tokenized.
//!
//! A program is a list of steps ([`StepKind`]), each of which rewrites a whole text: maps characters, orders and composes
//! marks, applies a table of SentencePiece, replaces strings. Whatever Unicode tables this takes lie in the blob, written
//! by the converter for the model that needs them. Steps do what the components of Hugging Face's `tokenizers` and of
//! `sentencepiece` do, to the byte, where those are odd too.
//!
//! The first step reads the caller's text, each further one what the step before it wrote, so a text takes as much memory
//! as its longest two neighbouring forms.

mod canonical;
mod charsmap;
mod clusters;
mod map;

use super::encode::EncodeError;
use super::header::Table;
use super::kinds::StepKind;
use super::section::{Section, TokenizerError};
use super::unicode::is_space;
use canonical::Canonical;
use charsmap::Charsmap;
use clusters::Clusters;
use map::Map;

/// A checked table of steps.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::tokenizer) struct Program<'a>(&'a [u8]);

/// One step.
enum Step<'a> {
    Map(Map<'a>),
    Canonical(Canonical<'a>),
    Charsmap(Charsmap<'a>),
    Clusters(Clusters<'a>),
    Replace(Replace<'a>),
    Strip { start: bool, end: bool },
    Words,
    Prepend(&'a str),
}

impl<'a> Program<'a> {
    /// The steps of a table for which [`Program::check`] found nothing.
    pub(in crate::tokenizer) fn checked(bytes: &'a [u8]) -> Self {
        Program(bytes)
    }

    /// Checks every step of a table.
    pub(in crate::tokenizer) fn check(bytes: &'a [u8], table: Table) -> Result<(), TokenizerError> {
        if !(bytes.is_empty() || cfg!(feature = "normalizers")) {
            return Err(TokenizerError::Unsupported { feature: "normalizers" });
        }
        let mut rest = bytes;
        let mut index = 0;
        while !rest.is_empty() {
            let step = Step::read(&mut rest).filter(Step::is_sound);
            step.ok_or(TokenizerError::Range { table, index })?;
            index += 1;
        }
        Ok(())
    }

    pub(in crate::tokenizer) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn steps(self) -> impl Iterator<Item = Step<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || Step::read(&mut rest))
    }

    /// Rewrites a text into the front of `memory`; returns it and the memory after it.
    pub(in crate::tokenizer) fn run<'m>(
        self,
        section: &Section<'_>,
        text: &'m str,
        memory: &'m mut [u32],
    ) -> Result<(&'m str, &'m mut [u32]), EncodeError> {
        if self.is_empty() || !cfg!(feature = "normalizers") {
            return Ok((text, memory));
        }
        let bytes = bytemuck::cast_slice_mut::<u32, u8>(memory);
        let mut len = None;
        for step in self.steps() {
            let (front, back) = bytes.split_at_mut_checked(len.unwrap_or(0)).unwrap_or_default();
            let input = if len.is_some() { as_text(front) } else { text };
            let mut out = Out { bytes: back, len: 0 };
            step.apply(section, input, &mut out);
            let (before, after) = (front.len(), out.len);
            let needed = before.saturating_add(after).div_ceil(4);
            if after > out.bytes.len() {
                return Err(EncodeError::WorkspaceTooSmall { needed });
            }
            bytes.copy_within(before..before + after, 0);
            len = Some(after);
        }
        let len = len.unwrap_or(0);
        let (front, rest) = memory.split_at_mut_checked(len.div_ceil(4)).unwrap_or_default();
        Ok((as_text(bytemuck::cast_slice(front).get(..len).unwrap_or_default()), rest))
    }
}

/// What a step wrote, which is text.
fn as_text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default()
}

impl<'a> Step<'a> {
    /// The step that `rest` begins with, which is taken from it; `None` if there is none or it is out of shape.
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let (kind, after) = take_word(rest)?;
        let (len, after) = take_word(after)?;
        let (data, after) = after.split_at_checked(usize::try_from(len).ok()?)?;
        if len % 4 != 0 {
            return None;
        }
        *rest = after;
        let kind = StepKind::from_u8(u8::try_from(kind).ok()?)?;
        match kind {
            StepKind::Map => Map::read(data).map(Step::Map),
            StepKind::Canonical => Canonical::read(data).map(Step::Canonical),
            StepKind::Charsmap => Charsmap::read(data).map(Step::Charsmap),
            StepKind::Clusters => Clusters::read(data).map(Step::Clusters),
            StepKind::Replace => Replace::read(data).map(Step::Replace),
            StepKind::Strip => match take_word(data)? {
                (ends @ 1..=3, []) => Some(Step::Strip { start: ends & 1 != 0, end: ends & 2 != 0 }),
                _ => None,
            },
            StepKind::Words => data.is_empty().then_some(Step::Words),
            StepKind::Prepend => {
                let (len, text) = take_word(data)?;
                Some(Step::Prepend(padded_text(text, len)?))
            }
        }
    }

    /// Everything in the step is what it should be.
    fn is_sound(&self) -> bool {
        match self {
            Step::Map(map) => map.is_sound(),
            Step::Canonical(canonical) => canonical.is_sound(),
            Step::Charsmap(charsmap) => charsmap.is_sound(),
            Step::Clusters(clusters) => clusters.is_sound(),
            // Reading them has checked them.
            Step::Replace(_) | Step::Strip { .. } | Step::Words | Step::Prepend(_) => true,
        }
    }

    fn apply(&self, section: &Section<'_>, text: &str, out: &mut Out<'_>) {
        match self {
            Step::Map(map) => map.apply(text, out),
            Step::Canonical(canonical) => canonical.apply(text, out),
            Step::Charsmap(charsmap) => charsmap.apply(section, text, out),
            Step::Clusters(clusters) => clusters.apply(text, out),
            Step::Replace(replace) => replace.apply(text, out),
            Step::Strip { start, end } => {
                let text = if *start { text.trim_start_matches(is_space) } else { text };
                out.push(if *end { text.trim_end_matches(is_space) } else { text });
            }
            Step::Words => {
                for word in text.split(is_space).filter(|word| !word.is_empty()) {
                    if !word.starts_with('\u{2581}') {
                        out.push(" ");
                    }
                    out.push(word);
                }
            }
            Step::Prepend(prefix) => {
                if !text.is_empty() {
                    out.push(prefix);
                    out.push(text);
                }
            }
        }
    }
}

/// Replaces a string.
struct Replace<'a> {
    from: &'a str,
    to: &'a str,
    /// Runs of so many and more are replaced as one; 0: each by itself.
    at_least: u32,
}

impl<'a> Replace<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let (from_len, rest) = take_word(data)?;
        let (to_len, rest) = take_word(rest)?;
        let (at_least, rest) = take_word(rest)?;
        let strings = padded_text(rest, from_len.checked_add(to_len)?)?;
        let (from, to) = strings.split_at_checked(usize::try_from(from_len).ok()?)?;
        (!from.is_empty()).then_some(Replace { from, to, at_least })
    }

    fn apply(&self, text: &str, out: &mut Out<'_>) {
        let mut rest = text;
        // Strings are short: searching them in a cleverer way would only take flash.
        while let Some(c) = rest.chars().next() {
            let (mut after, mut count) = (rest, 0u32);
            while let Some(next) = after.strip_prefix(self.from)
                && (count == 0 || self.at_least > 0)
            {
                (after, count) = (next, count.saturating_add(1));
            }
            let len = if count == 0 { c.len_utf8() } else { rest.len() - after.len() };
            let (found, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
            out.push(if count > 0 && count >= self.at_least { self.to } else { found });
            rest = after;
        }
    }
}

/// Where a step writes. It counts on beyond the end of its memory.
struct Out<'b> {
    bytes: &'b mut [u8],
    len: usize,
}

impl Out<'_> {
    fn push(&mut self, text: &str) {
        let end = self.len.saturating_add(text.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(text.as_bytes());
        }
        self.len = end;
    }

    fn push_char(&mut self, c: char) {
        self.push(c.encode_utf8(&mut [0; 4]));
    }
}

/// A word and what follows it.
fn take_word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// `count` words and what follows them.
fn take_words(bytes: &[u8], count: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(count).ok()?.checked_mul(4)?)
}

/// A text of `len` bytes with at most three bytes after it.
fn padded_text(bytes: &[u8], len: u32) -> Option<&str> {
    let (text, padding) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    if padding.len() > 3 { None } else { core::str::from_utf8(text).ok() }
}
