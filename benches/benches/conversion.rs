//! From f32 to packed int8, in bytes of f32 a second; on one thread, because the target is per core.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use benches::subject::group_name;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thumbformer::packing::{Layout, Packing};
use thumbformer_convert::quantize::quantize_rows;

/// A matrix of a 110M model.
const ROWS: usize = 2048;
const COLS: usize = 768;

fn conversion(c: &mut Criterion) {
    let weights: Vec<f32> = (0..ROWS * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let mut group = c.benchmark_group("quantize 2048x768");
    group.throughput(Throughput::Bytes((4 * ROWS * COLS) as u64));
    for layout in [Layout::Rows8, Layout::Dsp] {
        for columns in [32, 64, 0] {
            let packing = Packing { layout, group: columns };
            group.bench_function(BenchmarkId::new(layout.name(), group_name(columns)), |b| {
                b.iter(|| {
                    let packed = one_core.install(|| {
                        quantize_rows(ROWS, COLS, packing, |rows, out| {
                            out.copy_from_slice(&weights[rows.start * COLS..rows.end * COLS]);
                            Ok::<(), Infallible>(())
                        })
                    });
                    let Ok(packed) = packed;
                    black_box(packed.exponent)
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = conversion
}
criterion_main!(benches);
