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

/// A text's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The documents' tokens; where the vocabulary has one, a token that ends each.
    pub ids: Vec<u32>,
    /// Characters that the vocabulary does not have.
    pub unknown: usize,
}

/// Packs documents into one stream of tokens.
///
/// # Errors
/// A text cannot be tokenized.
pub fn tokenize(documents: &[Document], tokenizer: &Tokenizer<'_>, end: Option<u32>) -> Result<Stream> {
    let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let mut stream = Stream::default();
    for document in documents {
        let ids = encode(tokenizer, &document.text, plain)?;
        let known = decode(tokenizer, &ids, false).chars().filter(|&c| c != '\u{fffd}').count();
        stream.unknown += document.text.chars().filter(|&c| c != '\u{fffd}').count().saturating_sub(known);
        stream.ids.extend(ids);
        stream.ids.extend(end);
    }
    Ok(stream)
}
