//! A model's configuration: the fields of a JSON object, read with their types checked.
//!
//! `null` counts as absent everywhere, as it does in transformers. Which fields there are is a family's business.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest file that is read as JSON here: real ones have a few thousand bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Fields of a JSON object.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    /// What stands before a field's name in errors: `rope_scaling.` within that object.
    prefix: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads a JSON file.
    ///
    /// # Errors
    /// It cannot be read, is larger than 16 MiB, or is not a JSON object.
    pub fn read(path: &Path) -> Result<Self> {
        let len = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if len > MAX_BYTES {
            return Err(Error::format(path, format!("{len} bytes, expected a JSON file of at most {MAX_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Config::new(path, "", fields)),
            Ok(other) => Err(Error::format(path, format!("found {}, expected a JSON object", shown(&other)))),
            Err(error) => Err(Error::format(path, format!("not JSON: {error}"))),
        }
    }

    /// Fields that stand in the file `path`; `prefix` comes before their names in errors.
    pub fn new(path: impl Into<PathBuf>, prefix: impl Into<String>, fields: Map<String, Value>) -> Self {
        Config { path: path.into(), prefix: prefix.into(), fields }
    }

    /// The same with a field under the name that its reader knows it by. Errors then name it so.
    pub fn renamed(&self, from: &str, to: &str) -> Self {
        let mut config = self.clone();
        if let Some(value) = config.fields.remove(from) {
            config.fields.insert(to.to_owned(), value);
        }
        config
    }

    /// A configuration of the same file with these fields alone, for a reader that knows them by these names.
    pub fn made_of(&self, fields: &[(&str, Option<Value>)]) -> Self {
        let fields = fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        Config { path: self.path.clone(), prefix: self.prefix.clone(), fields: fields.collect() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and values of all fields that are not `null`.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    /// A field that is not `null`.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there, `null` or not: a few configurations mean different things by the two.
    pub fn names(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// An [`Error::Field`] about what stands in `field`.
    pub fn error(&self, field: &str, expected: impl Into<String>) -> Error {
        Error::Field {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            found: self.get(field).map_or("nothing".into(), shown),
            expected: expected.into(),
        }
    }

    /// A field, converted; the error names what was expected.
    fn read_as<'a, T>(
        &'a self,
        field: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let convert = |value| convert(value).ok_or_else(|| self.error(field, expected));
        self.get(field).map(convert).transpose()
    }

    /// A non-negative integer; `8.0` counts as one.
    ///
    /// # Errors
    /// Another type, or beyond u32.
    pub fn integer(&self, field: &str) -> Result<Option<u32>> {
        self.read_as(field, "an integer from 0 to 4294967295", integer)
    }

    /// An integer that must be there.
    ///
    /// # Errors
    /// As [`integer`](Self::integer), or absent.
    pub fn required(&self, field: &str) -> Result<u32> {
        self.integer(field)?.ok_or_else(|| self.error(field, "an integer"))
    }

    /// A finite number.
    ///
    /// # Errors
    /// Another type.
    pub fn number(&self, field: &str) -> Result<Option<f64>> {
        self.read_as(field, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Another type.
    pub fn boolean(&self, field: &str) -> Result<Option<bool>> {
        self.read_as(field, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// Another type.
    pub fn string(&self, field: &str) -> Result<Option<&str>> {
        self.read_as(field, "a string", Value::as_str)
    }

    /// An object's fields.
    ///
    /// # Errors
    /// Another type.
    pub fn object(&self, field: &str) -> Result<Option<Config>> {
        let fields = self.read_as(field, "an object", Value::as_object)?;
        let prefix = format!("{}{field}.", self.prefix);
        Ok(fields.map(|fields| Config::new(&self.path, prefix, fields.clone())))
    }

    /// A list of objects; their fields are named `field[0].…` in errors.
    ///
    /// # Errors
    /// Absent, or another type.
    pub fn objects(&self, field: &str) -> Result<Vec<Config>> {
        let list = self.get(field).and_then(Value::as_array);
        let objects = list.and_then(|list| list.iter().map(Value::as_object).collect::<Option<Vec<_>>>());
        let objects = objects.ok_or_else(|| self.error(field, "a list of objects"))?;
        let named = objects.into_iter().enumerate().map(|(index, fields)| {
            Config::new(&self.path, format!("{}{field}[{index}].", self.prefix), fields.clone())
        });
        Ok(named.collect())
    }

    /// A list of finite numbers.
    ///
    /// # Errors
    /// Another type.
    pub fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>> {
        self.read_as(field, "a list of numbers", |value| {
            value.as_array()?.iter().map(|value| value.as_f64().filter(|number| number.is_finite())).collect()
        })
    }

    /// One token id or a list of them; -1, which some configurations write for "none", is left out.
    ///
    /// # Errors
    /// Another type.
    pub fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let id = |value: &Value| {
            if value.as_i64() == Some(-1) { Some(None) } else { integer(value).map(Some) }
        };
        self.read_as(field, "a token id or a list of token ids", |value| match value {
            Value::Array(list) => {
                list.iter().map(id).collect::<Option<Vec<_>>>().map(|ids| ids.into_iter().flatten().collect())
            }
            one => Some(id(one)?.into_iter().collect()),
        })
    }

    /// Refuses fields that are neither in `known` nor harmless: an unknown one may change what the model computes.
    /// Values that switch a feature off (`false`, `[]`, `{}`) pass.
    ///
    /// # Errors
    /// The first such field.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<()> {
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        match self.fields().find(|(name, value)| !known.contains(name) && !harmless(name) && !off(value)) {
            None => Ok(()),
            Some((name, _)) => Err(self.error(
                name,
                "no such field: it may change what the model computes (if not, give --config a copy without it)",
            )),
        }
    }
}

fn integer(value: &Value) -> Option<u32> {
    if let Some(integer) = value.as_u64() {
        return u32::try_from(integer).ok();
    }
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

/// A value as errors show it, cut to a reasonable length.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= MOST { text } else { format!("{}…", text.chars().take(MOST).collect::<String>()) }
}

/// Fields of any transformers configuration that say nothing about the forward pass: provenance, training, defaults of
/// text generation, classification heads that a causal model does not have.
fn harmless(name: &str) -> bool {
    const NAMES: [&str; 53] = [
        "architectures",
        "attn_implementation",
        // Where the hub keeps Python code of the class that `architectures` names.
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pretraining_tp",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "typical_p",
        "unsloth_fixed",
        "use_cache",
        "use_bfloat16",
    ];
    const SUFFIXES: [&str; 4] = ["_version", "_token_id", "dropout", "_pdrop"];
    NAMES.contains(&name)
        || name.starts_with('_')
        || name.starts_with("summary_")
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}
