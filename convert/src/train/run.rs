//! A whole run: text and settings in, checkpoints out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::architecture::Architecture;
use super::corpus::{self, Document};
use super::examples::{Examples, Sampler, shuffled};
use super::folder::{self, Folder, Run, TokenizerFile};
use super::log::{Log, Row};
use super::model::{Model, Regularization};
use super::parameters::Parameters;
use super::settings::{Objective, Settings};
use super::trainer::Trainer;
use super::{batch::Batch, pairs, vocabulary};
use crate::cli::counted;
use crate::random::SplitMix64;
use crate::tokenizer::{self, Packed};
use crate::{Error, Result};

/// Predictions that a validation measures at most.
const VALIDATION: usize = 1 << 16;

/// Told what happens.
pub trait Observer {
    /// Something that the user should know: counts, what was left out.
    fn note(&self, note: &str);
    /// A step of `steps` was done.
    fn step(&self, row: &Row, steps: u64);
    /// A checkpoint was written.
    fn saved(&self, row: &Row);
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps that are done.
    pub step: u64,
    /// Whether it was interrupted before its last one.
    pub interrupted: bool,
    /// The last validation's loss.
    pub valid: Option<f32>,
}

/// What a run works on, ready to train on.
struct Prepared {
    train: Examples,
    valid: Vec<Batch>,
    fingerprint: u32,
}

/// Trains a model on `data` and writes it to the folder `out`.
///
/// # Errors
/// Settings that make no sense, data that cannot be trained on, a folder that cannot be written, a loss that is not a
/// number.
pub fn start(
    data: &Path,
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Outcome> {
    settings.check()?;
    Folder::check_free(out)?;
    let (packed, mut files) = match &settings.init {
        Some(folder) if settings.tokenizer.is_none() => read_tokenizer(folder)?,
        _ => make_tokenizer(&settings, data)?,
    };
    let (end, vocab) = (end_token(&packed)?, packed.vocab as usize);
    let architecture = match (&settings.init, settings.size) {
        (Some(folder), _) => Architecture::read(folder)?,
        (None, None) => Architecture::new(settings.preset, settings.sizes, vocab)?,
        (None, Some(budget)) => {
            let chosen = budget.choose(settings.preset, settings.sizes, vocab, end, &files)?;
            let Architecture { layers, dim, heads, kv_heads, hidden, context, .. } = chosen;
            observer.note(&format!(
                "--size {budget}: {layers} layers of width {dim}, {heads} heads, {kv_heads} of keys and values, hidden \
                 {hidden}, context {context}"
            ));
            chosen
        }
    };
    packed.check_vocab(architecture.vocab as u32)?;
    let prepared = prepare(&settings, data, architecture.context, &packed, observer)?;
    let parameters = match &settings.init {
        Some(folder) => Parameters::read(&architecture, folder)?,
        None => Parameters::new(&architecture, settings.seed)?,
    };
    let config = match &settings.init {
        // What it says of other things stays as it is, if it is Hugging Face's.
        Some(folder) if folder.join("config.json").is_file() => {
            files.extend(read_beside(folder, &["generation_config.json"])?);
            let path = folder.join("config.json");
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            serde_json::from_slice(&bytes).map_err(|e| Error::format(&path, e.to_string()))?
        }
        _ => architecture.config(end),
    };
    if !files.iter().any(|(name, _)| name == "tokenizer_config.json") {
        let tokenizer = packed.tokenizer()?;
        let name = end.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned());
        files.push(("tokenizer_config.json".into(), folder::tokenizer_config(name.as_deref(), architecture.context)?));
    }
    let trainer = new_trainer(&settings, architecture, parameters)?;
    let run = Run { data: absolute(data)?, settings: absolute_paths(settings)?, fingerprint: prepared.fingerprint };
    let folder = Folder::create(out, &run, &trainer.model, &config, &files)?;
    train(&folder, trainer, &run.settings, prepared, Log::default(), stop, observer)
}

/// Goes on with a run from its last checkpoint: what comes out has the bits that it would have had without a break.
///
/// # Errors
/// A folder that training has not made, data that have changed, and as [`start`].
pub fn resume(path: &Path, stop: &AtomicBool, observer: &dyn Observer) -> Result<Outcome> {
    let (folder, run) = Folder::open(path)?;
    let packed = tokenizer::load(path)?;
    let architecture = Architecture::read(path)?;
    let prepared = prepare(&run.settings, &run.data, architecture.context, &packed, observer)?;
    if prepared.fingerprint != run.fingerprint {
        return Err(Error::format(&run.data, "the data have changed since training began: start again with -o"));
    }
    // Weights of the first moment; those of the last checkpoint replace them, if there was one.
    let parameters = Parameters::read(&architecture, path)?;
    let mut trainer = new_trainer(&run.settings, architecture, parameters)?;
    let log = folder.restore(&mut trainer)?;
    train(&folder, trainer, &run.settings, prepared, log, stop, observer)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(Error::io(path))
}

/// Settings whose paths hold wherever the run is resumed from.
fn absolute_paths(settings: Settings) -> Result<Settings> {
    let absolute = |path: Option<PathBuf>| path.map(|path| absolute(&path)).transpose();
    Ok(Settings { valid: absolute(settings.valid)?, init: absolute(settings.init)?, ..settings })
}

/// The tokenizer that the settings ask for, and its files.
fn make_tokenizer(settings: &Settings, data: &Path) -> Result<(Packed, Vec<TokenizerFile>)> {
    let kind = settings.tokenizer.as_deref().unwrap_or("bpe");
    if !["bpe", "chars"].contains(&kind) {
        return read_tokenizer(Path::new(kind));
    }
    let (texts, special): (Vec<String>, &[&str]) = match settings.objective {
        Objective::Lm => (corpus::read(data)?.into_iter().map(|document| document.text).collect(), &[vocabulary::END]),
        Objective::Sft => {
            let turns = pairs::read(data)?.into_iter().flat_map(|conversation| conversation.turns);
            (turns.flat_map(|(request, answer)| [request, answer]).collect(), &pairs::SPECIAL)
        }
    };
    let texts = texts.iter().map(String::as_str);
    let made = match (kind, settings.objective) {
        ("bpe", _) => vocabulary::train_bpe(texts, settings.vocab, special)?,
        (_, Objective::Lm) => vocabulary::characters(texts)?,
        (_, Objective::Sft) => {
            return Err(Error::Usage("--tokenizer chars has no tokens around requests and answers: use bpe".into()));
        }
    };
    let packed = tokenizer::load_bytes(Path::new("tokenizer.json"), made.as_bytes())?;
    Ok((packed, vec![("tokenizer.json".into(), made.into_bytes())]))
}

/// An existing tokenizer, and the files that it is made of.
fn read_tokenizer(path: &Path) -> Result<(Packed, Vec<TokenizerFile>)> {
    if !path.exists() {
        let path = path.display();
        return Err(Error::Usage(format!("--tokenizer {path}: expected bpe, chars, or a tokenizer's file or folder")));
    }
    let packed = tokenizer::load(path)?;
    let folder = packed.path.parent().unwrap_or(Path::new(".")).to_owned();
    let name = packed.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = ["merges.txt", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
    let files = read_beside(&folder, &[&[name.as_str()], beside.as_slice()].concat())?;
    Ok((packed, files))
}

/// Those files of a folder that are there.
fn read_beside(folder: &Path, names: &[&str]) -> Result<Vec<TokenizerFile>> {
    let there = names.iter().map(|name| (name, folder.join(name))).filter(|(_, path)| path.is_file());
    there.map(|(name, path)| Ok(((*name).to_owned(), std::fs::read(&path).map_err(Error::io(&path))?))).collect()
}

/// The token that ends a text, if the vocabulary has one of the usual names.
fn end_token(packed: &Packed) -> Result<Option<u32>> {
    let tokenizer = packed.tokenizer()?;
    let is_end = |id: &u32| {
        tokenizer.is_special(*id)
            && [vocabulary::END, "<|end|>", "</s>"].map(str::as_bytes).contains(&tokenizer.token_bytes(*id))
    };
    Ok((0..packed.vocab).find(is_end))
}

fn prepare(
    settings: &Settings,
    data: &Path,
    context: usize,
    packed: &Packed,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let (train, valid, fingerprint) = match settings.objective {
        Objective::Lm => prepare_text(settings, data, context, packed, observer)?,
        Objective::Sft => prepare_pairs(settings, data, context, packed, observer)?,
    };
    Ok(Prepared { train, valid: valid.validation(settings.batch, VALIDATION), fingerprint })
}

/// Examples to train on and to validate with, and the fingerprint of them all.
type Split = (Examples, Examples, u32);

fn prepare_text(
    settings: &Settings,
    data: &Path,
    context: usize,
    packed: &Packed,
    observer: &dyn Observer,
) -> Result<Split> {
    let tokenizer = packed.tokenizer()?;
    let end = end_token(packed)?;
    let stream = |documents: &[Document], what: &str| {
        let stream = corpus::tokenize(documents, &tokenizer, end)?;
        if stream.unknown > 0 {
            let unknown = stream.unknown;
            observer.note(&format!("{unknown} characters of the {what} are not in the vocabulary and were left out"));
        }
        Ok::<_, Error>(stream.ids)
    };
    let documents = corpus::read(data)?;
    let mut train = stream(&documents, "text")?;
    let mut fingerprint = crc32fast::Hasher::new();
    fingerprint.update(bytemuck::cast_slice(&train));
    let valid = match &settings.valid {
        Some(path) => {
            let valid = stream(&corpus::read(path)?, "validation text")?;
            fingerprint.update(bytemuck::cast_slice(&valid));
            valid
        }
        None => train.split_off(train.len() - (train.len() as f64 * f64::from(settings.valid_share)) as usize),
    };
    let (least, found) = (context + 1, train.len());
    if found < least {
        return Err(Error::format(
            data,
            format!(
                "{found} tokens to train on, expected at least {least}, the context and one more: give more text or a \
                 smaller --context"
            ),
        ));
    }
    if valid.len() < 2 && (settings.valid.is_some() || settings.valid_share > 0.0) {
        let path = settings.valid.as_deref().unwrap_or(data);
        let found = valid.len();
        return Err(Error::format(path, format!("{found} tokens to validate with, expected at least 2")));
    }
    let files = counted(documents.len(), "file");
    let for_valid = valid.len();
    let [train, valid] = [train, valid].map(|ids| Examples::Stream { ids, length: context });
    let blocks = train.count();
    observer.note(&format!(
        "{files}: {found} tokens to train on, {blocks} blocks of {context} in an epoch; {for_valid} to validate with"
    ));
    Ok((train, valid, fingerprint.finalize()))
}

fn prepare_pairs(
    settings: &Settings,
    data: &Path,
    context: usize,
    packed: &Packed,
    observer: &dyn Observer,
) -> Result<Split> {
    let tokenizer = packed.tokenizer()?;
    let end = end_token(packed)?;
    if end.is_none() {
        observer.note("the vocabulary has no token that ends an answer: the model will not learn where to stop");
    }
    let mut fingerprint = crc32fast::Hasher::new();
    let mut sequences = |path: &Path| {
        let conversations = pairs::read(path)?;
        let mut fitting = Vec::new();
        for conversation in &conversations {
            let sequence = pairs::sequence(conversation, &tokenizer, end, settings.prompt_weight)?;
            fingerprint.update(bytemuck::cast_slice(&sequence.ids));
            if sequence.weights.len() <= context {
                fitting.push(sequence);
            }
        }
        let (skipped, all) = (conversations.len() - fitting.len(), conversations.len());
        if fitting.is_empty() {
            let problem =
                format!("none of {all} examples fits the context of {context} tokens: give a larger --context");
            return Err(Error::format(path, problem));
        }
        if skipped > 0 {
            let path = path.display();
            observer.note(&format!(
                "{path}: {skipped} of {all} examples are longer than the context of {context} tokens and were skipped"
            ));
        }
        Ok(fitting)
    };
    let mut train = sequences(data)?;
    let valid = match &settings.valid {
        Some(path) => sequences(path)?,
        None => {
            let count = (train.len() as f64 * f64::from(settings.valid_share)) as usize;
            let order = shuffled(train.len(), &mut SplitMix64(0));
            let mut drawn: Vec<usize> = order.into_iter().take(count).collect();
            drawn.sort_unstable();
            drawn.into_iter().rev().map(|index| train.swap_remove(index)).collect()
        }
    };
    let predictions: usize = train.iter().map(|sequence| sequence.weights.len()).sum();
    observer.note(&format!(
        "{} to train on, {predictions} tokens; {} to validate with",
        counted(train.len(), "example"),
        valid.len()
    ));
    Ok((Examples::Sequences(train), Examples::Sequences(valid), fingerprint.finalize()))
}

fn new_trainer(settings: &Settings, architecture: Architecture, parameters: Parameters) -> Result<Trainer> {
    let parameters = match settings.low_rank() {
        Some(low_rank) => parameters.adapt(low_rank, settings.seed)?,
        None => parameters,
    };
    let model = Model::new(architecture, parameters);
    let (dropout, seed, smoothing) = (settings.dropout, settings.seed, settings.label_smoothing);
    let regularization = Regularization { dropout, seed, smoothing };
    Ok(Trainer::new(model, settings.optimizer(), settings.schedule(), regularization))
}

/// The steps that are left, with a checkpoint after every `settings.every`, at the end, and when `stop` is set.
fn train(
    folder: &Folder,
    mut trainer: Trainer,
    settings: &Settings,
    prepared: Prepared,
    mut log: Log,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let mut sampler = Sampler::new(prepared.train, settings.seed);
    let validation = prepared.valid;
    let (parameters, trained) = trainer.model.parameters.counts();
    match settings.lora {
        None => observer.note(&format!("{parameters} parameters")),
        Some(rank) => observer.note(&format!("{parameters} parameters; {trained} in factors of rank {rank} are trained")),
    }
    let mut tokens = log.0.last().map_or(0, |row| row.tokens);
    let mut valid = log.0.iter().rev().find_map(|row| row.valid);
    if trainer.step >= settings.steps {
        // Killed within its last checkpoint, it may have left the model of an earlier one.
        folder.save(&trainer, &log)?;
    }
    while trainer.step < settings.steps {
        let first = trainer.step * settings.accumulate as u64;
        let batches: Vec<Batch> =
            (0..settings.accumulate as u64).map(|i| sampler.batch(first + i, settings.batch)).collect();
        let step = trainer.step(&batches)?;
        tokens += batches.iter().map(|batch| batch.ids.len() as u64).sum::<u64>();
        let last = trainer.step == settings.steps;
        let due = trainer.step.is_multiple_of(settings.every) || last;
        if due && !validation.is_empty() {
            valid = Some(trainer.evaluate(&validation)?);
        }
        let row = Row {
            step: trainer.step,
            tokens,
            loss: step.loss,
            valid: valid.filter(|_| due),
            rate: step.rate,
            norm: step.norm,
        };
        log.0.push(row);
        observer.step(&row, settings.steps);
        let stopped = stop.load(Ordering::Relaxed);
        if due || stopped {
            folder.save(&trainer, &log)?;
            observer.saved(&row);
        }
        if stopped && !last {
            return Ok(Outcome { step: trainer.step, interrupted: true, valid });
        }
    }
    Ok(Outcome { step: trainer.step, interrupted: false, valid })
}
