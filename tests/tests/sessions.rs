//! Sessions at their limits: what is refused, that a refusal changes nothing, and that memory is what was planned.

use thumbformer::blob::header::Header;
use thumbformer::packing::{Layout, Packing};
use thumbformer::plan::PlanError;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Limits, Model, Plan, Session, SessionError};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::synthetic::llama;
use thumbformer_tests::sessions::{Setting, digest, reference, score};
use thumbformer_tests::shapes::{blob, blobs, ids};
use thumbformer_tests::tiny;

const PACKING: Packing = Packing { layout: Layout::Rows8, group: 32 };
const CONTEXT: usize = 37;

/// Runs `test` with a model of 128 tokens, its ids, their trace, and a session of [`CONTEXT`] positions.
fn with_session(test: impl Fn(&[u32], &[u64], &mut Session<'_, '_>)) {
    let blob = blob(llama(128, 32, 2, 4, 2, 64, 96), PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let ids = ids(128, CONTEXT);
    let trace = reference(model, &ids);
    for backend in Backend::available() {
        let setting = Setting { backend, chunk: 5, logit_rows: 3, dirt: [0xFF; 4] };
        let mut buffers = setting.buffers(&model, CONTEXT as u32);
        test(&ids, &trace, &mut buffers.session(model, backend, Serial));
    }
}

#[test]
fn tokens_outside_the_vocabulary_are_refused_and_change_nothing() {
    with_session(|ids, trace, session| {
        session.prefill(&ids[..10]).expect("tokens that fit");
        for (index, id) in [(0, 128), (7, 128), (11, 129), (3, u32::MAX)] {
            let mut bad = ids[10..30].to_vec();
            bad[index] = id;
            let error = SessionError::Token { index, id, vocab: 128 };
            assert_eq!(session.prefill(&bad).err(), Some(error));
            assert_eq!(session.score(&bad, |_, _| panic!("called for a bad prompt")), Err(error));
            assert_eq!(session.step(id).err(), Some(SessionError::Token { index: 0, id, vocab: 128 }));
            assert_eq!(session.position(), 10);
        }
        assert_eq!(score(session, &ids[10..]), trace[10..]);
    });
}

#[test]
fn no_tokens_are_refused_and_change_nothing() {
    with_session(|ids, trace, session| {
        assert_eq!(session.prefill(&[]).err(), Some(SessionError::NoTokens));
        session.prefill(&ids[..3]).expect("tokens that fit");
        assert_eq!(session.prefill(&[]).err(), Some(SessionError::NoTokens));
        assert_eq!(session.score(&[], |_, _| panic!("called for nothing")), Err(SessionError::NoTokens));
        assert_eq!(session.position(), 3);
        assert_eq!(score(session, &ids[3..]), trace[3..]);
    });
}

#[test]
fn the_context_is_full_exactly_at_its_limit_and_a_rewind_goes_on() {
    with_session(|ids, trace, session| {
        let full = |position, tokens| Some(SessionError::ContextFull { position, tokens, context: CONTEXT });
        assert_eq!(session.context(), CONTEXT);
        // A prompt longer than the context.
        assert_eq!(session.prefill(&[1; CONTEXT + 1]).err(), full(0, CONTEXT + 1));
        assert_eq!(session.position(), 0);
        session.prefill(&ids[..30]).expect("tokens that fit");
        assert_eq!(session.prefill(&ids[..8]).err(), full(30, 8));
        assert_eq!(session.score(&ids[..8], |_, _| panic!("called where full")).err(), full(30, 8));
        assert_eq!(session.position(), 30);
        // The last position is usable, the next is not.
        assert_eq!(digest(session.prefill(&ids[30..]).expect("exactly fits")), trace[CONTEXT - 1]);
        assert_eq!(session.position(), CONTEXT);
        assert_eq!(session.step(0).err(), full(CONTEXT, 1));
        assert_eq!(session.step(0).err(), full(CONTEXT, 1));
        for keep in [CONTEXT - 1, 32, 31, 12, 0] {
            session.rewind(keep).expect("fewer tokens");
            assert_eq!(score(session, &ids[keep..]), trace[keep..], "kept {keep}");
            assert_eq!(session.step(0).err(), full(CONTEXT, 1));
        }
        session.reset();
        assert_eq!(score(session, ids), trace);
    });
}

#[test]
fn a_rewind_forwards_is_refused_and_changes_nothing() {
    with_session(|ids, trace, session| {
        assert_eq!(session.rewind(1), Err(SessionError::Rewind { position: 0, asked: 1 }));
        session.prefill(&ids[..20]).expect("tokens that fit");
        assert_eq!(session.rewind(21), Err(SessionError::Rewind { position: 20, asked: 21 }));
        assert_eq!(session.rewind(usize::MAX), Err(SessionError::Rewind { position: 20, asked: usize::MAX }));
        assert_eq!(session.rewind(20), Ok(()));
        assert_eq!(session.position(), 20);
        assert_eq!(score(session, &ids[20..]), trace[20..]);
    });
}

#[test]
fn only_cached_keys_can_be_read() {
    with_session(|ids, _, session| {
        session.prefill(&ids[..4]).expect("tokens that fit");
        let mut key = [f32::NAN; 8];
        session.cached_key(0, 0, 4, &mut key);
        assert!(key.iter().all(|k| k.is_nan()), "a position that is not there");
        session.cached_key(1, 1, 3, &mut key);
        assert!(key.iter().all(|k| k.is_finite()) && key.iter().any(|k| *k != 0.0));
        // Heads and layers beyond the last read as zeros.
        for (layer, head) in [(2, 0), (0, 2), (u32::MAX, 0), (0, u32::MAX)] {
            session.cached_key(layer, head, 3, &mut key);
            assert_eq!(key, [0.0; 8]);
        }
    });
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let arch = llama(128, 32, 2, 4, 2, 64, 96);
    let plan = |context, chunk, logit_rows| Plan::new(&arch, PACKING, Limits { context, chunk, logit_rows });
    assert_eq!(plan(0, 1, 1), Err(PlanError::Zero { limit: "context" }));
    assert_eq!(plan(1, 0, 1), Err(PlanError::Zero { limit: "chunk" }));
    assert_eq!(plan(1, 1, 0), Err(PlanError::Zero { limit: "logit_rows" }));
    assert_eq!(plan(97, 1, 1), Err(PlanError::Context { context: 97, model: 96 }));
    assert_eq!(plan(u32::MAX, 1, 1), Err(PlanError::Context { context: u32::MAX, model: 96 }));
    let cut = plan(96, u32::MAX, u32::MAX).expect("cut to the context");
    assert_eq!(cut.limits(), Limits { context: 96, chunk: 96, logit_rows: 96 });
    assert_eq!(Ok(cut), plan(96, 96, 96));
}

/// The sizes by hand: cache entries are keys and values in bytes and two scales; scratch is the residual, the widest
/// intermediate, cosines and sines, quantized values, and a scale and a sum for each group. Both have room to start at a
/// multiple of 64 bytes.
#[test]
fn plans_state_the_sizes_that_the_design_implies() {
    let arch = llama(128, 32, 2, 4, 2, 64, 96);
    let plan = Plan::new(&arch, PACKING, Limits { context: 33, chunk: 5, logit_rows: 3 }).expect("good limits");
    assert_eq!(plan.cache_bytes(), 2 * 2 * 64 * (8 + 8 + 4 + 4) + 63);
    let token = 4 * 32 + 4 * 128 + 4 * 8 + 64 + 4 * (4 + 4);
    assert_eq!(plan.scratch_bytes(), 5 * token + 3 * 4 * 128 + 63);
}

#[test]
fn a_plan_for_another_model_is_refused() {
    let arch = llama(128, 32, 2, 4, 2, 64, 96);
    let blob = blob(arch, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let others = [
        Plan::new(&llama(128, 32, 2, 4, 4, 64, 96), PACKING, Limits::new(16, 4)),
        Plan::new(&llama(128, 32, 1, 4, 2, 64, 96), PACKING, Limits::new(16, 4)),
        Plan::new(&arch, Packing { group: 64, ..PACKING }, Limits::new(16, 4)),
        Plan::new(&arch, Packing { layout: Layout::Dsp, ..PACKING }, Limits::new(16, 4)),
    ];
    let (mut cache, mut scratch) = (AlignedBytes::zeroed(1 << 20), AlignedBytes::zeroed(1 << 20));
    for plan in others {
        let plan = plan.expect("good limits");
        let session = Session::new(model, &plan, &mut cache, &mut scratch);
        assert_eq!(session.map(drop).err(), Some(SessionError::OtherModel));
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let blob = blob(llama(128, 32, 2, 4, 2, 64, 96), PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let plan = Plan::for_header(model.header(), Limits::new(16, 4)).expect("good limits");
    let (c, s) = (plan.cache_bytes(), plan.scratch_bytes());
    let (mut cache, mut scratch) = (AlignedBytes::zeroed(c + 64), AlignedBytes::zeroed(s + 64));
    let mut new = |at: (usize, usize), len: (usize, usize)| {
        let (cache, scratch) = (&mut cache[at.0..at.0 + len.0], &mut scratch[at.1..at.1 + len.1]);
        Session::new(model, &plan, cache, scratch).map(drop).err()
    };
    let error = |buffer, expected, found| Some(SessionError::Buffer { buffer, expected, found });
    assert_eq!(new((0, 0), (c, s)), None);
    assert_eq!(new((0, 0), (c + 64, s + 64)), None);
    assert_eq!(new((0, 0), (c - 1, s)), error("cache", c, c - 1));
    assert_eq!(new((0, 0), (c, s - 1)), error("scratch", s, s - 1));
    assert_eq!(new((0, 0), (0, s)), error("cache", c, 0));
    assert_eq!(new((0, 0), (c, 0)), error("scratch", s, 0));
    assert_eq!(new((1, 63), (c - 1, s)), error("cache", c, c - 1), "wherever they start");
}

/// Wherever the buffers start, the result is the same and the bytes around the planned ones are left alone.
#[test]
fn buffers_may_start_anywhere_and_nothing_else_is_written() {
    for (name, blob) in blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let ids = ids(model.arch().vocab, 70);
        let trace = reference(model, &ids);
        for (i, (chunk, logit_rows)) in [(1, 1), (7, 2), (64, 64)].into_iter().enumerate() {
            let limits = Limits { context: 70, chunk, logit_rows };
            let plan = Plan::for_header(model.header(), limits).expect("good limits");
            let planned = [plan.cache_bytes(), plan.scratch_bytes()];
            let starts = [[0, 1], [63, 64], [30, 4]][i];
            let mut large = planned.map(|n| {
                let mut buffer = AlignedBytes::zeroed(n + 256);
                buffer.fill(0xA5);
                buffer
            });
            let [cache, scratch] = &mut large;
            let cache = &mut cache[starts[0]..][..planned[0]];
            let scratch = &mut scratch[starts[1]..][..planned[1]];
            let mut session = Session::new(model, &plan, cache, scratch).expect("good buffers");
            assert_eq!(score(&mut session, &ids), trace, "{name}");
            for ((buffer, planned), start) in large.iter().zip(planned).zip(starts) {
                let around = buffer[..start].iter().chain(&buffer[start + planned..]);
                assert!(around.copied().all(|byte| byte == 0xA5), "{name}");
            }
        }
    }
}

/// After the buffers are there, nothing is allocated: not by checking a blob, not by a session.
#[test]
fn nothing_is_allocated() {
    let blob = blob(llama(128, 32, 2, 4, 2, 64, 96), PACKING);
    let ids = ids(128, 40);
    let setting = Setting { backend: Backend::detect(), chunk: 8, logit_rows: 4, dirt: [0; 4] };
    let mut buffers = setting.buffers(&Model::new(&blob).expect("a good blob"), 40);
    let counted = allocation_counter::measure(|| {
        let model = Model::new(&blob).expect("a good blob");
        let mut session =
            Session::new(model, &buffers.plan, &mut buffers.cache, &mut buffers.scratch).expect("good buffers");
        session.prefill(&ids[..30]).expect("tokens that fit");
        session.score(&ids[30..], |_, _| ()).expect("tokens that fit");
        session.rewind(7).expect("fewer tokens");
        session.step(5).expect("a token that fits");
        assert!(session.prefill(&[500]).is_err());
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // The counter counts.
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
}

/// As firmware does it: everything from the file's head, at compile time.
mod at_compile_time {
    use super::*;

    const HEADER: Header = match Header::read(&tiny::head()) {
        Ok(header) => header,
        Err(_) => panic!("the head is bad"),
    };
    const PLAN: Plan = match Plan::for_header(&HEADER, Limits::new(40, 4)) {
        Ok(plan) => plan,
        Err(_) => panic!("the model does not fit"),
    };
    const _: () = assert!(PLAN.cache_bytes() == 64 * (4 + 8 + 4 + 4) + 63);
    const _: () = assert!(Plan::for_header(&HEADER, Limits::new(41, 4)).is_err());

    #[test]
    fn buffers_of_the_planned_size_hold_a_session() {
        let blob = tiny::blob();
        let model = Model::new(&blob).expect("a good blob");
        let mut cache = [0; PLAN.cache_bytes()];
        let mut scratch = [0; PLAN.scratch_bytes()];
        let mut session = Session::new(model, &PLAN, &mut cache, &mut scratch).expect("good buffers");
        assert_eq!(session.prefill(&[0, 1, 2, 1, 0]).expect("tokens that fit").len(), 3);
    }
}
