//! Marian's tokenizers: a SentencePiece model for each side, source.spm and target.spm, that cut up texts, and one
//! vocab.json (or one for each side) that says which id a piece has.
//!
//! A piece of the other side's model alone can be generated, but not come out of a text of this side. A piece without an id
//! is left out, where transformers would give its id for the unknown. A text ends with the end token. Language codes such
//! as `>>fra<<` are found wherever they stand, not at the beginning only.

use std::path::Path;

use thumbformer::tokenizer::{AddedFlags, Prefix};

use super::draft::{Draft, Merges, Token, TokenTable};
use super::{Packed, read_json, read_limited, sentencepiece};
use crate::config::Config;
use crate::{Error, Result};

/// Both sides' tokenizers, if the folder has Marian's files.
///
/// # Errors
/// A file that is damaged or missing beside the others.
pub(crate) fn load(folder: &Path) -> Result<Option<[Packed; 2]>> {
    let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let (Some(source), Some(target), Some(vocab)) = (file("source.spm"), file("target.spm"), file("vocab.json")) else {
        return Ok(None);
    };
    let source_ids = read_json(&vocab)?;
    let target_ids = file("target_vocab.json").map(|path| read_json(&path)).transpose()?;
    let side = |spm: &Path, ids: &Config| -> Result<Packed> {
        let draft = sentencepiece::read(spm, &read_limited(spm)?)?;
        Packed::new(renumbered(draft, spm, ids)?, spm)
    };
    Ok(Some([side(&source, &source_ids)?, side(&target, target_ids.as_ref().unwrap_or(&source_ids))?]))
}

/// The tokenizer with the ids that `ids` names.
fn renumbered(draft: Draft, path: &Path, ids: &Config) -> Result<Draft> {
    let id_of = |name: &str| ids.integer(name);
    let required = |name: &str| id_of(name)?.ok_or_else(|| ids.error(name, "the token's id"));
    let (unknown, end) = (required("<unk>")?, required("</s>")?);
    if draft.first_byte.is_some() {
        return Err(Error::format(path, "found pieces for bytes, which Marian's tokenizers do not have"));
    }
    let mut table = TokenTable::default();
    let mut names = std::collections::HashMap::new();
    let mut special = std::collections::BTreeSet::new();
    let mut added = Vec::new();
    // The library's own for its unknown piece and controls, whose ids may be others.
    let mut olds = std::collections::HashMap::new();
    let mut by_id = Vec::new();
    for (name, _) in ids.fields() {
        by_id.extend(id_of(name)?.map(|id| (id, name)));
    }
    by_id.sort_unstable();
    for (id, name) in by_id {
        let old = draft.names.get(name).copied();
        let is_special = matches!(name, "<unk>" | "</s>" | "<pad>" | "<s>");
        let is_language = name.starts_with(">>") && name.ends_with("<<");
        let token = match old.and_then(|old| draft.tokens.get(old as usize)) {
            Some(token) if !is_special => token.clone(),
            _ if is_special || is_language => Token { bytes: name.into(), plain: false },
            _ => Token { bytes: name.replace('\u{2581}', " ").into(), plain: false },
        };
        table.insert(ids.path(), || name.to_owned(), id, token)?;
        names.insert(name.to_owned(), id);
        if is_special || is_language {
            special.insert(id);
        }
        if is_language {
            added.push((id, AddedFlags(0)));
        }
        if let Some(old) = old.filter(|_| !is_special) {
            olds.insert(id, old);
        }
    }
    added.sort_unstable_by_key(|(id, _)| *id);
    // What follows a language code is cut up as if it began the text.
    let prefix = match draft.prefix {
        Prefix::Text if !added.is_empty() => Prefix::Always,
        other => other,
    };
    let tokens = table.finish();
    let flags = |id: u32| draft.added.iter().find(|(old, _)| olds.get(&id) == Some(old)).map(|(_, flags)| *flags);
    added.extend((0..tokens.len() as u32).filter_map(|id| Some((id, flags(id)?))));
    let mut notes = draft.notes.clone();
    let pieces = draft.tokens.iter().filter(|token| token.plain).count();
    let kept = tokens.iter().filter(|token| token.plain).count();
    if kept < pieces {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        notes.push(format!("{name}: {} pieces have no id and do not come out of texts", pieces - kept));
    }
    let old_score = |scores: &[f64], id: u32| olds.get(&id).and_then(|&old| scores.get(old as usize)).copied();
    let by_id = 0..tokens.len() as u32;
    let mut scores = draft.scores.clone();
    if let Some(scores) = &mut scores {
        scores.scores = by_id.clone().map(|id| old_score(&scores.scores, id).unwrap_or(0.0)).collect();
    }
    let merges = match &draft.merges {
        Merges::Scores(old) => {
            let score = |id| olds.get(&id).and_then(|&at| old.get(at as usize)).copied().unwrap_or(f32::MIN);
            Merges::Scores(by_id.map(score).collect())
        }
        Merges::Pairs(_) => Merges::Pairs(Vec::new()),
    };
    Ok(Draft {
        tokens,
        scores,
        merges,
        prefix,
        names,
        special,
        added,
        notes,
        template: [Vec::new(), vec![end]],
        begin: Vec::new(),
        prompt: None,
        pair: Vec::new(),
        unknown: Some(unknown),
        bos: None,
        eos: Some(end),
        ..draft
    })
}
