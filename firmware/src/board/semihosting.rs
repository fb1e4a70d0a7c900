//! Talking by semihosting: requests from standard input, answers to standard error, logs to standard output.

use core::fmt;

use defmt_semihosting as _;
use semihosting::io::{Read, Stderr, Stdin, Write};

/// Where requests come from and answers go.
pub struct Console {
    input: Stdin,
    output: Stderr,
    /// What was read at once, and which part of it has not been asked for.
    buffer: [u8; 64],
    unread: core::ops::Range<usize>,
}

impl Console {
    pub(super) fn open() -> Self {
        let (Ok(input), Ok(output)) = (semihosting::io::stdin(), semihosting::io::stderr()) else {
            panic!("the debugger refuses semihosting");
        };
        Self { input, output, buffer: [0; 64], unread: 0..0 }
    }

    /// The next byte of input, waited for; `None` when there will be no more.
    pub fn byte(&mut self) -> Option<u8> {
        if self.unread.is_empty() {
            self.unread = 0..self.input.read(&mut self.buffer).ok()?;
        }
        self.buffer.get(self.unread.next()?).copied()
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.output.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// Ends the program, and QEMU with this status.
pub fn exit(code: i32) -> ! {
    semihosting::process::exit(code)
}
