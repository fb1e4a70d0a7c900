//! Models: vocabularies, merges and scores.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use thumbformer::tokenizer::{AddedFlags, Invalid, Kind, Missing, Prefix};

use super::super::draft::{Draft, Merges, Scores, Token, TokenTable, UNKNOWN_PENALTY};
use super::rules::{Rules, SPACE};
use super::{added, field_error, only};
use crate::Result;
use crate::config::Config;

/// The model, the added tokens, and what they mean on the device.
pub(super) fn read(file: &Config, model: &Config, rules: &Rules) -> Result<Draft> {
    let path = file.path();
    // Files from before 2020 name no type; only BPE has merges.
    let kind = model.string("type")?.unwrap_or(if model.get("merges").is_some() { "BPE" } else { "none" });
    let (fields, fits): (&[&str], bool) = match kind {
        "BPE" => (
            &[
                "type",
                "dropout",
                "unk_token",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "fuse_unk",
                "byte_fallback",
                "ignore_merges",
                "vocab",
                "merges",
            ],
            matches!(rules.kind, Kind::ByteBpe | Kind::CharBpe),
        ),
        "WordPiece" => (
            &["type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"],
            rules.kind == Kind::WordPiece,
        ),
        "Unigram" => (&["type", "unk_id", "vocab", "byte_fallback"], rules.kind == Kind::Unigram),
        _ => return Err(model.error("type", "BPE, WordPiece or Unigram")),
    };
    if !fits {
        let expected = match kind {
            "BPE" => "ByteLevel, or Replace, ByteFallback and Fuse, for a BPE model",
            "WordPiece" => "WordPiece, for a WordPiece model",
            _ => "Metaspace, or Replace, ByteFallback and Fuse, for a Unigram model",
        };
        return Err(file.error("decoder", expected));
    }
    only(model, fields)?;
    let vocab = match kind {
        "Unigram" => Vocab::from_list(model)?,
        _ => Vocab::from_object(model)?,
    };
    let mut table = TokenTable::default();
    for (&id, &name) in &vocab.names {
        table.insert(path, || format!("model.vocab.{name}"), id, plain_token(rules.kind, name))?;
    }
    let added = added::read(file, rules, |name| vocab.id(name), &mut table)?;
    let mut draft = Draft::new(rules.kind, table.finish());
    draft.names = vocab.names.iter().map(|(&id, &name)| (name.to_owned(), id)).collect();
    for token in added {
        draft.added.push((token.id, token.flags));
        draft.names.insert(token.content, token.id);
        if token.special {
            draft.special.insert(token.id);
        }
    }
    (draft.split, draft.digits, draft.prefix) = (rules.split, rules.digits, rules.prefix);
    (draft.strip, draft.invalid, draft.cleanup) = (rules.strip, rules.invalid, rules.cleanup);
    (draft.normalizer, draft.pre_tokenizer) = (rules.normalizer.clone(), rules.pre_tokenizer.clone());
    match kind {
        "BPE" => read_bpe(path, model, rules, &vocab, &mut draft)?,
        "WordPiece" => read_wordpiece(model, &vocab, &mut draft)?,
        _ => read_unigram(path, model, &vocab, &mut draft)?,
    }
    if draft.invalid != Invalid::Run {
        // Nothing turns byte tokens into bytes again, so they decode to their names.
        if let Some(first) = draft.first_byte {
            let expected = "a ByteFallback decoder, because the vocabulary has byte tokens";
            return Err(field_error(path, "decoder".into(), Some(&Value::from(first)), expected));
        }
    }
    Ok(draft)
}

/// The names and ids of a model's tokens.
struct Vocab<'v> {
    ids: HashMap<&'v str, u32>,
    /// In order of ids, so that a hole in them is told from an absurd id.
    names: BTreeMap<u32, &'v str>,
    /// A score for each id; empty where there are none.
    scores: Vec<f64>,
}

impl<'v> Vocab<'v> {
    fn from_object(model: &'v Config) -> Result<Self> {
        let path = model.path();
        let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| model.error("vocab", "an object"))?;
        let mut names: BTreeMap<u32, &str> = BTreeMap::new();
        for (name, value) in vocab {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| field_error(path, format!("model.vocab.{name}"), Some(value), "an id"))?;
            if let Some(other) = names.insert(id, name) {
                let expected = format!("an id of its own, {id} is {other:?}");
                return Err(field_error(path, format!("model.vocab.{name}"), Some(value), &expected));
            }
        }
        Ok(Vocab { ids: names.iter().map(|(&id, &name)| (name, id)).collect(), names, scores: Vec::new() })
    }

    /// A list of tokens with their scores.
    fn from_list(model: &'v Config) -> Result<Self> {
        let list = model.get("vocab").and_then(Value::as_array).ok_or_else(|| model.error("vocab", "a list"))?;
        let mut vocab = Vocab { ids: HashMap::new(), names: BTreeMap::new(), scores: Vec::new() };
        for (id, entry) in (0..).zip(list) {
            let error = |expected: &str| field_error(model.path(), format!("model.vocab[{id}]"), Some(entry), expected);
            let (name, score) = match entry.as_array().map(Vec::as_slice) {
                Some([Value::String(name), score]) => score.as_f64().map(|score| (name.as_str(), score)),
                _ => None,
            }
            .ok_or_else(|| error("a token and its score"))?;
            if let Some(other) = vocab.ids.insert(name, id) {
                return Err(error(&format!("a token of its own, {name:?} is {other} already")));
            }
            vocab.names.insert(id, name);
            vocab.scores.push(score);
        }
        Ok(vocab)
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }
}

fn read_bpe(path: &Path, model: &Config, rules: &Rules, vocab: &Vocab<'_>, draft: &mut Draft) -> Result<()> {
    if model.number("dropout")?.unwrap_or(0.0) != 0.0 {
        return Err(model.error("dropout", "none: with it, the same text has different ids each time"));
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.string(field)?.is_some_and(|affix| !affix.is_empty()) {
            return Err(model.error(field, "none"));
        }
    }
    if rules.prefix == Prefix::Always && draft.added.iter().any(|(_, flags)| flags.0 & AddedFlags::NORMALIZED != 0) {
        draft.notes.push(
            "added tokens are normalized behind a Prepend normalizer: Hugging Face decodes them with a space before \
             them and never leaves them out; the device decodes them like other added tokens"
                .into(),
        );
    }
    draft.whole_words = model.boolean("ignore_merges")?.unwrap_or(false);

    let has_byte_tokens = rules.kind == Kind::CharBpe && read_byte_tokens(path, vocab, draft)?;
    draft.missing = if has_byte_tokens && model.boolean("byte_fallback")?.unwrap_or(false) {
        Missing::Bytes
    } else if let Some(unknown) = model.string("unk_token")? {
        let id = vocab.id(unknown).ok_or_else(|| model.error("unk_token", "a token of the vocabulary"))?;
        draft.unknown = Some(id);
        if model.boolean("fuse_unk")?.unwrap_or(false) { Missing::FusedUnknown } else { Missing::Unknown }
    } else {
        Missing::Drop
    };
    draft.merges = Merges::Pairs(read_merges(model, draft, vocab)?);
    Ok(())
}

fn read_wordpiece(model: &Config, vocab: &Vocab<'_>, draft: &mut Draft) -> Result<()> {
    let unknown = model.string("unk_token")?.unwrap_or("[UNK]");
    let id = vocab.id(unknown).ok_or_else(|| model.error("unk_token", "a token of the vocabulary"))?;
    (draft.unknown, draft.missing) = (Some(id), Missing::Unknown);
    draft.continuation = model.string("continuing_subword_prefix")?.unwrap_or("##").into();
    draft.max_word_chars = model.integer("max_input_chars_per_word")?.unwrap_or(100);
    if !draft.cleanup {
        return Ok(());
    }
    // The library also changes what stands inside of tokens, if they have spaces.
    let inner = |token: &Token| String::from_utf8_lossy(&token.bytes).contains([' ']);
    match draft.tokens.iter().position(inner) {
        Some(id) => Err(field_error(
            model.path(),
            format!("token {id}"),
            Some(&Value::from(String::from_utf8_lossy(draft.bytes(id as u32)))),
            "no spaces inside of tokens, with a decoder that cleans up",
        )),
        None => Ok(()),
    }
}

fn read_unigram(path: &Path, model: &Config, vocab: &Vocab<'_>, draft: &mut Draft) -> Result<()> {
    let unknown = model.integer("unk_id")?.filter(|&id| (id as usize) < vocab.scores.len());
    draft.unknown = Some(unknown.ok_or_else(|| model.error("unk_id", "a token of the vocabulary"))?);
    draft.missing = Missing::FusedUnknown;
    let has_byte_tokens = read_byte_tokens(path, vocab, draft)?;
    if model.boolean("byte_fallback")?.unwrap_or(false) && has_byte_tokens {
        draft.missing = Missing::Bytes;
    }
    let lowest = vocab.scores.iter().copied().fold(f64::INFINITY, f64::min);
    let mut scores = vocab.scores.clone();
    scores.resize(draft.tokens.len(), 0.0);
    draft.scores = Some(Scores {
        scores,
        unknown: lowest - UNKNOWN_PENALTY,
        single_sums: false,
        // The library finds every token of the vocabulary in a text, by its name.
        named_bytes: has_byte_tokens,
    });
    Ok(())
}

/// A token of the model's vocabulary.
pub(super) fn plain_token(kind: Kind, name: &str) -> Token {
    match kind {
        Kind::ByteBpe => match name.chars().map(byte_of_char).collect() {
            Some(bytes) => Token { bytes, plain: true },
            // Text never becomes such characters, and the decoder leaves the token as it is.
            None => Token { bytes: name.into(), plain: false },
        },
        Kind::WordPiece => Token { bytes: name.into(), plain: true },
        // Spaces in text are U+2581 before they are looked up.
        _ => Token { bytes: name.replace(SPACE, " ").into(), plain: !name.contains(' ') },
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 characters are their own byte, the other
/// 68 bytes are U+0100 and up.
fn byte_of_char(c: char) -> Option<u8> {
    let is_own = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match c as u32 {
        code if is_own(code) => u8::try_from(code).ok(),
        code => {
            let nth = code.checked_sub(0x100)? as usize;
            (0..=255).filter(|&byte| !is_own(byte.into())).nth(nth)
        }
    }
}

/// Finds `<0x00>` to `<0xFF>`; whether there are any.
fn read_byte_tokens(path: &Path, vocab: &Vocab<'_>, draft: &mut Draft) -> Result<bool> {
    let Some(first) = vocab.id("<0x00>") else { return Ok(false) };
    for byte in 0..=255u8 {
        let name = format!("<0x{byte:02X}>");
        let expected = first.checked_add(byte.into());
        match (vocab.id(&name), expected) {
            (Some(id), Some(expected)) if id == expected => {
                draft.tokens[id as usize] = Token { bytes: vec![byte], plain: false }
            }
            (found, _) => {
                let found = found.map(Value::from);
                let expected = format!("{}: byte tokens must follow each other", u64::from(first) + u64::from(byte));
                return Err(field_error(path, format!("model.vocab.{name}"), found.as_ref(), &expected));
            }
        }
    }
    draft.first_byte = Some(first);
    Ok(true)
}

fn read_merges(model: &Config, draft: &Draft, vocab: &Vocab<'_>) -> Result<Vec<[u32; 3]>> {
    let list = model.get("merges").and_then(Value::as_array).ok_or_else(|| model.error("merges", "a list"))?;
    let merge = |(index, entry): (usize, &Value)| {
        let error = |expected: &str| field_error(model.path(), format!("model.merges[{index}]"), Some(entry), expected);
        let (left, right) = match entry {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| error("two tokens"))?;
        let id =
            |name: &str| vocab.id(name).ok_or_else(|| error(&format!("tokens of the vocabulary, {name:?} is none")));
        let ids = [id(left)?, id(right)?, id(&format!("{left}{right}"))?];
        let is_byte = |id: u32| draft.first_byte.is_some_and(|first| (first..=first + 255).contains(&id));
        if ids.iter().any(|&id| is_byte(id) || draft.unknown == Some(id)) {
            return Err(error("no merges of byte tokens or the unknown token"));
        }
        Ok(ids)
    };
    list.iter().enumerate().map(merge).collect()
}
