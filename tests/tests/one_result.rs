//! One result: nothing a caller can choose shows in a bit of the logits.

use thumbformer::kernel::pool::Pool;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Model};
use thumbformer_tests::sessions::{Backwards, Setting, combine, digest, reference, score};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, blob, blobs, ids, shapes};

/// Three tiles of the cache, the last one in part, and longer than the longest chunk.
const TOKENS: usize = 70;

fn backends() -> Vec<Backend> {
    Backend::available().collect()
}

/// Quiet NaN, signalling NaN, bytes of −1, infinity.
const DIRT: [[u8; 4]; 4] = [[0, 0, 0xC0, 0x7F], [1, 0, 0x80, 0x7F], [0xFF; 4], [0, 0, 0x80, 0x7F]];

#[test]
fn the_layout_is_no_part_of_the_result() {
    for (name, arch) in shapes() {
        for group in GROUPS {
            let digests = LAYOUTS.map(|layout| {
                let blob = blob(arch, thumbformer::packing::Packing { layout, group });
                reference(Model::new(&blob).expect("a good blob"), &ids(arch.vocab, TOKENS))
            });
            println!("{name:14} group {group:2}  {:016x}", combine(&digests[0]));
            assert_eq!(digests[0], digests[1], "{name}, group {group}");
        }
    }
}

/// That the digests tell anything: another seed, token, group or shape is another digest.
#[test]
fn different_models_have_different_digests() {
    let mut all: Vec<u64> = Vec::new();
    for (name, blob) in blobs(false).filter(|(name, _)| !name.starts_with("smallest")) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, TOKENS);
        let trace = reference(model, &ids);
        let mut other = ids.clone();
        other[9] = (other[9] + 1) % model.arch().vocab;
        let other = reference(model, &other);
        assert_eq!(trace[..9], other[..9], "{name}: a later token shows");
        assert!((9..TOKENS).all(|i| trace[i] != other[i]), "{name}: an earlier token does not show");
        all.push(combine(&trace));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    // Where a row is shorter than a group, two group sizes are the same model.
    assert!(all.len() >= count - 4, "{} of {count} digests differ", all.len());
}

#[test]
fn every_backend_and_chunk_has_the_same_digest() {
    for (name, blob) in blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, TOKENS);
        let expected = reference(model, &ids);
        for (i, backend) in backends().into_iter().enumerate() {
            // Every pair for one packing of each shape; for the others, the backends take turns.
            let every_pair = name.ends_with("group 32, rows8");
            for chunk in (1..=64).filter(|chunk| every_pair || *chunk as usize % backends().len() == i) {
                let (logit_rows, dirt) = (1 + chunk % 5, DIRT[chunk as usize % 4]);
                let setting = Setting { backend, chunk, logit_rows, dirt };
                let mut buffers = setting.buffers(&model, TOKENS as u32);
                let found = score(&mut buffers.session(model, backend, Serial), &ids);
                assert_eq!(found, expected, "{name}, {setting:?}");
            }
        }
    }
}

#[test]
fn prefill_step_and_score_agree_wherever_they_meet() {
    for (name, blob) in blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, TOKENS);
        let expected = reference(model, &ids);
        for backend in backends() {
            for (chunk, seed) in [(1, 1), (3, 2), (8, 3), (33, 4), (64, 5)] {
                let setting = Setting { backend, chunk, logit_rows: 2, dirt: DIRT[1] };
                let mut buffers = setting.buffers(&model, TOKENS as u32);
                let mut session = buffers.session(model, backend, Serial);
                let mut rng = fastrand::Rng::with_seed(seed);
                while session.position() < TOKENS {
                    let at = session.position();
                    let end = at + rng.usize(1..=TOKENS - at).min(rng.usize(1..40));
                    match rng.u8(..3) {
                        0 => assert_eq!(score(&mut session, &ids[at..end]), expected[at..end], "{name}, {setting:?}"),
                        1 => {
                            let logits = session.prefill(&ids[at..end]).expect("tokens that fit");
                            assert_eq!(digest(logits), expected[end - 1], "{name}, {setting:?}");
                        }
                        _ => {
                            let logits = session.step(ids[at]).expect("a token that fits");
                            assert_eq!(digest(logits), expected[at], "{name}, {setting:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn no_number_of_workers_shows() {
    let pools: Vec<Pool> = (1..=4).map(Pool::new).collect();
    for (name, blob) in blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, TOKENS);
        let expected = reference(model, &ids);
        for (i, backend) in backends().into_iter().enumerate() {
            // Below and above where products are cut by tokens and no longer by rows.
            for chunk in [1, 7, 15, 16, 31, 40, 64] {
                let setting = Setting { backend, chunk, logit_rows: 5, dirt: DIRT[i % 4] };
                // Threads cost more than the models: backends and chunks take turns with the pools.
                let pool = &pools[(i + chunk as usize / 2) % pools.len()];
                let mut buffers = setting.buffers(&model, TOKENS as u32);
                let found = score(&mut buffers.session(model, backend, pool), &ids);
                assert_eq!(found, expected, "{name}, {setting:?}, {pool:?}");
                for count in [1, 3, 64, 100] {
                    let mut buffers = setting.buffers(&model, TOKENS as u32);
                    let found = score(&mut buffers.session(model, backend, Backwards(count)), &ids);
                    assert_eq!(found, expected, "{name}, {setting:?}, {count} workers");
                }
            }
        }
    }
}

#[test]
fn a_rewound_or_reset_session_has_forgotten() {
    for (name, blob) in blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let vocab = model.arch().vocab;
        let right = ids(vocab, TOKENS);
        let wrong: Vec<u32> = right.iter().rev().map(|id| (id * 5 + 2) % vocab).collect();
        let expected = reference(model, &right);
        for backend in backends() {
            let setting = Setting { backend, chunk: 9, logit_rows: 3, dirt: DIRT[0] };
            let mut buffers = setting.buffers(&model, TOKENS as u32);
            let mut session = buffers.session(model, backend, Serial);
            assert_eq!(score(&mut session, &right), expected, "{name}, {setting:?}");
            for keep in [69, 65, 64, 63, 40, 33, 32, 31, 8, 1, 0] {
                session.rewind(keep).expect("fewer tokens");
                session.prefill(&wrong[..TOKENS - keep]).expect("tokens that fit");
                session.rewind(keep).expect("fewer tokens");
                assert_eq!(session.position(), keep);
                assert_eq!(score(&mut session, &right[keep..]), expected[keep..], "{name}, {setting:?}, kept {keep}");
            }
            session.reset();
            session.prefill(&wrong).expect("tokens that fit");
            session.reset();
            assert_eq!(score(&mut session, &right), expected, "{name}, {setting:?}");
        }
    }
}

#[test]
fn the_room_for_context_is_no_part_of_the_result() {
    for (name, blob) in blobs(false) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, 40);
        let expected = reference(model, &ids);
        let setting = Setting { backend: Backend::detect(), chunk: 16, logit_rows: 16, dirt: DIRT[2] };
        for context in [40, 63, 64, 65, 70] {
            let mut buffers = setting.buffers(&model, context);
            let found = score(&mut buffers.session(model, setting.backend, Serial), &ids);
            assert_eq!(found, expected, "{name}, context {context}");
        }
    }
}
