//! Linear layers.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{add, by_rows, column_sums};

/// `y = x·Wᵀ (+ b)`: `x` is `[tokens, in]`, `W` is `[out, in]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `W` is stored `[in, out]`, as GPT-2's are.
    pub transposed: bool,
}

impl Linear {
    /// Applies the layer.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match bias {
            None => x.apply_op2(weight, self),
            Some(bias) => x.apply_op3(weight, bias, self),
        }
    }

    fn product(self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, inputs) = lx.shape().dims2()?;
        let lw = if self.transposed { lw.clone() } else { lw.transpose(0, 1)? };
        let (rows, outputs) = lw.shape().dims2()?;
        if rows != inputs {
            candle_core::bail!("a layer of {rows} inputs was given {inputs}");
        }
        Ok((x.matmul(w, (1, tokens, outputs, inputs), lx, &lw)?, (tokens, outputs).into()))
    }

    fn gradients(self, x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, w) = (x.detach(), w.detach());
        Ok(match self.transposed {
            false => (Some(grad.matmul(&w)?), Some(grad.t()?.matmul(&x)?)),
            true => (Some(grad.matmul(&w.t()?)?), Some(x.t()?.matmul(grad)?)),
        })
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.product(x, lx, w, lw)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, grad)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, shape) = self.product(x, lx, w, lw)?;
        let CpuStorage::F32(mut y) = y else { candle_core::bail!("expected f32") };
        let b = super::argument(b, lb)?;
        by_rows(
            &mut y,
            b.len(),
            #[inline(always)]
            |_, rows| rows.chunks_exact_mut(b.len()).for_each(|row| add(row, b)),
        );
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, grad)?;
        Ok((dx, dw, column_sums(b, grad)?))
    }
}
