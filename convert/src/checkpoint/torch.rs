//! PyTorch's zip checkpoints: `data.pkl` says which tensors there are, `data/0`, `data/1`, … are their storages.
//!
//! Entries are stored uncompressed, so that tensors are views of the memory map. Checksums are not verified: that would
//! read the whole file once more.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value as Json};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Dict, Tensor, Value};
use super::{Contents, Dtype, Entry, some_of};
use crate::{Error, Result};

/// Keys under which training scripts put the state dict.
const STATE_DICT_KEYS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

impl Dtype {
    /// The element type of a `torch.*Storage` class.
    pub(super) fn of_storage(class: &str) -> Self {
        match class {
            "DoubleStorage" => Dtype::F64,
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::Bf16,
            other => Dtype::Other(other.trim_end_matches("Storage").to_lowercase()),
        }
    }
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let archive = Archive::read(path, bytes)?;
    let pickle_bytes = bytes.get(archive.get("data.pkl")?).unwrap_or_default();
    let pickle = pickle::read(pickle_bytes).map_err(|error| Error::format(path, format!("data.pkl: {error}")))?;
    if let Some(order) = archive.find("byteorder")?.and_then(|range| bytes.get(range))
        && order != b"little"
    {
        let order = String::from_utf8_lossy(order.get(..order.len().min(16)).unwrap_or_default());
        return Err(Error::format(path, format!("byte order `{}`, expected `little`", order.escape_debug())));
    }

    let Value::Dict(root) = pickle.root() else {
        return Err(Error::format(path, format!("a pickle of {}, expected a state dict", pickle.root().kind())));
    };
    let (prefix, state_dict) = find_state_dict(path, root)?;
    // Python keeps the last of equal keys.
    let mut named: HashMap<&str, &Tensor<'_>> = HashMap::new();
    for (key, value) in state_dict.iter() {
        match (key, value) {
            (Value::Str(name), Value::Tensor(tensor)) => drop(named.insert(name, tensor)),
            (Value::Str(name), other) => {
                return Err(Error::Tensor {
                    path: path.into(),
                    tensor: name.into(),
                    found: other.kind().into(),
                    expected: "a tensor".into(),
                });
            }
            (other, _) => {
                return Err(Error::format(path, format!("{prefix}: a key that is {}, expected a str", other.kind())));
            }
        }
    }
    let tensors = named
        .into_iter()
        .map(|(name, tensor)| Ok((name.to_owned(), archive.entry(name, tensor)?)))
        .collect::<Result<_>>()?;
    let model_args = match root.get("model_args") {
        Some(Value::Dict(args)) => Some(plain_fields(path, args)?),
        _ => None,
    };
    Ok(Contents { tensors, model_args })
}

/// The dict that maps names to tensors: the root, or what stands under one of the usual keys.
fn find_state_dict<'p>(path: &Path, root: Dict<'p>) -> Result<(&'static str, Dict<'p>)> {
    let holds_tensors = |dict: Dict<'_>| dict.iter().any(|(_, value)| matches!(value, Value::Tensor(_)));
    for key in STATE_DICT_KEYS {
        if let Some(Value::Dict(dict)) = root.get(key)
            && holds_tensors(dict)
        {
            return Ok((key, dict));
        }
    }
    if holds_tensors(root) {
        return Ok(("state dict", root));
    }
    let keys = root.iter().filter_map(|(key, _)| if let Value::Str(key) = key { Some(key) } else { None });
    Err(Error::format(
        path,
        format!("no state dict: found a dict with {}, expected tensors or one of {STATE_DICT_KEYS:?}", some_of(keys)),
    ))
}

/// A flat dict's plain values as JSON; others are left out.
fn plain_fields(path: &Path, dict: Dict<'_>) -> Result<Map<String, Json>> {
    const MOST: usize = 1000;
    if dict.len() > MOST {
        return Err(Error::format(path, format!("model_args with {} fields, expected a few", dict.len())));
    }
    let mut fields = Map::new();
    for (key, value) in dict.iter() {
        let Value::Str(key) = key else { continue };
        let value = match value {
            Value::None => Json::Null,
            Value::Bool(b) => b.into(),
            Value::Int(i) => i.into(),
            Value::Float(f) => f.into(),
            Value::Str(s) => s.into(),
            _ => continue,
        };
        fields.insert(key.into(), value);
    }
    Ok(fields)
}

/// The archive's table of entries, all below one folder whose name the user's file once had.
struct Archive<'a> {
    path: &'a Path,
    folder: String,
    entries: HashMap<String, Stored>,
}

struct Stored {
    bytes: Range<usize>,
    compressed: bool,
}

impl<'a> Archive<'a> {
    fn read(path: &'a Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |problem: &dyn std::fmt::Display| Error::format(path, format!("damaged zip archive: {problem}"));
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
        let mut entries = HashMap::new();
        let mut folder = None;
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).map_err(|error| damaged(&error))?;
            let name = file.name().map_err(|error| damaged(&error))?.into_owned();
            let start = file.data_start().and_then(|start| usize::try_from(start).ok());
            let len = usize::try_from(file.compressed_size()).ok();
            let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
            let range = range.filter(|range| range.end <= bytes.len());
            let range = range.ok_or_else(|| damaged(&format!("entry `{name}` ends beyond the file")))?;
            if let Some(found) = name.strip_suffix("data.pkl")
                && (found.is_empty() || found.ends_with('/'))
                && folder.replace(found.to_owned()).is_some()
            {
                return Err(damaged(&"more than one data.pkl"));
            }
            let compressed = file.encrypted() || file.compression() != CompressionMethod::Stored;
            entries.insert(name, Stored { bytes: range, compressed });
        }
        let folder = folder
            .ok_or_else(|| Error::format(path, "a zip archive without data.pkl, expected what `torch.save` writes"))?;
        if entries.contains_key(&format!("{folder}constants.pkl")) {
            return Err(Error::format(path, "a TorchScript program, expected a state dict"));
        }
        Ok(Archive { path, folder, entries })
    }

    fn find(&self, name: &str) -> Result<Option<Range<usize>>> {
        match self.entries.get(&format!("{}{name}", self.folder)) {
            Some(stored) if stored.compressed => Err(Error::format(
                self.path,
                format!("zip entry `{name}` is compressed, expected it stored as `torch.save` does"),
            )),
            stored => Ok(stored.map(|stored| stored.bytes.clone())),
        }
    }

    fn get(&self, name: &str) -> Result<Range<usize>> {
        let found = self.find(name)?;
        found.ok_or_else(|| Error::format(self.path, format!("damaged zip archive: no entry `{name}`")))
    }

    /// Checks that every element of `tensor` lies in its storage.
    fn entry(&self, name: &str, tensor: &Tensor<'_>) -> Result<Entry> {
        let storage = self.get(&format!("data/{}", tensor.storage.key))?;
        let dtype = tensor.storage.dtype.clone();
        let problem = |found: String, expected: String| Error::Tensor {
            path: self.path.into(),
            tensor: name.into(),
            found,
            expected,
        };
        let numbers = |values: &[u64]| values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<Vec<_>>>();
        let place = || -> Option<(Vec<usize>, Vec<usize>, usize, usize)> {
            let (shape, strides) = (numbers(&tensor.shape)?, numbers(&tensor.strides)?);
            let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
            let offset = usize::try_from(tensor.offset).ok()?;
            let steps = shape.iter().zip(&strides);
            let last = steps
                .filter(|_| elements > 0)
                .try_fold(offset, |last, (&size, &stride)| last.checked_add((size - 1).checked_mul(stride)?))?;
            // An expanded tensor (stride 0) has more elements than memory; refusing it keeps every size honest.
            Some((shape, strides, offset, last.checked_add(1)?.max(offset.checked_add(elements)?)))
        };
        let claim =
            || format!("shape {:?} with strides {:?} from element {}", tensor.shape, tensor.strides, tensor.offset);
        let (shape, strides, offset, needed) =
            place().ok_or_else(|| problem(claim(), "sizes that do not overflow".into()))?;
        // Types that are not read need no place, and have no size here.
        let Some(size) = dtype.size() else {
            return Ok(Entry { file: 0, dtype, shape, strides, offset: storage.start });
        };
        let elements = storage.len() / size;
        if tensor.storage.len > elements as u64 {
            let claimed = tensor.storage.len;
            return Err(problem(
                format!("a storage of {elements} elements"),
                format!("the {claimed} it was saved with"),
            ));
        }
        if needed > elements && !shape.contains(&0) {
            return Err(problem(claim(), format!("at most the {elements} elements of its storage")));
        }
        // Only a tensor without elements may begin beyond its storage.
        Ok(Entry { file: 0, dtype, shape, strides, offset: storage.start + offset.min(elements) * size })
    }
}
