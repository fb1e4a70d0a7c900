//! What a family makes of a checkpoint: the architecture record, and for every tensor the record calls for, where its
//! numbers come from.
//!
//! A recipe reads no weights itself. [`Recipe::read_rows`] streams any rows of any tensor as f32, so the quantizer never
//! needs more than a slice of a tensor in memory, and the f32 reference can load whole ones.

use std::ops::Range;

use thumbformer::arch::{Arch, Kind, Role, TensorSpec};

use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// A block of consecutive rows that comes from one tensor of the checkpoint. A vector is made of parts as a column is:
/// each element is a row.
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
    /// Factor of every value, usually 1. Some GPT-2s divide a layer's attention scores by its number: their queries are
    /// scaled instead.
    pub scale: f32,
    /// Each row is divided by its Euclidean length (Baichuan 2's head), before `scale`.
    pub unit_rows: bool,
    /// Added to every value, after `scale`: Gemma stores the weights of its norms minus one.
    pub offset: f32,
    /// A matrix that every row `r` is multiplied by, after all that: the row becomes `M·r`. `M` has as many rows as the
    /// tensor that is made has columns. OPT-350m projects its embedding so.
    pub factor: Option<Box<Part>>,
}

impl Part {
    /// All `rows` rows of `tensor`, as they are stored.
    pub fn whole(tensor: impl Into<String>, rows: usize) -> Self {
        Part {
            tensor: tensor.into(),
            first_row: 0,
            rows,
            transposed: false,
            interleaved: None,
            scale: 1.0,
            unit_rows: false,
            offset: 0.0,
            factor: None,
        }
    }
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
    /// The same, where it depends on the context that the model is given (LongRoPE).
    ByContext {
        /// Most positions of a context that uses `up_to`.
        positions: u32,
        /// Values of a short context.
        up_to: Vec<f32>,
        /// Values of a longer one.
        beyond: Vec<f32>,
    },
}

/// A logit that never wins, and still is a number.
const SUPPRESSED: f32 = -1e9;

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
    /// The family's name, for the summary: `llama`, `nanogpt`, ….
    pub family: &'static str,
    /// The architecture.
    pub arch: Arch,
    /// All tensors, in the order of [`Arch::tensors`]. [`thumbformer::arch::Role::KeyMean`] is all zeros here; it is
    /// measured later.
    pub tensors: Vec<Tensor>,
    /// The encoder of an encoder-decoder, whose decoder this is.
    pub source: Option<Box<Recipe>>,
    /// Things the user should know, one line each: what was assumed, what was ignored.
    pub notes: Vec<String>,
}

impl Recipe {
    /// Trained parameters, of both stacks if there are two.
    pub fn parameters(&self) -> u64 {
        self.arch.parameters() + self.source.as_ref().map_or(0, |source| source.parameters())
    }

    /// Keeps tokens from ever being likely, where the logits have biases: tells whether they have.
    pub fn suppress(&mut self, ids: &[u32]) -> bool {
        let bias = self.tensors.iter_mut().find(|tensor| tensor.spec.role == Role::HeadBias);
        let Some(Tensor { source: Source::Parts(parts), .. }) = bias else { return false };
        for &id in ids {
            let mut start = 0;
            let mut split = Vec::new();
            for part in parts.drain(..) {
                let rows = part.rows;
                match (id as usize).checked_sub(start).filter(|&at| at < rows) {
                    None => split.push(part),
                    Some(at) => {
                        let row = |first: usize, rows: usize| Part {
                            first_row: part.first_row + first,
                            rows,
                            ..part.clone()
                        };
                        let suppressed = Part { scale: 0.0, offset: SUPPRESSED, ..row(at, 1) };
                        split.extend([row(0, at), suppressed, row(at + 1, rows - at - 1)]);
                    }
                }
                start += rows;
            }
            split.retain(|part| part.rows > 0);
            *parts = split;
        }
        true
    }

    /// Keeps the first `context` positions only: a shorter cache, and fewer learned positions. An encoder keeps as many, if
    /// it has more.
    ///
    /// # Errors
    /// The model has fewer, or `context` is 0.
    pub fn limit_context(&mut self, context: u32) -> Result<()> {
        let trained = self.arch.context;
        if context == 0 || context > trained {
            return Err(Error::Usage(format!("--context {context}: expected 1 to {trained}, the model's own context")));
        }
        self.arch.context = context;
        if let Some(source) = &mut self.source {
            source.limit_context(context.min(source.arch.context))?;
        }
        for tensor in &mut self.tensors {
            if tensor.spec.role == Role::PositionEmbedding {
                tensor.spec.rows = context;
                if let Source::Parts(parts) = &mut tensor.source {
                    let mut left = context as usize;
                    for part in parts {
                        part.rows = part.rows.min(left);
                        left -= part.rows;
                    }
                }
            }
        }
        Ok(())
    }

    /// Streams rows `rows` of `tensor` as f32 into `out`, which holds `rows.len() × cols` values, row-major.
    ///
    /// # Errors
    /// A NaN or an infinity: the error names the file, the tensor and the index. Rows that the tensor does not have, or
    /// an `out` that does not fit them.
    pub fn read_rows(
        &self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let cols = tensor.spec.cols as usize;
        let (wanted, len) = (rows.clone(), out.len());
        let wrong = || Error::Usage(format!("rows {wanted:?} of {:?} do not fill {len} values", tensor.spec));
        let elements = rows.start.checked_mul(cols).zip(rows.end.checked_mul(cols));
        let elements = elements.map(|(start, end)| start..end).filter(|e| e.len() == out.len()).ok_or_else(wrong)?;
        let mut copy = |values: &[f32]| {
            out.copy_from_slice(values.get(elements.clone()).ok_or_else(wrong)?);
            Ok(())
        };
        match &tensor.source {
            Source::Values(values) => copy(values),
            Source::ByContext { positions, up_to, .. } if self.arch.context <= *positions => copy(up_to),
            Source::ByContext { beyond, .. } => copy(beyond),
            Source::Parts(parts) => {
                // A vector's elements are its parts' rows.
                let (rows, cols) = match tensor.spec.kind {
                    Kind::Matrix => (rows, cols),
                    Kind::Vector => (elements, 1),
                };
                let (mut part_start, mut rest) = (0, out);
                for part in parts {
                    let part_end = part_start + part.rows;
                    let from = rows.start.max(part_start)..rows.end.min(part_end);
                    if !from.is_empty() {
                        let (to, after) = rest.split_at_mut_checked(from.len() * cols).ok_or_else(wrong)?;
                        checkpoint.read_part(part, from.start - part_start..from.end - part_start, cols, to)?;
                        rest = after;
                    }
                    part_start = part_end;
                }
                if rest.is_empty() { Ok(()) } else { Err(wrong()) }
            }
        }
    }
}
