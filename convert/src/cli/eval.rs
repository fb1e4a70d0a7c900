//! `thumbformer eval MODEL`: perplexity, damage by quantization, exact answers.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};
use thumbformer::tokenizer::EncodeOptions;

use super::model::{Conversion, Execution, Loaded, Needs, Opened, Precision, is_blob};
use super::{Bar, counted, print_json, read_text, say, tell};
use crate::engine::Engine;
use crate::evaluate::{self, Likelihood, Pair, PairReport, Record, TextReport};
use crate::tokenizer::{decode, encode, encode_prompt};
use crate::{Error, Result};

/// Measure a model: on text, on token ids, or on request-answer pairs
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("data").args(["text", "ids", "pairs"]).required(true))]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// Text file to score
    pub text: Option<PathBuf>,
    /// JSON file with a list of token ids to score; of an encoder-decoder, with a list of objects with `source` and
    /// `target`, a list of token ids each
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// Text file with `request<TAB>answer` (or `source<TAB>answer`) lines to answer exactly
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Tokens scored together, each window alone from position 0 [default: the context]
    #[arg(long, value_name = "N", conflicts_with = "pairs")]
    pub window: Option<usize>,
    /// Checkpoint to compare with, run in f32
    #[arg(long, value_name = "CHECKPOINT")]
    pub reference: Option<PathBuf>,
    /// With --pairs, print the requests answered otherwise
    #[arg(long, conflicts_with_all = ["text", "ids"])]
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
    // With a finished model, the options of a conversion are the reference's.
    let unused = Conversion::default();
    let of_model =
        if arguments.reference.is_some() && is_blob(&arguments.model) { &unused } else { &arguments.conversion };
    let opened = Opened::open(&arguments.model, of_model, arguments.execution.precision, arguments.json)?;
    let loaded = opened.load(&arguments.execution)?;
    if loaded.arch().is_encoder() {
        return Err(Error::Usage(
            "`eval` scores next tokens; this model is an encoder, which is given a text at once and predicts none: use \
             `thumbformer fill` or `embed`"
                .into(),
        ));
    }
    let reference = match &arguments.reference {
        Some(path) => {
            // What says how to quantize is the model's, if that is a checkpoint too.
            let both = arguments.conversion.unquantized();
            let conversion = if is_blob(&arguments.model) { &arguments.conversion } else { &both };
            Some(Opened::open(path, conversion, Precision::F32, true)?)
        }
        None => None,
    };
    let in_f32 = Execution { precision: Precision::F32, kernel: None, ..arguments.execution };
    let reference = reference.as_ref().map(|opened| opened.load(&in_f32)).transpose()?;
    if let Some(reference) = &reference {
        let (vocab, expected) = (reference.vocab(), loaded.vocab());
        if vocab != expected {
            return Err(Error::Usage(format!(
                "the reference has a vocabulary of {vocab}, the model one of {expected}: they do not belong together"
            )));
        }
        let kind = |loaded: &Loaded<'_>| match (loaded.arch().causal, loaded.arch().cross) {
            (false, _) => "an encoder",
            (true, true) => "an encoder-decoder",
            (true, false) => "a decoder",
        };
        let (found, expected) = (kind(reference), kind(&loaded));
        if found != expected {
            return Err(Error::Usage(format!(
                "the reference is {found}, the model {expected}: they do not belong together"
            )));
        }
    }
    let with_reference = |f: &mut dyn FnMut(Option<&mut dyn Engine>) -> Result<()>| match &reference {
        None => f(None),
        Some(reference) => reference.with_engine(Needs::rows(1), |engine, _| f(Some(engine))),
    };
    if let Some(path) = &arguments.pairs {
        let pairs = read_pairs(path, &loaded)?;
        let mut reports = Vec::new();
        let needs = Needs::rows(LOGIT_ROWS);
        reports.push(loaded.with_engine(needs, |model, _| answer(arguments, path, &loaded, model, &pairs))?);
        with_reference(&mut |reference| {
            if let Some(reference) = reference {
                reports.push(answer(arguments, path, &loaded, reference, &pairs)?);
            }
            Ok(())
        })?;
        return print_pairs(arguments, &loaded, &reports);
    }
    if loaded.arch().cross {
        let Some(path) = &arguments.ids else {
            return Err(Error::Usage(
                "the model answers sources: give records with --ids, or source<TAB>answer lines with --pairs".into(),
            ));
        };
        if arguments.window.is_some() {
            return Err(Error::Usage("--window: each record of an encoder-decoder is scored as a whole".into()));
        }
        let records = read_records(path, &loaded)?;
        let mut report = None;
        loaded.with_engine(Needs::rows(LOGIT_ROWS), |model, _| {
            with_reference(&mut |reference| {
                let tokens: usize = records.iter().map(|record| record.ids.len()).sum();
                let bar = Bar::new(tokens as u64, "tokens", arguments.json);
                let progress = |done| bar.advance(done as u64);
                report = Some(evaluate::records(model, reference, &records, progress)?);
                Ok(())
            })
        })?;
        return report.map_or(Ok(()), |report| print_text(arguments, &loaded, &report));
    }
    let ids = match (&arguments.ids, &arguments.text) {
        (Some(path), _) => read_ids(path, loaded.vocab())?,
        (None, Some(path)) => encode(&loaded.require_tokenizer()?, &read_text(path)?, EncodeOptions::default())?,
        (None, None) => return Err(Error::Usage("nothing to score: give a text file, --ids or --pairs".into())),
    };
    if let (true, Some(path)) = (ids.len() < 2, arguments.ids.as_ref().or(arguments.text.as_ref())) {
        let found = counted(ids.len(), "token");
        return Err(Error::format(path, format!("{found}, expected at least 2: the first one is not scored")));
    }
    let mut report = None;
    loaded.with_engine(Needs::rows(LOGIT_ROWS), |model, _| {
        with_reference(&mut |reference| {
            let bar = Bar::new(ids.len() as u64, "tokens", arguments.json);
            let progress = |done| bar.advance(done as u64);
            report = Some(evaluate::text(model, reference, &ids, arguments.window, progress)?);
            Ok(())
        })
    })?;
    report.map_or(Ok(()), |report| print_text(arguments, &loaded, &report))
}

fn answer(
    arguments: &Arguments,
    path: &Path,
    loaded: &Loaded<'_>,
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
            tell!("line {}: expected {:?}, got {answer:?}", index + 1, pair.text);
        }
    };
    evaluate::pairs(
        engine,
        pairs,
        loaded.special().end(),
        |ids| decode(&tokenizer, ids, true),
        wrong,
        |n| bar.advance(n as u64),
    )
}

fn read_ids(path: &Path, vocab: u32) -> Result<Vec<u32>> {
    let ids: Vec<u32> = serde_json::from_str(&read_text(path)?)
        .map_err(|e| Error::format(path, format!("expected a JSON list of token ids: {e}")))?;
    match ids.iter().enumerate().find(|&(_, &id)| id >= vocab) {
        None => Ok(ids),
        Some((index, id)) => {
            Err(Error::format(path, format!("token {id} at index {index}, the model's vocabulary is {vocab}")))
        }
    }
}

/// A record of `--ids` for an encoder-decoder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTarget {
    source: Vec<u32>,
    target: Vec<u32>,
}

fn read_records(path: &Path, loaded: &Loaded<'_>) -> Result<Vec<Record>> {
    let records: Vec<SourceTarget> = serde_json::from_str(&read_text(path)?)
        .map_err(|e| Error::format(path, format!("expected a JSON list of records with source and target: {e}")))?;
    let start = loaded.answer_start();
    if start.is_empty() {
        return Err(Error::Usage("the model has no token to start answers with".into()));
    }
    let record = |(index, SourceTarget { source, target }): (usize, SourceTarget)| {
        // What follows the start token in every answer is given, whether the record has it or not.
        let target = match (start.get(1), target.split_first()) {
            (Some(second), Some((first, rest))) if first == second => rest,
            _ => &target[..],
        };
        for (field, ids, vocab, most) in [
            ("source", &source[..], loaded.source_vocab(), loaded.source_context()),
            ("target", target, loaded.vocab(), (loaded.arch().context as usize).saturating_sub(start.len())),
        ] {
            let wrong = |found: String| Error::format(path, format!("record {index}: {field}: {found}"));
            if ids.is_empty() {
                return Err(wrong("found no tokens, expected at least 1".into()));
            }
            if ids.len() > most {
                return Err(wrong(format!("found {} tokens, expected at most {most}", ids.len())));
            }
            if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
                return Err(wrong(format!("found token {id}, the vocabulary has {vocab}")));
            }
        }
        Ok(Record { ids: start.iter().chain(target).copied().collect(), given: start.len(), source })
    };
    let records: Vec<_> = records.into_iter().enumerate().map(record).collect::<Result<_>>()?;
    if records.is_empty() {
        return Err(Error::format(path, "no records, expected at least one with source and target"));
    }
    Ok(records)
}

fn read_pairs(path: &Path, loaded: &Loaded<'_>) -> Result<Vec<Pair>> {
    let tokenizer = &loaded.require_tokenizer()?;
    let source = if loaded.arch().cross { Some(loaded.require_source_tokenizer()?) } else { None };
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
        let encode_source = |tokenizer| encode(tokenizer, request, EncodeOptions::default());
        pairs.push(Pair {
            source: source.as_ref().map(encode_source).transpose()?,
            prompt: if source.is_some() { loaded.answer_start() } else { encode_prompt(tokenizer, request)? },
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

fn print_text(arguments: &Arguments, loaded: &Loaded<'_>, report: &TextReport) -> Result<()> {
    if arguments.json {
        let Likelihood { nll, perplexity, tokens } = report.model;
        let top1_agreement = report.divergence.map(|d| d.top1_agreement);
        return print_json(&TextOutput { nll, perplexity, tokens, top1_agreement, report });
    }
    loaded.tell_notes();
    let own = match arguments.execution.precision {
        Precision::Int8 => "int8",
        Precision::F32 => "f32",
    };
    let reports = std::iter::once(&report.model).chain(&report.reference);
    let row = |name: &str, value: fn(&Likelihood) -> String| print_row(name, reports.clone().map(value));
    print_row("", [own, "f32"].into_iter().take(reports.clone().count()).map(str::to_owned))?;
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

/// A line of a table: a column for the model, another for the reference.
fn print_row(name: &str, values: impl Iterator<Item = String>) -> Result<()> {
    let values: String = values.map(|value| format!("{value:>14}")).collect();
    say!("{name:<22}{values}")
}

#[derive(Serialize)]
struct PairsOutput<'r> {
    #[serde(flatten)]
    model: &'r PairReport,
    reference: Option<&'r PairReport>,
}

fn print_pairs(arguments: &Arguments, loaded: &Loaded<'_>, reports: &[PairReport]) -> Result<()> {
    let Some(model) = reports.first() else { return Ok(()) };
    let reference = reports.get(1);
    if arguments.json {
        return print_json(&PairsOutput { model, reference });
    }
    loaded.tell_notes();
    let own = match arguments.execution.precision {
        Precision::Int8 => "int8",
        Precision::F32 => "f32",
    };
    let row = |name: &str, value: fn(&PairReport) -> String| print_row(name, reports.iter().map(value));
    print_row("", [own, "f32"].into_iter().take(reports.len()).map(str::to_owned))?;
    row("answered exactly", |r| format!("{} / {}", r.exact, r.pairs))?;
    row("", |r| format!("{:.2} %", 100.0 * r.exact_rate))?;
    row("NLL of answers", |r| format!("{:.6}", r.answers.nll))?;
    row("tokens scored", |r| r.answers.tokens.to_string())
}
