//! The loops around the int8 products, written once for all instruction sets.
//!
//! Every function here is `inline(always)` and generic over the [`Kernel`], so that each instruction set gets its own
//! copy, compiled with its vector width. The order of float operations is fixed here and in [`crate::math`].

use super::portable::{dot, sums};
use super::{Activations, Query, TileMut, Write};
use crate::arch::{Activation, Norm};
use crate::cache::{HeadCache, TILE};
use crate::math;
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD, round_up};

/// One block of interleaved rows of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Its quads, all columns.
    pub words: &'a [u8],
    /// f16 bits of its scales, `[group][row]`.
    pub scales: &'a [u16],
    /// Quads of every group but perhaps the last.
    pub group_quads: usize,
}

/// One token's quantized vector.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    /// As many values as the block has columns, rounded up to quads.
    pub values: &'a [i8],
    /// A scale for each group.
    pub scales: &'a [f32],
    /// The sum of each group's values.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for kernels with unsigned operands"))]
    pub sums: &'a [i32],
}

#[cfg(target_arch = "x86_64")]
impl Block<'_> {
    /// How many quads of this block of `rows` rows every slice of it and of `x` holds: what a kernel may read unchecked.
    #[inline(always)]
    pub(super) fn quads<const T: usize>(&self, rows: usize, x: &[Token<'_>; T]) -> usize {
        let mut quads = self.words.len() / (rows * QUAD);
        let mut groups = self.scales.len() / rows;
        for x in x {
            quads = quads.min(x.values.len() / QUAD);
            groups = groups.min(x.scales.len()).min(x.sums.len());
        }
        quads.min(groups.saturating_mul(self.group_quads))
    }
}

/// The int8 products of one instruction set.
pub(super) trait Kernel: Copy {
    /// Eight tokens at a time fit the registers; four otherwise.
    const EIGHT_TOKENS: bool = false;

    /// The contract's sum over groups for 8 rows and `T` tokens.
    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T];

    /// The same for two blocks; a chance to use wider registers.
    #[inline(always)]
    fn rows16<const T: usize>(self, blocks: [Block<'_>; 2], x: [Token<'_>; T]) -> [[[f32; 8]; T]; 2] {
        blocks.map(|block| self.rows8(block, x))
    }

    /// Dot products of 8 interleaved rows with `x`, whose sum is `sum`.
    fn dot8(self, words: &[u8], x: &[i8], sum: i32) -> [i32; 8];

    /// The same where no element of `x` is negative, as with probabilities: unsigned operands need no tricks.
    #[inline(always)]
    fn dot8_unsigned(self, words: &[u8], x: &[i8]) -> [i32; 8] {
        self.dot8(words, x, x.iter().map(|&x| i32::from(x)).sum())
    }

    /// [`math::quantize`] for one group: its scale, and the sum of its values.
    #[inline(always)]
    fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
        (math::quantize(x, q), q.iter().map(|&q| i32::from(q)).sum())
    }
}

#[inline(always)]
fn block<'a>(m: &Matrix<'a>, index: usize) -> Block<'a> {
    let packing = m.packing();
    let rows = packing.layout.block_rows();
    let bytes = round_up(m.cols(), QUAD) * rows;
    let scales = packing.groups(m.cols()) * rows;
    Block {
        words: m.weights().get(index * bytes..(index + 1) * bytes).unwrap_or(&[]),
        scales: m.scales().get(index * scales..(index + 1) * scales).unwrap_or(&[]),
        group_quads: packing.group_cols(m.cols()).div_ceil(QUAD),
    }
}

#[inline(always)]
fn tokens<'a, const T: usize>(x: &Activations<'a>, first: usize) -> [Token<'a>; T] {
    core::array::from_fn(|i| {
        let t = first + i;
        let groups = t.saturating_mul(x.groups)..(t + 1).saturating_mul(x.groups);
        Token {
            values: x.values.get(t * x.stride..(t + 1) * x.stride).unwrap_or(&[]),
            scales: x.scales.get(groups.clone()).unwrap_or(&[]),
            sums: x.sums.get(groups).unwrap_or(&[]),
        }
    })
}

/// Where a block's sums go.
struct Output<'a, 't> {
    out: &'a mut TileMut<'t, f32>,
    first_row: usize,
    last_row: usize,
    factor: f32,
    bias: Option<&'a [f32]>,
    write: Write,
}

impl Output<'_, '_> {
    /// Finishes rows `row..` of token `t`: factor, bias, and store or add.
    #[inline(always)]
    fn finish(&mut self, t: usize, row: usize, y: &[f32]) {
        let end = self.last_row.min(row + y.len());
        let bias = self.bias.and_then(|b| b.get(row..end));
        let Some(out) = self.out.row(t).get_mut(row - self.first_row..end - self.first_row) else { return };
        for (i, (out, &y)) in out.iter_mut().zip(y).enumerate() {
            let mut y = y * self.factor;
            if let Some(&b) = bias.and_then(|b| b.get(i)) {
                y += b;
            }
            *out = match self.write {
                Write::Store => y,
                Write::Add => *out + y,
            };
        }
    }
}

#[inline(always)]
pub(super) fn linear<K: Kernel>(
    kernel: K,
    m: &Matrix<'_>,
    first_row: usize,
    x: &Activations<'_>,
    bias: Option<&[f32]>,
    write: Write,
    mut out: TileMut<'_, f32>,
) {
    let count = out.rows().min(x.values.len().checked_div(x.stride).unwrap_or(0));
    let last_row = m.rows().min(first_row.saturating_add(out.cols()));
    let mut out = Output { out: &mut out, first_row, last_row, factor: m.factor(), bias, write };
    let rows = m.packing().layout.block_rows();
    let mut row = first_row;
    while row < last_row {
        let index = row / rows;
        match m.packing().layout {
            Layout::Rows8 if row + rows < last_row => {
                let pair = [block(m, index), block(m, index + 1)];
                let mut t = 0;
                while K::EIGHT_TOKENS && t + 8 <= count {
                    pair_of_blocks::<K, 8>(kernel, pair, x, t, row, &mut out);
                    t += 8;
                }
                while t + 4 <= count {
                    pair_of_blocks::<K, 4>(kernel, pair, x, t, row, &mut out);
                    t += 4;
                }
                while t < count {
                    pair_of_blocks::<K, 1>(kernel, pair, x, t, row, &mut out);
                    t += 1;
                }
                row += 2 * rows;
            }
            Layout::Rows8 => {
                for t in 0..count {
                    let [y] = kernel.rows8(block(m, index), tokens(x, t));
                    out.finish(t, row, &y);
                }
                row += rows;
            }
            Layout::Dsp => {
                for t in 0..count {
                    let [y] = sums(block(m, index), tokens(x, t), |words, x| dot::<4>(Layout::Dsp, words, x));
                    out.finish(t, row, &y);
                }
                row += rows;
            }
        }
    }
}

#[inline(always)]
fn pair_of_blocks<K: Kernel, const T: usize>(
    kernel: K,
    pair: [Block<'_>; 2],
    x: &Activations<'_>,
    first: usize,
    row: usize,
    out: &mut Output<'_, '_>,
) {
    for (half, sums) in kernel.rows16::<T>(pair, tokens(x, first)).iter().enumerate() {
        for (t, y) in sums.iter().enumerate() {
            out.finish(first + t, row + 8 * half, y);
        }
    }
}

/// Streaming attention; the method is described in [`crate::layer::attention`].
#[inline(always)]
pub(super) fn attend<K: Kernel>(kernel: K, cache: &HeadCache<'_>, query: &Query<'_>, out: &mut [f32]) {
    match cache.shape.layout {
        Layout::Rows8 => {
            let score = |words: &[u8]| kernel.dot8(words, query.values, query.sum);
            attend_blocks(kernel, cache, query, out, score, |words, x| kernel.dot8_unsigned(words, x));
        }
        Layout::Dsp => {
            let dot = |words: &[u8], x: &[i8]| dot::<4>(Layout::Dsp, words, x);
            attend_blocks(kernel, cache, query, out, |words| dot(words, query.values), dot);
        }
    }
}

/// [`attend`] for blocks of `R` rows: `score` multiplies a block of keys by the query, `mix` a block of values by weights,
/// of which none is negative.
#[inline(always)]
fn attend_blocks<K: Kernel, const R: usize>(
    kernel: K,
    cache: &HeadCache<'_>,
    query: &Query<'_>,
    out: &mut [f32],
    score: impl Fn(&[u8]) -> [i32; R],
    mix: impl Fn(&[u8], &[i8]) -> [i32; R],
) {
    let key_block = R * query.values.len();
    if key_block == 0 {
        return;
    }
    let mut largest = f32::NEG_INFINITY;
    let mut total = 0.0f32;
    out.fill(0.0);
    let (out_blocks, out_tail) = out.as_chunks_mut::<R>();
    for (tile, part) in cache.tiles(query.visible).enumerate() {
        let visible = query.visible - tile * TILE;
        let mut dots = [0i32; TILE];
        for (dots, words) in dots.as_chunks_mut::<R>().0.iter_mut().zip(part.keys.chunks_exact(key_block)) {
            *dots = score(words);
        }
        let mut scores: [f32; TILE] = core::array::from_fn(|j| dots[j] as f32 * (part.key_scales[j] * query.scale));
        if visible < TILE {
            scores.iter_mut().skip(visible).for_each(|score| *score = f32::NEG_INFINITY);
        }
        let new_largest = math::max(&scores, largest, |x| x);
        let rescale = math::exp(largest - new_largest);
        largest = new_largest;
        // The weight of a position is its probability times its value's scale; both are zero where it is hidden.
        scores = scores.map(|score| math::exp(score - new_largest));
        let mut weights: [f32; TILE] = core::array::from_fn(|j| scores[j] * part.value_scales[j]);
        if visible < TILE {
            scores.iter_mut().skip(visible).for_each(|p| *p = 0.0);
            weights.iter_mut().skip(visible).for_each(|w| *w = 0.0);
        }
        total = total * rescale + math::sum(&scores, |x| x);
        let mut quantized = [0i8; TILE];
        let (scale, _) = kernel.quantize(&weights, &mut quantized);
        let mut blocks = part.values.chunks_exact(R * TILE);
        for (out, words) in out_blocks.iter_mut().zip(&mut blocks) {
            let dots = mix(words, &quantized);
            for r in 0..R {
                out[r] = out[r] * rescale + dots[r] as f32 * scale;
            }
        }
        if let (false, Some(words)) = (out_tail.is_empty(), blocks.next()) {
            for (out, dot) in out_tail.iter_mut().zip(mix(words, &quantized)) {
                *out = *out * rescale + dot as f32 * scale;
            }
        }
    }
    let inverse = 1.0 / total;
    out.iter_mut().for_each(|out| *out *= inverse);
}

#[inline(always)]
pub(super) fn quantize<K: Kernel>(
    kernel: K,
    x: &[f32],
    group: usize,
    q: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let Some((values, padding)) = q.split_at_mut_checked(x.len()) else { return };
    padding.fill(0);
    let groups = x.chunks(group.max(1)).zip(values.chunks_mut(group.max(1)));
    for (((x, q), scale), sum) in groups.zip(scales).zip(sums) {
        (*scale, *sum) = kernel.quantize(x, q);
    }
}

#[inline(always)]
pub(super) fn norm<K: Kernel>(
    _: K,
    kind: Norm,
    eps: f32,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    math::norm(kind, eps, x, weight, bias, out);
}

#[inline(always)]
pub(super) fn activate<K: Kernel>(_: K, kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) {
    math::activate_row(kind, gated, hidden, row);
}

#[inline(always)]
pub(super) fn rotate<K: Kernel>(_: K, head: &mut [f32], cos_sin: &[f32]) {
    math::rotate(head, cos_sin);
}
