//! Text to ids: added tokens are found first, what lies between them is cut into words, and each word is merged.

use core::fmt;

use super::added::{Part, Parts, Piece};
use super::bpe::{Workspace, workspace_len};
use super::kinds::{Kind, Missing, PairPart, Prefix, Split};
use super::section::Section;
use super::words::{digits_len, word_len};
use super::{unigram, wordpiece};

/// What [`super::Tokenizer::encode`] does besides splitting and merging. The default is what Hugging Face's `encode`
/// does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct EncodeOptions {
    /// Put the template's ids around the text, such as the begin-of-sequence token.
    pub add_special_tokens: bool,
    /// Special tokens that are spelled out in the text become those tokens. Turn this off for text that is not trusted.
    pub parse_special_tokens: bool,
    /// The text continues another: it gets no leading space of the tokenizer's own.
    pub continues: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions { add_special_tokens: true, parse_special_tokens: true, continues: false }
    }
}

/// Why a text could not be encoded. What was written to the output before is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EncodeError {
    /// The text has more tokens than the output has room for.
    OutputFull {
        /// The room.
        capacity: usize,
    },
    /// A word, or the text while it is normalized, does not fit the workspace.
    WorkspaceTooSmall {
        /// `u32`s of workspace that this takes, at least.
        needed: usize,
    },
    /// The tokenizer's files do not say how a pair of texts is put together.
    NoPairs,
    /// A character-level tokenizer does not know the character.
    UnknownCharacter {
        /// The character.
        character: char,
    },
}

impl EncodeError {
    /// The error of a part of the encoding, when `taken` words of workspace are in use beside it.
    fn beside(self, taken: usize) -> Self {
        match self {
            EncodeError::WorkspaceTooSmall { needed } => {
                EncodeError::WorkspaceTooSmall { needed: needed.saturating_add(taken) }
            }
            other => other,
        }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            EncodeError::OutputFull { capacity } => write!(f, "the text has more than {capacity} tokens"),
            EncodeError::WorkspaceTooSmall { needed } => {
                write!(f, "the text needs {needed} words of workspace at least")
            }
            EncodeError::NoPairs => f.write_str("the tokenizer does not know how a pair of texts is encoded"),
            EncodeError::UnknownCharacter { character } => {
                write!(f, "the tokenizer does not know the character {character:?}")
            }
        }
    }
}

impl core::error::Error for EncodeError {}

/// The caller's output, filled from the front.
pub(super) struct Output<'o> {
    ids: &'o mut [u32],
    pub(super) len: usize,
}

impl<'o> Output<'o> {
    pub(super) fn new(ids: &'o mut [u32]) -> Self {
        Output { ids, len: 0 }
    }

    pub(super) fn push(&mut self, id: u32) -> Result<(), EncodeError> {
        let capacity = self.ids.len();
        *self.ids.get_mut(self.len).ok_or(EncodeError::OutputFull { capacity })? = id;
        self.len += 1;
        Ok(())
    }

    pub(super) fn extend(&mut self, mut ids: impl Iterator<Item = u32>) -> Result<(), EncodeError> {
        ids.try_for_each(|id| self.push(id))
    }
}

/// Texts on their way to ids.
pub(super) struct Encoder<'e, 'a, 'o> {
    section: &'e Section<'a>,
    options: EncodeOptions,
    symbols: Symbols<'e, 'a, 'o>,
    /// Nothing of the text has been encoded yet.
    first: bool,
    /// Words of workspace there were at first.
    capacity: usize,
}

impl<'e, 'a, 'o> Encoder<'e, 'a, 'o> {
    pub(super) fn new(section: &'e Section<'a>, options: EncodeOptions, output: &'e mut Output<'o>) -> Self {
        let symbols = Symbols { section, output, in_unknown: false, path_score: 0.0 };
        Encoder { section, options, symbols, first: true, capacity: 0 }
    }

    /// Encodes a whole text, without the template.
    pub(super) fn text(mut self, text: &str, memory: &mut [u32]) -> Result<(), EncodeError> {
        self.capacity = memory.len();
        let section = self.section;
        let prefix = section.header.prefix;
        let text = if section.normalizer().is_empty() { self.trimmed(text) } else { text };
        if text.is_empty() {
            return Ok(());
        }
        let [raw, normalized] = &section.added;
        let parse_special = self.options.parse_special_tokens;
        let whole = Piece { space: prefix == Prefix::Text && !self.options.continues, text };
        for part in Parts::new(section, raw, whole, parse_special) {
            let mut piece = match part {
                Part::Piece(piece) => piece,
                Part::Token(id) => {
                    self.token(id)?;
                    continue;
                }
            };
            let (text, memory) = section.normalizer().run(section, piece.text, memory)?;
            if !section.normalizer().is_empty() {
                piece.text = self.trimmed(text);
                if piece.text.is_empty() && (section.header.collapse || !piece.space) {
                    continue;
                }
            }
            piece.space |= prefix == Prefix::Always && !self.continues();
            for part in Parts::new(section, normalized, piece, parse_special) {
                match part {
                    Part::Piece(piece) => self.piece(piece, memory)?,
                    Part::Token(id) => self.token(id)?,
                }
            }
        }
        Ok(())
    }

    /// A text without the outer spaces that SentencePiece takes away, if it is told to.
    fn trimmed<'t>(&self, text: &'t str) -> &'t str {
        if self.section.header.collapse { trim_spaces(text) } else { text }
    }

    /// What comes next continues the text before this one.
    fn continues(&self) -> bool {
        self.first && self.options.continues
    }

    fn token(&mut self, id: u32) -> Result<(), EncodeError> {
        self.first = false;
        self.symbols.output.push(id)
    }

    /// Cuts what lies between added tokens into words.
    fn piece<'t>(&mut self, mut piece: Piece<'t>, memory: &'t mut [u32]) -> Result<(), EncodeError> {
        let header = &self.section.header;
        let taken = self.capacity.saturating_sub(memory.len());
        let run = self.section.pre_tokenizer().run(self.section, piece.text, memory);
        let (text, memory) = run.map_err(|error| error.beside(taken))?;
        piece.text = text;
        let wants_space = match header.prefix {
            Prefix::Never | Prefix::Always | Prefix::Text => false,
            Prefix::Missing => !self.continues(),
            Prefix::FirstMissing => self.first && !self.options.continues,
        };
        let fold = header.folds();
        piece.space |= wants_space && !piece.text.starts_with(|c| fold_space(fold, c) == ' ');
        self.first = false;
        self.symbols.in_unknown = false;
        self.symbols.path_score = 0.0;
        let collapse = header.collapse;
        let mut chars = Chars { space: piece.space, text: piece.text.chars(), fold, collapse, after_space: false };
        if header.kind == Kind::Characters {
            return chars.try_for_each(|c| self.symbols.push(c.encode_utf8(&mut [0; 4]).as_bytes()));
        }
        let taken = self.capacity.saturating_sub(memory.len());
        let mut workspace = Workspace::new(memory);
        let mut limit = 0;
        loop {
            if limit == 0 {
                limit = digits_len(header.digits, chars.clone());
            }
            let len = word_len(header.split, self.section.space_begins_word, chars.clone().take(limit));
            if len == 0 {
                return Ok(());
            }
            limit = limit.saturating_sub(len);
            self.word(chars.by_ref().take(len), &mut workspace).map_err(|error| error.beside(taken))?;
        }
    }

    /// Encodes one word.
    fn word(&mut self, chars: impl Iterator<Item = char>, workspace: &mut Workspace<'_>) -> Result<(), EncodeError> {
        let header = &self.section.header;
        let is_wordpiece = header.kind == Kind::WordPiece && cfg!(feature = "wordpiece");
        let (mut len, mut count): (usize, u32) = (0, 0);
        let mut between = false;
        for c in chars {
            count = count.saturating_add(1);
            between = header.split == Split::Words && c == ' ';
            if between || is_wordpiece && count > header.max_word_chars {
                continue; // not looked at, but no part of the next word
            }
            let mut utf8 = [0; 4];
            let bytes = c.encode_utf8(&mut utf8).as_bytes();
            let end = len.saturating_add(bytes.len());
            if let Some(room) = workspace.word.get_mut(len..end) {
                room.copy_from_slice(bytes);
            }
            len = end;
        }
        if between {
            return Ok(());
        }
        if is_wordpiece && count > header.max_word_chars {
            return self.symbols.unknown();
        }
        let needed = workspace_len(len);
        let word = workspace.word.get(..len).ok_or(EncodeError::WorkspaceTooSmall { needed })?;
        if header.split != Split::None {
            self.symbols.in_unknown = false;
            self.symbols.path_score = 0.0;
        }
        match header.kind {
            Kind::WordPiece if is_wordpiece => return wordpiece::encode(word, &mut self.symbols),
            Kind::Unigram if cfg!(feature = "unigram") => {
                return unigram::encode(workspace, len, &mut self.symbols);
            }
            _ => {}
        }
        if let Some(id) = self.section.find_word(word) {
            self.symbols.in_unknown = false;
            return self.symbols.output.push(id);
        }
        let symbol_len: fn(u8) -> usize = match header.kind {
            Kind::ByteBpe => |_| 1,
            _ => utf8_len,
        };
        if header.missing == Missing::Drop {
            // Before merging: what an unknown symbol divided can merge.
            len = workspace.retain(len, symbol_len, |symbol| self.section.find(symbol).is_some());
        }
        workspace.merge(self.section, len, symbol_len, |symbol| self.symbols.push(symbol))
    }
}

/// Encodes a pair of texts, and writes the segment of each id.
pub(super) fn pair(
    section: &Section<'_>,
    texts: [&str; 2],
    options: EncodeOptions,
    memory: &mut [u32],
    output: &mut Output<'_>,
    segments: &mut [u8],
) -> Result<(), EncodeError> {
    if section.header.pair == 0 {
        return Err(EncodeError::NoPairs);
    }
    let [first, second] = texts;
    for (part, segment) in section.pair() {
        let start = output.len;
        match part {
            PairPart::Token(id) if options.add_special_tokens => output.push(id)?,
            PairPart::Token(_) => {}
            PairPart::First => Encoder::new(section, options, output).text(first, memory)?,
            PairPart::Second => {
                let options = EncodeOptions { continues: false, ..options };
                Encoder::new(section, options, output).text(second, memory)?;
            }
        }
        if let Some(part) = segments.get_mut(start..output.len) {
            part.fill(segment);
        }
    }
    Ok(())
}

/// Where symbols become ids.
pub(super) struct Symbols<'e, 'a, 'o> {
    pub(super) section: &'e Section<'a>,
    pub(super) output: &'e mut Output<'o>,
    /// The last symbol was unknown, so that another one may be the same token.
    in_unknown: bool,
    /// Score of a unigram model's path so far: it goes on where one text is cut into words.
    pub(super) path_score: f64,
}

impl Symbols<'_, '_, '_> {
    /// A token of the vocabulary.
    pub(super) fn known(&mut self, id: u32) -> Result<(), EncodeError> {
        self.in_unknown = false;
        self.output.push(id)
    }

    /// A word that is unknown as a whole.
    pub(super) fn unknown(&mut self) -> Result<(), EncodeError> {
        self.section.header.unknown.map_or(Ok(()), |id| self.output.push(id))
    }

    /// A symbol, unless there is none.
    pub(super) fn push_some(&mut self, symbol: &[u8]) -> Result<(), EncodeError> {
        if symbol.is_empty() { Ok(()) } else { self.push(symbol) }
    }

    pub(super) fn push(&mut self, symbol: &[u8]) -> Result<(), EncodeError> {
        let header = &self.section.header;
        let was_in_unknown = core::mem::replace(&mut self.in_unknown, false);
        if let Some((id, _)) = self.section.find(symbol) {
            return self.output.push(id);
        }
        match (header.missing, header.unknown, header.first_byte) {
            (Missing::Bytes, _, Some(first)) => symbol.iter().try_for_each(|&b| self.output.push(first + u32::from(b))),
            (Missing::Unknown, Some(id), _) => self.output.push(id),
            (Missing::FusedUnknown, Some(id), _) => {
                self.in_unknown = true;
                if was_in_unknown { Ok(()) } else { self.output.push(id) }
            }
            (Missing::Error, ..) => {
                let character = symbol.utf8_chunks().find_map(|chunk| chunk.valid().chars().next());
                Err(EncodeError::UnknownCharacter { character: character.unwrap_or(char::REPLACEMENT_CHARACTER) })
            }
            _ => Ok(()),
        }
    }
}

/// The characters that words are made of.
#[derive(Clone)]
struct Chars<'t> {
    /// A space that is not in the text comes first.
    space: bool,
    text: core::str::Chars<'t>,
    /// U+2581, which stands for a space in the vocabularies of SentencePiece, is one.
    fold: bool,
    /// Spaces after a space are left out.
    collapse: bool,
    after_space: bool,
}

impl Iterator for Chars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if core::mem::take(&mut self.space) {
            return Some(' ');
        }
        loop {
            let c = self.text.next()?;
            let repeated = self.after_space && c == ' ';
            self.after_space = self.collapse && c == ' ';
            if !repeated {
                return Some(fold_space(self.fold, c));
            }
        }
    }
}

pub(super) fn fold_space(fold: bool, c: char) -> char {
    if fold && c == '\u{2581}' { ' ' } else { c }
}

/// What SentencePiece's `remove_extra_whitespaces` takes from the ends of a text.
fn trim_spaces(text: &str) -> &str {
    text.trim_start_matches(' ').trim_end_matches([' ', '\u{2581}'])
}

/// Length of the UTF-8 sequence that begins with a byte.
fn utf8_len(first: u8) -> usize {
    match first {
        0..=0xBF => 1,
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xFF => 4,
    }
}
