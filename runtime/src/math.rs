//! The contract's float half: reductions, exp, activations, quantization, each with one result on every target.
//!
//! Only `+ − × ÷ √` and conversions are used, each rounded once, in the order written here; `erf` is `libm`'s. Loops run
//! over eight independent lanes, so a compiler may vectorise them but has nothing to reorder. Functions are
//! `inline(always)` because [`crate::kernel`] compiles them once for each instruction set.

use crate::arch::{Activation, Norm};

/// Lanes of a float reduction.
pub const LANES: usize = 8;

/// Adding and subtracting this rounds a float of magnitude below 2²² to the nearest integer, ties to even.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Combines the lanes of a reduction in the one order there is.
#[inline(always)]
pub fn combine(l: [f32; LANES]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Σ f(xᵢ): element i goes to lane i mod 8 in ascending order.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f(x);
    }
    combine(lanes)
}

/// The largest of the numbers that is not NaN and above `floor`, else `floor`.
#[inline(always)]
pub fn max(x: &[f32], floor: f32, f: impl Fn(f32) -> f32) -> f32 {
    let larger = |m: f32, x: f32| if x > m { x } else { m };
    let mut lanes = [floor; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, f(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, f(x));
    }
    // Any order gives the same maximum; this one keeps to vectors.
    let half: [f32; 4] = core::array::from_fn(|i| larger(lanes[i], lanes[i + 4]));
    larger(larger(half[0], half[2]), larger(half[1], half[3]))
}

/// 2ˣ within three units in the last place for −125 ≤ x ≤ 127; 2⁻¹²⁵ below and for NaN. Larger x give nonsense.
///
/// x = n + r with an integer n and |r| ≤ ½, both exact. 2ʳ is a polynomial of degree 5 (minimax in relative error, 1 at 0,
/// fitted for this crate); 2ⁿ is an addition to the exponent.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = if x > LEAST_EXPONENT { x } else { LEAST_EXPONENT };
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let mut p = EXP2[0];
    for c in EXP2.into_iter().skip(1) {
        p = p * r + c;
    }
    // The low bits of `shifted` hold n; those above the exponent's place are zero in `ROUND` and fall off.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Below this [`exp2`] is constant.
pub(crate) const LEAST_EXPONENT: f32 = -125.0;

/// Coefficients of [`exp2`], the highest power first.
#[allow(clippy::approx_constant, reason = "the best coefficient is close to ln 2, and is not ln 2")]
pub(crate) const EXP2: [f32; 6] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0];

/// eˣ as 2 to the power x·log₂e: within 2⁻²²·(1 + |x|/2), relative, for −86 ≤ x ≤ 88, and the value at the nearer bound
/// outside; NaN counts as the lower.
///
/// The rounding of the product costs the digits; where it matters, in softmax, log₂e is part of a factor that the score
/// has anyway, and [`exp2`] is used.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x * core::f32::consts::LOG2_E;
    exp2(if x > 127.0 { 127.0 } else { x })
}

/// `cap·tanh(x/cap)`: x where it is small, never beyond ±cap.
#[inline(always)]
pub fn cap(x: f32, cap: f32) -> f32 {
    // tanh u = 1 − 2/(1 + e²ᵘ)
    cap * (1.0 - 2.0 / (1.0 + exp(2.0 * (x / cap))))
}

/// x·sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The activation function, element by element.
#[inline(always)]
pub fn activate(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Gelu => (0.5 * x) * (1.0 + libm::erff(x * core::f32::consts::FRAC_1_SQRT_2)),
        // ½(1 + tanh u) = sigmoid(2u), so the tanh form needs no tanh.
        Activation::GeluTanh => {
            const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
            x / (1.0 + exp(-(TWO_SQRT_2_OVER_PI * (x + 0.044_715 * (x * x * x)))))
        }
        Activation::Silu => silu(x),
        Activation::Relu => {
            if x > 0.0 {
                x
            } else {
                0.0
            }
        }
    }
}

/// The MLP's middle, in place: `up[..hidden]` becomes act(up), or act(gate)·up where `up` holds gate, then up.
#[inline(always)]
pub fn activate_row(kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) {
    // One loop for each kind, so that each vectorises.
    macro_rules! rows {
        ($($kind:ident),*) => {
            match kind {
                $(Activation::$kind => apply(gated, hidden, row, |x| activate(Activation::$kind, x)),)*
            }
        };
    }
    rows!(Gelu, GeluTanh, Silu, Relu);
}

#[inline(always)]
pub(crate) fn apply(gated: bool, hidden: usize, row: &mut [f32], f: impl Fn(f32) -> f32) {
    let Some((first, rest)) = row.split_at_mut_checked(hidden) else { return };
    if gated {
        for (gate, &up) in first.iter_mut().zip(rest.iter()) {
            *gate = f(*gate) * up;
        }
    } else {
        for x in first {
            *x = f(*x);
        }
    }
}

/// LayerNorm or RMSNorm of `x` into `out`.
#[inline(always)]
pub fn norm(kind: Norm, eps: f32, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    match kind {
        Norm::Layer => {
            let mean = sum(x, |x| x) / x.len() as f32;
            normalise(eps, x, weight, out, |x| x - mean);
        }
        Norm::Rms => normalise(eps, x, weight, out, |x| x),
    }
    if let Some(bias) = bias {
        for (y, &b) in out.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

#[inline(always)]
fn normalise(eps: f32, x: &[f32], weight: &[f32], out: &mut [f32], centred: impl Fn(f32) -> f32) {
    let variance = sum(x, |x| centred(x) * centred(x)) / x.len() as f32;
    let inverse = 1.0 / libm::sqrtf(variance + eps);
    for ((y, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *y = (centred(x) * inverse) * w;
    }
}

/// The same of one head, in place.
#[inline(always)]
pub fn norm_head(kind: Norm, eps: f32, head: &mut [f32], weight: &[f32], bias: Option<&[f32]>) {
    if kind == Norm::Layer {
        let mean = sum(head, |x| x) / head.len() as f32;
        head.iter_mut().for_each(|x| *x -= mean);
    }
    let variance = sum(head, |x| x * x) / head.len() as f32;
    let inverse = 1.0 / libm::sqrtf(variance + eps);
    for (x, &w) in head.iter_mut().zip(weight) {
        *x = (*x * inverse) * w;
    }
    for (x, &b) in head.iter_mut().zip(bias.unwrap_or(&[])) {
        *x += b;
    }
}

/// The integer of a value times 127/absmax, rounded half to even: the low byte of the rounded sum's bits.
#[inline(always)]
pub(crate) fn round(x: f32, inverse: f32) -> i8 {
    (x * inverse + ROUND).to_bits() as i8
}

/// 127 over the largest magnitude of a group, and the group's scale; `None` for a group that counts as zero.
#[inline(always)]
pub(crate) fn steps(absmax: f32) -> Option<(f32, f32)> {
    let inverse = 127.0 / absmax;
    inverse.is_finite().then_some((inverse, absmax / 127.0))
}

/// The largest magnitude that is not NaN; 0 if there is none.
#[inline(always)]
pub(crate) fn absmax(x: &[f32]) -> f32 {
    max(x, 0.0, f32::abs)
}

/// Quantizes one group: `s = absmax/127`, `q = round_half_even(x·(127/absmax))`. Returns `s`.
///
/// A group so small that 127/absmax overflows (below 4·10⁻³⁷) counts as zero: `s = 0` and all `q = 0`.
#[inline(always)]
pub fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let Some((inverse, scale)) = steps(absmax(x)) else {
        q.fill(0);
        return 0.0;
    };
    for (q, &x) in q.iter_mut().zip(x) {
        *q = round(x, inverse);
    }
    scale
}

/// Rotates one head by RoPE: dimension i is paired with i + half, where `cos_sin` holds `half` cosines, then `half` sines.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos_sin: &[f32]) {
    let half = cos_sin.len() / 2;
    let (Some((first, rest)), Some((cos, sin))) = (head.split_at_mut_checked(half), cos_sin.split_at_checked(half))
    else {
        return;
    };
    for (((a, b), &c), &s) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

/// f32 of the bits of a finite f16 that is not negative. Exact, subnormals included: shifting the bits into place leaves
/// the value 2¹¹² too small.
#[inline(always)]
pub fn f16_scale(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 13) * f32::from_bits((112 + 127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_within_three_units_in_the_last_place() {
        let mut worst = 0.0f64;
        let mut x = -125.0f32;
        while x <= 127.0 {
            let exact = libm::exp2(f64::from(x));
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            worst = worst.max((f64::from(exp2(x)) - exact).abs() / ulp);
            x += 0.000_731;
        }
        assert!(worst < 3.0, "{worst} ulp");
        for n in -125..=127 {
            assert_eq!(exp2(n as f32), f32::from_bits(((n + 127) as u32) << 23));
        }
    }

    #[test]
    fn exp_is_as_close_as_documented() {
        let mut x = -86.0f32;
        while x <= 88.0 {
            let exact = libm::exp(f64::from(x));
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error <= (1.0 + f64::from(x).abs() / 2.0) / f64::from(1 << 22), "exp({x}) is off by {error:e}");
            x += 0.000_731;
        }
    }

    #[test]
    fn exp_outside_its_range_is_the_bound() {
        let (low, high) = (exp2(-125.0), exp2(127.0));
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), low);
        assert_eq!(exp(f32::NEG_INFINITY), low);
        assert_eq!(exp(1e30), high);
        assert_eq!(exp(f32::INFINITY), high);
        assert_eq!(exp(f32::NAN), low);
        assert_eq!(exp2(f32::NEG_INFINITY), low);
        assert_eq!(exp2(f32::NAN), low);
    }

    #[test]
    fn rounding_is_half_to_even() {
        let x = [0.5f32, 1.5, 2.5, -0.5, -1.5, -2.5, 127.0, -127.0];
        let mut q = [0i8; 8];
        assert_eq!(quantize(&x, &mut q), 1.0);
        assert_eq!(q, [0, 2, 2, 0, -2, -2, 127, -127]);
    }

    #[test]
    fn groups_of_zeros_and_subnormals_quantize_to_zero() {
        for x in [[0.0f32; 4], [1e-40, -1e-41, 0.0, 0.0]] {
            let mut q = [1i8; 4];
            assert_eq!(quantize(&x, &mut q), 0.0);
            assert_eq!(q, [0; 4]);
        }
    }

    #[test]
    fn quantize_meets_the_formula_on_every_magnitude() {
        let mut state = 1u32;
        for exponent in -100..100 {
            let mut x = [0f32; 37];
            for x in &mut x {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *x = (state as i32 as f32) * libm::exp2f(exponent as f32 - 31.0);
            }
            let mut q = [0i8; 37];
            let s = quantize(&x, &mut q);
            let absmax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert_eq!(s, absmax / 127.0);
            for (x, q) in x.iter().zip(q) {
                assert_eq!(libm::rintf(x * (127.0 / absmax)), f32::from(q));
            }
        }
    }

    #[test]
    fn every_f16_scale_converts_exactly() {
        for bits in 0..0x7C00 {
            assert_eq!(f16_scale(bits), half::f16::from_bits(bits).to_f32());
        }
    }

    #[test]
    fn activations_meet_their_definitions() {
        let mut x = -12.0f64;
        while x < 12.0 {
            let close = |kind, exact: f64| {
                let y = f64::from(activate(kind, x as f32));
                assert!((y - exact).abs() <= 1e-6 * (1.0 + exact.abs()), "{kind:?}({x}) = {y}, not {exact}");
            };
            close(Activation::Silu, x / (1.0 + libm::exp(-x)));
            close(Activation::Gelu, 0.5 * x * (1.0 + libm::erf(x / core::f64::consts::SQRT_2)));
            let u = (2.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            close(Activation::GeluTanh, 0.5 * x * (1.0 + libm::tanh(u)));
            close(Activation::Relu, x.max(0.0));
            x += 0.01;
        }
    }
}
