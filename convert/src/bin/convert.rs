//! `convert`: a trained checkpoint to an int8 blob.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use thumbformer_convert::cli;

fn main() -> ExitCode {
    cli::finish(cli::convert::run(&cli::convert::Arguments::parse()))
}
