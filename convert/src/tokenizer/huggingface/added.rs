//! Added tokens: strings that are cut out of the text before it is tokenized.

use serde_json::Value;
use thumbformer::tokenizer::{AddedFlags, Kind};

use super::super::draft::{Token, TokenTable};
use super::model::plain_token;
use super::rules::{Rules, SPACE};
use super::{field_error, only};
use crate::Result;
use crate::config::Config;

pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) flags: AddedFlags,
    pub(super) special: bool,
}

pub(super) fn read(
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
        let special = flag("special", 1)? != 0;
        let mut flags = flag("lstrip", AddedFlags::LSTRIP)?
            | flag("rstrip", AddedFlags::RSTRIP)?
            | flag("single_word", AddedFlags::SINGLE_WORD)?;
        // An absent `normalized` is true for tokens that are not special.
        let normalized = token.boolean("normalized")?.unwrap_or(!special);
        if normalized {
            if flags != 0 && rules.writes_spaces {
                return Err(token.error("normalized", "false for a token that depends on what stands beside it"));
            }
            flags |= AddedFlags::NORMALIZED;
        }
        let decoded = plain_token(rules.kind, content).bytes;
        // The device has one spelling of a token: the decoder's, which must be what is looked for in texts. There,
        // U+2581 is a space for normalized tokens only.
        let exact = match (rules.kind, normalized && rules.writes_spaces) {
            (Kind::ByteBpe | Kind::WordPiece, _) => decoded == content.as_bytes(),
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
