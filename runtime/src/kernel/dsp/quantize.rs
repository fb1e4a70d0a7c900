//! Floats to int8, in the two words per quad that products take.

use core::arch::asm;

use super::INPUT;
use crate::math;
use crate::packing::{Layout, QUAD};

/// [`math::quantize`] into [`Layout::expand`]'s quads. `q` must be aligned to words.
#[inline(always)]
pub(super) fn expanded(x: &[f32], q: &mut [i8]) -> f32 {
    let Some((inverse, scale)) = math::steps(absmax(x)) else {
        q.fill(0);
        return 0.0;
    };
    let (x_quads, x_tail) = x.as_chunks::<QUAD>();
    let Some((q_quads, q_tail)) = q.as_chunks_mut::<INPUT>().0.split_at_mut_checked(x_quads.len()) else { return scale };
    if !x_quads.is_empty() && q_quads.as_ptr().cast::<u32>().is_aligned() {
        // SAFETY: both have that many quads, and `q` is aligned.
        unsafe { expand(x_quads.as_ptr(), x_quads.len(), inverse, q_quads.as_mut_ptr()) };
    }
    if let (false, Some(q)) = (x_tail.is_empty(), q_tail.first_mut()) {
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
unsafe fn expand(x: *const [f32; QUAD], count: usize, inverse: f32, q: *mut [i8; INPUT]) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "vmov s0, r2",
            "vmov s22, r3",
            "2:",
            expand!(),
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
        );
    }
}
