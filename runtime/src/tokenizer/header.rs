//! The fixed part of a tokenizer section: what the tokenizer does, which tables follow, and how long they are.
//!
//! A section is a 64-byte [`Header`] followed by tables without gaps, in the order of [`Table`]. Everything is
//! little-endian and read in place. Ids take two bytes where the vocabulary has at most 65,536 tokens, else four; byte
//! offsets take two where the token bytes are at most 65,535, else four. What the rules mean for text stands in the
//! sibling modules; that the tables hold what they should is checked in `section`.

use super::section::TokenizerError;

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
    pub(super) const ALL: u8 = 7;

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
