//! NEON: the 32 bytes of a quad of eight rows are two registers, and no product needs a horizontal sum before its group
//! ends.
//!
//! Two instruction sets. With the dot product extension (`dotprod`: Cortex-A55 and A76, Apple M1, Neoverse, and later)
//! `sdot` adds four products to each of four 32-bit lanes and takes its activations from any quad of a register, so that
//! one load serves four quads. Without it, bytes are multiplied to 16 bits (`smull`), the next quad's products are added
//! there (`smlal`: |w|, |x| ≤ 127 keep two products below 2¹⁵), and neighbours go to 32 bits (`sadalp`).
//!
//! Softmax stays in registers. The rest of the float half is [`math`]'s, which the compiler vectorises for NEON as it
//! stands.

use core::arch::aarch64::*;
use core::arch::asm;

use super::drive::{Block, Kernel, Online, Step, Token, key_blocks};
use super::operations;
use crate::cache::{TILE, Tile};
use crate::math;

/// Every AArch64 processor with floating point has this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn new() -> Option<Self> {
        Some(Self(()))
    }
}

operations!(Neon, "neon");

/// The processor has the dot product extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeonDotprod(());

impl NeonDotprod {
    /// Only an operating system can tell at run time; without the standard library the target's features decide.
    pub(super) fn new() -> Option<Self> {
        #[cfg(any(test, feature = "std"))]
        let found = std::arch::is_aarch64_feature_detected!("dotprod");
        #[cfg(not(any(test, feature = "std")))]
        let found = cfg!(target_feature = "dotprod");
        found.then_some(Self(()))
    }
}

operations!(NeonDotprod, "neon,dotprod");

/// Bytes of a quad of eight rows.
const WORD: usize = 32;

/// The dot products of one group for `T` tokens: rows 0 to 3, and rows 4 to 7.
type Sums<const T: usize> = [[int32x4_t; 2]; T];

/// What the two instruction sets differ in.
trait Products {
    /// Dot products of `quads` interleaved words of eight rows with as many quads of each token.
    ///
    /// # Safety
    /// The processor has the instructions. `quads`·32 bytes are readable at `words`, `quads`·4 at each `x`.
    unsafe fn dots<const T: usize>(words: *const u8, x: [*const i8; T], quads: usize) -> Sums<T>;
}

/// `sum` + the products of each row of `w` with quad `LANE` of `x`. Its intrinsic is not stable yet.
///
/// # Safety
/// The processor has the dot product extension.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction exists by the caller's promise; it reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Products for NeonDotprod {
    #[inline(always)]
    unsafe fn dots<const T: usize>(words: *const u8, x: [*const i8; T], quads: usize) -> Sums<T> {
        /// One word by quad `LANE` of each token.
        ///
        /// # Safety
        /// The processor has the dot product extension; 32 bytes are readable at `word`.
        #[inline(always)]
        unsafe fn add<const LANE: usize, const T: usize>(sums: &mut Sums<T>, word: *const u8, x: &[int8x16_t; T]) {
            // SAFETY: by the caller's promise.
            unsafe {
                let w = [vld1q_s8(word.cast()), vld1q_s8(word.add(16).cast())];
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[0] = sdot::<LANE>(sums[0], w[0], *x);
                    sums[1] = sdot::<LANE>(sums[1], w[1], *x);
                }
            }
        }
        // SAFETY: the instructions and the memory by the caller's promise; loads end at quad + 4 ≤ quads, then at
        // quad + 1 ≤ quads.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; T];
            let mut quad = 0;
            while quad + 4 <= quads {
                let word = words.add(quad * WORD);
                let x = x.map(|x| vld1q_s8(x.add(quad * 4)));
                add::<0, T>(&mut sums, word, &x);
                add::<1, T>(&mut sums, word.add(WORD), &x);
                add::<2, T>(&mut sums, word.add(2 * WORD), &x);
                add::<3, T>(&mut sums, word.add(3 * WORD), &x);
                quad += 4;
            }
            while quad < quads {
                let x = x.map(|x| broadcast(x.add(quad * 4)));
                add::<0, T>(&mut sums, words.add(quad * WORD), &x);
                quad += 1;
            }
            sums
        }
    }
}

impl Products for Neon {
    #[inline(always)]
    unsafe fn dots<const T: usize>(words: *const u8, x: [*const i8; T], quads: usize) -> Sums<T> {
        // SAFETY: NEON and the memory by the caller's promise; loads end at quad + 2 ≤ quads, then at quad + 1 ≤ quads.
        unsafe {
            // Two lanes for each row: its even pairs of columns and its odd ones.
            let mut sums = [[vdupq_n_s32(0); 4]; T];
            let load = |quad: usize| {
                let word = words.add(quad * WORD).cast();
                [vld1q_s8(word), vld1q_s8(word.add(16))]
            };
            let mut quad = 0;
            while quad + 2 <= quads {
                let (w, next_w) = (load(quad), load(quad + 1));
                for t in 0..T {
                    let (q, next_q) = (broadcast(x[t].add(quad * 4)), broadcast(x[t].add(quad * 4 + 4)));
                    for half in 0..2 {
                        let low = vmull_s8(vget_low_s8(w[half]), vget_low_s8(q));
                        let low = vmlal_s8(low, vget_low_s8(next_w[half]), vget_low_s8(next_q));
                        let high = vmlal_high_s8(vmull_high_s8(w[half], q), next_w[half], next_q);
                        sums[t][2 * half] = vpadalq_s16(sums[t][2 * half], low);
                        sums[t][2 * half + 1] = vpadalq_s16(sums[t][2 * half + 1], high);
                    }
                }
                quad += 2;
            }
            if quad < quads {
                let w = load(quad);
                for t in 0..T {
                    let q = broadcast(x[t].add(quad * 4));
                    for half in 0..2 {
                        let low = vmull_s8(vget_low_s8(w[half]), vget_low_s8(q));
                        sums[t][2 * half] = vpadalq_s16(sums[t][2 * half], low);
                        sums[t][2 * half + 1] = vpadalq_s16(sums[t][2 * half + 1], vmull_high_s8(w[half], q));
                    }
                }
            }
            sums.map(|[a, b, c, d]| [vpaddq_s32(a, b), vpaddq_s32(c, d)])
        }
    }
}

/// Four activations, four times.
///
/// # Safety
/// The processor has NEON; four bytes are readable at `x`.
#[inline(always)]
unsafe fn broadcast(x: *const i8) -> int8x16_t {
    // SAFETY: by the caller's promise.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned())) }
}

/// [`Kernel::rows8`] with the products of `P`.
///
/// # Safety
/// The processor has the instructions of `P`.
#[inline(always)]
unsafe fn rows8<P: Products, const T: usize>(block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
    let quads = block.quads(8, &x);
    // SAFETY: the instructions by the caller's promise. `quads` counts only what all slices hold: words are read below
    // quads·32 bytes, activations below quads·4, scales below ⌈quads/group_quads⌉ entries of each slice.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 2]; T];
        let (mut quad, mut group) = (0, 0);
        while quad < quads {
            let count = block.group_quads.min(quads - quad);
            let sums =
                P::dots(block.words.as_ptr().add(quad * WORD), x.map(|x| x.values.as_ptr().add(quad * 4)), count);
            let w_scales = vld1q_u16(block.scales.as_ptr().add(group * 8));
            let w_scales = vreinterpretq_f16_u16(w_scales);
            let w_scales = [vcvt_f32_f16(vget_low_f16(w_scales)), vcvt_high_f32_f16(w_scales)];
            for t in 0..T {
                let x_scale = *x[t].scales.as_ptr().add(group);
                for half in 0..2 {
                    // Not fused: two roundings, as in the contract.
                    let scale = vmulq_n_f32(w_scales[half], x_scale);
                    acc[t][half] = vaddq_f32(acc[t][half], vmulq_f32(vcvtq_f32_s32(sums[t][half]), scale));
                }
            }
            quad += count;
            group += 1;
        }
        acc.map(|acc| {
            let mut out = [0f32; 8];
            vst1q_f32(out.as_mut_ptr(), acc[0]);
            vst1q_f32(out.as_mut_ptr().add(4), acc[1]);
            out
        })
    }
}

/// [`Kernel::scores`] with the products of `P`.
///
/// # Safety
/// The processor has the instructions of `P`.
#[inline(always)]
unsafe fn scores<P: Products>(keys: &[u8], query: &[i8], dots: &mut [i32; TILE]) {
    let (quads, words) = key_blocks(keys, query);
    for (dots, words) in dots.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        // SAFETY: the instructions by the caller's promise; `key_blocks` says that query and blocks hold `quads`, and an
        // array of eight has room for two registers.
        unsafe {
            let [[low, high]] = P::dots(words.as_ptr(), [query.as_ptr()], quads);
            vst1q_s32(dots.as_mut_ptr(), low);
            vst1q_s32(dots.as_mut_ptr().add(4), high);
        }
    }
}

/// [`Kernel::mix8`] with the products of `P`.
///
/// # Safety
/// The processor has the instructions of `P`.
#[inline(always)]
unsafe fn mix8<P: Products>(values: &[u8], weights: &[i8; TILE], step: Step, out: &mut [f32; 8]) {
    let Some(words) = values.first_chunk::<{ TILE / 4 * WORD }>() else { return };
    // SAFETY: the instructions by the caller's promise; both arrays have TILE / 4 quads, `out` has two registers.
    unsafe {
        let [dots] = P::dots(words.as_ptr(), [weights.as_ptr()], TILE / 4);
        for (half, dots) in dots.into_iter().enumerate() {
            let out = out.as_mut_ptr().add(4 * half);
            let old = vmulq_n_f32(vld1q_f32(out), step.rescale);
            vst1q_f32(out, vaddq_f32(old, vmulq_n_f32(vcvtq_f32_s32(dots), step.scale)));
        }
    }
}

/// Registers of a tile's floats.
const FOURS: usize = TILE / 4;

/// [`math::exp2`] of four numbers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn exp2(x: float32x4_t) -> float32x4_t {
    // SAFETY: NEON by the caller's promise; nothing here touches memory.
    unsafe {
        let round = vdupq_n_f32(math::ROUND);
        let x = vmaxnmq_f32(x, vdupq_n_f32(-125.0));
        let shifted = vaddq_f32(x, round);
        let r = vsubq_f32(x, vsubq_f32(shifted, round));
        let mut p = vdupq_n_f32(math::EXP2[0]);
        for c in math::EXP2.into_iter().skip(1) {
            // Not fused.
            p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(c));
        }
        let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted));
        vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent))
    }
}

/// The largest of a tile's numbers that is not NaN and above `floor`, else `floor`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn largest(x: [float32x4_t; FOURS], floor: f32) -> f32 {
    // SAFETY: NEON by the caller's promise. `maxnm` prefers a number to a quiet NaN, and arithmetic makes no other.
    unsafe {
        let mut most = vdupq_n_f32(floor);
        for x in x {
            most = vmaxnmq_f32(most, x);
        }
        vmaxnmvq_f32(most)
    }
}

/// The lower halves of eight words, as bytes.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn halves(a: uint32x4_t, b: uint32x4_t) -> int8x16_t {
    // SAFETY: NEON by the caller's promise; nothing here touches memory.
    unsafe { vreinterpretq_s8_u16(vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b))) }
}

/// [`math::quantize`] and the sum of the bytes, with the same results: only how they are found differs.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn quantize(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    let (chunks, tail) = x.as_chunks::<8>();
    let (q_chunks, q_tail) = q.as_chunks_mut::<8>();
    // SAFETY: NEON by the caller's promise; loads and stores lie within arrays of eight.
    unsafe {
        let mut most = vdupq_n_f32(0.0);
        for x in chunks {
            for half in 0..2 {
                let x = vabsq_f32(vld1q_f32(x.as_ptr().add(4 * half)));
                // Unlike `maxnm` this passes over signalling NaN too.
                most = vbslq_f32(vcgtq_f32(x, most), x, most);
            }
        }
        let mut absmax = vmaxvq_f32(most);
        for x in tail {
            absmax = if x.abs() > absmax { x.abs() } else { absmax };
        }
        let Some((inverse, scale)) = math::steps(absmax) else {
            q.fill(0);
            return (0.0, 0);
        };
        let mut sums = vdup_n_s32(0);
        for (q, x) in q_chunks.iter_mut().zip(chunks) {
            let mut bits = [vdupq_n_u32(0); 2];
            for (half, bits) in bits.iter_mut().enumerate() {
                let scaled = vmulq_n_f32(vld1q_f32(x.as_ptr().add(4 * half)), inverse);
                *bits = vreinterpretq_u32_f32(vaddq_f32(scaled, vdupq_n_f32(math::ROUND)));
            }
            let bytes = vmovn_s16(vreinterpretq_s16_s8(halves(bits[0], bits[1])));
            vst1_s8(q.as_mut_ptr(), bytes);
            sums = vpadal_s16(sums, vpaddl_s8(bytes));
        }
        let mut sum = vaddv_s32(sums);
        for (q, &x) in q_tail.iter_mut().zip(tail) {
            *q = math::round(x, inverse);
            sum += i32::from(*q);
        }
        (scale, sum)
    }
}

/// [`super::drive::softmax`], all of it in registers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn softmax<const PARTIAL: bool>(
    dots: &[i32; TILE],
    tile: &Tile<'_>,
    scale: f32,
    visible: usize,
    online: &mut Online,
    weights: &mut [i8; TILE],
) -> Step {
    // SAFETY: NEON by the caller's promise; loads and stores lie within arrays of TILE.
    unsafe {
        let zero = vdupq_n_f32(0.0);
        let (mut scores, mut p, mut w) = ([zero; FOURS], [zero; FOURS], [zero; FOURS]);
        let mut seen = [vdupq_n_u32(0); FOURS];
        for i in 0..FOURS {
            let key_scales = vmulq_n_f32(vld1q_f32(tile.key_scales.as_ptr().add(4 * i)), scale);
            scores[i] = vmulq_f32(vcvtq_f32_s32(vld1q_s32(dots.as_ptr().add(4 * i))), key_scales);
            if PARTIAL {
                let lanes = vld1q_s32([0, 1, 2, 3].as_ptr());
                seen[i] = vcltq_s32(lanes, vdupq_n_s32(visible as i32 - 4 * i as i32));
                scores[i] = vbslq_f32(seen[i], scores[i], vdupq_n_f32(f32::NEG_INFINITY));
            }
        }
        let new_largest = largest(scores, online.largest);
        let rescale = math::exp2(online.largest - new_largest);
        for i in 0..FOURS {
            p[i] = exp2(vsubq_f32(scores[i], vdupq_n_f32(new_largest)));
            w[i] = vmulq_f32(p[i], vld1q_f32(tile.value_scales.as_ptr().add(4 * i)));
            if PARTIAL {
                (p[i], w[i]) = (vbslq_f32(seen[i], p[i], zero), vbslq_f32(seen[i], w[i], zero));
            }
        }
        // Eight lanes, in ascending order, then combined.
        let (mut low, mut high) = (p[0], p[1]);
        for pair in p.as_chunks::<2>().0.iter().skip(1) {
            (low, high) = (vaddq_f32(low, pair[0]), vaddq_f32(high, pair[1]));
        }
        let fours = vaddq_f32(low, high);
        let twos = vadd_f32(vget_low_f32(fours), vget_high_f32(fours));
        let sum = vget_lane_f32::<0>(twos) + vget_lane_f32::<1>(twos);
        *online = Online { largest: new_largest, total: online.total * rescale + sum };

        let Some((inverse, weight_scale)) = math::steps(largest(w, 0.0)) else {
            weights.fill(0);
            return Step { rescale, scale: 0.0 };
        };
        let mut bits = [vdupq_n_u32(0); FOURS];
        for (bits, w) in bits.iter_mut().zip(w) {
            *bits = vreinterpretq_u32_f32(vaddq_f32(vmulq_n_f32(w, inverse), vdupq_n_f32(math::ROUND)));
        }
        for (weights, [a, b, c, d]) in weights.as_chunks_mut::<16>().0.iter_mut().zip(bits.as_chunks().0) {
            let (low, high) = (halves(*a, *b), halves(*c, *d));
            vst1q_s8(weights.as_mut_ptr(), vuzp1q_s8(low, high));
        }
        Step { rescale, scale: weight_scale }
    }
}

/// `operations` compiles everything for these features already, but not the closures in between, and an assembler looks at
/// the function that it is in.
macro_rules! kernel {
    ($set:ident, $features:literal) => {
        impl Kernel for $set {
            type Scratch = ();

            #[inline(always)]
            fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
                #[inline]
                #[target_feature(enable = $features)]
                fn with_features<const T: usize>(block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
                    // SAFETY: this function has the features.
                    unsafe { rows8::<$set, T>(block, x) }
                }
                // SAFETY: the processor has the instructions (`new`).
                unsafe { with_features(block, x) }
            }

            #[inline(always)]
            fn scores(self, keys: &[u8], query: &[i8], _start: i32, _first: bool, dots: &mut [i32; TILE]) {
                #[inline]
                #[target_feature(enable = $features)]
                fn with_features(keys: &[u8], query: &[i8], dots: &mut [i32; TILE]) {
                    // SAFETY: this function has the features.
                    unsafe { scores::<$set>(keys, query, dots) }
                }
                // SAFETY: the processor has the instructions (`new`).
                unsafe { with_features(keys, query, dots) }
            }

            #[inline(always)]
            fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, _first: bool, out: &mut [f32; 8]) {
                #[inline]
                #[target_feature(enable = $features)]
                fn with_features(values: &[u8], weights: &[i8; TILE], step: Step, out: &mut [f32; 8]) {
                    // SAFETY: this function has the features.
                    unsafe { mix8::<$set>(values, weights, step, out) }
                }
                // SAFETY: the processor has the instructions (`new`).
                unsafe { with_features(values, weights, step, out) }
            }

            #[inline(always)]
            fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
                // SAFETY: the processor has NEON (`new`).
                unsafe { quantize(x, q) }
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
                let mut steps = [Step::default(); N];
                for i in 0..N {
                    let (online, weights) = (&mut online[i], &mut weights[i]);
                    // SAFETY: the processor has NEON (`new`).
                    steps[i] = unsafe {
                        if visible[i] < TILE {
                            softmax::<true>(&dots[i], tile, scales[i], visible[i], online, weights)
                        } else {
                            softmax::<false>(&dots[i], tile, scales[i], visible[i], online, weights)
                        }
                    };
                }
                steps
            }
        }
    };
}

kernel!(Neon, "neon");
kernel!(NeonDotprod, "neon,dotprod");
