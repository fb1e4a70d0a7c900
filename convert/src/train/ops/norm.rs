//! RMS and layer normalization.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use thumbformer::math::sum;

use super::{argument, by_rows, dot, gradient, result, sum_rows, values};

/// `y = x / √(mean(x²) + ε) · g`
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// ε
    pub eps: f32,
}

impl RmsNorm {
    #[inline(always)]
    fn inverse(self, x: &[f32]) -> f32 {
        1.0 / (sum(x, |x| x * x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (argument(x, lx)?, argument(g, lg)?);
        let n = g.len();
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            n,
            #[inline(always)]
            |first, rows| {
                for (y, x) in rows.chunks_exact_mut(n).zip(x[first * n..].chunks_exact(n)) {
                    let inverse = self.inverse(x);
                    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
                        *y = x * inverse * g;
                    }
                }
            },
        );
        result(y, lx.shape())
    }

    // With x̂ = x·r and r = 1/rms: dx = r·(g·dy − x̂·mean(g·dy·x̂)), dg = Σ dy·x̂.
    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, gs, dy) = (values(x)?, values(g)?, values(grad)?);
        let (xs, gs, dy) = (&*xs, &*gs, &*dy);
        let n = gs.len();
        let mut dx = vec![0.0; xs.len()];
        by_rows(
            &mut dx,
            n,
            #[inline(always)]
            |first, rows| {
                let at = first * n;
                for ((dx, x), dy) in
                    rows.chunks_exact_mut(n).zip(xs[at..].chunks_exact(n)).zip(dy[at..].chunks_exact(n))
                {
                    let r = self.inverse(x);
                    for ((dx, dy), g) in dx.iter_mut().zip(dy).zip(gs) {
                        *dx = dy * g;
                    }
                    let shift = dot(dx, x) * r * r / n as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = r * (*dx - x * shift);
                    }
                }
            },
        );
        let dg = sum_rows(
            xs.len() / n,
            n,
            #[inline(always)]
            |row, sums| {
                let (x, dy) = (&xs[row * n..][..n], &dy[row * n..][..n]);
                let r = self.inverse(x);
                for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                    *sum += dy * (x * r);
                }
            },
        );
        Ok((gradient(dx, x)?, gradient(dg, g)?))
    }
}

/// `y = (x − mean) / √(variance + ε) · g + b`
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// ε
    pub eps: f32,
}

impl LayerNorm {
    /// Mean, and inverse standard deviation.
    #[inline(always)]
    fn moments(self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = sum(x, |x| x) / n;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
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
        let (x, g, b) = (argument(x, lx)?, argument(g, lg)?, argument(b, lb)?);
        let n = g.len();
        let mut y = vec![0.0; x.len()];
        by_rows(
            &mut y,
            n,
            #[inline(always)]
            |first, rows| {
                for (y, x) in rows.chunks_exact_mut(n).zip(x[first * n..].chunks_exact(n)) {
                    let (mean, inverse) = self.moments(x);
                    for (((y, x), g), b) in y.iter_mut().zip(x).zip(g).zip(b) {
                        *y = (x - mean) * inverse * g + b;
                    }
                }
            },
        );
        result(y, lx.shape())
    }

    // With x̂ = (x − mean)·r: dx = r·(g·dy − mean(g·dy) − x̂·mean(g·dy·x̂)), dg = Σ dy·x̂, db = Σ dy.
    fn bwd(
        &self,
        x: &Tensor,
        g: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xs, gs, dy) = (values(x)?, values(g)?, values(grad)?);
        let (xs, gs, dy) = (&*xs, &*gs, &*dy);
        let n = gs.len();
        let mut dx = vec![0.0; xs.len()];
        by_rows(
            &mut dx,
            n,
            #[inline(always)]
            |first, rows| {
                let at = first * n;
                for ((dx, x), dy) in
                    rows.chunks_exact_mut(n).zip(xs[at..].chunks_exact(n)).zip(dy[at..].chunks_exact(n))
                {
                    let (mean, r) = self.moments(x);
                    for ((dx, dy), g) in dx.iter_mut().zip(dy).zip(gs) {
                        *dx = dy * g;
                    }
                    let offset = sum(dx, |x| x) / n as f32;
                    let slope = (dot(dx, x) - mean * offset * n as f32) * r * r / n as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = r * (*dx - offset - (x - mean) * slope);
                    }
                }
            },
        );
        let mut dgb = sum_rows(
            xs.len() / n,
            2 * n,
            #[inline(always)]
            |row, sums| {
                let (x, dy) = (&xs[row * n..][..n], &dy[row * n..][..n]);
                let (mean, r) = self.moments(x);
                let (dg, db) = sums.split_at_mut(n);
                for (((dg, db), x), dy) in dg.iter_mut().zip(db).zip(x).zip(dy) {
                    *dg += dy * ((x - mean) * r);
                    *db += dy;
                }
            },
        );
        let db = dgb.split_off(n);
        Ok((gradient(dx, x)?, gradient(dgb, g)?, gradient(db, b)?))
    }
}
