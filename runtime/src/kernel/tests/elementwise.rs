//! Quantization, norms, activations, rotary embedding: one vector in, one vector out.

use std::vec::Vec;

use fastrand::Rng;
use proptest::prelude::*;

use super::{bits, expand, floats, lanes, quantized};
use crate::arch::{Activation, Norm};
use crate::kernel::Backend;
use crate::math;
use crate::packing::{Layout, QUAD, round_up};

proptest! {
    #[test]
    fn every_backend_quantizes_by_the_contract(
        n in 1usize..600, group in prop_oneof![Just(32usize), Just(64), Just(300)], kind in floats(),
        tiny in prop_oneof![Just(0u32), any::<u32>()], seed in any::<u64>()
    ) {
        let mut x = kind.take(n, &mut Rng::with_seed(seed));
        // Groups that count as zero beside others.
        let tiny = x.chunks_mut(group).enumerate().filter(|(i, _)| tiny >> i & 1 == 1);
        tiny.for_each(|(_, x)| x.fill(f32::MIN_POSITIVE));
        let groups = n.div_ceil(group);
        let mut expected = (std::vec![0i8; round_up(n, QUAD)], Vec::new(), Vec::new());
        for (x, q) in x.chunks(group).zip(expected.0.chunks_mut(group)) {
            let (scale, values) = quantized(x);
            q[..x.len()].copy_from_slice(&values);
            expected.1.push(scale);
            expected.2.push(values.iter().map(|&q| -128 * i32::from(q)).sum::<i32>());
        }
        for backend in Backend::available() {
            let mut q = std::vec![0x55i8; round_up(n, QUAD)];
            let (mut scales, mut starts) = (std::vec![f32::NAN; groups], std::vec![-1i32; groups]);
            backend.quantize(Layout::Rows8, &x, group, &mut q, &mut scales, &mut starts);
            prop_assert_eq!(&q, &expected.0, "{}", backend.name());
            prop_assert_eq!(bits(&scales), bits(&expected.1), "{}", backend.name());
            prop_assert_eq!(&starts, &expected.2, "{}", backend.name());
            prop_assert!(q.iter().all(|&q| q >= -127));

            // The other layout's vectors hold the same numbers, expanded.
            let mut q = std::vec![0x55i8; Layout::Dsp.vector_bytes(n)];
            let mut scales = std::vec![f32::NAN; groups];
            backend.quantize(Layout::Dsp, &x, group, &mut q, &mut scales, &mut []);
            prop_assert_eq!(&q, &expand(&expected.0), "{}", backend.name());
            prop_assert_eq!(bits(&scales), bits(&expected.1), "{}", backend.name());
        }
    }

    #[test]
    fn every_backend_normalises_by_the_contract(
        n in 1usize..300, rms in any::<bool>(), shift in any::<bool>(), eps in prop_oneof![Just(0f32), Just(1e-5)],
        kind in floats(), seed in any::<u64>()
    ) {
        let rng = &mut Rng::with_seed(seed);
        let x = kind.take(n, rng);
        let mut parameters = || (0..n).map(|_| rng.f32() * 2.0 - 0.5).collect::<Vec<f32>>();
        let (weight, bias) = (parameters(), parameters());
        let norm = if rms { Norm::Rms } else { Norm::Layer };
        let mean = if rms { 0.0 } else { lanes(x.iter().copied()) / n as f32 };
        let variance = lanes(x.iter().map(|x| (x - mean) * (x - mean))) / n as f32;
        let inverse = 1.0 / (variance + eps).sqrt();
        let expected: Vec<f32> = (0..n).map(|i| {
            let y = ((x[i] - mean) * inverse) * weight[i];
            if shift { y + bias[i] } else { y }
        }).collect();
        for backend in Backend::available() {
            let mut out = std::vec![f32::NAN; n];
            backend.norm(norm, eps, &x, &weight, shift.then_some(&bias[..]), &mut out);
            prop_assert_eq!(bits(&out), bits(&expected), "{}", backend.name());
        }
    }

    /// Heads as vectors of their own, with one norm or one for each.
    #[test]
    fn every_backend_normalises_heads_by_the_contract(
        head_dim in 1usize..=130, heads in 1usize..=3, rms in any::<bool>(), own in any::<bool>(), shift in any::<bool>(),
        kind in floats(), seed in any::<u64>()
    ) {
        let rng = &mut Rng::with_seed(seed);
        let row = kind.take(heads * head_dim, rng);
        let mut parameters = |n: usize| (0..n).map(|_| rng.f32() * 2.0 - 0.5).collect::<Vec<f32>>();
        let (weight, bias) = (parameters(if own { heads * head_dim } else { head_dim }), parameters(head_dim));
        let (norm, bias) = (if rms { Norm::Rms } else { Norm::Layer }, shift.then_some(&bias[..]));
        for backend in Backend::available() {
            let mut expected = std::vec![f32::NAN; row.len()];
            for (i, (head, out)) in row.chunks(head_dim).zip(expected.chunks_mut(head_dim)).enumerate() {
                let first = if own { i * head_dim } else { 0 };
                backend.norm(norm, 1e-5, head, &weight[first..first + head_dim], bias, out);
            }
            let mut out = row.clone();
            backend.norm_heads(norm, 1e-5, &mut out, head_dim, &weight, bias);
            prop_assert_eq!(bits(&out), bits(&expected), "{}", backend.name());
        }
    }

    #[test]
    fn every_backend_activates_like_the_scalar_function(
        hidden in 1usize..200, gated in any::<bool>(), kind in floats(), seed in any::<u64>()
    ) {
        let row = kind.take(if gated { 2 * hidden } else { hidden }, &mut Rng::with_seed(seed));
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
            let mut expected = row.clone();
            for i in 0..hidden {
                let y = math::activate(activation, row[i]);
                expected[i] = if gated { y * row[hidden + i] } else { y };
            }
            for backend in Backend::available() {
                let mut out = row.clone();
                backend.activate(activation, gated, hidden, &mut out);
                prop_assert_eq!(bits(&out), bits(&expected), "{} {:?}", backend.name(), activation);
            }
        }
    }

    #[test]
    fn every_backend_rotates_pairs_half_a_width_apart(
        head_dim in 1usize..=130, heads in 1usize..=3, part in 0usize..=65, kind in floats(), seed in any::<u64>()
    ) {
        let rng = &mut Rng::with_seed(seed);
        let half = part.min(head_dim / 2);
        let row = kind.take(heads * head_dim, rng);
        let (cos, sin): (Vec<f32>, Vec<f32>) = (0..half).map(|_| (rng.f32() * 7.0).sin_cos()).unzip();
        let mut expected = row.clone();
        for (head, expected) in row.chunks(head_dim).zip(expected.chunks_mut(head_dim)) {
            for i in 0..half {
                expected[i] = head[i] * cos[i] - head[half + i] * sin[i];
                expected[half + i] = head[half + i] * cos[i] + head[i] * sin[i];
            }
        }
        let angles = [cos, sin].concat();
        for backend in Backend::available() {
            let mut out = row.clone();
            backend.rotate(&mut out, head_dim, &angles);
            prop_assert_eq!(bits(&out), bits(&expected), "{}", backend.name());
        }
    }
}
