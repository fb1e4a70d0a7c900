//! What lies between the matrix products: norms, quantization, activations, rotation; and attention by context.

use std::hint::black_box;
use std::time::Duration;

use benches::measure::{Buffers, prompt};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thumbformer::arch::{Activation, Norm};
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};
use thumbformer_convert::synthetic::{Synthetic, llama};

/// Width of a 110M model's residual stream.
const DIM: usize = 768;

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 * 0.37).sin() + 0.2) * 3.0).collect()
}

/// Times `run` on every backend, after it has produced portable's bits on each. It is given fresh copies of `x`.
fn by_backend(c: &mut Criterion, name: &str, x: &[f32], run: impl Fn(Backend, &mut [f32])) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(x.len() as u64));
    let mut expected = x.to_vec();
    run(Backend::PORTABLE, &mut expected);
    for backend in Backend::available() {
        let mut values = x.to_vec();
        run(backend, &mut values);
        assert!(values == expected, "{name}: {} differs from portable", backend.name());
        group.bench_function(backend.name(), |b| {
            b.iter(|| {
                values.copy_from_slice(x);
                run(backend, black_box(&mut values));
            });
        });
    }
    group.finish();
}

fn elementwise(c: &mut Criterion) {
    let x = wave(DIM);
    for (name, kind) in [("layer norm", Norm::Layer), ("RMS norm", Norm::Rms)] {
        by_backend(c, name, &wave(2 * DIM), |backend, row| {
            let (out, x) = row.split_at_mut(DIM);
            backend.norm(kind, 1e-5, x, x, None, out);
        });
    }
    by_backend(c, "quantize, group 32", &x, |backend, row| {
        let (mut q, mut scales, mut sums) = ([0i8; DIM], [0f32; DIM / 32], [0i32; DIM / 32]);
        backend.quantize(Layout::Rows8, row, 32, &mut q, &mut scales, &mut sums);
        row.iter_mut().zip(black_box(&q)).for_each(|(x, &q)| *x = f32::from(q));
    });
    by_backend(c, "rotate, 12 heads", &x, |backend, row| {
        let cos_sin = wave(64);
        backend.rotate(row, 64, &cos_sin);
    });
    let kinds = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];
    for (kind, name) in kinds.into_iter().zip(["GELU", "GELU (tanh)", "SiLU", "ReLU"]) {
        by_backend(c, name, &wave(2048), |backend, row| backend.activate(kind, false, 2048, row));
    }
    by_backend(c, "SwiGLU", &wave(2 * 2048), |backend, row| backend.activate(Activation::Silu, true, 2048, row));
}

/// A step of one layer with the attention of a 110M model and little else.
fn attention(c: &mut Criterion) {
    let mut arch = llama(8, DIM as u32, 1, 12, 12, 4, 4096);
    arch.context = 4096;
    let blob = Synthetic { arch, seed: 1 }.blob(Packing { layout: Layout::Rows8, group: 32 }).expect("a valid shape");
    let model = Model::new(&blob).expect("a valid blob");
    let mut buffers = Buffers::new(&model, 4096, 64).expect("a valid plan");
    let mut group = c.benchmark_group("attention layer by context");
    for context in [64, 512, 4000] {
        let ids = prompt(arch.vocab, context);
        group.throughput(Throughput::Elements(context as u64));
        let mut expected = Vec::new();
        for backend in Backend::available() {
            let mut session = buffers.session(&model, backend, Serial).expect("its own model");
            session.prefill(&ids).expect("fits");
            let mut step = || {
                session.rewind(context).expect("never before the prompt");
                black_box(session.step(1).expect("fits")).to_owned()
            };
            if expected.is_empty() {
                expected = step();
            }
            assert!(step() == expected, "attention: {} differs", backend.name());
            group.bench_function(BenchmarkId::new(backend.name(), context), |b| b.iter(&mut step));
        }
    }
    group.finish();
}

criterion_group! {
    name = layers;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = elementwise, attention
}
criterion_main!(layers);
