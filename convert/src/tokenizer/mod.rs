//! Reads the tokenizer files that users have and packs them for the device.
//!
//! [`load`] takes a folder or a file: tokenizer.json, SentencePiece's tokenizer.model (or spiece.model), vocab.json with
//! merges.txt, BERT's vocab.txt, or nanoGPT's meta.pkl; what lies beside it (tokenizer_config.json, chat_template.jinja,
//! special_tokens_map.json) says which tokens begin and end a text and how a prompt looks. What comes out is the section
//! of a blob, which the device's own code then runs, on the host too ([`encode`], [`decode`]). A tokenizer whose ids the
//! device could not reproduce is refused with the name of the field in the way.

mod characters;
mod clusters;
mod draft;
mod host;
mod huggingface;
pub(crate) mod marian;
mod normalizer;
mod prompt;
mod sentencepiece;
mod wordpiece;

use std::path::{Path, PathBuf};

use serde_json::Value;
use thumbformer::tokenizer::{AddedFlags, Kind, Prefix, Strip, Tokenizer};

use draft::{Draft, Token};
pub use host::{CommandOptions, command, decode, encode, encode_pair, encode_prompt, piece};

use crate::config::Config;
use crate::{Error, Result};

/// Largest tokenizer file that is read: those of 250,000 tokens have 35 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Names of tokenizer files in a folder, best first.
const FILES: [&str; 6] = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "meta.pkl"];

/// The tokenizer file in a folder: the first that is there of tokenizer.json, tokenizer.model, spiece.model, vocab.json
/// (with merges.txt), vocab.txt and meta.pkl.
pub fn find(folder: &Path) -> Option<PathBuf> {
    let complete = |file: &PathBuf| !file.ends_with("vocab.json") || folder.join("merges.txt").is_file();
    FILES.into_iter().map(|name| folder.join(name)).filter(|file| file.is_file()).find(complete)
}

/// A tokenizer, packed for the device.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The blob's section.
    pub section: Vec<u8>,
    /// Number of tokens.
    pub vocab: u32,
    /// The token that stands for one to be filled in.
    pub mask: Option<u32>,
    /// Things the user should know, one line each: what was assumed, what was left out.
    pub notes: Vec<String>,
    /// The file that the tokenizer was read from.
    pub path: PathBuf,
    draft: Draft,
}

impl Packed {
    fn new(draft: Draft, path: &Path) -> Result<Self> {
        let section = draft.pack(path)?;
        let vocab = draft.tokens.len() as u32;
        Ok(Packed { section, vocab, mask: draft.mask, notes: draft.notes.clone(), path: path.into(), draft })
    }

    /// The tokenizer that runs on the section.
    ///
    /// # Errors
    /// The section was changed since it was packed.
    pub fn tokenizer(&self) -> Result<Tokenizer<'_>> {
        Tokenizer::new(&self.section, self.vocab).map_err(|error| Error::format(&self.path, error.to_string()))
    }

    /// Refuses a tokenizer with more tokens than the model. Fewer are fine: models pad their vocabularies.
    ///
    /// # Errors
    /// Both numbers.
    pub fn check_vocab(&self, model_vocab: u32) -> Result<()> {
        if self.vocab <= model_vocab {
            return Ok(());
        }
        let problem = format!("found {} tokens, expected at most the model's {model_vocab}", self.vocab);
        Err(Error::format(&self.path, problem))
    }

    /// Replaces the prompt format by an explicit one, such as `<|request|>{prompt}<|call|>`. What the tokenizer puts
    /// before every text (a begin-of-sequence token) comes first even if the format leaves it out.
    ///
    /// # Errors
    /// `{prompt}` does not stand in it once, or tokens would reach across the text's borders.
    pub fn with_prompt_format(self, format: &str) -> Result<Self> {
        let mut draft = Draft { prompt: None, ..self.draft };
        let prompt = prompt::split_format(&draft.pack(&self.path)?, &self.path, format)?;
        draft.prompt = Some(prompt.after(draft.beginning()));
        Packed::new(draft, &self.path)
    }
}

/// Reads and packs a tokenizer. `path` is one of the files that [`find`] knows, under any name, or a folder with one.
///
/// # Errors
/// No such file, a damaged one, or a tokenizer that the device cannot reproduce.
pub fn load(path: &Path) -> Result<Packed> {
    let file = if path.is_dir() {
        find(path).ok_or_else(|| {
            let path = path.display();
            Error::Usage(format!("{path}: no {} here: name the tokenizer file", FILES.join(", ")))
        })?
    } else {
        path.to_owned()
    };
    // A path that leads nowhere is not a file of another kind.
    std::fs::metadata(&file).map_err(Error::io(&file))?;
    let format = Format::of(&file)?;
    let beside = |name: &str| file.parent().map(|folder| folder.join(name)).filter(|path| path.is_file());
    let config = beside("tokenizer_config.json").map(|path| read_json(&path)).transpose()?;
    let mut draft = format.parse(&file, &read_limited(&file)?, config.as_ref())?;
    let special_map = beside("special_tokens_map.json").map(|path| read_json(&path)).transpose()?;
    if let (Some(config), Format::SentencePiece | Format::VocabAndMerges) = (&config, format) {
        apply_config(config, &mut draft)?;
    }
    draft.mask = usual_mask(&draft);
    for (name, id) in [("bos_token", &mut draft.bos), ("eos_token", &mut draft.eos), ("mask_token", &mut draft.mask)] {
        for config in [&config, &special_map].into_iter().flatten() {
            if let Some(token) = token_name(config, name)? {
                *id = draft.names.get(token.as_str()).copied().or(*id);
                break;
            }
        }
    }
    apply_prompt_format(&file, beside("chat_template.jinja").as_deref(), config.as_ref(), &mut draft)?;
    Packed::new(draft, &file)
}

/// Packs a tokenizer whose file is in memory. `path` says what kind of file it is; what lies beside it is not read.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(path: &Path, bytes: &[u8]) -> Result<Packed> {
    let mut draft = Format::of(path)?.parse(path, bytes, None)?;
    draft.mask = usual_mask(&draft);
    apply_prompt_format(path, None, None, &mut draft)?;
    Packed::new(draft, path)
}

/// The mask token by the names that BERT and RoBERTa have for it, if it is special.
fn usual_mask(draft: &Draft) -> Option<u32> {
    let special = |name: &str| draft.names.get(name).copied().filter(|id| draft.special.contains(id));
    ["[MASK]", "<mask>"].into_iter().find_map(special)
}

/// The formats of a tokenizer's main file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    TokenizerJson,
    SentencePiece,
    VocabAndMerges,
    WordPiece,
    Characters,
}

impl Format {
    fn of(file: &Path) -> Result<Self> {
        match (file.file_name().and_then(|name| name.to_str()), file.extension().and_then(|e| e.to_str())) {
            (Some("vocab.json"), _) => Ok(Format::VocabAndMerges),
            (_, Some("json")) => Ok(Format::TokenizerJson),
            (_, Some("model")) => Ok(Format::SentencePiece),
            (_, Some("txt")) => Ok(Format::WordPiece),
            (_, Some("pkl")) => Ok(Format::Characters),
            _ => {
                let expected = "tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt, or meta.pkl";
                Err(Error::format(file, format!("found a file of another kind, expected {expected}")))
            }
        }
    }

    /// `config` is the tokenizer_config.json beside the file, which says what some formats do not.
    fn parse(self, file: &Path, bytes: &[u8], config: Option<&Config>) -> Result<Draft> {
        match self {
            Format::TokenizerJson => huggingface::read(&parse_json(file, bytes)?),
            Format::SentencePiece => sentencepiece::read(file, bytes),
            Format::VocabAndMerges => {
                let merges = file.with_file_name("merges.txt");
                huggingface::read_pair(&parse_json(file, bytes)?, &merges, &read_limited(&merges)?)
            }
            Format::WordPiece => wordpiece::read(file, bytes, config),
            Format::Characters => characters::read(file, bytes),
        }
    }
}

/// What tokenizer_config.json says about text and tokens, which a tokenizer.json would say itself.
fn apply_config(config: &Config, draft: &mut Draft) -> Result<()> {
    if let Some(tokens) = config.object("added_tokens_decoder")? {
        add_tokens(&tokens, draft)?;
    }
    let is_sentencepiece = matches!(draft.kind, Kind::CharBpe | Kind::Unigram);
    let class = config.string("tokenizer_class")?.unwrap_or_default().trim_end_matches("Fast");
    if let Some(other) = OTHER_IDS.into_iter().find(|other| class.starts_with(other)) {
        let expected = format!("a class that keeps the model file's ids, {other} does not: export a tokenizer.json");
        return Err(config.error("tokenizer_class", expected));
    }
    let is_t5 = class == "T5Tokenizer";
    if !draft.normalizer.is_empty() {
        draft.notes.push(
            "text is normalized as SentencePiece does it; transformers differs for some stacked marks and half-width \
             kana: export a tokenizer.json if the model was trained with it"
                .into(),
        );
    }
    let add_prefix = config.boolean("add_prefix_space")?;
    draft.prefix = match (add_prefix, is_sentencepiece) {
        (Some(false), _) => Prefix::Never,
        // Until `legacy` was switched off, every piece between added tokens got a space.
        (_, true) if draft.prefix != Prefix::Never && config.boolean("legacy")?.unwrap_or(true) => Prefix::Always,
        (Some(true), false) => Prefix::Missing,
        _ => draft.prefix,
    };
    if draft.prefix == Prefix::Never && is_sentencepiece {
        draft.strip = Strip::None;
    }
    // LLaMA's tokenizers begin texts with the bos token unless told otherwise; GPT-2's only if told so.
    for (place, flag, token, default) in
        [(0, "add_bos_token", "bos_token", is_sentencepiece && !is_t5), (1, "add_eos_token", "eos_token", is_t5)]
    {
        if !config.boolean(flag)?.unwrap_or(default) {
            continue;
        }
        let name = token_name(config, token)?;
        let id = name.as_ref().and_then(|name| draft.names.get(name).copied());
        let stated = if place == 0 { draft.bos } else { draft.eos };
        match id.or(stated.filter(|_| name.is_none())) {
            Some(id) => draft.template[place] = vec![id],
            None => return Err(config.error(token, "a token of the vocabulary")),
        }
    }
    // How a pair is put together is a matter of its class, which only a tokenizer.json spells out.
    if draft.template.iter().any(|affix| !affix.is_empty()) {
        draft.pair.clear();
    }
    // The template says what begins a text.
    draft.prompt = None;
    draft.begin.clear();
    Ok(())
}

/// Classes of transformers that give the pieces of a SentencePiece model other ids than the model does.
const OTHER_IDS: [&str; 9] =
    ["XLMRoberta", "MBart", "NllbTokenizer", "Camembert", "Barthez", "M2M100", "Marian", "Pegasus", "Xglm"];

/// Adds the tokens that tokenizer_config.json lists: they are looked for in texts.
fn add_tokens(tokens: &Config, draft: &mut Draft) -> Result<()> {
    let mut listed = Vec::new();
    for (id, _) in tokens.fields() {
        let number: u32 = id.parse().map_err(|_| tokens.error(id, "ids as names"))?;
        listed.push((number, id));
    }
    listed.sort_unstable();
    for (number, id) in listed {
        let token = tokens.object(id)?.ok_or_else(|| tokens.error(id, "an object"))?;
        let content = token.string("content")?.ok_or_else(|| token.error("content", "a string"))?;
        if content.contains([' ', '\u{2581}']) || content.is_empty() {
            return Err(token.error("content", "a token without spaces"));
        }
        match draft.names.get(content).copied() {
            Some(known) if known == number => {}
            Some(known) => return Err(tokens.error(id, format!("{content:?} at {known}, its id in the vocabulary"))),
            None if number as usize == draft.tokens.len() => {
                draft.tokens.push(Token { bytes: content.into(), plain: false });
                draft.names.insert(content.into(), number);
            }
            None => return Err(tokens.error(id, format!("the next free id, {}", draft.tokens.len()))),
        }
        let flag =
            |field: &str, bit: u8| -> Result<u8> { Ok(if token.boolean(field)?.unwrap_or(false) { bit } else { 0 }) };
        let flags = flag("lstrip", AddedFlags::LSTRIP)?
            | flag("rstrip", AddedFlags::RSTRIP)?
            | flag("single_word", AddedFlags::SINGLE_WORD)?;
        if flag("special", 1)? != 0 {
            draft.special.insert(number);
        }
        // The unknown token stands for text that is not there.
        if draft.unknown == Some(number) || draft.added.iter().any(|&(id, _)| id == number) {
            continue;
        }
        if draft.bytes(number) != content.as_bytes() {
            return Err(token.error("content", "text that the decoder leaves as it is"));
        }
        draft.added.push((number, AddedFlags(flags)));
    }
    Ok(())
}

/// A token of a configuration: its name, or an object with its name.
fn token_name(config: &Config, field: &str) -> Result<Option<String>> {
    match config.get(field) {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.clone())),
        Some(Value::Object(token)) => match token.get("content") {
            Some(Value::String(name)) => Ok(Some(name.clone())),
            _ => Err(config.error(field, "a token with its content")),
        },
        Some(_) => Err(config.error(field, "a token's name")),
    }
}

/// The chat template, wherever it stands.
fn chat_template(file: Option<&Path>, config: Option<&Config>) -> Result<Option<String>> {
    if let Some(file) = file {
        let bytes = read_limited(file)?;
        return String::from_utf8(bytes).map(Some).map_err(|error| Error::format(file, format!("not UTF-8: {error}")));
    }
    let Some(config) = config else { return Ok(None) };
    match config.get("chat_template") {
        // Several templates: the one called "default".
        Some(Value::Array(_)) => {
            for template in config.objects("chat_template")? {
                if template.string("name")? == Some("default") {
                    return Ok(template.string("template")?.map(str::to_owned));
                }
            }
            Ok(None)
        }
        _ => Ok(config.string("chat_template")?.map(str::to_owned)),
    }
}

/// The prompt format of the chat template, else of role tokens. One that does not work out is a note, not an error.
fn apply_prompt_format(path: &Path, template: Option<&Path>, config: Option<&Config>, draft: &mut Draft) -> Result<()> {
    let name_of =
        |id: Option<u32>| id.map(|id| String::from_utf8_lossy(draft.bytes(id)).into_owned()).unwrap_or_default();
    // A chat template spells out everything; role tokens come after what begins every text.
    let (source, begin, format) = match chat_template(template, config)? {
        Some(template) => {
            ("chat template", &[][..], prompt::template_format(&template, &name_of(draft.bos), &name_of(draft.eos)))
        }
        None => match prompt::role_format(draft) {
            Some(format) => ("prompt format", draft.beginning(), Ok(format)),
            None => return Ok(()),
        },
    };
    let bare = Draft { prompt: None, ..draft.clone() };
    let split = format.and_then(|format| {
        let section = bare.pack(path).map_err(|error| error.to_string())?;
        prompt::split_format(&section, path, &format).map_err(|error| error.to_string())
    });
    let split = split.map(|prompt| prompt.after(begin));
    match split {
        Ok(prompt) => draft.prompt = Some(prompt),
        Err(reason) => draft.notes.push(format!("the {source} was left out: {reason}")),
    }
    Ok(())
}

/// Reads a file of a sane size.
fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let len = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if len > MAX_BYTES {
        return Err(Error::format(path, format!("found {len} bytes, expected at most {MAX_BYTES}")));
    }
    std::fs::read(path).map_err(Error::io(path))
}

/// Reads a JSON object.
fn read_json(path: &Path) -> Result<Config> {
    parse_json(path, &read_limited(path)?)
}

/// A JSON object.
fn parse_json(path: &Path, bytes: &[u8]) -> Result<Config> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(Config::new(path, "", fields)),
        Ok(_) => Err(Error::format(path, "found JSON of another kind, expected an object")),
        Err(error) => Err(Error::format(path, format!("not JSON: {error}"))),
    }
}
