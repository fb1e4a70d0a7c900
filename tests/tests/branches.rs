//! Branches and snapshots of a session: the same bits as sessions of their own, in the memory that was planned.

use thumbformer::arch::Arch;
use thumbformer::decode::{BeamSearch, BeamSettings, EarlyStopping, PromptLookup, Sampler, Sampling, Seen, argmax};
use thumbformer::packing::{Layout, Packing};
use thumbformer::plan::PlanError;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Limits, Model, Plan, Session, SessionError, Snapshot, SnapshotError};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::synthetic::llama;
use thumbformer_tests::sessions::{Buffers, Setting, digest, reference, score};
use thumbformer_tests::shapes::{blob, ids, pair, pairs};

const CONTEXT: u32 = 150;
const PACKINGS: [Packing; 2] =
    [Packing { layout: Layout::Rows8, group: 32 }, Packing { layout: Layout::Dsp, group: 64 }];

/// A model of 61 tokens, heads of 6 and layers of odd widths.
fn model_blob(packing: Packing) -> AlignedBytes {
    blob(llama(61, 24, 2, 4, 2, 40, CONTEXT), packing)
}

/// Dirty memory for a session with branches.
fn branching(model: &Model<'_>, branches: u32, tail: u32) -> Buffers {
    let setting = Setting { backend: Backend::PORTABLE, chunk: 7, logit_rows: 2, dirt: [0xFF, 0x80, 1, 0] };
    let mut buffers = setting.buffers(model, CONTEXT);
    buffers.plan = buffers.plan.with_branches(branches, tail).expect("good numbers");
    buffers.cache = AlignedBytes::zeroed(buffers.plan.cache_bytes());
    buffers.cache.fill(0xFF);
    buffers
}

/// Random forks and steps from every kind of position: each branch has the logits of a session that only ever saw its
/// tokens.
#[test]
fn a_branch_is_as_if_it_were_alone() {
    for packing in PACKINGS {
        let blob = model_blob(packing);
        let model = Model::new(&blob).expect("a good blob");
        for (turn, start) in [1, 31, 32, 33, 64, 100, 141].into_iter().enumerate() {
            let rng = &mut fastrand::Rng::with_seed(start as u64);
            let tail = 9;
            let mut buffers = branching(&model, 5, tail);
            let backends: Vec<Backend> = Backend::available().collect();
            let backend = backends[turn % backends.len()];
            let mut session = buffers.session(model, backend, Serial);
            let prompt = ids(61, start);
            session.prefill(&prompt).expect("tokens that fit");
            let mut sequences = vec![prompt];
            for step in 0..tail {
                let parents: Vec<u32> = (0..rng.usize(2..=5)).map(|_| rng.u32(0..sequences.len() as u32)).collect();
                session.branch(&parents).expect("as planned");
                assert_eq!(session.branches(), parents.len());
                sequences = parents.iter().map(|&parent| sequences[parent as usize].clone()).collect();
                let next: Vec<u32> = parents.iter().map(|_| rng.u32(0..61)).collect();
                sequences.iter_mut().zip(&next).for_each(|(sequence, &id)| sequence.push(id));
                let mut found = Vec::new();
                let visit = |branch: usize, logits: &[f32]| {
                    assert_eq!(branch, found.len());
                    found.push(digest(logits));
                };
                session.step_branches(&next, visit).expect("within the tail");
                assert_eq!(session.position(), start + step as usize + 1);
                for (branch, sequence) in sequences.iter().enumerate() {
                    let alone = *reference(model, sequence).last().expect("tokens");
                    assert_eq!(found[branch], alone, "branch {branch} of {parents:?} at {start} + {step}, {packing:?}");
                }
            }
            // The tail is over, and nothing has changed.
            let count = sequences.len();
            let full = SessionError::ContextFull {
                position: start + tail as usize,
                tokens: 1,
                context: (start + tail as usize).min(CONTEXT as usize),
            };
            assert_eq!(session.step_branches(&vec![0; count], |_, _| panic!("full")), Err(full));
            // The first branch goes on as a plain session.
            let mut first = sequences.swap_remove(0);
            session.rewind(start + 3).expect("fewer tokens");
            first.truncate(start + 3);
            assert_eq!(session.branches(), 1);
            first.extend([5, 6, 7]);
            let trace = reference(model, &first);
            assert_eq!(score(&mut session, &[5, 6, 7]), trace[start + 3..], "rewound, from {start}");
            session.reset();
            assert_eq!(score(&mut session, &first), trace);
        }
    }
}

#[test]
fn wrong_branches_are_refused_and_change_nothing() {
    let blob = model_blob(PACKINGS[0]);
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = branching(&model, 3, 20);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.prefill(&[1, 2, 3]).expect("tokens that fit");
    assert_eq!(session.branch(&[]), Err(SessionError::Branches { found: 0, planned: 3 }));
    assert_eq!(session.branch(&[0; 4]), Err(SessionError::Branches { found: 4, planned: 3 }));
    assert_eq!(session.branch(&[0, 1]), Err(SessionError::Parent { found: 1, branches: 1 }));
    session.branch(&[0, 0]).expect("as planned");
    assert_eq!(session.branch(&[0, 2]), Err(SessionError::Parent { found: 2, branches: 2 }));
    let error = session.step_branches(&[1], |_, _| panic!("too few"));
    assert_eq!(error, Err(SessionError::Tokens { found: 1, expected: 2 }));
    let error = session.step_branches(&[1, 61], |_, _| panic!("not in the vocabulary"));
    assert_eq!(error, Err(SessionError::Token { index: 1, id: 61, vocab: 61 }));
    let mut found = Vec::new();
    session.step_branches(&[4, 5], |_, logits| found.push(digest(logits))).expect("room");
    let alone = |last| *reference(model, &[1, 2, 3, last]).last().expect("tokens");
    assert_eq!(found, [alone(4), alone(5)]);

    // A session that was planned without branches has one.
    let setting = Setting { backend: Backend::detect(), chunk: 7, logit_rows: 2, dirt: [0xFF; 4] };
    let mut buffers = setting.buffers(&model, CONTEXT);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.prefill(&[1, 2, 3]).expect("tokens that fit");
    assert_eq!(session.branch(&[0, 0]), Err(SessionError::Branches { found: 2, planned: 1 }));
    session.branch(&[0]).expect("itself");
    session.step_branches(&[4], |_, logits| assert_eq!(digest(logits), alone(4))).expect("room");
}

#[test]
fn branches_cost_their_tails_only() {
    let arch = llama(128, 32, 2, 4, 2, 64, 4096);
    let plain = Plan::new(&arch, PACKINGS[0], Limits::new(1024, 8)).expect("good limits");
    let tile = 2 * 2 * 32 * (8 + 8 + 4 + 4);
    assert_eq!(plain.cache_bytes(), 32 * tile + 63);
    let beams = plain.with_branches(4, 20).expect("good numbers");
    // 20 positions reach into two tiles, three times; the table has 8 rows of 32 entries.
    assert_eq!(beams.cache_bytes(), (32 + 3 * 2) * tile + 8 * 32 * 2 + 63);
    assert_eq!(beams.scratch_bytes(), plain.scratch_bytes());
    assert_eq!(plain.with_branches(1, 20).map(|plan| plan.cache_bytes()), Ok(plain.cache_bytes()));
    // Never more than sessions of their own.
    assert_eq!(plain.with_branches(4, u32::MAX).map(|plan| plan.cache_bytes()), Ok(4 * 32 * tile + 8 * 32 * 2 + 63));
    assert_eq!(plain.with_branches(0, 1), Err(PlanError::Zero { limit: "branches" }));
    assert_eq!(plain.with_branches(1, 0), Err(PlanError::Zero { limit: "tail" }));
    assert_eq!(plain.with_branches(u32::MAX, 1), Err(PlanError::Branches { branches: u32::MAX }));
}

/// With as many beams as there are sequences, beam search is exhaustive: its best hypotheses are the best of all.
#[test]
fn beam_search_finds_the_best_of_all_sequences() {
    const VOCAB: u32 = 6;
    let blob = blob(llama(VOCAB, 24, 2, 4, 2, 40, 64), PACKINGS[0]);
    let model = Model::new(&blob).expect("a good blob");
    let prompt = [1, 2, 3, 4, 5, 0, 1];
    for (end, length_penalty) in [(&[][..], 1.0f32), (&[2], 1.0), (&[2, 4], 0.0), (&[3], 2.5), (&[0], -0.7)] {
        const LEN: usize = 3;
        // Every sequence of up to three tokens, scored by its own session in f64.
        let mut all: Vec<(Vec<u32>, f64)> = Vec::new();
        let mut open = vec![(Vec::new(), 0f64)];
        while let Some((sequence, sum)) = open.pop() {
            let ids: Vec<u32> = prompt.iter().chain(&sequence).copied().collect();
            let mut buffers = Setting::REFERENCE.buffers(&model, 64);
            let mut session = buffers.session(model, Backend::PORTABLE, Serial);
            let logits: Vec<f64> =
                session.prefill(&ids).expect("tokens that fit").iter().map(|&logit| f64::from(logit)).collect();
            let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            for (id, logit) in (0..VOCAB).zip(&logits) {
                let mut longer = sequence.clone();
                longer.push(id);
                let sum = sum + logit - log_sum;
                if longer.len() == LEN || end.contains(&id) {
                    let score = sum / (longer.len() as f64).powf(length_penalty.into());
                    all.push((longer, score));
                } else {
                    open.push((longer, sum));
                }
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));

        // More beams than the vocabulary has tokens, and than there are sequences at first.
        let beams = 40;
        let limits = Limits::new(64, 8);
        let plan = Plan::for_header(model.header(), limits).and_then(|plan| plan.with_branches(beams as u32, 3));
        let plan = plan.expect("good numbers");
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::new(model, &plan, &mut cache, &mut scratch).expect("good buffers");
        let early_stopping = EarlyStopping::Never;
        let settings = BeamSettings { beams, max_tokens: LEN, length_penalty, early_stopping, end };
        let mut room = vec![u32::MAX; BeamSearch::room(beams, LEN, end.len())];
        let mut search = BeamSearch::new(settings, &mut room).expect("good settings");
        search.begin(session.prefill(&prompt).expect("tokens that fit"));
        while !search.is_done() {
            search.step(&mut session).expect("room");
        }
        assert_eq!(search.hypotheses(), beams.min(all.len()));
        let mut out = [0; LEN];
        for (n, (sequence, expected)) in all.iter().take(if end.is_empty() { beams } else { 5 }).enumerate() {
            let (len, score) = search.hypothesis(n, &mut out).expect("a hypothesis");
            assert!((f64::from(score) - expected).abs() < 1e-5, "number {n}: {score}, not {expected}");
            assert_eq!(out[..len], sequence[..], "number {n}, end {end:?}");
        }
        assert_eq!(search.hypothesis(beams, &mut out), None);
        assert_eq!(search.hypothesis(0, &mut []), None);
    }
}

#[test]
fn a_snapshot_goes_on_as_if_nothing_had_happened() {
    for packing in PACKINGS {
        let blob = model_blob(packing);
        let model = Model::new(&blob).expect("a good blob");
        let all = ids(61, 120);
        let trace = reference(model, &all);
        for taken in [0, 1, 31, 32, 33, 90] {
            let mut buffers = branching(&model, 2, 4);
            let mut session = buffers.session(model, Backend::detect(), Serial);
            let mut bytes = vec![0xAA; session.plan().snapshot_bytes(taken as u32) + 5];
            // Longer, then cut: what lies behind the end is not part of it.
            session.prefill(&all).expect("tokens that fit");
            session.rewind(taken).expect("fewer tokens");
            let len = session.snapshot(&all[..taken], &mut bytes).expect("room");
            assert_eq!(len, session.plan().snapshot_bytes(taken as u32));
            assert_eq!(bytes[len..], [0xAA; 5]);
            bytes.truncate(len);
            assert_eq!(score(&mut session, &all[taken..]), trace[taken..], "the session itself goes on");

            // The same tokens, the same bytes: by another backend, with other dirt, another context and chunk.
            let setting = Setting { backend: Backend::PORTABLE, chunk: 40, logit_rows: 1, dirt: [3, 0x80, 0xFF, 7] };
            let mut others = setting.buffers(&model, 121);
            let mut other = others.session(model, Backend::PORTABLE, Serial);
            if taken > 0 {
                other.prefill(&all[..taken]).expect("tokens that fit");
            }
            let mut again = vec![0; len];
            assert_eq!(other.snapshot(&all[..taken], &mut again), Ok(len));
            assert!(bytes == again, "snapshots of {taken} tokens differ");

            let snapshot = Snapshot::new(&bytes, &model).expect("a good snapshot");
            assert_eq!(snapshot.position(), taken);
            assert_eq!(snapshot.ids().collect::<Vec<_>>(), all[..taken]);
            assert_eq!(snapshot.in_common(&all), taken);
            assert_eq!(snapshot.in_common(&all[..taken]), taken.saturating_sub(1));
            for keep in [taken, taken / 2, usize::MAX] {
                other.reset();
                other.prefill(&[60; 100]).expect("tokens that fit");
                other.restore(&snapshot, keep).expect("the same model");
                let kept = keep.min(taken);
                assert_eq!(other.position(), kept);
                assert_eq!(score(&mut other, &all[kept..]), trace[kept..], "{kept} of {taken} kept");
            }
        }
    }
}

#[test]
fn bad_snapshots_are_refused_and_change_nothing() {
    let blobs =
        [model_blob(PACKINGS[0]), model_blob(PACKINGS[1]), blob(llama(61, 24, 2, 4, 2, 44, CONTEXT), PACKINGS[0])];
    let model = Model::new(&blobs[0]).expect("a good blob");
    let prompt = ids(61, 37);
    let setting = Setting { backend: Backend::detect(), chunk: 8, logit_rows: 2, dirt: [0xFF; 4] };
    let mut buffers = setting.buffers(&model, CONTEXT);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.prefill(&prompt).expect("tokens that fit");
    let len = session.plan().snapshot_bytes(37);
    let mut good = vec![0; len];
    let error = |expected, found| Err(SnapshotError::Room { expected, found });
    assert_eq!(session.snapshot(&prompt, &mut good[..len - 1]), error(len, len - 1));
    assert_eq!(session.snapshot(&prompt, &mut []), error(len, 0));
    assert_eq!(session.snapshot(&prompt[1..], &mut good), Err(SnapshotError::Ids { expected: 37, found: 36 }));
    assert_eq!(session.snapshot(&prompt, &mut good), Ok(len));

    for blob in &blobs[1..] {
        let other = Model::new(blob).expect("a good blob");
        assert_eq!(Snapshot::new(&good, &other).err(), Some(SnapshotError::OtherModel));
        // Checked for one model, given to a session of another.
        let mut buffers = setting.buffers(&other, CONTEXT);
        let mut session = buffers.session(other, Backend::detect(), Serial);
        session.prefill(&[1, 2]).expect("tokens that fit");
        let snapshot = Snapshot::new(&good, &model).expect("a good snapshot");
        assert_eq!(session.restore(&snapshot, 37), Err(SnapshotError::OtherModel));
        assert_eq!(session.position(), 2);
        assert_eq!(digest(session.step(3).expect("room")), *reference(other, &[1, 2, 3]).last().expect("tokens"));
    }
    let mut small = setting.buffers(&model, 36);
    let mut narrow = small.session(model, Backend::detect(), Serial);
    let snapshot = Snapshot::new(&good, &model).expect("a good snapshot");
    assert_eq!(narrow.restore(&snapshot, 37), Err(SnapshotError::ContextFull { tokens: 37, context: 36 }));
    assert_eq!(narrow.restore(&snapshot, 36), Ok(()));

    for len in (0..good.len()).step_by(13).chain([0, 7, 8, 39, 40]) {
        assert!(Snapshot::new(&good[..len], &model).is_err(), "{len} bytes");
    }
    let found = Snapshot::new(&[&good[..], &[0]].concat(), &model).err();
    assert_eq!(found, Some(SnapshotError::Length { expected: len as u64, found: len as u64 + 1 }));
    for at in (0..48).chain((48..good.len()).step_by(11)) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        let error = Snapshot::new(&flipped, &model).err();
        let expected = match at {
            0..8 => error == Some(SnapshotError::Magic),
            8..12 => matches!(error, Some(SnapshotError::Version { .. })),
            _ => error == Some(SnapshotError::Checksum),
        };
        assert!(expected, "byte {at}: {error:?}");
    }
    // With checksums that hold, the numbers themselves.
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let crc = crc32fast::hash(&bytes[40..]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        Snapshot::new(&bytes, &model).map(|snapshot| snapshot.position()).err()
    };
    assert_eq!(changed(40, &prompt[0].to_le_bytes()), None);
    assert_eq!(changed(40 + 4 * 5, &61u32.to_le_bytes()), Some(SnapshotError::Token { index: 5, id: 61 }));
    assert!(matches!(changed(20, &38u32.to_le_bytes()), Some(SnapshotError::Length { .. })));
    assert!(matches!(changed(20, &u32::MAX.to_le_bytes()), Some(SnapshotError::Length { .. })));
    assert!(matches!(changed(12, &[1]), Some(SnapshotError::OtherModel)));
    assert_eq!(changed(24, &1u32.to_le_bytes()), Some(SnapshotError::Window { found: 1, latest: 0 }));
    assert_eq!(changed(28, &1u32.to_le_bytes()), Some(SnapshotError::Source { found: 1, most: 0 }));
    let first = 40 + 4 * 37;
    assert_eq!(changed(first, &[0x80]), Some(SnapshotError::Value { tile: 0 }), "a key of -128");
    let tile = (len - first) / 2;
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(changed(len - 4, &bad.to_le_bytes()), Some(SnapshotError::Value { tile: 1 }), "{bad}");
        assert_eq!(changed(first + tile - 4, &bad.to_le_bytes()), Some(SnapshotError::Value { tile: 0 }), "{bad}");
    }
    let trace = reference(model, &[&prompt[..], &[1, 2]].concat());
    assert_eq!(score(&mut session, &[1, 2]), trace[37..], "taking snapshots changes nothing");
}

/// Any damage, with checksums that hold: what is not refused can be used, and every backend makes the same of it.
#[test]
fn forged_snapshots_are_refused_or_harmless() {
    let rng = &mut fastrand::Rng::with_seed(9);
    let windowed = Arch { window: 5, global_every: 2, ..llama(61, 24, 2, 4, 2, 40, CONTEXT) };
    let (_, decoder, encoder) = pairs().remove(0);
    let blobs = [
        model_blob(PACKINGS[0]),
        model_blob(PACKINGS[1]),
        blob(windowed, PACKINGS[0]),
        pair(Arch { vocab: 61, context: CONTEXT, ..decoder }, Arch { vocab: 61, ..encoder }, PACKINGS[0]),
    ];
    for blob in &blobs {
        let model = Model::new(blob).expect("a good blob");
        let prompt = ids(61, 40);
        let source = if model.source().is_some() { ids(61, 35) } else { Vec::new() };
        let mut buffers = branching(&model, 1, 1);
        let mut session = buffers.session(model, Backend::PORTABLE, Serial);
        if !source.is_empty() {
            session.encode_source(&source).expect("a source that fits");
        }
        session.prefill(&prompt).expect("tokens that fit");
        let mut good = vec![0; session.plan().snapshot_bytes_with_source(source.len() as u32, 40)];
        session.snapshot_with_source(&source, &prompt, &mut good).expect("room");
        let mut used = 0;
        for _ in 0..2000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..20) {
                // Half of the damage among the tokens and the first numbers of the head.
                let end = if rng.bool() { 40 + 4 * 40 } else { bytes.len() };
                bytes[rng.usize(20..end)] = [0, 1, 0x7F, 0x80, 0xFF, rng.u8(..)][rng.usize(..6)];
            }
            bytes.truncate(if rng.u8(..) < 20 { rng.usize(40..bytes.len()) } else { bytes.len() });
            if rng.bool() {
                bytes[20..32].copy_from_slice(&good[20..32]);
            }
            let crc = crc32fast::hash(&bytes[40..]);
            bytes[32..36].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32fast::hash(&bytes[..36]);
            bytes[36..40].copy_from_slice(&crc.to_le_bytes());
            let Ok(snapshot) = Snapshot::new(&bytes, &model) else { continue };
            used += 1;
            let mut traces = Backend::available().map(|backend| {
                let mut buffers = branching(&model, 1, 1);
                let mut session = buffers.session(model, backend, Serial);
                session.restore(&snapshot, usize::MAX).expect("the same model");
                score(&mut session, &[1, 2, 3])
            });
            let first = traces.next().expect("a backend");
            assert!(traces.all(|trace| trace == first), "backends differ on a forged snapshot");
        }
        assert!(used > 20, "only {used} were used");
    }
}

/// Everything that decodes, in memory of its caller alone; and lookup finds what greedy decoding does on every backend.
#[test]
fn decoding_allocates_nothing_and_lookup_is_lossless() {
    let blob = model_blob(PACKINGS[0]);
    let model = Model::new(&blob).expect("a good blob");
    let prompt = ids(61, 20);
    for backend in Backend::available() {
        let mut buffers = branching(&model, 3, 12);
        let mut plain = vec![0; 100];
        let mut session = buffers.session(model, backend, Serial);
        let mut id = argmax(session.prefill(&prompt).expect("tokens that fit"));
        for slot in &mut plain {
            *slot = id;
            id = argmax(session.step(id).expect("room"));
        }
        let mut history = [&prompt[..], &[0; 100]].concat();
        let mut room = vec![0; BeamSearch::room(3, 10, 1)];
        let mut seen = [Seen::default(); 150];
        let mut snapshot = vec![0; session.plan().snapshot_bytes(20)];
        let counted = allocation_counter::measure(|| {
            session.reset();
            history[20] = argmax(session.prefill(&history[..20]).expect("tokens that fit"));
            assert!(session.snapshot(&prompt, &mut snapshot).is_ok());
            let mut lookup = PromptLookup::new(3, 6);
            let mut len = 21;
            while len < history.len() {
                let (known, room) = history.split_at_mut(len);
                len += lookup.step(&mut session, known, room).expect("room");
            }
            assert!(lookup.accepted() > 0, "an answer without repetitions shows nothing");
            session.restore(&Snapshot::new(&snapshot, &model).expect("good"), 19).expect("the same model");
            let settings = Sampling { top_p: 0.9, top_k: 9, repetition_penalty: 1.1, ..Sampling::default() };
            let mut sampler = Sampler::new(settings, 1, &mut seen).expect("good settings");
            session.step(prompt[19]).expect("room");
            for _ in 0..20 {
                let id = sampler.choose(session.logits_mut()).expect("a token");
                session.step(id).expect("room");
            }
            session.rewind(19).expect("fewer tokens");
            let settings = BeamSettings {
                beams: 3,
                max_tokens: 10,
                length_penalty: 1.0,
                early_stopping: EarlyStopping::Heuristic,
                end: &[5],
            };
            let mut search = BeamSearch::new(settings, &mut room).expect("good settings");
            search.begin(session.step(prompt[19]).expect("room"));
            while !search.is_done() {
                search.step(&mut session).expect("room");
            }
            assert!(search.hypotheses() > 0);
        });
        assert_eq!(counted.count_total, 0, "{counted:?}");
        assert_eq!(history[20..], plain[..], "{}", backend.name());
    }
}
