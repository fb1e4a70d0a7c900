//! Encoders: one result whatever a caller chooses, texts that leave no trace in the next, and what is refused.

use thumbformer::arch::{Arch, Kind, Role};
use thumbformer::blob::header::Pooling;
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Serial;
use thumbformer::{Backend, Limits, Model, Plan, Session, SessionError, SnapshotError};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::synthetic::llama;
use thumbformer_tests::sessions::{Backwards, Setting, encode, reference};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, blob, encoders, ids};

/// Three tiles of the cache, the last one in part.
const TOKENS: usize = 70;
const PACKING: Packing = Packing { layout: Layout::Rows8, group: 32 };
/// Quiet NaN, bytes of −1, infinity.
const DIRT: [[u8; 4]; 3] = [[0, 0, 0xC0, 0x7F], [0xFF; 4], [0, 0, 0x80, 0x7F]];

/// Every encoder in every packing.
fn blobs() -> impl Iterator<Item = (String, AlignedBytes)> {
    encoders().into_iter().flat_map(|(name, arch)| {
        let packings = GROUPS.into_iter().flat_map(|group| LAYOUTS.map(|layout| Packing { layout, group }));
        packings.map(move |packing| (format!("{name}, {packing:?}"), blob(arch, packing)))
    })
}

#[test]
fn nothing_that_a_caller_chooses_shows() {
    let pool = Pool::new(3);
    for (name, arch) in encoders() {
        for group in GROUPS {
            let blobs = LAYOUTS.map(|layout| blob(arch, Packing { layout, group }));
            let ids = ids(arch.vocab, TOKENS);
            let expected = reference(Model::new(&blobs[0]).expect("a good blob"), &ids);
            for (blob, layout) in blobs.iter().zip(LAYOUTS) {
                let model = Model::new(blob).expect("a good blob");
                for (i, backend) in Backend::available().enumerate() {
                    let place = format!("{name}, group {group}, {}, {}", layout.name(), backend.name());
                    // Limits of a prompt's chunk and of rows of logits mean nothing here.
                    for (chunk, context) in [(1, TOKENS as u32), (7, arch.context), (64, arch.context)] {
                        let setting = Setting { backend, chunk, logit_rows: chunk, dirt: DIRT[i % 3] };
                        let mut buffers = setting.buffers(&model, context);
                        assert_eq!(encode(&mut buffers.session(model, backend, Serial), &ids), expected, "{place}");
                        let found = encode(&mut buffers.session(model, backend, &pool), &ids);
                        assert_eq!(found, expected, "{place}, pool");
                        for count in [2, 64, 100] {
                            let found = encode(&mut buffers.session(model, backend, Backwards(count)), &ids);
                            assert_eq!(found, expected, "{place}, {count} workers");
                        }
                    }
                }
            }
        }
    }
}

/// Every token shows at every position, before and behind it, and so does its type.
#[test]
fn tokens_see_the_whole_text() {
    for (name, blob) in blobs().filter(|(name, _)| !name.starts_with("smallest")) {
        let model = Model::new(&blob).expect("a good blob");
        let setting = Setting { dirt: DIRT[0], ..Setting::REFERENCE };
        let mut buffers = setting.buffers(&model, TOKENS as u32);
        let mut session = buffers.session(model, Backend::detect(), Serial);
        let mut text = ids(model.arch().vocab, TOKENS);
        let before = encode(&mut session, &text);
        for at in [0, 33, TOKENS - 1] {
            let id = text[at];
            text[at] = (id + 1) % model.arch().vocab;
            let found = encode(&mut session, &text);
            assert!(found.iter().zip(&before).all(|(found, before)| found != before), "{name}: token {at}");
            text[at] = id;
        }
        if model.arch().token_types > 1 {
            let mut types = [0; TOKENS];
            session.encode(&text, &types).expect("a text that fits");
            let plain = session.hidden(3).expect("a position").to_vec();
            session.encode(&text, &[]).expect("a text that fits");
            assert_eq!(session.hidden(3).expect("a position"), plain, "{name}: no types are zeros");
            types[TOKENS - 1] = 1;
            session.encode(&text, &types).expect("a text that fits");
            assert_ne!(session.hidden(3).expect("a position"), plain, "{name}");
        }
    }
}

#[test]
fn a_text_leaves_no_trace_in_the_next() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, TOKENS);
        for backend in Backend::available() {
            let setting = Setting { backend, chunk: 1, logit_rows: 1, dirt: DIRT[1] };
            let mut buffers = setting.buffers(&model, TOKENS as u32);
            let mut session = buffers.session(model, backend, Serial);
            for tokens in [TOKENS, 1, 33, 32, 31, TOKENS] {
                let expected = reference(model, &ids[..tokens]);
                assert_eq!(encode(&mut session, &ids[..tokens]), expected, "{name}, {tokens} tokens");
            }
        }
    }
}

/// Of a model with a head and one without: the session, refused in every way, still answers as before.
fn with_bert(headless: bool, test: impl Fn(&mut Session<'_, '_>)) {
    let name = if headless { "bert, headless" } else { "bert" };
    let arch = encoders().into_iter().find(|(found, _)| *found == name).expect("that shape").1;
    let blob = blob(arch, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let setting = Setting { dirt: DIRT[1], ..Setting::REFERENCE };
    let mut buffers = setting.buffers(&model, 40);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.encode(&[1, 2, 3], &[0, 1, 1]).expect("a text that fits");
    let before = session.hidden(2).expect("a position").to_vec();
    test(&mut session);
    assert_eq!(session.position(), 3);
    assert_eq!(session.hidden(2).expect("a position"), before);
}

#[test]
fn texts_that_cannot_be_are_refused_and_change_nothing() {
    with_bert(false, |session| {
        let mut refused = |ids: &[u32], types: &[u8], error| assert_eq!(session.encode(ids, types), Err(error));
        refused(&[], &[], SessionError::NoTokens);
        refused(&[], &[1], SessionError::NoTokens);
        refused(&[1, 101], &[], SessionError::Token { index: 1, id: 101, vocab: 101 });
        refused(&[1; 41], &[], SessionError::ContextFull { position: 0, tokens: 41, context: 40 });
        refused(&[1, 2], &[0], SessionError::TokenTypes { found: 1, expected: 2 });
        refused(&[1, 2], &[0; 3], SessionError::TokenTypes { found: 3, expected: 2 });
        refused(&[1, 2, 3], &[0, 2, 255], SessionError::TokenType { index: 1, found: 2, types: 2 });
    });
    // A model without types knows type 0 only.
    let blob = blob(Arch { causal: false, ..llama(16, 8, 1, 2, 1, 8, 8) }, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = Setting::REFERENCE.buffers(&model, 8);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.encode(&[1, 2], &[0, 0]).expect("a text that fits");
    let error = SessionError::TokenType { index: 1, found: 1, types: 1 };
    assert_eq!(session.encode(&[1, 2], &[0, 1]), Err(error));
    assert_eq!(error.to_string(), "token type 1 at index 1 is not below the model's 1");
    session.encode(&[1; 8], &[]).expect("exactly the context");
}

#[test]
fn what_only_decoders_do_is_refused() {
    with_bert(false, |session| {
        assert_eq!(session.prefill(&[1]).err(), Some(SessionError::Encoder));
        assert_eq!(session.step(1).err(), Some(SessionError::Encoder));
        assert_eq!(session.score(&[1], |_, _| panic!("called for an encoder")), Err(SessionError::Encoder));
        assert_eq!(session.rewind(0), Err(SessionError::Encoder));
        assert_eq!(session.branch(&[0]), Err(SessionError::Encoder));
        let visit = |_: usize, _: &[f32]| panic!("called for an encoder");
        assert_eq!(session.step_branches(&[1], visit), Err(SessionError::Encoder));
        assert_eq!(session.snapshot(&[1, 2, 3], &mut [0; 9]), Err(SnapshotError::Encoder));
        let error = SessionError::Position { found: 3, tokens: 3 };
        assert_eq!(session.hidden(3).err(), Some(error));
        assert_eq!(
            session.token_logits(usize::MAX).err(),
            Some(SessionError::Position { found: usize::MAX, tokens: 3 })
        );
        assert_eq!(
            session.embedding(Pooling::Mean, &mut [0.0; 3]),
            Err(SessionError::Embedding { found: 3, expected: 45 })
        );
        assert_eq!(session.token_logits(2).map(<[f32]>::len), Ok(101));
    });
    with_bert(true, |session| assert_eq!(session.token_logits(0).err(), Some(SessionError::Headless)));
}

#[test]
fn what_only_encoders_do_is_refused() {
    let blob = blob(llama(16, 8, 1, 2, 1, 8, 8), PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = Setting::REFERENCE.buffers(&model, 8);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.prefill(&[1, 2]).expect("tokens that fit");
    assert_eq!(session.encode(&[1], &[]), Err(SessionError::Decoder));
    assert_eq!(session.hidden(0).err(), Some(SessionError::Decoder));
    assert_eq!(session.token_logits(0).err(), Some(SessionError::Decoder));
    assert_eq!(session.embedding(Pooling::Mean, &mut [0.0; 8]), Err(SessionError::Decoder));
    assert_eq!(session.position(), 2);
}

#[test]
fn a_reset_session_has_no_text() {
    let blob = blob(encoders()[0].1, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = Setting::REFERENCE.buffers(&model, 8);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    let none = SessionError::Position { found: 0, tokens: 0 };
    assert_eq!(session.hidden(0).err(), Some(none));
    session.encode(&[1, 2], &[]).expect("a text that fits");
    session.reset();
    assert_eq!(session.hidden(0).err(), Some(none));
    assert_eq!(session.embedding(Pooling::First, &mut [0.0; 45]), Err(none));
}

#[test]
fn embeddings_are_of_length_one_and_point_where_the_tokens_do() {
    with_bert(true, |session| {
        let (mut mean, mut first) = ([0.0; 45], [0.0; 45]);
        session.embedding(Pooling::Mean, &mut mean).expect("a text");
        session.embedding(Pooling::First, &mut first).expect("a text");
        let sum: Vec<f64> = (0..45)
            .map(|i| (0..3).map(|position| f64::from(session.hidden(position).expect("a position")[i])).sum())
            .collect();
        let own: Vec<f64> = session.hidden(0).expect("a position").iter().map(|x| f64::from(*x)).collect();
        for (found, expected) in [(mean, sum), (first, own)] {
            let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected / length).abs() < 1e-6, "{found}, not {}", expected / length);
            }
        }
        assert_ne!(mean, first);
    });
}

#[test]
fn memory_grows_with_one_layer_only() {
    let (_, arch) = encoders()[0];
    let plan = |layers| Plan::new(&Arch { layers, ..arch }, PACKING, Limits::new(70, 1)).expect("a plan");
    assert_eq!(plan(2).cache_bytes(), plan(100).cache_bytes());
    assert_eq!(plan(2).limits().chunk, 70);
    let headless = encoders()[1].1;
    let plan = |arch| Plan::new(&arch, PACKING, Limits::new(1, 1)).expect("a plan").scratch_bytes();
    assert!(plan(arch) >= plan(headless) + 4 * 101, "no logits, no room for them");
}

#[test]
fn every_tensor_is_there() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        for spec in model.arch().tensors() {
            let found = match spec.kind {
                Kind::Matrix => model.matrix(spec.role, spec.layer).is_some(),
                Kind::Vector => model.vector(spec.role, spec.layer).is_some(),
            };
            assert!(found, "{name}: {}", spec.role.name());
        }
        let ends =
            [Role::FinalNorm, Role::Head, Role::HeadTransform].map(|role| model.arch().tensor(role, 0).is_some());
        assert!(!model.arch().headless || !(ends[1] || ends[2]), "{name}");
    }
}
