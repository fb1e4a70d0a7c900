//! Matrix times vector: whole blocks of four rows, group scales, bias and residual included.

use core::arch::asm;
use core::mem::offset_of;

use super::{INPUT, MAX_GROUP, WORD};
use crate::kernel::drive::Output;
use crate::kernel::{Activations, Write};
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD};

/// Rows of a block.
const ROWS: usize = Layout::Dsp.block_rows();
/// Quads that the assembly takes at a time.
const BUNDLE: usize = 4;

/// See [`Kernel::whole_rows4`](crate::kernel::drive::Kernel::whole_rows4).
pub(super) fn whole_rows(m: &Matrix<'_>, x: &Activations<'_>, count: usize, out: &mut Output<'_, '_>) -> usize {
    let Some((product, rows)) = Product::new(m, x, count, out) else { return 0 };
    for t in 0..count {
        // SAFETY: `Product::new` has checked that all matrices and vectors are as long and as aligned as the assembly needs
        // for `rows` rows and `count` tokens; so each token's vector and scales start inside theirs.
        unsafe {
            let row = out.out.row(t).as_mut_ptr();
            let x_scales = x.scales.as_ptr().add(t * x.groups);
            let vector = x.values.as_ptr().add(t * x.stride);
            let out_end = row.add(rows);
            let product = Product { x: vector, x_scale: x_scales, x_scales, out: row, out_end, ..product };
            one_token(&product, out.factor);
        }
    }
    rows
}

/// Blocks of four rows, and one token's vector.
#[derive(Clone, Copy)]
#[repr(C)]
struct Product {
    /// Advances through the blocks, as `w_scale`, `bias` and `out` do.
    words: *const u8,
    x: *const i8,
    /// Next group's scales of the weights and of the vector; the latter starts at `x_scales` in every block.
    w_scale: *const u16,
    x_scale: *const f32,
    x_scales: *const f32,
    /// Number of groups that have a whole number of bundles, and that number less one.
    groups: usize,
    more: usize,
    /// Quads of another group behind them, or 0.
    last: usize,
    out: *mut f32,
    out_end: *mut f32,
    /// Null if there is none.
    bias: *const f32,
    /// 1 to add to `out`, 0 to replace it.
    add: usize,
}

impl Product {
    /// The whole blocks of `out`, and how many rows that is, if `m`, `x` and `out` are what the assembly can work on; its
    /// fields for a token are still to be filled in.
    fn new(m: &Matrix<'_>, x: &Activations<'_>, count: usize, out: &mut Output<'_, '_>) -> Option<(Self, usize)> {
        let packing = m.packing();
        let (quads, groups) = (m.cols().div_ceil(QUAD), packing.groups(m.cols()));
        let group = packing.group_cols(m.cols()).div_ceil(QUAD);
        let (groups_of_bundles, last) = match group % BUNDLE {
            0 if group > BUNDLE => (quads / group, quads % group),
            _ if groups == 1 => (0, quads),
            _ => return None,
        };
        let rows = (out.last_row - out.first_row) / ROWS * ROWS;
        let from_block = |per_block: usize| out.first_row / ROWS * per_block..(out.first_row + rows) / ROWS * per_block;
        let words = m.weights().get(from_block(quads * WORD))?;
        let w_scales = m.scales().get(from_block(groups * ROWS))?;
        let bias = match out.bias {
            Some(bias) => bias.get(out.first_row..out.first_row + rows)?.as_ptr(),
            None => core::ptr::null(),
        };
        let fits = group <= MAX_GROUP
            && rows > 0
            && out.out.rows() >= count
            && out.out.cols() >= rows
            && x.stride >= quads * INPUT
            && x.values.len() / x.stride.max(1) >= count
            && x.groups >= groups
            && x.scales.len() / x.groups.max(1) >= count;
        // The assembly loads several words at a time.
        let aligned = (words.as_ptr() as usize | w_scales.as_ptr() as usize | x.values.as_ptr() as usize | x.stride) % 4;
        (fits && aligned == 0).then_some((
            Self {
                words: words.as_ptr(),
                x: core::ptr::null(),
                w_scale: w_scales.as_ptr(),
                x_scale: core::ptr::null(),
                x_scales: core::ptr::null(),
                groups: groups_of_bundles,
                more: (group / BUNDLE).saturating_sub(1),
                last,
                out: core::ptr::null_mut(),
                out_end: core::ptr::null_mut(),
                bias,
                add: usize::from(out.write == Write::Add),
            },
            rows,
        ))
    }
}

/// Ends a group: s8–s11 += sums / 256 · (w_scale · x_scale).
macro_rules! group_end {
    () => {
        "ldrd r2, r3, [sp, #{w_scale}]
         vmov s12, s13, r8, r9
         vmov s14, s15, r10, r11
         vldmia r2!, {{s0, s1}}
         vldmia r3!, {{s2}}
         strd r2, r3, [sp, #{w_scale}]
         vcvt.f32.s32 s12, s12, #8
         vcvt.f32.s32 s13, s13, #8
         vcvt.f32.s32 s14, s14, #8
         vcvt.f32.s32 s15, s15, #8
         vcvtb.f32.f16 s4, s0
         vcvtt.f32.f16 s5, s0
         vcvtb.f32.f16 s6, s1
         vcvtt.f32.f16 s7, s1
         vmul.f32 s4, s4, s2
         vmul.f32 s5, s5, s2
         vmul.f32 s6, s6, s2
         vmul.f32 s7, s7, s2
         vmla.f32 s8, s12, s4
         vmla.f32 s9, s13, s5
         vmla.f32 s10, s14, s6
         vmla.f32 s11, s15, s7\n"
    };
}

/// Computes all blocks of a product for one token.
///
/// # Safety
/// There is at least one block and one group. All pointers are aligned to four bytes and valid for what their lengths
/// promise.
#[inline(never)]
unsafe fn one_token(product: &Product, factor: f32) {
    // SAFETY: by the caller's promise. r6 and r7 are not ours to name, so they are saved here; the stack is as before.
    unsafe {
        asm!(
        "push {{r6, r7}}",
        "vmov s3, lr",
        // The fields, to where they are one instruction away.
        "ldmia r0, {{r0, r1, r2, r3, r4, r5, r8, r9, r10, r11, r12, lr}}",
        "push {{r0, r1, r2, r3, r4, r5, r8, r9, r10, r11, r12, lr}}",
        "2:", // A block.
        "ldr r1, [sp, #{x}]",
        "ldr r2, [sp, #{x_scales}]",
        "ldr lr, [sp, #{groups}]",
        "str r2, [sp, #{x_scale}]",
        "movs r2, #0",
        "vmov s8, s9, r2, r2",
        "vmov s10, s11, r2, r2",
        "cmp lr, #0",
        "beq 5f",
        "3:", // A group of whole bundles.
        quad!(first), quad!(), quad!(), quad!(),
        "ldr r12, [sp, #{more}]",
        "4:",
        quad!(), quad!(), quad!(), quad!(),
        "subs r12, r12, #1",
        "bne 4b",
        group_end!(),
        "subs lr, lr, #1",
        "bne 3b",
        "5:", // The last group.
        "ldr r12, [sp, #{last}]",
        "cmp r12, #0",
        "beq 8f",
        quad!(first),
        "subs r12, r12, #1",
        "beq 7f",
        "6:",
        quad!(),
        "subs r12, r12, #1",
        "bne 6b",
        "7:",
        group_end!(),
        "8:", // The outputs.
        "ldrd r4, r5, [sp, #{out}]",
        "ldrd r6, r7, [sp, #{bias}]",
        "vmul.f32 s8, s8, s3",
        "vmul.f32 s9, s9, s3",
        "vmul.f32 s10, s10, s3",
        "vmul.f32 s11, s11, s3",
        "cbz r6, 9f",
        "vldmia r6!, {{s4, s5, s6, s7}}",
        "str r6, [sp, #{bias}]",
        "vadd.f32 s8, s8, s4",
        "vadd.f32 s9, s9, s5",
        "vadd.f32 s10, s10, s6",
        "vadd.f32 s11, s11, s7",
        "9:",
        "cbz r7, 10f",
        "vldmia r4, {{s4, s5, s6, s7}}",
        "vadd.f32 s8, s4, s8",
        "vadd.f32 s9, s5, s9",
        "vadd.f32 s10, s6, s10",
        "vadd.f32 s11, s7, s11",
        "10:",
        "vstmia r4!, {{s8, s9, s10, s11}}",
        "str r4, [sp, #{out}]",
        "cmp r4, r5",
        "bne 2b",
        "add sp, sp, #48",
        "pop {{r6, r7}}",
        x = const offset_of!(Product, x),
        w_scale = const offset_of!(Product, w_scale),
        x_scale = const offset_of!(Product, x_scale),
        x_scales = const offset_of!(Product, x_scales),
        groups = const offset_of!(Product, groups),
        more = const offset_of!(Product, more),
        last = const offset_of!(Product, last),
        out = const offset_of!(Product, out),
        bias = const offset_of!(Product, bias),
        inout("r0") product => _,
        out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _,
        out("r11") _, out("r12") _, inout("lr") factor.to_bits() => _,
        out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
        out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
        );
    }
}

// The assembly loads this many fields.
const _: () = assert!(size_of::<Product>() == 12 * 4);
