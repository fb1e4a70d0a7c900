//! The runtime against an independent program: the same quantized network in NumPy, in f64
//! (tests/fixtures/models/quantized.py).

#[path = "../../convert/tests/common/mod.rs"]
mod common;

use common::{Expected, model, relative_error};
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};
use thumbformer_convert::pipeline::{Calibration, Options, Prepared, Silent};
use thumbformer_tests::sessions::Setting;

/// f32 differs from f64 in the last bits. Where such a difference meets a tie, an integer flips and the logits move by a
/// quantization step; if it is a cached key's or value's, for the rest of the sequence. tests/fixtures/models/README.md
/// says how often and how far that happens when the NumPy program itself runs in f32, and these bounds are from there.
/// They are for all comparisons together, in which one unlucky sequence is one of many.
const MEDIAN: f32 = 1e-6;
const USUAL: f32 = 1e-5;
const USUAL_SHARE: f64 = 0.8;

/// A single comparison has a dozen positions and may be unlucky in most of them, but not in two thirds. A wrong scale,
/// group, order of tensors or rounding moves the logits of every position by far more than this.
const BEST_THIRD: f32 = 1e-6;
const LARGEST: f32 = 0.06;

/// The relative error of every position, ascending.
fn errors(name: &str, file: &str, packing: Packing, means: Option<Vec<Vec<f32>>>) -> Vec<f32> {
    let expected = Expected::read(name, file);
    let calibration = means.map_or(Calibration::None, Calibration::Means);
    let options = Options { packing, calibration, ..Options::default() };
    let prepared = Prepared::open(&model(name), options).expect("a good checkpoint");
    let (blob, _) = prepared.to_memory(&Silent).expect("finite numbers");
    let model = Model::new(&blob).expect("a good blob");
    let setting = Setting { backend: Backend::detect(), chunk: 16, logit_rows: 16, dirt: [0xFF; 4] };
    let mut buffers = setting.buffers(&model, model.arch().context);
    let mut session = buffers.session(model, setting.backend, Serial);
    let mut errors = Vec::new();
    for sequence in &expected.sequences {
        session.reset();
        let visit = |position: usize, logits: &[f32]| {
            errors.extend(sequence.at(position).map(|expected| relative_error(logits, expected)));
        };
        session.score(&sequence.ids, visit).expect("tokens that fit");
    }
    assert!(errors.len() >= 12, "{name}: only {} positions", errors.len());
    errors.sort_by(f32::total_cmp);
    errors
}

fn share_below(errors: &[f32], bound: f32) -> f64 {
    errors.iter().filter(|e| **e < bound).count() as f64 / errors.len() as f64
}

/// Whether one comparison's errors, ascending, are those of the same network.
fn are_good(errors: &[f32]) -> bool {
    errors[errors.len() / 3] < BEST_THIRD && errors[errors.len() - 1] < LARGEST
}

#[test]
fn the_runtime_computes_the_quantized_network() {
    let (mut count, mut all) = (0, Vec::new());
    for name in common::models() {
        for (label, group) in [("g32", 32), ("g64", 64), ("row", 0), ("g32_centred", 32)] {
            let file = format!("expected_int8_{label}.json");
            if !model(&name).join(&file).is_file() {
                continue;
            }
            let expected = Expected::read(&name, &file);
            assert_eq!(expected.group, group as usize);
            let layers = common::open(&model(&name), None).1.arch.layers as usize;
            let means = Some(&expected.key_mean).filter(|means| !means.is_empty());
            let means = means.map(|means| means.chunks(means.len() / layers).map(<[f32]>::to_vec).collect());
            let errors = errors(&name, &file, Packing { layout: Layout::Rows8, group }, means);
            let (median, largest) = (errors[errors.len() / 2], errors[errors.len() - 1]);
            let usual = 100.0 * share_below(&errors, USUAL);
            println!("{name:16} {label:12} median {median:.1e}, {usual:.0} % usual, largest {largest:.1e}");
            assert!(are_good(&errors), "{name} {label}: {errors:?}");
            all.extend(errors);
            count += 1;
        }
    }
    assert!(count >= 17, "only {count} comparisons");
    all.sort_by(f32::total_cmp);
    let (median, usual) = (all[all.len() / 2], share_below(&all, USUAL));
    println!("all {}: median {median:.1e}, {:.0} % usual", all.len(), usual * 100.0);
    assert!(median < MEDIAN, "{median:.1e}");
    assert!(usual >= USUAL_SHARE, "{usual:.2}");
}

/// What the bounds are for: another group size, and keys that are centred in one program only, must not pass.
#[test]
fn mistakes_show() {
    let packing = Packing { layout: Layout::Rows8, group: 32 };
    for name in ["llama-gqa-tied", "gpt2"] {
        let wrong_group = errors(name, "expected_int8_g64.json", packing, None);
        let not_centred = errors(name, "expected_int8_g32_centred.json", packing, None);
        for (mistake, errors) in [("group", wrong_group), ("centring", not_centred)] {
            assert!(!are_good(&errors), "{name}: a wrong {mistake} does not show");
        }
    }
}
