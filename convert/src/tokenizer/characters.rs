//! nanoGPT's meta.pkl: the characters of a character-level data set.

use std::path::Path;

use thumbformer::tokenizer::{Kind, Missing};

use super::draft::{Draft, Token, TokenTable};
use crate::checkpoint::pickle::{self, Value};
use crate::{Error, Result};

/// Reads a meta.pkl, which holds a dict with `stoi`: the id of each character.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Draft> {
    let pickle = pickle::read(bytes).map_err(|error| Error::format(path, error.to_string()))?;
    let refuse = |field: &str, found: &str, expected: &str| Error::Field {
        path: path.into(),
        field: field.into(),
        found: found.into(),
        expected: expected.into(),
    };
    let Value::Dict(meta) = pickle.root() else { return Err(refuse("", pickle.root().kind(), "a dict")) };
    let stoi = match meta.get("stoi") {
        Some(Value::Dict(stoi)) => stoi,
        Some(other) => return Err(refuse("stoi", other.kind(), "a dict")),
        None => return Err(refuse("stoi", "nothing", "a dict from characters to ids")),
    };
    let mut table = TokenTable::default();
    let mut entries = Vec::new();
    for (character, id) in stoi.iter() {
        let Value::Str(character) = character else {
            return Err(refuse("stoi", &format!("{} as a key", character.kind()), "characters"));
        };
        let field = format!("stoi[{character:?}]");
        if character.chars().count() != 1 {
            return Err(refuse(&field, "several characters or none", "one character"));
        }
        match id {
            Value::Int(id) if u32::try_from(id).is_ok() => entries.push((id as u32, character)),
            Value::Int(id) => return Err(refuse(&field, &id.to_string(), "an id")),
            other => return Err(refuse(&field, other.kind(), "an id")),
        }
    }
    entries.sort_unstable();
    for (id, character) in entries {
        let token = Token { bytes: character.into(), plain: true };
        table.insert(path, || format!("stoi[{character:?}]"), id, token)?;
    }
    let mut draft = Draft::new(Kind::Characters, table.finish());
    draft.missing = Missing::Error;
    Ok(draft)
}
