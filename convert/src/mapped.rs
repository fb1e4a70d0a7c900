//! Files mapped into memory: the one place in this crate that needs `unsafe`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// Maps a file for reading; its bytes start at a page, so a blob in it is aligned. `path` is for the error.
///
/// # Errors
/// The file is empty or cannot be mapped.
pub fn map(file: &File, path: &Path) -> Result<Mmap> {
    if file.metadata().map_err(Error::io(path))?.len() == 0 {
        return Err(Error::format(path, "an empty file, expected a model"));
    }
    // SAFETY: the map is read-only and every access to it is bounds-checked. Another process that changes the file
    // meanwhile can change the bytes that are seen, and truncating it raises SIGBUS; no reader of mapped files can rule
    // that out.
    #[allow(unsafe_code)]
    unsafe { Mmap::map(file) }.map_err(Error::io(path))
}

/// Opens and maps a file.
///
/// # Errors
/// As [`map`], or it cannot be opened.
pub fn open(path: &Path) -> Result<Mmap> {
    map(&File::open(path).map_err(Error::io(path))?, path)
}
