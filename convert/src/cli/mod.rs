//! The two programs' command lines: `convert`, and `thumbformer` with its subcommands.
//!
//! Each file holds one command: its arguments, and a function that does what they say with the library. Results go to
//! standard output, progress and notes to standard error, so that output can be piped. Exit status: 0 done, 1 failed, 2
//! wrong arguments.

pub mod convert;
pub mod decoding;
pub mod embed;
mod encoder;
pub mod eval;
pub mod fill;
pub mod inspect;
pub mod model;
pub mod run;
pub mod tokenize;
#[cfg(feature = "train")]
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::Progress;
use crate::{Error, Result};

/// Writes a line to standard error, whether or not anybody reads it.
macro_rules! tell {
    ($($arg:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use tell;

/// Prints an error as users should see it and turns it into an exit status.
pub fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            tell!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A progress bar on standard error; silent if asked, or where nobody looks.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(total: u64, unit: &str, quiet: bool) -> Self {
        if quiet {
            return Self(ProgressBar::hidden());
        }
        let template = format!("{{msg:22}} {{bar:32}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(crate) fn advance(&self, by: u64) {
        self.0.inc(by);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn parameters(&self, done: u64) {
        self.0.set_position(done);
    }

    fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

/// `1234567` as `1.23 MB`; powers of ten, as flash and files are sold.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// `1234567` as `1.23 M`.
pub(crate) fn count(n: u64) -> String {
    match n {
        0..10_000 => format!("{n}"),
        10_000..1_000_000 => format!("{:.1} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// `1 token`, `2 tokens`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Reads a text file.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String> {
    utf8(std::fs::read(path).map_err(Error::io(path))?, path)
}

/// Bytes of `path` as text.
pub(crate) fn utf8(bytes: Vec<u8>, path: &std::path::Path) -> Result<String> {
    let not_utf8 = |at: usize| Error::format(path, format!("byte {at} is not UTF-8 text"));
    String::from_utf8(bytes).map_err(|e| not_utf8(e.utf8_error().valid_up_to()))
}

/// Prints JSON on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    use std::io::Write;
    let text = serde_json::to_string(value).map_err(|e| Error::Usage(e.to_string()))?;
    writeln!(std::io::stdout(), "{text}").map_err(Error::Output)
}

/// Writes to standard output; a reader that has gone away is reported, not a panic.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($arg)*).map_err($crate::Error::Output)
    }};
}
pub(crate) use say;
