//! What the commands for encoders share, and what `run` does with one.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use thumbformer::arch::Arch;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use super::model::{Loaded, Running};
use super::run::Arguments;
use super::{counted, print_json, say, tell, utf8};
use crate::encode::Encoder;
use crate::generate::largest;
use crate::tokenizer::{encode, piece};
use crate::{Error, Result};

/// Logits of a position that are shown unless the user says otherwise.
const SHOWN: usize = 5;

/// Refuses a model that predicts next tokens only.
pub(super) fn require_encoder(arch: &Arch, command: &str) -> Result<()> {
    if arch.is_encoder() {
        return Ok(());
    }
    let does = if arch.cross { "answers sources" } else { "continues texts" };
    Err(Error::Usage(format!(
        "`{command}` is for encoders (BERT and its relatives); this model {does}: use `thumbformer run`"
    )))
}

/// The texts given as arguments, or else the lines of standard input.
pub(super) fn texts(given: &[String]) -> Result<Vec<String>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(Error::io("standard input"))?;
    let lines: Vec<String> = utf8(bytes, Path::new("standard input"))?.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(Error::Usage("no text: give texts as arguments, or as lines of standard input".into()));
    }
    Ok(lines)
}

/// The tokens of each text.
pub(super) fn all_tokens(tokenizer: &Tokenizer<'_>, arch: &Arch, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let tokens = |(i, text): (usize, &String)| tokens(tokenizer, arch, text, &name(i, texts.len()));
    texts.iter().enumerate().map(tokens).collect()
}

/// What errors call a text.
pub(super) fn name(index: usize, count: usize) -> String {
    if count == 1 { "the text".into() } else { format!("text {}", index + 1) }
}

/// The tokens of a text, with those that the tokenizer puts around it. `what` names the text in errors.
fn tokens(tokenizer: &Tokenizer<'_>, arch: &Arch, text: &str, what: &str) -> Result<Vec<u32>> {
    let ids = encode(tokenizer, text, EncodeOptions::default())?;
    check_length(&ids, arch, what)?;
    Ok(ids)
}

/// Refuses what an encoder cannot take in.
fn check_length(ids: &[u32], arch: &Arch, what: &str) -> Result<()> {
    let (found, context) = (ids.len(), arch.context as usize);
    if found == 0 {
        return Err(Error::Usage(format!("{what} has no tokens")));
    }
    if found > context {
        let found = counted(found, "token");
        return Err(Error::Usage(format!("{what} has {found}, the model's context only {context}: cut it into parts")));
    }
    Ok(())
}

/// The `--json` object of `run` with an encoder.
#[derive(Serialize)]
struct Positions {
    ids: Vec<u32>,
    token_types: Vec<u8>,
    /// The largest logits of every position.
    logits: Vec<Vec<(u32, f32)>>,
    stats: Stats,
}

#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    running: Running,
    tokens_per_s: f64,
}

/// `run` with an encoder: the largest logits of every position.
pub(super) fn run(arguments: &Arguments, loaded: &Loaded<'_>) -> Result<()> {
    let arch = *loaded.arch();
    if arch.headless {
        return Err(Error::Usage("the model has no head to give logits: use `thumbformer embed`".into()));
    }
    let tokenizer = loaded.tokenizer()?;
    let ids = match &arguments.ids {
        Some(ids) => {
            check_length(ids, &arch, "--ids")?;
            ids.clone()
        }
        None => tokens(&loaded.require_tokenizer()?, &arch, &super::run::prompt_text(arguments)?, "the text")?,
    };
    let token_types = arguments.token_types.clone().unwrap_or_default();
    let count = if arguments.logits > 0 { arguments.logits } else { SHOWN };
    let (logits, stats) = loaded.with_encoder(ids.len(), |encoder: &mut dyn Encoder, running| {
        let start = Instant::now();
        encoder.encode(&ids, &token_types)?;
        let seconds = start.elapsed().as_secs_f64();
        let largest = |position| Ok(largest(&encoder.token_logits(position)?, count));
        let stats = Stats { running: *running, tokens_per_s: ids.len() as f64 / seconds.max(1e-9) };
        Ok(((0..ids.len()).map(largest).collect::<Result<Vec<_>>>()?, stats))
    })?;
    if arguments.json {
        let token_types = if token_types.is_empty() { vec![0; ids.len()] } else { token_types };
        return print_json(&Positions { ids, token_types, logits, stats });
    }
    let name = |id: u32| tokenizer.map_or_else(|| id.to_string(), |tokenizer| piece(&tokenizer, id));
    for (&id, logits) in ids.iter().zip(&logits) {
        let logits: Vec<_> = logits.iter().map(|&(id, logit)| format!("{} {logit:.3}", name(id))).collect();
        say!("{}\t{}", name(id), logits.join("\t"))?;
    }
    if arguments.stats {
        tell!("text: {}, {:.0} tokens/s", counted(ids.len(), "token"), stats.tokens_per_s);
        stats.running.print();
    }
    Ok(())
}
