//! What a layer adds to the residual stream.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{Dropout, GRAIN, argument, by_rows, gradient, result, values};

/// `x + dropout(h)`, of `x` and `h`.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Dropout of what is added.
    pub dropout: Option<Dropout>,
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, h: &CpuStorage, lh: &Layout) -> Result<(CpuStorage, Shape)> {
        if lx.shape() != lh.shape() {
            bail!("a sum of {:?} and {:?}", lx.shape(), lh.shape());
        }
        let (x, h) = (argument(x, lx)?, argument(h, lh)?);
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            GRAIN,
            #[inline(always)]
            |first, y| {
                let at = first * GRAIN;
                let terms = y.iter_mut().zip(&x[at..]).zip(&h[at..]);
                match self.dropout {
                    None => terms.for_each(|((y, x), h)| *y = x + h),
                    Some(dropout) => {
                        terms.enumerate().for_each(|(i, ((y, x), h))| *y = x + h * dropout.factor(at + i));
                    }
                }
            },
        );
        result(y, lx.shape())
    }

    fn bwd(&self, _: &Tensor, h: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_h = match self.dropout {
            None => Some(grad.clone()),
            Some(dropout) => gradient(dropout.mask(&values(grad)?), h)?,
        };
        Ok((Some(grad.clone()), of_h))
    }
}
