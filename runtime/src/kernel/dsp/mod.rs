//! Cortex-M with the DSP extension and a single-precision FPU (M4F, M7, M33): four multiply-adds in three instructions.
//!
//! `SMLAD` multiplies two pairs of 16-bit halves and adds both products. Weights lie *borrow-adjusted*
//! ([`Layout::Dsp`]), activations come expanded ([`Layout::expand`]), and then
//!
//! ```text
//! acc = SMLAD(word,         (x3, x1),                   acc)
//! acc = SMLAD(SXTB16(word), (256·x2 − x3, 256·x0 − x1), acc)      adds 256·(w0·x0 + w1·x1 + w2·x2 + w3·x3)
//! ```
//!
//! Sums of up to 512 products, times 256, stay below 2³¹. The FPU divides by 256 while it converts to f32, and reads f16
//! scales. Its `VMLA` rounds the product before it adds: the contract's two operations.
//!
//! The intrinsics for these instructions are not stable, so the loops are assembly. `build.rs` says where they exist.

/// Lines of assembly with the same operation, for registers named in lists.
macro_rules! each {
    ($op:literal, [$($d:literal)*], []) => {
        concat!($($op, " ", $d, ", ", $d, "\n",)*)
    };
    ($op:literal, [$($d:literal)*], $n:literal) => {
        concat!($($op, " ", $d, ", ", $d, ", ", $n, "\n",)*)
    };
    ($op:literal, [$($d:literal)*], [$($n:literal)*]) => {
        concat!($($op, " ", $d, ", ", $d, ", ", $n, "\n",)*)
    };
    ($op:literal, [$($d:literal)*], [$($n:literal)*], $m:literal) => {
        concat!($($op, " ", $d, ", ", $n, ", ", $m, "\n",)*)
    };
    ($op:literal, [$($d:literal)*], [$($n:literal)*], [$($m:literal)*]) => {
        concat!($($op, " ", $d, ", ", $n, ", ", $m, "\n",)*)
    };
}

/// Four rows' quad times a vector's: r0 words, r1 vector (both advance), r8–r11 sums; r2–r7 are used up. 56 bytes of code.
macro_rules! quad {
    () => {
        quad!("[r1], #8")
    };
    // The sums start here.
    (first) => {
        quad!(first "[r1], #8")
    };
    (first $x:literal) => {
        concat!(
            "ldmia.w r0!, {{r4, r5, r6, r7}}\n ldrd r2, r3, ", $x, "\n",
            "smuad r8, r4, r2\n smuad r9, r5, r2\n smuad r10, r6, r2\n smuad r11, r7, r2\n",
            quad!(evens)
        )
    };
    // The vector's quad at $x.
    ($x:literal) => {
        concat!(
            "ldmia.w r0!, {{r4, r5, r6, r7}}\n ldrd r2, r3, ", $x, "\n",
            "smlad r8, r4, r2, r8\n smlad r9, r5, r2, r9\n smlad r10, r6, r2, r10\n smlad r11, r7, r2, r11\n",
            quad!(evens)
        )
    };
    (evens) => {
        concat!(
            "sxtb16 r4, r4\n sxtb16 r5, r5\n sxtb16 r6, r6\n sxtb16 r7, r7\n",
            "smlad r8, r4, r3, r8\n smlad r9, r5, r3, r9\n smlad r10, r6, r3, r10\n smlad r11, r7, r3, r11\n"
        )
    };
}

/// The same from staged weights: of every quad both words lie behind one another, so that nothing is left to unpack.
macro_rules! staged_quad {
    () => {
        concat!(
            "ldmia r0!, {{r4, r5, r6, r7}}\n ldrd r2, r3, [r1], #8\n",
            "smlad r8, r4, r2, r8\n smlad r9, r5, r2, r9\n smlad r10, r6, r2, r10\n smlad r11, r7, r2, r11\n",
            staged_quad!(evens)
        )
    };
    (first) => {
        concat!(
            "ldmia r0!, {{r4, r5, r6, r7}}\n ldrd r2, r3, [r1], #8\n",
            "smuad r8, r4, r2\n smuad r9, r5, r2\n smuad r10, r6, r2\n smuad r11, r7, r2\n",
            staged_quad!(evens)
        )
    };
    (evens) => {
        concat!(
            "ldmia r0!, {{r4, r5, r6, r7}}\n",
            "smlad r8, r4, r3, r8\n smlad r9, r5, r3, r9\n smlad r10, r6, r3, r10\n smlad r11, r7, r3, r11\n"
        )
    };
}

/// r8–r11 / 256 as floats, into s0–s3.
macro_rules! dots {
    () => {
        "vmov s0, s1, r8, r9
         vmov s2, s3, r10, r11
         vcvt.f32.s32 s0, s0, #8
         vcvt.f32.s32 s1, s1, #8
         vcvt.f32.s32 s2, s2, #8
         vcvt.f32.s32 s3, s3, #8\n"
    };
}

/// [`math::round`](crate::math::round) of four floats at r0, which advances, in the low bits of r2–r5: s12 is the inverse,
/// s8 the rounding constant, and [`Constants::round`] lies at r11; s0–s7 are used up.
#[cfg(mla)]
macro_rules! round {
    () => {
        concat!(
            "vldmia r0!, {{s4, s5, s6, s7}}\n vldmia r11, {{s0, s1, s2, s3}}\n",
            each!("vmla.f32", ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"], "s12"),
            "vmov r2, r3, s0, s1\n vmov r4, r5, s2, s3\n"
        )
    };
}
#[cfg(not(mla))]
macro_rules! round {
    () => {
        concat!(
            "vldmia r0!, {{s4, s5, s6, s7}}\n",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s12"),
            each!("vadd.f32", ["s4" "s5" "s6" "s7"], "s8"),
            "vmov r2, r3, s4, s5\n vmov r4, r5, s6, s7\n"
        )
    };
}

/// The same four, [`Layout::expand`]ed to r1, which advances.
macro_rules! round_expanded {
    () => {
        concat!(
            round!(),
            "pkhbt r3, r3, r5, lsl #16\n sxtb16 r3, r3\n", // (x3, x1)
            "lsl r2, r2, #8\n pkhbt r2, r2, r4, lsl #24\n ssub16 r2, r2, r3\n", // (256·x2 − x3, 256·x0 − x1)
            "strd r3, r2, [r1], #8\n"
        )
    };
}

/// The same four as bytes to r1, which advances.
macro_rules! round_bytes {
    () => {
        concat!(
            round!(),
            "pkhbt r2, r2, r4, lsl #16\n uxtb16 r2, r2\n pkhbt r3, r3, r5, lsl #16\n uxtb16 r3, r3\n",
            "orr r2, r2, r3, lsl #8\n str r2, [r1], #4\n"
        )
    };
}

/// `d = if n > d { n } else { d }` for every n, for a d that is not NaN.
#[cfg(fpv5)]
macro_rules! larger {
    ($d:literal, [$($n:literal)*]) => {
        concat!($("vmaxnm.f32 ", $d, ", ", $d, ", ", $n, "\n",)*)
    };
}
#[cfg(not(fpv5))]
macro_rules! larger {
    ($d:literal, [$($n:literal)*]) => {
        concat!($("vcmp.f32 ", $n, ", ", $d, "\n vmrs apsr_nzcv, fpscr\n it gt\n vmovgt.f32 ", $d, ", ", $n, "\n",)*)
    };
}

/// `d = if d > n { d } else { n }` for every d, for an n that is not NaN.
#[cfg(fpv5)]
macro_rules! at_least {
    ([$($d:literal)*], $n:literal) => {
        concat!($("vmaxnm.f32 ", $d, ", ", $d, ", ", $n, "\n",)*)
    };
}
#[cfg(not(fpv5))]
macro_rules! at_least {
    ([$($d:literal)*], $n:literal) => {
        concat!($("vcmp.f32 ", $d, ", ", $n, "\n vmrs apsr_nzcv, fpscr\n it le\n vmovle.f32 ", $d, ", ", $n, "\n",)*)
    };
}

/// `d = if d > n { n } else { d }` for every d, for an n that is not NaN; a d that is NaN may become n.
#[cfg(fpv5)]
macro_rules! at_most {
    ([$($d:literal)*], $n:literal) => {
        concat!($("vminnm.f32 ", $d, ", ", $d, ", ", $n, "\n",)*)
    };
}
#[cfg(not(fpv5))]
macro_rules! at_most {
    ([$($d:literal)*], $n:literal) => {
        concat!($("vcmp.f32 ", $d, ", ", $n, "\n vmrs apsr_nzcv, fpscr\n it gt\n vmovgt.f32 ", $d, ", ", $n, "\n",)*)
    };
}

/// [`math::exp2`](crate::math::exp2) of `$x` into `$p`, all but the exponent, which the lines `$n` move to integers from `$t`;
/// s16–s23 are [`Constants::exp2`].
macro_rules! exp2 {
    ($x:tt, $p:tt, $t:tt, $($n:literal)*) => {
        concat!(
            remainder!($x, $t, $($n)*),
            each!("vmul.f32", $p, $x, "s16"),
            each!("vadd.f32", $p, "s17"),
            each!("vmul.f32", $p, $x), each!("vadd.f32", $p, "s18"),
            each!("vmul.f32", $p, $x), each!("vadd.f32", $p, "s19"),
            each!("vmul.f32", $p, $x), each!("vadd.f32", $p, "s20"),
            each!("vmul.f32", $p, $x), each!("vadd.f32", $p, "s21")
        )
    };
}

/// The first half of [`exp2!`]: `$x` becomes what is left of it beside the nearest integer.
macro_rules! remainder {
    ($x:tt, $t:tt, $($n:literal)*) => {
        concat!(
            at_least!($x, "s23"),
            each!("vadd.f32", $t, $x, "s22"),
            $($n, "\n",)*
            each!("vsub.f32", $t, "s22"),
            each!("vsub.f32", $x, $t)
        )
    };
}

/// [`exp2!`] of s0–s3 into s4–s7. [`Constants::steps`] lies at r11; s18–s21 are used up.
#[cfg(mla)]
macro_rules! exp2_quad {
    ($t:tt, $($n:literal)*) => {
        concat!(
            remainder!(["s0" "s1" "s2" "s3"], $t, $($n)*),
            "vldmia r11!, {{s4, s5, s6, s7}}\n",
            each!("vmla.f32", ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"], "s16"),
            "vldmia r11!, {{s18, s19, s20, s21}}\n",
            each!("vmla.f32", ["s18" "s19" "s20" "s21"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
            "vldmia r11!, {{s4, s5, s6, s7}}\n",
            each!("vmla.f32", ["s4" "s5" "s6" "s7"], ["s18" "s19" "s20" "s21"], ["s0" "s1" "s2" "s3"]),
            "vldmia r11!, {{s18, s19, s20, s21}}\n",
            each!("vmla.f32", ["s18" "s19" "s20" "s21"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
            "vldmia r11, {{s4, s5, s6, s7}}\n sub r11, r11, #64\n",
            each!("vmla.f32", ["s4" "s5" "s6" "s7"], ["s18" "s19" "s20" "s21"], ["s0" "s1" "s2" "s3"])
        )
    };
}
#[cfg(not(mla))]
macro_rules! exp2_quad {
    ($t:tt, $($n:literal)*) => {
        exp2!(["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"], $t, $($n)*)
    };
}

mod activate;
mod attend;
mod norm;
mod product;
mod quantize;
mod rotate;

use super::portable::Portable;
use super::{Activations, Queries, TileMut, Write};
use crate::arch::{Activation, Norm};
use crate::cache::HeadCache;
use crate::math;
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD};

/// The target has the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dsp(());

/// Bytes of a block's quad, and of a vector's.
const WORD: usize = Layout::Dsp.quad_bytes();
const INPUT: usize = Layout::Dsp.input_bytes();
/// Quads of a sum at most, so that it fits 32 bits.
const MAX_GROUP: usize = Layout::DSP_COLS / QUAD;

/// Numbers that assembly loads.
///
/// `VMLA` multiplies and adds in one instruction, to the register that it writes: coefficients are loaded there first, four
/// at a time. A Cortex-M4 takes three cycles for it, against one each for `VMUL` and `VADD`, so only a Cortex-M7 computes
/// polynomials that way; others have the coefficients in registers.
#[repr(C)]
struct Constants {
    /// What [`exp2!`] has in s16–s31: its polynomial, the rounding constant, the least exponent, and zeros.
    exp2: [f32; 16],
    /// The polynomial again, but for the first coefficient, once for each lane.
    steps: [[f32; QUAD]; 5],
    /// The rounding constant for each lane.
    round: [f32; QUAD],
}

/// A `static`, so that its address is all that assembly is given.
static CONSTANTS: Constants = {
    let c = math::EXP2;
    let (round, least) = (math::ROUND, math::LEAST_EXPONENT);
    Constants {
        exp2: [c[0], c[1], c[2], c[3], c[4], c[5], round, least, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        steps: [[c[1]; QUAD], [c[2]; QUAD], [c[3]; QUAD], [c[4]; QUAD], [c[5]; QUAD]],
        round: [round; QUAD],
    }
};

/// Calls assembly, and if that cannot take the sizes, the portable operation, in builds for models that may have such.
macro_rules! or_portable {
    ($builds:meta: $assembly:expr, $portable:expr) => {
        if !$assembly {
            #[cfg($builds)]
            {
                $portable;
            }
        }
    };
}

/// The operations of [`Backend`](super::Backend). The portable one does what assembly does not: other layouts, ragged ends,
/// slices that are not aligned.
impl Dsp {
    /// This module is compiled only for targets that have them.
    pub(super) fn new() -> Self {
        Self(())
    }

    #[inline]
    pub(super) fn linear(
        self,
        m: &Matrix<'_>,
        first_row: usize,
        x: &Activations<'_>,
        bias: Option<&[f32]>,
        write: Write,
        mut out: TileMut<'_, f32>,
    ) {
        or_portable!(
            portable: product::linear(m, first_row, x, bias, write, &mut out),
            Portable.linear(m, first_row, x, bias, write, out)
        );
    }

    #[inline]
    pub(super) fn attend(self, cache: &HeadCache<'_>, mut queries: Queries<'_, '_>, out: &mut TileMut<'_, f32>) {
        or_portable!(
            any(portable, feature = "shaping", feature = "branches"): attend::attend(cache, &mut queries, out),
            Portable.attend(cache, queries, out)
        );
    }

    pub(super) fn quantize(
        self,
        layout: Layout,
        x: &[f32],
        group: usize,
        q: &mut [i8],
        scales: &mut [f32],
        starts: &mut [i32],
    ) {
        // Starts are for layouts that this target's kernels do not have.
        let wanted = layout != Layout::Dsp && !starts.is_empty();
        or_portable!(
            portable: !wanted && quantize::quantize(layout, x, group, q, scales),
            Portable.quantize(layout, x, group, q, scales, starts)
        );
    }

    #[inline(never)]
    pub(super) fn norm(self, kind: Norm, eps: f32, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        or_portable!(
            any(portable, feature = "classic"):
            kind == Norm::Rms && bias.is_none() && norm::rms(eps, x, weight, out),
            Portable.norm(kind, eps, x, weight, bias, out)
        );
    }

    pub(super) fn norm_heads(
        self,
        kind: Norm,
        eps: f32,
        heads: &mut [f32],
        head_dim: usize,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) {
        Portable.norm_heads(kind, eps, heads, head_dim, weight, bias);
    }

    #[inline]
    pub(super) fn activate(self, kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) {
        or_portable!(
            any(portable, feature = "classic"): activate::activate(kind, gated, hidden, row),
            Portable.activate(kind, gated, hidden, row)
        );
    }

    #[inline]
    pub(super) fn rotate(self, heads: &mut [f32], head_dim: usize, cos_sin: &[f32]) {
        or_portable!(
            portable: rotate::rotate(heads, head_dim, cos_sin),
            Portable.rotate(heads, head_dim, cos_sin)
        );
    }
}
