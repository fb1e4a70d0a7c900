//! Text to tokens and back, by kind of tokenizer.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use thumbformer::tokenizer::EncodeOptions;
use thumbformer_convert::tokenizer::{decode, encode, load};

const TOKENIZERS: [(&str, &str); 4] = [
    ("byte-level BPE, GPT-2", "tests/fixtures/tokenizers/gpt2/tokenizer.json"),
    ("byte-level BPE, Llama 3", "tests/fixtures/tokenizers/llama3/tokenizer.json"),
    ("SentencePiece BPE", "tests/fixtures/tokenizers/llama2/tokenizer.model"),
    ("byte-level BPE, 512 tokens", "tests/models/home-commands/tokenizer.json"),
];

/// A few KiB of prose, numbers, punctuation and other scripts.
fn text() -> String {
    let passage = "Once upon a time, in 1847, there was a small transformer that lived in half a megabyte of flash. \
        It didn't know much -- only 260,128 weights! -- but what it knew, it knew exactly: \u{201C}the same bits, \
        everywhere\u{201D}.\n\nEs war einmal\u{2026} \u{0416}\u{0438}\u{043B}-\u{0431}\u{044B}\u{043B} \
        \u{4ECE}\u{524D}\u{6709}\u{4E00}\u{4E2A} \u{1F916} fn main() { println!(\"{}\", 6 * 7); }\n";
    passage.repeat(16)
}

fn tokenizers(c: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = text();
    for (name, path) in TOKENIZERS {
        let packed = load(&root.join(path)).expect("a tokenizer of the tests");
        let tokenizer = packed.tokenizer().expect("packed a moment ago");
        let options = EncodeOptions::default();
        let ids = encode(&tokenizer, &text, options).expect("any text can be encoded");
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter("encode"), |b| {
            b.iter(|| encode(black_box(&tokenizer), &text, options).expect("as before").len());
        });
        group.bench_function(BenchmarkId::from_parameter("decode"), |b| {
            b.iter(|| decode(black_box(&tokenizer), &ids, true).len());
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = tokenizers
}
criterion_main!(benches);
