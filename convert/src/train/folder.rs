//! The folder that training writes: a Hugging Face checkpoint, and what resuming needs.
//!
//! | file | |
//! |---|---|
//! | `config.json`, `model.safetensors` | the model |
//! | `tokenizer.json`, `tokenizer_config.json` | its tokenizer |
//! | `training.json` | what was asked for |
//! | `training.safetensors` | weights and the optimizer's memory after the last checkpoint's step |
//! | `log.csv`, `loss.svg` | the run's record |
//!
//! The folder appears whole, with the untrained model. Every file is replaced as a whole. A run that is killed between two
//! files leaves a model of one checkpoint and the state of another; resuming uses the state alone, and writes both
//! again.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::log::Log;
use super::model::Model;
use super::optimizer::Moments;
use super::parameters::{Parameter, Parameters};
use super::settings::Settings;
use super::trainer::Trainer;
use super::values_of;
use crate::output::Output;
use crate::{Error, Result};

const MODEL: &str = "model.safetensors";
const STATE: &str = "training.safetensors";
const SETTINGS: &str = "training.json";
const LOG: &str = "log.csv";
const CURVE: &str = "loss.svg";

/// A folder with a model that is being trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

/// A file of the tokenizer: its name, and what it holds.
pub type TokenizerFile = (String, Vec<u8>);

/// What a run works on, and what it was asked to do with it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// The text or the pairs.
    pub data: PathBuf,
    /// What to do with it.
    pub settings: Settings,
    /// CRC-32 of all tokens: a run is resumed with the data that it was started with.
    pub fingerprint: u32,
}

impl Folder {
    /// Makes the folder with everything that does not change, and the model as it begins.
    ///
    /// # Errors
    /// The folder exists and is not empty, or cannot be written.
    pub fn create(path: &Path, run: &Run, model: &Model, config: &Value, tokenizer: &[TokenizerFile]) -> Result<Self> {
        Self::check_free(path)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let unfinished = tempfile::Builder::new().prefix(".thumb-").tempdir_in(parent).map_err(Error::io(parent))?;
        let folder = Folder(unfinished.path().to_owned());
        for (name, bytes) in tokenizer {
            folder.write(name, bytes)?;
        }
        folder.write("config.json", &pretty(config)?)?;
        folder.write(SETTINGS, &pretty(&serde_json::to_value(run).map_err(|e| Error::Usage(e.to_string()))?)?)?;
        folder.write(MODEL, &weights(&model.parameters)?)?;
        // Like any folder that a program makes, not its owner's alone.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(unfinished.path(), open).map_err(Error::io(path))?;
        }
        // An empty folder may be replaced by a rename.
        std::fs::rename(unfinished.path(), path).map_err(Error::io(path))?;
        let _ = unfinished.keep();
        Ok(Self(path.to_owned()))
    }

    /// Refuses a folder that has something in it.
    ///
    /// # Errors
    /// It has.
    pub fn check_free(path: &Path) -> Result<()> {
        if path.exists() && std::fs::read_dir(path).map_err(Error::io(path))?.next().is_some() {
            let path = path.display();
            return Err(Error::Usage(format!("{path} is not empty: use --resume {path}, or another folder")));
        }
        Ok(())
    }

    /// Opens a folder that training has made.
    ///
    /// # Errors
    /// It is none.
    pub fn open(path: &Path) -> Result<(Self, Run)> {
        let file = path.join(SETTINGS);
        let text = std::fs::read(&file).map_err(Error::io(&file))?;
        let run = serde_json::from_slice(&text).map_err(|e| Error::format(&file, e.to_string()))?;
        Ok((Self(path.to_owned()), run))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a checkpoint: the model, what resuming needs, and the log.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, trainer: &Trainer, log: &Log) -> Result<()> {
        // The state first: a run that is killed in between resumes from it, and the log has the steps it needs.
        self.write(LOG, log.to_csv().as_bytes())?;
        self.write(STATE, &state(trainer)?)?;
        self.write(MODEL, &weights(&trainer.model.parameters)?)?;
        self.write(CURVE, log.to_svg().as_bytes())
    }

    /// Puts a trainer and its log where the last checkpoint was; leaves them where nothing was saved yet.
    ///
    /// # Errors
    /// A damaged state, or one of another model.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<Log> {
        let path = self.0.join(STATE);
        if !path.exists() {
            return Ok(Log::default());
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let damaged = |problem: String| Error::format(&path, problem);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let step: Option<u64> = metadata.metadata().as_ref().and_then(|fields| fields.get("step")?.parse().ok());
        trainer.step = step.ok_or_else(|| damaged("no step in its metadata".into()))?;
        let read = |prefix: &str, name: &str, count: usize| -> Result<Vec<f32>> {
            let name = format!("{prefix}{name}");
            let tensor = tensors.tensor(&name).map_err(|e| damaged(e.to_string()))?;
            let (quads, rest) = tensor.data().as_chunks::<4>();
            if tensor.dtype() != Dtype::F32 || quads.len() != count || !rest.is_empty() {
                return Err(damaged(format!("tensor `{name}`: expected {count} f32 values")));
            }
            Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
        };
        let Moments { mean, square } = &mut trainer.moments;
        for parameter in trainer.model.parameters.iter() {
            parameter.set(read("", &parameter.name, parameter.var.elem_count())?)?;
        }
        for ((parameter, mean), square) in trainer.model.parameters.trained().zip(mean).zip(square) {
            let count = parameter.var.elem_count();
            *mean = read("mean.", &parameter.name, count)?;
            *square = read("square.", &parameter.name, count)?;
        }
        Log::read(&self.0.join(LOG), trainer.step)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        let mut output = Output::create(&path, true)?;
        output.file().write_all(bytes).map_err(Error::io(&path))?;
        output.commit()
    }
}

/// Makes a tokenizer_config.json for a tokenizer made here: what its tokens are for, and their names. A model with
/// `token_types` wants to be told which text of a pair each token is of; others do not know what that is.
///
/// # Errors
/// None but serde's own.
pub fn tokenizer_config(named: &[(&str, String)], context: usize, token_types: bool) -> Result<Vec<u8>> {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": false,
    });
    if let Some(fields) = config.as_object_mut() {
        if !token_types {
            fields.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
        }
        fields.extend(named.iter().map(|(role, name)| ((*role).to_owned(), name.as_str().into())));
    }
    pretty(&config)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::Usage(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

/// Tensors by name, with their shapes.
type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn stored(name: String, shape: &[usize], values: &[f32]) -> (String, Vec<usize>, Vec<u8>) {
    (name, shape.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn weights(parameters: &Parameters) -> Result<Vec<u8>> {
    let one = |tensor: candle_core::Result<(&str, Tensor)>| -> Result<_> {
        let (name, tensor) = tensor?;
        Ok(stored(name.to_owned(), tensor.dims(), &values_of(&tensor)?))
    };
    let tensors = parameters.merged().map(one).collect::<Result<Tensors>>()?;
    // transformers refuses files that do not say so.
    serialize(&tensors, [("format".to_owned(), "pt".to_owned())].into())
}

fn state(trainer: &Trainer) -> Result<Vec<u8>> {
    let (parameters, moments) = (&trainer.model.parameters, &trainer.moments);
    let own = |parameter: &Parameter| -> Result<_> {
        Ok(stored(parameter.name.clone(), parameter.var.dims(), &values_of(&parameter.var)?))
    };
    let mut tensors = parameters.iter().map(own).collect::<Result<Tensors>>()?;
    for (prefix, moments) in [("mean.", &moments.mean), ("square.", &moments.square)] {
        let all = parameters.trained().zip(moments);
        tensors.extend(
            all.map(|(parameter, moments)| {
                stored(format!("{prefix}{}", parameter.name), parameter.var.dims(), moments)
            }),
        );
    }
    serialize(&tensors, [("step".to_owned(), trainer.step.to_string())].into())
}

fn serialize(tensors: &Tensors, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let failed = |e: safetensors::SafeTensorError| Error::Usage(e.to_string());
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?)))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}
