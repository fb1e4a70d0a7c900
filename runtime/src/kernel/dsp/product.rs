//! Matrix times vectors: whole blocks of four rows, with group scales, bias and residual.
//!
//! One token's vector goes through all blocks in one piece of assembly. For several, a block is unpacked once, into a stage
//! on the stack, and multiplied by all of them: fewer instructions, and flash is read once for eight tokens.

use core::arch::asm;
use core::mem::{MaybeUninit, offset_of};

use super::{INPUT, MAX_GROUP, WORD};
use crate::kernel::{Activations, TileMut, Write};
use crate::matrix::Matrix;
use crate::packing::{Layout, QUAD};

/// Rows of a block.
const ROWS: usize = Layout::Dsp.block_rows();
/// Quads that the assembly takes at a time, in groups of a multiple of them.
const BUNDLE: usize = 8;
/// Quads that fit the stage.
const STAGE: usize = 64;
/// Tokens that share a stage.
const BATCH: usize = 8;

/// [`Backend::linear`](crate::kernel::Backend::linear); false, and nothing is done, if the assembly cannot take these sizes
/// and places.
#[inline]
pub(super) fn linear(
    m: &Matrix<'_>,
    first_row: usize,
    x: &Activations<'_>,
    bias: Option<&[f32]>,
    write: Write,
    out: &mut TileMut<'_, f32>,
) -> bool {
    let all = m.rows().saturating_sub(first_row).min(out.cols());
    let rows = all / ROWS * ROWS;
    if rows > 0 {
        let Some(product) = Product::new(m, first_row, rows, x, bias, write, out.rows()) else { return false };
        // SAFETY: it was made for so many tokens, and for at most as many rows as there are columns.
        unsafe { product.run(out) };
    }
    rows == all || last_rows(m, first_row + rows, all - rows, x, bias, write, rows, out)
}

/// The rest: `rows` of the rows of a block, into the columns from `at` on.
#[allow(clippy::too_many_arguments)]
#[inline(never)]
fn last_rows(
    m: &Matrix<'_>,
    first_row: usize,
    rows: usize,
    x: &Activations<'_>,
    bias: Option<&[f32]>,
    write: Write,
    at: usize,
    out: &mut TileMut<'_, f32>,
) -> bool {
    let mut shift = [0f32; ROWS];
    let bias = bias.map(|bias| {
        shift.iter_mut().zip(bias.iter().skip(first_row)).for_each(|(shift, bias)| *shift = *bias);
        &shift
    });
    let Some(product) = Product::new(m, first_row, ROWS, x, None, write, out.rows()) else { return false };
    let product = Product { bias: bias.map_or(core::ptr::null(), |bias| bias.as_ptr()), ..product };
    for t in 0..product.tokens {
        let mut block = [0f32; ROWS];
        let row = out.row(t).get_mut(at..at + rows).unwrap_or(&mut []);
        block.iter_mut().zip(&*row).for_each(|(y, out)| *y = *out);
        // SAFETY: `t` is one of the tokens, a block has as many outputs, and the shift is as long.
        unsafe { product.one(block.as_mut_ptr(), t) };
        row.iter_mut().zip(block).for_each(|(out, y)| *out = y);
    }
    true
}

/// A product that the assembly can compute, with everything checked.
struct Product<'a> {
    words: &'a [u8],
    w_scales: &'a [u16],
    x: &'a Activations<'a>,
    factor: f32,
    /// Null if there is none.
    bias: *const f32,
    /// 1 to add to the output, 0 to replace it.
    add: usize,
    rows: usize,
    tokens: usize,
    /// Quads of a group.
    group: usize,
    /// Groups of a whole number of bundles, and quads of another one behind them.
    groups: usize,
    last: usize,
}

impl<'a> Product<'a> {
    /// The rows `first_row..first_row + rows`, whole blocks, for at most `tokens` tokens.
    #[inline]
    fn new(
        m: &Matrix<'a>,
        first_row: usize,
        rows: usize,
        x: &'a Activations<'a>,
        bias: Option<&[f32]>,
        write: Write,
        tokens: usize,
    ) -> Option<Self> {
        let packing = m.packing();
        let tokens = tokens.min(x.values.len().checked_div(x.stride)?);
        let (quads, group) = (m.cols().div_ceil(QUAD), packing.group_cols(m.cols()).div_ceil(QUAD));
        let (groups, last) = match group % BUNDLE {
            0 => (quads / group, quads % group),
            _ if group == quads => (0, quads),
            _ => return None,
        };
        let all_groups = groups + usize::from(last > 0);
        let (block, blocks) = (first_row / ROWS, rows / ROWS);
        let words = m.weights().get(block * quads * WORD..(block + blocks) * quads * WORD)?;
        let w_scales = m.scales().get(block * all_groups * ROWS..(block + blocks) * all_groups * ROWS)?;
        let bias = match bias {
            Some(bias) => bias.get(first_row..first_row + rows)?.as_ptr(),
            None => core::ptr::null(),
        };
        let fits = packing.layout == Layout::Dsp
            && first_row % ROWS == 0
            && group <= MAX_GROUP
            && x.stride >= quads * INPUT
            && x.groups >= all_groups
            && x.scales.len() >= tokens * x.groups;
        // The assembly loads several words at a time.
        let aligned =
            (words.as_ptr() as usize | w_scales.as_ptr() as usize | x.values.as_ptr() as usize | x.stride) % 4;
        let (factor, add) = (m.factor(), usize::from(write == Write::Add));
        if !fits || aligned != 0 {
            return None;
        }
        Some(Self { words, w_scales, x, factor, bias, add, rows, tokens, group, groups, last })
    }

    /// Computes all tokens' rows.
    ///
    /// # Safety
    /// `out` has a row for each token, and there at least as many columns as there are rows to compute.
    #[inline]
    unsafe fn run(&self, out: &mut TileMut<'_, f32>) {
        let mut t = 0;
        while t < self.tokens {
            let batch = BATCH.min(self.tokens - t);
            // SAFETY: by the caller's promise, and `new` has checked that the rest is as long and as aligned as it must be.
            unsafe {
                if batch > 2 && self.group <= STAGE {
                    self.staged(out, t, batch);
                    t += batch;
                } else {
                    self.one(out.row(t).as_mut_ptr(), t);
                    t += 1;
                }
            }
        }
    }

    /// Bundles of a group but the first.
    fn more(&self) -> usize {
        if self.groups == 0 { 0 } else { self.group / BUNDLE - 1 }
    }

    /// # Safety
    /// `t` is one of the tokens, and `row` valid for all rows' outputs.
    #[inline]
    unsafe fn one(&self, row: *mut f32, t: usize) {
        // SAFETY: by the caller's promise, and by what `new` has checked.
        unsafe {
            let x_scales = self.x.scales.as_ptr().add(t * self.x.groups);
            let short = self.more() == 0 && self.last == 0;
            let run = if short { one_token_short } else { one_token_long };
            run(
                &OneToken {
                    words: self.words.as_ptr(),
                    x: self.x.values.as_ptr().add(t * self.x.stride),
                    w_scales: self.w_scales.as_ptr(),
                    x_scales,
                    x_scales_end: x_scales.add(self.groups),
                    more: self.more(),
                    last: self.last,
                    out: row,
                    out_end: row.add(self.rows),
                    bias: self.bias,
                    add: self.add,
                    bias_or_add: usize::from(!self.bias.is_null()) | self.add,
                },
                self.factor,
            );
        }
    }

    /// # Safety
    /// `t..t + count` are some of the tokens, at most [`BATCH`], and `out` is as [`Product::run`] asks for. A group fits the
    /// stage.
    unsafe fn staged(&self, out: &mut TileMut<'_, f32>, t: usize, count: usize) {
        let mut stage = MaybeUninit::<Stage>::uninit();
        let stage = stage.as_mut_ptr();
        // A row goes through the stage in segments of whole groups, all alike but the last.
        let all_groups = self.groups + usize::from(self.last > 0);
        let segment = if all_groups == 1 { 1 } else { STAGE / self.group };
        let short = self.more() == 0 && self.last == 0;
        let run = if short { some_tokens_short } else { some_tokens_long };
        let (mut row, out_stride) = out.start(t);
        let (mut words, mut w_scales, mut bias) = (self.words.as_ptr(), self.w_scales.as_ptr(), self.bias);
        // SAFETY: by the caller's promise, and by what `new` has checked: segments lie in their rows.
        unsafe {
            let x = self.x.values.as_ptr().add(t * self.x.stride);
            let x_scales = self.x.scales.as_ptr().add(t * self.x.groups);
            let mut sums = [[0f32; ROWS]; BATCH];
            for _ in 0..self.rows / ROWS {
                if segment < all_groups {
                    sums = [[0.0; ROWS]; BATCH];
                }
                let mut first = 0;
                while first < all_groups {
                    let groups = segment.min(all_groups - first);
                    let is_last = first + groups == all_groups;
                    let whole = groups.min(self.groups - first.min(self.groups));
                    let last = if is_last { self.last } else { 0 };
                    let quads = whole * self.group + last;
                    fill(stage, words, quads, w_scales, groups);
                    let staged = (&raw const (*stage).words).cast::<u32>();
                    run(
                        &SomeTokens {
                            words: staged,
                            x: x.add(first * self.group * INPUT),
                            x_scales: x_scales.add(first),
                            w_scales: (&raw const (*stage).scales).cast(),
                            words_end: staged.add(whole * self.group * STAGED / size_of::<u32>()),
                            more: self.more(),
                            last,
                            tokens: count,
                            sums: sums.as_mut_ptr(),
                            unused: 0,
                            x_stride: self.x.stride,
                            x_scales_stride: self.x.groups * size_of::<f32>(),
                            out: if is_last { row } else { core::ptr::null_mut() },
                            out_stride: out_stride * size_of::<f32>(),
                            bias,
                            add: self.add,
                        },
                        self.factor,
                    );
                    words = words.add(quads * WORD);
                    w_scales = w_scales.add(groups * ROWS);
                    first += groups;
                }
                row = row.add(ROWS);
                if !bias.is_null() {
                    bias = bias.add(ROWS);
                }
            }
        }
    }
}

/// What long rows need of [`one_token!`] and [`some_tokens!`], by the macros that multiply a quad and end a group: before the
/// groups (with the comparison that tells whether there are any), behind a group's first bundle, behind the groups, and the
/// code that these branch to.
macro_rules! long {
    (groups $end:literal, $at:literal) => {
        concat!("ldr r2, [sp, #{", $end, "}]\n cmp ", $at, ", r2\n beq 5f\n")
    };
    (bundles) => {
        "ldr r2, [sp, #{more}]\n cbz r2, 4f\n b 20f\n"
    };
    (last) => {
        "5:\n ldr r2, [sp, #{last}]\n cbz r2, 6f\n b 22f\n"
    };
    (branches $quad:ident, $group:ident) => {
        concat!(
            "20:\n push {{r2}}\n", // More bundles of a group; the stack holds how many.
            $quad!(),
            $quad!(),
            $quad!(),
            $quad!(),
            $quad!(),
            $quad!(),
            $quad!(),
            $quad!(),
            "pop {{r2}}\n subs r2, r2, #1\n bne 20b\n b 4b\n",
            "22:\n push {{r2}}\n", // The quads of the last group.
            $quad!(first),
            "23:\n pop {{r2}}\n subs r2, r2, #1\n beq 24f\n push {{r2}}\n",
            $quad!(),
            "b 23b\n",
            "24:\n",
            dots!(),
            $group!(),
            "b 6b"
        )
    };
}

/// The next four scales of weights as floats, in s4–s7.
macro_rules! w_scales {
    () => {
        "vldmia r12!, {{s12, s13}}
         vcvtb.f32.f16 s4, s12
         vcvtt.f32.f16 s5, s12
         vcvtb.f32.f16 s6, s13
         vcvtt.f32.f16 s7, s13\n"
    };
}

/// What is behind a group's products: s8–s11 += s0–s3 · (w_scales · x_scale).
macro_rules! group {
    () => {
        concat!(
            w_scales!(),
            "vldmia lr!, {{s14}}\n",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s14"),
            each!("vmla.f32", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"])
        )
    };
}

/// The same from the stage.
macro_rules! staged_group {
    () => {
        concat!(
            "vldmia lr!, {{s4, s5, s6, s7}}\n vldmia r12!, {{s14}}\n",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s14"),
            each!("vmla.f32", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"])
        )
    };
}

/// What one token's assembly works on: a matrix of whole blocks, and a vector.
#[repr(C)]
struct OneToken {
    /// Advances through the blocks, as `bias` and `out` do.
    words: *const u8,
    x: *const i8,
    w_scales: *const u16,
    x_scales: *const f32,
    /// Behind the scales of groups of whole bundles.
    x_scales_end: *const f32,
    /// Bundles of such a group, less one.
    more: usize,
    /// Quads of another group behind them, or 0.
    last: usize,
    out: *mut f32,
    out_end: *mut f32,
    /// Null if there is none.
    bias: *const f32,
    /// 1 to add to `out`, 0 to replace it.
    add: usize,
    /// 1 if one of these is to be done.
    bias_or_add: usize,
}

/// The assembly for one token: once for rows that are groups of one bundle, and once for all others, with what those need
/// before the groups, behind a group's first bundle, behind the groups, and the code they branch to.
macro_rules! one_token {
    ($name:ident, $groups:expr, $bundles:expr, $last:expr, $branches:expr, [$($offsets:tt)*]) => {
        /// # Safety
        /// There is at least one block and one group. All pointers are aligned to words and valid for what the fields
        /// promise.
        #[inline(never)]
        unsafe fn $name(task: &OneToken, factor: f32) {
            // SAFETY: by the caller's promise. r6 and r7 are not ours to name, so they are saved here; the stack is as before.
            unsafe {
                asm!(
                    "push {{r6, r7}}",
                    // The fields, to where they are one instruction away.
                    "vldmia r0, {{s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11}}",
                    "vpush {{s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11}}",
                    "vmov s15, r1",
                    "ldr r0, [sp, #{words}]",
                    "ldr r12, [sp, #{w_scales}]",
                    "2:", // A block.
                    "ldr r1, [sp, #{x}]",
                    "ldr lr, [sp, #{x_scales}]",
                    "movs r2, #0",
                    "vmov s8, s9, r2, r2",
                    "vmov s10, s11, r2, r2",
                    $groups,
                    "3:", // A group of whole bundles.
                    quad!(first), quad!(), quad!(), quad!(), quad!(), quad!(), quad!(), quad!(),
                    $bundles,
                    "4:",
                    dots!(),
                    group!(),
                    "ldr r2, [sp, #{x_scales_end}]",
                    "cmp lr, r2",
                    "bne 3b",
                    $last,
                    "6:",
                    "ldr r2, [sp, #{bias_or_add}]",
                    each!("vmul.f32", ["s8" "s9" "s10" "s11"], "s15"),
                    "cbnz r2, 7f",
                    "8:", // The outputs.
                    "ldrd r4, r5, [sp, #{out}]",
                    "vstmia r4!, {{s8, s9, s10, s11}}",
                    "str r4, [sp, #{out}]",
                    "cmp r4, r5",
                    "bne 2b",
                    "b 25f",
                    "7:",
                    "ldrd r6, r7, [sp, #{bias}]",
                    "cbz r6, 9f",
                    "vldmia r6!, {{s4, s5, s6, s7}}",
                    "str r6, [sp, #{bias}]",
                    each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"]),
                    "9:",
                    "cmp r7, #0",
                    "beq 8b",
                    "ldr r4, [sp, #{out}]",
                    "vldmia r4, {{s4, s5, s6, s7}}",
                    each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"]),
                    "b 8b",
                    $branches,
                    "25:",
                    "add sp, sp, #{size}",
                    "pop {{r6, r7}}",
                    words = const offset_of!(OneToken, words),
                    x = const offset_of!(OneToken, x),
                    w_scales = const offset_of!(OneToken, w_scales),
                    x_scales = const offset_of!(OneToken, x_scales),
                    x_scales_end = const offset_of!(OneToken, x_scales_end),
                    out = const offset_of!(OneToken, out),
                    bias = const offset_of!(OneToken, bias),
                    bias_or_add = const offset_of!(OneToken, bias_or_add),
                    size = const size_of::<OneToken>(),
                    $($offsets)*
                    inout("r0") task => _,
                    inout("r1") factor.to_bits() => _,
                    out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _,
                    out("r11") _, out("r12") _, out("lr") _,
                    out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _,
                    out("s7") _, out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                    out("s14") _, out("s15") _,
                );
            }
        }
    };
}

one_token!(one_token_short, "", "", "", "", []);
one_token!(
    one_token_long,
    long!(groups "x_scales_end", "lr"),
    long!(bundles),
    long!(last),
    long!(branches quad, group),
    [more = const offset_of!(OneToken, more), last = const offset_of!(OneToken, last),]
);

/// Bytes of a staged quad: both words of each row.
const STAGED: usize = 2 * WORD;

/// A part of a block, unpacked.
#[repr(C)]
struct Stage {
    words: [[u8; STAGED]; STAGE],
    /// Scales as floats, four for each group.
    scales: [[f32; ROWS]; STAGE / BUNDLE],
}

/// Unpacks `quads` quads and the scales of `groups` groups.
///
/// # Safety
/// Both are positive and fit the stage; pointers are aligned to words and valid for them.
#[inline(never)]
unsafe fn fill(stage: *mut Stage, words: *const u8, quads: usize, w_scales: *const u16, groups: usize) {
    // SAFETY: by the caller's promise. r6 and r7 are not ours to name, so they are saved here; the stack is as before.
    unsafe {
        asm!(
            "push {{r6, r7}}",
            "2:",
            "ldmia r0!, {{r4, r5, r6, r7}}",
            "sxtb16 r8, r4",
            "sxtb16 r9, r5",
            "sxtb16 r10, r6",
            "sxtb16 r11, r7",
            "stmia r1!, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
            "subs r2, r2, #1",
            "bne 2b",
            "3:",
            w_scales!(),
            "vstmia r3!, {{s4, s5, s6, s7}}",
            "subs lr, lr, #1",
            "bne 3b",
            "pop {{r6, r7}}",
            inout("r0") words => _,
            inout("r1") (&raw mut (*stage).words) => _,
            inout("r2") quads => _,
            inout("r3") (&raw mut (*stage).scales) => _,
            inout("r12") w_scales => _,
            inout("lr") groups => _,
            out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("s4") _, out("s5") _, out("s6") _, out("s7") _, out("s12") _, out("s13") _,
        );
    }
}

/// What the assembly for several tokens works on: a staged block or a part of it, and their vectors.
#[repr(C)]
struct SomeTokens {
    words: *const u32,
    /// Advances through the tokens, as `x_scales`, `sums` and `out` do.
    x: *const i8,
    x_scales: *const f32,
    w_scales: *const f32,
    /// Behind the words of groups of whole bundles.
    words_end: *const u32,
    /// As in [`OneToken`].
    more: usize,
    last: usize,
    /// Tokens left.
    tokens: usize,
    /// The sums so far.
    sums: *mut [f32; ROWS],
    unused: usize,
    /// Bytes from token to token.
    x_stride: usize,
    x_scales_stride: usize,
    /// Null if other parts of the block follow.
    out: *mut f32,
    out_stride: usize,
    bias: *const f32,
    add: usize,
}

/// The assembly for several tokens; parameters as for [`one_token!`].
macro_rules! some_tokens {
    ($name:ident, $groups:expr, $bundles:expr, $last:expr, $branches:expr, [$($offsets:tt)*]) => {
        /// # Safety
        /// There is at least one token and one group. All pointers are aligned to words and valid for what the fields
        /// promise.
        #[inline(never)]
        unsafe fn $name(task: &SomeTokens, factor: f32) {
            // SAFETY: by the caller's promise. r6 and r7 are not ours to name, so they are saved here; the stack is as before.
            unsafe {
                asm!(
                    "push {{r6, r7}}",
                    "vldmia r0, {{s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15}}",
                    "vpush {{s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15}}",
                    "vmov s15, r1",
                    "2:", // A token.
                    "ldm sp, {{r0, r1, r12, lr}}",
                    "ldr r3, [sp, #{sums}]",
                    "vldmia r3, {{s8, s9, s10, s11}}",
                    $groups,
                    "3:", // A group of whole bundles.
                    staged_quad!(first), staged_quad!(), staged_quad!(), staged_quad!(),
                    staged_quad!(), staged_quad!(), staged_quad!(), staged_quad!(),
                    $bundles,
                    "4:",
                    dots!(),
                    staged_group!(),
                    "ldr r2, [sp, #{words_end}]",
                    "cmp r0, r2",
                    "bne 3b",
                    $last,
                    "6:",
                    "ldrd r4, r5, [sp, #{out}]", // and its stride
                    "cbz r4, 10f",
                    "ldrd r6, r7, [sp, #{bias}]", // and whether to add
                    each!("vmul.f32", ["s8" "s9" "s10" "s11"], "s15"),
                    "cbz r6, 7f",
                    "vldmia r6, {{s4, s5, s6, s7}}",
                    each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"]),
                    "7:",
                    "cbz r7, 8f",
                    "vldmia r4, {{s4, s5, s6, s7}}",
                    each!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s4" "s5" "s6" "s7"], ["s8" "s9" "s10" "s11"]),
                    "8:",
                    "vstmia r4, {{s8, s9, s10, s11}}",
                    "add r4, r4, r5",
                    "str r4, [sp, #{out}]",
                    "9:", // The next token.
                    "ldrd r4, r5, [sp, #{x}]", // and its scales
                    "ldrd r6, r7, [sp, #{x_stride}]", // and that of the scales
                    "ldrd r2, r3, [sp, #{tokens}]", // and sums
                    "add r4, r4, r6",
                    "add r5, r5, r7",
                    "add r3, r3, #16",
                    "subs r2, r2, #1",
                    "strd r4, r5, [sp, #{x}]",
                    "strd r2, r3, [sp, #{tokens}]",
                    "bne 2b",
                    "b 25f",
                    "10:",
                    "ldr r3, [sp, #{sums}]",
                    "vstmia r3, {{s8, s9, s10, s11}}",
                    "b 9b",
                    $branches,
                    "25:",
                    "add sp, sp, #{size}",
                    "pop {{r6, r7}}",
                    x = const offset_of!(SomeTokens, x),
                    words_end = const offset_of!(SomeTokens, words_end),
                    tokens = const offset_of!(SomeTokens, tokens),
                    sums = const offset_of!(SomeTokens, sums),
                    x_stride = const offset_of!(SomeTokens, x_stride),
                    out = const offset_of!(SomeTokens, out),
                    bias = const offset_of!(SomeTokens, bias),
                    size = const size_of::<SomeTokens>(),
                    $($offsets)*
                    inout("r0") task => _,
                    inout("r1") factor.to_bits() => _,
                    out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _,
                    out("r11") _, out("r12") _, out("lr") _,
                    out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _,
                    out("s7") _, out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
                    out("s14") _, out("s15") _,
                );
            }
        }
    };
}

some_tokens!(some_tokens_short, "", "", "", "", []);
some_tokens!(
    some_tokens_long,
    long!(groups "words_end", "r0"),
    long!(bundles),
    long!(last),
    long!(branches staged_quad, staged_group),
    [more = const offset_of!(SomeTokens, more), last = const offset_of!(SomeTokens, last),]
);

// The assembly moves the fields in registers, and staged sums by 16 bytes.
const _: () = assert!(size_of::<OneToken>() == 12 * 4 && size_of::<SomeTokens>() == 16 * 4 && ROWS == 4);
