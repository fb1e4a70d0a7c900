//! The tokenizer section of a blob, checked and searched in place.
//!
//! [`Section::parse`] checks every number of a section once; after it, no lookup can fail or leave the section.

use core::fmt;

use super::MAX_TOKEN_LEN;
use super::encode::fold_space;
use super::header::{HEADER_LEN, Header, MAGIC, TABLES, Table};
use super::kinds::{AddedFlags, Kind, Missing, PairPart};
use super::normalize::Program;
use super::property::{Property, partition};
use crate::arch::MAX_VOCAB;

/// What is wrong with a tokenizer section, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TokenizerError {
    /// The section does not begin with [`MAGIC`]: no tokenizer, or another version's.
    Magic {
        /// What it begins with.
        found: [u8; 4],
    },
    /// A field of the header has a value without a meaning, or one that contradicts the rest.
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u32,
    },
    /// The section is longer or shorter than its header says.
    Length {
        /// Bytes the header asks for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The tokenizer has more tokens than the model.
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: u32,
        /// Tokens of the model.
        model: u32,
    },
    /// A token's end lies before its start or beyond the token bytes.
    Offset {
        /// The token.
        token: u32,
    },
    /// A table holds an id that is no token, or a rank that is none.
    Range {
        /// The table.
        table: Table,
        /// Index of the entry.
        index: u32,
    },
    /// A table is not in strictly ascending order.
    Order {
        /// The table.
        table: Table,
        /// Index of the first entry that is not above the one before it.
        index: u32,
    },
    /// A token that must have bytes has none.
    Empty {
        /// The token.
        token: u32,
    },
    /// A token has more than [`super::MAX_TOKEN_LEN`] bytes.
    TooLong {
        /// The token.
        token: u32,
    },
    /// A token that must be text is not UTF-8.
    Utf8 {
        /// The token.
        token: u32,
    },
    /// A byte token does not consist of its byte.
    ByteToken {
        /// The token.
        token: u32,
    },
    /// A token's score is no finite number.
    Score {
        /// The token.
        token: u32,
    },
    /// The runtime was built without what the tokenizer needs.
    Unsupported {
        /// The feature of the crate that is missing.
        feature: &'static str,
    },
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TokenizerError::Magic { found } => {
                write!(f, "tokenizer section: begins with {found:02x?}, expected {MAGIC:02x?}")
            }
            TokenizerError::Field { field, found } => {
                write!(f, "tokenizer section: field `{field}` has the impossible value {found}")
            }
            TokenizerError::Length { expected, found } => {
                write!(f, "tokenizer section: {found} bytes, expected {expected}")
            }
            TokenizerError::Vocabulary { tokenizer, model } => {
                write!(f, "the tokenizer has {tokenizer} tokens, the model only {model}")
            }
            TokenizerError::Offset { token } => write!(f, "tokenizer section: token {token} has impossible bounds"),
            TokenizerError::Range { table, index } => {
                write!(f, "tokenizer section: entry {index} of table `{}` is out of range", table.name())
            }
            TokenizerError::Order { table, index } => {
                write!(f, "tokenizer section: entry {index} of table `{}` is out of order", table.name())
            }
            TokenizerError::Empty { token } => write!(f, "tokenizer section: token {token} is empty"),
            TokenizerError::TooLong { token } => {
                write!(f, "tokenizer section: token {token} has more than {MAX_TOKEN_LEN} bytes")
            }
            TokenizerError::Utf8 { token } => write!(f, "tokenizer section: token {token} is not UTF-8"),
            TokenizerError::ByteToken { token } => {
                write!(f, "tokenizer section: token {token} is not the byte that it stands for")
            }
            TokenizerError::Score { token } => write!(f, "tokenizer section: the score of token {token} is not finite"),
            TokenizerError::Unsupported { feature } => {
                write!(f, "the tokenizer needs the feature `{feature}`, which the runtime was built without")
            }
        }
    }
}

impl core::error::Error for TokenizerError {}

/// A table of ids or offsets in place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl<'a> Ids<'a> {
    pub(super) fn len(self) -> usize {
        self.bytes.len() / if self.wide { 4 } else { 2 }
    }

    pub(super) fn get(self, index: usize) -> Option<u32> {
        if self.wide {
            let (entries, _) = self.bytes.as_chunks::<4>();
            entries.get(index).map(|&le| u32::from_le_bytes(le))
        } else {
            let (entries, _) = self.bytes.as_chunks::<2>();
            entries.get(index).map(|&le| u16::from_le_bytes(le).into())
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u32> + 'a {
        (0..self.len()).map_while(move |index| self.get(index))
    }

    /// Entries `from..to`, or none if there are fewer.
    fn slice(self, from: usize, to: usize) -> Self {
        let width = if self.wide { 4 } else { 2 };
        Ids { bytes: self.bytes.get(from * width..to * width).unwrap_or_default(), wide: self.wide }
    }

    /// Binary search: `compare` orders an entry against what is sought.
    pub(super) fn search(self, mut compare: impl FnMut(u32) -> core::cmp::Ordering) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match compare(self.get(middle)?) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Some(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// A checked section. Copies share the same bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub(super) header: Header,
    /// In the order of [`Table::ALL`].
    tables: [&'a [u8]; TABLES],
    /// The entries of [`Table::Merges`] that begin with [`Table::Continuation`].
    pub(super) continuing: (usize, usize),
    /// Added tokens matched in the raw text, then the normalized ones.
    pub(super) added: [Added<'a>; 2],
    /// No token has a space after something else, so that words may be cut there.
    pub(super) space_begins_word: bool,
}

/// One class of added tokens, sorted by bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added<'a> {
    pub(super) ids: Ids<'a>,
    pub(super) flags: &'a [u8],
    /// A bit for each byte that such a token begins with.
    pub(super) first_bytes: [u32; 8],
}

impl<'a> Section<'a> {
    /// Checks a section for a model of `model_vocab` tokens.
    // Inlined, it would be moved field by field.
    #[inline(never)]
    pub(super) fn parse(section: &'a [u8], model_vocab: u32) -> Result<Self, TokenizerError> {
        let found = section.len() as u64;
        let short = TokenizerError::Length { expected: HEADER_LEN as u64, found };
        let (head, mut rest) = section.split_first_chunk::<HEADER_LEN>().ok_or(short)?;
        let header = Header::read(head)?;
        if header.vocab == 0 || header.vocab > MAX_VOCAB {
            return Err(TokenizerError::Field { field: "vocab", found: header.vocab });
        }
        if header.vocab > model_vocab {
            return Err(TokenizerError::Vocabulary { tokenizer: header.vocab, model: model_vocab });
        }
        let mut expected = HEADER_LEN as u64;
        for table in Table::ALL {
            let (count, width) = header.table(table);
            expected += count * u64::from(width);
        }
        if expected != found {
            return Err(TokenizerError::Length { expected, found });
        }
        let tables = Table::ALL.map(|table| {
            let (count, width) = header.table(table);
            // The sum of all lengths is the section's, so each fits and the split cannot fail.
            let (bytes, tail) = rest.split_at_checked(count as usize * usize::from(width)).unwrap_or_default();
            rest = tail;
            bytes
        });
        let class = |ids, flags| Added { ids, flags, first_bytes: [0; 8] };
        let no_tokens = class(Ids::default(), &[]);
        let mut section =
            Section { header, tables, continuing: (0, 0), added: [no_tokens; 2], space_begins_word: false };
        let (added, raw) = (section.ids(Table::Added), header.added_raw as usize);
        let (raw_flags, flags) = section.bytes(Table::AddedFlags).split_at_checked(raw).unwrap_or_default();
        section.added = [class(added.slice(0, raw), raw_flags), class(added.slice(raw, added.len()), flags)];
        for table in [Table::Normalizer, Table::PreTokenizer] {
            Program::check(section.bytes(table), table)?;
        }
        section.check_tokens()?;
        section.check_tables()?;
        section.check_added()?;
        section.check_model()?;
        // Where symbols are dropped, what they divide comes side by side, across any cut.
        let symbols_stay = header.missing != Missing::Drop;
        let space_inside = |id| section.token(id).windows(2).any(|pair| matches!(pair, [a, b' '] if *a != b' '));
        let is_in = |table| section.ids(table).iter().any(space_inside);
        section.space_begins_word = symbols_stay && !(is_in(Table::Merges) || is_in(Table::Words));
        Ok(section)
    }

    /// A table of ids or offsets.
    pub(super) fn ids(&self, table: Table) -> Ids<'a> {
        Ids { bytes: self.bytes(table), wide: self.header.width(table) == 4 }
    }

    /// A table of something else.
    pub(super) fn bytes(&self, table: Table) -> &'a [u8] {
        // Tables are numbered from 0: there is one for each.
        self.tables[table as usize]
    }

    /// What text goes through before added tokens of the second class are looked for.
    pub(super) fn normalizer(&self) -> Program<'a> {
        Program::checked(self.bytes(Table::Normalizer))
    }

    /// What the pieces between added tokens go through.
    pub(super) fn pre_tokenizer(&self) -> Program<'a> {
        Program::checked(self.bytes(Table::PreTokenizer))
    }

    /// The characters of words.
    pub(super) fn word_chars(&self) -> Property<'a> {
        Property::new(self.bytes(Table::WordChars))
    }

    /// What WordPiece and unigram models have of their own, and what makes a pair.
    fn check_model(&mut self) -> Result<(), TokenizerError> {
        let header = &self.header;
        let contradicts = |field, found| Err(TokenizerError::Field { field, found });
        let feature = match header.kind {
            Kind::WordPiece if !cfg!(feature = "wordpiece") => Some("wordpiece"),
            Kind::Unigram if !cfg!(feature = "unigram") => Some("unigram"),
            _ => None,
        };
        if let Some(feature) = feature {
            return Err(TokenizerError::Unsupported { feature });
        }
        if matches!(header.kind, Kind::WordPiece | Kind::Unigram) && header.unknown.is_none() {
            return contradicts("unknown", u32::MAX);
        }
        if header.named_bytes && header.first_byte.is_none() {
            return contradicts("first_byte", u32::MAX);
        }
        if header.kind == Kind::Unigram {
            if let Some(token) = (0..header.vocab).find(|&id| !self.score(id).is_finite()) {
                return Err(TokenizerError::Score { token });
            }
            if !header.unknown_score.is_finite() {
                return contradicts("unknown_score", (header.unknown_score.to_bits() >> 32) as u32);
            }
            // Text is cut into whole characters: bytes are found by their names, or stand for what is unknown.
            if let Some(index) = self.ids(Table::Merges).iter().position(|id| self.byte_of(id).is_some()) {
                return Err(TokenizerError::Range { table: Table::Merges, index: index as u32 });
            }
        }
        if let Some(index) = self.word_chars().unsound() {
            return Err(TokenizerError::Range { table: Table::WordChars, index: index as u32 });
        }
        let mut texts = [0; 2];
        for (index, entry) in self.ids(Table::Pair).iter().enumerate() {
            match PairPart::read(entry) {
                Some((PairPart::Token(id), _)) if id < header.vocab => {}
                Some((PairPart::First, _)) => texts[0] += 1,
                Some((PairPart::Second, _)) => texts[1] += 1,
                _ => return Err(TokenizerError::Range { table: Table::Pair, index: index as u32 }),
            }
        }
        if header.pair > 0 && texts != [1, 1] {
            return contradicts("pair", header.pair);
        }
        if header.kind == Kind::WordPiece {
            let merges = self.ids(Table::Merges);
            let narrow = |range, (depth, &byte): (usize, &u8)| self.narrow(merges, range, depth, byte);
            self.continuing = self.bytes(Table::Continuation).iter().enumerate().fold(self.all(), narrow);
        }
        Ok(())
    }

    /// Bounds and text of every token, and the header's ids.
    fn check_tokens(&self) -> Result<(), TokenizerError> {
        let header = &self.header;
        for (field, id) in [
            ("unknown", header.unknown),
            ("first_byte", header.first_byte.map(|id| id.saturating_add(255))),
            ("bos", header.bos),
            ("eos", header.eos),
        ] {
            if let Some(found) = id.filter(|&id| id >= header.vocab) {
                return Err(TokenizerError::Field { field, found });
            }
        }
        let needs = match header.missing {
            Missing::Unknown | Missing::FusedUnknown => header.unknown,
            Missing::Bytes => header.first_byte,
            Missing::Drop | Missing::Error => Some(0),
        };
        if needs.is_none() {
            return Err(TokenizerError::Field { field: "missing", found: header.missing as u32 });
        }
        let mut end = 0;
        for (token, offset) in self.ids(Table::Offsets).iter().enumerate() {
            // Entry i is where token i begins and token i - 1 ends.
            if offset < end || offset > header.bytes || (token == 0 && offset != 0) {
                return Err(TokenizerError::Offset { token: (token as u32).saturating_sub(1) });
            }
            end = offset;
        }
        if end != header.bytes {
            return Err(TokenizerError::Offset { token: header.vocab - 1 });
        }
        for token in 0..header.vocab {
            let bytes = self.token(token);
            if bytes.len() > MAX_TOKEN_LEN {
                return Err(TokenizerError::TooLong { token });
            }
            match self.byte_of(token) {
                Some(byte) if bytes != [byte] => return Err(TokenizerError::ByteToken { token }),
                None if header.kind != Kind::ByteBpe && core::str::from_utf8(bytes).is_err() => {
                    return Err(TokenizerError::Utf8 { token });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ids in range, sorted tables sorted.
    fn check_tables(&self) -> Result<(), TokenizerError> {
        for table in [
            Table::Merges,
            Table::Words,
            Table::Special,
            Table::TemplateStart,
            Table::TemplateEnd,
            Table::PromptStart,
            Table::PromptEnd,
            Table::Ranks,
        ] {
            let limit = if table == Table::Ranks { self.header.merges } else { self.header.vocab };
            if let Some(index) = self.ids(table).iter().position(|id| id >= limit) {
                return Err(TokenizerError::Range { table, index: index as u32 });
            }
        }
        self.check_sorted(Table::Merges, self.ids(Table::Merges))?;
        self.check_sorted(Table::Words, self.ids(Table::Words))?;
        let mut last = None;
        for (index, id) in self.ids(Table::Special).iter().enumerate() {
            if last.is_some_and(|last| id <= last) {
                return Err(TokenizerError::Order { table: Table::Special, index: index as u32 });
            }
            last = Some(id);
        }
        Ok(())
    }

    /// Tokens of a table are not empty and strictly ascend by their bytes.
    fn check_sorted(&self, table: Table, ids: Ids<'a>) -> Result<(), TokenizerError> {
        let mut last: &[u8] = &[];
        for (index, id) in ids.iter().enumerate() {
            let bytes = self.token(id);
            if bytes.is_empty() {
                return Err(TokenizerError::Empty { token: id });
            }
            if bytes <= last {
                return Err(TokenizerError::Order { table, index: index as u32 });
            }
            last = bytes;
        }
        Ok(())
    }

    /// Added tokens: text, sorted, known flags that agree with their class. Notes their first bytes.
    fn check_added(&mut self) -> Result<(), TokenizerError> {
        let mut before = 0;
        for class in 0..2 {
            let Some(&Added { ids, flags, .. }) = self.added.get(class) else { continue };
            let mut first_bytes = [0; 8];
            for (index, (id, &flags)) in ids.iter().zip(flags).enumerate() {
                let range = |table| TokenizerError::Range { table, index: before + index as u32 };
                if id >= self.header.vocab {
                    return Err(range(Table::Added));
                }
                let bytes = self.token(id);
                if core::str::from_utf8(bytes).is_err() {
                    return Err(TokenizerError::Utf8 { token: id });
                }
                if flags & !AddedFlags::ALL != 0 || AddedFlags(flags).has(AddedFlags::NORMALIZED) != (class == 1) {
                    return Err(range(Table::AddedFlags));
                }
                if let Some(&first) = bytes.first()
                    && let Some(word) = first_bytes.get_mut(usize::from(first / 32))
                {
                    *word |= 1 << (first % 32);
                }
            }
            self.check_sorted(Table::Added, ids)?;
            before += ids.len() as u32;
            if let Some(added) = self.added.get_mut(class) {
                added.first_bytes = first_bytes;
            }
        }
        Ok(())
    }

    /// A token's bytes; empty for ids beyond the vocabulary.
    pub(super) fn token(&self, id: u32) -> &'a [u8] {
        let index = id as usize;
        let offsets = self.ids(Table::Offsets);
        let (Some(start), Some(end)) = (offsets.get(index), offsets.get(index + 1)) else { return &[] };
        self.bytes(Table::Bytes).get(start as usize..end as usize).unwrap_or_default()
    }

    /// The byte that a byte token stands for.
    pub(super) fn byte_of(&self, id: u32) -> Option<u8> {
        id.checked_sub(self.header.first_byte?)?.try_into().ok()
    }

    /// The token of these bytes that merging can produce (or a symbol of its own), and its priority: lower goes first.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<(u32, u32)> {
        let merges = self.ids(Table::Merges);
        let index = merges.search(|id| self.token(id).cmp(bytes))?;
        let id = merges.get(index)?;
        Some((id, if self.header.ranks { self.ids(Table::Ranks).get(index)? } else { id }))
    }

    /// The token that stands for a whole word.
    pub(super) fn find_word(&self, word: &[u8]) -> Option<u32> {
        let words = self.ids(Table::Words);
        let whole = || words.get(words.search(|id| self.token(id).cmp(word))?);
        self.find(word).map(|(id, _)| id).or_else(whole)
    }

    /// Of entries `range` of a table of tokens sorted by their bytes, which agree in the first `depth` bytes, those with
    /// `byte` as the next one. A token that has no next byte can only be the first of the range.
    fn narrow(&self, ids: Ids<'a>, (low, high): (usize, usize), depth: usize, byte: u8) -> (usize, usize) {
        let next = |index: usize| ids.get(index).and_then(|id| self.token(id).get(depth));
        let start = low + partition(high - low, |index| next(low + index) < Some(&byte));
        let end = start + partition(high - start, |index| next(start + index) <= Some(&byte));
        (start, end)
    }

    /// Calls `found` with the length and the id of each token of the merge table's entries `range` that `text` begins
    /// with, shortest first; the tokens' own first `skip` bytes, in which all of the range agree, do not count.
    pub(super) fn prefixes(
        &self,
        mut range: (usize, usize),
        skip: usize,
        text: &[u8],
        mut found: impl FnMut(usize, u32),
    ) {
        let merges = self.ids(Table::Merges);
        for (at, &byte) in text.iter().enumerate() {
            range = self.narrow(merges, range, skip + at, byte);
            if range.0 == range.1 {
                return;
            }
            if let Some(id) = merges.get(range.0).filter(|&id| self.token(id).len() == skip + at + 1) {
                found(at + 1, id);
            }
        }
    }

    /// All entries of the merge table.
    pub(super) fn all(&self) -> (usize, usize) {
        (0, self.ids(Table::Merges).len())
    }

    /// A token's score in a unigram model.
    pub(super) fn score(&self, id: u32) -> f64 {
        let index = id as usize;
        if self.header.wide_scores {
            let (scores, _) = self.bytes(Table::Scores).as_chunks::<8>();
            scores.get(index).map_or(0.0, |&le| f64::from_le_bytes(le))
        } else {
            let (scores, _) = self.bytes(Table::Scores).as_chunks::<4>();
            scores.get(index).map_or(0.0, |&le| f32::from_le_bytes(le).into())
        }
    }

    /// What the encoding of a pair of texts consists of, and the segment of each part.
    pub(super) fn pair(&self) -> impl Iterator<Item = (PairPart, u8)> + 'a {
        self.ids(Table::Pair).iter().filter_map(PairPart::read)
    }

    /// The longest token of a class that `text` begins with: its index and its length there. If `fold`, U+2581 in the
    /// text is a space.
    pub(super) fn longest_added(&self, added: &Added<'a>, text: &str, fold: bool) -> Option<(usize, usize)> {
        let first = text.bytes().next()?;
        let listed = added.first_bytes.get(usize::from(first / 32)).is_some_and(|bits| bits >> (first % 32) & 1 == 1);
        if !listed && !fold {
            return None;
        }
        // The tokens that begin with what was read so far are neighbours in the sorted table.
        let mut range = (0, added.ids.len());
        let (mut depth, mut len) = (0, 0);
        let mut best = None;
        for c in text.chars() {
            len += c.len_utf8();
            for &byte in fold_space(fold, c).encode_utf8(&mut [0; 4]).as_bytes() {
                range = self.narrow(added.ids, range, depth, byte);
                depth += 1;
            }
            if range.0 == range.1 {
                break;
            }
            if added.ids.get(range.0).is_some_and(|id| self.token(id).len() == depth) {
                best = Some((range.0, len));
            }
        }
        best
    }

    /// The token is special.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.ids(Table::Special).search(|entry| entry.cmp(&id)).is_some()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::tokenizer::{Digits, Invalid, Prefix, Split, Strip};
    use std::vec::Vec;

    /// A section with one token, `a`, a score, and a normalizer of one step that drops outer spaces.
    fn section(kind: Kind, normalizer: &[u32]) -> Vec<u8> {
        let header = Header {
            kind,
            split: Split::None,
            digits: Digits::Joined,
            prefix: Prefix::Never,
            missing: Missing::Unknown,
            invalid: Invalid::Lossy,
            strip: Strip::None,
            collapse: false,
            prompt: false,
            prompt_continues: false,
            vocab: 1,
            bytes: 1,
            merges: 1,
            ranks: false,
            words: 0,
            added_raw: 0,
            added_normalized: 0,
            special: 0,
            affixes: [0; 4],
            unknown: Some(0),
            first_byte: None,
            bos: None,
            eos: None,
            pair: 0,
            wide_scores: false,
            single_sums: false,
            named_bytes: false,
            cleanup: false,
            normalizer: normalizer.len() as u32 * 4,
            pre_tokenizer: 0,
            word_chars: 0,
            continuation: 0,
            max_word_chars: 9,
            unknown_score: 0.0,
        };
        let mut section = header.write().unwrap().to_vec();
        section.extend([0, 0, 1, 0]); // offsets
        section.extend([0, 0]); // merges
        section.extend([0; 4].iter().take(if kind == Kind::Unigram { 4 } else { 0 })); // scores
        section.extend(normalizer.iter().flat_map(|word| word.to_le_bytes()));
        section.extend(b"a");
        section
    }

    #[test]
    fn what_was_left_out_is_refused_by_name() {
        let strip = [6, 4, 3];
        for (kind, normalizer, feature, built) in [
            (Kind::WordPiece, &[][..], "wordpiece", cfg!(feature = "wordpiece")),
            (Kind::Unigram, &[], "unigram", cfg!(feature = "unigram")),
            (Kind::CharBpe, &strip, "normalizers", cfg!(feature = "normalizers")),
        ] {
            let section = section(kind, normalizer);
            let parsed = Section::parse(&section, 1);
            let refused = TokenizerError::Unsupported { feature };
            assert_eq!(parsed.err(), if built { None } else { Some(refused) }, "{feature}");
        }
    }
}
