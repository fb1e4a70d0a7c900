//! Golden digests of real checkpoints: the converter's bytes and the runtime's logits, bit for bit, on every backend.

use std::fmt::Write;

use thumbformer::packing::Packing;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};
use thumbformer_tests::checkpoints::{FILE, checkpoints, convert, group_name, repository};
use thumbformer_tests::sessions::{Setting, combine, reference, score};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, ids};

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

#[test]
fn digests_of_real_checkpoints_are_the_golden_ones() {
    let path = repository(FILE);
    let mut found = String::from(PREFACE);
    for (name, folder) in checkpoints() {
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
            let group = group_name(group);
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
    for (turn, (name, folder)) in checkpoints().into_iter().enumerate() {
        let blob = convert(&folder, Packing { layout: LAYOUTS[0], group: 32 });
        let model = Model::new(&blob).expect("a good blob");
        if model.arch().is_encoder() {
            continue; // A text is one chunk.
        }
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
                let place = format!("{name}, chunk {chunk}, {}", backend.name());
                assert_eq!(score(&mut session, &ids), expected, "{place}");
                // Windows forget.
                let room = session.plan().rewind_room();
                let kept = (ids.len() * chunk as usize / 65).max(1).max(ids.len().saturating_sub(room));
                session.rewind(kept).expect("fewer tokens");
                assert_eq!(score(&mut session, &ids[kept..]), expected[kept..], "{place}, rewound to {kept}");
            }
        }
    }
}
