//! AVX2: 32 multiply-adds for each word of eight rows, without horizontal sums.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours into 16 bits. The unsigned operand is |w|, the
//! signed one x with w's sign (`vpsignb`): the same product. |w|, |x| ≤ 127 keep two products below 2¹⁵, so the
//! saturating addition never saturates. |w| is computed once for all tokens.

use core::arch::x86_64::*;

use super::drive::{Block, Kernel, Token};
use super::{cpu, operations};
use crate::math;

/// The processor has AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        cpu::features().avx2.then_some(Self(()))
    }
}

operations!(Avx2, "avx2,f16c");

/// [`math::quantize`], with the same bits: only how bytes are packed differs.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let Some((inverse, scale)) = math::steps(x) else {
        q.fill(0);
        return 0.0;
    };
    let (x_chunks, x_tail) = x.as_chunks::<32>();
    let (q_chunks, q_tail) = q.as_chunks_mut::<32>();
    for (q, x) in q_chunks.iter_mut().zip(x_chunks) {
        // SAFETY: AVX2 by the caller's promise; loads and the store lie within the arrays of 32.
        unsafe {
            let byte = |i: usize| {
                let scaled = _mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(i)), _mm256_set1_ps(inverse));
                let rounded = _mm256_castps_si256(_mm256_add_ps(scaled, _mm256_set1_ps(math::ROUND)));
                _mm256_and_si256(rounded, _mm256_set1_epi32(0xFF))
            };
            // Packing works within halves of the register; the permutation puts quads back in order.
            let (low, high) = (_mm256_packus_epi32(byte(0), byte(8)), _mm256_packus_epi32(byte(16), byte(24)));
            let quads = _mm256_packus_epi16(low, high);
            let ordered = _mm256_permutevar8x32_epi32(quads, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(q.as_mut_ptr().cast(), ordered);
        }
    }
    for (q, &x) in q_tail.iter_mut().zip(x_tail) {
        *q = math::round(x, inverse);
    }
    scale
}

/// The sum of int8 values.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sum(q: &[i8]) -> i32 {
    let (chunks, tail) = q.as_chunks::<32>();
    // SAFETY: AVX2 by the caller's promise; each load is an array of 32, the store one of eight.
    let lanes = unsafe {
        let mut sums = _mm256_setzero_si256();
        for chunk in chunks {
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_loadu_si256(chunk.as_ptr().cast()));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        let mut lanes = [0i32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums);
        lanes
    };
    lanes.iter().sum::<i32>() + tail.iter().map(|&q| i32::from(q)).sum::<i32>()
}

/// Bytes of a quad of eight rows.
const WORD: usize = 32;

/// How far ahead weights are fetched that are used only once: a page. The processor's own prefetching stops at the end of
/// every page; this made decoding 1.2 (in cache) to 1.4 times (from memory) as fast.
const AHEAD: usize = 4096;

/// Fetches weights that will be needed soon. The address may lie behind the weights; fetching it is harmless.
#[inline(always)]
pub(super) fn prefetch(words: &[u8], at: usize) {
    // SAFETY: every x86-64 processor has SSE; a prefetch reads nothing and cannot fault.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at + AHEAD).cast()) }
}

impl Kernel for Avx2 {
    #[inline(always)]
    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
        let quads = block.quads(8, &x);
        // SAFETY: the processor has AVX2 and F16C (`new`). `quads` counts only what all slices hold: words are read below
        // quads·32 bytes, activations below quads·4, scales below ⌈quads/group_quads⌉ entries of each slice.
        unsafe {
            let mut acc = [_mm256_setzero_ps(); T];
            let (mut quad, mut group) = (0, 0);
            while quad < quads {
                let end = quads.min(quad + block.group_quads);
                let mut sums = [_mm256_setzero_si256(); T];
                while quad < end {
                    let w = _mm256_loadu_si256(block.words.as_ptr().add(quad * WORD).cast());
                    if T == 1 {
                        prefetch(block.words, quad * WORD);
                    }
                    let w_abs = _mm256_abs_epi8(w);
                    for t in 0..T {
                        let x = _mm256_set1_epi32(x[t].values.as_ptr().add(quad * 4).cast::<i32>().read_unaligned());
                        let pairs = _mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w));
                        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                    quad += 1;
                }
                let w_scale = _mm256_cvtph_ps(_mm_loadu_si128(block.scales.as_ptr().add(group * 8).cast()));
                for t in 0..T {
                    let scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(*x[t].scales.as_ptr().add(group)));
                    acc[t] = _mm256_add_ps(acc[t], _mm256_mul_ps(_mm256_cvtepi32_ps(sums[t]), scale));
                }
                group += 1;
            }
            acc.map(|acc| {
                let mut out = [0f32; 8];
                _mm256_storeu_ps(out.as_mut_ptr(), acc);
                out
            })
        }
    }

    #[inline(always)]
    fn dot8_unsigned(self, words: &[u8], x: &[i8]) -> [i32; 8] {
        // SAFETY: the processor has AVX2 (`new`); both pointers come from slices of exactly the size that is read.
        unsafe {
            let mut sums = _mm256_setzero_si256();
            for (word, x) in words.as_chunks::<WORD>().0.iter().zip(x.as_chunks::<4>().0) {
                let w = _mm256_loadu_si256(word.as_ptr().cast());
                let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
                let pairs = _mm256_maddubs_epi16(x, w);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            let mut out = [0i32; 8];
            _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
            out
        }
    }

    #[inline(always)]
    fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
        // SAFETY: the processor has AVX2 (`new`).
        unsafe { (quantize(x, q), sum(q)) }
    }

    #[inline(always)]
    fn dot8(self, words: &[u8], x: &[i8], _sum: i32) -> [i32; 8] {
        // SAFETY: the processor has AVX2 (`new`); both pointers come from slices of exactly the size that is read.
        unsafe {
            let mut sums = _mm256_setzero_si256();
            for (word, x) in words.as_chunks::<WORD>().0.iter().zip(x.as_chunks::<4>().0) {
                let w = _mm256_loadu_si256(word.as_ptr().cast());
                let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            let mut out = [0i32; 8];
            _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
            out
        }
    }
}
