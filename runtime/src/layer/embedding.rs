//! Both ends of the network: tokens to vectors, vectors to logits.
//!
//! The embedding is a row of the int8 matrix, dequantized; with tied weights the head multiplies by the same matrix
//! (Press and Wolf, 2017, arXiv:1608.05859).

use super::Chunk;
use super::linear::{Source, Target};
use crate::arch::{Position, Role};
use crate::kernel::Write;
use crate::math;
use crate::workers::{Phase, Workers};

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    /// `x = TokenEmbedding[id] · scale (+ PositionEmbedding[p])`, and the rotary angles of every position of the chunk.
    pub(super) fn embed(&mut self, ids: &[u32]) {
        self.workers.enter(Phase::Embed);
        let arch = *self.arch();
        let dim = self.widths.residual;
        let Some(tokens) = self.model.matrix(Role::TokenEmbedding, 0) else { return };
        for (x, &id) in self.scratch.residual.chunks_exact_mut(dim).zip(ids) {
            tokens.dequantize_row(id as usize, x);
            if arch.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= arch.embedding_scale);
            }
        }
        match arch.position {
            Position::Learned => {
                let Some(positions) = self.model.matrix(Role::PositionEmbedding, 0) else { return };
                let rows = self.scratch.residual.chunks_exact_mut(dim).zip(self.scratch.wide.chunks_exact_mut(dim));
                for (t, (x, row)) in rows.take(self.count).enumerate() {
                    positions.dequantize_row(self.position + t, row);
                    for (x, p) in x.iter_mut().zip(row) {
                        *x += *p;
                    }
                }
            }
            Position::Rope => {
                let roles = [Role::RopeFrequencies, Role::WindowRopeFrequencies];
                let frequencies = roles.map(|role| self.model.vector(role, 0).unwrap_or(&[]));
                for (t, row) in self.scratch.rope.chunks_exact_mut(self.widths.rope).take(self.count).enumerate() {
                    for (row, frequencies) in row.chunks_exact_mut(arch.rotary_dim as usize).zip(frequencies) {
                        rotary_angles(self.position + t, frequencies, row);
                    }
                }
            }
            Position::Alibi => {}
        }
    }

    /// `logits = Head · norm(x) (+ bias)`, capped if the model does, for the tokens `first..first + count` of the chunk, into the scratch's logits.
    pub(crate) fn logits(&mut self, first: usize, count: usize) {
        let arch = *self.arch();
        let role = if arch.tied_head { Role::TokenEmbedding } else { Role::Head };
        let (Some(head), Some(weight)) = (self.model.matrix(role, 0), self.model.vector(Role::FinalNorm, 0)) else {
            return;
        };
        let bias = self.model.vector(Role::FinalNormBias, 0);
        self.prepare(Source::Residual, Phase::Norm, first, count, arch.dim as usize, &|backend, x, row| {
            backend.norm(arch.norm, arch.norm_eps, x, weight, bias, row);
        });
        self.linear(&head, self.model.vector(Role::HeadBias, 0), Write::Store, count, Target::Logits);
        if cfg!(feature = "shaping") && arch.logit_cap != 0.0 {
            let logits = self.scratch.logits.get_mut(..count * arch.vocab as usize).unwrap_or(&mut []);
            logits.iter_mut().for_each(|x| *x = math::cap(*x, arch.logit_cap));
        }
    }
}

/// Cosines, then sines, of `position · frequency`. Sine and cosine are `libm`'s, in software on every target.
fn rotary_angles(position: usize, frequencies: &[f32], row: &mut [f32]) {
    let (cos, sin) = row.split_at_mut(row.len() / 2);
    for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
        (*sin, *cos) = libm::sincosf(position as f32 * frequency);
    }
}
