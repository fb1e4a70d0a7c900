//! NEON: the 32 bytes of a quad of eight rows are two registers, and no product needs a horizontal sum before its group
//! ends.
//!
//! Two instruction sets. With the dot product extension (`dotprod`: Cortex-A55 and A76, Apple M1, Neoverse, and later)
//! `sdot` adds four products to each of four 32-bit lanes and takes its activations from any quad of a register, so that
//! one load serves four quads. Without it, bytes are multiplied to 16 bits (`smull`), the next quad's products are added
//! there (`smlal`: |w|, |x| ≤ 127 keep two products below 2¹⁵), and neighbours go to 32 bits (`sadalp`).
//!
//! The float half is [`math`](crate::math)'s, which the compiler vectorises for NEON as it stands.

use core::arch::aarch64::*;
use core::arch::asm;

use super::drive::{Block, Kernel, Token};
use super::operations;

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

/// [`Kernel::dot8`] with the products of `P`.
///
/// # Safety
/// The processor has the instructions of `P`.
#[inline(always)]
unsafe fn dot8<P: Products>(words: &[u8], x: &[i8]) -> [i32; 8] {
    let quads = (words.len() / WORD).min(x.len() / 4);
    // SAFETY: the instructions by the caller's promise; both slices hold `quads`, the array two registers.
    unsafe {
        let [[low, high]] = P::dots(words.as_ptr(), [x.as_ptr()], quads);
        let mut out = [0i32; 8];
        vst1q_s32(out.as_mut_ptr(), low);
        vst1q_s32(out.as_mut_ptr().add(4), high);
        out
    }
}

/// Signed products need no sum, and unsigned ones no other instruction. `operations` compiles everything for these
/// features already, but not the closures in between, and an assembler looks at the function that it is in.
macro_rules! kernel {
    ($set:ident, $features:literal) => {
        impl Kernel for $set {
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
            fn dot8(self, words: &[u8], x: &[i8], _sum: i32) -> [i32; 8] {
                #[inline]
                #[target_feature(enable = $features)]
                fn with_features(words: &[u8], x: &[i8]) -> [i32; 8] {
                    // SAFETY: this function has the features.
                    unsafe { dot8::<$set>(words, x) }
                }
                // SAFETY: the processor has the instructions (`new`).
                unsafe { with_features(words, x) }
            }
        }
    };
}

kernel!(Neon, "neon");
kernel!(NeonDotprod, "neon,dotprod");
