//! Times whole models, prompts and steps, and checks that every setting computed the same bits.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use thumbformer::arch::Arch;
use thumbformer::decode::argmax;
use thumbformer::kernel::pool::Pool;
use thumbformer::workers::Workers;
use thumbformer::{Backend, Digest, Limits, Model, Plan, Session};
use thumbformer_convert::memory::AlignedBytes;

use crate::machine::Gauge;
use crate::subject::Cost;

/// A way to run a model.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'p> {
    /// The inner loops.
    pub backend: Backend,
    /// Who works.
    pub pool: &'p Pool,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated after it.
    pub steps: usize,
}

/// One run of a setting, and what the machine could do just before or after it, whichever was more, with as many threads.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// From the prompt's ids to the first generated one.
    pub prefill: Duration,
    /// A step: one token in, the next one out.
    pub step: Duration,
    /// Bandwidth at the size of what a step reads, in 10⁹ bytes a second.
    pub bandwidth: f64,
    /// The kernel's peak, in 10⁹ multiply-adds a second.
    pub int8: f64,
}

/// How often to run every setting.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Runs of each setting; the settings take turns, so that a slow moment of the machine hits them alike.
    pub count: usize,
    /// A run repeats prompt and steps until each has taken this long.
    pub least: Duration,
}

/// Ids that use the whole vocabulary, a function of its size alone.
pub fn prompt(vocab: u32, tokens: usize) -> Vec<u32> {
    (0u32..).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 8) % vocab.max(1)).take(tokens).collect()
}

/// Room for a session, owned.
#[derive(Debug)]
pub struct Buffers {
    plan: Plan,
    cache: AlignedBytes,
    scratch: AlignedBytes,
}

impl Buffers {
    /// For a session on `model` of `context` positions that takes prompts in chunks of `chunk`.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn new(model: &Model<'_>, context: usize, chunk: usize) -> anyhow::Result<Self> {
        let limit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // Rounds go back from an answer's end to the prompt's, which windows must not have forgotten.
        let plan = Plan::for_header(model.header(), Limits::new(limit(context), limit(chunk)))?;
        let plan = plan.with_rewind(limit(context))?;
        let (cache, scratch) = (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        Ok(Self { plan, cache, scratch })
    }

    /// A session in these buffers; they are free again when it ends.
    ///
    /// # Errors
    /// The buffers were made for another model.
    pub fn session<'m, 'b, W: Workers + Sync>(
        &'b mut self,
        model: &Model<'m>,
        backend: Backend,
        workers: W,
    ) -> anyhow::Result<Session<'m, 'b, W>> {
        Ok(Session::with(*model, &self.plan, &mut self.cache, &mut self.scratch, backend, workers)?)
    }
}

/// Runs the prompt from position 0 and generates greedily, `tokens` tokens at most or until one of `end` has been chosen:
/// the ids, and the digest of all the logits that they were chosen from. The firmware computes the same two.
///
/// # Errors
/// The session's: ids outside the vocabulary, a context that is too short.
pub fn replay<W: Workers + Sync>(
    session: &mut Session<'_, '_, W>,
    prompt: &[u32],
    tokens: usize,
    end: &[u32],
) -> anyhow::Result<(Vec<u32>, Digest)> {
    let (mut ids, mut digest) = (Vec::with_capacity(tokens), Digest::new());
    session.reset();
    let mut logits = session.prefill(prompt)?;
    while ids.len() < tokens {
        digest.update(logits);
        let id = argmax(logits);
        ids.push(id);
        if ids.len() == tokens || end.contains(&id) {
            break;
        }
        logits = session.step(id)?;
    }
    Ok((ids, digest))
}

/// A fixed prompt and a few steps, on every backend of this processor and every pool: their one digest.
///
/// # Errors
/// Two settings differ; the message names both.
pub fn verify(model: &Model<'_>, pools: &[Pool]) -> anyhow::Result<Digest> {
    let context = model.arch().context as usize;
    let prompt = prompt(model.arch().vocab, 24.min(context));
    let tokens = 8.min(context - prompt.len() + 1);
    let mut expected: Option<(Digest, String)> = None;
    for backend in Backend::available() {
        for pool in pools {
            // A chunk that divides neither the prompt nor a kernel's number of tokens.
            let mut buffers = Buffers::new(model, prompt.len() + tokens - 1, 11)?;
            let (_, digest) = replay(&mut buffers.session(model, backend, pool)?, &prompt, tokens, &[])?;
            let setting = format!("{} on {} threads", backend.name(), pool.count());
            match &expected {
                None => expected = Some((digest, setting)),
                Some((other, name)) if *other != digest => {
                    bail!(
                        "logits differ: {name} has the digest {:016x}, {setting} {:016x}",
                        other.value(),
                        digest.value()
                    )
                }
                Some(_) => {}
            }
        }
    }
    expected.map(|(digest, _)| digest).context("no threads to run on")
}

/// Prompts of `wanted` lengths that leave room for `steps` in the context; if none does, three quarters of the context,
/// and what is left for steps.
///
/// # Errors
/// The context has no room for a prompt and a step.
pub fn fit(arch: &Arch, wanted: &[usize], steps: usize) -> anyhow::Result<Vec<(usize, usize)>> {
    let context = arch.context as usize;
    ensure!(context >= 2, "a context of {context} has no room for a prompt and a step");
    let fitting: Vec<_> = wanted.iter().filter(|&&p| p + steps <= context).map(|&p| (p, steps)).collect();
    if !fitting.is_empty() {
        return Ok(fitting);
    }
    let prompt = (context * 3 / 4).max(1);
    Ok(vec![(prompt, steps.min(context - prompt))])
}

/// Times every setting: as many samples of each as there are rounds. All settings that share a prompt must generate the
/// same ids.
///
/// # Errors
/// They do not, or the session refused something.
pub fn time(
    model: &Model<'_>,
    buffers: &mut Buffers,
    settings: &[Setting<'_>],
    rounds: Rounds,
    gauge: &mut Gauge,
) -> anyhow::Result<Vec<Vec<Sample>>> {
    let bytes = usize::try_from(Cost::of(model).weight_bytes)?;
    let mut samples = vec![Vec::new(); settings.len()];
    let mut answers: Vec<(usize, Vec<u32>)> = Vec::new();
    // The first round warms caches and threads up, and does not count.
    for round in 0..=rounds.count {
        for (setting, samples) in settings.iter().zip(&mut samples) {
            let pool = setting.pool;
            let mut limits = || (gauge.read(pool, bytes), gauge.int8(setting.backend, pool));
            let before = limits();
            let (prefill, step, ids) = run(model, buffers, setting, rounds.least)?;
            let after = limits();
            match answers.iter().find(|(prompt, _)| *prompt == setting.prompt) {
                None => answers.push((setting.prompt, ids)),
                Some((_, expected)) => ensure!(
                    *expected == ids,
                    "{} on {} threads generated other tokens than the setting before it",
                    setting.backend.name(),
                    pool.count()
                ),
            }
            if round > 0 {
                let (bandwidth, int8) = (before.0.max(after.0), before.1.max(after.1));
                samples.push(Sample { prefill, step, bandwidth, int8 });
            }
        }
    }
    Ok(samples)
}

/// One run of one setting: the times of prompt and step, and the ids it generated.
///
/// # Errors
/// The session refused something.
pub fn run(
    model: &Model<'_>,
    buffers: &mut Buffers,
    setting: &Setting<'_>,
    least: Duration,
) -> anyhow::Result<(Duration, Duration, Vec<u32>)> {
    let mut session = buffers.session(model, setting.backend, setting.pool)?;
    let prompt = prompt(model.arch().vocab, setting.prompt);
    let mut first = 0;
    let prefill = repeat(least, || {
        session.reset();
        first = argmax(session.prefill(&prompt)?);
        Ok(())
    })?;
    let mut ids = Vec::with_capacity(setting.steps + 1);
    let steps = repeat(least, || {
        session.rewind(prompt.len())?;
        ids.clear();
        ids.push(first);
        let mut id = first;
        for _ in 0..setting.steps {
            id = argmax(session.step(id)?);
            ids.push(id);
        }
        Ok(())
    })?;
    Ok((prefill, steps.div_f64(setting.steps as f64), ids))
}

/// The mean time of `work`, repeated until `least` has passed.
fn repeat(least: Duration, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut count = 0u32;
    loop {
        work()?;
        count += 1;
        let elapsed = start.elapsed();
        if elapsed >= least {
            return Ok(elapsed / count);
        }
    }
}

/// How much of the best int8 peak seen beside these samples was there in the median: 1 on a machine without other work.
pub fn steadiness(samples: &[Sample]) -> f64 {
    let best = samples.iter().map(|s| s.int8).fold(0.0, f64::max);
    median(samples.iter().map(|s| s.int8)) / best
}

/// The straight line closest to the points: its value at 0, and its slope. `None` without two different places.
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x_mean).powi(2)).sum();
    let slope = points.iter().map(|p| (p.0 - x_mean) * (p.1 - y_mean)).sum::<f64>() / spread;
    (spread > 0.0).then_some((y_mean - slope * x_mean, slope))
}

/// The middle one, the upper of two; NaN of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{LADDER, Subject};
    use thumbformer::packing::{Layout, Packing};

    fn tiny() -> Subject {
        Subject::generate(&LADDER[0], Packing { layout: Layout::Rows8, group: 32 }).unwrap()
    }

    #[test]
    fn one_digest_for_all_threads_and_another_for_another_model() {
        let pools = [Pool::new(1), Pool::new(3)];
        let digests = [32, 64].map(|group| {
            let subject = Subject::generate(&LADDER[0], Packing { layout: Layout::Rows8, group }).unwrap();
            verify(&subject.model().unwrap(), &pools).unwrap()
        });
        assert_ne!(digests[0], digests[1]);
        let chips = Subject::generate(&LADDER[0], Packing { layout: Layout::Dsp, group: 32 }).unwrap();
        assert_eq!(verify(&chips.model().unwrap(), &pools).unwrap(), digests[0]);
    }

    #[test]
    fn every_setting_is_timed() {
        let subject = tiny();
        let model = subject.model().unwrap();
        let pools = [Pool::new(1), Pool::new(2)];
        let backend = Backend::detect();
        let settings =
            [(0, 9), (1, 9), (1, 3)].map(|(pool, prompt)| Setting { backend, pool: &pools[pool], prompt, steps: 4 });
        let mut buffers = Buffers::new(&model, 16, 8).unwrap();
        let rounds = Rounds { count: 2, least: Duration::from_millis(1) };
        let mut gauge = Gauge::new(1 << 16, Duration::from_micros(10));
        let samples = time(&model, &mut buffers, &settings, rounds, &mut gauge).unwrap();
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert!(samples.iter().flatten().all(|s| s.prefill > Duration::ZERO && s.step > Duration::ZERO));
    }

    #[test]
    fn a_replay_is_what_its_parts_are() {
        let subject = tiny();
        let model = subject.model().unwrap();
        let mut buffers = Buffers::new(&model, 16, 4).unwrap();
        let mut session = buffers.session(&model, Backend::PORTABLE, thumbformer::workers::Serial).unwrap();
        let (ids, digest) = replay(&mut session, &[1, 2, 3], 3, &[]).unwrap();
        session.reset();
        let mut expected = Digest::new();
        expected.update(session.prefill(&[1, 2, 3]).unwrap());
        for &id in &ids[..2] {
            expected.update(session.step(id).unwrap());
        }
        assert_eq!((ids.len(), digest), (3, expected));
        let (ended, _) = replay(&mut session, &[1, 2, 3], 3, &ids[1..2]).unwrap();
        assert_eq!(ended, ids[..2]);
        assert!(replay(&mut session, &[1, 2, 3], 15, &[]).unwrap_err().to_string().contains("context full"));
    }

    #[test]
    fn a_machine_that_slows_down_is_not_steady() {
        let sample = |int8| Sample { prefill: Duration::ZERO, step: Duration::ZERO, bandwidth: 1.0, int8 };
        assert_eq!(steadiness(&[100.0, 100.0, 50.0].map(sample)), 1.0);
        assert_eq!(steadiness(&[100.0, 60.0, 50.0].map(sample)), 0.6);
    }

    #[test]
    fn a_line_goes_through_its_points() {
        assert_eq!(line(&[(1.0, 5.0), (3.0, 9.0), (2.0, 7.0)]), Some((3.0, 2.0)));
        assert_eq!(line(&[(0.0, 0.0), (0.0, 2.0), (2.0, 4.0), (2.0, 2.0)]), Some((1.0, 1.0)));
        assert_eq!(line(&[(1.0, 5.0), (1.0, 6.0)]), None);
        assert_eq!(line(&[]), None);
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median([3.0, 1.0, 9.0, 2.0, 4.0]), 3.0);
        assert_eq!(median([1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn prompts_fit_the_context() {
        let mut arch = LADDER[0].arch();
        arch.context = 300;
        assert_eq!(fit(&arch, &[256, 512], 32).unwrap(), [(256, 32)]);
        assert_eq!(fit(&arch, &[256, 512], 64).unwrap(), [(225, 64)]);
        arch.context = 2;
        assert_eq!(fit(&arch, &[256], 64).unwrap(), [(1, 1)]);
        arch.context = 1;
        assert!(fit(&arch, &[256], 64).is_err());
    }
}
