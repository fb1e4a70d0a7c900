//! RMSNorm, eight elements at a time.

use core::arch::asm;

use crate::math::LANES;

/// [`math::norm`](crate::math::norm) of kind [`Norm::Rms`](crate::arch::Norm::Rms) without a shift; false, and nothing is done,
/// if the assembly cannot take these sizes.
#[inline(always)]
pub(super) fn rms(eps: f32, x: &[f32], weight: &[f32], out: &mut [f32]) -> bool {
    let chunks = x.len() / LANES;
    let fits = chunks > 0 && x.len() % LANES == 0 && weight.len() >= x.len() && out.len() >= x.len();
    if fits {
        // SAFETY: all three are that long.
        unsafe { run(eps, x.as_ptr(), weight.as_ptr(), out.as_mut_ptr(), chunks) };
    }
    fits
}

/// # Safety
/// All three are valid for `chunks` ≥ 1 times eight elements.
#[inline(always)]
unsafe fn run(eps: f32, x: *const f32, weight: *const f32, out: *mut f32, chunks: usize) {
    let n = (chunks * LANES) as f32;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "vmov s16, r4",
            "vmov s17, r5",
            // The sum of squares, in lanes.
            "mov lr, #0",
            "vmov s8, s9, lr, lr",
            "vmov s10, s11, lr, lr",
            "vmov s12, s13, lr, lr",
            "vmov s14, s15, lr, lr",
            "mov r3, r0",
            "mov r12, r8",
            "2:",
            "vldmia r3!, {{s0, s1, s2, s3, s4, s5, s6, s7}}",
            each!("vmla.f32", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"]),
            each!("vmla.f32", ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"]),
            "subs r12, r12, #1",
            "bne 2b",
            each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s12" "s13" "s14" "s15"]),
            each!("vadd.f32", ["s8" "s9"], ["s10" "s11"]),
            "vadd.f32 s8, s8, s9",
            // 1 / √(sum / n + eps)
            "vdiv.f32 s8, s8, s17",
            "vadd.f32 s8, s8, s16",
            "vsqrt.f32 s8, s8",
            "vmov.f32 s9, #1.0",
            "vdiv.f32 s8, s9, s8",
            "3:",
            "vldmia r0!, {{s0, s1, s2, s3, s4, s5, s6, s7}}",
            "vldmia r1!, {{s9, s10, s11, s12, s13, s14, s15, s16}}",
            each!("vmul.f32", ["s0" "s1" "s2" "s3" "s4" "s5" "s6" "s7"], "s8"),
            each!("vmul.f32", ["s0" "s1" "s2" "s3" "s4" "s5" "s6" "s7"], ["s9" "s10" "s11" "s12" "s13" "s14" "s15" "s16"]),
            "vstmia r2!, {{s0, s1, s2, s3, s4, s5, s6, s7}}",
            "subs r8, r8, #1",
            "bne 3b",
            inout("r0") x => _,
            inout("r1") weight => _,
            inout("r2") out => _,
            out("r3") _,
            in("r4") eps.to_bits(),
            in("r5") n.to_bits(),
            inout("r8") chunks => _,
            out("r12") _, out("lr") _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
            out("s16") _, out("s17") _,
            options(nostack),
        );
    }
}
