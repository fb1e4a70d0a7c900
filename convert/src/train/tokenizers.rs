//! The tokenizer of a run, and the files that it is made of.

use std::path::Path;

use clap::ValueEnum;

use super::folder::TokenizerFile;
use super::settings::{Objective, Settings};
use super::vocabulary::{self, Kind, Marked, Markup};
use super::{corpus, pairs};
use crate::tokenizer::{self, Packed, marian};
use crate::{Error, Result};

/// What a run's texts are tokenized with.
#[derive(Clone, Debug)]
pub struct Tokenizers {
    /// Of texts and answers.
    pub packed: Packed,
    /// Of sources, where it is another: OPUS-MT's are.
    pub source: Option<Packed>,
}

impl Tokenizers {
    /// The tokenizer that the settings ask for, and its files.
    ///
    /// # Errors
    /// It cannot be read, or the data do not support it.
    pub fn make(settings: &Settings, data: &Path) -> Result<(Self, Vec<TokenizerFile>)> {
        let objective = settings.objective;
        let kind = match settings.tokenizer.as_deref() {
            None if objective == Objective::Mlm => Kind::Wordpiece,
            None => Kind::Bpe,
            Some(name) => match Kind::from_str(name, false) {
                Ok(kind) => kind,
                Err(_) => return Self::read(Path::new(name)),
            },
        };
        if kind == Kind::Wordpiece && objective != Objective::Mlm {
            return Err(Error::Usage("--tokenizer wordpiece writes no text, expected --objective mlm, or bpe".into()));
        }
        let texts: Vec<String> = match objective {
            Objective::Lm | Objective::Mlm => corpus::read(data)?.into_iter().map(|document| document.text).collect(),
            Objective::Sft | Objective::Seq2seq => {
                let turns = pairs::read(data)?.into_iter().flat_map(|conversation| conversation.turns);
                turns.flat_map(|(request, answer)| [request, answer]).collect()
            }
        };
        let texts = texts.iter().map(String::as_str);
        let markup = match (kind, objective) {
            // A stream of characters has no end, as nanoGPT's.
            (Kind::Chars, Objective::Lm) => &Markup::NONE,
            _ => objective.markup(),
        };
        let made = vocabulary::make(kind, texts, settings.vocab, markup)?;
        let packed = tokenizer::load_bytes(Path::new("tokenizer.json"), made.as_bytes())?;
        Ok((Self { packed, source: None }, vec![("tokenizer.json".into(), made.into_bytes())]))
    }

    /// An existing tokenizer, and its files.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read(path: &Path) -> Result<(Self, Vec<TokenizerFile>)> {
        if !path.exists() {
            let path = path.display();
            let expected = "bpe, wordpiece, chars, or a tokenizer's file or folder";
            return Err(Error::Usage(format!("--tokenizer {path}: expected {expected}")));
        }
        let tokenizers = Self::load(path)?;
        let file = &tokenizers.packed.path;
        let folder = file.parent().unwrap_or(Path::new("."));
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let of_source: &[&str] = if tokenizers.source.is_some() { &["source.spm", "vocab.json"] } else { &[] };
        let beside = ["merges.txt", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
        let files = read_beside(folder, &[&[name.as_str()], of_source, &beside].concat())?;
        Ok((tokenizers, files))
    }

    /// An existing tokenizer.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        let pair = if path.is_dir() { marian::load(path)? } else { None };
        Ok(match pair {
            Some([source, packed]) => Self { packed, source: Some(source) },
            None => Self { packed: tokenizer::load(path)?, source: None },
        })
    }

    /// What tokenizer_config.json says of tokens: what they are for, and their names.
    ///
    /// # Errors
    /// None but a damaged tokenizer's.
    pub fn named(&self, objective: Objective, marked: &Marked) -> Result<Vec<(&'static str, String)>> {
        let tokenizer = self.packed.tokenizer()?;
        let name = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        let special: Vec<String> = tokenizer.special_tokens().map(name).collect();
        let usual = objective.markup().tokens.iter().filter_map(|&(name, role)| Some((role?, name.to_owned())));
        let mut named: Vec<_> = usual.filter(|(_, name)| special.contains(name)).collect();
        if let (Some(end), false) = (marked.end, named.iter().any(|(role, _)| *role == "eos_token")) {
            named.push(("eos_token", name(end)));
        }
        Ok(named)
    }
}

/// Those files of a folder that are there.
pub(super) fn read_beside(folder: &Path, names: &[&str]) -> Result<Vec<TokenizerFile>> {
    let there = names.iter().map(|name| (name, folder.join(name))).filter(|(_, path)| path.is_file());
    there.map(|(name, path)| Ok(((*name).to_owned(), std::fs::read(&path).map_err(Error::io(&path))?))).collect()
}
