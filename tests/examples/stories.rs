//! Writes a model of the shape of a well-known small story teller, with random weights, in the layout for Cortex-M: what
//! instruction counts of others are compared on.
//!
//! ```sh
//! cargo run -p thumbformer-tests --example stories -- stories.thumb
//! firmware/run --example counts --model stories.thumb
//! ```

use std::process::ExitCode;

use thumbformer::packing::{Layout, Packing};
use thumbformer_convert::synthetic::{Synthetic, llama};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: stories FILE");
        return ExitCode::FAILURE;
    };
    // 512 tokens, 64 dimensions, 5 layers, 8 heads over 4 KV heads, 172 hidden, 512 positions: 259,328 weights a token.
    let model = Synthetic { arch: llama(512, 64, 5, 8, 4, 172, 512), seed: 1 };
    let written = model.blob(Packing { layout: Layout::Dsp, group: 32 }).map_err(|e| e.to_string());
    match written.and_then(|blob| std::fs::write(&path, &*blob).map_err(|e| format!("{path}: {e}"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
