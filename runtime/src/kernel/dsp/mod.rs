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

/// Four rows' quad times one token's: r0 words, r1 vector (both advance); r8–r11 sums; r2–r7 are used up.
macro_rules! quad {
    () => {
        concat!(
            quad!("smlad r8, r4, r2, r8", "smlad r9, r5, r2, r9", "smlad r10, r6, r2, r10", "smlad r11, r7, r2, r11")
        )
    };
    (first) => {
        quad!("smuad r8, r4, r2", "smuad r9, r5, r2", "smuad r10, r6, r2", "smuad r11, r7, r2")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldmia r0!, {{r4, r5, r6, r7}}\n ldrd r2, r3, [r1], #8\n",
            $a, "\n", $b, "\n", $c, "\n", $d, "\n",
            "sxtb16 r4, r4\n sxtb16 r5, r5\n sxtb16 r6, r6\n sxtb16 r7, r7\n",
            "smlad r8, r4, r3, r8\n smlad r9, r5, r3, r9\n smlad r10, r6, r3, r10\n smlad r11, r7, r3, r11\n"
        )
    };
}

/// `d = if n > d { n } else { d }`, for a d that is not NaN.
#[cfg(fpv5)]
macro_rules! larger {
    ($d:literal, $n:literal) => {
        concat!("vmaxnm.f32 ", $d, ", ", $d, ", ", $n, "\n")
    };
}
#[cfg(not(fpv5))]
macro_rules! larger {
    ($d:literal, $n:literal) => {
        concat!("vcmp.f32 ", $n, ", ", $d, "\n vmrs apsr_nzcv, fpscr\n it gt\n vmovgt.f32 ", $d, ", ", $n, "\n")
    };
}

/// `d = if d > n { d } else { n }`, for an n that is not NaN.
#[cfg(fpv5)]
macro_rules! at_least {
    ($d:literal, $n:literal) => {
        concat!("vmaxnm.f32 ", $d, ", ", $d, ", ", $n, "\n")
    };
}
#[cfg(not(fpv5))]
macro_rules! at_least {
    ($d:literal, $n:literal) => {
        concat!("vcmp.f32 ", $d, ", ", $n, "\n vmrs apsr_nzcv, fpscr\n it le\n vmovle.f32 ", $d, ", ", $n, "\n")
    };
}

mod attend;
mod product;
mod quantize;

use super::drive::{Block, InDsp, Kernel, Output, Step, Token, attend_blocks};
use super::portable::Portable;
use super::{Activations, Query};
use crate::cache::{HeadCache, TILE};
use crate::matrix::Matrix;
use crate::packing::Layout;

/// The target has the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dsp(());

impl Dsp {
    /// This module is compiled only for targets that have them.
    pub(super) fn new() -> Self {
        Self(())
    }
}

/// Bytes of a block's quad, and of a vector's.
const WORD: usize = Layout::Dsp.quad_bytes();
const INPUT: usize = Layout::Dsp.input_bytes();
/// Quads of a sum at most, so that it fits 32 bits.
const MAX_GROUP: usize = 128;

impl Kernel for Dsp {
    #[inline(always)]
    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
        Portable.rows8(block, x)
    }

    #[inline(always)]
    fn scores(self, keys: &[u8], query: &[i8], sum: i32, dots: &mut [i32; TILE]) {
        Portable.scores(keys, query, sum, dots);
    }

    #[inline(always)]
    fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, out: &mut [f32; 8]) {
        Portable.mix8(values, weights, step, out);
    }

    #[inline(always)]
    fn quantize_expanded(self, x: &[f32], q: &mut [i8]) -> f32 {
        quantize::quantize(x, q)
    }

    #[inline(always)]
    fn whole_rows4(self, m: &Matrix<'_>, x: &Activations<'_>, count: usize, out: &mut Output<'_, '_>) -> usize {
        product::whole_rows(m, x, count, out)
    }

    #[inline(always)]
    fn attend4<const N: usize>(self, cache: &HeadCache<'_>, queries: [&Query<'_>; N], out: [&mut [f32]; N]) {
        for (query, out) in queries.into_iter().zip(out) {
            if !attend::attend(cache, query, out) {
                attend_blocks(InDsp, self, cache, [query], [out]);
            }
        }
    }
}
