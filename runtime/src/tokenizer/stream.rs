//! Ids to text, as they come.
//!
//! A token can end in the middle of a character. [`TextStream`] holds such bytes back (three at most) until the
//! character is complete or cannot be completed any more, so that what it writes is always whole characters.

use core::fmt::{self, Write};

use super::Tokenizer;
use super::header::{Header, Table};
use super::kinds::{Invalid, Kind, Strip};

/// Decodes one sequence of ids.
///
/// ```
/// # fn show(tokenizer: thumbformer::tokenizer::Tokenizer<'_>, ids: &[u32]) -> Result<String, core::fmt::Error> {
/// let mut text = String::new();
/// let mut stream = tokenizer.stream(true);
/// for &id in ids {
///     stream.push(id, &mut text)?; // or any other `core::fmt::Write`: a display, a serial port
/// }
/// stream.finish(&mut text)?;
/// # Ok(text) }
/// ```
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: Tokenizer<'a>,
    skip_special: bool,
    utf8: Utf8,
    /// Nothing was written yet, so a leading space may still have to go.
    at_start: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: Tokenizer<'a>, skip_special: bool) -> Self {
        TextStream { tokenizer, skip_special, utf8: Utf8::default(), at_start: true }
    }

    /// Writes the text that a further id completes. Ids beyond the vocabulary are nothing.
    ///
    /// # Errors
    /// Only those of `sink`.
    pub fn push(&mut self, id: u32, sink: &mut impl Write) -> fmt::Result {
        if self.tokenizer.is_skipped(id, self.skip_special) {
            return Ok(());
        }
        let Header { kind, strip, collapse, unknown, .. } = self.tokenizer.section.header;
        let mut bytes = self.tokenizer.section.token(id);
        let is_byte = self.tokenizer.section.byte_of(id).is_some();
        if cfg!(feature = "wordpiece") && kind == Kind::WordPiece {
            return self.push_piece(bytes, sink);
        }
        if kind != Kind::ByteBpe && !is_byte {
            self.flush(sink)?;
            if self.at_start
                && strip == Strip::Piece
                && unknown != Some(id)
                && let Some(stripped) = bytes.strip_prefix(b" ")
            {
                bytes = stripped;
                // SentencePiece goes on to the next piece if it was told to take all outer spaces away.
                self.at_start = collapse;
            }
        }
        if self.at_start && strip == Strip::FirstToken {
            self.at_start = false;
            return bytes.split(|&b| b == b' ').try_for_each(|part| self.write(part, sink));
        }
        self.write(bytes, sink)
    }

    /// A WordPiece token: a word, or what continues one.
    fn push_piece(&mut self, bytes: &[u8], sink: &mut impl Write) -> fmt::Result {
        let section = &self.tokenizer.section;
        let continuation = section.bytes(Table::Continuation);
        if core::mem::take(&mut self.at_start) {
            return self.write(bytes, sink);
        }
        if let Some(rest) = bytes.strip_prefix(continuation).filter(|_| !continuation.is_empty()) {
            return self.write(rest, sink);
        }
        if !(section.header.cleanup && CLOSE.iter().any(|start| bytes.starts_with(start.as_bytes()))) {
            self.write(b" ", sink)?;
        }
        self.write(bytes, sink)
    }

    /// The bytes that begin a character and are held back until it is complete: three at most.
    pub fn held(&self) -> &[u8] {
        self.utf8.held.get(..self.utf8.len).unwrap_or_default()
    }

    /// Goes to the place of another stream of the same tokenizer: a clone that copies only what differs.
    pub(crate) fn resume(&mut self, other: &Self) {
        (self.utf8, self.at_start) = (other.utf8.clone(), other.at_start);
    }

    /// Ends the sequence: writes U+FFFD for what is left of an incomplete character.
    ///
    /// # Errors
    /// Only those of `sink`.
    pub fn finish(mut self, sink: &mut impl Write) -> fmt::Result {
        self.flush(sink)
    }

    /// Writes U+FFFD for a byte.
    pub(super) fn replace_byte(&mut self, sink: &mut impl Write) -> fmt::Result {
        self.at_start = false;
        sink.write_char(char::REPLACEMENT_CHARACTER)
    }

    fn write(&mut self, bytes: &[u8], sink: &mut impl Write) -> fmt::Result {
        let header = &self.tokenizer.section.header;
        self.utf8.push(bytes, show(&mut self.at_start, header, sink))
    }

    fn flush(&mut self, sink: &mut impl Write) -> fmt::Result {
        let header = &self.tokenizer.section.header;
        self.utf8.finish(show(&mut self.at_start, header, sink))
    }
}

/// Tokens that begin so follow without a space: what Hugging Face's `cleanup` comes to, token by token.
const CLOSE: [&str; 9] = [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"];

/// Writes parts of a text as the header asks for.
fn show(at_start: &mut bool, header: &Header, sink: &mut impl Write) -> impl FnMut(Part<'_>) -> fmt::Result {
    move |part| {
        let first = core::mem::replace(at_start, false);
        match part {
            Part::Text(text) if first && header.strip == Strip::Text => {
                sink.write_str(text.strip_prefix(' ').unwrap_or(text))
            }
            Part::Text(text) => sink.write_str(text),
            Part::Invalid(len) => {
                let count = if header.invalid == Invalid::Lossy { 1 } else { len };
                (0..count).try_for_each(|_| sink.write_char(char::REPLACEMENT_CHARACTER))
            }
        }
    }
}

/// Decodes a whole sequence; see [`Tokenizer::decode`].
pub(super) fn decode(tokenizer: Tokenizer<'_>, ids: &[u32], skip_special: bool, sink: &mut impl Write) -> fmt::Result {
    let mut stream = TextStream::new(tokenizer, skip_special);
    let mut run = None;
    for (index, &id) in ids.iter().enumerate() {
        let is_byte = tokenizer.section.byte_of(id).is_some();
        if tokenizer.section.header.invalid == Invalid::Run && !tokenizer.is_skipped(id, skip_special) {
            run = is_byte.then(|| {
                run.unwrap_or_else(|| run_is_text(tokenizer, ids.get(index..).unwrap_or_default(), skip_special))
            });
            if run == Some(false) {
                stream.replace_byte(sink)?;
                continue;
            }
        }
        stream.push(id, sink)?;
    }
    stream.finish(sink)
}

/// The byte tokens at the start of `ids` are UTF-8.
fn run_is_text(tokenizer: Tokenizer<'_>, ids: &[u32], skip_special: bool) -> bool {
    let mut utf8 = Utf8::default();
    let only_text = |part: Part<'_>| if matches!(part, Part::Text(_)) { Ok(()) } else { Err(fmt::Error) };
    let mut shown = ids.iter().filter(|&&id| !tokenizer.is_skipped(id, skip_special));
    let mut bytes = shown.by_ref().map_while(|&id| tokenizer.section.byte_of(id));
    bytes.try_for_each(|byte| utf8.push(&[byte], only_text)).and_then(|()| utf8.finish(only_text)).is_ok()
}

/// A part of a text that is decoded piecemeal.
enum Part<'t> {
    /// Whole characters, at least one.
    Text(&'t str),
    /// So many bytes that are no character and never will be.
    Invalid(usize),
}

/// Tells characters from bytes that are none, at whatever places the bytes are cut.
#[derive(Clone, Debug, Default)]
struct Utf8 {
    /// The first `len` bytes begin a character: three at most between calls.
    held: [u8; 4],
    len: usize,
}

impl Utf8 {
    fn push<E>(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        // Complete what is held, byte by byte.
        while self.len > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            bytes = rest;
            self.hold(&[byte]);
            let held = self.held;
            let begun = held.get(..core::mem::take(&mut self.len)).unwrap_or_default();
            self.split(begun, &mut emit)?;
        }
        self.split(bytes, &mut emit)
    }

    fn finish<E>(&mut self, mut emit: impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        match core::mem::take(&mut self.len) {
            0 => Ok(()),
            len => emit(Part::Invalid(len)),
        }
    }

    /// Emits all parts of `bytes` but the beginning of a character at their end, which is held.
    fn split<E>(&mut self, bytes: &[u8], emit: &mut impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            if !chunk.valid().is_empty() {
                emit(Part::Text(chunk.valid()))?;
            }
            let invalid = chunk.invalid();
            let incomplete = core::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if incomplete && chunks.peek().is_none() {
                self.hold(invalid);
            } else if !invalid.is_empty() {
                emit(Part::Invalid(invalid.len()))?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.held.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    /// Bytes that are often the beginnings, middles and ends of characters.
    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![any::<u8>(), 0x80..0xC0u8, 0xC0..=0xFFu8, Just(b'a'), Just(0xE2), Just(0xF0), Just(0x9F)]
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(pieces in prop::collection::vec(prop::collection::vec(byte(), 0..6), 0..12)) {
            let (mut utf8, mut text, mut invalid) = (Utf8::default(), String::new(), 0);
            let mut emit = |part: Part<'_>| {
                match part {
                    Part::Text(part) => text.push_str(part),
                    Part::Invalid(len) => {
                        invalid += len;
                        text.push('\u{FFFD}');
                    }
                }
                Ok::<(), ()>(())
            };
            for piece in &pieces {
                utf8.push(piece, &mut emit).unwrap();
                prop_assert!(utf8.len <= 3);
            }
            utf8.finish(&mut emit).unwrap();
            let bytes: Vec<u8> = pieces.concat();
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
            prop_assert_eq!(invalid, bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum::<usize>());
        }
    }
}
