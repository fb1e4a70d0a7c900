//! Tokenizers that run on the device: text to ids and back, without a heap, straight from the blob.
//!
//! Three kinds are known: byte-level BPE (GPT-2, Llama 3), BPE over characters with byte fallback (SentencePiece as in
//! Llama 1 and 2), and single characters (nanoGPT). A [`Tokenizer`] is a view of a section of the blob, in which
//! everything stands ready to be searched. [`Tokenizer::new`] checks the section once; nothing after that panics, leaves
//! the section, or runs without bound, whatever the section and the text hold. Ids are those of Hugging Face's
//! `tokenizers` and of `sentencepiece`. Text is not normalized here beyond what those kinds do with spaces: no Unicode
//! normalization forms, no lower-casing. Reading the files that users have is the converter's part.
//!
//! Tokenizing takes a caller's workspace of [`workspace_len`] bytes for the longest *word*, not for the text.

mod added;
mod bpe;
mod encode;
mod header;
mod section;
mod stream;
mod unicode;
mod words;

use core::fmt::{self, Write};

pub use bpe::workspace_len;
pub use encode::{EncodeError, EncodeOptions};
use encode::{Encoder, Output};
pub use header::{
    AddedFlags, Digits, HEADER_LEN, Header, Invalid, Kind, MAGIC, Missing, Prefix, Split, Strip, TABLES, Table,
};
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
    /// `workspace` holds [`workspace_len`]`(n)` words, n being the bytes of the longest word: what the pre-tokenizer
    /// makes of the text, or, for SentencePiece, what lies between spaces (the whole text if the vocabulary has tokens
    /// with inner spaces). A character-level tokenizer needs none.
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
            output.extend(section.template_start.iter())?;
        }
        Encoder::new(section, options, workspace, &mut output).text(text)?;
        if options.add_special_tokens {
            output.extend(section.template_end.iter())?;
        }
        Ok(output.len)
    }

    /// Encodes a user's text as the model expects a prompt: inside the prompt format if there is one, else like
    /// [`encode`](Self::encode). Special tokens spelled out in the text are plain text.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str, workspace: &mut [u32], out: &mut [u32]) -> Result<usize, EncodeError> {
        let section = &self.section;
        let options = EncodeOptions { parse_special_tokens: false, ..EncodeOptions::default() };
        if !section.header.prompt {
            return self.encode(text, options, workspace, out);
        }
        let options = EncodeOptions { continues: section.header.prompt_continues, ..options };
        let mut output = Output::new(out);
        output.extend(section.prompt_start.iter())?;
        Encoder::new(section, options, workspace, &mut output).text(text)?;
        output.extend(section.prompt_end.iter())?;
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
        skip_special && self.is_special(id)
    }

    /// The ids of all special tokens, ascending.
    pub fn special_tokens(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.section.special.iter()
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
        section.header.prompt.then(|| (section.prompt_start.iter(), section.prompt_end.iter()))
    }

    /// The ids put before and after a text by [`EncodeOptions::add_special_tokens`].
    pub fn template(&self) -> (impl Iterator<Item = u32> + use<'a>, impl Iterator<Item = u32> + use<'a>) {
        (self.section.template_start.iter(), self.section.template_end.iter())
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
