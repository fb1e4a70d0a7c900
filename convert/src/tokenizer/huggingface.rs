//! Hugging Face's tokenizer.json, and the older vocab.json with merges.txt.
//!
//! Every component of a tokenizer.json is either carried to the device exactly or refused by name. Components and
//! fields that are not known here are refused too: they may change the ids.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use thumbformer::tokenizer::{AddedFlags, Digits, Invalid, Kind, Missing, Prefix, Split, Strip};

use super::draft::{Draft, Merges, Token, TokenTable};
use crate::config::Config;
use crate::{Error, Result};

/// Llama 3's pattern.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// Reads the fields of a tokenizer.json.
pub(super) fn read(file: &Config) -> Result<Draft> {
    let model = file.object("model")?.ok_or_else(|| {
        Error::format(
            file.path(),
            "not a tokenizer.json: it has no field `model`; name the tokenizer's file or its folder",
        )
    })?;
    only(
        file,
        &[
            "version",
            "truncation",
            "padding",
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
        ],
    )?;
    let rules = Rules::read(file, &model)?;
    let mut draft = read_model(file, &model, &rules)?;
    if let Some(post_processor) = file.object("post_processor")? {
        read_post_processor(&post_processor, &mut draft)?;
    }
    for field in ["truncation", "padding"] {
        if file.get(field).is_some() {
            draft.notes.push(format!("tokenizer.json asks for {field}: left out, texts keep their own length"));
        }
    }
    draft.notes.extend(rules.notes);
    Ok(draft)
}

/// Reads vocab.json and merges.txt, which together are GPT-2's tokenizer.
pub(super) fn read_pair(vocab: &Config, merges: &Path, text: &[u8]) -> Result<Draft> {
    let text = std::str::from_utf8(text).map_err(|error| Error::format(merges, format!("not UTF-8: {error}")))?;
    // The first line may be a `#version` comment; `#` can also begin a merge.
    let lines =
        text.lines().enumerate().filter(|(n, line)| !(line.is_empty() || *n == 0 && line.starts_with("#version")));
    let lines: Vec<Value> = lines.map(|(_, line)| Value::from(line)).collect();
    let end_of_text = "<|endoftext|>";
    let mut fields = serde_json::Map::new();
    fields.insert("type".into(), "BPE".into());
    fields.insert("vocab".into(), vocab.fields().map(|(name, id)| (name.to_owned(), id.clone())).collect());
    fields.insert("merges".into(), lines.into());
    let byte_level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false });
    let mut added = Vec::new();
    if let Some(id) = vocab.integer(end_of_text)? {
        added.push(serde_json::json!({ "id": id, "content": end_of_text, "special": true }));
    }
    let file = serde_json::json!({
        "model": fields, "pre_tokenizer": byte_level, "decoder": byte_level, "added_tokens": added,
    });
    let Value::Object(file) = file else { return Err(Error::format(vocab.path(), "found no object, expected one")) };
    read(&Config::new(vocab.path(), "", file))
}

/// What normalizer, pre-tokenizer and decoder come to.
struct Rules {
    kind: Kind,
    split: Split,
    digits: Digits,
    prefix: Prefix,
    strip: Strip,
    invalid: Invalid,
    /// The normalizer changes the text that normalized added tokens are looked for in.
    normalizes: bool,
    notes: Vec<String>,
}

impl Rules {
    fn read(file: &Config, model: &Config) -> Result<Self> {
        let mut rules = Rules {
            kind: Kind::ByteBpe,
            split: Split::None,
            digits: Digits::Joined,
            prefix: Prefix::Never,
            strip: Strip::None,
            invalid: Invalid::Lossy,
            normalizes: false,
            notes: Vec::new(),
        };
        let decoder = components(file, "decoder", "decoders")?;
        let expected = "a ByteLevel decoder, or Replace, ByteFallback and Fuse (and Strip)";
        match decoder.first() {
            Some(first) if kind_of(first)? == "ByteLevel" && decoder.len() == 1 => {
                only(first, &["type", "add_prefix_space", "trim_offsets", "use_regex"])?;
                rules.read_byte_level(file)?;
            }
            Some(_) => {
                rules.kind = Kind::CharBpe;
                rules.read_space_decoder(file, &decoder)?;
                rules.read_space_rules(file)?;
                if model.boolean("ignore_merges")? == Some(true) {
                    return Err(model.error("ignore_merges", "false, for a vocabulary of characters"));
                }
            }
            None => return Err(file.error("decoder", expected)),
        }
        Ok(rules)
    }

    /// Normalizer and pre-tokenizers around a ByteLevel one.
    fn read_byte_level(&mut self, file: &Config) -> Result<()> {
        for normalizer in components(file, "normalizer", "normalizers")? {
            match kind_of(&normalizer)? {
                "NFC" => self.notes.push(
                    "the tokenizer composes characters (NFC) first: the device does not, give it composed text".into(),
                ),
                _ => return Err(normalizer.error("type", "NFC or no normalizer, with a ByteLevel decoder")),
            }
        }
        let pre_tokenizers = components(file, "pre_tokenizer", "pretokenizers")?;
        let (last, before) = pre_tokenizers.split_last().ok_or_else(|| file.error("pre_tokenizer", "ByteLevel"))?;
        if kind_of(last)? != "ByteLevel" {
            return Err(last.error("type", "ByteLevel, with a ByteLevel decoder"));
        }
        only(last, &["type", "add_prefix_space", "trim_offsets", "use_regex"])?;
        for pre_tokenizer in before {
            match kind_of(pre_tokenizer)? {
                "Digits" if self.split == Split::None && self.digits == Digits::Joined => {
                    only(pre_tokenizer, &["type", "individual_digits"])?;
                    let single = pre_tokenizer.boolean("individual_digits")?.unwrap_or(false);
                    self.digits = if single { Digits::Single } else { Digits::Apart };
                }
                "Split" if self.split == Split::None => self.read_split(pre_tokenizer)?,
                _ => return Err(pre_tokenizer.error("type", "Digits, then Split, each once, before ByteLevel")),
            }
        }
        // An absent `use_regex` is true: files from before the field exist.
        if last.boolean("use_regex")?.unwrap_or(true) {
            if self.split != Split::None {
                return Err(last.error("use_regex", "false after a Split"));
            }
            self.split = Split::Gpt2;
        }
        if last.boolean("add_prefix_space")?.unwrap_or(true) {
            if !before.is_empty() {
                return Err(last.error("add_prefix_space", "false after other pre-tokenizers"));
            }
            self.prefix = Prefix::Missing;
        }
        Ok(())
    }

    /// A Split pre-tokenizer with a pattern that the device knows.
    fn read_split(&mut self, split: &Config) -> Result<()> {
        only(split, &["type", "pattern", "behavior", "invert"])?;
        let pattern = split.object("pattern")?.ok_or_else(|| split.error("pattern", "an object"))?;
        self.split = match pattern.string("Regex")? {
            Some(LLAMA3) => Split::Llama3,
            Some(QWEN2) => Split::Qwen2,
            Some(GPT2) => Split::Gpt2,
            _ => return Err(pattern.error("Regex", "the pattern of GPT-2, Llama 3 or Qwen 2")),
        };
        if split.string("behavior")? != Some("Isolated") {
            return Err(split.error("behavior", "Isolated"));
        }
        match split.boolean("invert")?.unwrap_or(false) {
            true => Err(split.error("invert", "false")),
            false => Ok(()),
        }
    }

    /// The decoders of a vocabulary that writes spaces as U+2581.
    fn read_space_decoder(&mut self, file: &Config, decoders: &[Config]) -> Result<()> {
        let mut rest = decoders;
        let mut next_is = |wanted: &str| -> Result<Option<&Config>> {
            match rest.split_first() {
                Some((first, tail)) if kind_of(first)? == wanted => {
                    rest = tail;
                    Ok(Some(first))
                }
                _ => Ok(None),
            }
        };
        if let Some(metaspace) = next_is("Metaspace")? {
            if metaspace_prefix(metaspace)? != Prefix::Never {
                self.strip = Strip::FirstToken;
            }
        } else {
            let replace = next_is("Replace")?.ok_or_else(|| {
                file.error("decoder", "a ByteLevel decoder, a Metaspace one, or Replace, ByteFallback, Fuse and Strip")
            })?;
            check_replace(replace, &SPACE.to_string(), " ")?;
            if next_is("ByteFallback")?.is_some() {
                self.invalid = Invalid::Run;
            }
            if next_is("Fuse")?.is_some()
                && let Some(strip) = next_is("Strip")?
            {
                only(strip, &["type", "content", "start", "stop"])?;
                if strip.string("content")? != Some(" ") {
                    return Err(strip.error("content", "a space"));
                }
                if strip.integer("stop")?.unwrap_or(0) != 0 {
                    return Err(strip.error("stop", "0"));
                }
                self.strip = match strip.integer("start")? {
                    Some(1) => Strip::Text,
                    None | Some(0) => Strip::None,
                    Some(_) => return Err(strip.error("start", "0 or 1")),
                };
            }
        }
        match rest.first() {
            Some(extra) => Err(extra.error("type", "nothing after Replace, ByteFallback, Fuse and Strip")),
            None => Ok(()),
        }
    }

    /// Normalizers or pre-tokenizers that write spaces as U+2581.
    fn read_space_rules(&mut self, file: &Config) -> Result<()> {
        let mut replaces = false;
        for normalizer in components(file, "normalizer", "normalizers")? {
            match kind_of(&normalizer)? {
                "Prepend" if !replaces && self.prefix == Prefix::Never => {
                    only(&normalizer, &["type", "prepend"])?;
                    if normalizer.string("prepend")? != Some("\u{2581}") {
                        return Err(normalizer.error("prepend", "U+2581"));
                    }
                    self.prefix = Prefix::Always;
                }
                "Replace" if !replaces => {
                    check_replace(&normalizer, " ", &SPACE.to_string())?;
                    replaces = true;
                }
                _ => return Err(normalizer.error("type", "Prepend, then Replace, each at most once")),
            }
            self.normalizes = true;
        }
        let pre_tokenizers = components(file, "pre_tokenizer", "pretokenizers")?;
        match pre_tokenizers.as_slice() {
            [] if replaces => Ok(()),
            [metaspace] if !self.normalizes && kind_of(metaspace)? == "Metaspace" => {
                self.prefix = metaspace_prefix(metaspace)?;
                if metaspace.boolean("split")?.unwrap_or(true) {
                    self.split = Split::Spaces;
                }
                Ok(())
            }
            [] => Err(file.error("normalizer", "a Replace of spaces by U+2581, or a Metaspace pre-tokenizer")),
            [first, ..] => Err(first.error("type", "one Metaspace pre-tokenizer, or none after a Replace normalizer")),
        }
    }
}

/// The prefix rule of a Metaspace component, whose other fields are checked.
fn metaspace_prefix(metaspace: &Config) -> Result<Prefix> {
    only(metaspace, &["type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"])?;
    for field in ["replacement", "str_rep"] {
        if metaspace.string(field)?.is_some_and(|replacement| replacement != "\u{2581}") {
            return Err(metaspace.error(field, "U+2581"));
        }
    }
    let scheme = metaspace.string("prepend_scheme")?;
    let prefix = match scheme {
        None | Some("always") => Prefix::Missing,
        Some("first") => Prefix::FirstMissing,
        Some("never") => Prefix::Never,
        Some(_) => return Err(metaspace.error("prepend_scheme", "always, first or never")),
    };
    // The field that `prepend_scheme` replaced.
    match metaspace.boolean("add_prefix_space")? {
        Some(false) if scheme.is_none() => Ok(Prefix::Never),
        Some(false) if prefix != Prefix::Never => Err(metaspace.error("add_prefix_space", "what prepend_scheme says")),
        _ => Ok(prefix),
    }
}

fn check_replace(replace: &Config, from: &str, to: &str) -> Result<()> {
    only(replace, &["type", "pattern", "content"])?;
    let pattern = replace.object("pattern")?.ok_or_else(|| replace.error("pattern", "an object"))?;
    only(&pattern, &["String"])?;
    if pattern.string("String")? != Some(from) {
        return Err(pattern.error("String", format!("{from:?}")));
    }
    if replace.string("content")? != Some(to) {
        return Err(replace.error("content", format!("{to:?}")));
    }
    Ok(())
}

/// The model, the added tokens, and what they mean on the device.
fn read_model(file: &Config, model: &Config, rules: &Rules) -> Result<Draft> {
    let path = file.path();
    // Files from before 2020 name no type; only BPE has merges.
    if model.string("type")?.is_some_and(|kind| kind != "BPE") || model.get("merges").is_none() {
        return Err(model.error("type", "BPE (other tokenizers are not supported yet)"));
    }
    only(
        model,
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
    )?;
    if model.number("dropout")?.unwrap_or(0.0) != 0.0 {
        return Err(model.error("dropout", "none: with it, the same text has different ids each time"));
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.string(field)?.is_some_and(|affix| !affix.is_empty()) {
            return Err(model.error(field, "none"));
        }
    }
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| model.error("vocab", "an object"))?;
    // In order of ids, so that a hole in them is told from an absurd id.
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, id) in vocab {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| field_error(path, format!("model.vocab.{name}"), vocab.get(name), "an id"))?;
        if let Some(other) = names.insert(id, name) {
            let expected = format!("an id of its own, {id} is {other:?}");
            return Err(field_error(path, format!("model.vocab.{name}"), vocab.get(name), &expected));
        }
    }
    let id_of = |name: &str| vocab.get(name).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());

    let mut table = TokenTable::default();
    for (&id, &name) in &names {
        table.insert(path, || format!("model.vocab.{name}"), id, plain_token(rules.kind, name))?;
    }
    let added = read_added_tokens(file, rules, id_of, &mut table)?;
    let mut draft = Draft::new(rules.kind, table.finish());
    draft.names = names.into_iter().map(|(id, name)| (name.to_owned(), id)).collect();
    for token in added {
        draft.added.push((token.id, token.flags));
        draft.names.insert(token.content, token.id);
        if token.special {
            draft.special.insert(token.id);
        }
    }
    (draft.split, draft.digits, draft.prefix) = (rules.split, rules.digits, rules.prefix);
    (draft.strip, draft.invalid) = (rules.strip, rules.invalid);
    if rules.prefix == Prefix::Always && draft.added.iter().any(|(_, flags)| flags.0 & AddedFlags::NORMALIZED != 0) {
        draft.notes.push(
            "added tokens are normalized behind a Prepend normalizer: Hugging Face decodes them with a space before \
             them and never leaves them out; the device decodes them like other added tokens"
                .into(),
        );
    }
    draft.whole_words = model.boolean("ignore_merges")?.unwrap_or(false);

    let has_byte_tokens = rules.kind == Kind::CharBpe && read_byte_tokens(path, id_of, &mut draft)?;
    draft.missing = if has_byte_tokens && model.boolean("byte_fallback")?.unwrap_or(false) {
        Missing::Bytes
    } else if let Some(unknown) = model.string("unk_token")? {
        let id = id_of(unknown).ok_or_else(|| model.error("unk_token", "a token of the vocabulary"))?;
        draft.unknown = Some(id);
        if model.boolean("fuse_unk")?.unwrap_or(false) { Missing::FusedUnknown } else { Missing::Unknown }
    } else {
        Missing::Drop
    };
    if draft.invalid != Invalid::Run {
        // Nothing turns byte tokens into bytes again, so they decode to their names.
        if let Some(first) = draft.first_byte {
            let expected = "a ByteFallback decoder, because the vocabulary has byte tokens";
            return Err(field_error(path, "decoder".into(), Some(&Value::from(first)), expected));
        }
    }
    draft.merges = Merges::Pairs(read_merges(model, &draft, id_of)?);
    Ok(draft)
}

/// A token of the model's vocabulary.
fn plain_token(kind: Kind, name: &str) -> Token {
    match kind {
        Kind::ByteBpe => match name.chars().map(byte_of_char).collect() {
            Some(bytes) => Token { bytes, plain: true },
            // Text never becomes such characters, and the decoder leaves the token as it is.
            None => Token { bytes: name.into(), plain: false },
        },
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
fn read_byte_tokens(path: &Path, id_of: impl Fn(&str) -> Option<u32>, draft: &mut Draft) -> Result<bool> {
    let Some(first) = id_of("<0x00>") else { return Ok(false) };
    for byte in 0..=255u8 {
        let name = format!("<0x{byte:02X}>");
        let expected = first.checked_add(byte.into());
        match (id_of(&name), expected) {
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

fn read_merges(model: &Config, draft: &Draft, id_of: impl Fn(&str) -> Option<u32>) -> Result<Vec<[u32; 3]>> {
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
        let id = |name: &str| id_of(name).ok_or_else(|| error(&format!("tokens of the vocabulary, {name:?} is none")));
        let ids = [id(left)?, id(right)?, id(&format!("{left}{right}"))?];
        let is_byte = |id: u32| draft.first_byte.is_some_and(|first| (first..=first + 255).contains(&id));
        if ids.iter().any(|&id| is_byte(id) || draft.unknown == Some(id)) {
            return Err(error("no merges of byte tokens or the unknown token"));
        }
        Ok(ids)
    };
    list.iter().enumerate().map(merge).collect()
}

struct AddedToken {
    id: u32,
    content: String,
    flags: AddedFlags,
    special: bool,
}

fn read_added_tokens(
    file: &Config,
    rules: &Rules,
    id_of: impl Fn(&str) -> Option<u32>,
    table: &mut TokenTable,
) -> Result<Vec<AddedToken>> {
    let Some(list) = file.get("added_tokens") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| file.error("added_tokens", "a list"))?;
    let mut added: Vec<AddedToken> = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let prefix = format!("added_tokens[{index}].");
        let Value::Object(fields) = entry else {
            return Err(field_error(file.path(), format!("added_tokens[{index}]"), Some(entry), "an object"));
        };
        let token = Config::new(file.path(), prefix.clone(), fields.clone());
        only(&token, &["id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"])?;
        let content = token.string("content")?.ok_or_else(|| token.error("content", "a string"))?;
        if content.is_empty() {
            continue; // never found in a text
        }
        if added.iter().any(|other| other.content == content) {
            return Err(token.error("content", "no added token twice"));
        }
        let id = token.required("id")?;
        let flag =
            |field: &str, bit: u8| -> Result<u8> { Ok(if token.boolean(field)?.unwrap_or(false) { bit } else { 0 }) };
        if flag("single_word", 1)? != 0 {
            return Err(token.error("single_word", "false"));
        }
        let special = flag("special", 1)? != 0;
        let mut flags = flag("lstrip", AddedFlags::LSTRIP)? | flag("rstrip", AddedFlags::RSTRIP)?;
        // An absent `normalized` is true for tokens that are not special.
        let normalized = token.boolean("normalized")?.unwrap_or(!special);
        if normalized {
            if flags != 0 && rules.normalizes {
                return Err(token.error("normalized", "false for a token that takes white space along"));
            }
            flags |= AddedFlags::NORMALIZED;
        }
        let decoded = plain_token(rules.kind, content).bytes;
        // The device has one spelling of a token: the decoder's, which must be what is looked for in texts. There,
        // U+2581 is a space for normalized tokens only.
        let exact = match (rules.kind, normalized && rules.normalizes) {
            (Kind::ByteBpe, _) => decoded == content.as_bytes(),
            (_, true) => true,
            (_, false) => !(content.contains(SPACE) || normalized && content.contains(' ')),
        };
        if !exact {
            return Err(token.error("content", "text that the decoder leaves as it is"));
        }
        match id_of(content) {
            Some(in_model) if in_model == id => {}
            Some(in_model) => return Err(token.error("id", format!("{in_model}, its id in model.vocab"))),
            None => {
                let token = Token { bytes: decoded, plain: false };
                table.insert(file.path(), || format!("{prefix}id"), id, token)?;
            }
        }
        added.push(AddedToken { id, content: content.into(), flags: AddedFlags(flags), special });
    }
    Ok(added)
}

/// Ids that are put around every text.
fn read_post_processor(post_processor: &Config, draft: &mut Draft) -> Result<()> {
    match kind_of(post_processor)? {
        "ByteLevel" => Ok(()), // concerns offsets only
        "Sequence" => {
            let parts = post_processor.objects("processors")?;
            let templates = parts.iter().filter(|part| kind_of(part).is_ok_and(|kind| kind != "ByteLevel")).count();
            if templates > 1 {
                return Err(post_processor.error("processors", "one that is not ByteLevel"));
            }
            parts.iter().try_for_each(|part| match kind_of(part)? {
                "Sequence" => Err(part.error("type", "no Sequence inside a Sequence")),
                _ => read_post_processor(part, draft),
            })
        }
        "BertProcessing" | "RobertaProcessing" => {
            for (field, affix) in ["cls", "sep"].into_iter().zip(&mut draft.template) {
                let id = match post_processor.get(field).and_then(Value::as_array).map(Vec::as_slice) {
                    Some([Value::String(_), id]) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
                    _ => None,
                };
                affix.push(id.ok_or_else(|| post_processor.error(field, "a token and its id"))?);
            }
            check_template(post_processor, draft)
        }
        "TemplateProcessing" => {
            only(post_processor, &["type", "single", "pair", "special_tokens"])?;
            let tokens = post_processor.object("special_tokens")?;
            let mut seen_text = 0;
            for piece in post_processor.objects("single")? {
                if let Some(sequence) = piece.object("Sequence")? {
                    if sequence.string("id")? != Some("A") {
                        return Err(sequence.error("id", "A"));
                    }
                    seen_text += 1;
                    continue;
                }
                let special = piece.object("SpecialToken")?.ok_or_else(|| piece.error("SpecialToken", "an object"))?;
                let name = special.string("id")?.ok_or_else(|| special.error("id", "a string"))?;
                let token = tokens.as_ref().map(|tokens| tokens.object(name)).transpose()?.flatten();
                let token = token.ok_or_else(|| special.error("id", "one of special_tokens"))?;
                let ids = token.token_ids("ids")?.ok_or_else(|| token.error("ids", "a list of ids"))?;
                draft.template[seen_text.min(1)].extend(ids);
            }
            if seen_text != 1 {
                return Err(post_processor.error("single", "the sequence A once"));
            }
            check_template(post_processor, draft)
        }
        _ => Err(post_processor.error("type", "TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel")),
    }
}

fn check_template(post_processor: &Config, draft: &Draft) -> Result<()> {
    match draft.template.iter().flatten().find(|&&id| id as usize >= draft.tokens.len()) {
        Some(id) => Err(post_processor.error("type", format!("ids of tokens, {id} is none"))),
        None => Ok(()),
    }
}

/// Refuses fields that are not known here.
fn only(config: &Config, known: &[&str]) -> Result<()> {
    match config.fields().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => Err(config.error(name, "no such field")),
        None => Ok(()),
    }
}

/// A component's type.
fn kind_of(component: &Config) -> Result<&str> {
    component.string("type")?.ok_or_else(|| component.error("type", "a component's name"))
}

/// A component, or the components of a Sequence.
fn components(file: &Config, field: &str, of_sequence: &str) -> Result<Vec<Config>> {
    let Some(component) = file.object(field)? else { return Ok(Vec::new()) };
    if kind_of(&component)? != "Sequence" {
        return Ok(vec![component]);
    }
    only(&component, &["type", of_sequence])?;
    component.objects(of_sequence)
}

fn field_error(path: &Path, field: String, found: Option<&Value>, expected: &str) -> Error {
    let found = found.map_or("nothing".into(), Value::to_string);
    Error::Field { path: path.into(), field, found, expected: expected.into() }
}
