//! Prints what the firmware prints: the tokens that a model generates from a prompt of ids, and the digest of its logits.
//!
//! Every backend of this processor runs, and all must agree; then the same two lines from a chip or an emulator prove
//! that it computes the same bits.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use benches::measure::{Buffers, replay};
use benches::subject::Subject;
use clap::Parser;
use thumbformer::Backend;
use thumbformer::workers::Serial;

/// Prints the greedy tokens and the digest of the logits of a .thumb file, to be compared with the firmware's.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The .thumb file
    model: PathBuf,
    /// The prompt's token ids
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Tokens to generate at most; it ends earlier after an end token
    #[arg(long, default_value_t = 32)]
    tokens: usize,
}

fn main() -> ExitCode {
    benches::finish(run())
}

fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let subject = Subject::read(&options.model)?;
    let model = subject.model()?;
    let end = model.special().end();
    let mut results = Vec::new();
    for backend in Backend::available() {
        let context = (options.ids.len() + options.tokens).min(model.arch().context as usize);
        let mut buffers = Buffers::new(&model, context, options.ids.len())?;
        results.push(replay(&mut buffers.session(&model, backend, Serial)?, &options.ids, options.tokens, end)?);
    }
    let (ids, digest) = results.swap_remove(0);
    ensure!(results.iter().all(|other| *other == (ids.clone(), digest)), "the backends' logits differ");
    println!("tokens {ids:?}");
    println!("digest {:016x}", digest.value());
    Ok(())
}
