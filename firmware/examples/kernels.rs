//! Compares every backend of the chip with the portable one, bit for bit: sizes that leave remainders everywhere, extreme
//! values, memory that is not aligned. Ends with status 0 if all agree.
#![no_std]
#![no_main]

use core::fmt::Debug;
use core::panic::PanicInfo;

// Linked for the critical section of this single core.
use cortex_m as _;
use cortex_m_rt::entry;
use semihosting::println;
use semihosting::process::exit;
use static_cell::ConstStaticCell;
use thumbformer::arch::{Activation, Norm};
use thumbformer::kernel::{Activations, HeadCache, Queries, Shaping, TileMut, Write};
use thumbformer::matrix::Matrix;
use thumbformer::packing::{Layout, Packing};
use thumbformer::{Aligned, Backend};

const LAYOUTS: [Layout; 2] = [Layout::Dsp, Layout::Rows8];
/// The largest problems here.
const BYTES: usize = 32 << 10;
const FLOATS: usize = 4 << 10;

/// Memory for one problem at a time.
struct Room {
    weights: Aligned<[u8; BYTES]>,
    values: Aligned<[u8; BYTES]>,
    ints: [Aligned<[i8; BYTES]>; 2],
    scales: Aligned<[u16; FLOATS]>,
    floats: [[f32; FLOATS]; 3],
    out: [[f32; FLOATS]; 2],
}
static ROOM: ConstStaticCell<Room> = ConstStaticCell::new(Room {
    weights: Aligned([0; BYTES]),
    values: Aligned([0; BYTES]),
    ints: [Aligned([0; BYTES]); 2],
    scales: Aligned([0; FLOATS]),
    floats: [[0.0; FLOATS]; 3],
    out: [[0.0; FLOATS]; 2],
});

#[entry]
fn main() -> ! {
    let room = ROOM.take();
    let mut test = Test { random: Random(1), cases: 0, wrong: 0 };
    for backend in Backend::available() {
        test.products(backend, room);
        test.attention(backend, room);
        test.quantization(backend, room);
        test.norms(backend, room);
        test.activations(backend, room);
        test.rotations(backend, room);
        println!("{}: {} cases, {} wrong", backend.name(), test.cases, test.wrong);
    }
    exit(i32::from(test.wrong > 0))
}

/// A linear congruential generator.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0.rotate_left(16)
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    /// An int8 value: all of one extreme, runs of both, or anything.
    fn int(&mut self, kind: u32) -> i8 {
        match kind {
            0 => 127,
            1 => -127,
            2 if self.below(8) < 4 => -127,
            2 => 127,
            _ => (self.below(255) as i32 - 127) as i8,
        }
    }

    /// A float: of every kind that must be told from others, or between −4 and 4.
    fn float(&mut self, kind: u32) -> f32 {
        let usual = (self.next() as i32 as f32) / (1u32 << 29) as f32;
        match kind {
            0 => 0.0,
            1 => f32::from_bits(self.next() & 0x807F_FFFF),
            2 => self.below(509) as f32 / 2.0 - 127.0,
            3 => usual * 8e37,
            4 => match self.below(12) {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                2 => f32::NAN,
                3 => -0.0,
                _ => usual,
            },
            5 => usual * 30.0,
            _ => usual,
        }
    }

    /// A scale: zero, subnormal, large, or usual.
    fn scale(&mut self, kind: u32) -> f32 {
        match kind {
            0 => 0.0,
            1 => f32::from_bits(self.next() & 0x007F_FFFF),
            2 => f32::from_bits(0x7E80_0000 | self.next() & 0x007F_FFFF),
            _ => self.below(1 << 16) as f32 / 65_536.0,
        }
    }

    fn f16(&mut self, kind: u32) -> u16 {
        match kind {
            0 => 0,
            1 => self.below(0x400) as u16,
            2 => 0x7000 + self.below(0xC00) as u16,
            _ => 0x2000 + self.below(0x1C00) as u16,
        }
    }
}

/// Kinds of ints, floats and scales, the last one for usual ones.
const INTS: u32 = 4;
const KINDS: u32 = 7;
const SCALES: u32 = 4;

struct Test {
    random: Random,
    cases: u32,
    wrong: u32,
}

impl Test {
    /// Counts a case; says which one if the bits differ. NaNs count as equal.
    fn same(&mut self, found: &[f32], expected: &[f32], case: &dyn Debug) {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        self.verdict(found.iter().zip(expected).all(same), case);
    }

    fn verdict(&mut self, right: bool, case: &dyn Debug) {
        self.cases += 1;
        if !right {
            self.wrong += 1;
            println!("WRONG: {case:?}");
        }
    }

    fn products(&mut self, backend: Backend, room: &mut Room) {
        const COLS: [usize; 20] = [1, 3, 4, 5, 8, 28, 32, 33, 36, 60, 64, 68, 96, 100, 172, 256, 260, 292, 512, 516];
        let Room { weights, ints, scales, floats: [x_scales, bias, _], out: [out, expected], .. } = room;
        for (layout, cols) in LAYOUTS.into_iter().flat_map(|layout| COLS.map(|cols| (layout, cols))) {
            for (group, tokens) in [32, 64, 0].into_iter().flat_map(|group| [1, 2, 3, 9].map(|t| (group, t))) {
                let random = &mut self.random;
                let rows = [1, 4, 7, 12, 17][random.below(5) as usize];
                let [w_kind, x_kind] = [(); 2].map(|()| random.below(INTS + 2));
                let [w_scale, x_scale] = [(); 2].map(|()| random.below(SCALES + 4));
                let bias = (random.below(2) == 0).then_some(&mut bias[..rows]);
                let write = if random.below(2) == 0 { Write::Store } else { Write::Add };
                // Most vectors are aligned to words.
                let shift = [0, 0, 0, 2][random.below(4) as usize];
                let first_row = if rows > 8 && random.below(2) == 0 { 8 } else { 0 };

                let packing = Packing { layout, group };
                let (groups, stride) = (packing.groups(cols), layout.vector_bytes(cols));
                let weights = &mut weights.0[..packing.weight_bytes(rows, cols).unwrap_or(0)];
                for quad in weights.as_chunks_mut().0 {
                    *quad = layout.encode([(); 4].map(|()| random.int(w_kind)));
                }
                let scales = &mut scales.0[..packing.scale_count(rows, cols).unwrap_or(0)];
                scales.fill_with(|| random.f16(w_scale));
                let values = &mut ints[0].0[shift..shift + tokens * stride];
                for vector in values.chunks_mut(stride) {
                    for (i, quad) in vector.chunks_mut(layout.input_bytes()).enumerate() {
                        let x = core::array::from_fn(|c| if 4 * i + c < cols { random.int(x_kind) } else { 0 });
                        match layout {
                            Layout::Rows8 => quad.copy_from_slice(&x),
                            Layout::Dsp => quad.copy_from_slice(&Layout::expand(x)),
                        }
                    }
                }
                let x_scales = &mut x_scales[..tokens * groups];
                x_scales.fill_with(|| random.scale(x_scale));
                let bias = bias.map(|bias| {
                    bias.fill_with(|| random.float(KINDS));
                    &*bias
                });
                let width = rows - first_row;
                let (out, expected) = (&mut out[..tokens * (width + 3)], &mut expected[..tokens * (width + 3)]);
                out.fill_with(|| random.float(KINDS));
                expected.copy_from_slice(out);

                let Some(m) = Matrix::new(rows, cols, packing, weights, scales, 0.25) else {
                    return self.verdict(false, &"a matrix of the right size");
                };
                let x = Activations { values, stride, scales: x_scales, starts: &[], groups };
                let multiply = |backend: Backend, out: &mut [f32]| {
                    backend.linear(&m, first_row, &x, bias, write, TileMut::new(out, width, width + 3));
                };
                multiply(Backend::PORTABLE, expected);
                multiply(backend, out);
                let kinds = (w_kind, x_kind, w_scale, x_scale, bias.is_some(), write, shift);
                self.same(out, expected, &("product", packing, cols, rows, first_row, tokens, kinds));
            }
        }
    }

    fn attention(&mut self, backend: Backend, room: &mut Room) {
        const DIMS: [usize; 14] = [1, 2, 4, 6, 8, 12, 16, 20, 32, 36, 40, 64, 128, 130];
        const VISIBLE: [usize; 14] = [1, 2, 3, 4, 5, 8, 29, 31, 32, 33, 36, 64, 65, 90];
        let Room { weights, values, ints, floats: [key_scales, value_scales, _], out: [out, expected], .. } = room;
        for (layout, dim) in LAYOUTS.into_iter().flat_map(|layout| DIMS.map(|dim| (layout, dim))) {
            for visible in VISIBLE {
                let random = &mut self.random;
                let [k_kind, v_kind, q_kind] = [(); 3].map(|()| random.below(INTS + 2));
                let [k_scale, v_scale] = [(); 2].map(|()| random.below(SCALES + 6));
                // Scores that are all alike, usual, or so far apart that exponents end.
                let scale = [1e-9, 3e-4, 0.5, 1e30][random.below(4) as usize];
                // A tile that is not visible may follow.
                let positions = (visible + random.below(2) as usize * 32).next_multiple_of(32);
                let keys = &mut weights.0[..positions * dim.next_multiple_of(4)];
                let values = &mut values.0[..positions * dim.next_multiple_of(layout.block_rows())];
                for quad in keys.as_chunks_mut().0 {
                    *quad = layout.encode([(); 4].map(|()| random.int(k_kind)));
                }
                for quad in values.as_chunks_mut().0 {
                    *quad = layout.encode([(); 4].map(|()| random.int(v_kind)));
                }
                for (scales, kind) in [(&mut *key_scales, k_scale), (&mut *value_scales, v_scale)] {
                    let (seen, hidden) = scales[..positions].split_at_mut(visible);
                    seen.fill_with(|| random.scale(kind));
                    hidden.fill_with(|| random.float(4));
                }
                // Up to three tokens of two heads.
                let (tokens, width) = (visible.min(1 + random.below(3) as usize), 2 * layout.vector_bytes(dim));
                let queries = &mut ints[0].0[..tokens * width];
                for (i, quad) in queries.chunks_mut(layout.input_bytes()).enumerate() {
                    let i = i % dim.div_ceil(4);
                    let x = core::array::from_fn(|c| if 4 * i + c < dim { random.int(q_kind) } else { 0 });
                    match layout {
                        Layout::Rows8 => quad.copy_from_slice(&x),
                        Layout::Dsp => quad.copy_from_slice(&Layout::expand(x)),
                    }
                }
                let (key_scales, value_scales) = (&key_scales[..positions], &value_scales[..positions]);
                let Some(cache) = HeadCache::new(layout, dim, keys, values, key_scales, value_scales) else {
                    return self.verdict(false, &"a cache of the right size");
                };
                let (out, expected) = (&mut out[..tokens * 2 * dim], &mut expected[..tokens * 2 * dim]);
                let mut attend = |backend: Backend, out: &mut [f32]| {
                    let values = &mut TileMut::new(queries, width, width);
                    let (scales, starts) = (&mut [scale; 6], &mut [0; 6]);
                    let (scales, starts) = (&mut TileMut::new(scales, 2, 2), &mut TileMut::new(starts, 2, 2));
                    let position = visible - tokens;
                    let queries =
                        Queries { values, scales, starts, position, causal: true, shaping: Shaping::default() };
                    backend.attend(&cache, queries, &mut TileMut::new(out, 2 * dim, 2 * dim));
                };
                attend(Backend::PORTABLE, expected);
                attend(backend, out);
                let kinds = (k_kind, v_kind, q_kind, k_scale, v_scale, scale);
                self.same(out, expected, &("attention", layout, dim, visible, positions, kinds));
            }
        }
    }

    fn quantization(&mut self, backend: Backend, room: &mut Room) {
        let Room { ints: [found, expected], floats: [x, _, _], out: [scales, expected_scales], .. } = room;
        for (layout, kind) in LAYOUTS.into_iter().flat_map(|layout| (0..=KINDS).map(move |kind| (layout, kind))) {
            for (n, group) in (1..=72).chain([128, 172, 300]).flat_map(|n| [8, 32, 64, 300].map(|group| (n, group))) {
                let x = &mut x[..n];
                x.fill_with(|| self.random.float(kind));
                // Sometimes more room than is needed, which is to be zeroed.
                let bytes = layout.vector_bytes(n) + self.random.below(2) as usize * 8;
                let groups = n.div_ceil(group);
                let quantize = |backend: Backend, q: &mut [i8], scales: &mut [f32]| {
                    q.fill(0x55);
                    backend.quantize(layout, x, group, q, scales, &mut []);
                };
                let (found, expected) = (&mut found.0[..bytes], &mut expected.0[..bytes]);
                let (scales, expected_scales) = (&mut scales[..groups], &mut expected_scales[..groups]);
                quantize(backend, found, scales);
                quantize(Backend::PORTABLE, expected, expected_scales);
                self.same(scales, expected_scales, &("scales", layout, kind, n, group));
                self.verdict(found == expected, &("quantized", layout, kind, n, group, bytes));
            }
        }
    }

    fn norms(&mut self, backend: Backend, room: &mut Room) {
        let Room { floats: [x, weight, bias], out: [out, expected], .. } = room;
        for (kind, n) in (0..=KINDS).flat_map(|kind| [1, 7, 8, 9, 16, 64, 96, 100, 172].map(|n| (kind, n))) {
            for (norm, eps) in [(Norm::Rms, 0.0), (Norm::Rms, 1e-5), (Norm::Layer, 1e-5)] {
                let [x, weight, bias] = [&mut x[..n], &mut weight[..n], &mut bias[..n]];
                x.fill_with(|| self.random.float(kind));
                weight.fill_with(|| self.random.float(KINDS));
                bias.fill_with(|| self.random.float(KINDS));
                let bias = (self.random.below(3) == 0).then_some(&*bias);
                let (out, expected) = (&mut out[..n], &mut expected[..n]);
                backend.norm(norm, eps, x, weight, bias, out);
                Backend::PORTABLE.norm(norm, eps, x, weight, bias, expected);
                self.same(out, expected, &("norm", norm, eps, kind, n, bias.is_some()));
            }
        }
    }

    fn activations(&mut self, backend: Backend, room: &mut Room) {
        use Activation::{Gelu, GeluTanh, Relu, Silu};
        let Room { out: [out, expected], .. } = room;
        for (kind, n) in (0..=KINDS).flat_map(|kind| [1, 3, 4, 8, 12, 64, 172].map(|n| (kind, n))) {
            for (function, gated) in [Gelu, GeluTanh, Silu, Relu].into_iter().flat_map(|f| [(f, false), (f, true)]) {
                let len = if gated { 2 * n } else { n };
                let (out, expected) = (&mut out[..len], &mut expected[..len]);
                out.fill_with(|| self.random.float(kind));
                expected.copy_from_slice(out);
                backend.activate(function, gated, n, out);
                Backend::PORTABLE.activate(function, gated, n, expected);
                self.same(out, expected, &("activation", function, gated, kind, n));
            }
        }
    }

    fn rotations(&mut self, backend: Backend, room: &mut Room) {
        let Room { floats: [cos_sin, _, _], out: [out, expected], .. } = room;
        for (kind, half) in (0..=KINDS).flat_map(|kind| [1, 2, 3, 4, 6, 8, 12, 32].map(|half| (kind, half))) {
            for rest in [0, 1, 4] {
                let cos_sin = &mut cos_sin[..2 * half];
                cos_sin.fill_with(|| self.random.float(KINDS));
                let head_dim = 2 * half + rest;
                let (out, expected) = (&mut out[..3 * head_dim], &mut expected[..3 * head_dim]);
                out.fill_with(|| self.random.float(kind));
                expected.copy_from_slice(out);
                backend.rotate(out, head_dim, cos_sin);
                Backend::PORTABLE.rotate(expected, head_dim, cos_sin);
                self.same(out, expected, &("rotation", kind, half, rest));
            }
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(101)
}
