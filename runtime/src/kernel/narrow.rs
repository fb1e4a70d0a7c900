//! Products and attention for targets with few registers and little flash: four rows at a time, and both layouts by the
//! same short code. On a Cortex-M with the DSP extension this is only what its assembly leaves over.

use super::drive::{Online, softmax, softmax_shaped};
use super::portable::dot4;
use super::{Activations, Query, TileMut, Write};
use crate::cache::{HeadCache, TILE};
use crate::math::{self, f16_scale};
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD};

/// Rows at a time. They lie side by side in the blocks of every layout.
const ROWS: usize = 4;

/// [`Backend::linear`](super::Backend::linear).
pub(super) fn linear(
    m: &Matrix<'_>,
    first_row: usize,
    x: &Activations<'_>,
    bias: Option<&[f32]>,
    write: Write,
    mut out: TileMut<'_, f32>,
) {
    let (layout, cols) = (m.packing().layout, m.cols());
    let quads = cols.div_ceil(QUAD);
    let group = m.packing().group_cols(cols).div_ceil(QUAD);
    let tokens = out.rows().min(x.values.len().checked_div(x.stride).unwrap_or(0));
    let last_row = m.rows().min(first_row.saturating_add(out.cols()));
    for row in (first_row..last_row).step_by(ROWS) {
        let words = m.weights().get(layout.quad_offset(row, 0, cols)..).unwrap_or(&[]);
        let w_scales = m.scales().get(m.packing().scale_index(row, 0, cols)..).unwrap_or(&[]);
        for t in 0..tokens {
            let x = x.tokens(t, 1);
            let values = x.values.get(..quads * layout.input_bytes()).unwrap_or(&[]);
            let words = words.chunks(group * layout.quad_bytes());
            let groups =
                words.zip(w_scales.chunks(layout.block_rows())).zip(values.chunks(group * layout.input_bytes()));
            let mut acc = [0f32; ROWS];
            for (((words, w_scales), x), &x_scale) in groups.zip(x.scales) {
                let dots = dot(layout, words, layout, x);
                for ((acc, dot), &w_scale) in acc.iter_mut().zip(dots).zip(w_scales) {
                    *acc += dot as f32 * (f16_scale(w_scale) * x_scale);
                }
            }
            let bias = bias.map(|bias| bias.get(row..).unwrap_or(&[]));
            let out = out.row(t).get_mut(row - first_row..last_row - first_row).unwrap_or(&mut []);
            for (i, (out, acc)) in out.iter_mut().zip(acc).enumerate() {
                let mut y = acc * m.factor();
                if let Some(bias) = bias.and_then(|bias| bias.get(i)) {
                    y += bias;
                }
                *out = if write == Write::Add { *out + y } else { y };
            }
        }
    }
}

/// [`Backend::attend`](super::Backend::attend).
pub(super) fn attend(cache: &HeadCache<'_>, query: &Query<'_>, out: &mut [f32]) {
    let shape = cache.shape;
    let mut online = Online { largest: f32::NEG_INFINITY, total: 0.0 };
    out.fill(0.0);
    let first = query.first / TILE;
    for (tile, part) in (first..).zip(cache.tiles(first, query.visible)) {
        let (mut dots, mut weights) = ([0i32; TILE], [0i8; TILE]);
        for (first, dots) in (0..TILE).step_by(ROWS).zip(dots.as_chunks_mut::<ROWS>().0) {
            let words = part.keys.get(shape.layout.quad_offset(first, 0, shape.head_dim)..).unwrap_or(&[]);
            *dots = dot(shape.layout, words, shape.layout, query.values);
        }
        let visible = query.visible - tile * TILE;
        let step = if query.shaped() {
            softmax_shaped(&dots, &part, query, tile, &mut online, &mut weights)
        } else {
            softmax(&dots, &part, query.scale, visible, &mut online, &mut weights)
        };
        for (row, out) in (0..shape.head_dim).step_by(ROWS).zip(out.chunks_mut(ROWS)) {
            let words = part.values.get(shape.layout.quad_offset(row, 0, TILE)..).unwrap_or(&[]);
            for (out, dot) in out.iter_mut().zip(dot(shape.layout, words, Layout::Rows8, &weights)) {
                *out = *out * step.rescale + dot as f32 * step.scale;
            }
        }
    }
    let inverse = 1.0 / online.total;
    out.iter_mut().for_each(|out| *out *= inverse);
}

/// [`Backend::quantize`](super::Backend::quantize).
pub(super) fn quantize(layout: Layout, x: &[f32], group: usize, q: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
    q.fill(0);
    let groups = x.chunks(group).zip(q.chunks_mut(layout.vector_bytes(group)));
    for (i, ((x, q), scale)) in groups.zip(scales).enumerate() {
        let mut sum = 0;
        *scale = 0.0;
        if let Some((inverse, step)) = math::steps(math::absmax(x)) {
            *scale = step;
            for (x, q) in x.chunks(QUAD).zip(q.chunks_mut(layout.input_bytes())) {
                let quad = core::array::from_fn(|i| x.get(i).map_or(0, |&x| math::round(x, inverse)));
                sum += quad.iter().map(|&q| i32::from(q)).sum::<i32>();
                let expanded = Layout::expand(quad);
                let quad = if layout == Layout::Dsp { &expanded[..] } else { &quad[..] };
                q.iter_mut().zip(quad).for_each(|(q, quad)| *q = *quad);
            }
        }
        if let Some(start) = starts.get_mut(i) {
            *start = -128 * sum;
        }
    }
}

/// Dot products of the four rows at the start of `words`, quads of a block of `layout`, with a vector that lies as `vector`
/// takes it.
#[inline(never)]
fn dot(layout: Layout, words: &[u8], vector: Layout, x: &[i8]) -> [i32; ROWS] {
    if vector == Layout::Dsp {
        return dot4(words, x);
    }
    let mut acc = [0i32; ROWS];
    for (word, x) in words.chunks(layout.quad_bytes()).zip(x.as_chunks::<QUAD>().0) {
        for (acc, &quad) in acc.iter_mut().zip(word.as_chunks::<QUAD>().0) {
            for (w, &x) in layout.decode(quad).into_iter().zip(x) {
                *acc = acc.wrapping_add(i32::from(w) * i32::from(x));
            }
        }
    }
    acc
}
