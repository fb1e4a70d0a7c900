//! pipeline stub
use crate::Result;
use crate::memory::AlignedBytes;
use crate::writer::{Plan, TensorReport, Weights};
use std::io::Cursor;
use thumbformer::blob::header::HEADER_BYTES;

/// Makes a blob in memory.
///
/// # Errors
/// As [`Plan::write_content`].
pub fn in_memory(plan: &Plan<'_>, weights: &dyn Weights) -> Result<(AlignedBytes, Vec<TensorReport>)> {
    let mut blob = AlignedBytes::zeroed(plan.file_len() as usize);
    let reports = plan.write_content(weights, &mut Cursor::new(&mut blob[..]), &|_| ())?;
    let head = plan.seal(&blob);
    blob[..HEADER_BYTES].copy_from_slice(&head);
    Ok((blob, reports))
}
