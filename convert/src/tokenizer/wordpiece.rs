//! BERT's vocab.txt: a token on each line. tokenizer_config.json beside it says how text is prepared.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::draft::Draft;
use super::{huggingface, token_name};
use crate::config::Config;
use crate::{Error, Result};

/// Special tokens by their fields in tokenizer_config.json, and BERT's own names for them.
const SPECIAL: [(&str, &str); 5] = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

/// Reads a vocab.txt; without a configuration, as the uncased BERT's.
pub(super) fn read(path: &Path, bytes: &[u8], config: Option<&Config>) -> Result<Draft> {
    let text = std::str::from_utf8(bytes).map_err(|error| Error::format(path, format!("not UTF-8: {error}")))?;
    let mut vocab = Map::new();
    for (id, token) in text.lines().enumerate() {
        if let Some(other) = vocab.insert(token.to_owned(), id.into()) {
            let problem = format!("line {}: found {token:?}, which is token {other} already, expected another", id + 1);
            return Err(Error::format(path, problem));
        }
    }
    let flag = |field: &str| config.map_or(Ok(None), |config| config.boolean(field));
    let mut special = Map::new();
    let mut added = Vec::new();
    for (field, default) in SPECIAL {
        let name = config.map_or(Ok(None), |config| token_name(config, field))?.unwrap_or_else(|| default.to_owned());
        let id = vocab.get(&name).cloned().ok_or_else(|| {
            Error::format(path, format!("found no token {name:?}, expected it: the configuration's `{field}`"))
        })?;
        let flag = |flag: &str| config.and_then(|config| config.get(field)?.get(flag)?.as_bool()).unwrap_or(false);
        let token = json!({
            "id": id, "content": name, "special": true, "normalized": false,
            "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "single_word": flag("single_word"),
        });
        if !added.iter().any(|other: &Value| other.get("content") == token.get("content")) {
            added.push(token);
        }
        special.insert(field.to_owned(), json!([name, id]));
    }
    let named = |field: &str| special.get(field).and_then(|token| token.get(0)).cloned().unwrap_or_default();
    let file = json!({
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "lowercase": flag("do_lower_case")?.unwrap_or(true),
            "handle_chinese_chars": flag("tokenize_chinese_chars")?.unwrap_or(true),
            "strip_accents": flag("strip_accents")?,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "cls": special.get("cls_token"), "sep": special.get("sep_token") },
        "decoder": { "type": "WordPiece" },
        "model": { "type": "WordPiece", "unk_token": named("unk_token"), "vocab": vocab },
    });
    match file {
        Value::Object(file) => huggingface::read(&Config::new(path, "", file)),
        _ => Err(Error::format(path, "found no object, expected one")),
    }
}
