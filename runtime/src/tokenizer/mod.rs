//! Tokenizers that run on the device: text to ids and back, without a heap, straight from the blob.
//!
//! Five kinds are known: byte-level BPE (GPT-2, Llama 3, RoBERTa), BPE over characters with byte fallback (SentencePiece
//! as in Llama 1 and 2), WordPiece (BERT), unigram models (SentencePiece, T5), and single characters (nanoGPT). A
//! [`Tokenizer`] is a view of a section of the blob, in which everything stands ready to be searched. [`Tokenizer::new`]
//! checks the section once; nothing after that panics, leaves the section, or runs without bound, whatever the section and
//! the text hold. Ids are those of Hugging Face's `tokenizers` and of `sentencepiece`. Normalization (NFC, lower-casing,
//! accents, SentencePiece's tables) goes by tables that the converter put into the section of a model that needs them;
//! there are none here. Reading the files that users have is the converter's part.
//!
//! # Memory
//!
//! Encoding takes a caller's workspace of [`workspace_len`]`(n)` words for the longest *word*, n bytes, not for the text. A
//! tokenizer that normalizes ([`Tokenizer::normalizes`]) takes, on top of that, as many bytes as the longest piece of text
//! between added tokens has after normalization; twice that if there are several steps. For short texts in WordPiece
//! or unigram tokenizers, `workspace_len(64)` plus half a word for each byte of text will do; that is 1.3 KiB for 256 bytes.
//! Decoding takes none.
//!
//! What a tokenizer adds to a file beside its tokens: BERT's rules 3 KB (cased) or 39 KB (uncased), Unicode's NFC 36 KB and
//! NFKC 60 KB, SentencePiece's `nmt_nfkc` 240 KB, a unigram model's scores four bytes for each token.
//!
//! # Features
//!
//! `wordpiece`, `unigram` and `normalizers`, all on by default. Without one of them its code is left out, and a section that
//! needs it is refused with [`TokenizerError::Unsupported`].

mod added;
mod bpe;
mod encode;
mod header;
mod kinds;
mod normalize;
mod property;
mod section;
mod stream;
mod unicode;
mod unigram;
mod wordpiece;
mod words;

use core::fmt::{self, Write};

use crate::feature::Feature;
pub use bpe::workspace_len;
pub use encode::{EncodeError, EncodeOptions};
use encode::{Encoder, Output};
pub use header::{HEADER_LEN, Header, MAGIC, TABLES, Table};
pub use kinds::{
    AddedFlags, Cluster, Digits, Invalid, Kind, MapRule, Missing, PairPart, Prefix, Split, StepKind, Strip,
};
pub use property::Property;
use section::Section;
pub use section::TokenizerError;
pub use stream::TextStream;

/// Longest token, in bytes. It bounds the time that a search takes.
pub const MAX_TOKEN_LEN: usize = 1024;

/// A tokenizer, in place. Copies share the section.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    section: Section<'a>,
}

impl<'a> Tokenizer<'a> {
    /// Checks a section and makes it usable for a model of `model_vocab` tokens. The section may have fewer (models pad
    /// their vocabularies).
    ///
    /// # Errors
    /// What is wrong with the section, and where.
    pub fn new(section: &'a [u8], model_vocab: u32) -> Result<Self, TokenizerError> {
        Ok(Tokenizer { section: Section::parse(section, model_vocab)? })
    }

    /// Writes the ids of `text` to the front of `out` and returns how many they are.
    ///
    /// `workspace` holds [`workspace_len`]`(n)` words, and more if the tokenizer [`normalizes`](Self::normalizes): see the
    /// [module](self#memory). n is the bytes of the longest word: what the pre-tokenizer makes of the text, or, for
    /// SentencePiece, what lies between spaces (the whole text if the vocabulary has tokens with inner spaces). A
    /// character-level tokenizer needs none.
    ///
    /// # Errors
    /// `out` or `workspace` is too small, or a character is unknown.
    pub fn encode(
        &self,
        text: &str,
        options: EncodeOptions,
        workspace: &mut [u32],
        out: &mut [u32],
    ) -> Result<usize, EncodeError> {
        let section = &self.section;
        let mut output = Output::new(out);
        if options.add_special_tokens {
            output.extend(section.ids(Table::TemplateStart).iter())?;
        }
        Encoder::new(section, options, &mut output).text(text, workspace)?;
        if options.add_special_tokens {
            output.extend(section.ids(Table::TemplateEnd).iter())?;
        }
        Ok(output.len)
    }

    /// Encodes a pair of texts, such as a question and a passage, with the tokens that the tokenizer's files put around and
    /// between them. Writes the ids to the front of `out`, the segment of each to `segments` (BERT's token types: 0 for the
    /// first text, 1 for the second), and returns how many they are.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); `segments` is too small; or the tokenizer's files know no pairs.
    pub fn encode_pair(
        &self,
        texts: [&str; 2],
        options: EncodeOptions,
        workspace: &mut [u32],
        out: &mut [u32],
        segments: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let room = out.len().min(segments.len());
        let mut output = Output::new(out.get_mut(..room).unwrap_or_default());
        encode::pair(&self.section, texts, options, workspace, &mut output, segments)?;
        Ok(output.len)
    }

    /// The text as it is when added tokens of class [`AddedFlags::NORMALIZED`] are looked for. Where there are none, it is
    /// also prepared for being cut into words: BERT's punctuation has spaces around it.
    ///
    /// # Errors
    /// `workspace` is too small.
    pub fn normalize<'t>(&self, text: &'t str, workspace: &'t mut [u32]) -> Result<&'t str, EncodeError> {
        self.section.normalizer().run(&self.section, text, workspace).map(|(text, _)| text)
    }

    /// Whether it needs a Cargo feature of this crate.
    pub fn needs(&self, feature: Feature) -> bool {
        match feature {
            Feature::Normalizers => self.normalizes(),
            Feature::Unigram => self.section.header.kind == Kind::Unigram,
            Feature::WordPiece => self.section.header.kind == Kind::WordPiece,
            _ => false,
        }
    }

    /// Texts take workspace by their length, see the [module](self#memory).
    pub fn normalizes(&self) -> bool {
        !(self.section.normalizer().is_empty() && self.section.pre_tokenizer().is_empty())
    }

    /// Encodes a user's text as the model expects a prompt: inside the prompt format if there is one, else like
    /// [`encode`](Self::encode). Special tokens spelled out in the text are plain text.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    #[inline(never)]
    pub fn encode_prompt(&self, text: &str, workspace: &mut [u32], out: &mut [u32]) -> Result<usize, EncodeError> {
        let section = &self.section;
        let options = EncodeOptions { parse_special_tokens: false, ..EncodeOptions::default() };
        if !section.header.prompt {
            return self.encode(text, options, workspace, out);
        }
        let options = EncodeOptions { continues: section.header.prompt_continues, ..options };
        let mut output = Output::new(out);
        output.extend(section.ids(Table::PromptStart).iter())?;
        Encoder::new(section, options, &mut output).text(text, workspace)?;
        output.extend(section.ids(Table::PromptEnd).iter())?;
        Ok(output.len)
    }

    /// Writes the text of a whole sequence, as Hugging Face's `decode` (or SentencePiece's) gives it.
    ///
    /// [`TextStream`] gives the same for one id after another, except that Hugging Face makes every byte of a run of
    /// byte tokens U+FFFD if the run is not UTF-8 as a whole, which nobody can know before the run's end: the stream
    /// shows the run's valid characters.
    ///
    /// # Errors
    /// Only those of `sink`.
    pub fn decode(&self, ids: &[u32], skip_special: bool, sink: &mut impl Write) -> fmt::Result {
        stream::decode(*self, ids, skip_special, sink)
    }

    /// Starts decoding a sequence id by id.
    pub fn stream(&self, skip_special: bool) -> TextStream<'a> {
        TextStream::new(*self, skip_special)
    }

    /// The bytes that an id adds to a text, apart from the leading space that a sequence loses; empty beyond the
    /// vocabulary. Not UTF-8 if the token ends inside a character.
    pub fn token_bytes(&self, id: u32) -> &'a [u8] {
        self.section.token(id)
    }

    /// The token is special: decoding can leave it out.
    pub fn is_special(&self, id: u32) -> bool {
        self.section.is_special(id)
    }

    fn is_skipped(&self, id: u32, skip_special: bool) -> bool {
        id >= self.vocab() || skip_special && self.is_special(id)
    }

    /// The ids of all special tokens, ascending.
    pub fn special_tokens(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.section.ids(Table::Special).iter()
    }

    /// The header: kind, rules and sizes.
    pub fn header(&self) -> &Header {
        &self.section.header
    }

    /// Number of tokens.
    pub fn vocab(&self) -> u32 {
        self.section.header.vocab
    }

    /// The token that begins a sequence, if the tokenizer's files name one.
    pub fn bos(&self) -> Option<u32> {
        self.section.header.bos
    }

    /// The token that ends a sequence, if the tokenizer's files name one.
    pub fn eos(&self) -> Option<u32> {
        self.section.header.eos
    }

    /// The ids put before and after a user's text by [`encode_prompt`](Self::encode_prompt).
    pub fn prompt_format(&self) -> Option<(impl Iterator<Item = u32> + use<'a>, impl Iterator<Item = u32> + use<'a>)> {
        let section = &self.section;
        section.header.prompt.then(|| (section.ids(Table::PromptStart).iter(), section.ids(Table::PromptEnd).iter()))
    }

    /// The ids put before and after a text by [`EncodeOptions::add_special_tokens`].
    pub fn template(&self) -> (impl Iterator<Item = u32> + use<'a>, impl Iterator<Item = u32> + use<'a>) {
        (self.section.ids(Table::TemplateStart).iter(), self.section.ids(Table::TemplateEnd).iter())
    }

    /// Name and bytes of each table that is not empty, for reports. The header's [`HEADER_LEN`] bytes come on top.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let header = self.section.header;
        Table::ALL.into_iter().filter_map(move |table| {
            let (count, width) = header.table(table);
            (count > 0).then_some((table.name(), count * u64::from(width)))
        })
    }
}
