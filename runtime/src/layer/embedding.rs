//! Both ends of the network: tokens to vectors, vectors to logits.
//!
//! The embedding is a row of the int8 matrix, dequantized; with tied weights the head multiplies by the same matrix
//! (Press and Wolf, 2017, arXiv:1608.05859).

use super::Chunk;
use super::linear::{Norm, Source, Target, copy};
use crate::arch::{CLASSIC, ENCODER, MAX_CONTEXT, MAX_FREQUENCY, Position, Role, SHAPING};
use crate::kernel::Write;
use crate::math;
use crate::matrix::Matrix;
use crate::workers::{Phase, Workers};

impl<'m, W: Workers + Sync> Chunk<'_, 'm, '_, W> {
    /// `x = TokenEmbedding[id] · scale (+ PositionEmbedding[p]) (+ TokenTypeEmbedding[type])`, normalised in some models, and
    /// the rotary angles of every position of the chunk. Without `token_types` all are 0.
    pub(super) fn embed(&mut self, ids: &[u32], token_types: &[u8]) {
        self.workers.enter(Phase::Embed);
        let arch = self.model.arch();
        let dim = self.widths.residual;
        let Some(tokens) = self.model.matrix(Role::TokenEmbedding, 0) else { return };
        for (x, &id) in self.scratch.residual.chunks_exact_mut(dim).zip(ids) {
            tokens.dequantize_row(id as usize, x);
            if arch.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= arch.embedding_scale);
            }
        }
        match arch.position {
            Position::Learned if CLASSIC => {
                let Some(positions) = self.model.matrix(Role::PositionEmbedding, 0) else { return };
                let first = self.position;
                self.add_rows(&positions, |t| first + t);
            }
            Position::Rope => {
                let vector = |role| self.model.vector(role, 0).unwrap_or(&[]);
                let own = SHAPING && arch.window_rope;
                let windowed = if own { vector(Role::WindowRopeFrequencies) } else { &[] };
                let frequencies = [vector(Role::RopeFrequencies), windowed];
                for (t, row) in self.scratch.rope.chunks_exact_mut(self.widths.rope).take(self.count).enumerate() {
                    for (row, frequencies) in row.chunks_exact_mut(arch.rotary_dim as usize).zip(frequencies) {
                        rotary_angles(self.position + t, frequencies, row);
                    }
                }
            }
            Position::Learned | Position::Alibi | Position::Relative => {}
        }
        if ENCODER {
            if let Some(types) = self.model.matrix(Role::TokenTypeEmbedding, 0) {
                self.add_rows(&types, |t| token_types.get(t).copied().unwrap_or(0) as usize);
            }
            if let Some(norm) = self.norm_of(Role::EmbeddingNorm, Role::EmbeddingNormBias) {
                self.norm(norm);
            }
        }
    }

    /// Adds row `row(t)` of the matrix to every token `t`.
    fn add_rows(&mut self, matrix: &Matrix<'_>, row: impl Fn(usize) -> usize) {
        let dim = self.widths.residual;
        let rows = self.scratch.residual.chunks_exact_mut(dim).zip(self.scratch.wide.chunks_exact_mut(dim));
        for (t, (x, values)) in rows.take(self.count).enumerate() {
            matrix.dequantize_row(row(t), values);
            for (x, value) in x.iter_mut().zip(values) {
                *x += *value;
            }
        }
    }

    /// A norm outside the layers, if the model has it.
    fn norm_of(&self, weight: Role, bias: Role) -> Option<Norm<'m>> {
        self.model.vector(weight, 0).map(|weight| (weight, self.model.vector(bias, 0)))
    }

    /// `x = norm(x)` behind the last layer, where that has a norm: what an encoder gives its users.
    #[cfg(feature = "encoder")]
    pub(crate) fn finish(&mut self) {
        if let Some(norm) = self.norm_of(Role::FinalNorm, Role::FinalNormBias) {
            self.norm(norm);
        }
    }

    /// `logits = Head · norm(x) (+ bias)`, capped if the model does, for the tokens `first..first + count` of the chunk, into
    /// the scratch's logits. An encoder's tokens are normalised already.
    pub(crate) fn logits(&mut self, first: usize, count: usize) {
        let arch = self.model.arch();
        let role = if arch.tied_head { Role::TokenEmbedding } else { Role::Head };
        let Some(head) = self.model.matrix(role, 0) else { return };
        let norm = self.norm_of(Role::FinalNorm, Role::FinalNormBias).filter(|_| !arch.is_encoder());
        self.prepare(Source::Residual, Phase::Norm, first, count, arch.dim as usize, &|backend, x, row| match norm {
            Some((weight, bias)) => backend.norm(arch.norm, arch.norm_eps, x, weight, bias, row),
            None => copy(x, row),
        });
        if ENCODER && arch.head_transform {
            self.transform(first, count);
        }
        self.linear(&head, self.model.vector(Role::HeadBias, 0), Write::Store, count, Target::Logits);
        if SHAPING && arch.logit_cap != 0.0 {
            let logits = self.scratch.logits.get_mut(..count * arch.vocab as usize).unwrap_or(&mut []);
            logits.iter_mut().for_each(|x| *x = math::cap(*x, arch.logit_cap));
        }
    }

    /// `norm(act(HeadTransform·x + b))` of the prepared tokens, prepared in their place.
    fn transform(&mut self, first: usize, count: usize) {
        let (arch, dim) = (self.model.arch(), self.widths.residual);
        let Some(matrix) = self.model.matrix(Role::HeadTransform, 0) else { return };
        let Some((weight, bias)) = self.norm_of(Role::HeadTransformNorm, Role::HeadTransformNormBias) else { return };
        let shift = self.model.vector(Role::HeadTransformBias, 0);
        self.linear(&matrix, shift, Write::Store, count, Target::Wide);
        self.prepare(Source::Residual, Phase::Head, first, count, dim, &|backend, _, row| {
            // Rows have room for both.
            let (x, room) = row.split_at_mut(dim.min(row.len()));
            backend.activate(arch.activation, false, dim, x);
            backend.norm(arch.norm, arch.norm_eps, x, weight, bias, room);
            copy(room, x);
        });
    }
}

/// Largest angle, in radians: no model has more positions, or a larger frequency.
const MAX_ANGLE: f32 = MAX_CONTEXT as f32 * MAX_FREQUENCY;

/// Cosines, then sines, of `position · frequency`. Sine and cosine are `libm`'s, in software on every target.
#[inline(never)]
fn rotary_angles(position: usize, frequencies: &[f32], row: &mut [f32]) {
    let (cos, sin) = row.split_at_mut(row.len() / 2);
    for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
        let angle = position as f32 * frequency;
        // Always so. Asked as `libm` asks, so that the compiler leaves out what only larger angles take.
        if angle.to_bits() & !(1 << 31) <= MAX_ANGLE.to_bits() {
            (*sin, *cos) = libm::sincosf(angle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_right_up_to_the_largest() {
        for (position, frequency) in [(0, 1.0), (1, 1.0), (77, 0.01), (MAX_CONTEXT, MAX_FREQUENCY), (1_048_575, -255.9)]
        {
            let mut row = [0.0; 2];
            rotary_angles(position as usize, &[frequency], &mut row);
            let (sin, cos) = libm::sincos(f64::from(position as f32 * frequency));
            let [cos_found, sin_found] = row.map(f64::from);
            assert!(
                (sin - sin_found).abs() < 1e-7 && (cos - cos_found).abs() < 1e-7,
                "{position} · {frequency}: {row:?}"
            );
        }
    }
}
