//! The tokenizer section of a blob, checked and searched in place.
//!
//! [`Section::parse`] checks every number of a section once; after it, no lookup can fail or leave the section.

use core::fmt;

use super::MAX_TOKEN_LEN;
use super::header::{AddedFlags, HEADER_LEN, Header, Kind, MAGIC, Missing, Table};
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
    offsets: Ids<'a>,
    merges: Ids<'a>,
    ranks: Ids<'a>,
    words: Ids<'a>,
    pub(super) special: Ids<'a>,
    pub(super) template_start: Ids<'a>,
    pub(super) template_end: Ids<'a>,
    pub(super) prompt_start: Ids<'a>,
    pub(super) prompt_end: Ids<'a>,
    /// Added tokens matched in the raw text, then the normalized ones.
    pub(super) added: [Added<'a>; 2],
    bytes: &'a [u8],
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
        let mut take = |table| {
            let (count, width) = header.table(table);
            // The sum of all lengths is the section's, so each fits and the split cannot fail.
            let (bytes, tail) = rest.split_at_checked(count as usize * usize::from(width)).unwrap_or_default();
            rest = tail;
            (bytes, width == 4)
        };
        let mut ids = |table| {
            let (bytes, wide) = take(table);
            Ids { bytes, wide }
        };
        let offsets = ids(Table::Offsets);
        let merges = ids(Table::Merges);
        let ranks = ids(Table::Ranks);
        let words = ids(Table::Words);
        let added = ids(Table::Added);
        let special = ids(Table::Special);
        let template_start = ids(Table::TemplateStart);
        let template_end = ids(Table::TemplateEnd);
        let prompt_start = ids(Table::PromptStart);
        let prompt_end = ids(Table::PromptEnd);
        let (added_flags, _) = take(Table::AddedFlags);
        let (bytes, _) = take(Table::Bytes);
        let raw = header.added_raw as usize;
        let (raw_flags, normalized_flags) = added_flags.split_at_checked(raw).unwrap_or_default();
        let class = |ids, flags| Added { ids, flags, first_bytes: [0; 8] };
        let mut section = Section {
            header,
            offsets,
            merges,
            ranks,
            words,
            special,
            template_start,
            template_end,
            prompt_start,
            prompt_end,
            added: [class(added.slice(0, raw), raw_flags), class(added.slice(raw, added.len()), normalized_flags)],
            bytes,
            space_begins_word: false,
        };
        section.check_tokens()?;
        section.check_tables()?;
        section.check_added()?;
        // Where symbols are dropped, what they divide comes side by side, across any cut.
        let symbols_stay = header.missing != Missing::Drop;
        let space_inside = |id| section.token(id).windows(2).any(|pair| matches!(pair, [a, b' '] if *a != b' '));
        section.space_begins_word = symbols_stay && !merges.iter().chain(words.iter()).any(space_inside);
        Ok(section)
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
        for (token, offset) in self.offsets.iter().enumerate() {
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
        let id_tables = [
            (Table::Merges, self.merges),
            (Table::Words, self.words),
            (Table::Special, self.special),
            (Table::TemplateStart, self.template_start),
            (Table::TemplateEnd, self.template_end),
            (Table::PromptStart, self.prompt_start),
            (Table::PromptEnd, self.prompt_end),
        ];
        for (table, ids) in id_tables {
            if let Some(index) = ids.iter().position(|id| id >= self.header.vocab) {
                return Err(TokenizerError::Range { table, index: index as u32 });
            }
        }
        if let Some(index) = self.ranks.iter().position(|rank| rank >= self.header.merges) {
            return Err(TokenizerError::Range { table: Table::Ranks, index: index as u32 });
        }
        self.check_sorted(Table::Merges, self.merges)?;
        self.check_sorted(Table::Words, self.words)?;
        let mut last = None;
        for (index, id) in self.special.iter().enumerate() {
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
        let (Some(start), Some(end)) = (self.offsets.get(index), self.offsets.get(index + 1)) else { return &[] };
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The byte that a byte token stands for.
    pub(super) fn byte_of(&self, id: u32) -> Option<u8> {
        id.checked_sub(self.header.first_byte?)?.try_into().ok()
    }

    /// The token of these bytes that merging can produce (or a symbol of its own), and its priority: lower goes first.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<(u32, u32)> {
        let index = self.merges.search(|id| self.token(id).cmp(bytes))?;
        let id = self.merges.get(index)?;
        Some((id, if self.header.ranks { self.ranks.get(index)? } else { id }))
    }

    /// The token that stands for a whole word.
    pub(super) fn find_word(&self, word: &[u8]) -> Option<u32> {
        let whole = || self.words.get(self.words.search(|id| self.token(id).cmp(word))?);
        self.find(word).map(|(id, _)| id).or_else(whole)
    }

    /// The token is special.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.search(|entry| entry.cmp(&id)).is_some()
    }
}
