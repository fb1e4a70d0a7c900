//! What the user pointed at: the weights, and the configuration files that lie beside them.
//!
//! A path may name a file, one shard of several, or a folder. Nothing here interprets the model; tokenizer files in the
//! same [`folder`](Source::folder) are looked for elsewhere.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::{Error, Result};

/// What the user said instead of leaving it to be found.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`: a JSON file in place of `config.json`.
    pub config: Option<PathBuf>,
    /// `--normalize-head`: whether the head's rows are brought to unit length (Baichuan 2), where nothing says so.
    pub normalize_head: Option<bool>,
    /// `--alibi`: whether positions enter by ALiBi (Baichuan 13B), where nothing says so.
    pub alibi: Option<bool>,
}

/// A checkpoint and what lies beside it.
#[derive(Debug)]
pub struct Source {
    /// The weights.
    pub checkpoint: Checkpoint,
    /// `--config`, or the `model_args` inside a nanoGPT checkpoint, or `config.json`; the first that exists.
    pub config: Option<Config>,
    /// `generation_config.json`.
    pub generation: Option<Config>,
    /// Where the weights lie.
    pub folder: PathBuf,
    /// What the user said.
    pub overrides: Overrides,
}

/// Ids with a meaning for generation, as far as the configuration names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put before a text.
    pub bos: Option<u32>,
    /// Each of them ends a text.
    pub eos: Vec<u32>,
    /// Fills up batches; never meant to be generated.
    pub pad: Option<u32>,
}

impl Source {
    /// Opens the weights `path` names (see [`Checkpoint::open`]) and reads the configuration beside them.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; a configuration file that is not a JSON object, or `--config` naming none.
    pub fn find(path: &Path, overrides: &Overrides) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let folder = checkpoint.path().parent().map(Path::to_owned).unwrap_or_default();
        let beside = |name: &str| -> Result<Option<Config>> {
            let file = folder.join(name);
            if file.is_file() { Config::read(&file).map(Some) } else { Ok(None) }
        };
        let config = match (&overrides.config, checkpoint.model_args()) {
            (Some(file), _) => Some(Config::read(file)?),
            (None, Some(fields)) => Some(Config::new(checkpoint.path(), "model_args.", fields.clone())),
            (None, None) => beside("config.json")?,
        };
        let generation = beside("generation_config.json")?;
        Ok(Source { checkpoint, config, generation, folder, overrides: overrides.clone() })
    }

    /// The error for a checkpoint that cannot be understood without a configuration.
    pub fn no_config(&self) -> Error {
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let (weights, folder) = (self.checkpoint.path().display(), folder.display());
        Error::Usage(format!("{weights}: no config.json in {folder}: put it there or name it with --config"))
    }

    /// The special ids for a model of `vocab` tokens: `generation_config.json` before the configuration. Ids that the
    /// vocabulary does not reach are left out: small models often keep a default they cannot produce.
    ///
    /// # Errors
    /// A field that is neither an id nor a list of ids.
    pub fn special_tokens(&self, vocab: u32) -> Result<SpecialTokens> {
        let ids = |field: &str| -> Result<Vec<u32>> {
            for config in [&self.generation, &self.config].into_iter().flatten() {
                if let Some(ids) = config.token_ids(field)? {
                    return Ok(ids.into_iter().filter(|&id| id < vocab).collect());
                }
            }
            Ok(Vec::new())
        };
        Ok(SpecialTokens {
            bos: ids("bos_token_id")?.first().copied(),
            eos: ids("eos_token_id")?,
            pad: ids("pad_token_id")?.first().copied(),
        })
    }
}
