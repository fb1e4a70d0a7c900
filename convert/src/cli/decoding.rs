//! How `run` chooses tokens: sampling, beams, grammars, lookup, and saved states.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use thumbformer::decode::{BeamSettings, EarlyStopping, PromptLookup, Sampling};

use super::model::{Loaded, Needs};
use super::read_text;
use crate::grammar::Texts;
use crate::output::Output;
use crate::{Error, Result};

/// Tokens that lookup compares at most.
const LOOKUP: usize = 3;

/// When beam search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Early {
    /// As soon as there are as many answers as beams.
    Always,
    /// When no beam can become better.
    Never,
}

/// How tokens are chosen
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Decoding")]
pub struct Decoding {
    /// Sample; below 1 likely tokens become likelier, 0 takes the likeliest
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Sample among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Sample among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Sample among tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Weaken tokens of the prompt and the answer: divide their logits by X
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Weaken tokens of the answer: subtract X from their logits
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Weaken tokens of the answer: subtract X from their logits for each time they are there
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Where sampling's random numbers start [default: 0]: the same seed gives the same answer, everywhere
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Search for the likeliest answer with K beams
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=4096), conflicts_with_all = [
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
        "allow", "regex", "lookup", "stop", "logits",
    ])]
    pub beams: Option<u32>,
    /// With --beams: answers are compared by log-probability / length^A [default: 1]
    #[arg(long, value_name = "A", requires = "beams", allow_negative_numbers = true)]
    pub length_penalty: Option<f32>,
    /// With --beams: end as soon as there are K answers, or (never) only when none can become better
    #[arg(long, value_enum, value_name = "WHEN", requires = "beams", num_args = 0..=1, require_equals = true,
        default_missing_value = "always")]
    pub early_stopping: Option<Early>,
    /// With --beams: print the N best answers with their scores
    #[arg(long, value_name = "N", requires = "beams", value_parser = clap::value_parser!(u32).range(1..))]
    pub n_best: Option<u32>,
    /// Answer with a line of this file, exactly
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "stop"])]
    pub allow: Option<PathBuf>,
    /// Answer with a text that matches this regular expression as a whole
    #[arg(long, value_name = "REGEX", conflicts_with = "stop")]
    pub regex: Option<String>,
    /// Write the grammar of --allow or --regex for use on a device
    #[arg(long, value_name = "FILE")]
    pub save_grammar: Option<PathBuf>,
    /// Draft up to N tokens by looking up the last ones further back; the answer is the same
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), conflicts_with_all = [
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
        "allow", "regex", "logits",
    ])]
    pub lookup: Option<u32>,
    /// Write the state behind the prompt (or source), so that later prompts which begin alike need not compute it
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Take what the prompt (or source) and a saved state have in common from there
    #[arg(long, value_name = "FILE")]
    pub load_state: Option<PathBuf>,
}

/// What `--json` says of a grammar.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GrammarReport {
    /// States of its automaton.
    pub states: usize,
    /// Bytes, as a device keeps it.
    pub bytes: usize,
    /// Tokens of its shortest text.
    pub shortest: usize,
}

/// What `--json` says of lookup.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LookupReport {
    passes: u64,
    drafted: u64,
    accepted: u64,
}

impl From<&PromptLookup> for LookupReport {
    fn from(lookup: &PromptLookup) -> Self {
        Self { passes: lookup.passes(), drafted: lookup.drafted(), accepted: lookup.accepted() }
    }
}

impl Decoding {
    /// The first option that was given, as the user spells it.
    pub fn given(&self) -> Option<&'static str> {
        // Every field by its name, so that none is forgotten.
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            beams,
            length_penalty,
            early_stopping,
            n_best,
            allow,
            regex,
            save_grammar,
            lookup,
            save_state,
            load_state,
        } = self;
        let options = [
            ("--temperature", temperature.is_some()),
            ("--top-k", top_k.is_some()),
            ("--top-p", top_p.is_some()),
            ("--min-p", min_p.is_some()),
            ("--repetition-penalty", repetition_penalty.is_some()),
            ("--presence-penalty", presence_penalty.is_some()),
            ("--frequency-penalty", frequency_penalty.is_some()),
            ("--seed", seed.is_some()),
            ("--beams", beams.is_some()),
            ("--length-penalty", length_penalty.is_some()),
            ("--early-stopping", early_stopping.is_some()),
            ("--n-best", n_best.is_some()),
            ("--allow", allow.is_some()),
            ("--regex", regex.is_some()),
            ("--save-grammar", save_grammar.is_some()),
            ("--lookup", lookup.is_some()),
            ("--save-state", save_state.is_some()),
            ("--load-state", load_state.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// Sampling, if it or a penalty is asked for.
    ///
    /// # Errors
    /// A number that makes no sense.
    pub fn sampling(&self) -> Result<Option<Sampling>> {
        let plain = Sampling::default();
        let filters = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let draws = self.temperature.is_some() || filters;
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(if draws { plain.temperature } else { 0.0 }),
            top_k: self.top_k.unwrap_or(plain.top_k),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(plain.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
        };
        sampling.check()?;
        if self.seed.is_some() && sampling.temperature == 0.0 {
            return Err(Error::Usage(
                "--seed: the likeliest token is taken, nothing is random; give --temperature, --top-k, --top-p or --min-p"
                    .into(),
            ));
        }
        Ok((draws || sampling.penalizes()).then_some(sampling))
    }

    /// Beam search, if it is asked for.
    ///
    /// # Errors
    /// More answers than beams.
    pub fn beams<'e>(&self, max_tokens: usize, end: &'e [u32]) -> Result<Option<BeamSettings<'e>>> {
        let Some(beams) = self.beams else { return Ok(None) };
        if let Some(n) = self.n_best.filter(|&n| n > beams) {
            return Err(Error::Usage(format!("--n-best {n}: expected at most the {beams} beams")));
        }
        if max_tokens == 0 {
            return Err(Error::Usage("--beams: found --max-tokens 0, expected at least 1".into()));
        }
        Ok(Some(BeamSettings {
            beams: beams as usize,
            max_tokens,
            length_penalty: self.length_penalty.unwrap_or(1.0),
            early_stopping: match self.early_stopping {
                None => EarlyStopping::Heuristic,
                Some(Early::Always) => EarlyStopping::Always,
                Some(Early::Never) => EarlyStopping::Never,
            },
            end,
        }))
    }

    /// What an engine must be able to do.
    pub fn needs(&self, max_tokens: usize) -> Needs {
        let tail = u32::try_from(max_tokens).unwrap_or(u32::MAX).max(1);
        // From a draft's end back to its beginning, and from the answer's end back to the prompt's.
        let rewind = self.lookup.unwrap_or(0).saturating_add(if self.save_state.is_some() { tail } else { 0 });
        match (self.beams, self.lookup) {
            (Some(branches), _) => Needs { branches, tail, ..Needs::rows(1) },
            (None, Some(draft)) => Needs { rewind, ..Needs::rows(draft + 1) },
            (None, None) => Needs { rewind, ..Needs::rows(1) },
        }
    }

    /// Prompt lookup, if it is asked for.
    pub fn prompt_lookup(&self) -> Option<PromptLookup> {
        self.lookup.map(|draft| PromptLookup::new(LOOKUP, draft as usize))
    }

    /// The grammar, if one is asked for, written to where it shall be saved.
    ///
    /// # Errors
    /// A list without texts, a wrong expression, a model without a tokenizer, a file that cannot be read or written.
    pub fn grammar(&self, loaded: &Loaded<'_>) -> Result<Option<Vec<u8>>> {
        let texts = match (&self.allow, &self.regex) {
            (Some(path), _) => {
                let list = read_text(path)?;
                let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty()).collect();
                if lines.is_empty() {
                    return Err(Error::format(path, "found no text to allow, expected one in each line"));
                }
                Texts::list(lines)?
            }
            (None, Some(pattern)) => Texts::regex(pattern)?,
            (None, None) if self.save_grammar.is_some() => {
                return Err(Error::Usage("--save-grammar needs --allow or --regex".into()));
            }
            (None, None) => return Ok(None),
        };
        let option = if self.allow.is_some() { "--allow" } else { "--regex" };
        let tokenizer = loaded
            .tokenizer()?
            .ok_or_else(|| Error::Usage(format!("{option} needs a tokenizer, and the model has none")))?;
        let bytes = texts.grammar(&tokenizer, loaded.tokenizer_section(), loaded.special().end())?;
        if let Some(path) = &self.save_grammar {
            replaceable(path, thumbformer::decode::grammar::MAGIC)?;
            save(path, &bytes)?;
        }
        Ok(Some(bytes))
    }
}

/// Only a file of the same kind, which begins with the same magic, is replaced.
///
/// # Errors
/// Something else is there, or it cannot be read.
pub(super) fn replaceable(path: &Path, magic: [u8; 8]) -> Result<()> {
    if path.is_file() && !std::fs::read(path).map_err(Error::io(path))?.starts_with(&magic) {
        return Err(Error::format(path, "exists and is another kind of file: it is not replaced"));
    }
    Ok(())
}

/// Writes a [`replaceable`] file, as a whole or not at all.
///
/// # Errors
/// The operating system refuses.
pub(super) fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut output = Output::create(path, true)?;
    output.file().write_all(bytes).map_err(Error::io(path))?;
    output.commit()
}
