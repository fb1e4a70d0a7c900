//! AVX2: 32 multiply-adds for each word of eight rows, without horizontal sums.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours into 16 bits. The unsigned operand is |w|, the
//! signed one x with w's sign (`vpsignb`): the same product. |w|, |x| ≤ 127 keep two products below 2¹⁵, so the
//! saturating addition never saturates. |w| is computed once for all tokens.

use core::arch::x86_64::*;

use super::drive::{Block, Kernel, Token};
use super::{cpu, operations};

/// The processor has AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        cpu::features().avx2.then_some(Self(()))
    }
}

operations!(Avx2, "avx2,f16c");

/// Bytes of a quad of eight rows.
const WORD: usize = 32;

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
