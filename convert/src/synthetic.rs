//! Models of any shape with random weights, for benchmarks and tests: fast to make, the same on every machine.

use std::ops::Range;

use thumbformer::arch::{Activation, Arch, Biases, Kind, Norm, Position, Role, TensorSpec};
use thumbformer::blob::header::{Pooling, SpecialTokens};
use thumbformer::packing::Packing;

use crate::memory::AlignedBytes;
use crate::random::SplitMix64;
use crate::writer::{Plan, Weights};
use crate::{Error, Result};

/// Random weights for an architecture, a function of the seed alone.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// The shape.
    pub arch: Arch,
    /// Another seed, other weights.
    pub seed: u64,
}

/// A LLaMA: RMSNorm, RoPE, gated SiLU, no biases.
pub fn llama(vocab: u32, dim: u32, layers: u32, heads: u32, kv_heads: u32, hidden: u32, context: u32) -> Arch {
    let head_dim = dim / heads;
    Arch {
        vocab,
        dim,
        layers,
        heads,
        kv_heads,
        head_dim,
        hidden,
        context,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        position: Position::Rope,
        rotary_dim: head_dim / 2 * 2,
        activation: Activation::Silu,
        gated: true,
        biases: Biases::default(),
        tied_head: true,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        ..Arch::PLAIN
    }
}

/// A GPT-2: LayerNorm, learned positions, plain GELU, biases everywhere.
pub fn gpt2(vocab: u32, dim: u32, layers: u32, heads: u32, context: u32) -> Arch {
    Arch {
        norm: Norm::Layer,
        position: Position::Learned,
        rotary_dim: 0,
        activation: Activation::GeluTanh,
        gated: false,
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false },
        ..llama(vocab, dim, layers, heads, heads, 4 * dim, context)
    }
}

impl Synthetic {
    /// The finished blob, in memory, without a tokenizer.
    ///
    /// # Errors
    /// An architecture that breaks its rules.
    pub fn blob(&self, packing: Packing) -> Result<AlignedBytes> {
        let special = SpecialTokens::new(None, &[]).ok_or_else(|| Error::Usage("too many end tokens".into()))?;
        let plan = Plan { arch: self.arch, packing, special, pooling: Pooling::Mean, tokenizer: &[], source: None };
        crate::pipeline::in_memory(&plan, self).map(|(blob, _)| blob)
    }
}

/// The same for an encoder-decoder.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticPair {
    /// The decoder.
    pub decoder: Synthetic,
    /// Its encoder.
    pub encoder: Synthetic,
}

impl SyntheticPair {
    /// The finished blob, in memory, without a tokenizer.
    ///
    /// # Errors
    /// An architecture that breaks its rules.
    pub fn blob(&self, packing: Packing) -> Result<AlignedBytes> {
        let plan = |arch, source| Plan {
            arch,
            packing,
            special: SpecialTokens::NONE,
            pooling: Pooling::Mean,
            tokenizer: &[],
            source,
        };
        let plan = plan(self.decoder.arch, Some(Box::new(plan(self.encoder.arch, None))));
        crate::pipeline::in_memory(&plan, self).map(|(blob, _)| blob)
    }
}

impl Weights for SyntheticPair {
    fn arch(&self) -> &Arch {
        &self.decoder.arch
    }

    fn read_rows(&self, tensor: &TensorSpec, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.decoder.read_rows(tensor, rows, out)
    }

    fn source(&self) -> Option<&dyn Weights> {
        Some(&self.encoder)
    }
}

impl Weights for Synthetic {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read_rows(&self, tensor: &TensorSpec, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let cols = tensor.cols as usize;
        let spread = match (tensor.role, tensor.kind) {
            (Role::RopeFrequencies, _) => {
                for (i, f) in out.iter_mut().enumerate() {
                    *f = 10_000f32.powf(-2.0 * i as f32 / self.arch.rotary_dim as f32);
                }
                return Ok(());
            }
            (Role::WindowRopeFrequencies, _) => {
                for (i, f) in out.iter_mut().enumerate() {
                    *f = 1_000f32.powf(-2.0 * i as f32 / self.arch.rotary_dim as f32);
                }
                return Ok(());
            }
            (Role::AlibiSlopes, _) => {
                for (i, slope) in out.iter_mut().enumerate() {
                    *slope = (-8.0 * (i + 1) as f32 / self.arch.heads as f32).exp2();
                }
                return Ok(());
            }
            (Role::RelativeBias, _) => 1.5,
            (_, Kind::Matrix) => 1.7 / (cols as f32).sqrt(),
            (_, Kind::Vector) => 0.1,
        };
        let centre = match tensor.role {
            role if role.is_norm() => 1.0,
            _ => 0.0,
        };
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            let name = (u64::from(tensor.layer) << 16 | tensor.role as u64) << 32 | row as u64;
            let mut random = SplitMix64(self.seed ^ name.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            for x in out {
                // The sum of two uniform numbers.
                let bits = random.next_u64();
                let (a, b) = ((bits >> 32) as i32 as f32, bits as i32 as f32);
                *x = centre + (a + b) / (1u64 << 31) as f32 * spread;
            }
        }
        Ok(())
    }
}
