//! Which files a path stands for: one file, or the shards that an index lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Checkpoint, some_of};
use crate::{Error, Result};

/// What there is to open.
pub(super) enum Located {
    File(PathBuf),
    /// An `*.index.json`.
    Shards(PathBuf),
}

const INDEX_SUFFIX: &str = ".index.json";

/// In a folder, the first of these that exists is opened.
const PREFERRED: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ckpt.pt",
];

/// Otherwise the only file with the first of these extensions that occurs.
const EXTENSIONS: [&str; 4] = ["safetensors", "pt", "pth", "bin"];

/// Finds what `path` stands for.
pub(super) fn locate(path: &Path) -> Result<Located> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_dir() {
        return Ok(match index_of(path) {
            Some(index) => Located::Shards(index),
            None => Located::File(path.into()),
        });
    }
    if let Some(found) = PREFERRED.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(if is_index(&found) { Located::Shards(found) } else { Located::File(found) });
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        files.push(entry.map_err(Error::io(path))?.path());
    }
    files.retain(|file| file.is_file());
    files.sort();
    for extension in EXTENSIONS {
        let mut matching = files.iter().filter(|file| file.extension().is_some_and(|found| found == extension));
        match (matching.next(), matching.next()) {
            (None, _) => {}
            (Some(file), None) => return Ok(Located::File(file.clone())),
            (Some(first), Some(second)) => {
                let names = format!("{} and {}", first.display(), second.display());
                return Err(Error::format(path, format!("several checkpoints ({names}, …); name one of them")));
            }
        }
    }
    Err(Error::format(path, format!("a folder without weights, expected one of {}", PREFERRED.join(", "))))
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX_SUFFIX))
}

/// The index that `path` is, or that lists it: `model-00001-of-00002.safetensors` → `model.safetensors.index.json`.
fn index_of(path: &Path) -> Option<PathBuf> {
    if is_index(path) {
        return Some(path.into());
    }
    let (stem, extension) = (path.file_stem()?.to_str()?, path.extension()?.to_str()?);
    let (numbered, total) = stem.rsplit_once("-of-")?;
    let (base, number) = numbered.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let index = path.with_file_name(format!("{base}.{extension}{INDEX_SUFFIX}"));
    (digits(number) && digits(total) && index.is_file()).then_some(index)
}

/// An index: which shard holds which tensor.
pub(super) struct Shards {
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let Index { weight_map } = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(path, format!("not an index of shards: {error}")))?;
        if weight_map.is_empty() {
            return Err(Error::format(path, "an index of shards without any tensor"));
        }
        for (tensor, file) in &weight_map {
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(Error::Field {
                    path: path.into(),
                    field: format!("weight_map.{tensor}"),
                    found: format!("`{}`", file.escape_debug()),
                    expected: "the name of a file beside the index".into(),
                });
            }
        }
        Ok(Shards { path: path.into(), weight_map })
    }

    /// The shards, each once.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let names: BTreeSet<&String> = self.weight_map.values().collect();
        names.into_iter().map(|name| self.path.with_file_name(name))
    }

    /// Every tensor must be where the index says. Shards may hold more: families judge what is superfluous.
    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let misplaced = |tensor: &&String| {
            let file = self.weight_map.get(*tensor).map(|file| self.path.with_file_name(file));
            checkpoint.tensor(tensor).is_none() || file.as_deref() != Some(checkpoint.file_of(tensor))
        };
        let missing: Vec<&String> = self.weight_map.keys().filter(misplaced).collect();
        match missing.first() {
            None => Ok(()),
            Some(&first) => Err(Error::Tensor {
                path: self.path.clone(),
                tensor: first.clone(),
                found: format!("{} of them not in the shard the index names: {}", missing.len(), {
                    some_of(missing.iter().map(|name| name.as_str()))
                }),
                expected: format!("`{first}` in {}", self.weight_map.get(first).map_or("", String::as_str)),
            }),
        }
    }
}
