//! Texts to train on.

use std::path::{Path, PathBuf};

use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use crate::tokenizer::{decode, encode};
use crate::{Error, Result};

/// A text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it was read.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Reads a text file, or all files of a folder and the folders in it, in the order of their names. Names that begin with
/// a dot are left out.
///
/// # Errors
/// Nothing to read, an empty file, or one that is not UTF-8.
pub fn read(path: &Path) -> Result<Vec<Document>> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    if files.is_empty() {
        return Err(Error::format(path, "no files in this folder, expected text files"));
    }
    files.into_iter().map(read_document).collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = std::fs::read_dir(path)
        .map_err(Error::io(path))?
        .map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(path)))
        .collect::<Result<Vec<_>>>()?;
    entries.sort();
    for entry in entries {
        if !entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

fn read_document(path: PathBuf) -> Result<Document> {
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => Err(Error::format(&path, "empty, expected text to train on")),
        Ok(text) => Ok(Document { path, text }),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            Err(Error::format(&path, format!("byte {at} is not UTF-8, expected a text file")))
        }
    }
}

/// A tokenizer that counts what it does not know.
#[derive(Clone, Copy, Debug)]
pub struct Counting<'t> {
    tokenizer: Tokenizer<'t>,
    count: usize,
}

impl<'t> Counting<'t> {
    /// Counts from zero on.
    pub fn new(tokenizer: Tokenizer<'t>) -> Self {
        Self { tokenizer, count: 0 }
    }

    /// The tokens of a text, with those that the tokenizer puts `around` it or without.
    ///
    /// # Errors
    /// The text cannot be tokenized.
    pub fn encode(&mut self, text: &str, around: bool) -> Result<Vec<u32>> {
        let options = EncodeOptions { add_special_tokens: around, ..EncodeOptions::default() };
        let ids = encode(&self.tokenizer, text, options)?;
        let (before, after) = self.tokenizer.template();
        let (before, after) = if around { (before.count(), after.count()) } else { (0, 0) };
        let inside = ids.get(before..ids.len().saturating_sub(after)).unwrap_or_default();
        self.count += match self.tokenizer.header().unknown {
            Some(unknown) => inside.iter().filter(|&&id| id == unknown).count(),
            None => {
                let characters = |text: &str| text.chars().filter(|&c| c != '\u{fffd}').count();
                characters(text).saturating_sub(characters(&decode(&self.tokenizer, inside, false)))
            }
        };
        Ok(ids)
    }

    /// Counts what another of its kind has counted.
    pub fn add(&mut self, other: &Counting<'_>) {
        self.count += other.count;
    }

    /// What the user should know about the texts so far, which are `what`.
    pub fn note(&self, what: &str) -> Option<String> {
        let count = self.count;
        let note = match self.tokenizer.header().unknown {
            Some(_) => format!("{count} words of the {what} are not in the vocabulary and were read as unknown"),
            None => format!("{count} characters of the {what} are not in the vocabulary and were left out"),
        };
        (count > 0).then_some(note)
    }
}
