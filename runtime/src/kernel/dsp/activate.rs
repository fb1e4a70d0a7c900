//! SiLU and the tanh form of GELU, which both are x / (1 + exp(−f(x))), four elements at a time.

use core::arch::asm;

use super::CONSTANTS;
use crate::arch::Activation;
use crate::packing::QUAD;

/// [`math::activate_row`](crate::math::activate_row); false, and nothing is done, for other functions and sizes.
#[inline(always)]
pub(super) fn activate(kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) -> bool {
    let tanh = kind == Activation::GeluTanh;
    let quads = hidden / QUAD;
    let fits = (tanh || kind == Activation::Silu) && hidden % QUAD == 0 && quads > 0;
    if !fits || row.len() < if gated { 2 * hidden } else { hidden } {
        return false;
    }
    let row = row.as_mut_ptr();
    let up = if gated { row.wrapping_add(hidden) } else { core::ptr::null_mut() };
    // SAFETY: the row is as long as it needs to be.
    unsafe { run(tanh, row, up, quads) };
    true
}

/// The factors of x, or of x + 0.044715·x³, in the exponent of two.
const SILU: f32 = -core::f32::consts::LOG2_E;
const TANH: [f32; 2] = [0.044_715, 1.595_769_2];

/// `x[i] = f(x[i])`, times `up[i]` unless that is null.
///
/// # Safety
/// Both are valid for `quads` ≥ 1 quads.
#[inline(always)]
unsafe fn run(tanh: bool, x: *mut f32, up: *const f32, quads: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "vldmia r3, {{s16, s17, s18, s19, s20, s21, s22, s23}}",
            "vmov s24, r4",
            "vmov s25, r5",
            "vmov s26, r8",
            "vmov s27, r9",
            "vmov.f32 s28, #1.0",
            "2:",
            "vldmia r0, {{s12, s13, s14, s15}}",
            "cmp r10, #0",
            "beq 3f",
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"], ["s12" "s13" "s14" "s15"]),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"]),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], "s26"),
            each!("vadd.f32", ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"]),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], "s27"),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], "s24"),
            "b 4f",
            "3:",
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], ["s12" "s13" "s14" "s15"], "s24"),
            "4:",
            at_most!(["s0" "s1" "s2" "s3"], "s25"),
            exp2_quad!(["s8" "s9" "s10" "s11"], "vmov r2, r3, s8, s9" "vmov r4, r5, s10, s11"),
            "vmov r8, r9, s4, s5",
            "add r8, r8, r2, lsl #23",
            "add r9, r9, r3, lsl #23",
            "vmov s4, s5, r8, r9",
            "vmov r8, r9, s6, s7",
            "add r8, r8, r4, lsl #23",
            "add r9, r9, r5, lsl #23",
            "vmov s6, s7, r8, r9",
            each!("vadd.f32", ["s4" "s5" "s6" "s7"], "s28"),
            each!("vdiv.f32", ["s12" "s13" "s14" "s15"], ["s4" "s5" "s6" "s7"]),
            "cbz r1, 5f",
            "vldmia r1!, {{s0, s1, s2, s3}}",
            each!("vmul.f32", ["s12" "s13" "s14" "s15"], ["s0" "s1" "s2" "s3"]),
            "5:",
            "vstmia r0!, {{s12, s13, s14, s15}}",
            "subs r12, r12, #1",
            "bne 2b",
            inout("r0") x => _,
            inout("r1") up => _,
            in("r3") &CONSTANTS.exp2,
            inout("r11") &CONSTANTS.steps => _,
            inout("r4") SILU.to_bits() => _,
            inout("r5") 127f32.to_bits() => _,
            inout("r8") TANH[0].to_bits() => _,
            inout("r9") TANH[1].to_bits() => _,
            in("r10") usize::from(tanh),
            inout("r12") quads => _,
            out("r2") _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _, out("s22") _, out("s23") _,
            out("s24") _, out("s25") _, out("s26") _, out("s27") _, out("s28") _,
            options(nostack),
        );
    }
}
