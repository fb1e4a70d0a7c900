//! AVX2's product for many tokens: two blocks of weights, made ready once for all of them.
//!
//! The product of signed bytes takes a magnitude and a sign ([`super::avx2`]). Here the sign is a mask that turns x into
//! −x − 1: Σ|w|·(x ^ mask) = Σw·x − Σ|w| where w is negative, and each sum starts with what is missing. `vpxor` runs on twice
//! as many units of a processor as `vpsignb` (on AMD's four instead of two), which made the product 1.4 times as fast on a
//! Zen 4. |w|, mask and start are found once, for as many columns as stay in the first-level cache with them: a panel.
//! Between two panels sums wait in memory.
//!
//! x ^ mask is in [−128, 127] and |w| ≤ 127: two products stay below 2¹⁵, so that `vpmaddubsw` never saturates.

use core::arch::x86_64::*;

use super::Activations;
use super::drive::{Ahead, Block, Kernel, Output, Tokens};

/// Tokens that share a panel.
const TOKENS: usize = 128;
/// Tokens that are multiplied together.
const TOGETHER: usize = 4;
/// Quads that are multiplied without a branch: a group of 32 columns.
const UNROLLED: usize = 8;
/// Quads of a panel.
const QUADS: usize = 128;
/// Groups of a panel.
const GROUPS: usize = 16;

/// A quad of eight rows.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Word {
    /// |w|.
    magnitudes: [u8; 32],
    /// All bits where w is negative.
    signs: [u8; 32],
}

/// Sixteen rows of a group, or of the part of it that lies in the panel.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Group {
    /// Σ|w| over negative weights.
    starts: [i32; 16],
    scales: [f32; 16],
    quads: usize,
}

/// See the [module](self).
pub(super) struct Panel {
    words: [[Word; 2]; QUADS],
    groups: [Group; GROUPS],
    /// Each token's sums over the groups so far.
    sums: [[f32; 16]; TOKENS],
    /// Each token's dot products of a group that goes on in the next panel.
    dots: [[i32; 16]; TOKENS],
}

impl Default for Panel {
    #[inline(always)]
    fn default() -> Self {
        Self {
            words: [[Word { magnitudes: [0; 32], signs: [0; 32] }; 2]; QUADS],
            groups: [Group { starts: [0; 16], scales: [0.0; 16], quads: 0 }; GROUPS],
            sums: [[0.0; 16]; TOKENS],
            dots: [[0; 16]; TOKENS],
        }
    }
}

/// What a panel holds of its blocks.
#[derive(Clone, Copy)]
struct Part {
    /// The first quad, and behind the last one.
    quads: (usize, usize),
    /// The first quad's group, and behind the last quad's.
    groups: (usize, usize),
    /// The first group began in the panel before.
    goes_on: bool,
    /// The last group ends here.
    closes: bool,
}

impl Part {
    /// From `start` on, as much of `quads` quads as a panel takes.
    #[inline(always)]
    fn new(start: usize, quads: usize, group_quads: usize) -> Self {
        let group = start / group_quads;
        let end = quads.min(start + QUADS).min((group + GROUPS) * group_quads);
        Self {
            quads: (start, end),
            groups: (group, end.div_ceil(group_quads)),
            goes_on: !start.is_multiple_of(group_quads),
            closes: end == quads || end.is_multiple_of(group_quads),
        }
    }
}

impl Panel {
    /// The products of two blocks with all tokens, to the rows `row..`.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        &mut self,
        kernel: impl Kernel,
        pair: [Block<'_>; 2],
        x: &Activations<'_>,
        count: usize,
        row: usize,
        out: &mut Output<'_, '_>,
    ) {
        let group_quads = pair[0].group_quads.max(1);
        for first in (0..count).step_by(TOKENS) {
            let tokens = Tokens::new(x, first, TOKENS.min(count - first));
            let (count, quads) = tokens.extent(&pair);
            let mut start = 0;
            loop {
                let part = Part::new(start, quads, group_quads);
                let last = part.quads.1 == quads;
                // SAFETY: AVX2 and F16C by the caller's promise; `extent` says that blocks and tokens hold all quads.
                unsafe { self.prepare(&pair, &part, group_quads) };
                let ahead = Ahead::new(&pair, part.quads.0 * 32..part.quads.1 * 32, count);
                let mut t = 0;
                while t < count {
                    ahead.fetch(kernel, t, TOGETHER);
                    // SAFETY: as above, for tokens below `count`.
                    let together = unsafe {
                        if t + TOGETHER <= count {
                            self.tile::<TOGETHER>(&tokens, t, &part);
                            TOGETHER
                        } else {
                            self.tile::<1>(&tokens, t, &part);
                            1
                        }
                    };
                    if last {
                        for (i, sums) in self.sums.iter().enumerate().skip(t).take(together) {
                            out.finish(first + i, row, sums);
                        }
                    }
                    t += together;
                }
                if last {
                    break;
                }
                start = part.quads.1;
            }
        }
    }

    /// Makes a part of two blocks ready.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C, and both blocks hold the part.
    #[inline(always)]
    unsafe fn prepare(&mut self, pair: &[Block<'_>; 2], part: &Part, group_quads: usize) {
        let (start, end) = part.quads;
        for (half, block) in pair.iter().enumerate() {
            let (mut quad, mut words) = (start, self.words.iter_mut());
            for (group, to) in (part.groups.0..part.groups.1).zip(&mut self.groups) {
                let close = end.min((group + 1) * group_quads);
                to.quads = close - quad;
                // SAFETY: AVX2, F16C and what is read of the block by the caller's promise; what is written are arrays of
                // the vectors' sizes, the half'th eight of sixteen.
                unsafe {
                    let mut starts = _mm256_setzero_si256();
                    for (quad, word) in (quad..close).zip(words.by_ref()) {
                        let w = _mm256_loadu_si256(block.words.as_ptr().add(quad * 32).cast());
                        let (magnitudes, signs) = (_mm256_abs_epi8(w), _mm256_cmpgt_epi8(_mm256_setzero_si256(), w));
                        _mm256_store_si256(word[half].magnitudes.as_mut_ptr().cast(), magnitudes);
                        _mm256_store_si256(word[half].signs.as_mut_ptr().cast(), signs);
                        let pairs = _mm256_maddubs_epi16(_mm256_and_si256(magnitudes, signs), _mm256_set1_epi8(1));
                        starts = _mm256_add_epi32(starts, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                    _mm256_store_si256(to.starts.as_mut_ptr().add(8 * half).cast(), starts);
                    let scales = _mm_loadu_si128(block.scales.as_ptr().add(group * 8).cast());
                    _mm256_store_ps(to.scales.as_mut_ptr().add(8 * half), _mm256_cvtph_ps(scales));
                }
                quad = close;
            }
        }
    }

    /// Multiplies the panel with tokens `first..first + T`.
    ///
    /// # Safety
    /// The processor has AVX2; the panel was made ready for the part, and these tokens hold it.
    #[inline(always)]
    unsafe fn tile<const T: usize>(&mut self, x: &Tokens<'_>, first: usize, part: &Part) {
        // SAFETY: by the caller's promise, and words and groups are read where `prepare` wrote for the part.
        unsafe {
            let mut values = x.values.as_ptr().add(first * x.stride + part.quads.0 * 4);
            let mut scales = x.scales.as_ptr().add(first * x.groups + part.groups.0);
            let sums = self.sums.as_mut_ptr().add(first).cast::<f32>();
            let waiting = self.dots.as_mut_ptr().add(first).cast::<i32>();
            let mut acc = [[_mm256_setzero_ps(); 2]; T];
            if part.quads.0 > 0 {
                for (i, acc) in acc.as_flattened_mut().iter_mut().enumerate() {
                    *acc = _mm256_loadu_ps(sums.add(8 * i));
                }
            }
            let mut word = self.words.as_ptr().cast::<Word>();
            let mut goes_on = part.goes_on;
            for (left, group) in (0..part.groups.1 - part.groups.0).rev().zip(&self.groups) {
                let starts = group.starts.as_ptr();
                let mut dots = [[_mm256_load_si256(starts.cast()), _mm256_load_si256(starts.add(8).cast())]; T];
                if goes_on {
                    for (i, dots) in dots.as_flattened_mut().iter_mut().enumerate() {
                        *dots = _mm256_add_epi32(*dots, _mm256_loadu_si256(waiting.add(8 * i).cast()));
                    }
                    goes_on = false;
                }
                let mut left_quads = group.quads;
                while left_quads >= UNROLLED {
                    for i in 0..UNROLLED {
                        multiply(word.add(2 * i), values.wrapping_add(4 * i), x.stride, &mut dots);
                    }
                    word = word.add(2 * UNROLLED);
                    values = values.wrapping_add(4 * UNROLLED);
                    left_quads -= UNROLLED;
                }
                for _ in 0..left_quads {
                    multiply(word, values, x.stride, &mut dots);
                    word = word.add(2);
                    values = values.wrapping_add(4);
                }
                if left == 0 && !part.closes {
                    for (i, dots) in dots.as_flattened().iter().enumerate() {
                        _mm256_storeu_si256(waiting.add(8 * i).cast(), *dots);
                    }
                } else {
                    for t in 0..T {
                        let x_scale = _mm256_set1_ps(*scales.add(t * x.groups));
                        for half in 0..2 {
                            let scale = _mm256_mul_ps(_mm256_load_ps(group.scales.as_ptr().add(8 * half)), x_scale);
                            let dots = _mm256_cvtepi32_ps(dots[t][half]);
                            acc[t][half] = _mm256_add_ps(acc[t][half], _mm256_mul_ps(dots, scale));
                        }
                    }
                }
                scales = scales.add(1);
            }
            for (i, acc) in acc.as_flattened().iter().enumerate() {
                _mm256_storeu_ps(sums.add(8 * i), *acc);
            }
        }
    }
}

/// Adds the products of a quad of 16 rows and the quads of `T` tokens, `stride` bytes apart.
///
/// # Safety
/// The processor has AVX2; there are two words and these quads.
#[inline(always)]
unsafe fn multiply<const T: usize>(words: *const Word, values: *const i8, stride: usize, dots: &mut [[__m256i; 2]; T]) {
    // SAFETY: by the caller's promise.
    unsafe {
        let [low, high] = [&*words, &*words.add(1)];
        for (t, dots) in dots.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(values.add(t * stride).cast::<i32>().read_unaligned());
            for (dots, word) in dots.iter_mut().zip([low, high]) {
                let magnitudes = _mm256_load_si256(word.magnitudes.as_ptr().cast());
                let signs = _mm256_load_si256(word.signs.as_ptr().cast());
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(x, signs));
                *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
    }
}
