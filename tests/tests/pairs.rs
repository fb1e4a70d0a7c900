//! Encoder-decoders: one result whatever a caller chooses, sources that leave no trace in the next, and what is refused.

use thumbformer::arch::{Arch, Role};
use thumbformer::blob::crc::crc32;
use thumbformer::blob::header::{HEADER_BYTES, Header};
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::plan::PlanError;
use thumbformer::workers::Serial;
use thumbformer::{Backend, BlobError, Limits, Model, Plan, Session, SessionError, Snapshot, SnapshotError};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_tests::sessions::{Backwards, Setting, digest, reference, score, take_source};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, ids, pair, pairs};

/// Three tiles of the cache, the last one in part.
const TOKENS: usize = 70;
const PACKING: Packing = Packing { layout: Layout::Rows8, group: 32 };
/// Quiet NaN, bytes of −1, infinity.
const DIRT: [[u8; 4]; 3] = [[0, 0, 0xC0, 0x7F], [0xFF; 4], [0, 0, 0x80, 0x7F]];

fn named(wanted: &str) -> AlignedBytes {
    let (_, decoder, encoder) = pairs().into_iter().find(|(name, ..)| *name == wanted).expect("that shape");
    pair(decoder, encoder, PACKING)
}

#[test]
fn nothing_that_a_caller_chooses_shows() {
    let pool = Pool::new(3);
    for (name, decoder, encoder) in pairs() {
        for group in GROUPS {
            let blobs = LAYOUTS.map(|layout| pair(decoder, encoder, Packing { layout, group }));
            let ids = ids(decoder.vocab, TOKENS);
            let expected = reference(Model::new(&blobs[0]).expect("a good blob"), &ids);
            for (blob, layout) in blobs.iter().zip(LAYOUTS) {
                let model = Model::new(blob).expect("a good blob");
                for (i, backend) in Backend::available().enumerate() {
                    let place = format!("{name}, group {group}, {}, {}", layout.name(), backend.name());
                    for chunk in [1, 7, 64] {
                        let setting = Setting { backend, chunk, logit_rows: chunk, dirt: DIRT[i % 3] };
                        let mut buffers = setting.buffers(&model, TOKENS as u32);
                        assert_eq!(score(&mut buffers.session(model, backend, Serial), &ids), expected, "{place}");
                        assert_eq!(score(&mut buffers.session(model, backend, &pool), &ids), expected, "{place}, pool");
                        let found = score(&mut buffers.session(model, backend, Backwards(64)), &ids);
                        assert_eq!(found, expected, "{place}, 64 workers");
                    }
                }
            }
        }
    }
}

/// Every token of a source shows in every logit, and a source leaves no trace in the next.
#[test]
fn tokens_see_the_whole_source_and_no_other() {
    for (name, decoder, encoder) in pairs().into_iter().filter(|(name, ..)| *name != "smallest") {
        let blob = pair(decoder, encoder, PACKING);
        let model = Model::new(&blob).expect("a good blob");
        let setting = Setting { chunk: 5, dirt: DIRT[0], ..Setting::REFERENCE };
        let mut buffers = setting.buffers(&model, TOKENS as u32);
        let mut session = buffers.session(model, Backend::detect(), Serial);
        let answer = ids(decoder.vocab, 9);
        let mut source = ids(encoder.vocab, 67);
        session.encode_source(&source).expect("a source that fits");
        assert_eq!((session.source_tokens(), session.position()), (67, 0));
        let before = score(&mut session, &answer);
        for at in [0, 33, 66] {
            source[at] = (source[at] + 1) % encoder.vocab;
            session.encode_source(&source).expect("a source that fits");
            let found = score(&mut session, &answer);
            assert!(found.iter().zip(&before).all(|(found, before)| found != before), "{name}: token {at}");
            source[at] = (source[at] + encoder.vocab - 1) % encoder.vocab;
        }
        for tokens in [1, 33, 67] {
            session.encode_source(&source[..tokens]).expect("a source that fits");
            let found = score(&mut session, &answer);
            let mut fresh = setting.buffers(&model, TOKENS as u32);
            let mut fresh = fresh.session(model, Backend::PORTABLE, Serial);
            fresh.encode_source(&source[..tokens]).expect("a source that fits");
            assert_eq!(found, score(&mut fresh, &answer), "{name}, {tokens} tokens");
        }
        // Forgetting tokens keeps the source.
        session.reset();
        assert_eq!(session.source_tokens(), 67);
        assert_eq!(score(&mut session, &answer), before, "{name}");
        session.rewind(4).expect("fewer tokens");
        assert_eq!(score(&mut session, &answer[4..]), before[4..], "{name}");
    }
}

/// Branches share the source: each goes on as if it were alone.
#[test]
fn branches_attend_to_one_source() {
    for name in ["t5", "marian"] {
        let blob = named(name);
        let model = Model::new(&blob).expect("a good blob");
        let plan = Plan::for_model(&model, Limits::new(TOKENS as u32, 8)).expect("a plan");
        let plan = plan.with_branches(3, 20).expect("a plan");
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("buffers");
        take_source(&mut session);
        session.prefill(&[1, 2, 3]).expect("room");
        session.branch(&[0, 0, 0]).expect("room");
        let mut found = [0; 3];
        session.step_branches(&[4, 5, 6], |i, logits| found[i] = digest(logits)).expect("room");
        session.step_branches(&[7, 7, 7], |i, logits| found[i] = digest(logits)).expect("room");
        for (id, found) in [4, 5, 6].into_iter().zip(found) {
            session.reset();
            session.prefill(&[1, 2, 3, id]).expect("room");
            assert_eq!(digest(session.step(7).expect("room")), found, "{name}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let blob = named("two vocabularies");
    let model = Model::new(&blob).expect("a good blob");
    let source = model.source().expect("an encoder");
    assert!(model.matrix(Role::TokenEmbedding, 0).is_some() && source.matrix(Role::TokenEmbedding, 0).is_some());
    assert_eq!(source.arch().vocab, 67);
    let limits = Limits::new(40, 8);
    let plan = Plan::for_header(model.header(), limits).expect("a plan");
    assert_eq!(plan.with_source(source.header(), 0), Err(PlanError::Zero { limit: "source" }));
    let error = PlanError::Context { context: 82, model: 81 };
    assert_eq!(plan.with_source(source.header(), 82), Err(error));
    let other = Model::new(&blob).expect("a good blob");
    assert!(matches!(plan.with_source(other.header(), 8), Err(PlanError::Arch(_))), "a decoder is no encoder");

    // A plan without a source has no room for any.
    let memory = |plan: &Plan| (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
    let (mut cache, mut scratch) = memory(&plan);
    let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("buffers");
    assert_eq!(session.encode_source(&[1]), Err(SessionError::SourceFull { tokens: 1, room: 0 }));
    assert_eq!(session.prefill(&[1]), Err(SessionError::NoSource));

    let plan = plan.with_source(source.header(), 10).expect("a plan");
    let (mut cache, mut scratch) = memory(&plan);
    let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("buffers");
    assert_eq!(session.step(1), Err(SessionError::NoSource));
    assert_eq!(session.score(&[1], |_, _| ()), Err(SessionError::NoSource));
    assert_eq!(session.step_branches(&[1], |_, _| ()), Err(SessionError::NoSource));
    assert_eq!(session.encode(&[1], &[]), Err(SessionError::Decoder));
    session.encode_source(&[1, 2]).expect("a source that fits");
    let before = digest(session.prefill(&[3]).expect("room"));
    assert_eq!(session.encode_source(&[]), Err(SessionError::NoTokens));
    assert_eq!(session.encode_source(&[1, 67]), Err(SessionError::Token { index: 1, id: 67, vocab: 67 }));
    assert_eq!(session.encode_source(&[1; 11]), Err(SessionError::SourceFull { tokens: 11, room: 10 }));
    assert_eq!(session.snapshot(&[3], &mut [0; 4096]), Err(SnapshotError::SourceIds { expected: 2, found: 0 }));
    assert_eq!((session.position(), session.source_tokens()), (1, 2), "nothing has changed");
    session.reset();
    assert_eq!(digest(session.prefill(&[3]).expect("room")), before);

    let plain = thumbformer_tests::shapes::blob(Arch { cross: false, ..*model.arch() }, PACKING);
    let plain = Model::new(&plain).expect("a good blob");
    let mut buffers = Setting::REFERENCE.buffers(&plain, 8);
    let mut session = buffers.session(plain, Backend::PORTABLE, Serial);
    assert_eq!(session.encode_source(&[1]), Err(SessionError::NoEncoder));
    assert_eq!((session.source_context(), session.source_tokens()), (0, 0));
}

/// A snapshot stands for a source and what follows: it goes on in a session that has never seen either.
#[test]
fn snapshots_hold_the_source() {
    for (name, decoder, encoder) in pairs() {
        for layout in LAYOUTS {
            let blob = pair(decoder, encoder, Packing { layout, group: 32 });
            let model = Model::new(&blob).expect("a good blob");
            let answer = ids(decoder.vocab, TOKENS);
            for (tokens, taken) in [(1, 0), (32, 1), (67, 33), (70, 64)] {
                let place = format!("{name}, {}, {taken} behind {tokens}", layout.name());
                let source = ids(encoder.vocab, tokens);
                let mut buffers = Setting::REFERENCE.buffers(&model, TOKENS as u32);
                let mut session = buffers.session(model, Backend::PORTABLE, Serial);
                session.encode_source(&source).expect("a source that fits");
                let expected = score(&mut session, &answer);
                session.rewind(taken).expect("fewer tokens");
                let mut bytes = vec![0xAA; session.plan().snapshot_bytes_with_source(tokens as u32, taken as u32) + 3];
                let len = session.snapshot_with_source(&source, &answer[..taken], &mut bytes).expect("room");
                assert_eq!(len, bytes.len() - 3, "{place}");
                assert_eq!(bytes.split_off(len), [0xAA; 3]);
                // Another session's, with another backend, other chunks and something behind it, is the same.
                let setting = Setting { chunk: 9, dirt: DIRT[1], ..Setting::REFERENCE };
                let mut others = setting.buffers(&model, TOKENS as u32);
                let mut other = others.session(model, Backend::detect(), Serial);
                other.encode_source(&vec![0; 70]).expect("a source that fits");
                other.prefill(&vec![0; TOKENS]).expect("room");
                other.encode_source(&source).expect("a source that fits");
                score(&mut other, &answer);
                other.rewind(taken).expect("fewer tokens");
                let mut again = vec![0; len];
                assert_eq!(other.snapshot_with_source(&source, &answer[..taken], &mut again), Ok(len), "{place}");
                assert!(bytes == again, "{place}: snapshots differ");

                let snapshot = Snapshot::new(&bytes, &model).expect("a good snapshot");
                assert_eq!(snapshot.source_ids().collect::<Vec<_>>(), source);
                assert_eq!(snapshot.ids().collect::<Vec<_>>(), answer[..taken]);
                for keep in [taken, taken / 2, 0] {
                    let mut fresh = setting.buffers(&model, TOKENS as u32);
                    let mut fresh = fresh.session(model, Backend::detect(), Serial);
                    fresh.restore(&snapshot, keep).expect("the same model");
                    assert_eq!((fresh.source_tokens(), fresh.position()), (tokens, keep), "{place}");
                    assert_eq!(score(&mut fresh, &answer[keep..]), expected[keep..], "{place}, {keep} kept");
                }
            }
        }
    }
}

#[test]
fn bad_snapshots_of_sources_are_refused_and_change_nothing() {
    let blob = named("two vocabularies");
    let model = Model::new(&blob).expect("a good blob");
    let (source, answer) = (ids(67, 40), ids(101, 5));
    let mut buffers = Setting::REFERENCE.buffers(&model, TOKENS as u32);
    let mut session = buffers.session(model, Backend::PORTABLE, Serial);
    let mut good = vec![0; session.plan().snapshot_bytes_with_source(40, 5)];
    let len = good.len();
    let none = SnapshotError::Source { found: 0, most: 81 };
    assert_eq!(session.snapshot_with_source(&[], &[], &mut good), Err(none), "no source yet");
    session.encode_source(&source).expect("a source that fits");
    let expected = score(&mut session, &answer);
    let error = SnapshotError::SourceIds { expected: 40, found: 39 };
    assert_eq!(session.snapshot_with_source(&source[1..], &answer, &mut good), Err(error));
    let error = SnapshotError::Ids { expected: 5, found: 4 };
    assert_eq!(session.snapshot_with_source(&source, &answer[1..], &mut good), Err(error));
    let error = SnapshotError::Room { expected: len, found: len - 1 };
    assert_eq!(session.snapshot_with_source(&source, &answer, &mut good[..len - 1]), Err(error));
    assert_eq!(session.snapshot_with_source(&source, &answer, &mut good), Ok(len));

    for at in (0..60).chain((60..len).step_by(17)) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Snapshot::new(&flipped, &model).is_err(), "byte {at}");
        assert!(Snapshot::new(&good[..at], &model).is_err(), "{at} bytes");
    }
    // With checksums that hold, the numbers themselves.
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let crc = crc32(&bytes[40..]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        Snapshot::new(&bytes, &model).map(|snapshot| snapshot.position()).err()
    };
    assert_eq!(changed(28, &40u32.to_le_bytes()), None);
    assert_eq!(changed(28, &0u32.to_le_bytes()), Some(none));
    assert_eq!(changed(28, &82u32.to_le_bytes()), Some(SnapshotError::Source { found: 82, most: 81 }));
    assert!(matches!(changed(28, &41u32.to_le_bytes()), Some(SnapshotError::Length { .. })));
    assert_eq!(changed(40, &67u32.to_le_bytes()), Some(SnapshotError::SourceToken { index: 0, id: 67 }));
    assert_eq!(changed(40 + 4 * 40, &101u32.to_le_bytes()), Some(SnapshotError::Token { index: 0, id: 101 }));
    assert_eq!(changed(40 + 4 * 45, &[0x80]), Some(SnapshotError::Value { tile: 0 }), "a key of the source");
    let own = (len - 40 - 4 * 45) / 3;
    assert_eq!(
        changed(len - own - 4, &[0, 0, 0xC0, 0x7F]),
        Some(SnapshotError::Value { tile: 1 }),
        "a scale of the source"
    );
    assert_eq!(changed(len - 4, &[0, 0, 0xC0, 0x7F]), Some(SnapshotError::Value { tile: 0 }), "a scale of the answer");

    // A session without the room for such a source keeps what it has.
    let snapshot = Snapshot::new(&good, &model).expect("a good snapshot");
    let plan = Plan::for_header(model.header(), Limits::new(40, 8)).expect("a plan");
    let encoder = model.source().expect("an encoder");
    let narrow = plan.with_source(encoder.header(), 39).expect("a plan");
    for (plan, room) in [(plan, 0), (narrow, 39)] {
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("buffers");
        if room > 0 {
            session.encode_source(&[5, 6]).expect("a source that fits");
            session.prefill(&[3]).expect("room");
        }
        let before = (session.position(), session.source_tokens());
        assert_eq!(session.restore(&snapshot, 5), Err(SnapshotError::SourceFull { tokens: 40, room }));
        assert_eq!((session.position(), session.source_tokens()), before);
    }
    session.reset();
    assert_eq!(score(&mut session, &answer), expected, "taking snapshots changes nothing");
}

/// Makes the checksums of both blobs right again.
fn seal(blob: &mut [u8]) {
    let offset = Header::read(blob).expect("a head").source_offset().expect("an encoder") as usize;
    for at in [offset, 0] {
        let content = crc32(&blob[at + HEADER_BYTES..]);
        blob[at + 40..at + 44].copy_from_slice(&content.to_le_bytes());
        blob[at + 44..at + 48].fill(0);
        let head = crc32(&blob[at..at + HEADER_BYTES]);
        blob[at + 44..at + 48].copy_from_slice(&head.to_le_bytes());
    }
}

#[test]
fn bad_encoders_are_refused() {
    let refused = |name: &str, change: &dyn Fn(&mut [u8], usize)| {
        let mut blob = named(name);
        let offset = Header::read(&blob).expect("a head").source_offset().expect("an encoder") as usize;
        change(&mut blob, offset);
        seal(&mut blob);
        Model::new(&blob).map(drop).expect_err("a bad blob")
    };
    let put = |blob: &mut [u8], at: usize, value: u32| blob[at..at + 4].copy_from_slice(&value.to_le_bytes());
    assert_eq!(refused("t5", &|b, at| b[at] = b'x'), BlobError::Magic);
    assert!(matches!(refused("t5", &|b, at| put(b, at + 64, 102)), BlobError::Source { field: "vocab" }));
    // A tensor of another shape would be found, too.
    let other_width = refused("plain", &|b, at| put(b, at + 68, 31));
    assert!(matches!(other_width, BlobError::TooLong { .. } | BlobError::TooShort { .. }), "{other_width}");
    assert!(matches!(refused("t5", &|b, at| put(b, at + 24, 64)), BlobError::TooLong { expected: 64, .. }));
    // An encoder alone is no model where it needs the decoder's embedding.
    let blob = named("t5");
    let offset = Header::read(&blob).expect("a head").source_offset().expect("an encoder") as usize;
    let alone = AlignedBytes::from(&blob[offset..]);
    assert_eq!(Model::new(&alone).map(drop), Err(BlobError::Source { field: "shared_embedding" }));
    let blob = named("two vocabularies");
    let offset = Header::read(&blob).expect("a head").source_offset().expect("an encoder") as usize;
    let alone = AlignedBytes::from(&blob[offset..]);
    assert!(Model::new(&alone).expect("an encoder").arch().is_encoder());
    // Every cut.
    for len in (0..blob.len()).step_by(97) {
        assert!(Model::new(&AlignedBytes::from(&blob[..len])).is_err());
    }
}
