//! A whole run: text and settings in, checkpoints out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use super::architecture::{Architecture, Preset};
use super::batch::Batch;
use super::data::{self, Prepared};
use super::examples::Sampler;
use super::family;
use super::folder::{self, Folder, Run};
use super::log::{Log, Row};
use super::model::{Model, Regularization, Rounding};
use super::parameters::Parameters;
use super::settings::Settings;
use super::tokenizers::{Tokenizers, read_beside};
use super::trainer::Trainer;
use super::vocabulary::Marked;
use crate::source::{Overrides, Source, SpecialTokens};
use crate::tokenizer::Packed;
use crate::{Error, Result};

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
    if let Some(folder) = settings.init.as_ref().filter(|folder| !folder.exists()) {
        return Err(Error::Usage(format!("--init {}: no such folder or file", folder.display())));
    }
    let (tokenizers, mut files) = match &settings.init {
        Some(folder) if settings.tokenizer.is_none() => Tokenizers::read(folder)?,
        _ => Tokenizers::make(&settings, data)?,
    };
    let architecture = match (&settings.init, settings.size) {
        (Some(folder), _) => Architecture::read(folder)?,
        (None, None) => Architecture::new(settings.preset(), settings.sizes, tokenizers.packed.vocab as usize)?,
        (None, Some(budget)) => {
            let marked = find_marked(&settings, &tokenizers.packed, None, tokenizers.packed.vocab)?;
            let vocab = tokenizers.packed.vocab as usize;
            let chosen = budget.choose(settings.preset(), settings.sizes, vocab, &marked, &files)?;
            let Architecture { layers, dim, heads, kv_heads, hidden, context, .. } = chosen;
            observer.note(&format!(
                "--size {budget}: {layers} layers of width {dim}, {heads} heads, {kv_heads} of keys and values, hidden \
                 {hidden}, context {context}"
            ));
            chosen
        }
    };
    settings.objective.check(architecture.preset)?;
    for packed in tokenizers.source.iter().chain([&tokenizers.packed]) {
        packed.check_vocab(architecture.vocab as u32)?;
    }
    let marked = find_marked(&settings, &tokenizers.packed, settings.init.as_deref(), architecture.vocab as u32)?;
    let prepared = data::prepare(&settings, data, architecture.context, &tokenizers, &marked, observer)?;
    let parameters = match &settings.init {
        Some(folder) => Parameters::read(&architecture, folder)?,
        None => Parameters::new(&architecture, settings.seed)?,
    };
    let config = match &settings.init {
        // What it says of other things stays as it is, if it is Hugging Face's.
        Some(folder) if folder.join("config.json").is_file() => {
            let mut config = read_config(&folder.join("config.json"))?;
            let own = family::config(&architecture, &marked);
            let (was, is) = (&config["architectures"], &own["architectures"]);
            if was != is {
                if !was.is_null() {
                    observer.note(&format!("the checkpoint is made for {was}, what comes out for {is}"));
                }
                config["architectures"] = is.clone();
            }
            if settings.tokenizer.is_some() {
                rename_tokens(&mut config, &own);
            } else {
                files.extend(read_beside(folder, &["generation_config.json"])?);
            }
            config
        }
        _ => family::config(&architecture, &marked),
    };
    let has = |name: &str| files.iter().any(|(file, _)| file == name);
    if has("tokenizer.json") && !has("tokenizer_config.json") {
        let named = tokenizers.named(settings.objective, &marked)?;
        let is_bert = architecture.preset == Preset::Bert;
        files.push(("tokenizer_config.json".into(), folder::tokenizer_config(&named, architecture.context, is_bert)?));
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
    let tokenizers = Tokenizers::load(path)?;
    let architecture = Architecture::read(path)?;
    let marked = find_marked(&run.settings, &tokenizers.packed, Some(path), architecture.vocab as u32)?;
    let prepared = data::prepare(&run.settings, &run.data, architecture.context, &tokenizers, &marked, observer)?;
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

/// The tokens with a meaning. `folder` has the checkpoint that the run began with or has made.
fn find_marked(settings: &Settings, packed: &Packed, folder: Option<&Path>, vocab: u32) -> Result<Marked> {
    let named = match folder {
        // With another tokenizer, the checkpoint's ids are other tokens.
        Some(folder) if settings.init.is_some() && settings.tokenizer.is_none() => {
            Source::find(folder, &Overrides::default())?.special_tokens(vocab)?
        }
        _ => SpecialTokens::default(),
    };
    Marked::find(packed, &named)
}

fn read_config(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| Error::format(path, e.to_string()))?;
    Ok(fields.into())
}

/// Gives the tokens that a configuration names the ids of another tokenizer.
fn rename_tokens(config: &mut Value, new: &Value) {
    let (Some(config), Some(new)) = (config.as_object_mut(), new.as_object()) else { return };
    for (field, id) in config.iter_mut().filter(|(field, _)| field.ends_with("_token_id")) {
        *id = new.get(field).cloned().unwrap_or_default();
    }
}

fn new_trainer(settings: &Settings, architecture: Architecture, parameters: Parameters) -> Result<Trainer> {
    let parameters = match settings.low_rank() {
        Some(low_rank) => parameters.adapt(low_rank, settings.seed)?,
        None => parameters,
    };
    let mut model = Model::new(architecture, parameters);
    model.rounding = settings.qat.then(|| Rounding { group: settings.group.columns() });
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
    let mut sampler = Sampler::new(prepared.train, settings.batch, settings.seed);
    let validation = prepared.valid;
    let (parameters, trained) = trainer.model.parameters.counts();
    observer.note(&match settings.lora {
        None => format!("{parameters} parameters"),
        Some(rank) => format!("{parameters} parameters; {trained} in factors of rank {rank} are trained"),
    });
    let mut tokens = log.0.last().map_or(0, |row| row.tokens);
    let mut valid = log.0.iter().rev().find_map(|row| row.valid);
    if trainer.step >= settings.steps {
        // Killed within its last checkpoint, it may have left the model of an earlier one.
        folder.save(&trainer, &log)?;
    }
    while trainer.step < settings.steps {
        let accumulated = settings.accumulate as u64;
        let numbers = trainer.step * accumulated..(trainer.step + 1) * accumulated;
        let batches: Vec<Batch> = numbers.flat_map(|n| sampler.batch(n)).collect();
        let step = trainer.step(&batches)?;
        tokens += batches.iter().map(|batch| batch.tokens() as u64).sum::<u64>();
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
