//! Normalizers, each a step or a few for the device.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::normalizer::{Mapping, Program, Step};
use super::rules::SPACE;
use super::{kind_of, only};
use crate::Result;
use crate::config::Config;

/// What the error for another normalizer names.
const KNOWN: &str = "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, BertNormalizer, Precompiled, Replace, Strip, \
                     Prepend, or these in a Sequence";

/// Adds a normalizer.
pub(super) fn read_step(normalizer: &Config, program: &mut Program) -> Result<()> {
    let kind = kind_of(normalizer)?;
    let fields: &[&str] = match kind {
        "BertNormalizer" => &["type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"],
        "Precompiled" => &["type", "precompiled_charsmap"],
        "Replace" => &["type", "pattern", "content"],
        "Strip" => &["type", "strip_left", "strip_right"],
        "Prepend" => &["type", "prepend"],
        _ => &["type"],
    };
    match kind {
        "NFD" | "NFC" => {
            program.map(&[Mapping::Nfd]);
            program.push(Step::Canonical { compose: kind == "NFC" });
        }
        "NFKD" | "NFKC" => {
            program.map(&[Mapping::Nfkd]);
            program.push(Step::Canonical { compose: kind == "NFKC" });
        }
        "Lowercase" => program.map(&[Mapping::Lowercase]),
        "StripAccents" => program.map(&[Mapping::StripMarks]),
        "BertNormalizer" => read_bert(normalizer, program)?,
        "Precompiled" => read_precompiled(normalizer, program)?,
        "Replace" => read_replace(normalizer, program)?,
        "Strip" => {
            let end = |field: &str| -> Result<bool> { Ok(normalizer.boolean(field)?.unwrap_or(false)) };
            let (start, end) = (end("strip_left")?, end("strip_right")?);
            if start || end {
                program.push(Step::Strip { start, end });
            }
        }
        "Prepend" => {
            let prefix = normalizer.string("prepend")?.ok_or_else(|| normalizer.error("prepend", "a string"))?;
            program.push(Step::Prepend(prefix.into()));
        }
        _ => return Err(normalizer.error("type", KNOWN)),
    }
    only(normalizer, fields)
}

fn read_bert(normalizer: &Config, program: &mut Program) -> Result<()> {
    let flag = |field: &str| -> Result<bool> { Ok(normalizer.boolean(field)?.unwrap_or(true)) };
    let lowercase = flag("lowercase")?;
    if flag("clean_text")? {
        program.map(&[Mapping::Clean]);
    }
    if flag("handle_chinese_chars")? {
        program.map(&[Mapping::Ideographs]);
    }
    if normalizer.boolean("strip_accents")?.unwrap_or(lowercase) {
        program.map(&[Mapping::Nfd]);
        program.push(Step::Canonical { compose: false });
        program.map(&[Mapping::StripNonspacing]);
    }
    if lowercase {
        program.map(&[Mapping::Lowercase]);
    }
    Ok(())
}

fn read_precompiled(normalizer: &Config, program: &mut Program) -> Result<()> {
    let expected = "a table in base64";
    let Some(encoded) = normalizer.string("precompiled_charsmap")? else { return Ok(()) };
    if encoded.is_empty() {
        return Ok(());
    }
    let charsmap = BASE64_STANDARD.decode(encoded);
    let charsmap = charsmap.map_err(|_| normalizer.error("precompiled_charsmap", expected))?;
    program.push(Step::Clusters(charsmap));
    Ok(())
}

fn read_replace(normalizer: &Config, program: &mut Program) -> Result<()> {
    let pattern = normalizer.object("pattern")?.ok_or_else(|| normalizer.error("pattern", "an object"))?;
    let to = normalizer.string("content")?.ok_or_else(|| normalizer.error("content", "a string"))?;
    let (from, at_least) = match (pattern.string("String")?, pattern.string("Regex")?) {
        (Some(from), None) if !from.is_empty() => (from, 0),
        (Some(_), None) => return Err(pattern.error("String", "a string that is not empty")),
        (None, Some(" {2,}")) => (" ", 2),
        (None, Some(" +")) => (" ", 1),
        _ => return Err(pattern.error("Regex", "\" {2,}\", or a String instead of a Regex")),
    };
    program.push(Step::Replace { from: from.into(), to: to.into(), at_least });
    Ok(())
}

/// A Replace of spaces by U+2581: the device takes one for the other anyway.
pub(super) fn is_space_replacement(normalizer: &Config) -> Result<bool> {
    only(normalizer, &["type", "pattern", "content"])?;
    let pattern = normalizer.object("pattern")?;
    let from = pattern.as_ref().map(|pattern| pattern.string("String")).transpose()?.flatten();
    Ok(from == Some(" ") && normalizer.string("content")? == Some(SPACE))
}
