//! `thumbformer fill MODEL TEXT…`: what an encoder would put where texts have mask tokens.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::encoder::{all_tokens, name, require_encoder, texts};
use super::model::{Conversion, Execution, Opened, Precision};
use super::{print_json, say};
use crate::encode::Encoder;
use crate::generate::largest;
use crate::tokenizer::piece;
use crate::{Error, Result};

/// Fill in the masked tokens of texts
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// The texts, with the model's mask token (`[MASK]`, `<mask>`) wherever something is to be filled in; lines of
    /// standard input if there are none
    pub texts: Vec<String>,
    /// Candidates to show for each mask
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// How to run
    #[command(flatten)]
    pub execution: Execution,
    /// How to convert a checkpoint
    #[command(flatten)]
    pub conversion: Conversion,
}

impl Arguments {
    /// `fill MODEL TEXT`.
    pub fn answer(model: PathBuf, text: String) -> Self {
        let execution = Execution { threads: None, precision: Precision::Int8, kernel: None };
        Self { model, texts: vec![text], top: 5, json: false, execution, conversion: Conversion::default() }
    }
}

/// The `--json` object.
#[derive(Serialize)]
struct Output {
    texts: Vec<Filled>,
}

#[derive(Serialize)]
struct Filled {
    ids: Vec<u32>,
    masks: Vec<Mask>,
}

#[derive(Serialize)]
struct Mask {
    /// Index among the ids.
    position: usize,
    candidates: Vec<Candidate>,
}

#[derive(Serialize)]
struct Candidate {
    id: u32,
    token: String,
    probability: f64,
    logit: f32,
}

/// Runs the command.
///
/// # Errors
/// A model that is no encoder, has no head, no tokenizer or no mask token; a text without one, or too long.
pub fn run(arguments: &Arguments) -> Result<()> {
    let opened = Opened::open(&arguments.model, &arguments.conversion, arguments.execution.precision, arguments.json)?;
    let loaded = opened.load(&arguments.execution)?;
    let arch = loaded.arch();
    require_encoder(arch, "fill")?;
    if arch.headless {
        return Err(Error::Usage("the model has no head to fill in tokens with: use `thumbformer embed`".into()));
    }
    let tokenizer = loaded.require_tokenizer()?;
    let mask = loaded.special().mask.ok_or_else(|| {
        Error::Usage("the model's tokenizer names no mask token, expected one such as [MASK] or <mask>".into())
    })?;
    let texts = texts(&arguments.texts)?;
    let ids = all_tokens(&tokenizer, arch, &texts)?;
    let token = |id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    if let Some(i) = ids.iter().position(|ids| !ids.contains(&mask)) {
        let (mask, what) = (token(mask), name(i, ids.len()));
        return Err(Error::Usage(format!("found no {mask} in {what}: put it where something is to be filled in")));
    }
    let longest = ids.iter().map(Vec::len).max().unwrap_or(1);
    let filled = loaded.with_encoder(longest, |encoder, _| {
        let fill = |encoder: &mut dyn Encoder, position: usize| -> Result<Mask> {
            let logits = encoder.token_logits(position)?;
            let best = largest(&logits, arguments.top as usize);
            let highest = f64::from(best.first().map_or(0.0, |best| best.1));
            let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
            let candidate = |(id, logit): (u32, f32)| {
                let probability = (f64::from(logit) - highest).exp() / total;
                Candidate { id, token: token(id), probability, logit }
            };
            Ok(Mask { position, candidates: best.into_iter().map(candidate).collect() })
        };
        let fill_all = |ids: Vec<u32>| -> Result<Filled> {
            encoder.encode(&ids, &[])?;
            let positions = ids.iter().enumerate().filter(|&(_, &id)| id == mask);
            let masks = positions.map(|(position, _)| fill(encoder, position)).collect::<Result<_>>()?;
            Ok(Filled { ids, masks })
        };
        ids.into_iter().map(fill_all).collect::<Result<Vec<_>>>()
    })?;
    if arguments.json {
        return print_json(&Output { texts: filled });
    }
    loaded.tell_notes();
    for (text, Filled { masks, .. }) in texts.iter().zip(&filled) {
        if filled.len() > 1 {
            say!("{text}")?;
        }
        for (number, mask) in masks.iter().enumerate() {
            if masks.len() > 1 {
                say!("mask {} of {}", number + 1, masks.len())?;
            }
            for Candidate { id, probability, .. } in &mask.candidates {
                say!("{:6.2} %  {}", 100.0 * probability, piece(&tokenizer, *id))?;
            }
        }
    }
    Ok(())
}
