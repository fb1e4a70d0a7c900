//! The converter and the runtime together against an independent NumPy forward of the same quantized arithmetic.
//!
//! `tests/fixtures/models/quantized.py` quantizes the weights and activations by the contract's rules and computes in f64.
//! Where no rounding falls the other way the runtime's logits are equal to about 1e-7 of the largest one. Now and then an
//! activation lies so close to a tie that f32 and f64 round it to different integers; that moves logits by up to a
//! quantization step (the script's own f32 and f64 runs differ so at up to 10 % of positions, by up to 0.033), and where it
//! was a key or a value, the later positions of the sequence with it. Hence the bounds: a third of each file's
//! positions, and four fifths of all files' together, without a flip; their errors of f32 size; and the size of a flip. A
//! sequence quantizes some 10⁵ numbers, each with about 2·10⁻⁵ to be that close to a tie, so one or two flips a sequence
//! are expected. A wrong formula, or the cost of int8 itself (0.02 to 0.036), would show at every position.

mod common;

use common::{Expected, Sequence, model, relative_error};
use thumbformer::packing::{Layout, Packing};
use thumbformer::{Limits, Model, Plan, Session};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Calibration, Options, Prepared, Silent};

const LOWER_THIRD: f32 = 1e-6;
const WITHOUT_FLIP: f32 = 1e-5;
const SHARE_WITHOUT_FLIP: f64 = 0.8;
const FLIP: f32 = 0.06;

/// Relative errors of all kept positions, ascending.
fn compare(name: &str, file: &str, layout: Layout) -> Vec<f32> {
    let expected = Expected::read(name, file);
    let prepared = Prepared::open(
        &model(name),
        Options {
            packing: Packing { layout, group: expected.group as u32 },
            calibration: if expected.key_mean.is_empty() {
                Calibration::None
            } else {
                let layers = Prepared::open(&model(name), Options::default()).unwrap().recipe.arch.layers as usize;
                let width = expected.key_mean.len() / layers;
                Calibration::Means(expected.key_mean.chunks(width).map(<[f32]>::to_vec).collect())
            },
            ..Options::default()
        },
    )
    .unwrap();
    let (blob, _) = prepared.to_memory(&Silent).unwrap();
    let model = Model::new(&blob).unwrap();
    let plan = Plan::for_model(&model, Limits::new(model.arch().context, 16)).unwrap();
    let (mut cache, mut scratch) =
        (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
    let mut session = Session::new(model, &plan, &mut cache, &mut scratch).unwrap();
    let mut errors = Vec::new();
    for sequence in &expected.sequences {
        session.reset();
        if model.arch().is_encoder() {
            errors.extend(encoded(&mut session, sequence));
            continue;
        }
        if model.arch().cross {
            session.encode_source(&sequence.source).unwrap();
        }
        session
            .score(&sequence.ids, |position, logits| {
                if let Some(expected) = sequence.at(position) {
                    errors.push(relative_error(logits, expected));
                }
            })
            .unwrap();
    }
    errors.sort_by(f32::total_cmp);
    let (third, largest) = (errors[errors.len() / 3], errors[errors.len() - 1]);
    println!(
        "{name:<20} {file:<32} {layout:?}: lower third {third:.1e}, without flip {:.2}, largest {largest:.1e}",
        without_flip(&errors)
    );
    assert!(third < LOWER_THIRD, "{name} {file}: error {third} at a third of the positions");
    assert!(largest < FLIP, "{name} {file}: error {largest}");
    errors
}

/// The errors of a text's kept positions: of their logits, or of their vectors where there is no head.
fn encoded(session: &mut Session<'_, '_>, sequence: &Sequence) -> Vec<f32> {
    session.encode(&sequence.ids, &sequence.token_types).unwrap();
    let headless = session.model().arch().headless;
    let error = |&position: &usize| {
        let found = if headless { session.hidden(position) } else { session.token_logits(position) };
        relative_error(found.unwrap(), sequence.at(position).unwrap())
    };
    sequence.positions.iter().map(error).collect()
}

fn without_flip(errors: &[f32]) -> f64 {
    errors.iter().filter(|&&e| e < WITHOUT_FLIP).count() as f64 / errors.len() as f64
}

#[test]
fn the_runtime_computes_what_numpy_computes() {
    let mut errors = Vec::new();
    let decoders = ["llama-gqa-tied", "llama-ragged", "llama-bias", "gpt2", "nanogpt"];
    for name in decoders.into_iter().chain(["bert", "bert-headless", "distilbert", "roberta", "t5", "marian"]) {
        for file in ["expected_int8_g32.json", "expected_int8_g64.json", "expected_int8_row.json"] {
            errors.extend(compare(name, file, Layout::Rows8));
        }
        errors.extend(compare(name, "expected_int8_g32.json", Layout::Dsp));
    }
    // With centred keys.
    for name in ["llama-gqa-tied", "gpt2", "bert", "roberta"] {
        for layout in [Layout::Rows8, Layout::Dsp] {
            errors.extend(compare(name, "expected_int8_g32_centred.json", layout));
        }
    }
    // What these add does not depend on groups.
    let others = ["qwen2-yarn", "mistral-windowed", "phi3-long", "stablelm-yarn", "baichuan2"];
    for name in others.into_iter().chain([
        "qwen2-windowed",
        "bloom-residual",
        "falcon-alibi",
        "falcon-alibi-grouped",
        "opt-350m",
        "opt-untied",
        "opt",
        "gpt_bigcode",
        "gpt_bigcode-mha",
        "gpt_neox",
        "gptj",
        "bloom",
        "qwen3",
        "gemma2",
        "gemma3",
        "mistral-many-windows",
        "gemma3-many-windows",
        "stablelm-head-norms",
        "phi-head-norms",
        "ministral",
        "gemma3-listed",
        "bart",
        "t5-gated",
    ]) {
        for layout in [Layout::Rows8, Layout::Dsp] {
            errors.extend(compare(name, "expected_int8_g32.json", layout));
        }
    }
    let exact = without_flip(&errors);
    assert!(exact >= SHARE_WITHOUT_FLIP, "only {exact} of {} positions without a flip", errors.len());
}
