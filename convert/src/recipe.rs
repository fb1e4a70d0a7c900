//! What a family makes of a checkpoint: the architecture record, and for every tensor the record calls for, where its
//! numbers come from.
//!
//! A recipe reads no weights itself. [`Recipe::read_rows`] streams any rows of any tensor as f32, so the quantizer never
//! needs more than a slice of a tensor in memory, and the f32 reference can load whole ones.

use std::ops::Range;

use thumbformer::arch::{Arch, TensorSpec};

use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// A block of consecutive rows that comes from one tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The tensor's name in the checkpoint, as its file spells it.
    pub tensor: String,
    /// First of the used rows (outputs) in the source, after transposition.
    pub first_row: usize,
    /// How many rows this part gives.
    pub rows: usize,
    /// The source is stored `[in, out]` (GPT-2's Conv1D) and is read transposed.
    pub transposed: bool,
    /// RoPE pairs are stored interleaved (GPT-J, llama2.c): rows are reordered within each head so that pairs lie
    /// `rotary_dim/2` apart, as the runtime wants them.
    pub interleaved: Option<Interleaved>,
}

/// Rows of heads whose rotary pairs are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interleaved {
    /// Rows of a head.
    pub head_dim: usize,
    /// How many of them rotate.
    pub rotary_dim: usize,
}

/// Where a tensor's numbers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Rows of checkpoint tensors, concatenated.
    Parts(Vec<Part>),
    /// Computed from the configuration.
    Values(Vec<f32>),
}

/// A tensor of the record and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// What the record calls for.
    pub spec: TensorSpec,
    /// Where it comes from.
    pub source: Source,
}

/// A checkpoint, understood.
#[derive(Debug)]
pub struct Recipe {
    /// The family's name, for the summary: `llama`, `gpt2`, `nanogpt`.
    pub family: &'static str,
    /// The architecture.
    pub arch: Arch,
    /// All tensors, in the order of [`Arch::tensors`]. [`thumbformer::arch::Role::KeyMean`] is all zeros here; it is
    /// measured later.
    pub tensors: Vec<Tensor>,
    /// Things the user should know, one line each: what was assumed, what was ignored.
    pub notes: Vec<String>,
}

impl Recipe {
    /// Streams rows `rows` of `tensor` as f32 into `out`, which holds `rows.len() × cols` values, row-major.
    ///
    /// # Errors
    /// The file cannot be read, or holds a NaN or an infinity: the error names the tensor and the index.
    pub fn read_rows(
        &self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let cols = tensor.spec.cols as usize;
        match &tensor.source {
            Source::Values(values) => {
                let slice = values.get(rows.start * cols..rows.end * cols).filter(|s| s.len() == out.len());
                out.copy_from_slice(
                    slice.ok_or_else(|| Error::Usage("recipe: computed tensor has a wrong length".into()))?,
                );
                Ok(())
            }
            Source::Parts(parts) => {
                let mut part_start = 0;
                for part in parts {
                    let overlap = rows.start.max(part_start)..rows.end.min(part_start + part.rows);
                    if !overlap.is_empty() {
                        let to = (overlap.start - rows.start) * cols..(overlap.end - rows.start) * cols;
                        let from = overlap.start - part_start..overlap.end - part_start;
                        checkpoint.read_part(part, from, cols, &mut out[to])?;
                    }
                    part_start += part.rows;
                }
                Ok(())
            }
        }
    }
}
