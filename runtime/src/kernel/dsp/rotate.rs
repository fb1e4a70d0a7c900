//! RoPE, four pairs at a time.

use core::arch::asm;

use crate::packing::QUAD;

/// [`math::rotate`](crate::math::rotate); false, and nothing is done, if the assembly cannot take these sizes.
#[inline(always)]
pub(super) fn rotate(heads: &mut [f32], head_dim: usize, cos_sin: &[f32]) -> bool {
    let half = cos_sin.len() / 2;
    let fits = half > 0 && half % QUAD == 0 && cos_sin.len() == 2 * half && head_dim >= 2 * half;
    if fits {
        for head in heads.chunks_exact_mut(head_dim) {
            // SAFETY: both have `half` pairs, and that is a positive number of quads.
            unsafe { run(head.as_mut_ptr(), cos_sin.as_ptr(), half) };
        }
    }
    fits
}

/// # Safety
/// Both are valid for `half` pairs, a positive multiple of four.
#[inline(always)]
unsafe fn run(head: *mut f32, cos_sin: *const f32, half: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "2:",
            "vldmia {a}, {{s0, s1, s2, s3}}",
            "vldmia {b}, {{s4, s5, s6, s7}}",
            "vldmia {cos}!, {{s8, s9, s10, s11}}",
            "vldmia {sin}!, {{s12, s13, s14, s15}}",
            // a·cos − b·sin, b·cos + a·sin
            each!("vmul.f32", ["s16" "s17" "s18" "s19"], ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"]),
            each!("vmul.f32", ["s20" "s21" "s22" "s23"], ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"]),
            each!("vmls.f32", ["s16" "s17" "s18" "s19"], ["s4" "s5" "s6" "s7"], ["s12" "s13" "s14" "s15"]),
            each!("vmla.f32", ["s20" "s21" "s22" "s23"], ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"]),
            "vstmia {a}!, {{s16, s17, s18, s19}}",
            "vstmia {b}!, {{s20, s21, s22, s23}}",
            "subs {quads}, {quads}, #1",
            "bne 2b",
            a = inout(reg) head => _,
            b = inout(reg) head.add(half) => _,
            cos = inout(reg) cos_sin => _,
            sin = inout(reg) cos_sin.add(half) => _,
            quads = inout(reg) half / QUAD => _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _, out("s22") _, out("s23") _,
            options(nostack),
        );
    }
}
