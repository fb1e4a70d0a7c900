//! Streaming attention of one query after the other, as [`crate::layer::attention`] describes it, in one piece of assembly.
//!
//! Of a tile only the quads with visible positions are computed. Hidden positions of the last one have a score of −∞ and
//! no weight, whatever lies in the cache.

use core::arch::asm;
use core::mem::offset_of;

use super::{CONSTANTS, Constants, INPUT, MAX_GROUP, WORD};
use crate::cache::{HeadCache, TILE};
use crate::kernel::{Queries, TileMut};
use crate::packing::{Layout, QUAD};

/// Quads of a tile's positions.
const QUADS: usize = TILE / QUAD;

/// Attention into `out`; false, and nothing is done, if the assembly cannot take these sizes and places.
#[inline]
pub(super) fn attend(cache: &HeadCache<'_>, queries: &mut Queries<'_, '_>, out: &mut TileMut<'_, f32>) -> bool {
    let (head_dim, group, tokens) = (cache.shape.head_dim, queries.scales.cols(), out.rows());
    let quads = head_dim / QUAD;
    let (first, more) = queries.visible();
    let positions = (first + tokens.saturating_sub(1) * more).next_multiple_of(TILE);
    let (values, stride) = queries.values.start(0);
    let shaping = queries.shaping.rules();
    let windowed = shaping.window != 0 && queries.position + tokens > shaping.window;
    let shaped = shaping.cap != 0.0 || windowed || !shaping.slopes.is_empty() || !shaping.biases.is_empty();
    let fits = !(crate::arch::SHAPING && shaped)
        && cache.shape.layout == Layout::Dsp
        && head_dim == quads * QUAD
        && cache.places.in_order(positions / TILE)
        && (1..=MAX_GROUP).contains(&quads)
        && out.cols() == group * head_dim
        && queries.values.cols() == group * quads * INPUT
        && queries.values.rows().min(queries.scales.rows()) >= tokens
        && positions <= cache.key_scales.len().min(cache.value_scales.len())
        && positions * head_dim <= cache.keys.len().min(cache.values.len());
    let aligned = (cache.keys.as_ptr() as usize | cache.values.as_ptr() as usize | values as usize | stride) % 4;
    if !fits || aligned != 0 {
        return false;
    }
    let mut task = Task {
        keys: cache.keys.as_ptr(),
        values: cache.values.as_ptr(),
        key_scales: cache.key_scales.as_ptr(),
        value_scales: cache.value_scales.as_ptr(),
        visible: first,
        query: values,
        more_quads: quads - 1,
        scale: 0.0,
        out: core::ptr::null_mut(),
        out_blocks: quads,
        constants: &CONSTANTS,
        largest: f32::NEG_INFINITY,
    };
    for t in 0..tokens {
        task.query = queries.values.start(t).0;
        task.out = out.start(t).0;
        for &mut scale in queries.scales.row(t) {
            task.scale = scale;
            // SAFETY: `fits` and `aligned` are what it asks for; the pointers go through the heads of one row.
            unsafe { run(&task) };
            task.query = task.query.wrapping_add(quads * INPUT);
            task.out = task.out.wrapping_add(head_dim);
        }
        task.visible += more;
    }
    true
}

/// What the assembly works on. The first four pointers advance with the tiles.
#[repr(C)]
struct Task {
    keys: *const u8,
    values: *const u8,
    key_scales: *const f32,
    value_scales: *const f32,
    /// Positions left.
    visible: usize,
    query: *const i8,
    /// Quads of the query but one.
    more_quads: usize,
    scale: f32,
    out: *mut f32,
    /// Quads of the output.
    out_blocks: usize,
    constants: *const Constants,
    largest: f32,
}

/// Powers of two of four scores at r0 less s14, in s4–s7; the scores' values' scales at r1, which advances, in s0–s3.
macro_rules! powers {
    () => {
        concat!(
            "vldmia r0, {{s0, s1, s2, s3}}\n",
            each!("vsub.f32", ["s0" "s1" "s2" "s3"], "s14"),
            exp2_quad!(["s8" "s9" "s11" "s12"], "vmov r2, r3, s8, s9" "vmov r4, r5, s11, s12"),
            "vmov r8, r9, s4, s5\n vmov r10, r6, s6, s7\n",
            "add r8, r8, r2, lsl #23\n add r9, r9, r3, lsl #23\n add r10, r10, r4, lsl #23\n add r6, r6, r5, lsl #23\n",
            "vmov s4, s5, r8, r9\n vmov s6, s7, r10, r6\n",
            "vldmia r1!, {{s0, s1, s2, s3}}\n"
        )
    };
}

/// Weights of four positions in the place of their scores at r0, which advances; powers go to the lanes.
macro_rules! weights {
    ($lanes:tt) => {
        concat!(
            powers!(),
            each!("vadd.f32", $lanes, ["s4" "s5" "s6" "s7"]),
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
            "vstmia r0!, {{s4, s5, s6, s7}}\n",
            larger!("s13", ["s4" "s5" "s6" "s7"])
        )
    };
}

/// Attends to all visible positions.
///
/// # Safety
/// `visible` and `out_blocks` are positive, all pointers are aligned to words, and the cache and the query are valid for
/// whole tiles of visible positions and `out_blocks` quads.
#[inline(never)]
unsafe fn run(task: &Task) {
    // SAFETY: by the caller's promise. r6 and r7 are not ours to name, so they are saved here; the stack is as before.
    unsafe {
        asm!(
            "push {{r6, r7}}",
            "ldmia r0, {{r0, r1, r2, r3, r4, r5, r8, r9, r10, r11, r12, lr}}",
            "push {{r0, r1, r2, r3, r4, r5, r8, r9, r10, r11, r12, lr}}",
            "sub sp, sp, #{room}",
            "vmov s14, lr", // The largest score so far, and the sum of powers of two.
            "mov r0, #0",
            "vmov s15, r0",
            "ldr r1, [sp, #{out}]",
            "ldr r2, [sp, #{out_blocks}]",
            "19:",
            "strd r0, r0, [r1], #8",
            "strd r0, r0, [r1], #8",
            "subs r2, r2, #1",
            "bne 19b",

            // Where a block of keys goes on behind its first quad: late in the unrolled code, or to the loop for many quads.
            "ldr r1, [sp, #{more_quads}]",
            "adr r2, 24f",
            "mov r3, #{quad_code}",
            "mls r2, r1, r3, r2",
            "cmp r1, #{quads}",
            "blo 18f",
            "adr r2, 35f",
            "18:",
            "adds r2, r2, #1",
            "str r2, [sp, #{entry}]",

            "20:", // A tile: how many quads, and how many positions of the last one.
            "ldr r1, [sp, #{visible}]",
            "cmp r1, #{tile}",
            "it hi",
            "movhi r1, #{tile}",
            "add r4, r1, #3",
            "lsrs r4, r4, #2",
            "sub r1, r1, r4, lsl #2",
            "adds r1, r1, #4",
            "str r4, [sp, #{count}]",
            "str r1, [sp, #{in_last}]",

            // Scores: dots · (key_scale · scale).
            "ldr r0, [sp, #{keys}]",
            "ldr lr, [sp, #{query}]",
            "ldr r1, [sp, #{more_quads}]",
            "ldr r12, [sp, #{entry}]",
            "ldr r2, [sp, #{key_scales}]",
            "add r3, sp, #{scores}",
            "add r1, lr, r1, lsl #3",
            "sub r1, r1, #56", // From here the last quad is at 56.
            "vldr s8, [sp, #{scale}]",
            "vmov.f32 s9, s14",
            "stm sp, {{r2, r3, r4}}",
            "b 22f",
            "21:",
            larger!("s9", ["s0" "s1" "s2" "s3"]),
            "22:", // Four positions.
            quad!(first "[lr]"),
            "bx r12",
            ".balign 4",
            quad!("[r1, #8]"), quad!("[r1, #16]"), quad!("[r1, #24]"), quad!("[r1, #32]"),
            quad!("[r1, #40]"), quad!("[r1, #48]"), quad!("[r1, #56]"),
            "24:",
            "ldm sp, {{r2, r3, r4}}",
            dots!(),
            "vldmia r2!, {{s4, s5, s6, s7}}",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s8"),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"]),
            "vstmia r3!, {{s0, s1, s2, s3}}",
            "subs r4, r4, #1",
            "stm sp, {{r2, r3, r4}}",
            "bne 21b",
            "str r0, [sp, #{keys}]",
            "str r2, [sp, #{key_scales}]",
            // Hidden ones among the last four.
            "ldr r5, [sp, #{in_last}]",
            "ldr r4, [sp, #{constants}]",
            "cmp r5, #4",
            "beq 31f",
            "vldr s4, [sp, #{largest}]", // −∞
            "cmp r5, #2",
            "it lo",
            "vmovlo.f32 s1, s4",
            "cmp r5, #3",
            "it lo",
            "vmovlo.f32 s2, s4",
            "vmov.f32 s3, s4",
            "vstmdb r3!, {{s0, s1, s2, s3}}",
            "31:",
            larger!("s9", ["s0" "s1" "s2" "s3"]),

            // s10: what the sums so far are scaled by.
            "vldmia r4, {{s16, s17, s18, s19, s20, s21, s22, s23, s24, s25, s26, s27, s28, s29, s30, s31}}",
            "vsub.f32 s0, s14, s9",
            "vmov.f32 s14, s9",
            exp2!(["s0"], ["s4"], ["s8"], "vmov r2, s8"),
            "vmov r3, s4",
            "add r3, r3, r2, lsl #23",
            "vmov s10, r3",

            // Weights, in the place of the scores; s13: the largest.
            "add r11, r4, #{steps}",
            "add r0, sp, #{scores}",
            "ldr r1, [sp, #{value_scales}]",
            "ldr lr, [sp, #{count}]",
            "vmov.f32 s13, s24",
            "subs r12, lr, #1",
            "beq 26f",
            "25:",
            weights!(["s24" "s25" "s26" "s27"]),
            "subs r12, r12, #1",
            "beq 26f",
            weights!(["s28" "s29" "s30" "s31"]),
            "subs r12, r12, #1",
            "bne 25b",
            "26:", // The last four.
            powers!(),
            each!("vmul.f32", ["s0" "s1" "s2" "s3"], ["s4" "s5" "s6" "s7"]),
            "vsub.f32 s8, s22, s22",
            "ldr r5, [sp, #{in_last}]",
            "str r1, [sp, #{value_scales}]",
            "cmp r5, #4",
            "beq 34f",
            "cmp r5, #2",
            "itt lo",
            "vmovlo.f32 s1, s8",
            "vmovlo.f32 s5, s8",
            "cmp r5, #3",
            "itt lo",
            "vmovlo.f32 s2, s8",
            "vmovlo.f32 s6, s8",
            "vmov.f32 s3, s8",
            "vmov.f32 s7, s8",
            "34:",
            "vstmia r0, {{s0, s1, s2, s3}}",
            larger!("s13", ["s0" "s1" "s2" "s3"]),
            "tst lr, #1",
            "beq 27f",
            each!("vadd.f32", ["s24" "s25" "s26" "s27"], ["s4" "s5" "s6" "s7"]),
            "b 28f",
            "27:",
            each!("vadd.f32", ["s28" "s29" "s30" "s31"], ["s4" "s5" "s6" "s7"]),
            "28:",
            each!("vadd.f32", ["s24" "s25" "s26" "s27"], ["s28" "s29" "s30" "s31"]),
            each!("vadd.f32", ["s24" "s25"], ["s26" "s27"]),
            "vadd.f32 s24, s24, s25",
            "vmul.f32 s15, s15, s10",
            "vadd.f32 s15, s15, s24",

            // Quantized weights; s11: their scale. If 127 over the largest overflows, all count as zero.
            "movw r2, #0",
            "movt r2, #0x42FE", // 127
            "vmov s1, r2",
            "vdiv.f32 s12, s1, s13",
            "vdiv.f32 s11, s13, s1",
            "vmov r2, s12",
            "cmp r2, #0x7F800000",
            "itt hs",
            "vmovhs.f32 s12, s8",
            "vmovhs.f32 s11, s8",
            "add r0, sp, #{scores}",
            "add r1, sp, #{weights}",
            "mov r12, lr",
            "vmov.f32 s8, s22",
            "add r11, r11, #{round}",
            "29:",
            round_expanded!(),
            "subs r12, r12, #1",
            "bne 29b",

            // out · s10 + dots · s11, four elements at a time, each from so many quads: the code below is entered late.
            "adr r2, 32f",
            "mov r3, #{quad_code}",
            "mls r2, lr, r3, r2",
            "add r12, r2, #1",
            "rsb lr, lr, #{quads}",
            "lsl lr, lr, #4",
            "ldr r0, [sp, #{values}]",
            "ldr r3, [sp, #{out}]",
            "ldr r4, [sp, #{out_blocks}]",
            "30:",
            "strd r3, r4, [sp]",
            "add r1, sp, #{weights}",
            "mov r8, #0",
            "mov r9, #0",
            "mov r10, #0",
            "mov r11, #0",
            "bx r12",
            ".balign 4",
            quad!(), quad!(), quad!(), quad!(), quad!(), quad!(), quad!(), quad!(),
            "32:",
            "ldrd r3, r4, [sp]",
            dots!(),
            "vldmia r3, {{s4, s5, s6, s7}}",
            "add r0, r0, lr",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s10"),
            each!("vmla.f32", ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"], "s11"),
            "vstmia r3!, {{s4, s5, s6, s7}}",
            "subs r4, r4, #1",
            "bne 30b",
            "str r0, [sp, #{values}]",

            "ldr r1, [sp, #{visible}]",
            "subs r1, r1, #{tile}",
            "str r1, [sp, #{visible}]",
            "bhi 20b",
            "b 36f",
            ".balign 4",
            "35:", // The other quads of four keys, if there are many.
            "add r1, lr, #8",
            "ldr r2, [sp, #{more_quads}]",
            "23:",
            "push {{r2}}",
            quad!(),
            "pop {{r2}}",
            "subs r2, r2, #1",
            "bne 23b",
            "b 24b",
            "36:", // out / s15
            "ldr r1, [sp, #{out}]",
            "ldr r2, [sp, #{out_blocks}]",
            "vmov.f32 s0, #1.0",
            "vdiv.f32 s0, s0, s15",
            "33:",
            "vldmia r1, {{s4, s5, s6, s7}}",
            each!("vmul.f32", ["s4" "s5" "s6" "s7"], "s0"),
            "vstmia r1!, {{s4, s5, s6, s7}}",
            "subs r2, r2, #1",
            "bne 33b",
            "add sp, sp, #{all}",
            "pop {{r6, r7}}",
            room = const ROOM,
            all = const ROOM + size_of::<Task>(),
            steps = const offset_of!(Constants, steps),
            round = const offset_of!(Constants, round) - offset_of!(Constants, steps),
            count = const COUNT,
            entry = const ENTRY,
            in_last = const IN_LAST,
            scores = const SCORES,
            weights = const WEIGHTS,
            keys = const ROOM + offset_of!(Task, keys),
            values = const ROOM + offset_of!(Task, values),
            key_scales = const ROOM + offset_of!(Task, key_scales),
            value_scales = const ROOM + offset_of!(Task, value_scales),
            visible = const ROOM + offset_of!(Task, visible),
            query = const ROOM + offset_of!(Task, query),
            more_quads = const ROOM + offset_of!(Task, more_quads),
            scale = const ROOM + offset_of!(Task, scale),
            out = const ROOM + offset_of!(Task, out),
            out_blocks = const ROOM + offset_of!(Task, out_blocks),
            constants = const ROOM + offset_of!(Task, constants),
            largest = const ROOM + offset_of!(Task, largest),
            tile = const TILE,
            quads = const QUADS,
            quad_code = const QUAD_CODE,
            inout("r0") task => _,
            out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("lr") _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _, out("s22") _, out("s23") _,
            out("s24") _, out("s25") _, out("s26") _, out("s27") _, out("s28") _, out("s29") _, out("s30") _, out("s31") _,
        );
    }
}

// The assembly's stack, below the task: three words for loops, three numbers, scores and weights of a tile.
const COUNT: usize = 12;
const IN_LAST: usize = 16;
const ENTRY: usize = 20;
const SCORES: usize = 24;
const WEIGHTS: usize = SCORES + TILE * size_of::<f32>();
const ROOM: usize = WEIGHTS + Layout::Dsp.vector_bytes(TILE);

/// Bytes of code of a `quad!`.
const QUAD_CODE: usize = 56;

// The assembly loads this many fields, and moves this many bytes from quad to quad of values.
const _: () = assert!(size_of::<Task>() == 12 * 4 && WORD == 1 << 4);
