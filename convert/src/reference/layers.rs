//! What stands between tokens' vectors: norms, products with matrices, the MLP's non-linearity.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use rayon::prelude::*;
use thumbformer::arch::{Activation, Arch, Norm};

/// Multiply-adds that are worth a task of their own.
pub(super) const TASK: usize = 1 << 17;

/// What follows a norm's division: `weight · x + bias`.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
}

/// `y = W·x + b`; `weight` is `outputs × inputs`.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) inputs: usize,
}

impl Scale {
    /// What a sublayer is given: normalised, unless its sum will be. In models that say so, the residual stream becomes it.
    pub(super) fn before(&self, arch: &Arch, x: &mut Vec<f32>) -> Vec<f32> {
        if arch.normed_residual {
            *x = self.apply(arch, x);
        }
        if arch.normed_residual || arch.post_norm { x.clone() } else { self.apply(arch, x) }
    }

    /// Normalises a sublayer's sum in models that do.
    pub(super) fn behind(&self, arch: &Arch, x: &mut Vec<f32>) {
        if arch.post_norm {
            *x = self.apply(arch, x);
        }
    }

    /// The norm of every token.
    pub(super) fn apply(&self, arch: &Arch, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        for x in out.chunks_mut(self.weight.len()) {
            normalise(arch.norm, arch.norm_eps, x, &self.weight, self.bias.as_deref());
        }
        out
    }
}

impl Linear {
    /// `tokens × outputs` of `tokens × inputs`.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.weight.len() / self.inputs;
        let rows = (TASK / self.inputs).max(1);
        let mut out = vec![0f32; x.len() / self.inputs * outputs];
        out.par_chunks_mut(outputs).zip(x.par_chunks(self.inputs)).with_min_len(rows.div_ceil(outputs)).for_each(
            |(y, x)| {
                y.par_chunks_mut(rows).zip(self.weight.par_chunks(rows * self.inputs)).for_each(|(y, weight)| {
                    for (y, row) in y.iter_mut().zip(weight.chunks(self.inputs)) {
                        *y = dot(row, x);
                    }
                });
                if let Some(bias) = &self.bias {
                    add(y, bias);
                }
            },
        );
        out
    }
}

/// LayerNorm: `(x − mean) / √(variance + eps) · weight + bias`; RMSNorm the same with a mean of 0.
pub(super) fn normalise(kind: Norm, eps: f32, x: &mut [f32], weight: &[f32], bias: Option<&[f32]>) {
    let n = x.len() as f64;
    let mean = match kind {
        Norm::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
        Norm::Rms => 0.0,
    };
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let factor = (variance + f64::from(eps)).sqrt().recip();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = ((f64::from(*x) - mean) * factor) as f32 * weight;
    }
    add(x, bias.unwrap_or(&[]));
}

/// The norm of a layer's output, if it has one.
pub(super) fn normed(arch: &Arch, norm: &Option<Scale>, y: Vec<f32>) -> Vec<f32> {
    match norm {
        Some(norm) => norm.apply(arch, &y),
        None => y,
    }
}

/// `cap·tanh(x/cap)`.
pub(super) fn cap(x: f32, cap: f32) -> f32 {
    let cap = f64::from(cap);
    (cap * (f64::from(x) / cap).tanh()) as f32
}

/// The MLP between its projections: `act(up)`, or `act(gate) · up` of `[gate | up]`. Gives `tokens × hidden`.
pub(super) fn activate(arch: &Arch, gated: bool, mut up: Vec<f32>) -> Vec<f32> {
    let act = |x: f32| {
        let z = f64::from(x);
        let y = match arch.activation {
            Activation::Gelu => 0.5 * z * (1.0 + libm::erf(z * FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * z * (1.0 + ((2.0 / PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh()),
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::Relu => z.max(0.0),
        };
        y as f32
    };
    if !gated {
        up.par_iter_mut().with_min_len(TASK / 16).for_each(|x| *x = act(*x));
        return up;
    }
    let hidden = arch.hidden as usize;
    let mut out = vec![0f32; up.len() / 2];
    let tokens = out.par_chunks_mut(hidden).zip(up.par_chunks(2 * hidden));
    tokens.with_min_len(1 + TASK / 16 / hidden).for_each(|(out, gate_up)| {
        let (gate, up) = gate_up.split_at(hidden);
        out.iter_mut().zip(gate.iter().zip(up)).for_each(|(out, (gate, up))| *out = act(*gate) * up);
    });
    out
}

/// Sixteen sums side by side, so that the compiler can use vector registers and rounding errors stay small.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<16>();
    let (b, b_tail) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
