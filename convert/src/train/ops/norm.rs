//! RMS and layer normalization.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use thumbformer::math::sum;

use super::{add, argument, by_rows, column_sums, dot, gradient, result, sum_rows, values};

/// `y = (x − mean) / √(variance + ε) · g (+ b)`; the mean is taken as zero by RMS normalization.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// ε
    pub eps: f32,
    /// Whether rows are centred on their mean, as layer normalization does it.
    pub centred: bool,
}

impl Norm {
    #[inline(always)]
    fn mean(self, x: &[f32]) -> f32 {
        if self.centred { sum(x, |x| x) / x.len() as f32 } else { 0.0 }
    }

    /// Mean, and inverse standard deviation.
    #[inline(always)]
    fn moments(self, x: &[f32]) -> (f32, f32) {
        let mean = self.mean(x);
        let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    fn forward(self, x: &[f32], g: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let n = g.len();
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            n,
            #[inline(always)]
            |first, rows| {
                for (y, x) in rows.chunks_exact_mut(n).zip(x[first * n..].chunks_exact(n)) {
                    let (mean, inverse) = self.moments(x);
                    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
                        *y = (x - mean) * inverse * g;
                    }
                    if let Some(b) = b {
                        add(y, b);
                    }
                }
            },
        );
        y
    }

    // With x̂ = (x − mean)·r: dx = r·(g·dy − mean(g·dy) − x̂·mean(g·dy·x̂)); the first mean is of centred rows only.
    fn of_input(self, x: &[f32], g: &[f32], dy: &[f32]) -> Vec<f32> {
        let n = g.len();
        let mut dx = vec![0.0; x.len()];
        by_rows(
            &mut dx,
            n,
            #[inline(always)]
            |first, rows| {
                let at = first * n;
                for ((dx, x), dy) in rows.chunks_exact_mut(n).zip(x[at..].chunks_exact(n)).zip(dy[at..].chunks_exact(n))
                {
                    let (mean, r) = self.moments(x);
                    for ((dx, dy), g) in dx.iter_mut().zip(dy).zip(g) {
                        *dx = dy * g;
                    }
                    let offset = self.mean(dx);
                    let slope = (dot(dx, x) - mean * offset * n as f32) * r * r / n as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = r * (*dx - offset - (x - mean) * slope);
                    }
                }
            },
        );
        dx
    }

    /// dg = Σ dy·x̂
    fn of_gain(self, x: &[f32], dy: &[f32], n: usize) -> Vec<f32> {
        sum_rows(
            x.len() / n,
            n,
            #[inline(always)]
            |row, sums| {
                let (x, dy) = (&x[row * n..][..n], &dy[row * n..][..n]);
                let (mean, r) = self.moments(x);
                for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                    *sum += dy * ((x - mean) * r);
                }
            },
        )
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        result(self.forward(argument(x, lx)?, argument(g, lg)?, None), lx.shape())
    }

    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, gs, dy) = (values(x)?, values(g)?, values(grad)?);
        let (dx, dg) = (self.of_input(&xs, &gs, &dy), self.of_gain(&xs, &dy, gs.len()));
        Ok((gradient(dx, x)?, gradient(dg, g)?))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        result(self.forward(argument(x, lx)?, argument(g, lg)?, Some(argument(b, lb)?)), lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        g: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dg) = CustomOp2::bwd(self, x, g, y, grad)?;
        Ok((dx, dg, column_sums(b, grad)?))
    }
}
