//! Every backend against the contract, bit for bit, over ragged shapes and extreme values.
//!
//! The expected values come from plain loops written here from the contract's text: sums over `i64`, elements one by one,
//! no interleaving. They share only [`math::exp`](crate::math::exp) and the scalar activations with the code under test.

mod attend;
mod elementwise;
mod linear;

use std::vec::Vec;

use fastrand::Rng;
use proptest::prelude::*;

use super::Backend;
use super::drive::{Block, Kernel, Step, Token};
use super::portable::Portable;
use crate::cache::TILE;
use crate::math::LANES;
use crate::packing::Layout;

pub(crate) const LAYOUTS: [Layout; 2] = [Layout::Rows8, Layout::Dsp];

/// The portable backend of a small target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Narrow;

super::operations!(Narrow);

impl Kernel for Narrow {
    const NARROW: bool = true;
    type Scratch = ();

    fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
        Portable.rows8(block, x)
    }

    fn scores(self, keys: &[u8], query: &[i8], start: i32, first: bool, dots: &mut [i32; TILE]) {
        Portable.scores(keys, query, start, first, dots);
    }

    fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, first: bool, out: &mut [f32; 8]) {
        Portable.mix8(values, weights, step, first, out);
    }
}

/// Bits, with all NaNs alike as in [`Digest`](crate::Digest).
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }.to_bits()).collect()
}

/// What int8 values look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ints {
    Uniform,
    /// The largest sums there are.
    AllMax,
    AllMin,
    /// Runs of one extreme, then of the other.
    Runs,
    Sparse,
}

pub(crate) fn ints() -> impl Strategy<Value = Ints> {
    prop_oneof![Just(Ints::Uniform), Just(Ints::AllMax), Just(Ints::AllMin), Just(Ints::Runs), Just(Ints::Sparse)]
}

impl Ints {
    pub(crate) fn take(self, n: usize, rng: &mut Rng) -> Vec<i8> {
        let mut run = 127i8;
        let mut next = || match self {
            Ints::Uniform => rng.i8(-127..=127),
            Ints::AllMax => 127,
            Ints::AllMin => -127,
            Ints::Runs => {
                if rng.u8(..8) == 0 {
                    run = -run;
                }
                run
            }
            Ints::Sparse => {
                if rng.u8(..10) == 0 {
                    rng.i8(-127..=127)
                } else {
                    0
                }
            }
        };
        (0..n).map(|_| next()).collect()
    }
}

/// What floats look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats {
    /// Between −4 and 4, as between layers.
    Usual,
    Zeros,
    /// Multiples of ½ up to 127: every rounding is exact or a tie.
    Ties,
    Subnormal,
    /// Every magnitude.
    AnyFinite,
    /// Sums and squares overflow.
    Huge,
    /// Infinities and NaN among usual values.
    Broken,
}

pub(crate) fn floats() -> impl Strategy<Value = Floats> {
    use Floats::{AnyFinite, Broken, Huge, Subnormal, Ties, Usual, Zeros};
    prop_oneof![3 => Just(Usual), 1 => Just(Zeros), 1 => Just(Ties), 1 => Just(Subnormal), 1 => Just(AnyFinite),
        1 => Just(Huge), 1 => Just(Broken)]
}

impl Floats {
    pub(crate) fn take(self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let usual = |rng: &mut Rng| (rng.f32() - 0.5) * 8.0;
        let mut next = |i: usize| match self {
            Floats::Usual => usual(rng),
            Floats::Zeros => 0.0,
            Floats::Ties => {
                if i == 0 {
                    127.0
                } else {
                    f32::from(rng.i16(-254..=254)) / 2.0
                }
            }
            Floats::Subnormal => f32::from_bits(rng.u32(..0x0080_0000) | rng.u32(..2) << 31),
            Floats::AnyFinite => Some(f32::from_bits(rng.u32(..))).filter(|x| x.is_finite()).unwrap_or(1.0),
            Floats::Huge => usual(rng) * 8e37,
            Floats::Broken => match rng.u8(..12) {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                2 => f32::NAN,
                _ => usual(rng),
            },
        };
        (0..n).map(&mut next).collect()
    }
}

/// What [`Layout::expand`] documents, for whole quads, in little-endian halves.
pub(crate) fn expand(q: &[i8]) -> Vec<i8> {
    let words = q.chunks(4).flat_map(|x| {
        let x: [i32; 4] = core::array::from_fn(|i| x[i].into());
        [x[3] << 16 | x[1] & 0xFFFF, (256 * x[2] - x[3]) << 16 | (256 * x[0] - x[1]) & 0xFFFF]
    });
    words.flat_map(i32::to_le_bytes).map(|byte| byte as i8).collect()
}

/// The contract's sum: element i goes to lane i mod 8, in ascending order.
pub(crate) fn lanes(x: impl Iterator<Item = f32>) -> f32 {
    let mut l = [0f32; LANES];
    for (i, x) in x.enumerate() {
        l[i % LANES] += x;
    }
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// The contract's quantization of one group: scale and values.
pub(crate) fn quantized(x: &[f32]) -> (f32, Vec<i8>) {
    // `f32::max` ignores NaN.
    let absmax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let inverse = 127.0 / absmax;
    if inverse.is_infinite() {
        return (0.0, std::vec![0; x.len()]);
    }
    (absmax / 127.0, x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect())
}

#[test]
fn the_backends_are_distinct_and_end_with_the_portable_one() {
    let all: Vec<Backend> = Backend::available().collect();
    let mut names: Vec<&str> = all.iter().map(|b| b.name()).collect();
    std::println!("backends of this machine: {names:?}");
    assert_eq!(all.last(), Some(&Backend::PORTABLE));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
}
