//! The tokenizer section of a blob: its layout, and the one place where it is checked.
//!
//! A section is a 64-byte [`Header`] followed by tables without gaps, in the order of [`Table`]. Everything is
//! little-endian and read in place. Ids take two bytes where the vocabulary has at most 65,536 tokens, else four; byte
//! offsets take two where the token bytes are at most 65,535, else four. [`Section::parse`] checks every number once;
//! after it, no lookup can fail or leave the section. What the tables mean for text stands in the sibling modules.

use core::fmt;

use super::MAX_TOKEN_LEN;
use crate::arch::MAX_VOCAB;

/// First four bytes of a section. The digit is the format's version.
pub const MAGIC: [u8; 4] = *b"TOK1";
/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = 64;
/// Stands for "no id".
const NONE: u32 = u32::MAX;

/// A `repr(u8)` enum with `from_u8` and a name for each variant.
macro_rules! byte_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl $name {
            const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some($name::$variant),)*
                    _ => None,
                }
            }

            /// The name that `inspect` prints.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

byte_enum! {
    /// What the smallest symbols are and how they combine.
    Kind {
        /// Byte pair encoding over bytes (GPT-2, Llama 3): every text is representable.
        ByteBpe = 0, "byte-level BPE";
        /// Byte pair encoding over characters, spaces being part of the words (SentencePiece, Llama 1 and 2).
        CharBpe = 1, "SentencePiece BPE";
        /// One token for each character (nanoGPT's character-level models).
        Characters = 2, "characters";
    }
}

byte_enum! {
    /// How text is cut into words before merging.
    Split {
        /// Not at all.
        None = 0, "none";
        /// GPT-2's pattern.
        Gpt2 = 1, "GPT-2";
        /// Llama 3's pattern: digits in groups of up to three.
        Llama3 = 2, "Llama 3";
        /// Qwen 2's pattern: Llama 3's with single digits.
        Qwen2 = 3, "Qwen 2";
        /// Before every space.
        Spaces = 4, "spaces";
    }
}

byte_enum! {
    /// How runs of digits are cut before [`Split`] is applied.
    Digits {
        /// They are not.
        Joined = 0, "joined";
        /// A run of digits is a piece of its own.
        Apart = 1, "apart";
        /// Every digit is a piece of its own.
        Single = 2, "single";
    }
}

byte_enum! {
    /// When a space is put before a piece of text. Pieces are what added tokens leave between them.
    Prefix {
        /// Never.
        Never = 0, "never";
        /// Before every piece, before added tokens of class [`AddedFlags::NORMALIZED`] are looked for.
        Always = 1, "every piece";
        /// Before every piece that does not begin with one.
        Missing = 2, "every piece without one";
        /// Before the piece at the start of the text if it does not begin with one.
        FirstMissing = 3, "the first piece without one";
        /// Before a text that is not empty, whatever it begins with.
        Text = 4, "the text";
    }
}

byte_enum! {
    /// What becomes of a symbol that is not in the vocabulary.
    Missing {
        /// Nothing.
        Drop = 0, "dropped";
        /// The unknown token.
        Unknown = 1, "unknown token";
        /// One unknown token for each run of such symbols.
        FusedUnknown = 2, "unknown token for each run";
        /// A token for each of its bytes.
        Bytes = 3, "byte tokens";
        /// [`super::EncodeError::UnknownCharacter`].
        Error = 4, "error";
    }
}

byte_enum! {
    /// How bytes that are not UTF-8 are shown when decoding.
    Invalid {
        /// One U+FFFD for each maximal invalid part, as `String::from_utf8_lossy` does.
        Lossy = 0, "lossy";
        /// A run of byte tokens that is not UTF-8 as a whole is one U+FFFD for each byte (Hugging Face).
        Run = 1, "whole run";
        /// One U+FFFD for each byte that belongs to no character (SentencePiece).
        Byte = 2, "each byte";
    }
}

byte_enum! {
    /// Which leading spaces decoding takes away: those that [`Prefix`] put there.
    Strip {
        /// None.
        None = 0, "none";
        /// A space at the start of the text.
        Text = 1, "one of the text";
        /// All spaces of the first token.
        FirstToken = 2, "all of the first token";
        /// A space at the start of the text unless a byte token or the unknown token spells it.
        Piece = 3, "one of the first piece";
    }
}

/// Properties of an added token, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedFlags(pub u8);

impl AddedFlags {
    /// White space to the left of the token belongs to it.
    pub const LSTRIP: u8 = 1;
    /// White space to the right of the token belongs to it.
    pub const RSTRIP: u8 = 2;
    /// Looked for in what tokens without this flag leave, after the leading space was put there.
    pub const NORMALIZED: u8 = 4;
    const ALL: u8 = 7;

    pub(super) const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

/// The tables of a section, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Table {
    /// `vocab + 1` byte offsets: token `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    Offsets,
    /// Ids of tokens that merging can produce, and of single symbols, sorted by their bytes.
    Merges,
    /// Merge priority for each entry of `Merges`, lower first; empty if ids are in that order already.
    Ranks,
    /// Ids of tokens that stand only for whole words, sorted by their bytes.
    Words,
    /// Ids of added tokens: those that are matched in the raw text, then the normalized ones, each sorted by bytes.
    Added,
    /// Ascending ids of special tokens, which decoding can leave out.
    Special,
    /// Ids put before a text.
    TemplateStart,
    /// Ids put after a text.
    TemplateEnd,
    /// Ids put before a user's prompt.
    PromptStart,
    /// Ids put after a user's prompt.
    PromptEnd,
    /// An [`AddedFlags`] for each entry of `Added`.
    AddedFlags,
    /// All tokens' bytes. Spaces are spaces, whatever the training tool wrote for them.
    Bytes,
}

/// Number of [`Table`]s.
pub const TABLES: usize = 12;

impl Table {
    /// All tables, in order.
    pub const ALL: [Table; TABLES] = [
        Table::Offsets,
        Table::Merges,
        Table::Ranks,
        Table::Words,
        Table::Added,
        Table::Special,
        Table::TemplateStart,
        Table::TemplateEnd,
        Table::PromptStart,
        Table::PromptEnd,
        Table::AddedFlags,
        Table::Bytes,
    ];

    /// The name that errors and `inspect` print.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Offsets => "offsets",
            Table::Merges => "merges",
            Table::Ranks => "ranks",
            Table::Words => "words",
            Table::Added => "added",
            Table::Special => "special",
            Table::TemplateStart => "template_start",
            Table::TemplateEnd => "template_end",
            Table::PromptStart => "prompt_start",
            Table::PromptEnd => "prompt_end",
            Table::AddedFlags => "added_flags",
            Table::Bytes => "bytes",
        }
    }
}

/// The fixed part of a section: what the tokenizer does, and the lengths of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Symbols.
    pub kind: Kind,
    /// Words.
    pub split: Split,
    /// Runs of digits.
    pub digits: Digits,
    /// The leading space.
    pub prefix: Prefix,
    /// Symbols outside the vocabulary.
    pub missing: Missing,
    /// Bytes that are not UTF-8.
    pub invalid: Invalid,
    /// The leading space, on the way back.
    pub strip: Strip,
    /// Runs of spaces become one space, and the text's outer spaces go.
    pub collapse: bool,
    /// There is a prompt format.
    pub prompt: bool,
    /// A user's text continues the text before it: it gets no leading space.
    pub prompt_continues: bool,
    /// Number of tokens.
    pub vocab: u32,
    /// Bytes of all tokens.
    pub bytes: u32,
    /// Entries of [`Table::Merges`].
    pub merges: u32,
    /// [`Table::Ranks`] is not empty.
    pub ranks: bool,
    /// Entries of [`Table::Words`].
    pub words: u32,
    /// Entries of [`Table::Added`] that are matched in the raw text.
    pub added_raw: u32,
    /// The other entries of [`Table::Added`].
    pub added_normalized: u32,
    /// Entries of [`Table::Special`].
    pub special: u32,
    /// Entries of the template's and the prompt format's tables, in the order of [`Table`].
    pub affixes: [u16; 4],
    /// The token for symbols outside the vocabulary.
    pub unknown: Option<u32>,
    /// The token of byte 0; the other bytes' tokens follow it.
    pub first_byte: Option<u32>,
    /// The token that begins a sequence.
    pub bos: Option<u32>,
    /// The token that ends a sequence.
    pub eos: Option<u32>,
}

const COLLAPSE: u8 = 1;
const PROMPT: u8 = 2;
const PROMPT_CONTINUES: u8 = 4;
const RANKS: u8 = 8;
const ALL_FLAGS: u8 = 15;

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut le = [0; 4];
    if let Some(field) = bytes.get(at..at + 4) {
        le.copy_from_slice(field);
    }
    u32::from_le_bytes(le)
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`TokenizerError::Magic`], or [`TokenizerError::Field`] for a value without a meaning.
    pub fn read(bytes: &[u8; HEADER_LEN]) -> Result<Self, TokenizerError> {
        let [m0, m1, m2, m3, kind, split, digits, prefix, missing, invalid, strip, flags, ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(TokenizerError::Magic { found: [m0, m1, m2, m3] });
        }
        fn known<T>(value: Option<T>, field: &'static str, found: u8) -> Result<T, TokenizerError> {
            value.ok_or(TokenizerError::Field { field, found: found.into() })
        }
        known((flags & !ALL_FLAGS == 0).then_some(()), "flags", flags)?;
        let word = |at| u32_at(bytes, at);
        let id = |at| Some(word(at)).filter(|&id| id != NONE);
        Ok(Header {
            kind: known(Kind::from_u8(kind), "kind", kind)?,
            split: known(Split::from_u8(split), "split", split)?,
            digits: known(Digits::from_u8(digits), "digits", digits)?,
            prefix: known(Prefix::from_u8(prefix), "prefix", prefix)?,
            missing: known(Missing::from_u8(missing), "missing", missing)?,
            invalid: known(Invalid::from_u8(invalid), "invalid", invalid)?,
            strip: known(Strip::from_u8(strip), "strip", strip)?,
            collapse: flags & COLLAPSE != 0,
            prompt: flags & PROMPT != 0,
            prompt_continues: flags & PROMPT_CONTINUES != 0,
            ranks: flags & RANKS != 0,
            vocab: word(12),
            bytes: word(16),
            merges: word(20),
            words: word(24),
            added_raw: word(28) & 0xFFFF,
            added_normalized: word(28) >> 16,
            special: word(32),
            affixes: [word(36) as u16, (word(36) >> 16) as u16, word(40) as u16, (word(40) >> 16) as u16],
            unknown: id(44),
            first_byte: id(48),
            bos: id(52),
            eos: id(56),
        })
        .and_then(|header| match word(60) {
            0 => Ok(header),
            found => Err(TokenizerError::Field { field: "reserved", found }),
        })
    }

    /// Writes a header; `None` if there are 65,536 or more added tokens of a class.
    pub fn write(&self) -> Option<[u8; HEADER_LEN]> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.collapse, COLLAPSE)
            | flag(self.prompt, PROMPT)
            | flag(self.prompt_continues, PROMPT_CONTINUES)
            | flag(self.ranks, RANKS);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let [template_start, template_end, prompt_start, prompt_end] = self.affixes;
        let words = [
            u32::from_le_bytes(MAGIC),
            u32::from_le_bytes([self.kind as u8, self.split as u8, self.digits as u8, self.prefix as u8]),
            u32::from_le_bytes([self.missing as u8, self.invalid as u8, self.strip as u8, flags]),
            self.vocab,
            self.bytes,
            self.merges,
            self.words,
            pair(self.added_raw.try_into().ok()?, self.added_normalized.try_into().ok()?),
            self.special,
            pair(template_start, template_end),
            pair(prompt_start, prompt_end),
            self.unknown.unwrap_or(NONE),
            self.first_byte.unwrap_or(NONE),
            self.bos.unwrap_or(NONE),
            self.eos.unwrap_or(NONE),
            0,
        ];
        let mut bytes = [0; HEADER_LEN];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        Some(bytes)
    }

    /// Bytes of an id.
    pub const fn id_width(&self) -> u8 {
        if self.vocab <= 1 << 16 { 2 } else { 4 }
    }

    /// Number of entries of a table and bytes of each.
    pub const fn table(&self, table: Table) -> (u64, u8) {
        let ids = self.id_width();
        let [template_start, template_end, prompt_start, prompt_end] = self.affixes;
        let added = self.added_raw as u64 + self.added_normalized as u64;
        match table {
            Table::Offsets => (self.vocab as u64 + 1, if self.bytes < 1 << 16 { 2 } else { 4 }),
            Table::Merges => (self.merges as u64, ids),
            Table::Ranks => (if self.ranks { self.merges as u64 } else { 0 }, ids),
            Table::Words => (self.words as u64, ids),
            Table::Added => (added, ids),
            Table::Special => (self.special as u64, ids),
            Table::TemplateStart => (template_start as u64, ids),
            Table::TemplateEnd => (template_end as u64, ids),
            Table::PromptStart => (prompt_start as u64, ids),
            Table::PromptEnd => (prompt_end as u64, ids),
            Table::AddedFlags => (added, 1),
            Table::Bytes => (self.bytes as u64, 1),
        }
    }
}

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
