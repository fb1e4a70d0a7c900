//! Tokenizers that are made from the text to train on.

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString,
    PreTokenizer, Tokenizer, Trainer,
};

use crate::source::SpecialTokens;
use crate::tokenizer::Packed;
use crate::{Error, Result};

/// Tokens that stand for no text, and which of them stand around every text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Markup {
    /// Their names; and what tokenizer_config.json calls them, where it does.
    pub tokens: &'static [(&'static str, Option<&'static str>)],
    /// Before every text.
    pub before: Option<&'static str>,
    /// Behind every text.
    pub after: Option<&'static str>,
}

/// The token that ends a text in a vocabulary made here.
pub const END: &str = "<|endoftext|>";

/// Stands for a token that is to be guessed.
const MASK: &str = "[MASK]";

/// What stands for the unknown in a vocabulary of words.
const UNKNOWN: &str = "[UNK]";

impl Markup {
    /// None at all.
    pub const NONE: Markup = Markup { tokens: &[], before: None, after: None };

    /// Of texts that are continued.
    pub const TEXT: Markup = Markup { tokens: &[(END, Some("eos_token"))], before: None, after: None };

    /// Of requests and their answers: the tokens that open them, and the one that ends an answer.
    pub const ANSWERS: Markup = Markup {
        tokens: &[("<|end|>", Some("eos_token")), ("<|user|>", None), ("<|assistant|>", None)],
        before: None,
        after: None,
    };

    /// Of texts with tokens to guess, as BERT's.
    pub const MASKED: Markup = Markup {
        tokens: &[
            ("[PAD]", Some("pad_token")),
            (UNKNOWN, Some("unk_token")),
            ("[CLS]", Some("cls_token")),
            ("[SEP]", Some("sep_token")),
            (MASK, Some("mask_token")),
        ],
        before: Some("[CLS]"),
        after: Some("[SEP]"),
    };

    /// Of sources and answers: sources end as answers do.
    pub const SOURCES: Markup = Markup {
        tokens: &[("<pad>", Some("pad_token")), ("<s>", Some("bos_token")), ("</s>", Some("eos_token"))],
        before: None,
        after: Some("</s>"),
    };

    /// The tokens' names.
    pub fn names(&self) -> Vec<&'static str> {
        self.tokens.iter().map(|(name, _)| *name).collect()
    }

    /// The post-processor of a tokenizer.json that puts tokens around texts; the n-th name is token n.
    fn post_processor(&self) -> Option<Value> {
        let special = |name: &str, part: u32| json!({ "SpecialToken": { "id": name, "type_id": part } });
        let text = |name: &str, part: u32| json!({ "Sequence": { "id": name, "type_id": part } });
        let before: Vec<Value> = self.before.iter().map(|name| special(name, 0)).collect();
        let after = |part| self.after.iter().map(move |name| special(name, part)).collect::<Vec<_>>();
        // The second text of a pair has an end of its own only where there is a beginning, as BERT has it.
        let between = if self.before.is_some() { after(0) } else { Vec::new() };
        let around: Map<String, Value> = (0u32..)
            .zip(self.names())
            .filter(|(_, name)| [self.before, self.after].contains(&Some(name)))
            .map(|(id, name)| (name.into(), json!({ "id": name, "ids": [id], "tokens": [name] })))
            .collect();
        let single = [before.clone(), vec![text("A", 0)], after(0)].concat();
        let pair = [before, vec![text("A", 0)], between, vec![text("B", 1)], after(1)].concat();
        (!around.is_empty())
            .then(|| json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": around }))
    }
}

/// Tokens of a tokenizer that mean something to training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Ends a text or an answer.
    pub end: Option<u32>,
    /// Begins an answer to a source.
    pub start: Option<u32>,
    /// Fills up batches; not here, but in transformers.
    pub pad: Option<u32>,
}

impl Marked {
    /// What a tokenizer's special tokens mean by their usual names; else what a checkpoint's configuration says.
    ///
    /// # Errors
    /// None but a damaged tokenizer's.
    pub fn find(packed: &Packed, named: &SpecialTokens) -> Result<Self> {
        let tokenizer = packed.tokenizer()?;
        let special: Vec<u32> = tokenizer.special_tokens().collect();
        let first = |names: &[&str]| {
            let is_one = |id: &&u32| names.iter().any(|name| name.as_bytes() == tokenizer.token_bytes(**id));
            special.iter().find(is_one).copied()
        };
        let end = first(&[END, "<|end|>", "</s>"]).or(named.eos.first().copied());
        let pad = named.pad.or(first(&["<pad>", "[PAD]"]));
        let start = named.decoder_start.or(first(&["<s>"])).or(pad).or(end);
        Ok(Self { end, start, pad })
    }
}

/// Tokenizers that can be made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Byte-level BPE, as GPT-2's: any text
    Bpe,
    /// Pieces of words in lower case, as BERT's
    Wordpiece,
    /// The text's characters, as nanoGPT's
    Chars,
}

/// The tokenizer.json of a kind for texts, with a vocabulary of `vocab` tokens, except for characters.
///
/// # Errors
/// The texts do not support so many tokens, or have a character that cannot be one.
pub fn make<'t>(
    kind: Kind,
    texts: impl Iterator<Item = &'t str> + Send,
    vocab: usize,
    markup: &Markup,
) -> Result<String> {
    let (special, around) = (markup.names(), markup.post_processor());
    let mut file = match kind {
        Kind::Bpe => return train_bpe(texts, vocab, &special, around),
        Kind::Wordpiece => train_wordpiece(texts, vocab, &special)?,
        Kind::Chars => characters(texts, &special)?,
    };
    file["post_processor"] = around.into();
    serde_json::to_string_pretty(&file).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Error {
    Error::Usage(error.to_string())
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Usage(format!("training a tokenizer: {error}"))
}

fn added(name: &str) -> AddedToken {
    // The space before a hidden word is part of it, as in RoBERTa's tokenizer.
    AddedToken::from(name, true).lstrip(name == MASK)
}

/// The tokenizer.json of byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) with `vocab` tokens: `special`
/// ones first, then the 256 bytes, then merges of pairs that occur at least twice, the most frequent first. `around` is
/// its post-processor.
///
/// # Errors
/// The texts have fewer such pairs than are needed, or `vocab` has no room for bytes.
pub fn train_bpe<'t>(
    texts: impl Iterator<Item = &'t str> + Send,
    vocab: usize,
    special: &[&str],
    around: Option<Value>,
) -> Result<String> {
    let least = 256 + special.len();
    if vocab < least {
        let expected = format!("at least {least}, for the 256 bytes and {} special tokens", special.len());
        return Err(Error::Usage(format!("--vocab {vocab}: expected {expected}")));
    }
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.iter().map(|name| added(name)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    check_size(tokenizer.get_vocab_size(true), vocab)?;
    let around: Option<PostProcessorWrapper> = around.map(serde_json::from_value).transpose().map_err(not_json)?;
    tokenizer.with_post_processor(around);
    tokenizer.to_string(true).map_err(failed)
}

fn check_size(found: usize, vocab: usize) -> Result<()> {
    if found < vocab {
        return Err(Error::Usage(format!(
            "--vocab {vocab}: the text supports {found} tokens at most, no further pair of them occurs twice"
        )));
    }
    Ok(())
}

/// The first of the characters that stand for others while WordPiece is learned. BERT's normalizer removes private
/// ones.
const INSIDE: u32 = 0xF0000;

/// WordPiece (Schuster and Nakajima, 2012) over lower-case words without accents, as BERT's uncased models cut them:
/// `special` tokens, each character at the beginning of a word and inside of one, and then merges of neighbours, the
/// most frequent first, as `tokenizers` learns them. No word of known characters is unknown.
///
/// # Errors
/// The texts have fewer pairs than are needed that occur twice, or `vocab` has no room for characters.
pub fn train_wordpiece<'t>(
    texts: impl Iterator<Item = &'t str> + Send,
    vocab: usize,
    special: &[&str],
) -> Result<Value> {
    // The library's own trainer gives characters inside of words other ids each time: here they are learned as
    // characters of their own.
    let words = texts.map(bert_words).collect::<Result<Vec<String>>>()?;
    let characters: BTreeSet<char> = words.iter().flat_map(|text| text.chars()).filter(|&c| c != '\n').collect();
    let least = special.len() + 2 * characters.len();
    if vocab < least {
        let (special, characters) = (special.len(), characters.len());
        let expected =
            format!("at least {least}, for {special} special tokens and {characters} characters in two places each");
        return Err(Error::Usage(format!("--vocab {vocab}: expected {expected}")));
    }
    let characters: Vec<char> = characters.into_iter().collect();
    let inside = |c: char| {
        let index = characters.binary_search(&c).ok().and_then(|index| u32::try_from(index).ok());
        index.and_then(|index| char::from_u32(INSIDE + index)).unwrap_or(c)
    };
    let outside = |c: char| characters.get((u32::from(c).wrapping_sub(INSIDE)) as usize).copied();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.iter().map(|name| added(name)).collect())
        .initial_alphabet(characters.iter().flat_map(|&c| [c, inside(c)]).collect())
        .build();
    let coded = |text: &str| {
        let coded = |word: &str| word.chars().take(1).chain(word.chars().skip(1).map(inside)).collect::<String>();
        Ok(text.split('\n').map(coded).collect())
    };
    trainer.feed(words.iter(), coded).map_err(failed)?;
    let mut pieces = BPE::default();
    trainer.train(&mut pieces).map_err(failed)?;
    let pieces = pieces.get_vocab();
    check_size(pieces.len(), vocab)?;
    let mut by_id: Vec<(u32, String)> = pieces.into_iter().map(|(piece, id)| (id, piece)).collect();
    by_id.sort_unstable();
    let decoded = |piece: &str| {
        let mark = if piece.starts_with(|first| outside(first).is_some()) { "##" } else { "" };
        mark.chars().chain(piece.chars().map(|c| outside(c).unwrap_or(c))).collect::<String>()
    };
    let ids: Map<String, Value> = by_id.iter().map(|(id, piece)| (decoded(piece), Value::from(*id))).collect();
    let mut file = empty_file(special);
    file["normalizer"] = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": true,
        "strip_accents": null,
        "lowercase": true,
    });
    file["pre_tokenizer"] = json!({ "type": "BertPreTokenizer" });
    file["decoder"] = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    file["model"] = json!({
        "type": "WordPiece",
        "unk_token": UNKNOWN,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    });
    Ok(file)
}

/// The words of a text as BERT cuts it, a line each.
fn bert_words(text: &str) -> Result<String> {
    let mut text = NormalizedString::from(text);
    BertNormalizer::default().normalize(&mut text).map_err(failed)?;
    let mut text = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut text).map_err(failed)?;
    let words = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
    Ok(words.iter().map(|(word, _, _)| *word).collect::<Vec<_>>().join("\n"))
}

/// The texts' characters, as nanoGPT's character-level data sets have them: after `special` tokens, ids in the order of
/// code points.
///
/// # Errors
/// A text has U+2581, which stands for the space in such files.
pub fn characters<'t>(texts: impl Iterator<Item = &'t str>, special: &[&str]) -> Result<Value> {
    const SPACE: &str = "\u{2581}";
    let characters: BTreeSet<char> = texts.flat_map(str::chars).collect();
    if characters.contains(&'\u{2581}') {
        return Err(Error::Usage("the text has U+2581, which stands for the space: use --tokenizer bpe".into()));
    }
    let name = |c: &char| if *c == ' ' { SPACE.to_owned() } else { c.to_string() };
    let names = special.iter().map(|&name| name.to_owned()).chain(characters.iter().map(name));
    let vocab: Map<String, Value> = names.enumerate().map(|(id, name)| (name, Value::from(id))).collect();
    let mut file = empty_file(special);
    file["normalizer"] = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    file["decoder"] = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": SPACE }, "content": " " },
        { "type": "Fuse" },
    ] });
    file["model"] = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": [],
    });
    Ok(file)
}

/// A tokenizer.json that does nothing yet; the n-th special token is token n.
fn empty_file(special: &[&str]) -> Value {
    let token = |(id, name): (usize, &&str)| {
        json!({
            "id": id, "content": name, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.iter().enumerate().map(token).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": null,
    })
}

#[cfg(test)]
mod tests {
    use thumbformer::tokenizer::EncodeOptions;

    use super::*;
    use crate::tokenizer::{decode, encode, load_bytes};

    /// Neighbours in hug (3), HÜG (1), hugs (1), pug (2), by hand: u g 7 times, h u 5, then h ug 5, p ug 2, hug s once.
    const WORDS: [&str; 2] = ["hug hug HÜG pug", "hugs\npug hug"];

    #[test]
    fn word_pieces_are_merged_by_frequency_and_cut_words_that_were_never_seen() {
        let made = make(Kind::Wordpiece, WORDS.into_iter(), 18, &Markup::MASKED).unwrap();
        let file: Value = serde_json::from_str(&made).unwrap();
        let mut pieces: Vec<(u64, &str)> = file["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(piece, id)| (id.as_u64().unwrap(), &**piece))
            .collect();
        pieces.sort_unstable();
        let pieces: Vec<&str> = pieces.into_iter().map(|(_, piece)| piece).collect();
        let [special, characters, merges] = [&pieces[..5], &pieces[5..15], &pieces[15..]];
        assert_eq!(special, Markup::MASKED.names());
        assert_eq!(characters, ["g", "h", "p", "s", "u", "##g", "##h", "##p", "##s", "##u"]);
        assert_eq!(merges, ["##ug", "hug", "pug"]);

        let packed = load_bytes(std::path::Path::new("tokenizer.json"), made.as_bytes()).unwrap();
        let tokenizer = packed.tokenizer().unwrap();
        let ids = encode(&tokenizer, "Pugs [MASK] shp", EncodeOptions::default()).unwrap();
        assert_eq!(ids, [2, 17, 13, 4, 8, 11, 12, 3]);
        assert_eq!(decode(&tokenizer, &ids, true), "pugs shp");
        assert_eq!(encode(&tokenizer, "x", EncodeOptions::default()).unwrap(), [2, 1, 3]);
    }

    #[test]
    fn a_vocabulary_has_room_for_characters_and_no_more_pieces_than_the_text_supports() {
        let make = |vocab| make(Kind::Wordpiece, WORDS.into_iter(), vocab, &Markup::MASKED);
        let error = make(14).unwrap_err().to_string();
        assert!(error.contains("at least 15, for 5 special tokens and 5 characters in two places each"), "{error}");
        let error = make(19).unwrap_err().to_string();
        assert!(error.contains("--vocab 19: the text supports 18 tokens at most"), "{error}");
    }
}
