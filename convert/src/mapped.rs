//! Files mapped into memory: the one place in this crate that needs `unsafe`.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::{Error, Result};

/// Maps `range` of a file for reading. Pages count as the process's memory only while the map lives. `path` is for the
/// error.
///
/// # Errors
/// The range is not in the file, or the system refuses.
pub fn range(file: &File, path: &Path, range: Range<u64>) -> Result<Mmap> {
    let found = file.metadata().map_err(Error::io(path))?.len();
    if range.end > found {
        return Err(Error::format(path, format!("found {found} bytes, expected at least {}", range.end)));
    }
    let len = range.end.saturating_sub(range.start);
    let len = usize::try_from(len).map_err(|_| Error::format(path, format!("{len} bytes exceed the address space")))?;
    // SAFETY: the map is read-only and every access to it is bounds-checked. Another process that changes the file
    // meanwhile can change the bytes that are seen, and truncating it raises SIGBUS; no reader of mapped files can rule
    // that out.
    #[allow(unsafe_code)]
    unsafe { MmapOptions::new().offset(range.start).len(len).map(file) }.map_err(Error::io(path))
}

/// Maps a whole file; its bytes start at a page, so a blob in it is aligned.
///
/// # Errors
/// As [`range`], or the file is empty.
pub fn map(file: &File, path: &Path) -> Result<Mmap> {
    match file.metadata().map_err(Error::io(path))?.len() {
        0 => Err(Error::format(path, "an empty file, expected a model")),
        len => range(file, path, 0..len),
    }
}

/// Opens and maps a whole file.
///
/// # Errors
/// As [`map`], or it cannot be opened.
pub fn open(path: &Path) -> Result<Mmap> {
    map(&File::open(path).map_err(Error::io(path))?, path)
}
