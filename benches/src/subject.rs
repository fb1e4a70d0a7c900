//! What is measured: a ladder of generated LLaMA shapes, or a `.thumb` file; and what a token of it costs.

use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempPath;
use thumbformer::Model;
use thumbformer::arch::{Arch, Kind, Role};
use thumbformer::blob::placement;
use thumbformer::packing::Packing;
use thumbformer_convert::mapped;
use thumbformer_convert::pipeline::Options;
use thumbformer_convert::synthetic::{self, Synthetic};

/// Positions of the generated models: room for steps behind a prompt of 1024 tokens.
const CONTEXT: u32 = 2048;

/// A LLaMA shape of the ladder. The names count parameters as its publishers do.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Parameters, roughly.
    pub name: &'static str,
    dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    hidden: u32,
    vocab: u32,
}

/// The shapes in ascending order; the last one only if asked for. The first three are those of llama2.c's published
/// story tellers, the last one TinyLlama's.
pub const LADDER: [Shape; 4] = [
    Shape { name: "260K", dim: 64, layers: 5, heads: 8, kv_heads: 4, hidden: 172, vocab: 512 },
    Shape { name: "15M", dim: 288, layers: 6, heads: 6, kv_heads: 6, hidden: 768, vocab: 32_000 },
    Shape { name: "110M", dim: 768, layers: 12, heads: 12, kv_heads: 12, hidden: 2048, vocab: 32_000 },
    Shape { name: "1B", dim: 2048, layers: 22, heads: 32, kv_heads: 4, hidden: 5632, vocab: 32_000 },
];

impl Shape {
    /// The shape of that name in the ladder.
    pub fn named(name: &str) -> Option<Shape> {
        LADDER.into_iter().find(|s| s.name == name)
    }

    /// The architecture record.
    pub fn arch(&self) -> Arch {
        synthetic::llama(self.vocab, self.dim, self.layers, self.heads, self.kv_heads, self.hidden, CONTEXT)
    }
}

/// A model file, given or generated, and what to call it.
pub struct Subject {
    /// Name in tables.
    pub name: String,
    path: PathBuf,
    blob: Box<dyn Deref<Target = [u8]>>,
    /// Removes a generated file.
    _file: Option<TempPath>,
}

impl Subject {
    /// A model of that shape with random weights, the same on every machine.
    ///
    /// # Errors
    /// It cannot be written to the system's folder for temporary files.
    pub fn generate(shape: &Shape, packing: Packing) -> anyhow::Result<Self> {
        let mut file = tempfile::Builder::new().suffix(".thumb").tempfile()?;
        let blob = Synthetic { arch: shape.arch(), seed: 1 }.blob(packing)?;
        file.write_all(&blob).with_context(|| format!("cannot write {}", file.path().display()))?;
        let usual = Options::default().packing;
        let mut name = shape.name.to_owned();
        if packing.group != usual.group {
            name = format!("{name}/{}", group_name(packing.group));
        }
        if packing.layout != usual.layout {
            name = format!("{name}/{}", packing.layout.name());
        }
        let file = file.into_temp_path();
        let subject = Self::read(&file)?;
        Ok(Self { name, _file: Some(file), ..subject })
    }

    /// A `.thumb` file, mapped.
    ///
    /// # Errors
    /// It cannot be opened. Whether it is a model is for [`Model::new`] to say.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        // The message names its cause already; a chain would repeat it.
        let blob = mapped::open(path).map_err(|error| anyhow::anyhow!("{error}"))?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, path: path.to_owned(), blob: Box::new(blob), _file: None })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The checked model.
    ///
    /// # Errors
    /// The file is not a valid blob.
    pub fn model(&self) -> anyhow::Result<Model<'_>> {
        Model::new(&self.blob).with_context(|| format!("`{}` is not a model", self.name))
    }
}

/// A group as options and tables spell it.
pub fn group_name(group: u32) -> String {
    if group == 0 { "row".to_owned() } else { group.to_string() }
}

/// What the tokens of a model cost, whoever computes them.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes of weights, scales and vectors that every token must read.
    pub weight_bytes: u64,
    /// Bytes of keys, values and their scales that a token reads for each earlier position.
    pub position_bytes: u64,
    /// int8 multiply-adds of each token's matrix products, without the head.
    pub token_macs: u64,
    /// int8 multiply-adds of the head.
    pub head_macs: u64,
    /// int8 multiply-adds of attention for each query and visible position.
    pub position_macs: u64,
}

impl Cost {
    /// The cost of a model.
    pub fn of(model: &Model<'_>) -> Self {
        let arch = model.arch();
        let header = model.header();
        let head = if arch.tied_head { Role::TokenEmbedding } else { Role::Head };
        let mut cost = Self {
            weight_bytes: 0,
            position_bytes: u64::from(arch.layers) * (2 * u64::from(arch.kv_width()) + 8 * u64::from(arch.kv_heads)),
            token_macs: 0,
            head_macs: 0,
            position_macs: 2 * u64::from(arch.layers) * u64::from(arch.q_width()),
        };
        for placed in placement(arch, header.packing, header.tokenizer_len) {
            let spec = placed.spec;
            let macs = u64::from(spec.rows) * u64::from(spec.cols);
            match (spec.kind, spec.role) {
                (Kind::Matrix, role) if role == head => cost.head_macs = macs,
                // Embeddings are looked up, a row a token.
                (_, Role::TokenEmbedding | Role::PositionEmbedding) => continue,
                (Kind::Matrix, _) => cost.token_macs += macs,
                (Kind::Vector, _) => {}
            }
            cost.weight_bytes += placed.len + placed.scales_len;
        }
        cost
    }

    /// Bytes that a step at `position` reads.
    pub fn step_bytes(&self, position: u64) -> u64 {
        self.weight_bytes + position * self.position_bytes
    }

    /// Multiply-adds of a prompt of `tokens` tokens from position 0, with the logits of the last one.
    pub fn prompt_macs(&self, tokens: u64) -> u64 {
        tokens * self.token_macs + self.head_macs + tokens * (tokens + 1) / 2 * self.position_macs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thumbformer::packing::Layout;

    #[test]
    fn costs_count_each_weight_once() {
        let shape = LADDER[0];
        let subject = Subject::generate(&shape, Packing { layout: Layout::Rows8, group: 0 }).unwrap();
        let cost = Cost::of(&subject.model().unwrap());
        // 5 layers of qkv 128×64, out 64×64, gate and up 344×64, down 64×172; the tied head 512×64.
        assert_eq!(cost.token_macs, 5 * (128 * 64 + 64 * 64 + 344 * 64 + 64 * 172));
        assert_eq!(cost.head_macs, 512 * 64);
        // A byte a weight, two bytes a row's scale, f32 norms, key means and frequencies; all rows are multiples of 8.
        let scales = 2 * (5 * (128 + 64 + 344 + 64) + 512);
        let vectors = 4 * (5 * (64 + 64 + 32) + 64 + 4);
        assert_eq!(cost.weight_bytes, cost.token_macs + cost.head_macs + scales + vectors);
        assert_eq!(cost.position_bytes, 5 * 4 * (2 * 8 + 8));
        assert_eq!(cost.prompt_macs(2), 2 * cost.token_macs + cost.head_macs + 3 * 5 * 2 * 64);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Subject::read(Path::new("no/such.thumb")).err().unwrap();
        assert!(format!("{error:#}").contains("no/such.thumb"));
    }
}
