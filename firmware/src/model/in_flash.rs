//! The model lies in flash of its own, behind the firmware, so that either can be sent without the other. `memory/common.x`
//! says where.
#![allow(unsafe_code)]

use thumbformer::BlobError;
use thumbformer::blob::header::Header;

unsafe extern "C" {
    /// Both are the linker script's, and only their addresses mean something.
    static _model_start: u8;
    static _model_end: u8;
}

/// There is no model where it should be.
#[derive(Clone, Copy, Debug, defmt::Format)]
pub struct NoModel {
    /// Where it should start.
    pub address: u32,
    /// What is wrong with what lies there.
    pub error: BlobError,
}

/// The file's bytes: as many as its head asks for, if the flash has them. Nothing else has been checked yet.
///
/// # Errors
/// There is no head.
pub fn bytes() -> Result<&'static [u8], NoModel> {
    let (start, end) = (&raw const _model_start, &raw const _model_end);
    // SAFETY: the linker script gives both addresses in one flash, in ascending order. The firmware's own image ends before
    // the first (the linker checks that), and nothing writes to flash while the firmware runs. Any byte is a valid `u8`.
    let flash = unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) };
    let header = Header::read(flash).map_err(|error| NoModel { address: start.addr() as u32, error })?;
    // A file that is too long for the flash is refused with all other damage by `Model::new`.
    let len = usize::try_from(header.file_len).unwrap_or(usize::MAX);
    Ok(flash.get(..len).unwrap_or(flash))
}
