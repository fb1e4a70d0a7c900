//! What tokenizers differ in, as numbers in a section: small enums, one byte each.
//!
//! The rules that they stand for are carried out in the sibling modules.

/// A `repr(u8)` enum with `from_u8` and a name for each variant.
macro_rules! byte_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl $name {
            pub(super) const fn from_u8(value: u8) -> Option<Self> {
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
        /// The longest token first, in the word and in what is left of it (BERT).
        WordPiece = 3, "WordPiece";
        /// The most probable tokens of a unigram language model (SentencePiece, T5).
        Unigram = 4, "unigram";
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
        /// At runs of spaces, which belong to no word.
        Words = 5, "words";
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
    /// Found only where no word character ([`Table::WordChars`](super::Table::WordChars)) stands beside it.
    pub const SINGLE_WORD: u8 = 8;
    /// Not cut out of the text, only left alone by [`StepKind::Charsmap`]: the model decides.
    pub const VERBATIM: u8 = 16;
    pub(super) const ALL: u8 = 31;

    pub(super) const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

byte_enum! {
    /// The steps of [`Table::Normalizer`](super::Table::Normalizer) and
    /// [`Table::PreTokenizer`](super::Table::PreTokenizer). Each is a word with its kind, a word with the length of its
    /// data in bytes, which is a multiple of four, and the data.
    StepKind {
        /// Characters become strings, each by itself. A word with the number of rules; two words for each rule, see
        /// [`MapRule`]; the strings.
        Map = 1, "map";
        /// Marks in canonical order, and composed with what they follow. A word with the number of entries of the
        /// combining classes; these (see [`Property`](super::Property)); three words for each composition: the two
        /// characters, ascending, and what they compose to. Without compositions there is only the order.
        Canonical = 2, "canonical order";
        /// SentencePiece's `precompiled_charsmap`, the longest match being replaced: a word with the length of its double
        /// array, that, and strings that end with a zero byte.
        Charsmap = 3, "charsmap";
        /// The same as Hugging Face's `Precompiled` applies it: to whole grapheme clusters of fewer than six bytes. A
        /// word with the number of entries of the [`Cluster`] classes, these, and the charsmap.
        Clusters = 4, "charsmap for clusters";
        /// A string is replaced. Three words: the lengths of the string and its replacement, and 0; then these. If the
        /// third word is n > 0, runs of n strings and more are replaced.
        Replace = 5, "replace";
        /// White space at the ends goes: a word, 1 for the start, 2 for the end, or 3.
        Strip = 6, "strip";
        /// Words between white space, each with a space before it unless U+2581 stands there. No data.
        Words = 7, "words";
        /// A word with a length, and a string of this length that is put before text that is not empty.
        Prepend = 8, "prepend";
    }
}

byte_enum! {
    /// What becomes of the characters from a rule's first one up to the next rule's. A rule is a word with its first
    /// character and its kind in the top eight bits, and a word with its argument.
    MapRule {
        /// They stay.
        Keep = 0, "keep";
        /// A string, empty or not: the argument is its offset among the strings, its length in the top eight bits.
        Text = 1, "text";
        /// Code points move by the argument, a two's complement number.
        Shift = 2, "shift";
        /// The same for the first, the third and so on.
        ShiftOdd = 3, "shift every other";
        /// They get a space before and behind them.
        Spaced = 4, "spaced";
        /// Hangul syllables become their letters.
        Hangul = 5, "Hangul";
    }
}

byte_enum! {
    /// Classes of characters for the borders of grapheme clusters (UAX 29).
    Cluster {
        /// None of those below.
        Other = 0, "other";
        /// Carriage return.
        Cr = 1, "CR";
        /// Line feed.
        Lf = 2, "LF";
        /// Other controls.
        Control = 3, "control";
        /// Marks that belong to what stands before them.
        Extend = 4, "extend";
        /// The same, but not within conjuncts.
        ExtendApart = 5, "extend apart";
        /// Linkers of conjuncts.
        Linker = 6, "linker";
        /// Zero-width joiner.
        Zwj = 7, "ZWJ";
        /// Regional indicators, which pair up to flags.
        Regional = 8, "regional indicator";
        /// What belongs to the next character.
        Prepend = 9, "prepend";
        /// Spacing marks.
        SpacingMark = 10, "spacing mark";
        /// Leading consonants of Hangul.
        HangulL = 11, "L";
        /// Vowels of Hangul.
        HangulV = 12, "V";
        /// Trailing consonants of Hangul.
        HangulT = 13, "T";
        /// Hangul syllables.
        Syllable = 14, "LV or LVT";
        /// Pictographs.
        Pictograph = 15, "pictograph";
        /// Consonants of conjuncts.
        Consonant = 16, "consonant";
    }
}

/// A part of a pair's encoding, and the segment that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairPart {
    /// A token.
    Token(u32),
    /// The first text.
    First,
    /// The second text.
    Second,
}

impl PairPart {
    /// The entry of [`Table::Pair`](super::Table::Pair) for this part and its segment; `None` if the id does not fit.
    pub const fn write(self, segment: u8) -> Option<u32> {
        let (kind, id) = match self {
            PairPart::Token(id) => (0, id),
            PairPart::First => (1, 0),
            PairPart::Second => (2, 0),
        };
        if id >> 22 == 0 { Some(kind << 30 | (segment as u32) << 22 | id) } else { None }
    }

    /// A part and its segment.
    pub(super) const fn read(entry: u32) -> Option<(PairPart, u8)> {
        let id = entry & ((1 << 22) - 1);
        let part = match entry >> 30 {
            0 => PairPart::Token(id),
            1 if id == 0 => PairPart::First,
            2 if id == 0 => PairPart::Second,
            _ => return None,
        };
        Some((part, (entry >> 22) as u8))
    }
}
