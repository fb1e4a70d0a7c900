//! Writes a model of the benchmark's ladder to a file: to measure it where it cannot be generated.

use std::path::PathBuf;
use std::process::ExitCode;

use benches::subject::{LADDER, Shape, Subject};
use clap::Parser;
use thumbformer::packing::{Layout, Packing};

/// Writes a LLaMA shape with random weights, the same on every machine, as a .thumb file.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The shape: 260K, 15M, 110M or 1B
    shape: String,
    /// The file to write
    #[arg(short, long)]
    output: PathBuf,
    /// Columns that share a scale: 32, 64, or 0 for whole rows
    #[arg(long, default_value_t = 32)]
    group: u32,
    /// For SIMD registers instead of Cortex-M
    #[arg(long)]
    simd: bool,
}

fn main() -> ExitCode {
    benches::finish(run())
}

fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let Some(shape) = Shape::named(&options.shape) else {
        anyhow::bail!("no shape `{}`; there are {}", options.shape, LADDER.map(|shape| shape.name).join(", "));
    };
    anyhow::ensure!(matches!(options.group, 0 | 32 | 64), "a group of {} columns: 0, 32 and 64 exist", options.group);
    let layout = if options.simd { Layout::Rows8 } else { Layout::Dsp };
    let subject = Subject::generate(&shape, Packing { layout, group: options.group })?;
    std::fs::write(&options.output, subject.blob())
        .map_err(|error| anyhow::anyhow!("{}: {error}", options.output.display()))
}
