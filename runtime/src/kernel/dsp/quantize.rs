//! Floats to int8, group by group: plain bytes, or the two words per quad that products take.

use core::arch::asm;

use super::CONSTANTS;
use crate::math;
use crate::packing::{Layout, QUAD};

/// [`Backend::quantize`](crate::kernel::Backend::quantize) without sums; false, and nothing is done, if the assembly cannot
/// take these sizes and places.
#[inline(always)]
pub(super) fn quantize(layout: Layout, x: &[f32], group: usize, q: &mut [i8], scales: &mut [f32]) -> bool {
    let (quads, bytes) = (x.len() / QUAD, layout.vector_bytes(x.len()));
    let group = if group < x.len() { group } else { x.len() };
    let fits = quads > 0 && x.len() % QUAD == 0 && group % QUAD == 0 && group * scales.len() >= x.len();
    let Some((q, padding)) = q.split_at_mut_checked(bytes) else { return false };
    if !fits || !q.as_ptr().cast::<u32>().is_aligned() {
        return false;
    }
    if !padding.is_empty() {
        padding.fill(0);
    }
    // SAFETY: `q` has room for all quads and is aligned; there is a scale for each group.
    unsafe { run(layout, x.as_ptr(), quads, group / QUAD, q.as_mut_ptr(), scales.as_mut_ptr()) };
    true
}

/// Quantizes `quads` quads in groups of `group`.
///
/// # Safety
/// `quads` and `group` are positive. Pointers are aligned to words and valid for all quads and a scale for each group.
#[inline(always)]
unsafe fn run(layout: Layout, x: *const f32, quads: usize, group: usize, q: *mut i8, scales: *mut f32) {
    macro_rules! quantize {
        ($round:expr, $zero:literal) => {
            asm!(
                "vmov s8, r2",
                "vmov s10, r3",
                "vsub.f32 s11, s8, s8",
                "2:", // A group of r12 quads; r8 are left after it.
                "mov r12, r9",
                "cmp r8, r9",
                "it lo",
                "movlo r12, r8",
                "subs r8, r8, r12",
                "mov lr, r12",
                "vmov.f32 s9, s11",
                "3:", // s9: the largest magnitude.
                "vldmia r0!, {{s4, s5, s6, s7}}",
                each!("vabs.f32", ["s4" "s5" "s6" "s7"], []),
                larger!("s9", ["s4" "s5" "s6" "s7"]),
                "subs lr, lr, #1",
                "bne 3b",
                "vdiv.f32 s12, s10, s9",
                "vmov r2, s12",
                "cmp r2, #0x7F800000",
                "bhs 5f",
                "vdiv.f32 s13, s9, s10",
                "sub r0, r0, r12, lsl #4",
                "4:",
                $round,
                "subs r12, r12, #1",
                "bne 4b",
                "b 6f",
                "5:", // The group counts as zero.
                "vmov.f32 s13, s11",
                "mov r2, #0",
                "7:",
                $zero,
                "subs r12, r12, #1",
                "bne 7b",
                "6:",
                "vstmia r10!, {{s13}}",
                "cmp r8, #0",
                "bne 2b",
                inout("r0") x => _,
                inout("r1") q => _,
                inout("r2") math::ROUND.to_bits() => _,
                inout("r3") 127f32.to_bits() => _,
                inout("r8") quads => _,
                inout("r9") group => _,
                inout("r10") scales => _,
                in("r11") &CONSTANTS.round,
                out("r4") _, out("r5") _, out("r12") _, out("lr") _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                options(nostack),
            )
        };
    }
    // SAFETY: by the caller's promise.
    unsafe {
        match layout {
            Layout::Rows8 => quantize!(round_bytes!(), "str r2, [r1], #4"),
            Layout::Dsp => quantize!(round_expanded!(), "strd r2, r2, [r1], #8"),
        }
    }
}
