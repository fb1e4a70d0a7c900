//! `thumbformer eval MODEL`: perplexity, damage by quantization, exact answers.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use super::model::{Conversion, Execution, Loaded, Precision};
use super::{Bar, print_json, say};
use crate::engine::Engine;
use crate::evaluate::{self, Likelihood, Pair, PairReport, TextReport};
use crate::tokenizer::{decode, encode, encode_prompt};
use crate::{Error, Result};

/// Measure a model: on text, on token ids, or on request-answer pairs
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// Text file to score
    #[arg(required_unless_present_any = ["ids", "pairs"], conflicts_with_all = ["ids", "pairs"])]
    pub text: Option<PathBuf>,
    /// JSON file with a list of token ids to score
    #[arg(long, value_name = "FILE", conflicts_with = "pairs")]
    pub ids: Option<PathBuf>,
    /// Text file with `request<TAB>answer` lines to answer exactly
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Tokens scored together, each window alone from position 0 [default: the context]
    #[arg(long, value_name = "N", conflicts_with = "pairs")]
    pub window: Option<usize>,
    /// Checkpoint to compare with, run in f32
    #[arg(long, value_name = "CHECKPOINT")]
    pub reference: Option<PathBuf>,
    /// With --pairs, print the requests answered otherwise
    #[arg(long, requires = "pairs")]
    pub show_wrong: bool,
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

/// Positions whose logits the runtime computes at a time.
const LOGIT_ROWS: u32 = 16;

/// Runs the command.
///
/// # Errors
/// Whatever the files, the model or the runtime report.
pub fn run(arguments: &Arguments) -> Result<()> {
    let loaded = Loaded::open(&arguments.model, &arguments.conversion, arguments.execution.precision, arguments.json)?;
    let reference = match &arguments.reference {
        Some(path) => Some(Loaded::open(path, &arguments.conversion, Precision::F32, true)?),
        None => None,
    };
    let with_reference = |f: &mut dyn FnMut(Option<&mut dyn Engine>) -> Result<()>| match &reference {
        None => f(None),
        Some(reference) => {
            let execution = Execution { precision: Precision::F32, ..arguments.execution };
            reference.with_engine(&execution, 1, |engine, _| f(Some(engine)))
        }
    };
    if let Some(path) = &arguments.pairs {
        let pairs = read_pairs(path, &loaded.require_tokenizer()?)?;
        let mut reports = Vec::new();
        reports.push(loaded.with_engine(&arguments.execution, LOGIT_ROWS, |model, _| {
            answer(arguments, path, &loaded, model, &pairs)
        })?);
        with_reference(&mut |reference| {
            if let Some(reference) = reference {
                reports.push(answer(arguments, path, &loaded, reference, &pairs)?);
            }
            Ok(())
        })?;
        return print_pairs(arguments, &reports);
    }
    let ids = match (&arguments.ids, &arguments.text) {
        (Some(path), _) => read_ids(path)?,
        (None, Some(path)) => encode(&loaded.require_tokenizer()?, &read_text(path)?, EncodeOptions::default())?,
        (None, None) => return Err(Error::Usage("nothing to score: give a text file, --ids or --pairs".into())),
    };
    let mut report = None;
    loaded.with_engine(&arguments.execution, LOGIT_ROWS, |model, _| {
        with_reference(&mut |reference| {
            let window = arguments.window.unwrap_or(model.context().min(ids.len().max(2)));
            let bar = Bar::new(ids.len() as u64, "tokens", arguments.json);
            report = Some(evaluate::text(model, reference, &ids, window, |done| bar.advance(done as u64))?);
            Ok(())
        })
    })?;
    report.map_or(Ok(()), |report| print_text(arguments, &report))
}

fn answer(
    arguments: &Arguments,
    path: &Path,
    loaded: &Loaded,
    engine: &mut dyn Engine,
    pairs: &[Pair],
) -> Result<PairReport> {
    let tokenizer = loaded.require_tokenizer()?;
    for (line, pair) in pairs.iter().enumerate() {
        let tokens = pair.prompt.len() + pair.answer.len();
        if tokens > engine.context() {
            return Err(Error::format(
                path,
                format!("line {}: {tokens} tokens, the model's context is {}", line + 1, engine.context()),
            ));
        }
    }
    let bar = Bar::new(pairs.len() as u64, "pairs", arguments.json);
    let wrong = |index: usize, answer: &str| {
        if let (true, Some(pair)) = (arguments.show_wrong, pairs.get(index)) {
            eprintln!("line {}: expected {:?}, got {answer:?}", index + 1, pair.text);
        }
    };
    evaluate::pairs(
        engine,
        pairs,
        &loaded.end_tokens()?,
        |ids| decode(&tokenizer, ids, true),
        wrong,
        |n| bar.advance(n as u64),
    )
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::format(path, format!("byte {} is not UTF-8 text", e.utf8_error().valid_up_to())))
}

fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, format!("expected a JSON list of token ids: {e}")))
}

fn read_pairs(path: &Path, tokenizer: &Tokenizer<'_>) -> Result<Vec<Pair>> {
    let text = read_text(path)?;
    let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() {
            continue;
        }
        let (request, answer) = line
            .split_once('\t')
            .ok_or_else(|| Error::format(path, format!("line {}: no tab, expected request<TAB>answer", index + 1)))?;
        pairs.push(Pair {
            prompt: encode_prompt(tokenizer, request)?,
            answer: encode(tokenizer, answer, bare)?,
            text: answer.to_owned(),
        });
        if pairs.last().is_some_and(|pair| pair.prompt.is_empty()) {
            return Err(Error::format(path, format!("line {}: the request has no tokens", index + 1)));
        }
    }
    if pairs.is_empty() {
        return Err(Error::format(path, "no pairs, expected `request<TAB>answer` lines"));
    }
    Ok(pairs)
}

/// The `--json` object for text and ids.
#[derive(Serialize)]
struct TextOutput<'r> {
    nll: f64,
    perplexity: f64,
    tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top1_agreement: Option<f64>,
    #[serde(flatten)]
    report: &'r TextReport,
}

fn print_text(arguments: &Arguments, report: &TextReport) -> Result<()> {
    if arguments.json {
        let Likelihood { nll, perplexity, tokens } = report.model;
        let top1_agreement = report.divergence.map(|d| d.top1_agreement);
        return print_json(&TextOutput { nll, perplexity, tokens, top1_agreement, report });
    }
    let own = match arguments.execution.precision {
        Precision::Int8 => "int8",
        Precision::F32 => "f32",
    };
    say!("{:<22}{own:>12}{:>12}", "", if report.reference.is_some() { "f32" } else { "" })?;
    let row = |name: &str, value: fn(&Likelihood) -> String| {
        say!("{name:<22}{:>12}{:>12}", value(&report.model), report.reference.as_ref().map(value).unwrap_or_default())
    };
    row("perplexity", |l| format!("{:.4}", l.perplexity))?;
    row("NLL, nats a token", |l| format!("{:.5}", l.nll))?;
    row("tokens scored", |l| l.tokens.to_string())?;
    if let Some(d) = &report.divergence {
        say!("\n{own} against f32")?;
        say!("  KL divergence       mean {:.6}, 99.9 % {:.6}, maximum {:.6}", d.kl_mean, d.kl_p999, d.kl_max)?;
        say!("  top-1 agreement     {:.2} %", 100.0 * d.top1_agreement)?;
        say!("  RMS of Δp           {:.3} %", 100.0 * d.delta_p_rms)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct PairsOutput<'r> {
    #[serde(flatten)]
    model: &'r PairReport,
    reference: Option<&'r PairReport>,
}

fn print_pairs(arguments: &Arguments, reports: &[PairReport]) -> Result<()> {
    let Some(model) = reports.first() else { return Ok(()) };
    let reference = reports.get(1);
    if arguments.json {
        return print_json(&PairsOutput { model, reference });
    }
    let own = match arguments.execution.precision {
        Precision::Int8 => "int8",
        Precision::F32 => "f32",
    };
    say!("{:<22}{own:>14}{:>14}", "", if reference.is_some() { "f32" } else { "" })?;
    let row = |name: &str, value: fn(&PairReport) -> String| {
        say!("{name:<22}{:>14}{:>14}", value(model), reference.map(value).unwrap_or_default())
    };
    row("answered exactly", |r| format!("{} / {}", r.exact, r.pairs))?;
    row("", |r| format!("{:.2} %", 100.0 * r.exact_rate))?;
    row("NLL of answers", |r| format!("{:.6}", r.answers.nll))?;
    row("tokens scored", |r| r.answers.tokens.to_string())
}
