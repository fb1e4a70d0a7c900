//! One number for everything that a model says to a script of tokens, computed alike on every target.
//!
//! The script fills the model's whole context. Its last tokens are said in the second of two branches, whose last tile
//! lies out of order, unless there are windows: then layers keep a ring of positions, which they do without branches
//! only. Neither must show. To an encoder the script is one text. The digest takes in the logits behind each of its tokens; so two targets
//! with equal digests have computed equal bits everywhere. This is what tests/fixtures/digests.tsv pins and what the
//! program `digests` and the firmware in tests/chip print. Nothing is compared here.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

use thumbformer::plan::PlanError;
use thumbformer::workers::Serial;
use thumbformer::{Backend, BlobError, Digest, Limits, Model, Plan, Session, SessionError};

/// Tokens that share a pass: kernels for several tokens run, and those for one.
const CHUNK: usize = 7;
/// Tokens said in a branch.
const BRANCHED: u32 = 5;

/// Token `index` of the script. It visits the vocabulary without a pattern.
pub fn id(index: u32, vocab: u32) -> u32 {
    let i = u64::from(index);
    ((i * i * 7 + i * 3 + i / 5 + 1) % u64::from(vocab)) as u32
}

/// Type of token `index` of the script, for encoders.
pub fn token_type(index: u32, types: u32) -> u8 {
    (index / 3 % types.max(1)) as u8
}

/// Tokens of the source that an encoder-decoder is given, at most: two tiles of the cache, the second one in part.
pub const SOURCE: usize = 43;

/// The script's token at a position of a source.
pub fn source_id(position: u32, vocab: u32) -> u32 {
    id(position + 1000, vocab)
}

/// The longest text that an encoder is given.
pub const LONGEST: usize = 512;

/// The digest of the logits behind one token.
pub fn of_logits(logits: &[f32]) -> u64 {
    let mut digest = Digest::new();
    digest.update(logits);
    digest.value()
}

/// The digest of no tokens.
pub const NOTHING: u64 = 0xCBF2_9CE4_8422_2325;

/// The digest of some tokens and one more.
pub fn join(all: u64, one: u64) -> u64 {
    (all ^ one).wrapping_mul(0x100_0000_01B3).rotate_left(29)
}

/// Why there is no digest.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// The file is not as it should be.
    Blob(BlobError),
    /// The model is too large to address.
    Plan(PlanError),
    /// The memory is too small.
    Session(SessionError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Blob(e) => e.fmt(f),
            Failure::Plan(e) => e.fmt(f),
            Failure::Session(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Failure {}

/// The digest of the whole script by one backend.
///
/// # Errors
/// `memory` is smaller than a session of the whole context needs.
pub fn digest(model: Model<'_>, backend: Backend, memory: &mut [u8]) -> Result<u64, Failure> {
    let arch = model.arch();
    let limits = Limits { context: arch.context, chunk: CHUNK as u32, logit_rows: CHUNK as u32 };
    let branches = if arch.window > 0 { 1 } else { 2 };
    let plan = Plan::for_model(&model, limits).and_then(|plan| plan.with_branches(branches, BRANCHED));
    let plan = plan.map_err(Failure::Plan)?;
    let (cache, scratch) = memory.split_at_mut(plan.cache_bytes().min(memory.len()));
    let mut session = Session::with(model, &plan, cache, scratch, backend, Serial).map_err(Failure::Session)?;
    if arch.is_encoder() {
        return encoded(&mut session).map_err(Failure::Session);
    }
    if let Some(source) = model.source() {
        let ids: [u32; SOURCE] = core::array::from_fn(|i| source_id(i as u32, source.arch().vocab));
        let tokens = SOURCE.min(session.source_context());
        session.encode_source(&ids[..tokens]).map_err(Failure::Session)?;
    }
    let mut all = NOTHING;
    let parted = arch.context.saturating_sub(BRANCHED).max(1);
    for first in (0..parted).step_by(CHUNK) {
        let ids: [u32; CHUNK] = core::array::from_fn(|i| id(first + i as u32, arch.vocab));
        let count = CHUNK.min((parted - first) as usize);
        let visit = |_, logits: &[f32]| all = join(all, of_logits(logits));
        session.score(&ids[..count], visit).map_err(Failure::Session)?;
    }
    for position in parted..arch.context {
        if branches == 1 {
            all = join(all, of_logits(session.step(id(position, arch.vocab)).map_err(Failure::Session)?));
            continue;
        }
        session.branch(if position == parted { &[0, 0] } else { &[0, 1] }).map_err(Failure::Session)?;
        let mut second = 0;
        // The first branch says something else.
        let ids = [id(position + 1, arch.vocab), id(position, arch.vocab)];
        let visit = |_, logits: &[f32]| second = of_logits(logits);
        session.step_branches(&ids, visit).map_err(Failure::Session)?;
        all = join(all, second);
    }
    Ok(all)
}

/// The digest of the script as a text of an encoder: of each token's logits, or of its vector where there are no logits.
fn encoded(session: &mut Session<'_, '_>) -> Result<u64, SessionError> {
    let arch = *session.model().arch();
    let (mut ids, mut types) = ([0; LONGEST], [0; LONGEST]);
    let tokens = session.context().min(LONGEST);
    for (i, (entry, token_type_entry)) in (0..).zip(ids.iter_mut().zip(&mut types)) {
        (*entry, *token_type_entry) = (id(i, arch.vocab), token_type(i, arch.token_types));
    }
    session.encode(&ids[..tokens], &types[..tokens])?;
    let mut all = NOTHING;
    for position in 0..tokens {
        let values = if arch.headless { session.hidden(position)? } else { session.token_logits(position)? };
        all = join(all, of_logits(values));
    }
    Ok(all)
}

/// The digests by all backends of this processor: calls `found` with the name and the digest of each.
///
/// `arena` starts at a multiple of 64 with the `len` bytes of a blob; the rest is for sessions.
///
/// # Errors
/// The blob is damaged, or the arena too small.
pub fn by_backend(arena: &mut [u8], len: usize, mut found: impl FnMut(&'static str, u64)) -> Result<(), Failure> {
    let (blob, memory) = arena.split_at_mut(len.min(arena.len()));
    let model = Model::new(blob).map_err(Failure::Blob)?;
    for backend in Backend::available() {
        found(backend.name(), digest(model, backend, memory)?);
    }
    Ok(())
}
