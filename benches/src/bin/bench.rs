//! Measures models against this machine's limits, and proves that what was fast was also right.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use benches::machine::Gauge;
use benches::measure::{self, Buffers, Rounds, Sample, Setting};
use benches::report::{Measured, Report, mib};
use benches::subject::{Cost, LADDER, Shape, Subject, group_name};
use clap::{Parser, ValueEnum};
use thumbformer::Backend;
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::Layout;
use thumbformer::workers::{MAX_WORKERS, Serial, Workers};

/// Far more than what caches usually hold.
const MEMORY_BYTES: usize = 1 << 30;

/// What the columns are.
const NOTES: &str = "\
% int8: of the kernel's peak, % read: of the bandwidth at the model's own size, % memory: of main memory's, each measured
beside every run; the limits above are the best seen. ratio: prefill / decode. digest: of a fixed sequence's logits, the
same for every backend, number of threads and weight layout.";

/// Measures prefill and decode of a model, or of a ladder of generated LLaMA shapes, as a share of what this machine can
/// do. Fails if any two settings disagree about a single bit of the logits.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// A .thumb file; without one, generated models are measured
    model: Option<PathBuf>,
    /// Generated models to measure: 260K, 15M, 110M, 1B
    #[arg(long, value_delimiter = ',', value_parser = shape, conflicts_with = "model")]
    shapes: Vec<Shape>,
    /// Also measure the generated model of a billion parameters
    #[arg(long, conflicts_with_all = ["model", "shapes", "quick"])]
    large: bool,
    /// Columns of the generated models that share a scale: 32, 64, row
    #[arg(long, value_delimiter = ',', value_parser = group, default_value = "32", conflicts_with = "model")]
    group: Vec<u32>,
    /// Layout of the generated models' weights
    #[arg(long, default_value = "rows8", conflicts_with = "model")]
    layout: LayoutName,
    /// Backend to measure; the fastest one if not given
    #[arg(long)]
    backend: Option<String>,
    /// Measure every backend of this processor
    #[arg(long, conflicts_with = "backend")]
    all_backends: bool,
    /// Numbers of threads; 1 and all physical cores if not given
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Lengths of prompts
    #[arg(long, value_delimiter = ',', default_value = "256,512")]
    prompt: Vec<usize>,
    /// Tokens to generate after each prompt
    #[arg(long, default_value_t = 64)]
    steps: usize,
    /// Tokens of a prompt that share one pass over the weights
    #[arg(long, default_value_t = 128)]
    chunk: usize,
    /// Measurements of each setting, of which the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Small models, short prompts and few rounds: a check that everything works, in seconds
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Print ratios to an earlier run's --json output
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Only run the model once and print the process's peak memory in bytes
    #[arg(long, hide = true, requires = "model")]
    memory_only: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutName {
    Rows8,
    Dsp,
}

fn shape(name: &str) -> Result<Shape, String> {
    Shape::named(name).ok_or_else(|| format!("the ladder has {}", LADDER.map(|s| s.name).join(", ")))
}

fn group(name: &str) -> Result<u32, String> {
    [0, 32, 64].into_iter().find(|&g| group_name(g) == name).ok_or_else(|| "32, 64 or row".to_owned())
}

impl Options {
    /// Fills in what depends on other options and checks the numbers. `--quick` caps what it finds.
    fn settle(mut self) -> anyhow::Result<Self> {
        if self.quick {
            self.prompt = self.prompt.iter().map(|p| (*p).min(64)).collect();
            self.prompt.dedup();
            self.steps = self.steps.min(16);
            self.rounds = self.rounds.min(2);
        }
        if self.shapes.is_empty() {
            let rungs = match (self.quick, self.large) {
                (true, _) => 2,
                (false, false) => LADDER.len() - 1,
                (false, true) => LADDER.len(),
            };
            self.shapes = LADDER[..rungs].to_vec();
        }
        for (name, least) in [("rounds", self.rounds), ("steps", self.steps), ("chunk", self.chunk)] {
            ensure!(least > 0, "--{name} must be at least 1");
        }
        ensure!(self.prompt.iter().all(|&p| p > 0), "--prompt: a prompt has at least one token");
        ensure!(
            self.threads.iter().all(|t| (1..=MAX_WORKERS).contains(t)),
            "--threads: from 1 to {MAX_WORKERS} threads can work"
        );
        Ok(self)
    }

    fn gauge(&self) -> Gauge {
        let (bytes, trial) = if self.quick { (MEMORY_BYTES / 8, 1) } else { (MEMORY_BYTES, 20) };
        Gauge::new(bytes, Duration::from_millis(trial))
    }

    fn rounds(&self) -> Rounds {
        Rounds { count: self.rounds, least: Duration::from_millis(if self.quick { 5 } else { 100 }) }
    }

    fn backends(&self) -> anyhow::Result<Vec<Backend>> {
        Ok(match &self.backend {
            Some(name) => vec![benches::backend(name)?],
            None if self.all_backends => Backend::available().collect(),
            None => vec![Backend::detect()],
        })
    }
}

fn main() -> ExitCode {
    benches::finish(run())
}

fn run() -> anyhow::Result<()> {
    let options = Options::parse().settle()?;
    if let (Some(path), true) = (&options.model, options.memory_only) {
        return memory_only(path, &options);
    }
    let old = options.compare.as_deref().map(Report::read).transpose()?;
    let backends = options.backends()?;
    let mut gauge = options.gauge();
    let cores = gauge.machine().cores;
    eprintln!("{} ({cores} cores)", gauge.machine().processor);
    let mut counts = options.threads.clone();
    if counts.is_empty() {
        counts = vec![1, cores.min(MAX_WORKERS)];
    }
    counts.sort_unstable();
    counts.dedup();
    let pools: Vec<Pool> = counts.into_iter().map(Pool::new).collect();

    let mut results = Vec::new();
    match &options.model {
        Some(path) => results.extend(measure_subject(&Subject::read(path)?, &options, &backends, &pools, &mut gauge)?),
        None => {
            let layout = match options.layout {
                LayoutName::Rows8 => Layout::Rows8,
                LayoutName::Dsp => Layout::Dsp,
            };
            for shape in &options.shapes {
                for &group in &options.group {
                    eprintln!("generating {}", shape.name);
                    let subject = Subject::generate(shape, layout, group)?;
                    results.extend(measure_subject(&subject, &options, &backends, &pools, &mut gauge)?);
                }
            }
        }
    }

    let report = Report { machine: gauge.machine().clone(), results };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}\n\n{}\n\n{NOTES}", report.limits_table(), report.results_table());
    }
    if let Some(old) = old {
        let Some(table) = report.comparison_table(&old) else {
            bail!("the two runs have no setting in common");
        };
        if old.machine.processor != report.machine.processor {
            eprintln!("note: the earlier run was on another processor, {}", old.machine.processor);
        }
        if options.json { eprintln!("{table}") } else { println!("\n{table}") }
    }
    Ok(())
}

/// Measures one model in all settings.
fn measure_subject(
    subject: &Subject,
    options: &Options,
    backends: &[Backend],
    pools: &[Pool],
    gauge: &mut Gauge,
) -> anyhow::Result<Vec<Measured>> {
    let model = subject.model()?;
    let (arch, packing) = (model.arch(), model.header().packing);
    eprintln!("measuring {} (group {})", subject.name, group_name(packing.group));
    let digest = measure::verify(&model, pools)?;
    let rss = memory(subject, options)?;

    let lengths = measure::fit(arch, &options.prompt, options.steps)?;
    let context = lengths.iter().map(|(prompt, steps)| prompt + steps).max().unwrap_or(1);
    let mut settings = Vec::new();
    for &(prompt, steps) in &lengths {
        for pool in pools {
            settings.extend(backends.iter().map(|&backend| Setting { backend, pool, prompt, steps }));
        }
    }
    let mut buffers = Buffers::new(&model, context, options.chunk)?;
    let samples = measure::time(&model, &mut buffers, &settings, options.rounds(), gauge)?;
    let load = measure::load(subject.blob(), options.rounds())?;

    let cost = Cost::of(&model);
    let measured = |(setting, samples): (&Setting<'_>, Vec<Sample>)| {
        let median = |of: &dyn Fn(&Sample) -> f64| measure::median(samples.iter().map(of));
        let (prompt, steps) = (setting.prompt as u64, setting.steps as u64);
        let gb_read = cost.step_bytes(prompt + steps / 2) as f64 / 1e9;
        let gmacs = cost.prompt_macs(prompt) as f64 / 1e9;
        let prefill = median(&|s| s.prefill.as_secs_f64());
        Measured {
            model: subject.name.clone(),
            parameters: arch.parameters(),
            layout: packing.layout.name().to_owned(),
            group: group_name(packing.group),
            threads: setting.pool.count(),
            kernel: setting.backend.name().to_owned(),
            context: setting.prompt,
            chunk: options.chunk.min(context),
            prefill_tokens_per_s: prompt as f64 / prefill,
            decode_tokens_per_s: 1.0 / median(&|s| s.step.as_secs_f64()),
            percent_of_bandwidth: median(&|s| 100.0 * gb_read / s.step.as_secs_f64() / s.bandwidth),
            percent_of_memory_bandwidth: median(&|s| 100.0 * gb_read / s.step.as_secs_f64() / s.memory),
            percent_of_int8_peak: median(&|s| 100.0 * gmacs / s.prefill.as_secs_f64() / s.int8),
            first_token_ms: 1e3 * prefill,
            load_ms: 1e3 * load,
            rss_mib: rss,
            file_mib: mib(subject.blob().len() as u64),
            digest: format!("{:016x}", digest.value()),
        }
    };
    Ok(settings.iter().zip(samples).map(measured).collect())
}

/// Peak memory in MiB of a process of its own that does nothing but run the longest prompt and its steps. This process
/// has measured and generated other things and still holds their memory.
fn memory(subject: &Subject, options: &Options) -> anyhow::Result<Option<f64>> {
    if measure::peak_rss().is_none() {
        return Ok(None);
    }
    let mut file = tempfile::Builder::new().suffix(".thumb").tempfile()?;
    file.write_all(subject.blob()).with_context(|| format!("cannot write {}", file.path().display()))?;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg(file.path()).arg("--memory-only").args(["--steps", &options.steps.to_string()]);
    child.args(["--chunk", &options.chunk.to_string()]);
    child.args(options.prompt.iter().flat_map(|p| ["--prompt".to_owned(), p.to_string()]));
    let output = child.output().context("cannot measure memory in a process of its own")?;
    ensure!(output.status.success(), "measuring memory: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(mib(String::from_utf8_lossy(&output.stdout).trim().parse()?)))
}

/// The child's side of [`memory`].
fn memory_only(path: &Path, options: &Options) -> anyhow::Result<()> {
    let subject = Subject::read(path)?;
    let model = subject.model()?;
    let lengths = measure::fit(model.arch(), &options.prompt, options.steps)?;
    let Some((prompt, steps)) = lengths.into_iter().max() else { bail!("no prompt") };
    let mut buffers = Buffers::new(&model, prompt + steps, options.chunk)?;
    let mut session = buffers.session(&model, Backend::detect(), Serial)?;
    measure::replay(&mut session, &measure::prompt(model.arch().vocab, prompt), steps, &[])?;
    println!("{}", measure::peak_rss().context("the system does not tell")?);
    Ok(())
}
