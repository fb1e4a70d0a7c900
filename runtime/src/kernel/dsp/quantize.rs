//! Floats to int8: plain bytes, or the two words per quad that products take.

use core::arch::asm;

use crate::math;
use crate::packing::{Layout, QUAD};

/// [`math::quantize`] of one group as `layout` multiplies it; the rest of `q`, which must be aligned to words, is zeroed.
#[inline(always)]
pub(super) fn quantize(layout: Layout, x: &[f32], q: &mut [i8]) -> f32 {
    let (quads, tail) = x.as_chunks::<QUAD>();
    let whole = layout.vector_bytes(quads.len() * QUAD);
    let steps = math::steps(absmax(x));
    let (Some((inverse, scale)), Some((_, rest))) = (steps, q.split_at_mut_checked(whole)) else {
        q.fill(0);
        return 0.0;
    };
    if !rest.is_empty() {
        rest.fill(0);
    }
    if !quads.is_empty() && q.as_ptr().cast::<u32>().is_aligned() {
        // SAFETY: `q` has room for all quads and is aligned.
        unsafe { round(layout, quads.as_ptr(), quads.len(), inverse, q.as_mut_ptr()) };
    }
    if !tail.is_empty() {
        let quad = core::array::from_fn(|i| tail.get(i).map_or(0, |&x| math::round(x, inverse)));
        let rest = q.get_mut(whole..).unwrap_or(&mut []);
        match layout {
            Layout::Rows8 => rest.iter_mut().zip(quad).for_each(|(q, x)| *q = x),
            Layout::Dsp => rest.iter_mut().zip(Layout::expand(quad)).for_each(|(q, x)| *q = x),
        }
    }
    scale
}

/// [`math::absmax`]. Magnitudes are ordered like their bits; NaN lies above them.
#[inline(always)]
fn absmax(x: &[f32]) -> f32 {
    let (quads, tail) = x.as_chunks::<QUAD>();
    // Magnitudes' bits, times two.
    let mut largest = tail.iter().fold(0, |largest, x| largest.max(x.to_bits() << 1));
    if !quads.is_empty() {
        // SAFETY: reads as many quads as there are.
        unsafe {
            asm!(
                "2:",
                "ldmia {x}!, {{r2, r3, r4, r5}}",
                "cmp {largest}, r2, lsl #1",
                "it lo",
                "lsllo {largest}, r2, #1",
                "cmp {largest}, r3, lsl #1",
                "it lo",
                "lsllo {largest}, r3, #1",
                "cmp {largest}, r4, lsl #1",
                "it lo",
                "lsllo {largest}, r4, #1",
                "cmp {largest}, r5, lsl #1",
                "it lo",
                "lsllo {largest}, r5, #1",
                "subs {count}, {count}, #1",
                "bne 2b",
                largest = inout(reg) largest,
                x = inout(reg) x.as_ptr() => _,
                count = inout(reg) quads.len() => _,
                out("r2") _, out("r3") _, out("r4") _, out("r5") _,
                options(nostack, readonly),
            );
        }
    }
    let largest = f32::from_bits(largest >> 1);
    if largest.is_nan() { math::absmax(x) } else { largest }
}

/// [`math::round`] of `count` quads, as `layout` multiplies them.
///
/// # Safety
/// Both pointers are valid for `count` ≥ 1 quads and aligned to words.
#[inline(always)]
unsafe fn round(layout: Layout, x: *const [f32; QUAD], count: usize, inverse: f32, q: *mut i8) {
    macro_rules! run {
        ($quad:expr) => {
            asm!(
                "vmov s0, r2",
                "vmov s22, r3",
                "2:",
                $quad,
                "subs r12, r12, #1",
                "bne 2b",
                inout("r0") x => _,
                inout("r1") q => _,
                inout("r2") inverse.to_bits() => _,
                inout("r3") math::ROUND.to_bits() => _,
                inout("r12") count => _,
                out("r4") _, out("r5") _,
                out("s0") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _, out("s22") _,
                options(nostack),
            )
        };
    }
    // SAFETY: by the caller's promise.
    unsafe {
        match layout {
            Layout::Rows8 => run!(round_bytes!()),
            Layout::Dsp => run!(round_expanded!()),
        }
    }
}
