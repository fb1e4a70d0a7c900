//! Pre-tokenizers and decoders: how text is cut into words, and what becomes of spaces.

use thumbformer::tokenizer::{Digits, Invalid, Kind, Prefix, Split, Strip};

use super::super::normalizer::{Mapping, Program, Step};
use super::normalizer::{is_space_replacement, read_step};
use super::{components, kind_of, only};
use crate::Result;
use crate::config::Config;

/// Llama 3's pattern.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What SentencePiece writes for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// What normalizer, pre-tokenizer and decoder come to.
pub(super) struct Rules {
    pub(super) kind: Kind,
    pub(super) split: Split,
    pub(super) digits: Digits,
    pub(super) prefix: Prefix,
    pub(super) strip: Strip,
    pub(super) invalid: Invalid,
    /// Spaces are U+2581 when normalized added tokens are looked for.
    pub(super) writes_spaces: bool,
    /// What text goes through before normalized added tokens are looked for, and after.
    pub(super) normalizer: Program,
    pub(super) pre_tokenizer: Program,
    /// Decoding leaves out the spaces before punctuation.
    pub(super) cleanup: bool,
}

impl Rules {
    pub(super) fn read(file: &Config, model: &Config) -> Result<Self> {
        let mut rules = Rules {
            kind: Kind::ByteBpe,
            split: Split::None,
            digits: Digits::Joined,
            prefix: Prefix::Never,
            strip: Strip::None,
            invalid: Invalid::Lossy,
            writes_spaces: false,
            normalizer: Program::default(),
            pre_tokenizer: Program::default(),
            cleanup: false,
        };
        let decoder = components(file, "decoder", "decoders")?;
        let expected = "a ByteLevel or WordPiece decoder, or Replace, ByteFallback and Fuse (and Strip)";
        match decoder.first() {
            Some(first) if kind_of(first)? == "WordPiece" && decoder.len() == 1 => {
                rules.kind = Kind::WordPiece;
                only(first, &["type", "prefix", "cleanup"])?;
                let of_model = model.string("continuing_subword_prefix")?.unwrap_or("##");
                if first.string("prefix")?.unwrap_or("##") != of_model {
                    return Err(first.error("prefix", format!("{of_model:?}, the prefix of the model")));
                }
                rules.cleanup = first.boolean("cleanup")?.unwrap_or(true);
                rules.read_words(file)?;
            }
            Some(first) if kind_of(first)? == "ByteLevel" && decoder.len() == 1 => {
                only(first, &["type", "add_prefix_space", "trim_offsets", "use_regex"])?;
                rules.read_byte_level(file)?;
            }
            Some(_) => {
                rules.kind = if model.string("type")? == Some("Unigram") { Kind::Unigram } else { Kind::CharBpe };
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
            read_step(&normalizer, &mut self.normalizer)?;
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

    /// Normalizers and pre-tokenizers of words without spaces.
    fn read_words(&mut self, file: &Config) -> Result<()> {
        for normalizer in components(file, "normalizer", "normalizers")? {
            read_step(&normalizer, &mut self.normalizer)?;
        }
        self.split = Split::Words;
        let mut has_spaces = false;
        for pre_tokenizer in components(file, "pre_tokenizer", "pretokenizers")? {
            let mappings: &[Mapping] = match kind_of(&pre_tokenizer)? {
                "BertPreTokenizer" => &[Mapping::Spaces, Mapping::Punctuation],
                "WhitespaceSplit" => &[Mapping::Spaces],
                "Punctuation" => {
                    only(&pre_tokenizer, &["type", "behavior"])?;
                    if pre_tokenizer.string("behavior")?.is_some_and(|behavior| behavior != "Isolated") {
                        return Err(pre_tokenizer.error("behavior", "Isolated"));
                    }
                    &[Mapping::Punctuation]
                }
                _ => {
                    return Err(pre_tokenizer.error("type", "BertPreTokenizer, or WhitespaceSplit and Punctuation"));
                }
            };
            has_spaces |= mappings.contains(&Mapping::Spaces);
            self.pre_tokenizer.map(mappings);
        }
        if has_spaces { Ok(()) } else { Err(file.error("pre_tokenizer", "BertPreTokenizer, with a WordPiece decoder")) }
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
            check_replace(replace, SPACE, " ")?;
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
                    if normalizer.string("prepend")? != Some(SPACE) {
                        return Err(normalizer.error("prepend", "U+2581"));
                    }
                    self.prefix = Prefix::Always;
                }
                "Replace" if !replaces && is_space_replacement(&normalizer)? => replaces = true,
                // What comes before is a step of its own.
                _ if !replaces && self.prefix == Prefix::Never => read_step(&normalizer, &mut self.normalizer)?,
                _ => {
                    return Err(normalizer.error("type", "Prepend of U+2581, then Replace of spaces, as the last ones"));
                }
            }
        }
        self.writes_spaces = replaces || self.prefix != Prefix::Never;
        let pre_tokenizers = components(file, "pre_tokenizer", "pretokenizers")?;
        match pre_tokenizers.as_slice() {
            [] if replaces => Ok(()),
            // Gemma's: cuts at spaces, of which there are none.
            [split] if replaces && kind_of(split)? == "Split" => {
                only(split, &["type", "pattern", "behavior", "invert"])?;
                let pattern = split.object("pattern")?.ok_or_else(|| split.error("pattern", "an object"))?;
                match pattern.string("String")? {
                    Some(" ") if split.boolean("invert")? != Some(true) => Ok(()),
                    _ => Err(pattern.error("String", "a space, after a Replace of spaces")),
                }
            }
            [metaspace] if !self.writes_spaces && kind_of(metaspace)? == "Metaspace" => {
                self.prefix = metaspace_prefix(metaspace)?;
                if metaspace.boolean("split")?.unwrap_or(true) {
                    self.split = Split::Spaces;
                }
                Ok(())
            }
            [split, metaspace]
                if !self.writes_spaces
                    && kind_of(split)? == "WhitespaceSplit"
                    && kind_of(metaspace)? == "Metaspace" =>
            {
                if metaspace_prefix(metaspace)? != Prefix::Missing {
                    return Err(metaspace.error("prepend_scheme", "always, after WhitespaceSplit"));
                }
                if !metaspace.boolean("split")?.unwrap_or(true) {
                    return Err(metaspace.error("split", "true, after WhitespaceSplit"));
                }
                self.pre_tokenizer.push(Step::Words);
                self.split = Split::Spaces;
                Ok(())
            }
            [] => Err(file.error("normalizer", "a Replace of spaces by U+2581, or a Metaspace pre-tokenizer")),
            [first, ..] => Err(first.error(
                "type",
                "one Metaspace pre-tokenizer, after WhitespaceSplit or alone, or none after a Replace normalizer",
            )),
        }
    }
}

/// The prefix rule of a Metaspace component, whose other fields are checked.
fn metaspace_prefix(metaspace: &Config) -> Result<Prefix> {
    only(metaspace, &["type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"])?;
    for field in ["replacement", "str_rep"] {
        if metaspace.string(field)?.is_some_and(|replacement| replacement != SPACE) {
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
