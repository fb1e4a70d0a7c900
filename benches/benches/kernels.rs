//! The int8 matrix product, by backend, shape, number of tokens and group.

use std::hint::black_box;
use std::time::Duration;

use benches::product::Product;
use benches::subject::group_name;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thumbformer::Backend;
use thumbformer::packing::{Layout, Packing};

/// Rows × columns: all three shapes of a 110M model, and one that is ragged in every way.
const SHAPES: [(usize, usize); 4] = [(768, 768), (2048, 768), (768, 2048), (100, 172)];

fn linear(c: &mut Criterion) {
    for (rows, cols) in SHAPES {
        let mut group = c.benchmark_group(format!("linear {rows}x{cols}"));
        for tokens in [1, 64] {
            for columns in [32, 0] {
                let product = Product::new(rows, cols, tokens, Packing { layout: Layout::Rows8, group: columns });
                let [mut expected, mut out] = [vec![0f32; rows * tokens], vec![0f32; rows * tokens]];
                product.run(Backend::PORTABLE, &mut expected);
                group.throughput(Throughput::Elements((rows * cols * tokens) as u64));
                for backend in Backend::available() {
                    product.run(backend, &mut out);
                    assert!(out == expected, "{} differs from portable", backend.name());
                    let name = format!("{}, {tokens} tokens", backend.name());
                    group.bench_function(BenchmarkId::new(name, group_name(columns)), |b| {
                        b.iter(|| black_box(&product).run(backend, black_box(&mut out)));
                    });
                }
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = linear
}
criterion_main!(kernels);
