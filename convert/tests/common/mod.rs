//! The committed fixtures, as tests read them.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
use thumbformer::tokenizer::EncodeOptions;
use thumbformer_convert::family;
use thumbformer_convert::recipe::Recipe;
use thumbformer_convert::source::{Overrides, Source};
use thumbformer_convert::tokenizer;

/// A path below the repository's root.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("convert/ lies in the repository").join(path)
}

/// The folder of a tiny model.
pub fn model(name: &str) -> PathBuf {
    repository("tests/fixtures/models").join(name)
}

/// The names of all tiny models.
pub fn models() -> Vec<String> {
    let folder = repository("tests/fixtures/models");
    let entries = folder.read_dir().expect("fixtures").map(|entry| entry.expect("fixtures"));
    let models = entries.filter(|entry| entry.path().join("expected.json").is_file());
    let mut names: Vec<String> = models.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 23, "only {names:?}");
    names
}

/// A Marian in `folder` whose sources and answers have ids of their own for the pieces of some text.
pub fn marian_of_two_vocabularies(folder: &Path, text: &str) {
    let model = model("marian-two-vocabularies");
    for file in ["model.safetensors", "config.json", "generation_config.json"] {
        std::fs::copy(model.join(file), folder.join(file)).expect("copied");
    }
    let spm = repository("tests/fixtures/tokenizers/unigram/tokenizer.model");
    let packed = tokenizer::load(&spm).expect("a good model");
    let library = packed.tokenizer().expect("a good section");
    let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let ids = tokenizer::encode(&library, text, bare).expect("a text");
    for (side, vocab, first) in [("source.spm", "vocab.json", 20), ("target.spm", "target_vocab.json", 70)] {
        std::fs::copy(&spm, folder.join(side)).expect("copied");
        let mut names = serde_json::Map::new();
        for (name, id) in [("</s>", 0), ("<unk>", 1), ("<pad>", 79)] {
            names.insert(name.into(), id.into());
        }
        for (id, &piece) in (first..).zip(&ids) {
            let name = String::from_utf8_lossy(library.token_bytes(piece)).replace(' ', "\u{2581}");
            names.insert(name, id.into());
        }
        std::fs::write(folder.join(vocab), serde_json::Value::from(names).to_string()).expect("written");
    }
}

/// An encoder of the tests in `folder`, with a vocabulary of its size: BERT's special tokens, letters inside and at the
/// beginning of words, and a few words.
pub fn encoder_with_vocabulary(name: &str, folder: &Path) {
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        let (from, to) = (model(name).join(file), folder.join(file));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        if from.is_file() {
            std::fs::copy(from, to).expect("copied");
        }
    }
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "paris", "is", "the", "capital", "of"];
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let mut tokens: Vec<String> = words.iter().map(|&word| word.to_owned()).chain(letters).collect();
    tokens.extend((tokens.len()..96).map(|i| format!("word{i}")));
    std::fs::write(folder.join("vocab.txt"), tokens.join("\n") + "\n").expect("written");
}

/// The folder of a model beside the repository that is not part of it, or `None` with a message nobody can miss.
pub fn outside(name: &str) -> Option<PathBuf> {
    let folder = repository("../shared/models").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    // Written past the test harness, which swallows what `eprintln!` says in tests that pass.
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED: {name} is not at {}\n", folder.display());
    None
}

pub fn open(path: &Path, config: Option<PathBuf>) -> (Source, Recipe) {
    let source = Source::find(path, &Overrides { config, ..Overrides::default() }).expect("a good checkpoint");
    let recipe = family::recognise(&source).expect("a known family");
    (source, recipe)
}

/// `expected.json` or `expected_int8_*.json` of a tiny model.
#[derive(Deserialize)]
pub struct Expected {
    pub vocab: usize,
    /// Values of a token's vector, where these are expected because the model has no logits.
    #[serde(default)]
    pub hidden: usize,
    #[serde(default)]
    pub context: usize,
    #[serde(default)]
    pub parameters: u64,
    /// Columns of a quantization group; 0 for whole rows.
    #[serde(default)]
    pub group: usize,
    /// `layers × kv_heads·head_dim`
    #[serde(default, deserialize_with = "floats")]
    pub key_mean: Vec<f32>,
    pub sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
pub struct Sequence {
    /// Of an encoder-decoder: what `ids` answer.
    #[serde(default)]
    pub source: Vec<u32>,
    pub ids: Vec<u32>,
    /// Of an encoder that has several.
    #[serde(default)]
    pub token_types: Vec<u8>,
    pub positions: Vec<usize>,
    /// `positions × vocab`, or `positions × hidden`
    #[serde(deserialize_with = "floats")]
    pub logits: Vec<f32>,
}

impl Expected {
    pub fn read(name: &str, file: &str) -> Self {
        let path = model(name).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let expected: Self = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(!expected.sequences.is_empty());
        for sequence in &expected.sequences {
            assert_eq!(sequence.logits.len(), sequence.positions.len() * expected.width());
        }
        expected
    }
}

impl Expected {
    /// Values of a position.
    pub fn width(&self) -> usize {
        if self.hidden > 0 { self.hidden } else { self.vocab }
    }
}

impl Sequence {
    /// The expected logits of a position, if they were kept.
    pub fn at(&self, position: usize) -> Option<&[f32]> {
        let index = self.positions.iter().position(|p| *p == position)?;
        self.logits.chunks(self.logits.len() / self.positions.len()).nth(index)
    }
}

/// Base64 of little-endian f32.
fn floats<'de, D: serde::Deserializer<'de>>(text: D) -> Result<Vec<f32>, D::Error> {
    let text = String::deserialize(text)?;
    let bytes = base64::prelude::BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)?;
    Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The largest difference, relative to the largest expected logit; infinite where one is NaN.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0f32, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) }) / largest
}
