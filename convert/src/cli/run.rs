//! `thumbformer run MODEL [PROMPT]`: generate, and show the text as it comes.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use thumbformer::decode::{StopStrings, Stopped};
use thumbformer::tokenizer::EncodeOptions;

use super::model::{Conversion, Execution, Opened, Precision, Running};
use super::{bytes, counted, print_json, tell, utf8};
use crate::engine::Engine;
use crate::generate::{Ended, Generated, Settings, generate};
use crate::tokenizer::{encode, encode_prompt};
use crate::{Error, Result};

/// Generate text or tokens with a model
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// The prompt; read from standard input if there is none
    pub prompt: Option<String>,
    /// Token ids in place of a prompt, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, conflicts_with = "prompt")]
    pub ids: Option<Vec<u32>>,
    /// Tokens to generate at most
    #[arg(short = 'n', long, default_value_t = MAX_TOKENS, value_name = "N")]
    pub max_tokens: usize,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Give the prompt to the model as it is, without the model's prompt format
    #[arg(long)]
    pub raw: bool,
    /// Print speed and memory after the answer
    #[arg(long)]
    pub stats: bool,
    /// Print one JSON object in place of text
    #[arg(long)]
    pub json: bool,
    /// With --json, the K largest logits of every generated position
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "json")]
    pub logits: usize,
    /// How to run
    #[command(flatten)]
    pub execution: Execution,
    /// How to convert a checkpoint
    #[command(flatten)]
    pub conversion: Conversion,
}

fn token_id(text: &str) -> Result<u32, &'static str> {
    text.trim().parse().map_err(|_| "expected token ids separated by commas")
}

impl Arguments {
    /// `run MODEL PROMPT`.
    pub fn answer(model: PathBuf, prompt: String, stats: bool) -> Self {
        Self {
            model,
            prompt: Some(prompt),
            ids: None,
            max_tokens: MAX_TOKENS,
            stop: Vec::new(),
            raw: false,
            stats,
            json: false,
            logits: 0,
            execution: Execution { threads: None, precision: Precision::Int8, kernel: None },
            conversion: Conversion::default(),
        }
    }
}

/// Tokens to generate unless the user says otherwise.
const MAX_TOKENS: usize = 256;

/// The `--json` object.
#[derive(Serialize)]
struct Output {
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: Option<String>,
    ended: Ended,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<Vec<(u32, f32)>>>,
    stats: Stats,
}

#[derive(Serialize)]
struct Stats {
    kernel: &'static str,
    threads: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: Option<f64>,
    first_token_ms: f64,
    cache_bytes: Option<usize>,
    scratch_bytes: Option<usize>,
}

impl Stats {
    fn new(running: &Running, prompt: usize, generated: &Generated) -> Self {
        // The first token comes from the prompt's logits; every other one is a step.
        let steps = generated.ids.len().saturating_sub(1);
        let decode = generated.decode.as_secs_f64();
        Self {
            kernel: running.kernel,
            threads: running.threads,
            prompt_tokens: prompt,
            generated_tokens: generated.ids.len(),
            prefill_tokens_per_s: prompt as f64 / generated.prefill.as_secs_f64().max(1e-9),
            decode_tokens_per_s: (steps > 0).then(|| steps as f64 / decode.max(1e-9)),
            first_token_ms: generated.prefill.as_secs_f64() * 1e3,
            cache_bytes: running.cache_bytes,
            scratch_bytes: running.scratch_bytes,
        }
    }

    fn print(&self) {
        tell!(
            "prompt: {} tokens, {:.0} tokens/s; first token after {:.1} ms",
            self.prompt_tokens,
            self.prefill_tokens_per_s,
            self.first_token_ms
        );
        let rate = self.decode_tokens_per_s.map_or(String::new(), |rate| format!(", {rate:.0} tokens/s"));
        tell!("answer: {} tokens{rate}", self.generated_tokens);
        if let (Some(cache), Some(scratch)) = (self.cache_bytes, self.scratch_bytes) {
            tell!("memory: {} cache + {} scratch", bytes(cache as u64), bytes(scratch as u64));
        }
        tell!("kernel: {}, {}", self.kernel, counted(self.threads, "thread"));
    }
}

/// Room for text that may be the start of a stop string.
const STOP_ROOM: usize = 512;

/// Runs the command.
///
/// # Errors
/// Whatever the model, the tokenizer or the runtime reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let opened = Opened::open(&arguments.model, &arguments.conversion, arguments.execution.precision, arguments.json)?;
    let loaded = opened.load(&arguments.execution)?;
    if arguments.stats && !arguments.json {
        loaded.tell_notes();
    }
    let tokenizer = loaded.tokenizer()?;
    let special = loaded.special();
    let mut prompt = match &arguments.ids {
        Some(ids) => ids.clone(),
        None => {
            let tokenizer = loaded.require_tokenizer()?;
            let text = prompt_text(arguments)?;
            if arguments.raw {
                encode(&tokenizer, &text, EncodeOptions::default())?
            } else {
                encode_prompt(&tokenizer, &text)?
            }
        }
    };
    if prompt.is_empty() {
        prompt.extend(special.start);
    }
    if prompt.is_empty() {
        return Err(Error::Usage("the prompt is empty and the model has no token to start with".into()));
    }
    let stops: Vec<&str> = arguments.stop.iter().map(String::as_str).collect();
    if !stops.is_empty() && tokenizer.is_none() {
        return Err(Error::Usage("--stop needs a tokenizer, and the model has none".into()));
    }
    let mut stop = StopStrings::<STOP_ROOM>::new(&stops)
        .ok_or_else(|| Error::Usage(format!("--stop: expected at most {} bytes of text", STOP_ROOM / 2)))?;

    loaded.with_engine(1, |engine, running| {
        check_room(engine, &prompt)?;
        let mut text = String::new();
        let mut out = std::io::stdout();
        let mut show = |piece: &str| -> Result<()> {
            text.push_str(piece);
            if arguments.json {
                return Ok(());
            }
            out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
        };
        let mut stream = tokenizer.map(|t| t.stream(true));
        let mut first = true;
        let settings = Settings { max_tokens: arguments.max_tokens, end: special.end(), logits: arguments.logits };
        let mut pieces = |stop: &mut StopStrings<'_, STOP_ROOM>, piece: &str| -> Result<bool> {
            let mut shown = Ok(());
            let Stopped(stopped) = stop.push(piece, |text| {
                if shown.is_ok() {
                    shown = show(text);
                }
            });
            shown.map(|()| !stopped)
        };
        let generated = generate(engine, &prompt, settings, |id| match &mut stream {
            Some(stream) => {
                let mut piece = String::new();
                // Writing to a string cannot fail.
                let _ = stream.push(id, &mut piece);
                pieces(&mut stop, &piece)
            }
            None => {
                if !arguments.json {
                    let comma = if std::mem::take(&mut first) { "" } else { "," };
                    write!(std::io::stdout(), "{comma}{id}").map_err(Error::Output)?;
                }
                Ok(true)
            }
        })?;
        if let Some(stream) = stream
            && generated.ended != Ended::StopString
        {
            let mut rest = String::new();
            let _ = stream.finish(&mut rest);
            if pieces(&mut stop, &rest)? {
                rest.clear();
                stop.finish(|text| rest.push_str(text));
                show(&rest)?;
            }
        }
        let stats = Stats::new(running, prompt.len(), &generated);
        if arguments.json {
            return print_json(&Output {
                prompt_ids: prompt.clone(),
                text: tokenizer.is_some().then_some(text),
                ended: generated.ended,
                logits: (arguments.logits > 0).then_some(generated.logits),
                ids: generated.ids,
                stats,
            });
        }
        writeln!(std::io::stdout()).map_err(Error::Output)?;
        match generated.ended {
            Ended::ContextFull => tell!("note: the context of {} tokens is full", engine.context()),
            Ended::MaxTokens if arguments.stats => tell!("note: ended at --max-tokens {}", arguments.max_tokens),
            _ => {}
        }
        if arguments.stats {
            stats.print();
        }
        Ok(())
    })
}

fn prompt_text(arguments: &Arguments) -> Result<String> {
    if let Some(prompt) = &arguments.prompt {
        return Ok(prompt.clone());
    }
    if std::io::stdin().is_terminal() {
        tell!("(reading the prompt from standard input; end it with Ctrl-D)");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(Error::io("standard input"))?;
    let text = utf8(bytes, Path::new("standard input"))?;
    // The line's end is the terminal's, not the prompt's.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn check_room(engine: &dyn Engine, prompt: &[u32]) -> Result<()> {
    if prompt.len() > engine.context() {
        return Err(Error::Usage(format!(
            "the prompt has {} tokens, the model's context only {}",
            prompt.len(),
            engine.context()
        )));
    }
    Ok(())
}
