//! Trained weights as files hold them: safetensors (single or sharded) and PyTorch checkpoints, memory-mapped.

use std::ops::Range;
use std::path::Path;

use crate::Result;
use crate::recipe::Part;

/// An opened checkpoint: names, shapes and types of its tensors, and their bytes in the memory map.
#[derive(Debug)]
pub struct Checkpoint {}

impl Checkpoint {
    /// Opens what `path` names: see the module.
    pub fn open(_path: &Path) -> Result<Self> {
        todo!()
    }

    /// Reads rows `rows` of a part (relative to the part) as f32, `cols` values a row; a 1-D tensor is one row.
    ///
    /// # Errors
    /// A NaN or infinity, naming file, tensor and index.
    pub fn read_part(&self, _part: &Part, _rows: Range<usize>, _cols: usize, _out: &mut [f32]) -> Result<()> {
        todo!()
    }
}
