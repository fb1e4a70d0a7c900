//! Start-up and memory, measured on a process of its own: this one has generated and measured other things.
//!
//! The child maps the file, checks it, runs a short prompt and says when it has the first token. Whoever started it knows
//! when that was. It can then run a longer prompt and some steps, and tells how much memory it has occupied at most.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use thumbformer::Model;
use thumbformer::kernel::pool::Pool;
use thumbformer_convert::mapped;

use crate::measure::{Buffers, prompt, replay};

/// Tokens of the prompt whose answer is waited for.
pub const PROMPT: usize = 32;

/// What a child is to do, as the arguments it is started with.
#[derive(Args, Clone, Debug)]
pub struct Task {
    /// The backend's name
    #[arg(id = "start-backend", long = "start-backend", default_value = "portable", hide = true)]
    pub backend: String,
    /// Threads to compute with
    #[arg(id = "start-threads", long = "start-threads", default_value_t = 1, hide = true)]
    pub threads: usize,
    /// Tokens of a prompt that share one pass over the weights
    #[arg(id = "start-chunk", long = "start-chunk", default_value_t = 128, hide = true)]
    pub chunk: usize,
    /// Tokens of a second prompt; none if 0
    #[arg(id = "start-prompt", long = "start-prompt", default_value_t = 0, hide = true)]
    pub prompt: usize,
    /// Tokens to generate after it
    #[arg(id = "start-steps", long = "start-steps", default_value_t = 0, hide = true)]
    pub steps: usize,
}

/// What a child was seen to do.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From the start of the process to its first token.
    pub first_token: Duration,
    /// Its peak memory in bytes; `None` where the system does not tell.
    pub peak_rss: Option<u64>,
}

/// Starts `program --start MODEL` with a task and watches it.
///
/// # Errors
/// The child cannot be started, fails, or says something else than it should.
pub fn watch(program: &Path, model: &Path, task: &Task) -> anyhow::Result<Start> {
    let mut command = Command::new(program);
    command.arg("--start").arg(model).args(["--start-backend", &task.backend]);
    for (option, value) in [
        ("--start-threads", task.threads),
        ("--start-chunk", task.chunk),
        ("--start-prompt", task.prompt),
        ("--start-steps", task.steps),
    ] {
        command.args([option, &value.to_string()]);
    }
    let what = || format!("measuring the start of {}", program.display());
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(what)?;
    let mut lines = BufReader::new(child.stdout.take().context("no pipe to the child")?).lines();
    let first = lines.next().transpose()?;
    let first_token = start.elapsed();
    let last = lines.next().transpose()?;
    let status = child.wait()?;
    ensure!(status.success(), "{}: it ended with {status}", what());
    ensure!(first.as_deref() == Some("first token"), "{}: it said {first:?}", what());
    Ok(Start { first_token, peak_rss: last.and_then(|bytes| bytes.parse().ok()) })
}

/// The child's side of [`watch`].
///
/// # Errors
/// The file is no model, or too small for the prompts.
pub fn run(model: &Path, task: &Task) -> anyhow::Result<()> {
    let blob = mapped::open(model).map_err(|error| anyhow::anyhow!("{error}"))?;
    let pool = Pool::new(task.threads);
    let model = Model::with_workers(&blob, &pool).with_context(|| format!("`{}` is not a model", model.display()))?;
    let (vocab, context) = (model.arch().vocab, model.arch().context as usize);
    let first = PROMPT.min(context);
    let mut buffers = Buffers::new(&model, first.max(task.prompt + task.steps), task.chunk)?;
    let mut session = buffers.session(&model, crate::backend(&task.backend)?, &pool)?;
    replay(&mut session, &prompt(vocab, first), 1, &[])?;
    let mut out = std::io::stdout();
    writeln!(out, "first token")?;
    out.flush()?;
    if task.prompt > 0 {
        replay(&mut session, &prompt(vocab, task.prompt), task.steps + 1, &[])?;
    }
    match peak_rss() {
        Some(bytes) => writeln!(out, "{bytes}")?,
        None => writeln!(out, "unknown")?,
    }
    Ok(())
}

/// The most memory that this process has occupied, in bytes; `None` where the system does not say (it is read from
/// Linux's `/proc`).
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_a_figure_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss().unwrap() > 1 << 20);
        }
    }

    #[test]
    fn a_child_that_fails_or_says_something_else_is_an_error() {
        let task = Task { backend: "portable".into(), threads: 1, chunk: 8, prompt: 0, steps: 0 };
        for program in ["no/such/program", "false", "true"] {
            let error = watch(Path::new(program), Path::new("model.thumb"), &task).unwrap_err();
            assert!(format!("{error:#}").contains(program), "{error:#}");
        }
    }
}
