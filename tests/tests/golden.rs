//! Golden digests of real checkpoints: the converter's bytes and the runtime's logits, bit for bit, on every backend.

#[path = "../../convert/tests/common/mod.rs"]
mod common;

use std::fmt::Write;

use thumbformer::packing::Packing;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Calibration, Options, Prepared, Silent};
use thumbformer_tests::sessions::{Setting, combine, reference, score};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, ids};

const FILE: &str = "tests/fixtures/digests.tsv";

const PREFACE: &str = "\
# Golden digests: they pin the arithmetic and the format, for every target and every later version.
#
# Each model of tests/fixtures/models and tests/models, converted in each group size, with made-up mean keys. `rows8` and
# `dsp` are the CRC-32 of all tensors as they lie in the blob of that layout. `logits` is a digest of the logits behind
# every token of a full context, and the same for both layouts, every backend, thread count, chunk and machine. The
# portable backend made them (THUMBFORMER_BLESS=1 cargo test -p thumbformer-tests --test golden). A difference on a new
# target is that target's mistake. A difference after a change of the code means that files or answers of existing users
# change: never bless that in passing.
#
# model	group	rows8	dsp	logits
";

/// Small, different for every head and dimension.
fn made_up_means(layers: u32, width: u32) -> Vec<Vec<f32>> {
    let mean = |i: u32| (i * 37 % 64) as f32 / 64.0 - 0.5;
    (0..layers).map(|layer| (0..width).map(|i| mean(layer * 11 + i)).collect()).collect()
}

fn convert(folder: &std::path::Path, packing: Packing) -> AlignedBytes {
    let (_, recipe) = common::open(folder, None);
    let means = made_up_means(recipe.arch.layers, recipe.arch.kv_width());
    let options = Options { packing, calibration: Calibration::Means(means), ..Options::default() };
    let prepared = Prepared::open(folder, options).expect("a good checkpoint");
    prepared.to_memory(&Silent).expect("finite numbers").0
}

#[test]
fn digests_of_real_checkpoints_are_the_golden_ones() {
    let path = common::repository(FILE);
    let mut models: Vec<_> = common::models().into_iter().map(|name| (common::model(&name), name)).collect();
    models.push((common::repository("tests/models/home-commands"), "home-commands".into()));
    let mut found = String::from(PREFACE);
    for (folder, name) in models {
        for group in GROUPS {
            let blobs = LAYOUTS.map(|layout| convert(&folder, Packing { layout, group }));
            let mut crcs = [0; 2];
            let mut digests = Vec::new();
            for (blob, crc) in blobs.iter().zip(&mut crcs) {
                let model = Model::new(blob).expect("a good blob");
                let header = model.header();
                let first = thumbformer::blob::placement(model.arch(), header.packing, header.tokenizer_len).next();
                *crc = crc32fast::hash(&blob[first.expect("tensors").offset as usize..]);
                let ids = ids(model.arch().vocab, model.arch().context as usize);
                let expected = reference(model, &ids);
                for backend in Backend::available() {
                    let setting = Setting { backend, chunk: 24, logit_rows: 24, dirt: [0xFF; 4] };
                    let mut buffers = setting.buffers(&model, model.arch().context);
                    let found = score(&mut buffers.session(model, backend, Serial), &ids);
                    assert_eq!(found, expected, "{name}, group {group}, {}", backend.name());
                }
                digests.push(combine(&expected));
            }
            assert_eq!(digests[0], digests[1], "{name}, group {group}: the layouts differ");
            let group = if group == 0 { "row".into() } else { group.to_string() };
            writeln!(found, "{name}\t{group}\t{:08x}\t{:08x}\t{:016x}", crcs[0], crcs[1], digests[0])
                .expect("a string");
        }
    }
    println!("{found}");
    if std::env::var_os("THUMBFORMER_BLESS").is_some() {
        std::fs::write(&path, &found).expect("a writable fixture");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file");
    for (golden, found) in golden.lines().zip(found.lines()) {
        assert_eq!(found, golden, "{FILE} has another line");
    }
    assert_eq!(golden.lines().count(), found.lines().count(), "{FILE} has another number of models");
}

#[test]
fn no_chunk_and_no_rewinding_shows_in_a_real_model() {
    let mut models: Vec<_> = common::models().iter().map(|name| common::model(name)).collect();
    models.push(common::repository("tests/models/home-commands"));
    for (turn, folder) in models.into_iter().enumerate() {
        let blob = convert(&folder, Packing { layout: LAYOUTS[0], group: 32 });
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, model.arch().context as usize);
        let expected = reference(model, &ids);
        for chunk in 1..=64 {
            // Backends take turns, another one for each chunk and model.
            for backend in
                Backend::available().enumerate().filter(|(i, _)| (i + turn + chunk as usize).is_multiple_of(4))
            {
                let (_, backend) = backend;
                let setting = Setting { backend, chunk, logit_rows: 1 + chunk % 8, dirt: [0xFF; 4] };
                let mut buffers = setting.buffers(&model, model.arch().context);
                let mut session = buffers.session(model, backend, Serial);
                let place = format!("{}, chunk {chunk}, {}", folder.display(), backend.name());
                assert_eq!(score(&mut session, &ids), expected, "{place}");
                let kept = (ids.len() * chunk as usize / 65).max(1);
                session.rewind(kept).expect("fewer tokens");
                assert_eq!(score(&mut session, &ids[kept..]), expected[kept..], "{place}, rewound to {kept}");
            }
        }
    }
}
