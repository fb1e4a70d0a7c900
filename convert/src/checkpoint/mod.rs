//! Trained weights as files hold them: safetensors (single or sharded) and PyTorch checkpoints, memory-mapped.
//!
//! A [`Checkpoint`] knows its tensors' names, shapes and types, and converts any rows of any of them to f32. It copies no
//! weights on opening and executes nothing: PyTorch's pickles are read as data ([`pickle`]). What the tensors mean is a
//! family's business ([`crate::family`]).
//!
//! Everything a file claims is checked when it is opened: the bytes of every tensor lie inside the map, names are
//! unique, an index names only files beside it. Memory for the bookkeeping is bounded by the size of the files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::{Map, Value};

use crate::{Error, Result, mapped};

mod locate;
pub mod pickle;
mod read;
mod safetensors;
mod torch;

/// Type of a tensor's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE-754 double precision.
    F64,
    /// IEEE-754 single precision.
    F32,
    /// IEEE-754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// A type that is not read as weights, by its format's name: integers, booleans, fp8.
    Other(String),
}

impl Dtype {
    /// Bytes of an element, `None` if it cannot be read.
    fn size(&self) -> Option<usize> {
        match self {
            Dtype::F64 => Some(8),
            Dtype::F32 => Some(4),
            Dtype::F16 | Dtype::Bf16 => Some(2),
            Dtype::Other(_) => None,
        }
    }

    /// Whether it can be read as f32.
    pub fn is_float(&self) -> bool {
        !matches!(self, Dtype::Other(_))
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Other(name) => name,
        })
    }
}

/// Name, type and shape of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo<'a> {
    /// Its name, as the file spells it.
    pub name: &'a str,
    /// Type of its elements.
    pub dtype: &'a Dtype,
    /// Size of each dimension.
    pub shape: &'a [usize],
}

/// An opened checkpoint: names, shapes and types of its tensors, and their bytes in the memory map.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Opened>,
    tensors: BTreeMap<String, Entry>,
    model_args: Option<Map<String, Value>>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
}

impl Opened {
    /// The bytes from a tensor's first element to its last one, mapped for as long as they are read: a checkpoint's pages
    /// do not pile up in memory.
    fn bytes(&self, entry: &Entry) -> Result<Mmap> {
        let size = entry.dtype.size().unwrap_or(0);
        // Strides of a tensor without elements mean nothing and may be anything.
        let elements = match entry.shape.contains(&0) {
            true => 0,
            false => entry.shape.iter().zip(&entry.strides).map(|(n, stride)| (n - 1) * stride).sum::<usize>() + 1,
        };
        let start = entry.offset as u64;
        mapped::range(&self.file, &self.path, start..start + (elements * size) as u64)
    }
}

/// A tensor's place.
#[derive(Clone, Debug)]
struct Entry {
    /// Index into [`Checkpoint::files`].
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    strides: Vec<usize>,
    /// Byte of the file where the first element lies.
    offset: usize,
}

/// What a single file holds.
struct Contents {
    tensors: Vec<(String, Entry)>,
    model_args: Option<Map<String, Value>>,
}

impl Checkpoint {
    /// Opens what `path` names:
    /// - a safetensors file, or a PyTorch checkpoint of the zip format, whatever its name;
    /// - one shard of several, or the `*.index.json` that lists them;
    /// - a folder with any of these: `model.safetensors` before `pytorch_model.bin` before `ckpt.pt`, otherwise the only
    ///   `.safetensors`, `.pt`, `.pth` or `.bin` file in it.
    ///
    /// # Errors
    /// Nothing to open or several candidates, an unknown or damaged format, a tensor outside its file, a name that stands
    /// in two shards, an index that does not match its shards, a pickle that wants to execute something.
    pub fn open(path: &Path) -> Result<Self> {
        match locate::locate(path)? {
            locate::Located::File(file) => {
                let mut checkpoint =
                    Checkpoint { path: file.clone(), files: Vec::new(), tensors: BTreeMap::new(), model_args: None };
                checkpoint.add(file)?;
                Ok(checkpoint)
            }
            locate::Located::Shards(index) => {
                let shards = locate::Shards::read(&index)?;
                let mut checkpoint =
                    Checkpoint { path: index, files: Vec::new(), tensors: BTreeMap::new(), model_args: None };
                for file in shards.files() {
                    checkpoint.add(file)?;
                }
                shards.check(&checkpoint)?;
                Ok(checkpoint)
            }
        }
    }

    /// Maps `path` and adds its tensors.
    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).map_err(Error::io(&path))?;
        let contents = parse(&path, &mapped::map(&file, &path)?)?;
        let index = self.files.len();
        for (name, entry) in contents.tensors {
            if let Some(other) = self.tensors.get(&name) {
                let other = self.files.get(other.file).map_or(path.as_path(), |f| f.path.as_path());
                return Err(Error::Tensor {
                    path: path.clone(),
                    found: format!("it here and in {}", other.display()),
                    expected: "every name once".into(),
                    tensor: name,
                });
            }
            self.tensors.insert(name, Entry { file: index, ..entry });
        }
        self.model_args = self.model_args.take().or(contents.model_args);
        self.files.push(Opened { path, file });
        Ok(())
    }

    /// The file, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, entry)| TensorInfo { name, dtype: &entry.dtype, shape: &entry.shape })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        Some(TensorInfo { name, dtype: &entry.dtype, shape: &entry.shape })
    }

    /// Its shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The file that holds that tensor; [`path`](Self::path) if none does.
    pub fn file_of(&self, name: &str) -> &Path {
        let file = self.tensors.get(name).and_then(|entry| self.files.get(entry.file));
        file.map_or(&self.path, |file| &file.path)
    }

    /// The `model_args` that nanoGPT saves beside its weights.
    pub fn model_args(&self) -> Option<&Map<String, Value>> {
        self.model_args.as_ref()
    }
}

/// Tells the format by the first bytes and reads the table of tensors.
fn parse(path: &Path, bytes: &[u8]) -> Result<Contents> {
    if bytes.starts_with(b"PK\x03\x04") {
        torch::parse(path, bytes)
    } else if bytes.starts_with(&[0x80]) && bytes.get(1).is_some_and(|version| (2..=5).contains(version)) {
        let again = "in PyTorch, `torch.save(torch.load(path, map_location=\"cpu\"), path)` writes one";
        Err(Error::format(path, format!("a bare pickle (PyTorch before 1.6), expected a zip checkpoint: {again}")))
    } else if bytes.starts_with(b"GGUF") {
        Err(Error::format(path, "a GGUF file, expected safetensors or a PyTorch checkpoint"))
    } else if bytes.starts_with(b"version https://git-lfs") {
        Err(Error::format(path, "a Git LFS pointer instead of the weights: `git lfs pull` fetches them"))
    } else {
        safetensors::parse(path, bytes)
    }
}

/// Strides of a row-major tensor, and its number of elements; `None` if that overflows.
fn row_major(shape: &[usize]) -> Option<(Vec<usize>, usize)> {
    let mut strides = vec![0; shape.len()];
    let mut elements = 1usize;
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        *stride = elements;
        elements = elements.checked_mul(size)?;
    }
    Some((strides, elements))
}

/// The first names of a list, and how many more there are.
pub(crate) fn some_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 6;
    let mut names = names.into_iter();
    let shown = names.by_ref().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
