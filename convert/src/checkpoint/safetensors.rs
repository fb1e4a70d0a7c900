//! The safetensors format. The `safetensors` crate reads and validates the header; this file notes where tensors lie.

use std::path::Path;

use ::safetensors::{Dtype as Stored, SafeTensors};

use super::{Contents, Dtype, Entry, row_major};
use crate::{Error, Result};

/// Reads the header. The crate checks that the tensors tile the rest of the file exactly.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Contents> {
    // Without this test, any file would get an error about a header of some exabytes.
    if bytes.get(8) != Some(&b'{') {
        return Err(Error::format(path, "neither a safetensors file nor a zip checkpoint of PyTorch"));
    }
    let (header_len, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| Error::format(path, format!("damaged safetensors file: {error}")))?;
    let data = header_len.saturating_add(8);
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let lost = || Error::format(path, format!("damaged safetensors file: tensor `{name}` overflows"));
        let (strides, _) = row_major(&info.shape).ok_or_else(lost)?;
        let offset = data.checked_add(info.data_offsets.0).ok_or_else(lost)?;
        let dtype = match info.dtype {
            Stored::F64 => Dtype::F64,
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            other => Dtype::Other(other.to_string()),
        };
        tensors.push((name, Entry { file: 0, dtype, shape: info.shape.clone(), strides, offset }));
    }
    Ok(Contents { tensors, model_args: None })
}
