//! Post-processors: ids that are put around every text, and around a pair of texts.

use serde_json::Value;
use thumbformer::tokenizer::PairPart;

use super::super::draft::Draft;
use super::{kind_of, only};
use crate::Result;
use crate::config::Config;

/// Reads the post-processor. Without one, the texts of a pair simply follow each other.
pub(super) fn read(file: &Config, draft: &mut Draft) -> Result<()> {
    draft.pair = vec![(PairPart::First, 0), (PairPart::Second, 1)];
    match file.object("post_processor")? {
        Some(post_processor) => read_one(&post_processor, draft),
        None => Ok(()),
    }
}

fn read_one(post_processor: &Config, draft: &mut Draft) -> Result<()> {
    match kind_of(post_processor)? {
        "ByteLevel" => Ok(()), // concerns offsets only
        "Sequence" => {
            let parts = post_processor.objects("processors")?;
            let templates = parts.iter().filter(|part| kind_of(part).is_ok_and(|kind| kind != "ByteLevel")).count();
            if templates > 1 {
                return Err(post_processor.error("processors", "one that is not ByteLevel"));
            }
            parts.iter().try_for_each(|part| match kind_of(part)? {
                "Sequence" => Err(part.error("type", "no Sequence inside a Sequence")),
                _ => read_one(part, draft),
            })
        }
        kind @ ("BertProcessing" | "RobertaProcessing") => {
            let id = |field: &str| {
                let id = match post_processor.get(field).and_then(Value::as_array).map(Vec::as_slice) {
                    Some([Value::String(_), id]) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
                    _ => None,
                };
                id.ok_or_else(|| post_processor.error(field, "a token and its id"))
            };
            let (cls, sep) = (id("cls")?, id("sep")?);
            draft.template = [vec![cls], vec![sep]];
            let (cls, sep) = (PairPart::Token(cls), PairPart::Token(sep));
            let (first, second) = (PairPart::First, PairPart::Second);
            draft.pair = match kind {
                "BertProcessing" => vec![(cls, 0), (first, 0), (sep, 0), (second, 1), (sep, 1)],
                // Two separators, and all of it one segment.
                _ => [cls, first, sep, sep, second, sep].map(|part| (part, 0)).to_vec(),
            };
            check(post_processor, draft)
        }
        "TemplateProcessing" => {
            only(post_processor, &["type", "single", "pair", "special_tokens"])?;
            let mut seen_text = 0;
            for (part, piece) in parts(post_processor, "single")? {
                match part {
                    Part::Text(name) if name != "A" => return Err(piece.error("id", "A")),
                    Part::Text(_) => seen_text += 1,
                    Part::Tokens(ids) => draft.template[seen_text.min(1)].extend(ids),
                }
                if piece.integer("type_id")?.unwrap_or(0) != 0 {
                    return Err(piece.error("type_id", "0 for a single text"));
                }
            }
            if seen_text != 1 {
                return Err(post_processor.error("single", "the sequence A once"));
            }
            draft.pair.clear();
            for (part, piece) in parts(post_processor, "pair")? {
                let segment = piece.integer("type_id")?.unwrap_or(0);
                let segment = u8::try_from(segment).map_err(|_| piece.error("type_id", "at most 255"))?;
                match part {
                    Part::Text("A") => draft.pair.push((PairPart::First, segment)),
                    Part::Text("B") => draft.pair.push((PairPart::Second, segment)),
                    Part::Text(_) => return Err(piece.error("id", "A or B")),
                    Part::Tokens(ids) => draft.pair.extend(ids.into_iter().map(|id| (PairPart::Token(id), segment))),
                }
            }
            let times = |text: PairPart| draft.pair.iter().filter(|(part, _)| *part == text).count();
            if !draft.pair.is_empty() && [times(PairPart::First), times(PairPart::Second)] != [1, 1] {
                return Err(post_processor.error("pair", "the sequences A and B, each once"));
            }
            check(post_processor, draft)
        }
        _ => Err(post_processor.error("type", "TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel")),
    }
}

/// A piece of a template.
enum Part<'p> {
    /// A text by its name.
    Text(&'p str),
    /// A special token.
    Tokens(Vec<u32>),
}

/// The pieces of a template, each with the fields that describe it.
fn parts(post_processor: &Config, field: &str) -> Result<Vec<(Part<'static>, Config)>> {
    let tokens = post_processor.object("special_tokens")?;
    let read = |piece: Config| {
        if let Some(sequence) = piece.object("Sequence")? {
            let name = match sequence.string("id")? {
                Some("A") => "A",
                Some("B") => "B",
                _ => return Err(sequence.error("id", "A or B")),
            };
            return Ok((Part::Text(name), sequence));
        }
        let special = piece.object("SpecialToken")?.ok_or_else(|| piece.error("SpecialToken", "an object"))?;
        let name = special.string("id")?.ok_or_else(|| special.error("id", "a string"))?;
        let token = tokens.as_ref().map(|tokens| tokens.object(name)).transpose()?.flatten();
        let token = token.ok_or_else(|| special.error("id", "one of special_tokens"))?;
        let ids = token.token_ids("ids")?.ok_or_else(|| token.error("ids", "a list of ids"))?;
        Ok((Part::Tokens(ids), special))
    };
    if post_processor.get(field).is_none() && field == "pair" {
        return Ok(Vec::new());
    }
    post_processor.objects(field)?.into_iter().map(read).collect()
}

fn check(post_processor: &Config, draft: &Draft) -> Result<()> {
    let pair = draft.pair.iter().filter_map(|(part, _)| match part {
        PairPart::Token(id) => Some(id),
        PairPart::First | PairPart::Second => None,
    });
    match draft.template.iter().flatten().chain(pair).find(|&&id| id as usize >= draft.tokens.len()) {
        Some(id) => Err(post_processor.error("type", format!("ids of tokens, {id} is none"))),
        None => Ok(()),
    }
}
