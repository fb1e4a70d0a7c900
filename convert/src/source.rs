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
    /// What the decoder of an encoder-decoder starts with.
    pub decoder_start: Option<u32>,
    /// What follows it in every text.
    pub forced_bos: Option<u32>,
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
            decoder_start: ids("decoder_start_token_id")?.first().copied(),
            forced_bos: match ids("forced_bos_token_id")?.first().copied() {
                None if self.forces_bos()? => ids("bos_token_id")?.first().copied(),
                named => named,
            },
        })
    }

    /// How the oldest BARTs say that the token that begins texts is forced.
    fn forces_bos(&self) -> Result<bool> {
        let forced = self.config.as_ref().map(|config| config.boolean("force_bos_token_to_be_generated"));
        Ok(forced.transpose()?.flatten().unwrap_or(false))
    }

    /// Tokens that are never to be generated: words of one token in `bad_words_ids`.
    ///
    /// # Errors
    /// A field that is not a list of lists of ids.
    pub fn banned_tokens(&self, vocab: u32) -> Result<Vec<u32>> {
        for config in [&self.generation, &self.config].into_iter().flatten() {
            let Some(value) = config.get("bad_words_ids") else { continue };
            let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let word = |word: &serde_json::Value| word.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>();
            let words = value.as_array().and_then(|words| words.iter().map(word).collect::<Option<Vec<_>>>());
            let words = words.ok_or_else(|| config.error("bad_words_ids", "a list of lists of token ids"))?;
            let single = words.iter().filter_map(|word| if let [id] = word[..] { Some(id) } else { None });
            return Ok(single.filter(|&id| id < vocab).collect());
        }
        Ok(Vec::new())
    }
}
