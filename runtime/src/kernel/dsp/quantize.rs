//! Floats to int8, in the two words per quad that products take.

use core::arch::asm;

use super::INPUT;
use crate::math;
use crate::packing::{Layout, QUAD};

/// [`math::quantize`] into [`Layout::expand`]'s quads.
#[inline(always)]
pub(super) fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let Some((inverse, scale)) = math::steps(absmax(x)) else {
        q.fill(0);
        return 0.0;
    };
    let (x_quads, x_tail) = x.as_chunks::<QUAD>();
    let Some((q_quads, q_tail)) = q.as_chunks_mut::<INPUT>().0.split_at_mut_checked(x_quads.len()) else { return scale };
    if q_quads.as_ptr().cast::<u32>().is_aligned() && !x_quads.is_empty() {
        // SAFETY: both slices are that long.
        unsafe { expand(x_quads.as_ptr(), x_quads.len(), inverse, q_quads.as_mut_ptr()) };
    } else {
        for (q, x) in q_quads.iter_mut().zip(x_quads) {
            *q = Layout::expand(x.map(|x| math::round(x, inverse)));
        }
    }
    if let Some(q) = q_tail.first_mut() {
        *q = Layout::expand(core::array::from_fn(|i| x_tail.get(i).map_or(0, |&x| math::round(x, inverse))));
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

/// Quantizes and expands `count` quads: [`math::round`], then [`Layout::expand`].
///
/// # Safety
/// Both pointers are valid for `count` ≥ 1 quads and aligned to words.
#[inline(always)]
pub(super) unsafe fn expand(x: *const [f32; QUAD], count: usize, inverse: f32, q: *mut [i8; INPUT]) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "vmov s0, {inverse}",
            "vmov s1, {round}",
            "2:",
            "vldmia {x}!, {{s4, s5, s6, s7}}",
            "vmul.f32 s4, s4, s0",
            "vmul.f32 s5, s5, s0",
            "vmul.f32 s6, s6, s0",
            "vmul.f32 s7, s7, s0",
            "vadd.f32 s4, s4, s1",
            "vadd.f32 s5, s5, s1",
            "vadd.f32 s6, s6, s1",
            "vadd.f32 s7, s7, s1",
            "vmov {x0}, {x1}, s4, s5",
            "vmov {x2}, {x3}, s6, s7",
            "pkhbt {x1}, {x1}, {x3}, lsl #16",
            "sxtb16 {x1}, {x1}", // (x3, x1)
            "lsl {x0}, {x0}, #8",
            "pkhbt {x0}, {x0}, {x2}, lsl #24",
            "ssub16 {x0}, {x0}, {x1}",
            "strd {x1}, {x0}, [{q}], #8",
            "subs {count}, {count}, #1",
            "bne 2b",
            inverse = in(reg) inverse.to_bits(),
            round = in(reg) math::ROUND.to_bits(),
            x = inout(reg) x => _,
            q = inout(reg) q => _,
            count = inout(reg) count => _,
            x0 = out(reg) _, x1 = out(reg) _, x2 = out(reg) _, x3 = out(reg) _,
            out("s0") _, out("s1") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            options(nostack),
        );
    }
}
