//! Measures models against this machine's limits, and proves that what was fast was also right.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use benches::machine::Gauge;
use benches::measure::{self, Buffers, Rounds, Sample, Setting, median};
use benches::peer::Peer;
use benches::report::{Compared, ContextCost, Measured, Report, context_table, mib, peers_table};
use benches::startup::{self, Task};
use benches::subject::{Cost, LADDER, Shape, Subject, group_name};
use clap::{Parser, ValueEnum};
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::{MAX_WORKERS, Workers};
use thumbformer::{Backend, Model};

/// Far more than what caches usually hold.
const MEMORY_BYTES: usize = 1 << 30;

/// What the columns are.
const NOTES: &str = "\
% int8: of the kernel's peak, % read: of the bandwidth at the model's own size, each measured beside every run; the
limits above are the best seen. first: from the start of a process to the first token after a prompt of 32. digest: of a
fixed sequence's logits, the same for every backend, number of threads and weight layout.";

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
    /// Columns of the generated models that share a scale: 32, 64, row; the converter's default if not given
    #[arg(long, value_delimiter = ',', value_parser = group, conflicts_with = "model")]
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
    /// Lengths of prompts; steps follow each
    #[arg(long, value_delimiter = ',', default_value = "64,512,1024")]
    prompt: Vec<usize>,
    /// Tokens to generate after each prompt
    #[arg(long, default_value_t = 32)]
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
    /// Another engine as NAME=COMMAND; {prompt}, {steps} and {threads} in it are replaced. It prints llama-bench's JSON, or
    /// {"prefill_tokens_per_s": N, "decode_tokens_per_s": N, "first_token_ms": N}. Needs one model; may be given again
    #[arg(long, value_name = "NAME=COMMAND")]
    peer: Vec<Peer>,
    /// Only start this model and say when there is a first token
    #[arg(long, hide = true)]
    start: Option<PathBuf>,
    /// What else to do then
    #[command(flatten)]
    task: Task,
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
        if self.group.is_empty() {
            self.group.push(thumbformer_convert::pipeline::Options::default().packing.group);
        }
        let models = if self.model.is_some() { 1 } else { self.shapes.len() * self.group.len() };
        ensure!(self.peer.is_empty() || models == 1, "--peer: name one model, by its file or with --shapes");
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
        let (bytes, trial) = if self.quick { (MEMORY_BYTES / 8, 1) } else { (MEMORY_BYTES, 5) };
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
    if let Some(model) = &options.start {
        return startup::run(model, &options.task);
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
    for pool in &pools {
        gauge.memory(pool);
    }

    let mut bench = Bench { options: &options, backends, pools, gauge, found: Found::default() };
    match &options.model {
        Some(path) => bench.measure(&Subject::read(path)?)?,
        None => {
            let layout = match options.layout {
                LayoutName::Rows8 => Layout::Rows8,
                LayoutName::Dsp => Layout::Dsp,
            };
            for shape in &options.shapes {
                for &group in &options.group {
                    eprintln!("generating {}", shape.name);
                    bench.measure(&Subject::generate(shape, Packing { layout, group })?)?;
                }
            }
        }
    }
    let Found { results, costs, compared } = bench.found;
    print(&options, &Report { machine: bench.gauge.machine().clone(), results }, &costs, &compared, old.as_ref())
}

/// Tables to standard output; with `--json`, what it does not hold to standard error.
fn print(
    options: &Options,
    report: &Report,
    costs: &[ContextCost],
    compared: &[Compared],
    old: Option<&Report>,
) -> anyhow::Result<()> {
    let mut more = Vec::new();
    if !compared.is_empty() {
        more.push(peers_table(compared));
    }
    if let Some(old) = old {
        let Some(table) = report.comparison_table(old) else {
            bail!("the two runs have no setting in common");
        };
        if old.machine.processor != report.machine.processor {
            eprintln!("note: the earlier run was on another processor, {}", old.machine.processor);
        }
        more.push(table);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(report)?);
        more.iter().for_each(|table| eprintln!("{table}\n"));
    } else {
        println!("{}\n\n{}\n\n{NOTES}\n", report.limits_table(), report.results_table());
        println!("{}\n", report.plot());
        if !costs.is_empty() {
            println!("{}\n", context_table(costs));
        }
        more.iter().for_each(|table| println!("{table}\n"));
    }
    Ok(())
}

/// What there is to print.
#[derive(Default)]
struct Found {
    results: Vec<Measured>,
    costs: Vec<ContextCost>,
    compared: Vec<Compared>,
}

/// A run of this program.
struct Bench<'o> {
    options: &'o Options,
    backends: Vec<Backend>,
    pools: Vec<Pool>,
    gauge: Gauge,
    found: Found,
}

impl Bench<'_> {
    /// Measures one model in all settings, then beside its peers.
    fn measure(&mut self, subject: &Subject) -> anyhow::Result<()> {
        let model = subject.model()?;
        let options = self.options;
        eprintln!("measuring {}", subject.name);
        let digest = measure::verify(&model, &self.pools)?;
        let lengths = measure::fit(model.arch(), &options.prompt, options.steps)?;
        let context = lengths.iter().map(|(prompt, steps)| prompt + steps).max().unwrap_or(1);
        let mut settings = Vec::new();
        for pool in &self.pools {
            for &backend in &self.backends {
                settings.extend(lengths.iter().map(|&(prompt, steps)| Setting { backend, pool, prompt, steps }));
            }
        }
        if let Some(setting) = settings.first() {
            // A command that does not work should say so now, not after everything else has been measured.
            for peer in &options.peer {
                peer.run(setting.prompt, setting.steps, setting.pool.count())?;
            }
        }
        let starts = starts(subject.path(), &settings, options)?;
        let mut buffers = Buffers::new(&model, context, options.chunk)?;
        let samples = measure::time(&model, &mut buffers, &settings, options.rounds(), &mut self.gauge)?;

        let cost = Cost::of(&model);
        let digest = format!("{:016x}", digest.value());
        for ((setting, samples), start) in settings.iter().zip(&samples).zip(starts) {
            let median = |of: &dyn Fn(&Sample) -> f64| median(samples.iter().map(of));
            let (prompt, steps) = (setting.prompt as u64, setting.steps as u64);
            let gb_read = cost.step_bytes(prompt + steps / 2) as f64 / 1e9;
            let gmacs = cost.prompt_macs(prompt) as f64 / 1e9;
            self.found.results.push(Measured {
                model: subject.name.clone(),
                threads: setting.pool.count(),
                kernel: setting.backend.name().to_owned(),
                context: setting.prompt,
                prefill_tokens_per_s: prompt as f64 / median(&|s| s.prefill.as_secs_f64()),
                decode_tokens_per_s: 1.0 / median(&|s| s.step.as_secs_f64()),
                percent_of_bandwidth: median(&|s| 100.0 * gb_read / s.step.as_secs_f64() / s.bandwidth),
                percent_of_int8_peak: median(&|s| 100.0 * gmacs / s.prefill.as_secs_f64() / s.int8),
                first_token_ms: start.first_token_ms,
                rss_mib: start.peak_rss.map(mib),
                file_mib: mib(subject.blob().len() as u64),
                digest: digest.clone(),
            });
        }
        let steady = samples.iter().map(|samples| measure::steadiness(samples)).fold(1.0, f64::min);
        if steady < 0.9 {
            eprintln!("note: other work disturbed this: the int8 peak beside the runs fell to {:.0} %", 100.0 * steady);
        }
        let timed: Vec<_> = settings.iter().copied().zip(samples).collect();
        self.found.costs.extend(context_costs(subject, &cost, &timed));
        for setting in &settings {
            for peer in &options.peer {
                eprintln!("comparing with {}", peer.name);
                let compared = compare(&model, subject.path(), &mut buffers, setting, peer, options)?;
                self.found.compared.push(compared);
            }
        }
        Ok(())
    }
}

/// The start-up of each setting's process.
#[derive(Clone, Copy)]
struct Started {
    first_token_ms: f64,
    peak_rss: Option<u64>,
}

/// Starts every setting's process once, and one of each backend and number of threads as often as there are rounds: the
/// first token does not depend on the prompts that follow it.
fn starts(path: &Path, settings: &[Setting<'_>], options: &Options) -> anyhow::Result<Vec<Started>> {
    let mut known: Vec<(Backend, usize, f64)> = Vec::new();
    let mut starts = Vec::new();
    for setting in settings {
        let (backend, threads) = (setting.backend, setting.pool.count());
        let first_token_ms = match known.iter().find(|(b, t, _)| (*b, *t) == (backend, threads)) {
            Some(&(_, _, ms)) => ms,
            None => {
                let once = |_| start(path, setting, options, false).map(|s| 1e3 * s.first_token.as_secs_f64());
                let ms = median((0..options.rounds).map(once).collect::<anyhow::Result<Vec<_>>>()?);
                known.push((backend, threads, ms));
                ms
            }
        };
        let peak_rss = start(path, setting, options, true)?.peak_rss;
        starts.push(Started { first_token_ms, peak_rss });
    }
    Ok(starts)
}

/// Starts one process of a setting; with `prompt`, it also runs the setting's prompt and steps.
fn start(path: &Path, setting: &Setting<'_>, options: &Options, prompt: bool) -> anyhow::Result<startup::Start> {
    let (prompt, steps) = if prompt { (setting.prompt, setting.steps) } else { (0, 0) };
    let (backend, threads) = (setting.backend.name().to_owned(), setting.pool.count());
    let task = Task { backend, threads, chunk: options.chunk, prompt, steps };
    startup::watch(&std::env::current_exe()?, path, &task)
}

/// The line through each backend's and pool's steps by context; none with a single context.
fn context_costs(subject: &Subject, cost: &Cost, timed: &[(Setting<'_>, Vec<Sample>)]) -> Vec<ContextCost> {
    let of = |setting: &Setting<'_>| (setting.backend, setting.pool.count());
    let mut costs: Vec<ContextCost> = Vec::new();
    for group in timed.chunk_by(|(a, _), (b, _)| of(a) == of(b)) {
        let Some((setting, _)) = group.first() else { continue };
        let step = |(setting, samples): &(Setting<'_>, Vec<Sample>)| {
            let position = setting.prompt as f64 + setting.steps as f64 / 2.0;
            (position, median(samples.iter().map(|s| s.step.as_secs_f64())))
        };
        let Some((base, slope)) = measure::line(&group.iter().map(step).collect::<Vec<_>>()) else { continue };
        let gb_per_s = median(group.iter().flat_map(|(_, samples)| samples).map(|s| s.bandwidth));
        costs.push(ContextCost {
            model: subject.name.clone(),
            kernel: setting.backend.name().to_owned(),
            threads: setting.pool.count(),
            context: group.iter().map(|(setting, _)| setting.prompt).max().unwrap_or(0),
            base_us: 1e6 * base,
            position_ns: 1e9 * slope,
            reading_ns: cost.position_bytes as f64 / gb_per_s,
        });
    }
    costs
}

/// Runs a peer and this runtime in turn.
fn compare(
    model: &Model<'_>,
    path: &Path,
    buffers: &mut Buffers,
    setting: &Setting<'_>,
    peer: &Peer,
    options: &Options,
) -> anyhow::Result<Compared> {
    let threads = setting.pool.count();
    let [mut prefill, mut decode, mut first_token] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        let speeds = peer.run(setting.prompt, setting.steps, threads)?;
        let (prompt_time, step, _) = measure::run(model, buffers, setting, options.rounds().least)?;
        let ours = setting.prompt as f64 / prompt_time.as_secs_f64();
        prefill.extend(speeds.prefill_tokens_per_s.map(|theirs| (theirs, ours / theirs)));
        decode.extend(speeds.decode_tokens_per_s.map(|theirs| (theirs, 1.0 / step.as_secs_f64() / theirs)));
        if let Some(theirs) = speeds.first_token_ms {
            let ours = 1e3 * start(path, setting, options, false)?.first_token.as_secs_f64();
            first_token.push((theirs, theirs / ours));
        }
    }
    let both = |pairs: Vec<(f64, f64)>| {
        let median = |of: fn(&(f64, f64)) -> f64| median(pairs.iter().map(of));
        (!pairs.is_empty()).then(|| (median(|p| p.0), median(|p| p.1)))
    };
    Ok(Compared {
        peer: peer.name.clone(),
        kernel: setting.backend.name().to_owned(),
        threads,
        context: setting.prompt,
        prefill: both(prefill),
        decode: both(decode),
        first_token: both(first_token),
    })
}
