//! Layers with a window keep a ring of positions: the same bits as with all of them, in the memory that was planned.

use thumbformer::arch::{Activation, Arch, HeadNorm, LayerSet, Norm};
use thumbformer::decode::{PromptLookup, argmax};
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Serial;
use thumbformer::{Backend, Limits, Model, Plan, Session, SessionError, Snapshot, SnapshotError};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::synthetic::llama;
use thumbformer_tests::sessions::{Backwards, Buffers, Setting, Trace, digest, score};
use thumbformer_tests::shapes::{LAYOUTS, blob, ids};

/// Ten tiles, the last one in part.
const CONTEXT: u32 = 300;
const TOKENS: usize = CONTEXT as usize;
const DIRT: [[u8; 4]; 3] = [[0, 0, 0xC0, 0x7F], [0xFF; 4], [0, 0, 0x80, 0x7F]];

/// Windows of less than a tile, of a tile, of more, of one position; in all layers and in some.
fn archs() -> Vec<(&'static str, Arch)> {
    let scaled = |arch: Arch| Arch { attention_scale: 1.0 / (arch.head_dim as f32).sqrt(), ..arch };
    let mistral = llama(61, 24, 2, 4, 2, 44, CONTEXT);
    let gemma = scaled(Arch {
        head_dim: 6,
        rotary_dim: 6,
        activation: Activation::GeluTanh,
        score_cap: 5.0,
        logit_cap: 3.0,
        window_rope: true,
        output_norms: true,
        head_norm: HeadNorm::Rms,
        ..llama(61, 24, 4, 4, 1, 44, CONTEXT)
    });
    let odd = scaled(Arch { head_dim: 7, rotary_dim: 4, norm: Norm::Layer, ..llama(61, 21, 3, 3, 3, 30, CONTEXT) });
    vec![
        ("7", Arch { window: 7, ..mistral }),
        ("32", Arch { window: 32, ..mistral }),
        ("100", Arch { window: 100, ..mistral }),
        ("1", Arch { window: 1, ..odd }),
        ("33, every other layer", Arch { window: 33, global_every: 2, ..odd }),
        ("50, two of three layers", Arch { window: 50, global_every: 3, ..gemma }),
        ("33, first and last layer", Arch { window: 33, window_list: LayerSet::from_bits(0b1001), ..gemma }),
        ("65, the last layers", Arch { window: 65, global_every: 3, ..gemma }),
    ]
}

/// All of them, in layouts that take turns.
fn blobs() -> impl Iterator<Item = (String, AlignedBytes)> {
    archs().into_iter().enumerate().map(|(turn, (name, arch))| {
        let layout = LAYOUTS[turn % 2];
        (format!("window {name}, {}", layout.name()), blob(arch, Packing { layout, group: 32 }))
    })
}

/// Memory for a session, dirty, planned by `change`.
fn buffers(model: &Model<'_>, chunk: u32, change: impl Fn(Plan) -> Plan) -> Buffers {
    let setting = Setting { backend: Backend::PORTABLE, chunk, logit_rows: 3, dirt: DIRT[chunk as usize % 3] };
    let Buffers { plan, .. } = setting.buffers(model, model.arch().context);
    let plan = change(plan);
    let dirty = |bytes| {
        let mut buffer = AlignedBytes::zeroed(bytes);
        buffer.iter_mut().zip(setting.dirt.iter().cycle()).for_each(|(byte, dirt)| *byte = *dirt);
        buffer
    };
    Buffers { cache: dirty(plan.cache_bytes()), scratch: dirty(plan.scratch_bytes()), plan }
}

fn plain(model: &Model<'_>, chunk: u32) -> Buffers {
    buffers(model, chunk, |plan| plan)
}

/// All positions are kept.
fn whole(plan: Plan) -> Plan {
    plan.with_rewind(u32::MAX).expect("small")
}

/// What a session says that keeps all positions and takes one token after the other.
fn reference(model: Model<'_>, ids: &[u32]) -> Trace {
    let mut buffers = buffers(&model, 1, whole);
    let mut session = buffers.session(model, Backend::PORTABLE, Serial);
    ids.iter().map(|&id| digest(session.step(id).expect("tokens that fit"))).collect()
}

#[test]
fn rings_and_whole_caches_have_the_same_bits() {
    for (turn, (name, blob)) in blobs().enumerate() {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(61, TOKENS);
        let expected = reference(model, &ids);
        let all = Backend::available().count();
        for chunk in 1..=64 {
            for (_, backend) in
                Backend::available().enumerate().filter(|(i, _)| (turn + i + chunk as usize).is_multiple_of(all))
            {
                let mut buffers = plain(&model, chunk);
                let place = format!("{name}, chunk {chunk}, {}", backend.name());
                assert!(buffers.cache.len() < self::buffers(&model, chunk, whole).cache.len(), "{place}: no ring");
                let mut session = buffers.session(model, backend, Serial);
                assert_eq!(score(&mut session, &ids), expected, "{place}");
                // Chunks that begin anywhere, and again in the same memory.
                session.reset();
                let rng = &mut fastrand::Rng::with_seed(chunk.into());
                while session.position() < TOKENS && chunk % 4 == 1 {
                    let at = session.position();
                    let end = at + rng.usize(1..=(TOKENS - at).min(90));
                    let logits = session.prefill(&ids[at..end]).expect("tokens that fit");
                    assert_eq!(digest(logits), expected[end - 1], "{place}, {at}..{end}");
                }
            }
        }
        let mut buffers = plain(&model, 24);
        let found = score(&mut buffers.session(model, Backend::detect(), Backwards(7)), &ids);
        assert_eq!(found, expected, "{name}, workers");
    }
}

/// The sizes by hand: a ring has the window's tiles, and room for 32 positions or the chunk beside the newest one.
#[test]
fn layers_with_a_window_cost_their_rings_only() {
    let tile = 32 * (8 + 8 + 4 + 4);
    let packing = Packing { layout: Layout::Rows8, group: 32 };
    let bytes = |window, global_every, context, chunk| {
        let arch = Arch { window, global_every, ..llama(61, 32, 6, 4, 2, 44, 1 << 20) };
        let plan = Plan::new(&arch, packing, Limits::new(context, chunk)).expect("good limits");
        (plan.cache_bytes() - 63) / (2 * tile)
    };
    // Whatever the context: 512 positions, 32 more but one.
    assert_eq!(bytes(512, 0, 1 << 20, 8), 6 * 17);
    assert_eq!(bytes(512, 0, 4096, 32), 6 * 17);
    assert_eq!(bytes(512, 0, 4096, 33), 6 * 17);
    assert_eq!(bytes(512, 0, 4096, 34), 6 * 18);
    assert_eq!(bytes(513, 0, 4096, 8), 6 * 17);
    assert_eq!(bytes(514, 0, 4096, 8), 6 * 18);
    assert_eq!(bytes(1, 0, 4096, 1), 6);
    // Layers that see everything have all tiles: one of six, two, none.
    assert_eq!(bytes(512, 6, 4096, 8), 5 * 17 + 128);
    assert_eq!(bytes(512, 3, 4096, 8), 4 * 17 + 2 * 128);
    assert_eq!(bytes(512, 7, 4096, 8), 6 * 17);
    assert_eq!(bytes(512, 1, 4096, 8), 6 * 128);
    // No more than the context, and as much as without a window where the ring would be as long.
    for context in [1, 33, 500, 544] {
        assert_eq!(bytes(512, 2, context, 8), bytes(0, 0, context, 8), "{context}");
    }
    assert!(bytes(512, 2, 545, 8) < bytes(0, 0, 545, 8));
    let arch = Arch { window: 512, ..llama(61, 32, 6, 4, 2, 44, 1 << 20) };
    let plan = Plan::new(&arch, packing, Limits::new(4096, 8)).expect("good limits");
    assert_eq!(plan.rewind_room(), 32);
    let more = plan.with_rewind(68).expect("small");
    assert_eq!((more.rewind_room(), more.cache_bytes() - 63), (100, 12 * tile * 20));
    let all = plan.with_rewind(5000).expect("small");
    assert_eq!((all.rewind_room(), all.cache_bytes() - 63), (4096, 12 * tile * 128));
    // Branches share what all of them see.
    let branches = plan.with_branches(2, 10).expect("small");
    assert_eq!(branches.rewind_room(), 4096);
    let alone = branches.with_branches(1, 1).expect("small");
    assert_eq!((alone.rewind_room(), alone.cache_bytes()), (32, plan.cache_bytes()));
}

/// At compile time, as firmware does it.
const _: () = {
    let arch = Arch { window: 64, ..llama_at_compile_time() };
    let Ok(plan) = Plan::new(&arch, Packing { layout: Layout::Dsp, group: 32 }, Limits::new(4096, 8)) else { panic!() };
    assert!(plan.cache_bytes() == 2 * 96 * (8 + 8 + 8) + 63);
};

const fn llama_at_compile_time() -> Arch {
    Arch { head_dim: 8, heads: 2, kv_heads: 2, context: 4096, ..Arch::PLAIN }
}

#[test]
fn rewinds_within_the_room_are_exact_and_others_refused() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let window = model.arch().window as usize;
        let right = ids(61, TOKENS);
        let wrong: Vec<u32> = right.iter().rev().map(|id| (id * 5 + 2) % 61).collect();
        let expected = reference(model, &right);
        for (chunk, more) in [(5, 0), (64, 0), (8, 45)] {
            let mut buffers = buffers(&model, chunk, |plan| plan.with_rewind(more).expect("small"));
            let room = buffers.plan.rewind_room();
            assert_eq!(room, 32 + more as usize, "{name}");
            let mut session = buffers.session(model, Backend::detect(), Serial);
            let rng = &mut fastrand::Rng::with_seed(chunk.into());
            let (mut refused, mut highest) = (0, 0);
            while session.position() < TOKENS {
                let at = session.position();
                let end = TOKENS.min(at + rng.usize(1..80));
                assert_eq!(score(&mut session, &right[at..end]), expected[at..end], "{name}, {chunk}");
                // Something else, as much as can be taken back.
                let tail = rng.usize(0..=room).min(TOKENS - end);
                if tail > 0 {
                    session.prefill(&wrong[..tail]).expect("tokens that fit");
                }
                session.rewind(end).expect("within the room");
                highest = highest.max(end + tail);
                // A ring is at most a tile longer than it must be.
                let longest = window + room.max(chunk as usize) + 31;
                for keep in [1, 50, 100, 200].into_iter().filter(|keep| keep + longest < end) {
                    let Err(SessionError::Forgotten { asked, fewest }) = session.rewind(keep) else {
                        panic!("{name}: went back from {end} to {keep}")
                    };
                    assert!(asked == keep && fewest > keep && fewest + room <= end.max(highest), "{name}: {fewest}");
                    assert_eq!(session.position(), end, "changed by a refusal");
                    refused += 1;
                }
            }
            assert!(refused > 0 && session.cached_key_is_there(0) != Some(true), "{name}: nothing was forgotten");
            session.rewind(0).expect("always");
            assert_eq!(score(&mut session, &right), expected, "{name}, from the start");
        }
        let mut buffers = buffers(&model, 8, whole);
        let mut session = buffers.session(model, Backend::detect(), Serial);
        assert_eq!(score(&mut session, &right), expected, "{name}");
        for keep in [250, 131, 64, 1] {
            session.rewind(keep).expect("everything is kept");
            assert_eq!(score(&mut session, &right[keep..]), expected[keep..], "{name}, {keep}");
        }
    }
}

/// Whether a layer's key of position 0 can be read.
trait Peek {
    fn cached_key_is_there(&mut self, layer: u32) -> Option<bool>;
}

impl Peek for Session<'_, '_> {
    fn cached_key_is_there(&mut self, layer: u32) -> Option<bool> {
        let mut key = vec![f32::NAN; self.model().arch().head_dim as usize];
        self.cached_key(layer, 0, 0, &mut key);
        (self.position() > 0).then(|| key.iter().all(|k| k.is_finite()))
    }
}

#[test]
fn layers_without_a_window_keep_their_keys() {
    let (_, arch) = archs().remove(5);
    let blob = blob(arch, Packing { layout: Layout::Rows8, group: 32 });
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = plain(&model, 8);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    session.prefill(&ids(61, TOKENS)).expect("tokens that fit");
    assert_eq!([0, 1, 2, 3].map(|layer| session.cached_key_is_there(layer)), [false, false, true, false].map(Some));
}

#[test]
fn lookup_stays_lossless() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let prompt = ids(61, 40);
        let mut accepted = 0;
        for (longest, most) in [(1, 200), (2, 31)] {
            let mut buffers = plain(&model, 16);
            let mut session = buffers.session(model, Backend::detect(), Serial);
            let mut plain = vec![0; TOKENS - 40];
            let mut id = argmax(session.prefill(&prompt).expect("tokens that fit"));
            for slot in &mut plain {
                *slot = id;
                id = argmax(session.step(id).expect("room"));
            }
            session.reset();
            let mut history = [&prompt[..], &vec![0; TOKENS - 40]].concat();
            history[40] = argmax(session.prefill(&prompt).expect("tokens that fit"));
            let (mut lookup, mut len) = (PromptLookup::new(longest, most), 41);
            while len < history.len() {
                let (known, room) = history.split_at_mut(len);
                len += lookup.step(&mut session, known, room).expect("never too far back");
            }
            assert_eq!(history[40..], plain[..], "{name}, {longest} {most}");
            accepted += lookup.accepted();
        }
        println!("{name}: {accepted} drafted tokens were right");
    }
}

#[test]
fn branches_keep_all_positions() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(61, TOKENS);
        let other: Vec<u32> =
            ids.iter().enumerate().map(|(i, id)| if i < 230 { *id } else { (id * 3 + 1) % 61 }).collect();
        let expected = [reference(model, &ids), reference(model, &other)];
        let mut buffers = buffers(&model, 16, |plan| plan.with_branches(2, 60).expect("small"));
        let mut session = buffers.session(model, Backend::detect(), Serial);
        session.prefill(&ids[..230]).expect("tokens that fit");
        for position in 230..290 {
            session.branch(if position == 230 { &[0, 0] } else { &[0, 1] }).expect("planned");
            let visit = |branch: usize, logits: &[f32]| {
                assert_eq!(digest(logits), expected[branch][position], "{name}, {position}");
            };
            session.step_branches(&[ids[position], other[position]], visit).expect("room");
        }
        session.rewind(20).expect("everything is kept");
        assert_eq!(score(&mut session, &ids[20..]), expected[0][20..], "{name}");

        // One branch of one is no branch: a ring.
        let mut buffers = plain(&model, 16);
        let mut session = buffers.session(model, Backend::detect(), Serial);
        for (position, id) in ids.iter().enumerate() {
            let visit = |_, logits: &[f32]| assert_eq!(digest(logits), expected[0][position], "{name}, {position}");
            session.step_branches(&[*id], visit).expect("room");
        }
        assert!(matches!(session.rewind(1), Err(SessionError::Forgotten { .. })), "{name}");
    }
}

#[test]
fn snapshots_hold_what_is_needed() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let window = model.arch().window as usize;
        let ids = ids(61, TOKENS);
        let expected = reference(model, &ids);
        let wrong = vec![60; TOKENS];
        for taken in [0, 1, 31, 32, 70, 131, 160, 223, 299] {
            let mut from = plain(&model, 7);
            let mut session = from.session(model, Backend::PORTABLE, Serial);
            if taken > 0 {
                session.prefill(&ids[..taken]).expect("tokens that fit");
            }
            let mut bytes = vec![0; session.plan().snapshot_bytes(taken as u32)];
            assert_eq!(session.snapshot(&ids[..taken], &mut bytes), Ok(bytes.len()), "{name}, {taken}");
            // Of another session that holds the same: other chunks, other places, something else behind it.
            let mut again = vec![0xAA; bytes.len()];
            let mut into = buffers(&model, 64, |plan| plan.with_rewind(40).expect("small"));
            let mut session = into.session(model, Backend::detect(), Serial);
            session.prefill(&[&ids[..taken], &wrong[..40.min(TOKENS - taken)]].concat()).expect("tokens that fit");
            session.rewind(taken).expect("within the room");
            assert_eq!(session.snapshot(&ids[..taken], &mut again), Ok(again.len()), "{name}, {taken}");
            assert!(bytes == again, "{name}: snapshots of {taken} tokens differ");

            let snapshot = Snapshot::new(&bytes, &model).expect("a good snapshot");
            let first = (taken + 1).saturating_sub(window + 32);
            let fewest = if first == 0 { 0 } else { taken - 32 };
            assert_eq!(u32::from_le_bytes(bytes[24..28].try_into().expect("4 bytes")) as usize, first, "{name}");
            for chunk in [1, 64] {
                let mut into = plain(&model, chunk);
                let mut session = into.session(model, Backend::detect(), Serial);
                for keep in [taken, taken.saturating_sub(1), taken.saturating_sub(17), fewest] {
                    session.reset();
                    session.prefill(&wrong).expect("tokens that fit");
                    session.restore(&snapshot, keep).expect("the same model");
                    assert_eq!(session.position(), keep);
                    assert_eq!(
                        score(&mut session, &ids[keep..]),
                        expected[keep..],
                        "{name}, {keep} of {taken}, {chunk}"
                    );
                }
                // As far back as there is something, and no further.
                session.restore(&snapshot, taken).expect("the same model");
                if fewest > 0 {
                    session.rewind(fewest.max(taken.saturating_sub(1))).expect("kept");
                    let before = session.position();
                    assert!(
                        matches!(session.rewind(fewest - 1), Err(SessionError::Forgotten { .. })),
                        "{name}, {taken}"
                    );
                    let error = SnapshotError::Forgotten { keep: fewest - 1, fewest };
                    assert_eq!(session.restore(&snapshot, fewest - 1), Err(error), "{name}, {taken}");
                    assert_eq!(score(&mut session, &ids[before..]), expected[before..], "{name}, {taken}");
                }
            }
            // What a prompt has in common is not always of use.
            assert_eq!(snapshot.in_common(&ids), taken);
            if fewest > 1 {
                let prompt = |same: usize| [&ids[..same], &[(ids[same] + 1) % 61; 9]].concat();
                assert_eq!(snapshot.in_common(&prompt(fewest)), fewest, "{name}, {taken}");
                assert_eq!(snapshot.in_common(&prompt(fewest - 1)), 0, "{name}, {taken}");
            }
        }
    }
}

/// A session that went back as far as it could has less to save, but enough.
#[test]
fn snapshots_behind_a_rewind_are_exact() {
    for (name, blob) in blobs() {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(61, TOKENS);
        let expected = reference(model, &ids);
        let mut from = plain(&model, 8);
        let mut session = from.session(model, Backend::detect(), Serial);
        session.prefill(&ids[..250]).expect("tokens that fit");
        session.rewind(218).expect("within the room");
        let mut bytes = vec![0; session.plan().snapshot_bytes(218)];
        let len = session.snapshot(&ids[..218], &mut bytes).expect("no longer than planned");
        let snapshot = Snapshot::new(&bytes[..len], &model).expect("a good snapshot");
        let mut into = plain(&model, 24);
        let mut session = into.session(model, Backend::detect(), Serial);
        session.restore(&snapshot, usize::MAX).expect("the same model");
        assert_eq!(score(&mut session, &ids[218..]), expected[218..], "{name}");
        assert_eq!(
            snapshot.in_common(&ids[..218]),
            if snapshot_reaches(&bytes, &model, 217) { 217 } else { 0 },
            "{name}"
        );
    }
}

/// Whether what layers with a window hold is enough for so many tokens.
fn snapshot_reaches(bytes: &[u8], model: &Model<'_>, keep: usize) -> bool {
    let first = u32::from_le_bytes(bytes[24..28].try_into().expect("4 bytes")) as usize;
    (keep + 1).saturating_sub(model.arch().window as usize) >= first
}

#[test]
fn forged_beginnings_of_rings_are_refused() {
    let (_, arch) = archs().remove(0);
    let blob = blob(arch, Packing { layout: Layout::Rows8, group: 32 });
    let model = Model::new(&blob).expect("a good blob");
    let mut buffers = plain(&model, 8);
    let mut session = buffers.session(model, Backend::detect(), Serial);
    let ids = ids(61, 100);
    session.prefill(&ids).expect("tokens that fit");
    let mut good = vec![0; session.plan().snapshot_bytes(100)];
    session.snapshot(&ids, &mut good).expect("room");
    let with_first = |first: u32| {
        let mut bytes = good.clone();
        bytes[24..28].copy_from_slice(&first.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        Snapshot::new(&bytes, &model).map(|snapshot| snapshot.in_common(&ids)).map_err(|error| error.to_string())
    };
    // 100 tokens, a window of 7: the next one sees from 94 on. Bytes before that are of 32 positions more.
    assert_eq!(with_first(62), Ok(99));
    assert_eq!(with_first(63), Ok(99));
    let late = "snapshot: layers with a window begin at position 95, expected at most 94";
    assert_eq!(with_first(95), Err(late.into()));
    for (first, words) in [(u32::MAX, "begin at position 4294967295"), (31, "it was cut off"), (64, "it was cut off")] {
        assert!(with_first(first).expect_err("a forged field").contains(words), "{first}: {:?}", with_first(first));
    }
}
