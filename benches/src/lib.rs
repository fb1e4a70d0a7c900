//! What the benchmarks share: models to measure, the machine's limits to measure against, sessions, and the proof that
//! what was timed was also right.
//!
//! The binary `bench` uses all of it for a table of whole models; the criterion benches take single operations. Speeds
//! are never compared with a number written down somewhere: every percentage is of a limit measured in the same run.
#![forbid(unsafe_code)]

pub mod machine;
pub mod measure;
pub mod peak;
pub mod peer;
pub mod product;
pub mod report;
pub mod startup;
pub mod subject;

use std::process::ExitCode;

use thumbformer::Backend;

/// The backend of that name on this processor.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn backend(name: &str) -> anyhow::Result<Backend> {
    Backend::available().find(|b| b.name() == name).ok_or_else(|| {
        let names: Vec<_> = Backend::available().map(Backend::name).collect();
        anyhow::anyhow!("no backend `{name}` on this processor; it has {}", names.join(", "))
    })
}

/// How a program ends: an error's causes in one line on standard error, and an exit status.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
