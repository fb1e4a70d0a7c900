//! A whole model of 15M parameters: loading, prompts, steps.

use std::hint::black_box;
use std::time::Duration;

use benches::measure::{Buffers, prompt};
use benches::subject::{Shape, Subject};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};

fn session(c: &mut Criterion) {
    let shape = Shape::named("15M").expect("in the ladder");
    let subject = Subject::generate(&shape, Packing { layout: Layout::Rows8, group: 32 }).expect("a valid shape");
    let model = subject.model().expect("a valid blob");
    let mut group = c.benchmark_group("15M");

    group.throughput(Throughput::Bytes(subject.blob().len() as u64));
    group.bench_function("load", |b| b.iter(|| black_box(Model::new(black_box(subject.blob())).is_ok())));

    let mut buffers = Buffers::new(&model, 320, 128).expect("a valid plan");
    let ids = prompt(model.arch().vocab, 256);
    let mut expected = Vec::new();
    for backend in Backend::available() {
        let mut session = buffers.session(&model, backend, Serial).expect("its own model");
        for tokens in [16, 256] {
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(BenchmarkId::new(format!("prefill {tokens}"), backend.name()), |b| {
                b.iter(|| {
                    session.reset();
                    black_box(session.prefill(&ids[..tokens]).expect("fits"));
                });
            });
        }
        let mut step = || {
            session.rewind(ids.len()).expect("the prompt is there");
            black_box(session.step(1).expect("fits")).to_owned()
        };
        let logits = step();
        if expected.is_empty() {
            expected.clone_from(&logits);
        }
        assert!(logits == expected, "{} differs from the backend before it", backend.name());
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("step at 256", backend.name()), |b| b.iter(&mut step));
    }
    group.finish();
}

criterion_group! {
    name = sessions;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    targets = session
}
criterion_main!(sessions);
