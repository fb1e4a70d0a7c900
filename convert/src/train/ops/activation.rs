//! Activation functions, plain and gated.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use thumbformer::math::exp;

use super::{GRAIN, argument, by_rows, gradient, result, values};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), as BERT's and nanoGPT's.
    Gelu,
    /// Its approximation by tanh, as GPT-2's.
    GeluTanh,
    /// x·sigmoid(x), as LLaMA's.
    Silu,
    /// max(0, x), as the first transformer's.
    Relu,
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Activation {
    /// The function's value and slope.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Gelu => {
                let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                let density = 0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
                (x * cdf, cdf + x * (density * exp(-0.5 * x * x)))
            }
            Activation::GeluTanh => {
                // ½(1 + tanh u) = sigmoid(2u)
                let s = sigmoid(2.0 * SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
                let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
                (x * s, s + x * s * (1.0 - s) * slope)
            }
            Activation::Silu => {
                let s = sigmoid(x);
                (x * s, s + x * s * (1.0 - s))
            }
            Activation::Relu => {
                if x > 0.0 {
                    (x, 1.0)
                } else {
                    (0.0, 0.0)
                }
            }
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function within 2·10⁻⁷ (Abramowitz and Stegun, 7.1.26): without branches, so that it vectorizes.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = ((((1.061_405_4 * t - 1.453_152_1) * t) + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6;
    (1.0 - p * t * exp(-x * x)).copysign(x)
}

/// An activation, element by element.
#[derive(Clone, Copy, Debug)]
pub struct Activate(pub Activation);

/// One loop for each function, so that each vectorizes.
macro_rules! for_each_kind {
    ($kind:expr, |$f:ident| $body:expr) => {
        match $kind {
            Activation::Gelu => {
                let $f = |x: f32| Activation::Gelu.at(x);
                $body
            }
            Activation::GeluTanh => {
                let $f = |x: f32| Activation::GeluTanh.at(x);
                $body
            }
            Activation::Silu => {
                let $f = |x: f32| Activation::Silu.at(x);
                $body
            }
            Activation::Relu => {
                let $f = |x: f32| Activation::Relu.at(x);
                $body
            }
        }
    };
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, lx)?;
        let mut y = vec![0.0; x.len()];
        for_each_kind!(self.0, |f| by_rows(
            &mut y,
            GRAIN,
            #[inline(always)]
            |first, y| {
                for (y, &x) in y.iter_mut().zip(&x[first * GRAIN..]) {
                    *y = f(x).0;
                }
            }
        ));
        result(y, lx.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (xs, dy) = (values(x)?, values(grad)?);
        let (xs, dy) = (&*xs, &*dy);
        let mut dx = vec![0.0; xs.len()];
        for_each_kind!(self.0, |f| by_rows(
            &mut dx,
            GRAIN,
            #[inline(always)]
            |first, dx| {
                let at = first * GRAIN;
                for ((dx, &x), dy) in dx.iter_mut().zip(&xs[at..]).zip(&dy[at..]) {
                    *dx = dy * f(x).1;
                }
            }
        ));
        gradient(dx, x)
    }
}

/// `act(gate)·up`: of `gate` and `up`.
#[derive(Clone, Copy, Debug)]
pub struct Gated(pub Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (argument(gate, lg)?, argument(up, lu)?);
        let mut y = vec![0.0; gate.len()];
        for_each_kind!(self.0, |f| by_rows(
            &mut y,
            GRAIN,
            #[inline(always)]
            |first, y| {
                let at = first * GRAIN;
                for ((y, &gate), up) in y.iter_mut().zip(&gate[at..]).zip(&up[at..]) {
                    *y = f(gate).0 * up;
                }
            }
        ));
        result(y, lg.shape())
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gates, ups, dy) = (values(gate)?, values(up)?, values(grad)?);
        let (gates, ups, dy) = (&*gates, &*ups, &*dy);
        let (mut dgate, mut dup) = (vec![0.0; gates.len()], vec![0.0; gates.len()]);
        for_each_kind!(self.0, |f| {
            by_rows(
                &mut dgate,
                GRAIN,
                #[inline(always)]
                |first, dgate| {
                    let at = first * GRAIN;
                    for (((d, &gate), up), dy) in dgate.iter_mut().zip(&gates[at..]).zip(&ups[at..]).zip(&dy[at..]) {
                        *d = dy * up * f(gate).1;
                    }
                },
            );
            by_rows(
                &mut dup,
                GRAIN,
                #[inline(always)]
                |first, dup| {
                    let at = first * GRAIN;
                    for ((d, &gate), dy) in dup.iter_mut().zip(&gates[at..]).zip(&dy[at..]) {
                        *d = dy * f(gate).0;
                    }
                },
            );
        });
        Ok((gradient(dgate, gate)?, gradient(dup, up)?))
    }
}
