//! The fixed part of a tokenizer section: what the tokenizer does, which tables follow, and how long they are.
//!
//! A section is a 96-byte [`Header`] followed by tables without gaps, in the order of [`Table`]. Everything is
//! little-endian and read in place. Ids take two bytes where the vocabulary has at most 65,536 tokens, else four; byte
//! offsets take two where the token bytes are at most 65,535, else four; scores take eight where four would round. What
//! the rules mean for text stands in the sibling modules; that the tables hold what they should is checked in `section`.

use super::kinds::{Digits, Invalid, Kind, Missing, Prefix, Split, Strip};
use super::section::TokenizerError;

/// First four bytes of a section. The digit is the format's version.
pub const MAGIC: [u8; 4] = *b"TOK2";
/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = 96;
/// Stands for "no id".
const NONE: u32 = u32::MAX;

/// The tables of a section, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Table {
    /// `vocab + 1` byte offsets: token `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    Offsets,
    /// Ids of tokens that merging can produce, and of single symbols, sorted by their bytes; of all tokens that text can
    /// become, where nothing merges.
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
    /// What the encoding of a pair of texts consists of, see [`PairPart`](super::PairPart).
    Pair,
    /// A score for each token of a unigram model, f32 or f64.
    Scores,
    /// What text goes through before added tokens of class [`AddedFlags::NORMALIZED`](super::AddedFlags::NORMALIZED) are
    /// looked for, see [`StepKind`](super::StepKind).
    Normalizer,
    /// What the pieces between added tokens go through before they are cut into words.
    PreTokenizer,
    /// The characters of words, for [`AddedFlags::SINGLE_WORD`](super::AddedFlags::SINGLE_WORD): a
    /// [`Property`](super::Property).
    WordChars,
    /// What WordPiece tokens inside words begin with.
    Continuation,
    /// An [`AddedFlags`](super::AddedFlags) for each entry of `Added`.
    AddedFlags,
    /// All tokens' bytes. Spaces are spaces, whatever the training tool wrote for them.
    Bytes,
}

/// Number of [`Table`]s.
pub const TABLES: usize = 18;

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
        Table::Pair,
        Table::Scores,
        Table::Normalizer,
        Table::PreTokenizer,
        Table::WordChars,
        Table::Continuation,
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
            Table::Pair => "pair",
            Table::Scores => "scores",
            Table::Normalizer => "normalizer",
            Table::PreTokenizer => "pre_tokenizer",
            Table::WordChars => "word_chars",
            Table::Continuation => "continuation",
            Table::AddedFlags => "added_flags",
            Table::Bytes => "bytes",
        }
    }
}

/// The fixed part of a section: what the tokenizer does, and the lengths of its tables.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Entries of [`Table::Pair`].
    pub pair: u32,
    /// Scores are f64, else f32.
    pub wide_scores: bool,
    /// Scores of paths are rounded to f32, as in SentencePiece.
    pub single_sums: bool,
    /// `<0x41>` in a text is the byte token of that name.
    pub named_bytes: bool,
    /// Decoding leaves out the spaces before punctuation and contractions that WordPiece tokens would get.
    pub cleanup: bool,
    /// Bytes of [`Table::Normalizer`].
    pub normalizer: u32,
    /// Bytes of [`Table::PreTokenizer`].
    pub pre_tokenizer: u32,
    /// Entries of [`Table::WordChars`].
    pub word_chars: u32,
    /// Bytes of [`Table::Continuation`].
    pub continuation: u32,
    /// Longer words, in characters, are unknown to WordPiece.
    pub max_word_chars: u32,
    /// Score of a character outside the vocabulary of a unigram model.
    pub unknown_score: f64,
}

const COLLAPSE: u32 = 1;
const PROMPT: u32 = 2;
const PROMPT_CONTINUES: u32 = 4;
const RANKS: u32 = 8;
const WIDE_SCORES: u32 = 16;
const SINGLE_SUMS: u32 = 32;
const NAMED_BYTES: u32 = 64;
const CLEANUP: u32 = 128;
const ALL_FLAGS: u32 = 255;

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
    // Inlined, it would be moved field by field.
    #[inline(never)]
    pub fn read(bytes: &[u8; HEADER_LEN]) -> Result<Self, TokenizerError> {
        let [m0, m1, m2, m3, kind, split, digits, prefix, missing, invalid, strip, zero, ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(TokenizerError::Magic { found: [m0, m1, m2, m3] });
        }
        fn known<T>(value: Option<T>, field: &'static str, found: impl Into<u32>) -> Result<T, TokenizerError> {
            value.ok_or(TokenizerError::Field { field, found: found.into() })
        }
        let word = |at| u32_at(bytes, at);
        let id = |at| Some(word(at)).filter(|&id| id != NONE);
        let flags = word(60);
        known((flags & !ALL_FLAGS == 0).then_some(()), "flags", flags)?;
        known((zero == 0).then_some(()), "reserved", zero)?;
        known((word(92) == 0).then_some(()), "reserved", word(92))?;
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
            wide_scores: flags & WIDE_SCORES != 0,
            single_sums: flags & SINGLE_SUMS != 0,
            named_bytes: flags & NAMED_BYTES != 0,
            cleanup: flags & CLEANUP != 0,
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
            normalizer: word(64),
            pre_tokenizer: word(68),
            word_chars: word(72),
            pair: word(76) & 0xFFFF,
            continuation: word(76) >> 16,
            max_word_chars: word(80),
            unknown_score: f64::from_bits(u64::from(word(84)) | u64::from(word(88)) << 32),
        })
    }

    /// Writes a header; `None` if there are 65,536 or more added tokens of a class, parts of a pair, or bytes of the
    /// continuation.
    pub fn write(&self) -> Option<[u8; HEADER_LEN]> {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = flag(self.collapse, COLLAPSE)
            | flag(self.prompt, PROMPT)
            | flag(self.prompt_continues, PROMPT_CONTINUES)
            | flag(self.ranks, RANKS)
            | flag(self.wide_scores, WIDE_SCORES)
            | flag(self.single_sums, SINGLE_SUMS)
            | flag(self.named_bytes, NAMED_BYTES)
            | flag(self.cleanup, CLEANUP);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let [template_start, template_end, prompt_start, prompt_end] = self.affixes;
        let words = [
            u32::from_le_bytes(MAGIC),
            u32::from_le_bytes([self.kind as u8, self.split as u8, self.digits as u8, self.prefix as u8]),
            u32::from_le_bytes([self.missing as u8, self.invalid as u8, self.strip as u8, 0]),
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
            flags,
            self.normalizer,
            self.pre_tokenizer,
            self.word_chars,
            pair(self.pair.try_into().ok()?, self.continuation.try_into().ok()?),
            self.max_word_chars,
            self.unknown_score.to_bits() as u32,
            (self.unknown_score.to_bits() >> 32) as u32,
            0,
        ];
        let mut bytes = [0; HEADER_LEN];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        Some(bytes)
    }

    /// U+2581, which stands for a space in the vocabularies of SentencePiece, is a space in texts too.
    pub(super) const fn folds(&self) -> bool {
        matches!(self.kind, Kind::CharBpe | Kind::Unigram)
    }

    /// Bytes of an id.
    pub const fn id_width(&self) -> u8 {
        if self.vocab <= 1 << 16 { 2 } else { 4 }
    }

    /// Bytes of an entry of a table.
    // Inlined, because lookups know the table.
    #[inline(always)]
    pub(super) const fn width(&self, table: Table) -> u8 {
        match table {
            Table::Offsets if self.bytes < 1 << 16 => 2,
            Table::Offsets | Table::Pair | Table::WordChars => 4,
            Table::Scores if self.wide_scores => 8,
            Table::Scores => 4,
            Table::Normalizer | Table::PreTokenizer | Table::Continuation | Table::AddedFlags | Table::Bytes => 1,
            _ => self.id_width(),
        }
    }

    /// Number of entries of a table and bytes of each.
    pub const fn table(&self, table: Table) -> (u64, u8) {
        let [template_start, template_end, prompt_start, prompt_end] = self.affixes;
        let count = match table {
            Table::Offsets => self.vocab as u64 + 1,
            Table::Merges => self.merges as u64,
            Table::Ranks if !self.ranks => 0,
            Table::Ranks => self.merges as u64,
            Table::Words => self.words as u64,
            Table::Added | Table::AddedFlags => self.added_raw as u64 + self.added_normalized as u64,
            Table::Special => self.special as u64,
            Table::TemplateStart => template_start as u64,
            Table::TemplateEnd => template_end as u64,
            Table::PromptStart => prompt_start as u64,
            Table::PromptEnd => prompt_end as u64,
            Table::Pair => self.pair as u64,
            Table::Scores if !matches!(self.kind, Kind::Unigram) => 0,
            Table::Scores => self.vocab as u64,
            Table::Normalizer => self.normalizer as u64,
            Table::PreTokenizer => self.pre_tokenizer as u64,
            Table::WordChars => self.word_chars as u64,
            Table::Continuation => self.continuation as u64,
            Table::Bytes => self.bytes as u64,
        };
        (count, self.width(table))
    }
}
