//! Streaming attention of one query, as [`crate::layer::attention`] describes it: a tile's scores, softmax and values.
//!
//! Only the visible positions of a tile are computed; whole quads of them by assembly, up to three more in Rust.

use core::arch::asm;
use core::mem::MaybeUninit;

use super::{INPUT, MAX_GROUP, WORD, quantize};
use crate::cache::{HeadCache, TILE};
use crate::kernel::Query;
use crate::math::{self, LANES};
use crate::packing::QUAD;

/// Quads of a tile's positions.
const QUADS: usize = TILE / QUAD;

/// Attention into `out`; false, and nothing is done, if the assembly cannot take these sizes and places.
#[inline(always)]
pub(super) fn attend(cache: &HeadCache<'_>, query: &Query<'_>, out: &mut [f32]) -> bool {
    let quads = out.len() / QUAD;
    let aligned = (cache.keys.as_ptr() as usize | cache.values.as_ptr() as usize | query.values.as_ptr() as usize) % 4;
    let fits = cache.shape.head_dim == out.len()
        && out.len() == quads * QUAD
        && (1..=MAX_GROUP).contains(&quads)
        && query.values.len() >= quads * INPUT;
    if !fits || aligned != 0 {
        return false;
    }
    out.fill(0.0);
    let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0f32);
    // Scores, then weights in their place, then quantized ones.
    let mut tile_room = MaybeUninit::<[[f32; QUAD]; QUADS]>::uninit();
    let mut expanded_room = MaybeUninit::<[[i8; INPUT]; QUADS]>::uninit();
    let (scores, expanded) = (tile_room.as_mut_ptr().cast::<[f32; QUAD]>(), expanded_room.as_mut_ptr().cast());
    for (tile, part) in cache.tiles(query.visible).enumerate() {
        let visible = TILE.min(query.visible - tile * TILE);
        let (whole, rest) = (visible / QUAD, visible % QUAD);
        let before = largest;
        // SAFETY: a tile has 8 quads of positions, of which `whole` and perhaps another are read: their keys are of `quads`
        // quads, as the query, and their values are as many as `out` is long.
        unsafe {
            if whole > 0 {
                let found = score(part.keys.as_ptr(), query, quads, part.key_scales.as_ptr(), whole, scores);
                largest = if found > largest { found } else { largest };
            }
            let mut tail = [0.0; QUAD];
            if rest > 0 {
                let keys = part.keys.as_ptr().add(whole * quads * WORD);
                score(keys, query, quads, part.key_scales.as_ptr().add(whole * QUAD), 1, &mut tail);
                for &score in tail.iter().take(rest) {
                    largest = if score > largest { score } else { largest };
                }
            }
            let rescale = math::exp2(before - largest);
            let mut lanes = [0.0; LANES];
            let mut absmax = 0.0;
            if whole > 0 {
                absmax = weigh(scores, part.value_scales.as_ptr(), whole, largest, &mut lanes);
            }
            if rest > 0 {
                let value_scales = part.value_scales.iter().skip(whole * QUAD);
                let lanes = lanes.iter_mut().skip(whole * QUAD % LANES);
                for (i, ((weight, &value_scale), lane)) in tail.iter_mut().zip(value_scales).zip(lanes).enumerate() {
                    let p = if i < rest { math::exp2(*weight - largest) } else { 0.0 };
                    *lane += p;
                    *weight = if i < rest { p * value_scale } else { 0.0 };
                    absmax = if *weight > absmax { *weight } else { absmax };
                }
                scores.add(whole).write(tail);
            }
            total = total * rescale + math::combine(lanes);
            let quads = visible.div_ceil(QUAD);
            let scale = match math::steps(absmax) {
                Some((inverse, scale)) => {
                    quantize::expand(scores, quads, inverse, expanded);
                    scale
                }
                None => {
                    expanded.write_bytes(0, quads);
                    0.0
                }
            };
            mix(part.values.as_ptr(), expanded, quads, rescale, scale, out);
        }
    }
    let inverse = 1.0 / total;
    out.iter_mut().for_each(|out| *out *= inverse);
    true
}

/// `blocks` times four scores: dot · (key_scale · query.scale). Returns the largest that is not NaN, or −∞.
///
/// # Safety
/// `keys`, `key_scales` and `scores` are valid for `blocks` ≥ 1 blocks, of `quads` ≥ 1 quads, and the query for those quads;
/// pointers are aligned to words.
#[inline(always)]
unsafe fn score(
    keys: *const u8,
    query: &Query<'_>,
    quads: usize,
    key_scales: *const f32,
    blocks: usize,
    scores: *mut [f32; QUAD],
) -> f32 {
    let largest: u32;
    // SAFETY: by the caller's promise; r6 and r7, which asm! cannot name, and the stack are as before in the end.
    unsafe {
        asm!(
            "push {{r6, r7}}",
            "push {{r2, r3, r4}}",
            "vmov s8, r5",
            "vmov s9, r8",
            "vmov s10, r1",
            "2:", // A block.
            "vmov r1, s10",
            quad!(first),
            "movs r12, lr",
            "beq 4f",
            "3:",
            quad!(),
            "subs r12, r12, #1",
            "bne 3b",
            "4:",
            "ldm sp, {{r2, r3, r4}}",
            "vmov s0, s1, r8, r9",
            "vmov s2, s3, r10, r11",
            "vldmia r2!, {{s4, s5, s6, s7}}",
            "vcvt.f32.s32 s0, s0, #8",
            "vcvt.f32.s32 s1, s1, #8",
            "vcvt.f32.s32 s2, s2, #8",
            "vcvt.f32.s32 s3, s3, #8",
            "vmul.f32 s4, s4, s8",
            "vmul.f32 s5, s5, s8",
            "vmul.f32 s6, s6, s8",
            "vmul.f32 s7, s7, s8",
            "vmul.f32 s0, s0, s4",
            "vmul.f32 s1, s1, s5",
            "vmul.f32 s2, s2, s6",
            "vmul.f32 s3, s3, s7",
            "vstmia r3!, {{s0, s1, s2, s3}}",
            larger!("s9", "s0"),
            larger!("s9", "s1"),
            larger!("s9", "s2"),
            larger!("s9", "s3"),
            "subs r4, r4, #1",
            "stm sp, {{r2, r3, r4}}",
            "bne 2b",
            "vmov r8, s9",
            "add sp, sp, #12",
            "pop {{r6, r7}}",
            inout("r0") keys => _,
            inout("r1") query.values.as_ptr() => _,
            inout("r2") key_scales => _,
            inout("r3") scores => _,
            inout("r4") blocks => _,
            inout("r5") query.scale.to_bits() => _,
            inout("r8") f32::NEG_INFINITY.to_bits() => largest,
            inout("lr") quads - 1 => _,
            out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _,
        );
    }
    f32::from_bits(largest)
}

/// The numbers that [`weigh`] keeps in registers: [`math::EXP2`], the rounding constant, and the least exponent.
const CONSTANTS: [f32; 8] = {
    let c = math::EXP2;
    [c[0], c[1], c[2], c[3], c[4], c[5], math::ROUND, math::LEAST_EXPONENT]
};

/// Four lines of assembly for the registers `$a…$d`, in the order a line names them.
macro_rules! four {
    ($op:literal, [$($d:literal)*], [$($n:literal)*], $m:literal) => {
        concat!($($op, " ", $d, ", ", $n, ", ", $m, "\n",)*)
    };
    ($op:literal, [$($d:literal)*], [$($n:literal)*], [$($m:literal)*]) => {
        concat!($($op, " ", $d, ", ", $n, ", ", $m, "\n",)*)
    };
}

/// p·r + c for four p in s4–s7 and r in s0–s3.
macro_rules! horner {
    ($c:literal) => {
        concat!(
            four!("vmul.f32", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
            four!("vadd.f32", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], $c)
        )
    };
}

/// Weights of four positions: [`math::exp2`] of score − largest, added to four lanes, times the value's scale.
macro_rules! weigh {
    ([$($lane:literal)*]) => {
        concat!(
            "vldmia {scores}, {{s0, s1, s2, s3}}\n",
            four!("vsub.f32", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], "s12"),
            at_least!("s0", "s23"), at_least!("s1", "s23"), at_least!("s2", "s23"), at_least!("s3", "s23"),
            // r = x − n; n's bits are kept.
            four!("vadd.f32", ["s8" "s9" "s10" "s11"], ["s0" "s1" "s2" "s3"], "s22"),
            "vmov {n0}, {n1}, s8, s9\n vmov {n2}, {n3}, s10, s11\n",
            four!("vsub.f32", ["s8" "s9" "s10" "s11"], ["s8" "s9" "s10" "s11"], "s22"),
            four!("vsub.f32", ["s0" "s1" "s2" "s3"], ["s0" "s1" "s2" "s3"], ["s8" "s9" "s10" "s11"]),
            four!("vmul.f32", ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"], "s16"),
            four!("vadd.f32", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], "s17"),
            horner!("s18"), horner!("s19"), horner!("s20"), horner!("s21"),
            "vmov {p0}, {p1}, s4, s5\n",
            "add {p0}, {p0}, {n0}, lsl #23\n add {p1}, {p1}, {n1}, lsl #23\n",
            "vmov s4, s5, {p0}, {p1}\n",
            "vmov {p0}, {p1}, s6, s7\n",
            "add {p0}, {p0}, {n2}, lsl #23\n add {p1}, {p1}, {n3}, lsl #23\n",
            "vmov s6, s7, {p0}, {p1}\n",
            "vldmia {value_scales}!, {{s0, s1, s2, s3}}\n",
            four!("vadd.f32", [$($lane)*], [$($lane)*], ["s4" "s5" "s6" "s7"]),
            four!("vmul.f32", ["s4" "s5" "s6" "s7"], ["s4" "s5" "s6" "s7"], ["s0" "s1" "s2" "s3"]),
            "vstmia {scores}!, {{s4, s5, s6, s7}}\n",
            larger!("s13", "s4"), larger!("s13", "s5"), larger!("s13", "s6"), larger!("s13", "s7"),
            "subs {count}, {count}, #1\n"
        )
    };
}

/// Softmax of `count` quads of positions, the first of which is the tile's first: adds powers of two to `lanes`, and
/// puts them times `value_scales` in the scores' place. Returns the largest of those that is not NaN, or 0.
///
/// # Safety
/// Both pointers are valid for `count` ≥ 1 quads.
#[inline(always)]
unsafe fn weigh(
    scores: *mut [f32; QUAD],
    value_scales: *const f32,
    count: usize,
    largest: f32,
    lanes: &mut [f32; LANES],
) -> f32 {
    let absmax: u32;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "vldmia {p0}, {{s16, s17, s18, s19, s20, s21, s22, s23}}",
            "vldmia {lanes}, {{s24, s25, s26, s27, s28, s29, s30, s31}}",
            "vmov s12, {p1}",
            "vmov s13, {n0}",
            "2:",
            weigh!(["s24" "s25" "s26" "s27"]),
            "beq 3f",
            weigh!(["s28" "s29" "s30" "s31"]),
            "bne 2b",
            "3:",
            "vstmia {lanes}, {{s24, s25, s26, s27, s28, s29, s30, s31}}",
            "vmov {n0}, s13",
            scores = inout(reg) scores => _,
            value_scales = inout(reg) value_scales => _,
            count = inout(reg) count => _,
            lanes = in(reg) lanes,
            p0 = inout(reg) &CONSTANTS => _,
            p1 = inout(reg) largest.to_bits() => _,
            n0 = inout(reg) 0 => absmax,
            n1 = out(reg) _, n2 = out(reg) _, n3 = out(reg) _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _,
            out("s16") _, out("s17") _, out("s18") _, out("s19") _, out("s20") _, out("s21") _, out("s22") _, out("s23") _,
            out("s24") _, out("s25") _, out("s26") _, out("s27") _, out("s28") _, out("s29") _, out("s30") _, out("s31") _,
            options(nostack),
        );
    }
    f32::from_bits(absmax)
}

/// `out·rescale + dot·scale` with the products of a tile's values and the first `count` quads of `weights`.
///
/// # Safety
/// `values` is valid for a tile's values: a block of 8 quads for every four elements of `out`. 1 ≤ `count` ≤ 8.
#[inline(always)]
unsafe fn mix(
    values: *const u8,
    weights: *const [i8; INPUT],
    count: usize,
    rescale: f32,
    scale: f32,
    out: &mut [f32],
) {
    let blocks = out.len() / QUAD;
    // SAFETY: by the caller's promise; r6 and r7, which asm! cannot name, and the stack are as before in the end.
    unsafe {
        asm!(
            "push {{r6, r7}}",
            "push {{r2, r3}}", // Blocks left, where they go.
            "vmov s8, r4",
            "vmov s9, r5",
            "vmov s10, r1",
            "vmov s11, r8",
            "2:", // A block.
            "vmov r1, s10",
            quad!(first),
            "movs r12, lr",
            "beq 4f",
            "3:",
            quad!(),
            "subs r12, r12, #1",
            "bne 3b",
            "4:",
            "ldm sp, {{r2, r3}}",
            "vmov s0, s1, r8, r9",
            "vmov s2, s3, r10, r11",
            "vldmia r3, {{s4, s5, s6, s7}}",
            "vcvt.f32.s32 s0, s0, #8",
            "vcvt.f32.s32 s1, s1, #8",
            "vcvt.f32.s32 s2, s2, #8",
            "vcvt.f32.s32 s3, s3, #8",
            "vmul.f32 s4, s4, s8",
            "vmul.f32 s5, s5, s8",
            "vmul.f32 s6, s6, s8",
            "vmul.f32 s7, s7, s8",
            "vmla.f32 s4, s0, s9",
            "vmla.f32 s5, s1, s9",
            "vmla.f32 s6, s2, s9",
            "vmla.f32 s7, s3, s9",
            "vstmia r3!, {{s4, s5, s6, s7}}",
            "vmov r4, s11",
            "add r0, r0, r4",
            "subs r2, r2, #1",
            "stm sp, {{r2, r3}}",
            "bne 2b",
            "add sp, sp, #8",
            "pop {{r6, r7}}",
            inout("r0") values => _,
            inout("r1") weights => _,
            inout("r2") blocks => _,
            inout("r3") out.as_mut_ptr() => _,
            inout("r4") rescale.to_bits() => _,
            inout("r5") scale.to_bits() => _,
            inout("lr") count - 1 => _,
            inout("r8") (QUADS - count) * WORD => _,
            out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _,
        );
    }
}
