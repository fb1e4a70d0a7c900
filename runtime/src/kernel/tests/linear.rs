//! Matrix products.

use std::vec::Vec;

use fastrand::Rng;
use half::f16;
use proptest::prelude::*;

use super::{Ints, LAYOUTS, bits, expand, ints};
use crate::kernel::{Activations, Backend, TileMut, Write};
use crate::matrix::Matrix;
use crate::packing::{Layout, Packing, QUAD, round_up};

/// Scales that a blob may hold.
#[derive(Clone, Copy, Debug)]
enum Scales {
    Usual,
    Zero,
    Subnormal,
    /// Products overflow to infinity, sums become NaN.
    Large,
    Any,
}

fn scales() -> impl Strategy<Value = Scales> {
    use Scales::{Any, Large, Subnormal, Usual, Zero};
    prop_oneof![3 => Just(Usual), 1 => Just(Zero), 1 => Just(Subnormal), 1 => Just(Large), 1 => Just(Any)]
}

impl Scales {
    fn f16(self, rng: &mut Rng) -> u16 {
        match self {
            Scales::Usual => rng.u16(0x2000..0x3C00),
            Scales::Zero => 0,
            Scales::Subnormal => rng.u16(..0x0400),
            Scales::Large => rng.u16(0x7000..0x7C00),
            Scales::Any => rng.u16(..0x7C00),
        }
    }

    fn f32(self, rng: &mut Rng) -> f32 {
        match self {
            Scales::Usual => rng.f32(),
            Scales::Zero => 0.0,
            Scales::Subnormal => f32::from_bits(rng.u32(..0x0080_0000)),
            Scales::Large => f32::from_bits(rng.u32(0x7E80_0000..=0x7F80_0000)),
            Scales::Any => f32::from_bits(rng.u32(..=0x7F80_0000)),
        }
    }
}

/// One product: a matrix and the quantized vectors of some tokens, row-major and not interleaved.
#[derive(Clone, Debug)]
struct Problem {
    rows: usize,
    cols: usize,
    tokens: usize,
    group: u32,
    exponent: i8,
    bias: bool,
    write: Write,
    weights: Ints,
    values: Ints,
    w_scales: Scales,
    x_scales: Scales,
    /// Bytes between tokens beyond what a token needs.
    slack: usize,
    seed: u64,
}

fn problems() -> impl Strategy<Value = Problem> {
    // AVX2 takes 512 columns and 128 tokens at a time.
    let cols = prop_oneof![4 => 1usize..300, 1 => 500usize..1300];
    let tokens = prop_oneof![8 => 1usize..=20, 1 => 125usize..=135];
    let group = prop_oneof![Just(0u32), Just(32), Just(64), Just(4), Just(600)];
    let shape = (1usize..70, cols, tokens, group);
    let options = (-100i8..=100, any::<bool>(), prop_oneof![Just(Write::Store), Just(Write::Add)]);
    let values = (ints(), ints(), scales(), scales(), prop_oneof![Just(0usize), Just(8)], any::<u64>());
    (shape, options, values).prop_map(
        |((rows, cols, tokens, group), (exponent, bias, write), (weights, values, w_scales, x_scales, slack, seed))| {
            Problem {
                rows,
                cols,
                tokens,
                group,
                exponent,
                bias,
                write,
                weights,
                values,
                w_scales,
                x_scales,
                slack,
                seed,
            }
        },
    )
}

/// A problem's numbers.
struct Data {
    weights: Vec<i8>,
    /// `rows × groups`
    w_scales: Vec<u16>,
    /// `tokens × stride`, zeros up to a quad, then garbage.
    x: Vec<i8>,
    /// `tokens × groups`
    x_scales: Vec<f32>,
    starts: Vec<i32>,
    bias: Vec<f32>,
    stride: usize,
    groups: usize,
    group_cols: usize,
    /// What the output holds beforehand: `tokens × (rows + 3)`.
    before: Vec<f32>,
}

impl Problem {
    fn data(&self) -> Data {
        let rng = &mut Rng::with_seed(self.seed);
        let (rows, cols, tokens) = (self.rows, self.cols, self.tokens);
        let group_cols = if self.group == 0 { cols } else { (self.group as usize).min(cols) };
        let groups = cols.div_ceil(group_cols);
        let stride = round_up(cols, QUAD) + self.slack;
        let weights = self.weights.take(rows * cols, rng);
        let w_scales = (0..rows * groups).map(|_| self.w_scales.f16(rng)).collect();
        let mut x = Vec::new();
        let mut starts = Vec::new();
        for _ in 0..tokens {
            let token = self.values.take(cols, rng);
            starts.extend(token.chunks(group_cols).map(|g| g.iter().map(|&q| -128 * i32::from(q)).sum::<i32>()));
            x.extend(&token);
            x.resize(x.len() + round_up(cols, QUAD) - cols, 0);
            x.extend(Ints::Uniform.take(self.slack, rng));
        }
        let x_scales = (0..tokens * groups).map(|_| self.x_scales.f32(rng)).collect();
        let bias = (0..rows).map(|_| rng.f32() - 0.5).collect();
        let before = (0..tokens * (rows + 3)).map(|_| rng.f32()).collect();
        Data { weights, w_scales, x, x_scales, starts, bias, stride, groups, group_cols, before }
    }

    fn factor(&self) -> f32 {
        2f32.powi(self.exponent.into())
    }

    fn bias<'d>(&self, data: &'d Data) -> Option<&'d [f32]> {
        self.bias.then_some(&data.bias)
    }

    /// The contract, element by element.
    fn expected(&self, data: &Data) -> Vec<f32> {
        let mut out = data.before.clone();
        for t in 0..self.tokens {
            for r in 0..self.rows {
                let mut acc = 0f32;
                for g in 0..data.groups {
                    let cols = g * data.group_cols..self.cols.min((g + 1) * data.group_cols);
                    let product =
                        |c| i64::from(data.weights[r * self.cols + c]) * i64::from(data.x[t * data.stride + c]);
                    let dot: i64 = cols.map(product).sum();
                    let w_scale = f16::from_bits(data.w_scales[r * data.groups + g]).to_f32();
                    acc += dot as f32 * (w_scale * data.x_scales[t * data.groups + g]);
                }
                let mut y = acc * self.factor();
                if self.bias {
                    y += data.bias[r];
                }
                let out = &mut out[t * (self.rows + 3) + r];
                *out = if self.write == Write::Store { y } else { *out + y };
            }
        }
        out
    }

    /// Interleaves the weights; what the layout pads with is garbage, which must not reach a result.
    fn pack(&self, data: &Data, layout: Layout) -> (Packing, Vec<u8>, Vec<u16>) {
        let packing = Packing { layout, group: self.group };
        let rng = &mut Rng::with_seed(!self.seed);
        let padded = round_up(self.rows, layout.block_rows());
        let mut weights = std::vec![0; padded * round_up(self.cols, QUAD)];
        let mut scales: Vec<u16> = (0..padded * data.groups).map(|_| rng.u16(..0x7C00)).collect();
        for row in 0..padded {
            for col in (0..self.cols).step_by(QUAD) {
                let quad = core::array::from_fn(|i| {
                    let inside = row < self.rows && col + i < self.cols;
                    if inside { data.weights[row * self.cols + col + i] } else { rng.i8(-127..=127) }
                });
                let at = layout.quad_offset(row, col, self.cols);
                weights[at..at + QUAD].copy_from_slice(&layout.encode(quad));
            }
        }
        for row in 0..self.rows {
            for group in 0..data.groups {
                scales[packing.scale_index(row, group, self.cols)] = data.w_scales[row * data.groups + group];
            }
        }
        (packing, weights, scales)
    }
}

impl Data {
    /// The vectors as the layout takes them, and the bytes of each.
    fn vectors(&self, layout: Layout) -> (Vec<i8>, usize) {
        match layout {
            Layout::Rows8 => (self.x.clone(), self.stride),
            Layout::Dsp => (expand(&self.x), 2 * self.stride),
        }
    }

    fn activations<'a>(&'a self, (values, stride): &'a (Vec<i8>, usize)) -> Activations<'a> {
        Activations { values, stride: *stride, scales: &self.x_scales, starts: &self.starts, groups: self.groups }
    }
}

proptest! {
    #[test]
    fn every_backend_and_layout_computes_the_contracts_product(p in problems()) {
        let data = p.data();
        let expected = bits(&p.expected(&data));
        for layout in LAYOUTS {
            let (packing, weights, scales) = p.pack(&data, layout);
            let m = Matrix::new(p.rows, p.cols, packing, &weights, &scales, p.factor()).unwrap();
            let vectors = data.vectors(layout);
            // Also with an output that is wider than the matrix has rows.
            for (backend, cols) in Backend::available().flat_map(|b| [(b, p.rows), (b, p.rows + 3)]) {
                let mut out = data.before.clone();
                let tile = TileMut::new(&mut out, cols, p.rows + 3);
                backend.linear(&m, 0, &data.activations(&vectors), p.bias(&data), p.write, tile);
                prop_assert_eq!(bits(&out), &expected[..], "{} {:?} {}", backend.name(), layout, cols);
            }
        }
    }

    /// The same product cut as workers cut it: by rows of the matrix, and by tokens.
    #[test]
    fn no_cut_shows_in_a_product(p in problems(), share in 1usize..6, tokens in 1usize..20) {
        let data = p.data();
        let expected = bits(&p.expected(&data));
        let width = p.rows + 3;
        for layout in LAYOUTS {
            let (packing, weights, scales) = p.pack(&data, layout);
            let m = Matrix::new(p.rows, p.cols, packing, &weights, &scales, p.factor()).unwrap();
            let vectors = data.vectors(layout);
            for backend in Backend::available() {
                let (share, x) = (share * layout.block_rows(), data.activations(&vectors));
                let mut by_rows = data.before.clone();
                let mut rest = TileMut::new(&mut by_rows, p.rows, width);
                let mut first_row = 0;
                while rest.cols() > 0 {
                    let (part, right) = rest.split_at(share);
                    backend.linear(&m, first_row, &x, p.bias(&data), p.write, part);
                    first_row += share;
                    rest = right;
                }
                prop_assert_eq!(bits(&by_rows), &expected[..], "{} {:?}, rows", backend.name(), layout);

                let mut by_tokens = data.before.clone();
                for (i, out) in by_tokens.chunks_mut(tokens * width).enumerate() {
                    let x = x.tokens(i * tokens, out.len() / width);
                    backend.linear(&m, 0, &x, p.bias(&data), p.write, TileMut::new(out, p.rows, width));
                }
                prop_assert_eq!(bits(&by_tokens), &expected[..], "{} {:?}, tokens", backend.name(), layout);
            }
        }
    }

    /// A blob may hold any bytes, also weights of −128 that no converter writes.
    #[test]
    fn every_backend_agrees_on_bytes_that_are_no_weights(p in problems(), dsp in any::<bool>()) {
        let data = p.data();
        let layout = LAYOUTS[usize::from(dsp)];
        let (packing, mut weights, scales) = p.pack(&data, layout);
        let vectors = data.vectors(layout);
        let rng = &mut Rng::with_seed(p.seed);
        weights.fill_with(|| if rng.bool() { 0x80 } else { rng.u8(..) });
        let m = Matrix::new(p.rows, p.cols, packing, &weights, &scales, p.factor()).unwrap();
        let product = |backend: Backend| {
            let mut out = data.before.clone();
            let tile = TileMut::new(&mut out, p.rows, p.rows + 3);
            backend.linear(&m, 0, &data.activations(&vectors), p.bias(&data), p.write, tile);
            bits(&out)
        };
        let expected = product(Backend::PORTABLE);
        for backend in Backend::available() {
            prop_assert_eq!(product(backend), &expected[..], "{}", backend.name());
        }
    }

    #[test]
    fn a_row_read_back_is_the_weights_times_their_scales(p in problems()) {
        let data = p.data();
        for layout in LAYOUTS {
            let (packing, weights, scales) = p.pack(&data, layout);
            let m = Matrix::new(p.rows, p.cols, packing, &weights, &scales, p.factor()).unwrap();
            let mut row = std::vec![f32::NAN; p.cols];
            for r in 0..p.rows {
                m.dequantize_row(r, &mut row);
                let expected: Vec<f32> = (0..p.cols).map(|c| {
                    let scale = f16::from_bits(data.w_scales[r * data.groups + c / data.group_cols]).to_f32();
                    (f32::from(data.weights[r * p.cols + c]) * scale) * p.factor()
                }).collect();
                prop_assert_eq!(bits(&row), bits(&expected), "{:?}", layout);
            }
        }
    }
}

/// Slices of other lengths than a product needs give other numbers, but nothing reads beyond them: the slices are whole
/// allocations, so that a run with an address sanitizer sees it.
#[test]
fn activations_that_are_too_short_are_no_danger() {
    let packing = Packing { layout: Layout::Rows8, group: 32 };
    let (weights, scales) = (std::vec![1u8; 24 * 96], std::vec![0x3C00u16; 24 * 3]);
    let m = Matrix::new(24, 96, packing, &weights, &scales, 1.0).unwrap();
    let (values, x_scales, starts) = (std::vec![1i8; 192], std::vec![1f32; 6], std::vec![-128 * 32i32; 6]);
    let short = std::vec![1i8; 100];
    let full = Activations { values: &values, stride: 96, scales: &x_scales, starts: &starts, groups: 3 };
    for backend in Backend::available() {
        for x in [
            full,
            Activations { values: &[], ..full },
            Activations { values: &short, ..full },
            Activations { scales: &[], ..full },
            Activations { scales: &x_scales[5..], ..full },
            Activations { starts: &[], ..full },
            Activations { starts: &starts[5..], ..full },
            Activations { groups: 1, ..full },
            Activations { groups: 0, ..full },
            Activations { stride: 4, ..full },
            Activations { stride: 0, ..full },
        ] {
            let mut out = [0f32; 2 * 24];
            backend.linear(&m, 0, &x, None, Write::Store, TileMut::new(&mut out, 24, 24));
            assert!(out.iter().all(|y| y.is_finite()), "{} {x:?}: {out:?}", backend.name());
        }
    }
}

#[test]
fn a_matrix_of_the_wrong_size_is_refused() {
    for layout in LAYOUTS {
        let packing = Packing { layout, group: 32 };
        let (weights, scales) = (std::vec![0; 16 * 72], std::vec![0; 16 * 3]);
        let new = |rows, cols, weights, scales| Matrix::new(rows, cols, packing, weights, scales, 1.0).is_some();
        assert!(new(16, 70, &weights, &scales));
        assert!(new(13, 69, &weights, &scales));
        assert!(!new(17, 70, &weights, &scales));
        assert!(!new(16, 68, &weights, &scales));
        assert!(!new(16, 70, &weights[1..], &scales));
        assert!(!new(16, 70, &weights, &scales[1..]));
        assert!(!new(0, 70, &[], &[]));
        assert!(!new(16, 0, &[], &[]));
    }
}
