//! What this machine can do at best: the limits that speeds are a percentage of.
//!
//! - **Read bandwidth**: several threads sum an array, at a size far beyond the caches and at a model's own size. Decode
//!   reads every weight once a token, so it cannot be faster.
//! - **int8 multiply-adds**: a kernel's own instructions on operands in the first-level cache ([`crate::peak`]). Prefill
//!   cannot be faster with that kernel.
//!
//! A [`Gauge`] measures a limit again whenever it is asked, so that a speed can be compared with the limit of the same
//! moment: other work on the machine slows both down. Each answer is the best of a few trials, because nothing makes a
//! machine faster than it is. The [`Machine`] keeps the best of all.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thumbformer::Backend;
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::{Task, Workers};

use crate::peak::Peak;
use crate::product::Product;

/// A machine and its measured limits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Physical cores.
    pub cores: usize,
    /// Read bandwidths, by bytes and threads.
    pub bandwidth: Vec<Bandwidth>,
    /// int8 peaks, by kernel and threads.
    pub int8: Vec<Int8>,
}

/// A measured read bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bytes read over and over.
    pub bytes: usize,
    /// By how many threads.
    pub threads: usize,
    /// 10⁹ bytes a second, all threads together.
    pub gb_per_s: f64,
}

/// A measured int8 peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Int8 {
    /// The backend's name.
    pub kernel: String,
    /// What was timed.
    pub instructions: String,
    /// How many threads.
    pub threads: usize,
    /// 10⁹ multiply-adds a second, all threads together.
    pub gmac_per_s: f64,
}

impl Machine {
    /// Name and cores; no limits yet.
    pub fn identify() -> Self {
        let kind = sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing());
        let system = sysinfo::System::new_with_specifics(kind).ok();
        let processor = system.as_ref().and_then(|s| s.cpus().first()).map(|cpu| cpu.brand().trim().to_owned());
        let logical = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = sysinfo::System::physical_core_count().unwrap_or(logical).min(logical);
        Self { processor: processor.unwrap_or_else(|| "unknown".to_owned()), cores, ..Self::default() }
    }
}

/// Trials of which the best counts.
const TRIALS: usize = 3;

/// Measures limits.
#[derive(Debug)]
pub struct Gauge {
    machine: Machine,
    /// What is read: as much as is far beyond the caches.
    words: Vec<u64>,
    /// Where the next reading of main memory begins.
    cursor: usize,
    product: Product,
    trial: Duration,
}

impl Gauge {
    /// For reads of up to `memory_bytes` bytes, in trials that take at least `trial`.
    pub fn new(memory_bytes: usize, trial: Duration) -> Self {
        // Not zeros: the system would back them all by one page.
        let words = vec![0x0123_4567_89AB_CDEF; memory_bytes.div_ceil(8)];
        // Weights of 16 KiB, activations and outputs of 4 KiB each fit every first-level cache of 32 KiB.
        let product = Product::new(64, 256, 16, Packing { layout: Layout::Rows8, group: 0 });
        Self { machine: Machine::identify(), words, cursor: 0, product, trial }
    }

    /// The machine, with the best of all that was measured.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// 10⁹ bytes a second at which all workers of `pool` together now read main memory: windows of it in turn, so that
    /// none is still in a cache when its turn comes again.
    pub fn memory(&mut self, pool: &Pool) -> f64 {
        const WINDOWS: usize = 16;
        let count = self.words.len().div_ceil(WINDOWS).max(1);
        let mut best = 0f64;
        for _ in 0..2 * TRIALS {
            let start = self.cursor % self.words.len().max(1);
            let window = self.words.get(start..).unwrap_or_default();
            let window = window.get(..count).unwrap_or(window);
            self.cursor = start + window.len();
            best = best.max(8.0 * window.len() as f64 * rate(pool, Duration::ZERO, readers(pool, window)) / 1e9);
        }
        self.keep_bandwidth(8 * self.words.len(), pool.count(), best)
    }

    /// 10⁹ bytes a second at which all workers of `pool` together now read the same `bytes` bytes again and again.
    pub fn read(&mut self, pool: &Pool, bytes: usize) -> f64 {
        let count = bytes.div_ceil(8).clamp(1, self.words.len().max(1));
        let words = self.words.get(..count).unwrap_or(&self.words);
        let rate = best_rate(pool, self.trial, readers(pool, words));
        self.keep_bandwidth(8 * count, pool.count(), 8.0 * count as f64 * rate / 1e9)
    }

    fn keep_bandwidth(&mut self, bytes: usize, threads: usize, gb_per_s: f64) -> f64 {
        let known = &mut self.machine.bandwidth;
        match known.iter_mut().find(|b| b.bytes == bytes && b.threads == threads) {
            Some(best) => best.gb_per_s = best.gb_per_s.max(gb_per_s),
            None => known.push(Bandwidth { bytes, threads, gb_per_s }),
        }
        gb_per_s
    }

    /// 10⁹ multiply-adds a second that all workers of `pool` together now do with the instructions of `backend`.
    pub fn int8(&mut self, backend: Backend, pool: &Pool) -> f64 {
        let threads = pool.count();
        let (instructions, macs, rate) = match Peak::of(backend.name()) {
            Some(peak) => {
                let tasks = || (0..threads).map(|_| |passes| keep(peak.run(passes)));
                (peak.instructions, peak.macs, best_rate(pool, self.trial, tasks))
            }
            None => {
                let product = &self.product;
                let tasks = || {
                    (0..threads).map(|_| {
                        |passes| {
                            let mut out = vec![0f32; product.outputs()];
                            (0..passes).for_each(|_| product.run(backend, black_box(&mut out)));
                        }
                    })
                };
                ("its own product, in cache", product.macs(), best_rate(pool, self.trial, tasks))
            }
        };
        let gmac_per_s = (macs * threads) as f64 * rate / 1e9;
        let known = &mut self.machine.int8;
        match known.iter_mut().find(|i| i.kernel == backend.name() && i.threads == threads) {
            Some(best) => best.gmac_per_s = best.gmac_per_s.max(gmac_per_s),
            None => {
                let (kernel, instructions) = (backend.name().to_owned(), instructions.to_owned());
                known.push(Int8 { kernel, instructions, threads, gmac_per_s });
            }
        }
        gmac_per_s
    }
}

/// Makes the compiler compute `result`.
fn keep<T>(result: T) {
    black_box(result);
}

/// Makes tasks that read equal shares of `words`, as often as they are told.
fn readers<'w>(pool: &Pool, words: &'w [u64]) -> impl Fn() -> Vec<Box<dyn FnMut(u32) + Send + 'w>> {
    let share = words.len().div_ceil(pool.count()).max(1);
    let reader = |part: &'w [u64]| move |passes: u32| (0..passes).for_each(|_| keep(sum(black_box(part))));
    move || words.chunks(share).map(|part| Box::new(reader(part)) as Box<dyn FnMut(u32) + Send>).collect()
}

/// Sums `words`, reading several streams at once: one alone does not keep enough requests for memory in flight.
fn sum(words: &[u64]) -> u64 {
    const STREAMS: usize = 8;
    // Two sets of eight sums fill the vector registers of 64-bit targets and hide the latency of additions.
    let mut lanes = [[0u64; 8]; 2];
    let (lines, tail) = words.as_chunks::<8>();
    let length = lines.len() / STREAMS;
    let (streams, rest) = lines.split_at(length * STREAMS);
    for i in 0..length {
        for stream in 0..STREAMS {
            for (lane, word) in lanes[stream % 2].iter_mut().zip(&streams[stream * length + i]) {
                *lane = lane.wrapping_add(*word);
            }
        }
    }
    let rest = rest.as_flattened().iter().chain(tail);
    lanes.as_flattened().iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

/// How often a second the tasks that `make` makes can all be done, in one trial that takes `least` or longer. A task does
/// its work as often as it is told, so that handing it out costs nothing.
fn rate<T: FnMut(u32) + Send, I: IntoIterator<Item = T>>(pool: &Pool, least: Duration, make: impl Fn() -> I) -> f64 {
    let mut passes = 1;
    loop {
        let elapsed = time(pool, passes, &make);
        if elapsed >= least || passes >= 1 << 30 {
            return f64::from(passes) / elapsed.as_secs_f64();
        }
        passes *= 2;
    }
}

/// The best of several trials.
fn best_rate<T: FnMut(u32) + Send, I: IntoIterator<Item = T>>(
    pool: &Pool,
    least: Duration,
    make: impl Fn() -> I,
) -> f64 {
    (0..TRIALS).map(|_| rate(pool, least, &make)).fold(0.0, f64::max)
}

fn time<T: FnMut(u32) + Send, I: IntoIterator<Item = T>>(pool: &Pool, passes: u32, make: impl Fn() -> I) -> Duration {
    let mut calls: Vec<_> = make().into_iter().map(|mut task| move || task(passes)).collect();
    let mut tasks: Vec<Task<'_>> = calls.iter_mut().map(|call| call as Task<'_>).collect();
    let start = Instant::now();
    pool.run(&mut tasks);
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for n in [0u64, 1, 7, 64, 1000, 4099] {
            let words: Vec<u64> = (0..n).map(|i| (1 << 40) + i * i).collect();
            assert_eq!(sum(&words), words.iter().sum::<u64>());
        }
    }

    #[test]
    fn the_best_of_each_limit_is_kept() {
        let mut gauge = Gauge::new(1 << 16, Duration::from_micros(100));
        let pools = [Pool::new(1), Pool::new(2)];
        let mut best = [0f64; 2];
        for _ in 0..3 {
            for (pool, best) in pools.iter().zip(&mut best) {
                *best = best.max(gauge.read(pool, 4096));
                assert!(gauge.memory(pool) > 0.0 && gauge.int8(Backend::PORTABLE, pool) > 0.0);
            }
        }
        let machine = gauge.machine();
        assert!(machine.cores >= 1);
        assert_eq!((machine.bandwidth.len(), machine.int8.len()), (4, 2));
        let at = |threads| machine.bandwidth.iter().find(|b| b.bytes == 4096 && b.threads == threads);
        assert_eq!([1, 2].map(|threads| at(threads).map_or(0.0, |b| b.gb_per_s)), best);
    }
}
