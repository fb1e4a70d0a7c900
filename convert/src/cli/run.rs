//! `thumbformer run MODEL [PROMPT]`: generate, and show the text as it comes.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use thumbformer::arch::Arch;
use thumbformer::decode::{BeamSettings, Constraint, Grammar, Sampler, Seen, StopStrings, Stopped};
use thumbformer::snapshot;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use super::decoding::{Decoding, GrammarReport, LookupReport, replaceable, save};
use super::model::{Conversion, Execution, Loaded, Opened, Precision, Running};
use super::{print_json, say, tell, utf8};
use crate::engine::{Engine, no_snapshots};
use crate::generate::{Choice, Ended, Settings, generate_with, search};
use crate::tokenizer::{decode, encode, encode_prompt};
use crate::{Error, Result};

/// Generate text or tokens with a model
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// The prompt; read from standard input if there is none
    pub prompt: Option<String>,
    /// Token ids in place of a prompt (of an encoder-decoder: of its source), separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, conflicts_with = "prompt")]
    pub ids: Option<Vec<u32>>,
    /// Of an encoder: which kind of token each is, separated by commas, such as 0 in a first text and 1 in a second
    #[arg(long, value_name = "TYPES", value_delimiter = ',', requires = "ids")]
    pub token_types: Option<Vec<u8>>,
    /// Tokens to generate at most [default: 256]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Give the prompt to the model as it is, without the model's prompt format
    #[arg(long, conflicts_with = "ids")]
    pub raw: bool,
    /// Print speed and memory after the answer; with --json they are always there
    #[arg(long)]
    pub stats: bool,
    /// Print one JSON object in place of text
    #[arg(long)]
    pub json: bool,
    /// With --json, the K largest logits of every generated position; of every position of an encoder
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "json")]
    pub logits: usize,
    /// How tokens are chosen
    #[command(flatten)]
    pub decoding: Decoding,
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
            token_types: None,
            max_tokens: None,
            stop: Vec::new(),
            raw: false,
            stats,
            json: false,
            logits: 0,
            decoding: Decoding::default(),
            execution: Execution { threads: None, precision: Precision::Int8, kernel: None },
            conversion: Conversion::default(),
        }
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens.unwrap_or(MAX_TOKENS)
    }

    /// Refuses options that mean nothing to a model of this kind.
    fn check_kind(&self, arch: &Arch) -> Result<()> {
        if !arch.is_encoder() && self.token_types.is_some() {
            return Err(Error::Usage("--token-types: only encoders have them, and this model continues texts".into()));
        }
        if arch.cross && self.raw {
            return Err(Error::Usage("--raw: an encoder-decoder has no prompt format".into()));
        }
        if !arch.is_encoder() {
            return Ok(());
        }
        let own = [("--max-tokens", self.max_tokens.is_some()), ("--stop", !self.stop.is_empty()), ("--raw", self.raw)];
        let own = own.into_iter().find_map(|(option, given)| given.then_some(option));
        own.or(self.decoding.given()).map_or(Ok(()), |option| {
            Err(Error::Usage(format!(
                "{option}: this model is an encoder, which is given a text at once and generates none"
            )))
        })
    }
}

/// Tokens to generate unless the user says otherwise.
const MAX_TOKENS: usize = 256;

/// The `--json` object.
#[derive(Serialize)]
struct Output {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ids: Option<Vec<u32>>,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: Option<String>,
    ended: Ended,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<Vec<(u32, f32)>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grammar: Option<GrammarReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup: Option<LookupReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_tokens: Option<usize>,
    stats: Stats,
}

/// The `--json` object with `--beams`. `ids` and `text` are those of the best hypothesis.
#[derive(Serialize)]
struct Answers {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ids: Option<Vec<u32>>,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: Option<String>,
    hypotheses: Vec<Hypothesis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_tokens: Option<usize>,
    stats: Stats,
}

#[derive(Serialize)]
struct Hypothesis {
    ids: Vec<u32>,
    text: Option<String>,
    score: f32,
}

#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    running: Running,
    prompt_tokens: usize,
    generated_tokens: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: Option<f64>,
    first_token_ms: f64,
}

impl Stats {
    fn new(running: &Running, prompt: usize, generated: usize, prefill: Duration, decode: Duration) -> Self {
        // The first token comes from the prompt's logits; every other one is a step.
        let steps = generated.saturating_sub(1);
        let (prefill, decode) = (prefill.as_secs_f64(), decode.as_secs_f64());
        Self {
            running: *running,
            prompt_tokens: prompt,
            generated_tokens: generated,
            prefill_tokens_per_s: prompt as f64 / prefill.max(1e-9),
            decode_tokens_per_s: (steps > 0).then(|| steps as f64 / decode.max(1e-9)),
            first_token_ms: prefill * 1e3,
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
        self.running.print();
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
    arguments.check_kind(loaded.arch())?;
    if loaded.arch().is_encoder() {
        return super::encoder::run(arguments, &loaded);
    }
    let tokenizer = loaded.tokenizer()?;
    let special = loaded.special();
    let source = if loaded.arch().cross { Some(source(arguments, &loaded)?) } else { None };
    let mut prompt = match &arguments.ids {
        _ if source.is_some() => loaded.answer_start(),
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

    let decoding = &arguments.decoding;
    if arguments.execution.precision == Precision::F32
        && (decoding.save_state.is_some() || decoding.load_state.is_some())
    {
        return Err(no_snapshots());
    }
    if let Some(path) = &decoding.save_state {
        // Before anything is computed, and shown.
        replaceable(path, snapshot::MAGIC)?;
    }
    let sampling = decoding.sampling()?;
    let beams = decoding.beams(arguments.max_tokens(), special.end())?;
    let grammar = decoding.grammar(&loaded)?;
    let state = decoding.load_state.as_ref().map(|path| std::fs::read(path).map_err(Error::io(path))).transpose()?;

    loaded.with_engine(decoding.needs(arguments.max_tokens()), |engine, running| {
        check_room(engine, &prompt)?;
        let source_ids = source.as_deref().unwrap_or(&[]);
        let restore = |(path, state): (&PathBuf, &Vec<u8>)| {
            engine.restore(state, source_ids, &prompt).map_err(|error| Error::format(path, error.to_string()))
        };
        let restored = decoding.load_state.as_ref().zip(state.as_ref()).map(restore).transpose()?;
        let start = Instant::now();
        // A state's is the same.
        if source.is_some() && restored.unwrap_or(0) == 0 {
            engine.encode_source(source_ids)?;
        }
        let encoded = start.elapsed();
        let source = source.as_deref();
        let asked = Asked { arguments, running, source, encoded, prompt: &prompt, restored, tokenizer };
        if let Some(beams) = beams {
            asked.search(engine, beams)?;
        } else {
            // The last token needs no position.
            let mut seen = vec![Seen::default(); engine.context() + 1];
            let mut choice = Choice { lookup: decoding.prompt_lookup(), ..Choice::default() };
            if let Some(sampling) = sampling {
                let mut sampler = Sampler::new(sampling, decoding.seed.unwrap_or(0), &mut seen)?;
                sampler.prompt(&prompt)?;
                choice.sampler = Some(sampler);
            }
            let mut report = None;
            if let (Some(bytes), Some(tokenizer)) = (&grammar, tokenizer) {
                let grammar = Grammar::new(bytes, loaded.tokenizer_section())?;
                report =
                    Some(GrammarReport { states: grammar.states(), bytes: bytes.len(), shortest: grammar.shortest() });
                choice.constraint = Some(Constraint::new(grammar, tokenizer, special.end()));
            }
            asked.answer(engine, &mut choice, &mut stop, special.end(), report)?;
        }
        if let Some(path) = &decoding.save_state {
            // Behind the prompt; what was generated is forgotten.
            engine.rewind(prompt.len())?;
            save(path, &engine.snapshot(source_ids, &prompt)?)?;
        }
        Ok(())
    })
}

/// What there is to answer, and how.
struct Asked<'a> {
    arguments: &'a Arguments,
    running: &'a Running,
    /// Tokens that the encoder of an encoder-decoder has taken in, and how long that took.
    source: Option<&'a [u32]>,
    encoded: Duration,
    prompt: &'a [u32],
    /// Tokens of source and prompt that came from a saved state.
    restored: Option<usize>,
    tokenizer: Option<Tokenizer<'a>>,
}

impl Asked<'_> {
    /// Generates, and shows tokens as they come.
    fn answer(
        &self,
        engine: &mut dyn Engine,
        choice: &mut Choice<'_>,
        stop: &mut StopStrings<'_, STOP_ROOM>,
        end: &[u32],
        grammar: Option<GrammarReport>,
    ) -> Result<()> {
        let arguments = self.arguments;
        let mut text = String::new();
        let mut out = std::io::stdout();
        let mut show = |piece: &str| -> Result<()> {
            text.push_str(piece);
            if arguments.json {
                return Ok(());
            }
            out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
        };
        let mut stream = self.tokenizer.map(|t| t.stream(true));
        let mut first = true;
        let settings = Settings { max_tokens: arguments.max_tokens(), end, logits: arguments.logits };
        let mut pieces = |stop: &mut StopStrings<'_, STOP_ROOM>, piece: &str| -> Result<bool> {
            let mut shown = Ok(());
            let Stopped(stopped) = stop.push(piece, |text| {
                if shown.is_ok() {
                    shown = show(text);
                }
            });
            shown.map(|()| !stopped)
        };
        let generated = generate_with(engine, self.prompt, settings, choice, |id| match &mut stream {
            Some(stream) => {
                let mut piece = String::new();
                // Writing to a string cannot fail.
                let _ = stream.push(id, &mut piece);
                pieces(stop, &piece)
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
            if pieces(stop, &rest)? {
                rest.clear();
                stop.finish(|text| rest.push_str(text));
                show(&rest)?;
            }
        }
        let stats = self.stats(generated.ids.len(), generated.prefill, generated.decode);
        let lookup = choice.lookup.as_ref().map(LookupReport::from);
        if arguments.json {
            return print_json(&Output {
                source_ids: self.source.map(<[u32]>::to_vec),
                prompt_ids: self.prompt.to_vec(),
                text: self.tokenizer.is_some().then_some(text),
                ended: generated.ended,
                logits: (arguments.logits > 0).then_some(generated.logits),
                grammar,
                lookup,
                restored_tokens: self.restored,
                ids: generated.ids,
                stats,
            });
        }
        say!()?;
        match generated.ended {
            Ended::ContextFull => tell!("note: the context of {} tokens is full", engine.context()),
            Ended::MaxTokens if arguments.stats => tell!("note: ended at --max-tokens {}", arguments.max_tokens()),
            _ => {}
        }
        if arguments.stats {
            stats.print();
            if let Some(lookup) = &choice.lookup {
                let (accepted, drafted, passes) = (lookup.accepted(), lookup.drafted(), lookup.passes());
                tell!("lookup: {accepted} of {drafted} drafted tokens were right; {passes} passes");
            }
        }
        Ok(())
    }

    /// Searches with beams, then prints the best.
    fn search(&self, engine: &mut dyn Engine, beams: BeamSettings<'_>) -> Result<()> {
        let searched = search(engine, self.prompt, beams)?;
        let tokens = searched.hypotheses.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let stats = self.stats(tokens, searched.prefill, searched.decode);
        let best = self.arguments.decoding.n_best.unwrap_or(1) as usize;
        let hypothesis = |(ids, score): (Vec<u32>, f32)| {
            // An end token that is not special is no part of the text either.
            let spoken = match ids.split_last() {
                Some((last, before)) if beams.end.contains(last) => before,
                _ => &ids[..],
            };
            Hypothesis { text: self.tokenizer.map(|tokenizer| decode(&tokenizer, spoken, true)), ids, score }
        };
        let hypotheses: Vec<_> = searched.hypotheses.into_iter().take(best).map(hypothesis).collect();
        if self.arguments.json {
            let first = hypotheses.first();
            return print_json(&Answers {
                source_ids: self.source.map(<[u32]>::to_vec),
                prompt_ids: self.prompt.to_vec(),
                ids: first.map_or_else(Vec::new, |first| first.ids.clone()),
                text: first.and_then(|first| first.text.clone()),
                hypotheses,
                restored_tokens: self.restored,
                stats,
            });
        }
        for Hypothesis { ids, text, score } in &hypotheses {
            let ids = || ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let answer = text.clone().unwrap_or_else(ids);
            if best > 1 {
                say!("{score:.4}\t{answer}")?;
            } else {
                say!("{answer}")?;
            }
        }
        if self.arguments.stats {
            stats.print();
        }
        Ok(())
    }

    fn stats(&self, generated: usize, prefill: Duration, decode: Duration) -> Stats {
        let given = self.prompt.len() + self.source.map_or(0, <[u32]>::len);
        let computed = given - self.restored.unwrap_or(0);
        let mut stats = Stats::new(self.running, computed, generated, self.encoded + prefill, decode);
        stats.prompt_tokens = given;
        stats
    }
}

pub(super) fn prompt_text(arguments: &Arguments) -> Result<String> {
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

/// What the encoder of an encoder-decoder is given.
fn source(arguments: &Arguments, loaded: &Loaded<'_>) -> Result<Vec<u32>> {
    let ids = match &arguments.ids {
        Some(ids) => ids.clone(),
        None => encode(&loaded.require_source_tokenizer()?, &prompt_text(arguments)?, EncodeOptions::default())?,
    };
    let (found, context) = (ids.len(), loaded.source_context());
    if found == 0 {
        return Err(Error::Usage("the source has no tokens".into()));
    }
    if found > context {
        return Err(Error::Usage(format!(
            "the source has {found} tokens, the model's encoder has room for {context}: cut it into parts"
        )));
    }
    Ok(ids)
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
