//! The loops around the int8 products, written once for all instruction sets.
//!
//! Every function here is `inline(always)` and generic over the [`Kernel`], so that each instruction set gets its own
//! copy, compiled with its vector width. The order of float operations is fixed here and in [`crate::math`].

use core::f32::consts::LOG2_E;
use core::ops::Range;

use super::portable::{dot, dot4, scores, sums};
use super::{Activations, Queries, Query, TileMut, Write, narrow};
use crate::arch::{Activation, Norm};
use crate::cache::{HeadCache, TILE, Tile};
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
    /// As many quads as the block has, as the layout takes them.
    pub values: &'a [i8],
    /// A scale for each group.
    pub scales: &'a [f32],
    /// −128 times the sum of each group's values.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        allow(dead_code, reason = "for kernels with unsigned operands")
    )]
    pub starts: &'a [i32],
}

/// The quantized vectors of consecutive tokens.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    /// [`Token::values`], `stride` bytes a token.
    pub values: &'a [i8],
    pub stride: usize,
    /// [`Token::scales`], `groups` a token.
    pub scales: &'a [f32],
    /// [`Token::starts`], `groups` a token.
    pub starts: &'a [i32],
    pub groups: usize,
}

impl<'a> Tokens<'a> {
    #[inline(always)]
    pub(super) fn new(x: &Activations<'a>, first: usize, count: usize) -> Self {
        let Activations { values, scales, starts, .. } = x.tokens(first, count);
        Self { values, stride: x.stride, scales, starts, groups: x.groups }
    }

    /// How many tokens these are, and how many quads every one of them and both blocks of eight rows hold: what a kernel
    /// may read unchecked.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn extent(&self, blocks: &[Block<'_>; 2]) -> (usize, usize) {
        let divide = |len: usize, by: usize| len.checked_div(by).unwrap_or(0);
        let count = divide(self.values.len(), self.stride).min(divide(self.scales.len(), self.groups));
        let quads = blocks.iter().map(|block| block.quads::<0>(8, &[])).min().unwrap_or(0);
        (count, quads.min(self.stride / QUAD).min(self.groups.saturating_mul(blocks[0].group_quads)))
    }

    #[inline(always)]
    fn token(&self, t: usize) -> Token<'a> {
        let groups = t * self.groups..(t + 1) * self.groups;
        Token {
            values: self.values.get(t * self.stride..(t + 1) * self.stride).unwrap_or(&[]),
            scales: self.scales.get(groups.clone()).unwrap_or(&[]),
            starts: self.starts.get(groups).unwrap_or(&[]),
        }
    }

    /// The first `T` of them, one by one.
    #[inline(always)]
    pub(super) fn split<const T: usize>(&self) -> [Token<'a>; T] {
        core::array::from_fn(|t| self.token(t))
    }
}

#[cfg(any(target_arch = "x86_64", neon))]
impl Block<'_> {
    /// How many quads of this block of `rows` rows every slice of it and of `x` holds: what a kernel may read unchecked.
    #[inline(always)]
    pub(super) fn quads<const T: usize>(&self, rows: usize, x: &[Token<'_>; T]) -> usize {
        let mut quads = self.words.len() / (rows * QUAD);
        let mut groups = self.scales.len() / rows;
        for x in x {
            quads = quads.min(x.values.len() / QUAD);
            groups = groups.min(x.scales.len()).min(x.starts.len());
        }
        quads.min(groups.saturating_mul(self.group_quads))
    }
}

/// A tile's four blocks of eight keys, and how many quads each of them and the query hold.
#[cfg(any(target_arch = "x86_64", neon))]
#[inline(always)]
pub(super) fn key_blocks<'a>(keys: &'a [u8], query: &[i8]) -> (usize, [&'a [u8]; TILE / 8]) {
    let quads = (query.len() / QUAD).min(keys.len() / (TILE * QUAD));
    let bytes = quads * 8 * QUAD;
    (quads, core::array::from_fn(|i| keys.get(i * bytes..(i + 1) * bytes).unwrap_or(&[])))
}

/// The int8 products of one instruction set.
pub(super) trait Kernel: Copy {
    /// Eight tokens at a time fit the registers; four otherwise.
    const EIGHT_TOKENS: bool = false;
    /// Products and attention are those of [`narrow`].
    const NARROW: bool = false;
    /// What [`Kernel::pair`] works in.
    type Scratch: Default;

    /// Says that a line of memory will be needed soon, if it is one.
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    /// The contract's sum over groups for 8 rows and `T` tokens.
    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T];

    /// The same for the 16 rows of two blocks; a chance to use wider registers.
    #[inline(always)]
    fn rows16<const T: usize>(self, blocks: [Block<'_>; 2], x: Tokens<'_>) -> [[f32; 16]; T] {
        let x = x.split();
        let halves = blocks.map(|block| self.rows8::<T>(block, x));
        let mut out = [[0.0; 16]; T];
        for (half, sums) in halves.iter().enumerate() {
            for (out, sums) in out.iter_mut().zip(sums) {
                for (out, sum) in out.iter_mut().skip(8 * half).zip(sums) {
                    *out = *sum;
                }
            }
        }
        out
    }

    /// The products of two blocks with `count` tokens, at least [`MANY`], to the rows `row..`; a chance to make the weights
    /// ready once for all of them.
    #[inline(always)]
    fn pair(
        self,
        _scratch: &mut Self::Scratch,
        blocks: [Block<'_>; 2],
        x: &Activations<'_>,
        count: usize,
        row: usize,
        out: &mut Output<'_, '_>,
    ) {
        pair(self, blocks, x, count, row, out);
    }

    /// Dot products of a tile's keys with a query; `start` is −128 times the sum of the query's values. `first` says that
    /// nobody has read these keys for this step: a kernel may fetch what lies behind them.
    fn scores(self, keys: &[u8], query: &[i8], start: i32, first: bool, dots: &mut [i32; TILE]);

    /// [`Kernel::scores`] for several queries.
    #[inline(always)]
    fn scores_of<const N: usize>(
        self,
        keys: &[u8],
        queries: [&Query<'_>; N],
        first: bool,
        dots: &mut [[i32; TILE]; N],
    ) {
        for i in 0..N {
            self.scores(keys, queries[i].values, queries[i].start, first && i == 0, &mut dots[i]);
        }
    }

    /// `out·rescale + dot·scale`, where dot are the products of 8 rows of a tile's values with weights, of which none is
    /// negative; `first` as in [`Kernel::scores`].
    fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, first: bool, out: &mut [f32; 8]);

    /// [`Kernel::mix8`] for all rows of a tile's values and several queries, each with its own weights, step and output;
    /// what lies behind the last whole block of an output is left alone.
    #[inline(always)]
    fn mix<const N: usize>(
        self,
        values: &[u8],
        weights: &[[i8; TILE]; N],
        steps: &[Step; N],
        first: bool,
        out: &mut [&mut [f32]; N],
    ) {
        for (block, words) in values.chunks_exact(8 * TILE).enumerate() {
            for i in 0..N {
                if let Some(out) = out[i].as_chunks_mut().0.get_mut(block) {
                    self.mix8(words, &weights[i], steps[i], first && i == 0, out);
                }
            }
        }
    }

    /// [`softmax`] of several queries; `visible` are the positions of the tile that each sees.
    #[inline(always)]
    fn softmax<const N: usize>(
        self,
        dots: &[[i32; TILE]; N],
        tile: &Tile<'_>,
        scales: [f32; N],
        visible: [usize; N],
        online: &mut [Online; N],
        weights: &mut [[i8; TILE]; N],
    ) -> [Step; N] {
        let mut steps = [Step::default(); N];
        for i in 0..N {
            steps[i] = softmax(&dots[i], tile, scales[i], visible[i], &mut online[i], &mut weights[i]);
        }
        steps
    }

    /// [`math::quantize`] for one group: its scale, and the sum of its values.
    #[inline(always)]
    fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
        (math::quantize(x, q), q.iter().map(|&q| i32::from(q)).sum())
    }

    /// [`quantize`] for the first groups, as many as it returns: a chance to take several at a time.
    #[inline(always)]
    fn quantize_groups(
        self,
        _x: &[f32],
        _group: usize,
        _q: &mut [i8],
        _scales: &mut [f32],
        _starts: &mut [i32],
    ) -> usize {
        0
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

/// Where a block's sums go.
pub(super) struct Output<'a, 't> {
    out: &'a mut TileMut<'t, f32>,
    first_row: usize,
    last_row: usize,
    factor: f32,
    bias: Option<&'a [f32]>,
    write: Write,
}

impl Output<'_, '_> {
    /// Finishes rows `row..` of token `t`: factor, bias, and store or add. Beyond the last row nothing is written.
    #[inline(always)]
    pub(super) fn finish<const R: usize>(&mut self, t: usize, row: usize, y: &[f32; R]) {
        let (factor, write) = (self.factor, self.write);
        let bias = self.bias.map(|bias| bias.get(row..).unwrap_or(&[]));
        let columns = row - self.first_row..self.last_row.min(row + R) - self.first_row;
        let Some(out) = self.out.row(t).get_mut(columns) else { return };
        match (bias.map(|b| b.first_chunk()), out.first_chunk_mut()) {
            (None, Some(out)) => finish(factor, None, write, y, out),
            (Some(Some(bias)), Some(out)) => finish(factor, Some(bias), write, y, out),
            // The matrix ends within the block.
            _ => {
                let (mut padded, mut padded_bias) = ([0.0; R], [0.0; R]);
                padded.iter_mut().zip(&*out).for_each(|(padded, out)| *padded = *out);
                padded_bias.iter_mut().zip(bias.unwrap_or(&[])).for_each(|(padded, bias)| *padded = *bias);
                finish(factor, bias.map(|_| &padded_bias), write, y, &mut padded);
                out.iter_mut().zip(padded).for_each(|(out, padded)| *out = padded);
            }
        }
    }
}

/// [`Output::finish`], where whole arrays keep the loops in vectors.
#[inline(always)]
fn finish<const R: usize>(factor: f32, bias: Option<&[f32; R]>, write: Write, y: &[f32; R], out: &mut [f32; R]) {
    // Loops, not closures: those might be compiled without the vector instructions.
    let mut finished = [0.0; R];
    for (finished, y) in finished.iter_mut().zip(y) {
        *finished = y * factor;
    }
    if let Some(bias) = bias {
        for (finished, bias) in finished.iter_mut().zip(bias) {
            *finished += bias;
        }
    }
    match write {
        Write::Store => *out = finished,
        Write::Add => {
            for (out, finished) in out.iter_mut().zip(finished) {
                *out += finished;
            }
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
    if K::NARROW {
        return narrow::linear(m, first_row, x, bias, write, out);
    }
    let count = out.rows().min(x.values.len().checked_div(x.stride).unwrap_or(0));
    let last_row = m.rows().min(first_row.saturating_add(out.cols()));
    let mut out = Output { out: &mut out, first_row, last_row, factor: m.factor(), bias, write };
    let rows = m.packing().layout.block_rows();
    let mut scratch = None;
    let mut row = first_row;
    while row < last_row {
        let index = row / rows;
        match m.packing().layout {
            Layout::Rows8 if row + rows < last_row => {
                let pair = [block(m, index), block(m, index + 1)];
                if count >= MANY {
                    kernel.pair(scratch.get_or_insert_default(), pair, x, count, row, &mut out);
                } else {
                    // One token reads memory and little else: a block after the other is the stream that processors fetch
                    // ahead.
                    for t in 0..count {
                        for (block, row) in pair.into_iter().zip([row, row + rows]) {
                            let [y] = kernel.rows8(block, Tokens::new(x, t, 1).split());
                            out.finish(t, row, &y);
                        }
                    }
                }
                row += 2 * rows;
            }
            Layout::Rows8 => {
                for t in 0..count {
                    let [y] = kernel.rows8(block(m, index), Tokens::new(x, t, 1).split());
                    out.finish(t, row, &y);
                }
                row += rows;
            }
            Layout::Dsp => {
                for t in 0..count {
                    let one = Tokens::new(x, t, 1).split();
                    let [y] = sums(block(m, index), one, Layout::Dsp.input_bytes(), dot4);
                    out.finish(t, row, &y);
                }
                row += rows;
            }
        }
    }
}

/// From so many tokens on they share what is loaded of two blocks.
const MANY: usize = 4;

/// Bytes that a prefetch fetches.
const LINE: usize = 64;

/// Fetches what the next two blocks hold at the same place while tokens are multiplied with these, some lines for each
/// token: else every two blocks would begin by waiting for memory.
pub(super) struct Ahead {
    words: [*const u8; 2],
    lines: usize,
    lines_per_token: usize,
}

impl Ahead {
    /// `range` of the blocks' words, for `count` tokens.
    #[inline(always)]
    pub(super) fn new(pair: &[Block<'_>; 2], range: Range<usize>, count: usize) -> Self {
        let words = pair.map(|block| block.words.as_ptr().wrapping_add(2 * block.words.len() + range.start));
        let lines = range.len().div_ceil(LINE);
        Self { words, lines, lines_per_token: lines.div_ceil(count.max(1)) }
    }

    /// The share of tokens `first..first + count`.
    #[inline(always)]
    pub(super) fn fetch(&self, kernel: impl Kernel, first: usize, count: usize) {
        for line in first * self.lines_per_token..self.lines.min((first + count) * self.lines_per_token) {
            for words in self.words {
                kernel.prefetch(words.wrapping_add(line * LINE));
            }
        }
    }
}

/// [`Kernel::pair`] by [`Kernel::rows16`].
#[inline(always)]
fn pair<K: Kernel>(
    kernel: K,
    pair: [Block<'_>; 2],
    x: &Activations<'_>,
    count: usize,
    row: usize,
    out: &mut Output<'_, '_>,
) {
    let ahead = Ahead::new(&pair, 0..pair[0].words.len(), count);
    let mut t = 0;
    while K::EIGHT_TOKENS && t + 8 <= count {
        ahead.fetch(kernel, t, 8);
        tokens::<K, 8>(kernel, pair, x, t, row, out);
        t += 8;
    }
    while t + 4 <= count {
        ahead.fetch(kernel, t, 4);
        tokens::<K, 4>(kernel, pair, x, t, row, out);
        t += 4;
    }
    while t < count {
        tokens::<K, 1>(kernel, pair, x, t, row, out);
        t += 1;
    }
}

#[inline(always)]
fn tokens<K: Kernel, const T: usize>(
    kernel: K,
    pair: [Block<'_>; 2],
    x: &Activations<'_>,
    first: usize,
    row: usize,
    out: &mut Output<'_, '_>,
) {
    for (t, y) in kernel.rows16::<T>(pair, Tokens::new(x, first, T)).iter().enumerate() {
        out.finish(first + t, row, y);
    }
}

/// Streaming attention of all queries; the method is described in [`crate::layer::attention`].
#[inline(always)]
pub(super) fn attend<K: Kernel>(
    kernel: K,
    cache: &HeadCache<'_>,
    queries: Queries<'_, '_>,
    out: &mut TileMut<'_, f32>,
) {
    let (head_dim, group) = (cache.shape.head_dim, queries.scales.cols().max(1));
    let bytes = cache.shape.layout.vector_bytes(head_dim);
    let (seen, more) = queries.visible();
    let scales = queries.scales.pieces(1).zip(queries.starts.pieces(1));
    let shaping = queries.shaping.rules();
    let row = shaping.biases.len() / group;
    let list = queries.values.pieces(bytes).zip(scales).enumerate().map(|(i, (values, (scale, start)))| {
        let visible = seen + i / group * more;
        Query {
            values,
            start: start[0],
            scale: scale[0],
            first: if shaping.window == 0 { 0 } else { visible.saturating_sub(shaping.window) },
            visible,
            cap: shaping.cap * LOG2_E,
            slope: shaping.slopes.get(i % group).map_or(0.0, |slope| slope * LOG2_E),
            biases: shaping.biases.get(i % group * row..(i % group + 1) * row).unwrap_or(&[]),
            own: if more == 0 { i / group } else { visible - 1 },
            distance: shaping.distance,
        }
    });
    if K::NARROW {
        list.zip(out.pieces(head_dim)).for_each(|(query, out)| narrow::attend(cache, &query, out));
        return;
    }
    let mut first = true;
    let mut batch = heapless::Vec::<(Query<'_>, &mut [f32]), TOGETHER>::new();
    for (query, out) in list.zip(out.pieces(head_dim)) {
        let tiles = |query: &Query<'_>| (query.first / TILE, query.visible.div_ceil(TILE));
        if batch.is_full() || batch.first().is_some_and(|(other, _)| tiles(other) != tiles(&query)) {
            attend_batch(kernel, cache, first, &mut batch);
            batch.clear();
            first = false;
        }
        let _ = batch.push((query, out));
    }
    attend_batch(kernel, cache, first, &mut batch);
}

/// Queries that attend at a time: each tile's arithmetic is one long chain; several of them overlap, and share what is
/// loaded.
const TOGETHER: usize = 4;

/// Attention of queries that begin and end in the same tiles.
#[inline(always)]
fn attend_batch<K: Kernel>(kernel: K, cache: &HeadCache<'_>, first: bool, batch: &mut [(Query<'_>, &mut [f32])]) {
    let (all, rest) = batch.as_chunks_mut::<TOGETHER>();
    for all in all {
        attend_layout(kernel, cache, first, all);
    }
    let (pairs, rest) = rest.as_chunks_mut::<2>();
    for pair in pairs {
        attend_layout(kernel, cache, first, pair);
    }
    for one in rest.as_chunks_mut::<1>().0 {
        attend_layout(kernel, cache, first, one);
    }
}

#[inline(always)]
fn attend_layout<K: Kernel, const N: usize>(
    kernel: K,
    cache: &HeadCache<'_>,
    first: bool,
    batch: &mut [(Query<'_>, &mut [f32]); N],
) {
    match cache.shape.layout {
        Layout::Rows8 => attend_tiles(InRows8(kernel), kernel, cache, first, batch),
        Layout::Dsp => attend_tiles(InDsp, kernel, cache, first, batch),
    }
}

/// Attention's int8 products in a layout. A trait, because closures would be compiled without the instruction set.
trait Dots: Copy {
    /// Keys times queries; `first` as in [`Kernel::scores`].
    fn scores<const N: usize>(self, keys: &[u8], queries: [&Query<'_>; N], first: bool, dots: &mut [[i32; TILE]; N]);

    /// Adds values times weights to the outputs.
    fn mix<const N: usize>(
        self,
        values: &[u8],
        weights: &[[i8; TILE]; N],
        steps: &[Step; N],
        first: bool,
        out: &mut [&mut [f32]; N],
    );
}

/// A block of which perhaps only the first rows are there.
#[inline(always)]
fn padded<const R: usize>(out: &[f32]) -> [f32; R] {
    let mut all = [0.0; R];
    all.iter_mut().zip(out).for_each(|(all, &out)| *all = out);
    all
}

#[derive(Clone, Copy)]
struct InRows8<K>(K);

impl<K: Kernel> Dots for InRows8<K> {
    #[inline(always)]
    fn scores<const N: usize>(self, keys: &[u8], queries: [&Query<'_>; N], first: bool, dots: &mut [[i32; TILE]; N]) {
        self.0.scores_of(keys, queries, first, dots);
    }

    #[inline(always)]
    fn mix<const N: usize>(
        self,
        values: &[u8],
        weights: &[[i8; TILE]; N],
        steps: &[Step; N],
        first: bool,
        out: &mut [&mut [f32]; N],
    ) {
        self.0.mix(values, weights, steps, first, out);
        for ((out, weights), step) in out.iter_mut().zip(weights).zip(steps) {
            let whole = out.len() / 8;
            let tail = out.as_chunks_mut::<8>().1;
            if let Some(words) = values.get(whole * 8 * TILE..).filter(|_| !tail.is_empty()) {
                let mut all = padded(tail);
                self.0.mix8(words, weights, *step, false, &mut all);
                tail.iter_mut().zip(all).for_each(|(out, all)| *out = all);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct InDsp;

impl Dots for InDsp {
    #[inline(always)]
    fn scores<const N: usize>(self, keys: &[u8], queries: [&Query<'_>; N], _first: bool, dots: &mut [[i32; TILE]; N]) {
        for (query, dots) in queries.into_iter().zip(dots) {
            // A key has half the bytes of the expanded query.
            scores(keys, query.values, Layout::Dsp.block_rows() * query.values.len() / 2, dots, dot4);
        }
    }

    #[inline(always)]
    fn mix<const N: usize>(
        self,
        values: &[u8],
        weights: &[[i8; TILE]; N],
        steps: &[Step; N],
        _first: bool,
        out: &mut [&mut [f32]; N],
    ) {
        const ROWS: usize = Layout::Dsp.block_rows();
        for ((out, weights), step) in out.iter_mut().zip(weights).zip(steps) {
            for (words, out) in values.chunks_exact(ROWS * TILE).zip(out.chunks_mut(ROWS)) {
                let mut all = padded::<ROWS>(out);
                step.apply(dot(Layout::Dsp, words, weights), &mut all);
                out.iter_mut().zip(all).for_each(|(out, all)| *out = all);
            }
        }
    }
}

#[inline(always)]
fn attend_tiles<D: Dots, K: Kernel, const N: usize>(
    dots: D,
    kernel: K,
    cache: &HeadCache<'_>,
    first: bool,
    batch: &mut [(Query<'_>, &mut [f32]); N],
) {
    let queries = batch.each_ref().map(|(query, _)| *query);
    let queries = queries.each_ref();
    let mut out = batch.each_mut().map(|(_, out)| &mut **out);
    let mut online = [Online { largest: f32::NEG_INFINITY, total: 0.0 }; N];
    for out in &mut out {
        out.fill(0.0);
    }
    let shaped = queries.iter().any(|query| query.shaped());
    let visible = queries.iter().map(|query| query.visible).max().unwrap_or(0);
    let start = queries.iter().map(|query| query.first / TILE).min().unwrap_or(0);
    for (tile, part) in (start..).zip(cache.tiles(start, visible)) {
        let (mut products, mut weights) = ([[0i32; TILE]; N], [[0i8; TILE]; N]);
        dots.scores(part.keys, queries, first, &mut products);
        let mut steps = [Step::default(); N];
        if shaped {
            for i in 0..N {
                steps[i] = softmax_shaped(&products[i], &part, queries[i], tile, &mut online[i], &mut weights[i]);
            }
        } else {
            let (mut scales, mut visible) = ([0.0; N], [0; N]);
            for i in 0..N {
                (scales[i], visible[i]) = (queries[i].scale, queries[i].visible - tile * TILE);
            }
            steps = kernel.softmax(&products, &part, scales, visible, &mut online, &mut weights);
        }
        dots.mix(part.values, &weights, &steps, first, &mut out);
    }
    for (out, online) in out.into_iter().zip(online) {
        let inverse = 1.0 / online.total;
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}

/// What online softmax remembers of the tiles so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Online {
    /// The largest score.
    pub largest: f32,
    /// Sum of 2 to the power score − largest.
    pub total: f32,
}

/// What a tile does to the output: `out·rescale + (Σ weight·value)·scale`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub rescale: f32,
    pub scale: f32,
}

impl Step {
    #[inline(always)]
    pub(super) fn apply<const R: usize>(self, dots: [i32; R], out: &mut [f32; R]) {
        for (out, dot) in out.iter_mut().zip(dots) {
            *out = *out * self.rescale + dot as f32 * self.scale;
        }
    }
}

/// One tile of softmax: scores of the first `visible` positions from the dot products, then int8 weights.
///
/// A weight is the position's probability times its value's scale; hidden positions weigh nothing.
#[inline(always)]
pub(super) fn softmax(
    dots: &[i32; TILE],
    tile: &Tile<'_>,
    scale: f32,
    visible: usize,
    online: &mut Online,
    quantized: &mut [i8; TILE],
) -> Step {
    let scores = core::array::from_fn(|j| dots[j] as f32 * (tile.key_scales[j] * scale));
    weigh(scores, tile, 0, visible, online, quantized)
}

/// The same for a query whose scores are shaped; `index` is the tile's.
#[inline(never)]
pub(super) fn softmax_shaped(
    dots: &[i32; TILE],
    tile: &Tile<'_>,
    query: &Query<'_>,
    index: usize,
    online: &mut Online,
    quantized: &mut [i8; TILE],
) -> Step {
    let start = index * TILE;
    let mut scores: [f32; TILE] = core::array::from_fn(|j| dots[j] as f32 * (tile.key_scales[j] * query.scale));
    if query.cap != 0.0 {
        scores = scores.map(|s| math::cap(s, query.cap));
    }
    if query.slope != 0.0 {
        // At most 2²⁰ positions: the distance is exact.
        let distance = |j: usize| (query.visible - 1) as f32 - (start + j) as f32;
        scores = core::array::from_fn(|j| scores[j] - query.slope * distance(j));
    }
    if let Some(last) = query.biases.len().checked_sub(1) {
        let bias = |j: usize| query.biases.get((start + j + query.distance).saturating_sub(query.own).min(last));
        scores = core::array::from_fn(|j| scores[j] + bias(j).map_or(0.0, |bias| bias * LOG2_E));
    }
    weigh(scores, tile, query.first.saturating_sub(start), query.visible - start, online, quantized)
}

/// Softmax of the scores of a tile's positions `first..visible`; the others can have any score.
#[inline(always)]
fn weigh(
    mut scores: [f32; TILE],
    tile: &Tile<'_>,
    first: usize,
    visible: usize,
    online: &mut Online,
    quantized: &mut [i8; TILE],
) -> Step {
    let hide = |values: &mut [f32; TILE], with: f32| {
        values.iter_mut().take(first).for_each(|value| *value = with);
        values.iter_mut().skip(visible).for_each(|value| *value = with);
    };
    hide(&mut scores, f32::NEG_INFINITY);
    let largest = math::max(&scores, online.largest, |x| x);
    let rescale = math::exp2(online.largest - largest);
    scores = scores.map(|score| math::exp2(score - largest));
    hide(&mut scores, 0.0);
    let mut weights: [f32; TILE] = core::array::from_fn(|j| scores[j] * tile.value_scales[j]);
    // Scales of positions that were never written can be anything.
    hide(&mut weights, 0.0);
    *online = Online { largest, total: online.total * rescale + math::sum(&scores, |x| x) };
    Step { rescale, scale: math::quantize(&weights, quantized) }
}

#[inline(always)]
pub(super) fn quantize<K: Kernel>(
    kernel: K,
    layout: Layout,
    x: &[f32],
    group: usize,
    q: &mut [i8],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    let group = group.max(1);
    if K::NARROW {
        return narrow::quantize(layout, x, group, q, scales, starts);
    }
    match layout {
        Layout::Rows8 => {
            let Some((values, padding)) = q.split_at_mut_checked(x.len()) else { return };
            padding.fill(0);
            let done = kernel.quantize_groups(x, group, values, scales, starts);
            let groups = x.chunks(group).zip(values.chunks_mut(group)).zip(scales);
            let mut starts = starts.iter_mut().skip(done);
            for ((x, q), scale) in groups.skip(done) {
                let sum;
                (*scale, sum) = kernel.quantize(x, q);
                if let Some(start) = starts.next() {
                    *start = sum.wrapping_mul(-128);
                }
            }
        }
        Layout::Dsp => {
            let Some((values, padding)) = q.split_at_mut_checked(layout.vector_bytes(x.len())) else { return };
            padding.fill(0);
            let groups = x.chunks(group).zip(values.chunks_mut(layout.vector_bytes(group)));
            for ((x, q), scale) in groups.zip(scales) {
                *scale = quantize_expanded(x, q);
            }
        }
    }
}

/// [`math::quantize`] for one group into a vector of [`Layout::expand`]'s quads.
#[inline(always)]
fn quantize_expanded(x: &[f32], q: &mut [i8]) -> f32 {
    let Some((inverse, scale)) = math::steps(math::absmax(x)) else {
        q.fill(0);
        return 0.0;
    };
    for (q, x) in q.as_chunks_mut::<{ Layout::Dsp.input_bytes() }>().0.iter_mut().zip(x.chunks(QUAD)) {
        *q = Layout::expand(core::array::from_fn(|i| x.get(i).map_or(0, |&x| math::round(x, inverse))));
    }
    scale
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
pub(super) fn norm_heads<K: Kernel>(
    _: K,
    kind: Norm,
    eps: f32,
    heads: &mut [f32],
    head_dim: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
) {
    let weights = weight.chunks_exact(head_dim.max(1)).cycle();
    let heads = heads.chunks_exact_mut(head_dim.max(1)).zip(weights);
    heads.for_each(|(head, weight)| math::norm_head(kind, eps, head, weight, bias));
}

#[inline(always)]
pub(super) fn activate<K: Kernel>(_: K, kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) {
    if K::NARROW {
        return math::apply(gated, hidden, row, |x| math::activate(kind, x));
    }
    math::activate_row(kind, gated, hidden, row);
}

#[inline(always)]
pub(super) fn rotate<K: Kernel>(_: K, heads: &mut [f32], head_dim: usize, cos_sin: &[f32]) {
    heads.chunks_exact_mut(head_dim.max(1)).for_each(|head| math::rotate(head, cos_sin));
}
