//! The device's tokenizer with buffers that grow: for command lines, evaluation and tests.

use std::io::{BufRead, Write};

use thumbformer::tokenizer::{EncodeError, EncodeOptions, Tokenizer, workspace_len};

use crate::{Error, Result};

/// The ids of a text.
///
/// # Errors
/// [`EncodeError::UnknownCharacter`] only.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &str, options: EncodeOptions) -> Result<Vec<u32>, EncodeError> {
    grow(text, |workspace, out| tokenizer.encode(text, options, workspace, out))
}

/// The ids of a user's text inside the prompt format, if there is one.
///
/// # Errors
/// [`EncodeError::UnknownCharacter`] only.
pub fn encode_prompt(tokenizer: &Tokenizer<'_>, text: &str) -> Result<Vec<u32>, EncodeError> {
    grow(text, |workspace, out| tokenizer.encode_prompt(text, workspace, out))
}

/// The ids of a pair of texts, and the segment of each.
///
/// # Errors
/// [`EncodeError::UnknownCharacter`] and [`EncodeError::NoPairs`].
pub fn encode_pair(
    tokenizer: &Tokenizer<'_>,
    texts: [&str; 2],
    options: EncodeOptions,
) -> Result<(Vec<u32>, Vec<u8>), EncodeError> {
    let mut segments = Vec::new();
    let ids = grow(&texts.concat(), |workspace, out| {
        segments.resize(out.len(), 0);
        tokenizer.encode_pair(texts, options, workspace, out, &mut segments)
    })?;
    segments.truncate(ids.len());
    Ok((ids, segments))
}

/// The text of a whole sequence.
pub fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32], skip_special: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = tokenizer.decode(ids, skip_special, &mut text);
    text
}

/// Calls `encode` with larger buffers until both are large enough.
fn grow(
    text: &str,
    mut encode: impl FnMut(&mut [u32], &mut [u32]) -> Result<usize, EncodeError>,
) -> Result<Vec<u32>, EncodeError> {
    let mut workspace = vec![0; workspace_len(256)];
    let mut out = vec![0; text.len() / 2 + 64];
    loop {
        match encode(&mut workspace, &mut out) {
            Ok(len) => {
                out.truncate(len);
                return Ok(out);
            }
            Err(EncodeError::OutputFull { capacity }) => out.resize(2 * capacity.max(1), 0),
            Err(EncodeError::WorkspaceTooSmall { needed }) => workspace.resize(needed.max(workspace.len() + 1), 0),
            Err(other) => return Err(other),
        }
    }
}

/// A line of input.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of two")]
enum Texts {
    One(String),
    Pair(String, String),
}

/// A line of output for a pair of texts.
#[derive(serde::Serialize)]
struct Pair {
    ids: Vec<u32>,
    segments: Vec<u8>,
}

/// What [`command`] reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandOptions {
    /// A line of text is a JSON string, or a list of two for a pair, and a line of ids a JSON list; else text is plain,
    /// and ids stand with their pieces.
    pub json_lines: bool,
    /// Ids to text.
    pub decode: bool,
    /// Leave special tokens out of decoded text.
    pub skip_special: bool,
    /// How text is encoded.
    pub encode: EncodeOptions,
}

/// The `tokenize` command: one line of output for each line of input.
///
/// # Errors
/// Input or output fails, or a line is not what it should be: the error names the line.
pub fn command(
    tokenizer: &Tokenizer<'_>,
    mut input: impl BufRead,
    mut output: impl Write,
    options: CommandOptions,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Error::io("standard input"))? == 0 {
            break;
        }
        let bad = |problem: String| Error::Usage(format!("line {number}: {problem}"));
        let text_of = |ids: &[u32]| match ids.iter().find(|&&id| id >= tokenizer.vocab()) {
            None => Ok(decode(tokenizer, ids, options.skip_special)),
            Some(id) => Err(bad(format!("found id {id}, expected ids below {}", tokenizer.vocab()))),
        };
        let text = std::str::from_utf8(&line).map_err(|error| bad(format!("not UTF-8: {error}")))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let result = match (options.json_lines, options.decode) {
            (true, false) => {
                let texts: Texts = serde_json::from_str(text)
                    .map_err(|error| bad(format!("not a JSON string, nor a list of two: {error}")))?;
                let encoded = match &texts {
                    Texts::One(text) => encode(tokenizer, text, options.encode).map(|ids| json(&ids)),
                    Texts::Pair(first, second) => encode_pair(tokenizer, [first, second], options.encode)
                        .map(|(ids, segments)| json(&Pair { ids, segments })),
                };
                encoded.map_err(|error| bad(error.to_string()))??
            }
            (true, true) => {
                let ids: Vec<u32> =
                    serde_json::from_str(text).map_err(|e| bad(format!("not a JSON list of ids: {e}")))?;
                json(&text_of(&ids)?)?
            }
            (false, false) => {
                let ids = encode(tokenizer, text, options.encode).map_err(|error| bad(error.to_string()))?;
                ids.iter().map(|&id| format!("{id}:{}", piece(tokenizer, id))).collect::<Vec<_>>().join(" ")
            }
            (false, true) => {
                let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
                let ids: Result<Vec<u32>, _> = words.map(str::parse).collect();
                let ids = ids.map_err(|_| bad(format!("{text:?} is not a list of ids")))?;
                text_of(&ids)?
            }
        };
        writeln!(output, "{result}").map_err(Error::Output)?;
    }
    output.flush().map_err(Error::Output)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Usage(error.to_string()))
}

/// A token as a quoted string; bytes that are not UTF-8 as `\xNN`.
pub fn piece(tokenizer: &Tokenizer<'_>, id: u32) -> String {
    let mut quoted = String::from('"');
    for chunk in tokenizer.token_bytes(id).utf8_chunks() {
        quoted.extend(chunk.valid().chars().flat_map(char::escape_debug));
        quoted.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    quoted.push('"');
    quoted
}
