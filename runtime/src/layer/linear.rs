//! Quantize, then multiply: how every matrix of the network is applied.

use super::Chunk;
use crate::arch::{self, SHAPING};
use crate::kernel::{Activations, Backend, TileMut, Write};
use crate::matrix::Matrix;
use crate::packing::round_up;
use crate::workers::{Phase, Workers, for_each, share};

/// Where a product goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Residual,
    Wide,
    Logits,
}

/// Where a row is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The residual stream as it is.
    Residual,
    /// The layer's input, of a parallel layer.
    Input,
}

/// A norm's weights and shift.
pub(super) type Norm<'a> = (&'a [f32], Option<&'a [f32]>);

/// Row blocks are handed out in multiples of this many rows, so that kernels can pair blocks.
const ROWS: usize = 16;

/// Fills a token's wide row; see [`Chunk::prepare`].
pub(super) type Make<'f> = &'f (dyn Fn(Backend, &[f32], &mut [f32]) + Sync);
/// Source rows of some tokens, their wide rows, and where they are quantized to.
type Rows<'a> = (&'a [f32], (&'a mut [f32], &'a mut [i8]));
/// Scales and starts of the same tokens' groups.
type Groups<'a> = (&'a mut [f32], &'a mut [i32]);

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    /// For the tokens `first..first + count`: calls `make(x, row)` to fill the token's wide row (`x` is its `source`),
    /// which is phase `making`; then quantizes the first `cols` values of the row as the input of the next product.
    pub(super) fn prepare(
        &mut self,
        source: Source,
        making: Phase,
        first: usize,
        count: usize,
        cols: usize,
        make: Make<'_>,
    ) {
        let (backend, workers) = (self.backend, self.workers);
        let packing = self.model.header().packing;
        let (group, groups, stride) =
            (packing.group_cols(cols), packing.groups(cols), packing.layout.vector_bytes(cols));
        let (dim, wide) = (self.widths.residual, self.widths.wide);
        let scratch = &mut *self.scratch;
        let source = match source {
            Source::Residual => &*scratch.residual,
            Source::Input => &*scratch.input,
        };
        let source = source.get(first * dim..(first + count) * dim).unwrap_or(&[]);
        let run = |((x, (rows, q)), (scales, starts)): (Rows<'_>, Groups<'_>)| {
            let rows = x.chunks_exact(dim).zip(rows.chunks_exact_mut(wide)).zip(q.chunks_exact_mut(stride));
            let scales = scales.chunks_exact_mut(groups).zip(starts.chunks_exact_mut(groups));
            for (((x, row), q), (scales, starts)) in rows.zip(scales) {
                workers.enter(making);
                make(backend, x, row);
                workers.enter(Phase::Quantize);
                backend.quantize(packing.layout, row.get(..cols).unwrap_or(&[]), group, q, scales, starts);
            }
        };
        if W::SERIAL {
            return run(((source, (scratch.wide, scratch.quantized)), (scratch.scales, scratch.starts)));
        }
        let tokens = share(workers, count);
        let rows = scratch.wide.chunks_mut(tokens * wide).zip(scratch.quantized.chunks_mut(tokens * stride));
        let scales = scratch.scales.chunks_mut(tokens * groups).zip(scratch.starts.chunks_mut(tokens * groups));
        for_each(workers, source.chunks(tokens * dim).zip(rows).zip(scales), run);
    }

    /// Adds `W·x + b`, or the norm of that, to the residual stream of all prepared tokens.
    pub(super) fn add(&mut self, m: &Matrix<'_>, bias: Option<&[f32]>, norm: Option<&[f32]>) {
        let Some(weight) = norm.filter(|_| SHAPING) else {
            return self.linear(m, bias, Write::Add, self.count, Target::Residual);
        };
        self.linear(m, bias, Write::Store, self.count, Target::Wide);
        let (backend, workers, eps) = (self.backend, self.workers, self.arch().norm_eps);
        let (dim, wide) = (self.widths.residual, self.widths.wide);
        let scratch = &mut *self.scratch;
        let tokens = share(workers, self.count);
        let residual = scratch.residual.get_mut(..self.count * dim).unwrap_or(&mut []);
        let parts = residual.chunks_mut(tokens * dim).zip(scratch.wide.chunks_mut(tokens * wide));
        for_each(workers, parts, |(residual, rows)| {
            workers.enter(Phase::Norm);
            for (x, row) in residual.chunks_exact_mut(dim).zip(rows.chunks_exact_mut(wide)) {
                let row = row.get_mut(..dim).unwrap_or(&mut []);
                backend.norm_heads(arch::Norm::Rms, eps, row, dim, weight, None);
                x.iter_mut().zip(row).for_each(|(x, y)| *x += *y);
            }
        });
    }

    /// A sublayer's input: `source`, normalised unless the model norms behind sublayers. Some models keep what they
    /// normalise as their residual stream.
    pub(super) fn input(&mut self, source: Source, (weight, bias): Norm<'_>) {
        let arch = self.model.arch();
        let as_it_is = arch.norms_behind() || arch.norms_residual();
        if arch.norms_residual() {
            self.norm((weight, bias));
        }
        self.prepare(source, Phase::Norm, 0, self.count, arch.dim as usize, &|backend, x, row| {
            if as_it_is {
                copy(x, row);
            } else {
                backend.norm(arch.norm, arch.norm_eps, x, weight, bias, row);
            }
        });
    }

    /// `x = norm(x)` for all tokens.
    pub(super) fn norm(&mut self, (weight, bias): Norm<'_>) {
        let (arch, backend, workers, count) = (self.model.arch(), self.backend, self.workers, self.count);
        let (dim, wide) = (self.widths.residual, self.widths.wide);
        let tokens = share(workers, count);
        let residual = self.scratch.residual.get_mut(..count * dim).unwrap_or(&mut []);
        let parts = residual.chunks_mut(tokens * dim).zip(self.scratch.wide.chunks_mut(tokens * wide));
        for_each(workers, parts, |(residual, rows)| {
            workers.enter(Phase::Norm);
            for (x, row) in residual.chunks_exact_mut(dim).zip(rows.chunks_exact_mut(wide)) {
                backend.norm(arch.norm, arch.norm_eps, x, weight, bias, row);
                copy(row, x);
            }
        });
    }

    /// `y = W·x + b` for the first `count` prepared tokens.
    ///
    /// Few tokens are split between workers by rows of the matrix, so that each weight is read once; many are split by
    /// tokens, so that each worker keeps its activations in its own cache.
    pub(super) fn linear(&mut self, m: &Matrix<'_>, bias: Option<&[f32]>, write: Write, count: usize, target: Target) {
        let (backend, workers) = (self.backend, self.workers);
        let groups = m.packing().groups(m.cols());
        let stride = m.packing().layout.vector_bytes(m.cols());
        let scratch = &mut *self.scratch;
        let x = Activations {
            values: scratch.quantized.get(..count * stride).unwrap_or(&[]),
            stride,
            scales: scratch.scales.get(..count * groups).unwrap_or(&[]),
            starts: scratch.starts.get(..count * groups).unwrap_or(&[]),
            groups,
        };
        let (out, width, phase) = match target {
            Target::Residual => (&mut *scratch.residual, self.widths.residual, Phase::Linear),
            Target::Wide => (&mut *scratch.wide, self.widths.wide, Phase::Linear),
            Target::Logits => (&mut *scratch.logits, m.rows(), Phase::Head),
        };
        workers.enter(phase);
        let out = out.get_mut(..count * width).unwrap_or(&mut []);
        if W::SERIAL {
            backend.linear(m, 0, &x, bias, write, TileMut::new(out, m.rows(), width));
        } else if count < workers.count().saturating_mul(8) {
            let share = round_up(share(workers, m.rows()), ROWS);
            let mut rest = TileMut::new(out, m.rows(), width);
            let mut first_row = 0;
            let parts = core::iter::from_fn(|| {
                let (part, right) = core::mem::replace(&mut rest, TileMut::new(&mut [], 0, 0)).split_at(share);
                rest = right;
                let part = (part.cols() > 0).then_some((first_row, part));
                first_row += share;
                part
            });
            for_each(workers, parts, |(first_row, out)| backend.linear(m, first_row, &x, bias, write, out));
        } else {
            let tokens = share(workers, count);
            for_each(workers, out.chunks_mut(tokens * width).enumerate(), |(i, out)| {
                let x = x.tokens(i * tokens, out.len() / width);
                backend.linear(m, 0, &x, bias, write, TileMut::new(out, m.rows(), width));
            });
        }
    }
}

/// As much of `from` as `to` has room for.
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}
