//! AVX2: 32 multiply-adds for each word of eight rows, without horizontal sums.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours into 16 bits. The unsigned operand is |w|, the
//! signed one x with w's sign (`vpsignb`): the same product. |w|, |x| ≤ 127 keep two products below 2¹⁵, so the
//! saturating addition never saturates. This is how one token, which waits for memory, and keys are multiplied; for many
//! tokens [`panel`](super::panel) makes the weights ready first.

use core::arch::x86_64::*;

use super::drive::{Block, Kernel, Online, Output, Step, Token};
use super::panel::Panel;
use super::{Activations, cpu, operations};
use crate::cache::{TILE, Tile};
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

/// [`math::round`] of 32 numbers, as bytes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn round(x: [__m256; 4], inverse: f32) -> __m256i {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe {
        let mut bytes = [_mm256_setzero_si256(); 4];
        for (bytes, x) in bytes.iter_mut().zip(x) {
            let scaled = _mm256_mul_ps(x, _mm256_set1_ps(inverse));
            let rounded = _mm256_castps_si256(_mm256_add_ps(scaled, _mm256_set1_ps(math::ROUND)));
            *bytes = _mm256_and_si256(rounded, _mm256_set1_epi32(0xFF));
        }
        let [a, b, c, d] = bytes;
        // Packing works within halves of the register; the permutation puts quads back in order.
        let quads = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        _mm256_permutevar8x32_epi32(quads, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// Loads 32 numbers.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn load(x: &[f32; 32]) -> [__m256; 4] {
    let x = x.as_ptr();
    // SAFETY: AVX2 by the caller's promise; the array has 32 elements.
    unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8)), _mm256_loadu_ps(x.add(16)), _mm256_loadu_ps(x.add(24))] }
}

/// [`math::quantize`] and the sum of the bytes, with the same results: only how they are found differs.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    let (chunks, tail) = x.as_chunks::<32>();
    let (q_chunks, q_tail) = q.as_chunks_mut::<32>();
    // SAFETY: AVX2 by the caller's promise; loads and stores lie within arrays of 32.
    unsafe {
        let mut absmax = math::max(tail, 0.0, f32::abs);
        for x in chunks {
            let mut x = load(x);
            for x in &mut x {
                *x = _mm256_andnot_ps(_mm256_set1_ps(-0.0), *x);
            }
            absmax = largest_lane(larger(x, _mm256_set1_ps(absmax)));
        }
        let Some((inverse, scale)) = math::steps(absmax) else {
            q.fill(0);
            return (0.0, 0);
        };
        let mut sums = _mm256_setzero_si256();
        for (q, x) in q_chunks.iter_mut().zip(chunks) {
            sums = _mm256_add_epi32(sums, store_rounded(load(x), inverse, q));
        }
        let mut sum = sum_lanes(sums);
        for (q, &x) in q_tail.iter_mut().zip(tail) {
            *q = math::round(x, inverse);
            sum += i32::from(*q);
        }
        (scale, sum)
    }
}

/// [`Kernel::quantize_groups`], four at a time: what is one number for each group is a lane.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn quantize_groups(
    x: &[f32],
    group: usize,
    q: &mut [i8],
    scales: &mut [f32],
    starts: &mut [i32],
) -> usize {
    if !group.is_multiple_of(32) {
        return 0;
    }
    let mut done = 0;
    let fours = x.chunks_exact(4 * group).zip(q.chunks_exact_mut(4 * group));
    for ((x, q), scales) in fours.zip(scales.as_chunks_mut::<4>().0) {
        let mut sums = [0; 4];
        // SAFETY: the caller's promise.
        if !unsafe { quantize_four(x, group, q, scales, &mut sums) } {
            let groups = x.chunks_exact(group).zip(q.chunks_exact_mut(group));
            for ((x, q), (scale, sum)) in groups.zip(scales.iter_mut().zip(&mut sums)) {
                // SAFETY: the caller's promise.
                (*scale, *sum) = unsafe { quantize(x, q) };
            }
        }
        for (start, sum) in starts.iter_mut().skip(done).zip(sums) {
            *start = sum.wrapping_mul(-128);
        }
        done += 4;
    }
    done
}

/// [`quantize`] of four groups of whole 32s; false if one of them counts as zero.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn quantize_four(x: &[f32], group: usize, q: &mut [i8], scales: &mut [f32; 4], sums: &mut [i32; 4]) -> bool {
    // SAFETY: AVX2 by the caller's promise; loads and stores lie within arrays of 32 or 4.
    unsafe {
        let mut absmax = [_mm256_setzero_ps(); 4];
        for (absmax, x) in absmax.iter_mut().zip(x.chunks_exact(group)) {
            for x in x.as_chunks::<32>().0 {
                let mut x = load(x);
                for x in &mut x {
                    *x = _mm256_andnot_ps(_mm256_set1_ps(-0.0), *x);
                }
                *absmax = larger(x, *absmax);
            }
        }
        // [`math::steps`].
        let absmax = across::<false, 4>(&absmax);
        let inverse = _mm_div_ps(_mm_set1_ps(127.0), absmax);
        if _mm_movemask_ps(_mm_cmplt_ps(inverse, _mm_set1_ps(f32::INFINITY))) != 0b1111 {
            return false;
        }
        let mut inverses = [0.0; 4];
        _mm_storeu_ps(inverses.as_mut_ptr(), inverse);
        _mm_storeu_ps(scales.as_mut_ptr(), _mm_div_ps(absmax, _mm_set1_ps(127.0)));
        let groups = x.chunks_exact(group).zip(q.chunks_exact_mut(group));
        for ((x, q), (inverse, sum)) in groups.zip(inverses.into_iter().zip(sums)) {
            let mut fours = _mm256_setzero_si256();
            for (q, x) in q.as_chunks_mut::<32>().0.iter_mut().zip(x.as_chunks::<32>().0) {
                fours = _mm256_add_epi32(fours, store_rounded(load(x), inverse, q));
            }
            *sum = sum_lanes(fours);
        }
        true
    }
}

/// [`round`]s 32 numbers, stores the bytes and sums them in fours.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn store_rounded(x: [__m256; 4], inverse: f32, q: &mut [i8; 32]) -> __m256i {
    // SAFETY: AVX2 by the caller's promise; the store is of an array of 32 bytes.
    unsafe {
        let bytes = round(x, inverse);
        _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

/// The sum of eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sum_lanes(x: __m256i) -> i32 {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe {
        let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let x = _mm_add_epi32(x, _mm_unpackhi_epi64(x, x));
        _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<1>(x)))
    }
}

/// [`math::exp2`] of eight numbers.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn exp2(x: __m256) -> __m256 {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe {
        let round = _mm256_set1_ps(math::ROUND);
        let x = _mm256_max_ps(x, _mm256_set1_ps(-125.0));
        let shifted = _mm256_add_ps(x, round);
        let r = _mm256_sub_ps(x, _mm256_sub_ps(shifted, round));
        let mut p = _mm256_set1_ps(math::EXP2[0]);
        for c in math::EXP2.into_iter().skip(1) {
            p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(c));
        }
        let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
    }
}

/// The largest lane of a register without NaN.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn largest_lane(x: __m256) -> f32 {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe {
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
}

/// Of four registers' lanes the largest one each that is not NaN and above `floor`, else `floor`.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn larger(x: [__m256; 4], floor: __m256) -> __m256 {
    // SAFETY: AVX2 by the caller's promise. `max` gives its second operand where one is NaN: never the NaN.
    unsafe {
        let (a, b) = (_mm256_max_ps(x[0], floor), _mm256_max_ps(x[1], floor));
        _mm256_max_ps(_mm256_max_ps(x[2], a), _mm256_max_ps(x[3], b))
    }
}

/// [`Step::apply`].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn apply(step: Step, dots: __m256i, out: &mut [f32; 8]) {
    // SAFETY: AVX2 by the caller's promise; load and store are of arrays of eight.
    unsafe {
        let old = _mm256_mul_ps(_mm256_loadu_ps(out.as_ptr()), _mm256_set1_ps(step.rescale));
        let new = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_set1_ps(step.scale));
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(old, new));
    }
}

/// Of up to four registers each one's lanes, reduced to one by sums in [`math::combine`]'s order, or to the largest.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn across<const SUM: bool, const N: usize>(x: &[__m256; N]) -> __m128 {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe {
        let mut fours = [_mm_setzero_ps(); 4];
        for (four, x) in fours.iter_mut().zip(x) {
            *four = both::<SUM>(_mm256_castps256_ps128(*x), _mm256_extractf128_ps::<1>(*x));
        }
        let [a, b, c, d] = fours;
        let ab = both::<SUM>(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let cd = both::<SUM>(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        both::<SUM>(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
    }
}

/// The sums of lanes, or the larger ones.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn both<const SUM: bool>(a: __m128, b: __m128) -> __m128 {
    // SAFETY: AVX2 by the caller's promise; nothing here touches memory.
    unsafe { if SUM { _mm_add_ps(a, b) } else { _mm_max_ps(a, b) } }
}

/// [`super::drive::softmax`] of up to four queries, all of it in registers: what is one number for each query is a lane.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn softmax<const N: usize>(
    dots: &[[i32; TILE]; N],
    tile: &Tile<'_>,
    scales: [f32; N],
    visible: [usize; N],
    online: &mut [Online; N],
    weights: &mut [[i8; TILE]; N],
) -> [Step; N] {
    // SAFETY: the caller's promise.
    unsafe {
        if visible.iter().any(|&visible| visible < TILE) {
            softmax_seen::<true, N>(dots, tile, scales, visible, online, weights)
        } else {
            softmax_seen::<false, N>(dots, tile, scales, visible, online, weights)
        }
    }
}

/// [`softmax`], with or without hidden positions.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn softmax_seen<const PARTIAL: bool, const N: usize>(
    dots: &[[i32; TILE]; N],
    tile: &Tile<'_>,
    scales: [f32; N],
    visible: [usize; N],
    online: &mut [Online; N],
    weights: &mut [[i8; TILE]; N],
) -> [Step; N] {
    const EIGHTS: usize = TILE / 8;
    const { assert!(N <= 4) };
    let (mut old, mut totals) = ([0.0; 4], [0.0; 4]);
    for i in 0..N {
        (old[i], totals[i]) = (online[i].largest, online[i].total);
    }
    // SAFETY: AVX2 by the caller's promise; loads and stores lie within arrays of TILE or of 4.
    unsafe {
        // Loops, not closures: those would be compiled without the vector instructions.
        let zero = _mm256_setzero_ps();
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let (mut scores, mut seen) = ([[zero; EIGHTS]; N], [[zero; EIGHTS]; N]);
        let mut largest = [zero; N];
        for i in 0..N {
            for j in 0..EIGHTS {
                let key_scales = _mm256_loadu_ps(tile.key_scales.as_ptr().add(8 * j));
                let dots = _mm256_cvtepi32_ps(_mm256_loadu_si256(dots[i].as_ptr().add(8 * j).cast()));
                scores[i][j] = _mm256_mul_ps(dots, _mm256_mul_ps(key_scales, _mm256_set1_ps(scales[i])));
                if PARTIAL {
                    let last = _mm256_set1_epi32(visible[i].min(TILE) as i32 - 8 * j as i32);
                    seen[i][j] = _mm256_castsi256_ps(_mm256_cmpgt_epi32(last, lanes));
                    scores[i][j] = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), scores[i][j], seen[i][j]);
                }
            }
            largest[i] = larger(scores[i], _mm256_set1_ps(old[i]));
        }
        let new = across::<false, N>(&largest);
        let mut largest = [0.0; 4];
        _mm_storeu_ps(largest.as_mut_ptr(), new);
        let rescale = _mm_sub_ps(_mm_loadu_ps(old.as_ptr()), new);
        let rescale = _mm256_castps256_ps128(exp2(_mm256_zextps128_ps256(rescale)));

        let (mut sums, mut absmax) = ([zero; N], [zero; N]);
        for i in 0..N {
            let mut p = [zero; EIGHTS];
            for j in 0..EIGHTS {
                p[j] = exp2(_mm256_sub_ps(scores[i][j], _mm256_set1_ps(largest[i])));
                // From here on weights.
                scores[i][j] = _mm256_mul_ps(p[j], _mm256_loadu_ps(tile.value_scales.as_ptr().add(8 * j)));
                if PARTIAL {
                    p[j] = _mm256_and_ps(p[j], seen[i][j]);
                    scores[i][j] = _mm256_and_ps(scores[i][j], seen[i][j]);
                }
            }
            sums[i] = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(p[0], p[1]), p[2]), p[3]);
            absmax[i] = larger(scores[i], zero);
        }
        let before = _mm_mul_ps(_mm_loadu_ps(totals.as_ptr()), rescale);
        _mm_storeu_ps(totals.as_mut_ptr(), _mm_add_ps(before, across::<true, N>(&sums)));

        // [`math::steps`]; without them inverse and scale are 0, and so are the weights.
        let absmax = across::<false, N>(&absmax);
        let inverse = _mm_div_ps(_mm_set1_ps(127.0), absmax);
        let any = _mm_cmplt_ps(inverse, _mm_set1_ps(f32::INFINITY));
        let (mut inverses, mut steps, mut rescales) = ([0.0; 4], [0.0; 4], [0.0; 4]);
        _mm_storeu_ps(inverses.as_mut_ptr(), _mm_and_ps(any, inverse));
        _mm_storeu_ps(steps.as_mut_ptr(), _mm_and_ps(any, _mm_div_ps(absmax, _mm_set1_ps(127.0))));
        _mm_storeu_ps(rescales.as_mut_ptr(), rescale);
        let mut out = [Step::default(); N];
        for i in 0..N {
            _mm256_storeu_si256(weights[i].as_mut_ptr().cast(), round(scores[i], inverses[i]));
            online[i] = Online { largest: largest[i], total: totals[i] };
            out[i] = Step { rescale: rescales[i], scale: steps[i] };
        }
        out
    }
}

/// Bytes of a quad of eight rows.
const WORD: usize = 32;

/// How far ahead weights are fetched that are used only once. The processor's own prefetching stops at the end of every page:
/// a page ahead made decoding 1.2 (in cache) to 1.4 times (from memory) as fast, three of them (a third of the first-level
/// cache) 1.1 to 1.2 times again in cache.
const AHEAD: usize = 3 * PAGE;

/// How far ahead keys and values are fetched: attention of one token became 1.9 times as fast.
const PAGE: usize = 4096;

/// Fetches weights that will be needed soon, to the first-level cache.
#[inline(always)]
pub(super) fn prefetch(words: &[u8], at: usize) {
    // SAFETY: every x86-64 processor has SSE; a prefetch reads nothing and cannot fault, wherever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at + AHEAD).cast()) }
}

/// Fetches one line to the second-level cache.
#[inline(always)]
pub(super) fn prefetch_line(at: *const u8) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// Fetches keys or values that will be needed soon, to the second-level cache: softmax delays them so much that the first
/// has too few buffers for what is under way. (Weights come 1.2 times as fast to the first.)
#[inline(always)]
pub(super) fn prefetch_cached(words: &[u8], at: usize) {
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(words.as_ptr().wrapping_add(at + PAGE).cast()) }
}

impl Kernel for Avx2 {
    type Scratch = Panel;

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch_line(at);
    }

    #[inline(always)]
    fn pair(
        self,
        panel: &mut Panel,
        blocks: [Block<'_>; 2],
        x: &Activations<'_>,
        count: usize,
        row: usize,
        out: &mut Output<'_, '_>,
    ) {
        // SAFETY: the processor has AVX2 and F16C (`new`).
        unsafe { panel.multiply(self, blocks, x, count, row, out) }
    }

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
    fn scores(self, keys: &[u8], query: &[i8], _start: i32, first: bool, dots: &mut [i32; TILE]) {
        let (quads, words) = super::drive::key_blocks(keys, query);
        // SAFETY: the processor has AVX2 (`new`); `key_blocks` says that query and blocks hold as many quads.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); TILE / 8];
            for quad in 0..quads {
                let x = _mm256_set1_epi32(query.as_ptr().add(quad * 4).cast::<i32>().read_unaligned());
                let x_abs = _mm256_abs_epi8(x);
                if first && quad % 2 == 0 {
                    for words in words {
                        prefetch_cached(words, quad * WORD);
                    }
                }
                for (sum, words) in sums.iter_mut().zip(words) {
                    let w = _mm256_loadu_si256(words.as_ptr().add(quad * WORD).cast());
                    let pairs = _mm256_maddubs_epi16(x_abs, _mm256_sign_epi8(w, x));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
            }
            for (dots, sum) in dots.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                _mm256_storeu_si256(dots.as_mut_ptr().cast(), sum);
            }
        }
    }

    #[inline(always)]
    fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, first: bool, out: &mut [f32; 8]) {
        let Some(words) = values.first_chunk::<{ TILE / 4 * WORD }>() else { return };
        // SAFETY: the processor has AVX2 (`new`); both arrays have TILE / 4 quads.
        unsafe {
            let mut sums = _mm256_setzero_si256();
            for quad in 0..TILE / 4 {
                if first && quad % 2 == 0 {
                    prefetch_cached(words, quad * WORD);
                }
                let w = _mm256_loadu_si256(words.as_ptr().add(quad * WORD).cast());
                let x = _mm256_set1_epi32(weights.as_ptr().add(quad * 4).cast::<i32>().read_unaligned());
                let pairs = _mm256_maddubs_epi16(x, w);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            apply(step, sums, out);
        }
    }

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
        // SAFETY: the processor has AVX2 (`new`).
        unsafe { softmax(dots, tile, scales, visible, online, weights) }
    }

    #[inline(always)]
    fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
        // SAFETY: the processor has AVX2 (`new`).
        unsafe { quantize(x, q) }
    }

    #[inline(always)]
    fn quantize_groups(self, x: &[f32], group: usize, q: &mut [i8], scales: &mut [f32], starts: &mut [i32]) -> usize {
        // SAFETY: the processor has AVX2 (`new`).
        unsafe { quantize_groups(x, group, q, scales, starts) }
    }
}
