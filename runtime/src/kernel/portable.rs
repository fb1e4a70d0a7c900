//! The int8 products in plain Rust, for both layouts: the specification, and the fall-back for every processor. Where
//! registers and flash are few, [`narrow`](super::narrow) computes the same with less code.

use super::drive::{Block, Kernel, Step, Token};
use super::operations;
use crate::cache::TILE;
use crate::math::f16_scale;
use crate::packing::{Layout, QUAD};

/// Plain Rust; runs anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portable;

operations!(Portable);

impl Kernel for Portable {
    const NARROW: bool = cfg!(any(target_arch = "arm", target_arch = "riscv32"));
    type Scratch = ();

    #[inline(always)]
    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
        sums(block, x, QUAD, |words, x| dot(Layout::Rows8, words, x))
    }

    #[inline(always)]
    fn scores(self, keys: &[u8], query: &[i8], _start: i32, _first: bool, dots: &mut [i32; TILE]) {
        scores(keys, query, 8 * query.len(), dots, |words, x| dot::<8>(Layout::Rows8, words, x));
    }

    #[inline(always)]
    fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, _first: bool, out: &mut [f32; 8]) {
        step.apply(dot(Layout::Rows8, values, weights), out);
    }
}

/// The contract's formula for the `R` rows of a block and `T` tokens: `acc + dot·(w_scale·x_scale)`, group by group.
/// `input_bytes` is a quad of the tokens' vectors.
#[inline(always)]
pub(super) fn sums<const R: usize, const T: usize>(
    block: Block<'_>,
    x: [Token<'_>; T],
    input_bytes: usize,
    dot: impl Fn(&[u8], &[i8]) -> [i32; R],
) -> [[f32; R]; T] {
    let mut acc = [[0f32; R]; T];
    let scales = block.scales.as_chunks::<R>().0;
    for (t, acc) in acc.iter_mut().enumerate() {
        let words = block.words.chunks(block.group_quads * R * QUAD);
        let groups = words.zip(x[t].values.chunks(block.group_quads * input_bytes)).zip(scales).zip(x[t].scales);
        for (((words, x), w_scale), &x_scale) in groups {
            let dots = dot(words, x);
            for r in 0..R {
                acc[r] += dots[r] as f32 * (f16_scale(w_scale[r]) * x_scale);
            }
        }
    }
    acc
}

/// Dot products of the `R` interleaved rows in `words` with `x`.
#[inline(always)]
pub(super) fn dot<const R: usize>(layout: Layout, words: &[u8], x: &[i8]) -> [i32; R] {
    let mut acc = [0i32; R];
    for (word, x) in words.as_chunks::<QUAD>().0.chunks_exact(R).zip(x.as_chunks::<QUAD>().0) {
        for (acc, &quad) in acc.iter_mut().zip(word) {
            let w = layout.decode(quad);
            for c in 0..QUAD {
                *acc = acc.wrapping_add(i32::from(w[c]) * i32::from(x[c]));
            }
        }
    }
    acc
}

/// Dot products of a tile's keys, in blocks of `block_bytes` for `R` rows, with a query.
#[inline(always)]
pub(super) fn scores<const R: usize>(
    keys: &[u8],
    query: &[i8],
    block_bytes: usize,
    dots: &mut [i32; TILE],
    dot: impl Fn(&[u8], &[i8]) -> [i32; R],
) {
    let blocks = keys.chunks_exact(block_bytes.max(1));
    for (dots, words) in dots.as_chunks_mut().0.iter_mut().zip(blocks) {
        *dots = dot(words, query);
    }
}

/// Dot products of the four rows in `words`, which lie as [`Layout::Dsp`], with a vector of [`Layout::expand`]'s quads.
#[inline(always)]
pub(super) fn dot4(words: &[u8], x: &[i8]) -> [i32; 4] {
    let mut acc = [0i32; 4];
    for (word, x) in words.as_chunks::<16>().0.iter().zip(x.as_chunks::<8>().0) {
        let x: [i32; 4] = core::array::from_fn(|i| i16::from_le_bytes([x[2 * i] as u8, x[2 * i + 1] as u8]).into());
        for (acc, quad) in acc.iter_mut().zip(word.as_chunks::<QUAD>().0) {
            let sum = |low: u8, high: u8| i32::from(i16::from_le_bytes([low, high]));
            let even = |low: u8| i32::from(low as i8);
            let first = sum(quad[0], quad[1]) * x[0] + sum(quad[2], quad[3]) * x[1];
            let second = even(quad[0]) * x[2] + even(quad[2]) * x[3];
            *acc = acc.wrapping_add((first.wrapping_add(second)) >> 8);
        }
    }
    acc
}
