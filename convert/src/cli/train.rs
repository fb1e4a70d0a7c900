//! `thumbformer train`: from a text or pairs to a model.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{say, tell};
use crate::train::log::Row;
use crate::train::run::{self, Observer};
use crate::train::settings::Settings;
use crate::{Error, Result};

/// Train a model on a text or on pairs, and write it as a Hugging Face folder
#[derive(Args, Debug)]
pub struct Arguments {
    /// Text or pairs to train on: a file, or a folder of files
    #[arg(required_unless_present = "resume")]
    pub data: Option<PathBuf>,
    /// Folder to write; it must not exist or be empty
    #[arg(short, long, value_name = "FOLDER", required_unless_present = "resume")]
    pub output: Option<PathBuf>,
    /// Go on with an interrupted run, exactly as if it had not been interrupted
    #[arg(long, value_name = "FOLDER", exclusive = true)]
    pub resume: Option<PathBuf>,
    /// What to train, and how
    #[command(flatten)]
    pub settings: Settings,
}

/// Runs the command.
///
/// # Errors
/// Whatever the text, the settings or the folder do.
pub fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let interrupted = move || {
        // Who asks twice does not want to wait for the checkpoint.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(interrupted).map_err(|e| Error::Usage(format!("interrupts cannot be handled: {e}")))?;
    let screen = Screen::new();
    let (folder, outcome) = match (&arguments.resume, &arguments.data, &arguments.output) {
        (Some(folder), _, _) => (folder, run::resume(folder, &stop, &screen)),
        (None, Some(data), Some(output)) => {
            (output, run::start(data, arguments.settings.clone(), output, &stop, &screen))
        }
        _ => return Err(Error::Usage("give a text and -o FOLDER, or --resume FOLDER".into())),
    };
    screen.bar.finish_and_clear();
    let outcome = outcome?;
    let folder = folder.display();
    if outcome.interrupted {
        tell!("interrupted after step {}: `thumbformer train --resume {folder}` goes on", outcome.step);
        return Ok(());
    }
    let valid = outcome.valid.map(|loss| format!(", validation loss {loss:.4}")).unwrap_or_default();
    say!("{folder}: {} steps{valid}; `convert {folder}` makes it a .thumb file", outcome.step)
}

/// A progress bar, or lines where nobody looks.
struct Screen {
    bar: ProgressBar,
    lines: bool,
    begin: Instant,
    /// Tokens before this run, once the first step is done.
    first: std::cell::Cell<Option<u64>>,
}

impl Screen {
    fn new() -> Self {
        let lines = !std::io::stderr().is_terminal();
        let bar = if lines { ProgressBar::hidden() } else { ProgressBar::new(0) };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {human_pos}/{human_len}  {msg}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, lines, begin: Instant::now(), first: std::cell::Cell::new(None) }
    }

    /// The loss and the speed.
    fn state(&self, row: &Row) -> String {
        let since = self.first.get().unwrap_or(row.tokens);
        let speed = (row.tokens - since) as f64 / self.begin.elapsed().as_secs_f64().max(1e-9);
        let valid = row.valid.map(|loss| format!(", validation {loss:.4}")).unwrap_or_default();
        format!("loss {:.4}{valid}, {speed:.0} tokens/s", row.loss)
    }
}

impl Observer for Screen {
    fn note(&self, note: &str) {
        self.bar.suspend(|| tell!("{note}"));
    }

    fn step(&self, row: &Row, steps: u64) {
        if self.first.get().is_none() {
            self.first.set(Some(row.tokens));
            self.bar.set_length(steps);
            self.bar.set_position(row.step);
            self.bar.reset_eta();
        }
        self.bar.set_position(row.step);
        self.bar.set_message(self.state(row));
    }

    fn saved(&self, row: &Row) {
        if self.lines {
            tell!("step {}: {}", row.step, self.state(row));
        } else {
            self.bar.suspend(|| tell!("step {}: {}", row.step, self.state(row)));
        }
    }
}
