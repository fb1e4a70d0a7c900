//! Tiny checkpoints made by a test: tensors whose values follow from their place, and a configuration beside them.
#![allow(dead_code)] // Each test file uses a part.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use thumbformer::arch::Role;
use thumbformer_convert::Result;
use thumbformer_convert::family;
use thumbformer_convert::recipe::Recipe;
use thumbformer_convert::source::{Overrides, Source};

/// A file of `tests/fixtures/checkpoints/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

/// Names and shapes of a model's tensors, in the order of their values.
#[derive(Clone, Debug)]
pub(crate) struct Tensors(pub(crate) Vec<(String, Vec<usize>)>);

impl Tensors {
    /// Element `element` of tensor `name`: differs from its neighbours in every direction, and is exact in f32.
    pub(crate) fn value(&self, name: &str, element: usize) -> f32 {
        let place = self.0.iter().position(|(n, _)| n == name).expect(name);
        ((place * 7919 + element * 31) % 4001) as f32 / 1024.0 - 2.0
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.0.iter().find(|(n, _)| n == name).expect(name).1
    }

    /// A row of a matrix, or an element of a vector.
    pub(crate) fn row(&self, name: &str, row: usize) -> Vec<f32> {
        let cols = self.shape(name).get(1).copied().unwrap_or(1);
        (row * cols..(row + 1) * cols).map(|i| self.value(name, i)).collect()
    }

    /// All of its rows, transposed.
    pub(crate) fn transposed(&self, name: &str) -> Vec<f32> {
        let &[rows, cols] = self.shape(name) else { panic!("{name} is no matrix") };
        (0..rows * cols).map(|i| self.value(name, i % rows * cols + i / rows)).collect()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<f32> {
        (0..self.shape(name).iter().product()).map(|i| self.value(name, i)).collect()
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        let before = self.0.len();
        self.0.retain(|(n, _)| n != name);
        assert!(self.0.len() < before, "{name}");
        self
    }

    pub(crate) fn with(mut self, name: &str, shape: &[usize]) -> Self {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.into(), shape.into()));
        self
    }

    pub(crate) fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.0.iter_mut().for_each(|(name, _)| *name = rename(name));
        self
    }

    /// Writes `model.safetensors`; `change` may alter values.
    pub(crate) fn write(&self, folder: &Path, change: impl Fn(&str, usize, f32) -> f32) {
        let bytes: Vec<Vec<u8>> = self
            .0
            .iter()
            .map(|(name, shape)| {
                let values = (0..shape.iter().product()).map(|i| change(name, i, self.value(name, i)));
                values.flat_map(f32::to_le_bytes).collect()
            })
            .collect();
        let views = self.0.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a view"))
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("written");
    }
}

/// A folder with a model; it vanishes when dropped.
pub(crate) struct Tiny {
    pub(crate) folder: tempfile::TempDir,
}

impl Tiny {
    pub(crate) fn new(tensors: &Tensors, config: Option<&Value>) -> Self {
        Self::changed(tensors, config, |_, _, value| value)
    }

    pub(crate) fn changed(tensors: &Tensors, config: Option<&Value>, change: impl Fn(&str, usize, f32) -> f32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        tensors.write(folder.path(), change);
        if let Some(config) = config {
            std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        }
        Tiny { folder }
    }

    pub(crate) fn source(&self) -> Source {
        Source::find(self.folder.path(), &Overrides::default()).expect("a source")
    }

    pub(crate) fn recipe(&self) -> Result<Recipe> {
        family::recognise(&Source::find(self.folder.path(), &Overrides::default())?)
    }

    /// All of one tensor.
    pub(crate) fn read(&self, role: Role, layer: u32) -> Vec<f32> {
        let source = self.source();
        let recipe = family::recognise(&source).unwrap_or_else(|error| panic!("{error}"));
        read(&source, &recipe, role, layer)
    }
}

/// All of one tensor.
pub(crate) fn read(source: &Source, recipe: &Recipe, role: Role, layer: u32) -> Vec<f32> {
    let tensor = recipe.tensors.iter().find(|t| t.spec.role == role && t.spec.layer == layer).expect("the tensor");
    let rows = tensor.spec.rows as usize;
    let mut out = vec![f32::NAN; rows * tensor.spec.cols as usize];
    recipe.read_rows(&source.checkpoint, tensor, 0..rows, &mut out).unwrap_or_else(|error| panic!("{error}"));
    out
}

/// The error of a tiny model, which must mention all of `words`.
pub(crate) fn refused(tensors: &Tensors, config: Option<&Value>, words: &[&str]) {
    let error = Tiny::new(tensors, config).recipe().expect_err(&format!("{words:?}")).to_string();
    mentions(&error, words);
}

pub(crate) fn mentions(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}
