//! Hugging Face's tokenizer.json, and the older vocab.json with merges.txt.
//!
//! Every component of a tokenizer.json is either carried to the device exactly or refused by name. Components and
//! fields that are not known here are refused too: they may change the ids.

mod added;
mod model;
mod normalizer;
mod rules;
mod template;

use std::path::Path;

use serde_json::Value;
use thumbformer::tokenizer::Tokenizer;

use super::draft::Draft;
use super::normalizer::Program;
use crate::config::Config;
use crate::{Error, Result};

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
    let rules = rules::Rules::read(file, &model)?;
    let mut draft = model::read(file, &model, &rules)?;
    template::read(file, &mut draft)?;
    check_normalized_tokens(file, &draft)?;
    for field in ["truncation", "padding"] {
        if file.get(field).is_some() {
            draft.notes.push(format!("tokenizer.json asks for {field}: left out, texts keep their own length"));
        }
    }
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

/// Added tokens that are looked for in normalized text are normalized themselves by the library, but stay as they are when
/// ids are decoded. The device knows one spelling.
fn check_normalized_tokens(file: &Config, draft: &Draft) -> Result<()> {
    if draft.normalizer.is_empty() || draft.normalized().next().is_none() {
        return Ok(());
    }
    let bare = Draft { added: Vec::new(), pre_tokenizer: Program::default(), ..draft.clone() };
    let bare = bare.pack(file.path())?;
    let tokenizer = Tokenizer::new(&bare, u32::MAX).map_err(|error| Error::format(file.path(), error.to_string()))?;
    for id in draft.normalized() {
        let content = String::from_utf8_lossy(draft.bytes(id)).into_owned();
        // A thousandfold is more than any normalization form makes of a text.
        let mut workspace = vec![0; 1024 * (content.len() + 1)];
        let normalized = tokenizer.normalize(&content, &mut workspace).unwrap_or_default();
        if normalized != content {
            let expected = format!("{normalized:?}, which it is looked for as, or \"normalized\": false");
            let found = Value::from(content);
            return Err(field_error(file.path(), format!("added_tokens (id {id})"), Some(&found), &expected));
        }
    }
    Ok(())
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
