//! Matrix times vector: whole blocks of four rows, group scales, bias and residual included.

use core::arch::asm;
use core::mem::offset_of;

use super::{INPUT, MAX_GROUP, WORD};
use crate::kernel::{Activations, TileMut, Write};
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD};

/// Rows of a block.
const ROWS: usize = Layout::Dsp.block_rows();
/// Quads that the assembly takes at a time.
const BUNDLE: usize = 4;

/// Computes as many whole blocks of `out` as there are; how many rows that is. None, if the assembly cannot take these
/// sizes and places.
pub(super) fn whole_blocks(
    m: &Matrix<'_>,
    first_row: usize,
    x: &Activations<'_>,
    bias: Option<&[f32]>,
    write: Write,
    out: &mut TileMut<'_, f32>,
) -> usize {
    let count = out.rows().min(x.values.len().checked_div(x.stride).unwrap_or(0));
    let Some((product, rows)) = Product::new(m, first_row, x, bias, write, out, count) else { return 0 };
    for t in 0..count {
        // SAFETY: `Product::new` has checked that all matrices and vectors are as long and as aligned as the assembly needs
        // for `rows` rows and `count` tokens; so each token's vector and scales start inside theirs.
        unsafe {
            let row = out.row(t).as_mut_ptr();
            let x_scales = x.scales.as_ptr().add(t * x.groups);
            let vector = x.values.as_ptr().add(t * x.stride);
            let out_end = row.add(rows);
            let product = Product { x: vector, x_scale: x_scales, x_scales, out: row, out_end, ..product };
            one_token(&product, m.factor());
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
    fn new(
        m: &Matrix<'_>,
        first_row: usize,
        x: &Activations<'_>,
        bias: Option<&[f32]>,
        write: Write,
        out: &TileMut<'_, f32>,
        count: usize,
    ) -> Option<(Self, usize)> {
        let packing = m.packing();
        let (quads, groups) = (m.cols().div_ceil(QUAD), packing.groups(m.cols()));
        let group = packing.group_cols(m.cols()).div_ceil(QUAD);
        let (groups_of_bundles, last) = match group % BUNDLE {
            0 if group > BUNDLE => (quads / group, quads % group),
            _ if groups == 1 => (0, quads),
            _ => return None,
        };
        let rows = m.rows().saturating_sub(first_row).min(out.cols()) / ROWS * ROWS;
        let blocks = |per_block: usize| first_row / ROWS * per_block..(first_row + rows) / ROWS * per_block;
        let words = m.weights().get(blocks(quads * WORD))?;
        let w_scales = m.scales().get(blocks(groups * ROWS))?;
        let bias = match bias {
            Some(bias) => bias.get(first_row..first_row + rows)?.as_ptr(),
            None => core::ptr::null(),
        };
        let fits = packing.layout == Layout::Dsp
            && first_row % ROWS == 0
            && group <= MAX_GROUP
            && rows > 0
            && x.stride >= quads * INPUT
            && x.groups >= groups
            && x.scales.len() / x.groups >= count;
        // The assembly loads several words at a time.
        let aligned =
            (words.as_ptr() as usize | w_scales.as_ptr() as usize | x.values.as_ptr() as usize | x.stride) % 4;
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
                add: usize::from(write == Write::Add),
            },
            rows,
        ))
    }
}

/// Ends a group: s8–s11 += sums / 256 · (w_scale · x_scale).
macro_rules! group_end {
    () => {
        concat!(
            "ldrd r2, r3, [sp, #{w_scale}]\n",
            dots!(),
            "vldmia r2!, {{s12, s13}}\n vldmia r3!, {{s14}}\n",
            "strd r2, r3, [sp, #{w_scale}]\n",
            "vcvtb.f32.f16 s4, s12\n vcvtt.f32.f16 s5, s12\n vcvtb.f32.f16 s6, s13\n vcvtt.f32.f16 s7, s13\n",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s14"),
            each!("vmla.f32", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"])
        )
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
        "vmov s15, lr",
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
        each!("vmul.f32", ["s8" "s9" "s10" "s11"], "s15"),
        "cbz r6, 9f",
        "vldmia r6!, {{s4, s5, s6, s7}}",
        "str r6, [sp, #{bias}]",
        each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"]),
        "9:",
        "cbz r7, 10f",
        "vldmia r4, {{s4, s5, s6, s7}}",
        each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"]),
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
