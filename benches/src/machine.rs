//! What this machine can do at best: the limits that speeds are a percentage of.
//!
//! - **Read bandwidth**: several threads sum an array, at a size far beyond the caches and at a model's own size. Decode
//!   reads every weight once a token, so it cannot be faster.
//! - **int8 multiply-adds**: a backend's own matrix product on operands that stay in the first-level cache. Prefill
//!   cannot be faster with that backend; what it loses against this is memory and everything between the products.
//!
//! A [`Gauge`] measures a limit again whenever it is asked, so that a speed can be compared with the limit of the same
//! moment: other work on the machine slows both down. The [`Machine`] keeps the best it has seen.

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

/// Measures limits.
#[derive(Debug)]
pub struct Gauge {
    machine: Machine,
    /// What is read: as much as is far beyond the caches.
    words: Vec<u64>,
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
        Self { machine: Machine::identify(), words, product, trial }
    }

    /// The machine, with the best of all that was measured.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// 10⁹ bytes a second at which all workers of `pool` together now read main memory.
    pub fn memory(&mut self, pool: &Pool) -> f64 {
        self.read(pool, 8 * self.words.len())
    }

    /// 10⁹ bytes a second at which all workers of `pool` together now read the same `bytes` bytes again and again.
    pub fn read(&mut self, pool: &Pool, bytes: usize) -> f64 {
        let count = bytes.div_ceil(8).clamp(1, self.words.len());
        let words = self.words.get(..count).unwrap_or(&self.words);
        let share = count.div_ceil(pool.count());
        let rate = rate(pool, self.trial, || {
            words.chunks(share).map(|part| {
                move |passes| {
                    for _ in 0..passes {
                        black_box(sum(black_box(part)));
                    }
                }
            })
        });
        let (bytes, threads, gb_per_s) = (8 * count, pool.count(), 8.0 * count as f64 * rate / 1e9);
        let known = &mut self.machine.bandwidth;
        match known.iter_mut().find(|b| b.bytes == bytes && b.threads == threads) {
            Some(best) => best.gb_per_s = best.gb_per_s.max(gb_per_s),
            None => known.push(Bandwidth { bytes, threads, gb_per_s }),
        }
        gb_per_s
    }

    /// 10⁹ multiply-adds a second that all workers of `pool` together now do with `backend`.
    pub fn int8(&mut self, backend: Backend, pool: &Pool) -> f64 {
        let product = &self.product;
        let rate = rate(pool, self.trial, || {
            (0..pool.count()).map(|_| {
                |passes| {
                    let mut out = vec![0f32; product.outputs()];
                    (0..passes).for_each(|_| product.run(backend, black_box(&mut out)));
                }
            })
        });
        let (threads, gmac_per_s) = (pool.count(), (product.macs() * pool.count()) as f64 * rate / 1e9);
        let known = &mut self.machine.int8;
        match known.iter_mut().find(|i| i.kernel == backend.name() && i.threads == threads) {
            Some(best) => best.gmac_per_s = best.gmac_per_s.max(gmac_per_s),
            None => known.push(Int8 { kernel: backend.name().to_owned(), threads, gmac_per_s }),
        }
        gmac_per_s
    }
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

/// How often a second the tasks that `make` makes can all be done. A task does its work as often as it is told, so that
/// handing it out costs nothing.
fn rate<T: FnMut(u32) + Send, I: Iterator<Item = T>>(pool: &Pool, least: Duration, make: impl Fn() -> I) -> f64 {
    let mut passes = 1;
    loop {
        let mut calls: Vec<_> = make().map(|mut task| move || task(passes)).collect();
        let mut tasks: Vec<Task<'_>> = calls.iter_mut().map(|call| call as Task<'_>).collect();
        let start = Instant::now();
        pool.run(&mut tasks);
        let elapsed = start.elapsed();
        if elapsed >= least || passes >= 1 << 30 {
            return f64::from(passes) / elapsed.as_secs_f64();
        }
        passes *= 2;
    }
}

/// One matrix product with made-up operands, for [`Gauge::int8`] and the criterion benches.
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
        let (stride, groups) = (packing.layout.vector_bytes(cols), packing.groups(cols));
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
            Backend::PORTABLE.quantize(packing.layout, &x, packing.group_cols(cols), values, scales, sums);
        }
        product
    }

    /// Numbers that come out of it: `tokens × rows`.
    pub fn outputs(&self) -> usize {
        self.values.len() / self.packing.layout.vector_bytes(self.cols) * self.rows
    }

    /// Multiply-adds of the product.
    pub fn macs(&self) -> usize {
        self.outputs() * self.cols
    }

    /// Computes the product into the [`Product::outputs`] elements of `out`.
    pub fn run(&self, backend: Backend, out: &mut [f32]) {
        let factor = 1.0;
        let Some(m) = Matrix::new(self.rows, self.cols, self.packing, &self.weights, &self.scales, factor) else {
            unreachable!("`new` made the slices as long as the packing calls for");
        };
        let x = Activations {
            values: &self.values,
            stride: self.packing.layout.vector_bytes(self.cols),
            scales: &self.x_scales,
            starts: &self.sums,
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
        assert_eq!((product.outputs(), product.macs()), (24 * 9, 24 * 9 * 100));
        product.run(Backend::PORTABLE, &mut expected);
        assert!(expected.iter().all(|y| y.is_finite()) && expected.iter().any(|&y| y != expected[0]));
        for backend in Backend::available() {
            product.run(backend, &mut found);
            assert_eq!(found, expected, "{}", backend.name());
        }
    }

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
