//! Lines of input, of whatever a user may type or a script may send.

use core::str::Utf8Error;

/// Room for a line, in bytes.
pub const LINE: usize = 512;

/// One line, without its end.
#[derive(Clone, Copy, Debug)]
pub enum Line<'l> {
    /// Text; it may be empty.
    Text(&'l str),
    /// Bytes that are no text.
    NotUtf8(Utf8Error),
    /// More than [`LINE`] bytes; all of them have been read.
    TooLong {
        /// How many.
        bytes: usize,
    },
}

/// Where a line is put together.
pub struct Input {
    buffer: [u8; LINE],
}

impl Input {
    /// Room for one line at a time.
    pub const fn new() -> Self {
        Self { buffer: [0; LINE] }
    }

    /// Reads bytes up to the end of a line; `None` if there are none any more.
    pub fn line(&mut self, mut next: impl FnMut() -> Option<u8>) -> Option<Line<'_>> {
        let mut bytes = 0;
        loop {
            match next() {
                None if bytes == 0 => return None,
                None | Some(b'\n') => break,
                Some(byte) => {
                    if let Some(slot) = self.buffer.get_mut(bytes) {
                        *slot = byte;
                    }
                    bytes += 1;
                }
            }
        }
        let Some(line) = self.buffer.get(..bytes) else { return Some(Line::TooLong { bytes }) };
        // Terminals end lines in either way.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some(core::str::from_utf8(line).map_or_else(Line::NotUtf8, Line::Text))
    }
}

impl Default for Input {
    fn default() -> Self {
        Self::new()
    }
}
