//! What this machine can do at best: the limits that speeds are a percentage of.
//!
//! - **Read bandwidth**: several threads sum an array, at a size far beyond the caches and at a model's own size. Decode
//!   reads every weight once a token, so it cannot be faster.
//! - **int8 multiply-adds**: a backend's own matrix product on operands that stay in the first-level cache. Prefill
//!   cannot be faster with that backend; what it loses against this is memory and everything between the products.
//!
//! Each limit is the best of several trials: other work on the machine can only make it look lower.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thumbformer::Backend;
use thumbformer::kernel::pool::Pool;
use thumbformer::kernel::{Activations, TileMut, Write};
use thumbformer::matrix::Matrix;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::{Task, Workers};
use thumbformer_convert::quantize::quantize_rows;

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
    /// How many threads.
    pub threads: usize,
    /// 10⁹ multiply-adds a second, all threads together.
    pub gmac_per_s: f64,
}

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// A trial takes at least this long.
    pub trial: Duration,
    /// Trials.
    pub trials: usize,
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

    /// The read bandwidth for `bytes`, measured the first time it is asked for.
    pub fn bandwidth(&mut self, pool: &Pool, bytes: usize, effort: Effort) -> f64 {
        let threads = pool.count();
        if let Some(known) = self.bandwidth.iter().find(|b| b.bytes == bytes && b.threads == threads) {
            return known.gb_per_s;
        }
        let gb_per_s = read_bandwidth(pool, bytes, effort) / 1e9;
        self.bandwidth.push(Bandwidth { bytes, threads, gb_per_s });
        gb_per_s
    }

    /// The int8 peak of a backend, measured the first time it is asked for.
    pub fn int8(&mut self, backend: Backend, pool: &Pool, effort: Effort) -> f64 {
        let threads = pool.count();
        if let Some(known) = self.int8.iter().find(|i| i.kernel == backend.name() && i.threads == threads) {
            return known.gmac_per_s;
        }
        let gmac_per_s = int8_peak(backend, pool, effort) / 1e9;
        self.int8.push(Int8 { kernel: backend.name().to_owned(), threads, gmac_per_s });
        gmac_per_s
    }
}

/// Bytes a second at which all workers of `pool` together read `bytes` bytes again and again.
fn read_bandwidth(pool: &Pool, bytes: usize, effort: Effort) -> f64 {
    // Not zeros: the system would back them all by one page.
    let words = vec![0x0123_4567_89AB_CDEFu64; bytes.div_ceil(8).max(1)];
    let share = words.len().div_ceil(pool.count());
    let work = (words.len() * 8) as f64;
    work * rate(pool, effort, || {
        words.chunks(share).map(|part| {
            move |passes| {
                for _ in 0..passes {
                    black_box(sum(black_box(part)));
                }
            }
        })
    })
}

/// Sixteen sums fill the vector registers of every 64-bit target without spilling, and hide the additions' latency.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    let (chunks, tail) = words.as_chunks::<16>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(tail).fold(0, |a, b| a.wrapping_add(*b))
}

/// Multiply-adds a second of all workers of `pool`, each with its own output.
fn int8_peak(backend: Backend, pool: &Pool, effort: Effort) -> f64 {
    // Weights of 16 KiB, activations and outputs of 4 KiB each fit every first-level cache of 32 KiB.
    const ROWS: usize = 64;
    const COLS: usize = 256;
    const TOKENS: usize = 16;
    let product = Product::new(ROWS, COLS, TOKENS, Packing { layout: Layout::Rows8, group: 0 });
    let work = (ROWS * COLS * TOKENS * pool.count()) as f64;
    work * rate(pool, effort, || {
        (0..pool.count()).map(|_| {
            |passes| {
                let mut out = [0f32; ROWS * TOKENS];
                (0..passes).for_each(|_| product.run(backend, black_box(&mut out)));
            }
        })
    })
}

/// How often a second the tasks that `make` makes can all be done. A task does its work as often as it is told, so that
/// handing it out costs nothing.
fn rate<T: FnMut(u32) + Send, I: Iterator<Item = T>>(pool: &Pool, effort: Effort, mut make: impl FnMut() -> I) -> f64 {
    let mut best = 0f64;
    let mut passes = 1;
    let mut trials = 0;
    while trials < effort.trials.max(1) {
        let mut calls: Vec<_> = make().map(|mut task| move || task(passes)).collect();
        let mut tasks: Vec<Task<'_>> = calls.iter_mut().map(|call| call as Task<'_>).collect();
        let start = Instant::now();
        pool.run(&mut tasks);
        let elapsed = start.elapsed();
        if elapsed < effort.trial && passes < 1 << 30 {
            passes *= 2;
            continue;
        }
        best = best.max(f64::from(passes) / elapsed.as_secs_f64());
        trials += 1;
    }
    best
}

/// One matrix product with made-up operands, for [`int8_peak`] and the criterion benches.
#[derive(Debug)]
pub struct Product {
    rows: usize,
    cols: usize,
    packing: Packing,
    weights: Vec<u8>,
    scales: Vec<u16>,
    values: Vec<i8>,
    x_scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Product {
    /// `rows × cols` weights and `tokens` quantized vectors, a function of the sizes alone.
    pub fn new(rows: usize, cols: usize, tokens: usize, packing: Packing) -> Self {
        let wave = |n: usize| (n.wrapping_mul(0x9E37_79B9) >> 7 & 0xFFFF) as f32 / 65536.0 - 0.5;
        let packed = quantize_rows(rows, cols, packing, |range, out| {
            out.iter_mut().zip(range.start * cols..).for_each(|(w, n)| *w = wave(n));
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(packed) = packed;
        let (stride, groups) = (cols.next_multiple_of(4), packing.groups(cols));
        let mut product = Self {
            rows,
            cols,
            packing,
            weights: packed.weights,
            scales: packed.scales,
            values: vec![0; tokens * stride],
            x_scales: vec![0.0; tokens * groups],
            sums: vec![0; tokens * groups],
        };
        let vectors = product.values.chunks_exact_mut(stride);
        let scales = product.x_scales.chunks_exact_mut(groups).zip(product.sums.chunks_exact_mut(groups));
        for (t, (values, (scales, sums))) in vectors.zip(scales).enumerate() {
            let x: Vec<f32> = (0..cols).map(|i| wave((t + 7) * 65_537 + i)).collect();
            Backend::PORTABLE.quantize(&x, packing.group_cols(cols), values, scales, sums);
        }
        product
    }

    /// Computes the product; `out` is `tokens × rows`.
    pub fn run(&self, backend: Backend, out: &mut [f32]) {
        let factor = 1.0;
        let Some(m) = Matrix::new(self.rows, self.cols, self.packing, &self.weights, &self.scales, factor) else {
            unreachable!("`new` made the slices as long as the packing calls for");
        };
        let x = Activations {
            values: &self.values,
            stride: self.cols.next_multiple_of(4),
            scales: &self.x_scales,
            sums: &self.sums,
            groups: self.packing.groups(self.cols),
        };
        backend.linear(&m, 0, &x, None, Write::Store, TileMut::new(out, self.rows, self.rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_backends_compute_the_product_that_is_timed() {
        let product = Product::new(24, 100, 9, Packing { layout: Layout::Rows8, group: 32 });
        let [mut expected, mut found] = [vec![0f32; 24 * 9], vec![0f32; 24 * 9]];
        product.run(Backend::PORTABLE, &mut expected);
        assert!(expected.iter().all(|y| y.is_finite()) && expected.iter().any(|&y| y != expected[0]));
        for backend in Backend::available() {
            product.run(backend, &mut found);
            assert_eq!(found, expected, "{}", backend.name());
        }
    }

    #[test]
    fn limits_are_measured_once() {
        let effort = Effort { trial: Duration::from_micros(100), trials: 2 };
        let (mut machine, pool) = (Machine::identify(), Pool::new(2));
        assert!(machine.cores >= 1);
        let first = machine.bandwidth(&pool, 4096, effort);
        assert!(first > 0.0);
        assert_eq!(machine.bandwidth(&pool, 4096, effort), first);
        let first = machine.int8(Backend::PORTABLE, &pool, effort);
        assert_eq!(machine.int8(Backend::PORTABLE, &pool, effort), first);
        assert_eq!((machine.bandwidth.len(), machine.int8.len()), (1, 1));
    }
}
