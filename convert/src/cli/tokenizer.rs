//! `thumbformer tokenizer train|show`: vocabularies made from texts, and a look into them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use super::{counted, say, tell};
use crate::config::Config;
use crate::output::Output;
use crate::tokenizer::{encode, load, load_bytes, piece};
use crate::train::corpus;
use crate::train::vocabulary::{self, Kind, Markup};
use crate::{Error, Result};

/// Make a tokenizer from a text, or look into one
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    Train(Train),
    Show(Show),
}

/// Learn a vocabulary from a text, and write it as tokenizer.json
#[derive(Args, Debug)]
struct Train {
    /// Text to learn from: a file, or a folder of files
    text: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE", default_value = "tokenizer.json")]
    output: PathBuf,
    /// What tokens are
    #[arg(long, value_enum, default_value = "bpe")]
    kind: Kind,
    /// Tokens of the vocabulary; of chars, as many as there are
    #[arg(long, value_name = "N", default_value_t = 512)]
    vocab: usize,
    /// Of bpe, a token that stands for no text, such as `<|end|>`; as often as there are [default: <|endoftext|>]
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Show a tokenizer's merges in the order they were learned, or a text cut into its tokens
#[derive(Args, Debug)]
struct Show {
    /// A tokenizer.json, or a folder with a tokenizer
    tokenizer: PathBuf,
    /// Text to cut into tokens: coloured on a terminal, else with a bar between them
    text: Option<String>,
    /// Merges to show, the first ones learned
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "text")]
    merges: usize,
}

/// Runs the command.
///
/// # Errors
/// Whatever the text or the tokenizer's file do.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.action {
        Action::Train(train) => learn(train),
        Action::Show(show) => match &show.text {
            Some(text) => show_text(show, text),
            None => show_merges(show),
        },
    }
}

fn learn(train: &Train) -> Result<()> {
    let documents = corpus::read(&train.text)?;
    let texts = documents.iter().map(|document| document.text.as_str());
    let special: Vec<&str> = train.special.iter().map(String::as_str).collect();
    let made = match (train.kind, special.as_slice()) {
        (Kind::Bpe, []) => vocabulary::make(train.kind, texts, train.vocab, &Markup::TEXT)?,
        (Kind::Bpe, special) => vocabulary::train_bpe(texts, train.vocab, special, None)?,
        (Kind::Wordpiece, []) => vocabulary::make(train.kind, texts, train.vocab, &Markup::MASKED)?,
        (Kind::Chars, []) => vocabulary::make(train.kind, texts, train.vocab, &Markup::NONE)?,
        (_, _) => {
            return Err(Error::Usage("--special: expected --kind bpe, other kinds have tokens of their own".into()));
        }
    };
    let vocab = load_bytes(Path::new("tokenizer.json"), made.as_bytes())?.vocab;
    let mut output = Output::create(&train.output, train.force)?;
    output.file().write_all(made.as_bytes()).map_err(Error::io(&train.output))?;
    output.commit()?;
    let file = train.output.display();
    if train.kind == Kind::Bpe {
        let merges = vocab as usize - 256 - special.len().max(1);
        return say!("{file}: {vocab} tokens, {merges} merges; `thumbformer tokenizer show {file}` shows them");
    }
    say!("{file}: {vocab} tokens; `thumbformer tokenizer show {file} TEXT` cuts a text into them")
}

fn show_merges(show: &Show) -> Result<()> {
    let packed = load(&show.tokenizer)?;
    let tokenizer = packed.tokenizer()?;
    let none = || Error::format(&packed.path, "a tokenizer without merges, expected a tokenizer.json of BPE");
    if packed.path.extension().is_none_or(|extension| extension != "json") {
        return Err(none());
    }
    let file = Config::read(&packed.path)?;
    let model = file.object("model")?.ok_or_else(none)?;
    let merges = model.get("merges").and_then(Value::as_array).ok_or_else(none)?;
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(none)?;
    let id = |name: &str| vocab.get(name).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    for (number, merge) in merges.iter().take(show.merges).enumerate() {
        let (left, right) = match merge {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => pair.first().and_then(Value::as_str).zip(pair.get(1).and_then(Value::as_str)),
            _ => None,
        }
        .ok_or_else(none)?;
        let merged = id(&format!("{left}{right}")).ok_or_else(none)?;
        let shown = |name: &str| id(name).map(|id| piece(&tokenizer, id)).ok_or_else(none);
        let (left, right) = (shown(left)?, shown(right)?);
        say!("{:>6}  {left} + {right} = {} ({merged})", number + 1, piece(&tokenizer, merged))?;
    }
    tell!("{} of {}", counted(show.merges.min(merges.len()), "merge"), merges.len());
    Ok(())
}

/// Backgrounds of neighbouring tokens, as numbers of the 256 colours that terminals have.
const COLORS: [u8; 5] = [153, 157, 223, 225, 229];

fn show_text(show: &Show, text: &str) -> Result<()> {
    let packed = load(&show.tokenizer)?;
    let tokenizer = packed.tokenizer()?;
    let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let ids = encode(&tokenizer, text, bare)?;
    say!("{}", cut(&tokenizer, &ids, std::io::stdout().is_terminal()))?;
    let (tokens, characters) = (counted(ids.len(), "token"), text.chars().count());
    tell!("{tokens} for {}", counted(characters, "character"));
    Ok(())
}

/// The tokens' texts, each on a background of its own or with bars between them.
fn cut(tokenizer: &Tokenizer<'_>, ids: &[u32], colored: bool) -> String {
    let unquoted = |quoted: String| quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned();
    let texts = ids.iter().map(|&id| unquoted(piece(tokenizer, id)));
    if !colored {
        return texts.collect::<Vec<_>>().join("|");
    }
    let paint = |(text, color): (String, &u8)| format!("\x1b[30;48;5;{color}m{text}");
    texts.zip(COLORS.iter().cycle()).map(paint).collect::<String>() + "\x1b[0m"
}
