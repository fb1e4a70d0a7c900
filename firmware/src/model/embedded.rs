//! The model is part of the firmware's image: the file `THUMBFORMER_MODEL`, in flash, executed in place.

use thumbformer::Aligned;
use thumbformer::blob::header::Header;

/// The file's bytes, for constants; [`bytes`] are those in flash.
pub const FILE: &[u8] = include_bytes!(env!("THUMBFORMER_MODEL"));

static MODEL: Aligned<[u8; FILE.len()]> = Aligned(*include_bytes!(env!("THUMBFORMER_MODEL")));

/// What its head says, known when the firmware is built.
pub const HEADER: Header = match Header::read(FILE) {
    Ok(header) => header,
    Err(_) => panic!("THUMBFORMER_MODEL is not a .thumb file of this version"),
};

/// The file's bytes. Nothing has been checked yet.
///
/// # Errors
/// None; a model that is sent to the chip by itself can be missing.
pub fn bytes() -> Result<&'static [u8], NoModel> {
    Ok(&MODEL.0)
}

/// There is no model. It cannot happen here.
#[derive(Clone, Copy, Debug, defmt::Format)]
pub enum NoModel {}
