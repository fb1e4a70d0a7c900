//! Rows of a table.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{add, argument, gradient, result, values};

/// The rows `ids` of a table `[vocabulary, dim]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// A row for each token of the batch.
    pub ids: Arc<[u32]>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, dim) = layout.shape().dims2()?;
        let table = argument(table, layout)?;
        let mut y = Vec::with_capacity(self.ids.len() * dim);
        for &id in self.ids.iter() {
            match table.get(id as usize * dim..(id as usize + 1) * dim) {
                Some(row) => y.extend_from_slice(row),
                None => bail!("row {id} of a table of {rows}"),
            }
        }
        result(y, (self.ids.len(), dim))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, dim) = table.dims2()?;
        let mut sums = vec![0.0; table.elem_count()];
        let grad = values(grad)?;
        for (&id, row) in self.ids.iter().zip(grad.chunks_exact(dim)) {
            add(&mut sums[id as usize * dim..][..dim], row);
        }
        gradient(sums, table)
    }
}
