//! Sessions in every setting that must not show in a result.

use thumbformer::workers::{Task, Workers};
use thumbformer::{Backend, Limits, Model, Plan, Session};
use thumbformer_convert::memory::AlignedBytes;

/// Everything a caller can choose without changing a result.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Which inner loops.
    pub backend: Backend,
    /// Tokens of a prompt at a time.
    pub chunk: u32,
    /// Rows of logits at a time.
    pub logit_rows: u32,
    /// What the buffers hold beforehand, repeated.
    pub dirt: [u8; 4],
}

impl Setting {
    /// The setting that defines results: portable code, a token at a time, clean buffers.
    pub const REFERENCE: Self = Self { backend: Backend::PORTABLE, chunk: 1, logit_rows: 1, dirt: [0; 4] };

    /// Memory for a session of `context` positions, dirty.
    pub fn buffers(&self, model: &Model<'_>, context: u32) -> Buffers {
        let limits = Limits { context, chunk: self.chunk, logit_rows: self.logit_rows };
        let mut plan = Plan::for_header(model.header(), limits).expect("limits within the model's");
        if let Some(source) = model.source() {
            let positions = context.min(source.arch().context);
            plan = plan.with_source(source.header(), positions).expect("a source within the model's");
        }
        let dirty = |bytes| {
            let mut buffer = AlignedBytes::zeroed(bytes);
            buffer.iter_mut().zip(self.dirt.iter().cycle()).for_each(|(byte, dirt)| *byte = *dirt);
            buffer
        };
        Buffers { cache: dirty(plan.cache_bytes()), scratch: dirty(plan.scratch_bytes()), plan }
    }
}

/// A session's memory.
#[derive(Debug)]
pub struct Buffers {
    /// Its plan.
    pub plan: Plan,
    /// The KV cache.
    pub cache: AlignedBytes,
    /// Scratch.
    pub scratch: AlignedBytes,
}

impl Buffers {
    /// A session in these buffers.
    pub fn session<'m, 'b, W: Workers + Sync>(
        &'b mut self,
        model: Model<'m>,
        backend: Backend,
        workers: W,
    ) -> Session<'m, 'b, W> {
        let (cache, scratch) = (&mut self.cache[..], &mut self.scratch[..]);
        Session::with(model, &self.plan, cache, scratch, backend, workers).expect("buffers of the planned sizes")
    }
}

/// The digest of the logits behind each token: where two runs part shows at which token they do.
pub type Trace = Vec<u64>;

/// One position's entry of a [`Trace`].
pub use digests::of_logits as digest;

/// A trace's digest of all, for a table.
pub fn combine(trace: &[u64]) -> u64 {
    trace.iter().fold(digests::NOTHING, |all, one| digests::join(all, *one))
}

/// The trace of `ids` as a text of an encoder, with the script's token types: of logits, or of vectors where there are none.
pub fn encode<W: Workers + Sync>(session: &mut Session<'_, '_, W>, ids: &[u32]) -> Trace {
    let arch = *session.model().arch();
    let types: Vec<u8> = (0..ids.len() as u32).map(|i| digests::token_type(i, arch.token_types)).collect();
    session.encode(ids, &types).expect("a text that fits");
    assert_eq!(session.position(), ids.len());
    let values = |position| {
        let values = if arch.headless { session.hidden(position) } else { session.token_logits(position) };
        digest(values.expect("a position of the text"))
    };
    (0..ids.len()).map(values).collect()
}

/// Gives an encoder-decoder the script's source; nothing to another model.
pub fn take_source<W: Workers + Sync>(session: &mut Session<'_, '_, W>) {
    if let Some(source) = session.model().source() {
        let tokens = session.source_context().min(digests::SOURCE);
        let ids: Vec<u32> = (0..tokens as u32).map(|i| digests::source_id(i, source.arch().vocab)).collect();
        session.encode_source(&ids).expect("a source that fits");
    }
}

/// The trace of `ids` by [`Session::score`], behind what the session holds; of an encoder by [`encode`].
pub fn score<W: Workers + Sync>(session: &mut Session<'_, '_, W>, ids: &[u32]) -> Trace {
    if session.model().arch().is_encoder() {
        return encode(session, ids);
    }
    if session.source_tokens() == 0 {
        take_source(session);
    }
    let mut trace = Trace::new();
    let visit = |index: usize, logits: &[f32]| {
        assert_eq!(index, trace.len());
        trace.push(digest(logits));
    };
    session.score(ids, visit).expect("tokens that fit");
    assert_eq!(trace.len(), ids.len());
    trace
}

/// What defines the result: [`Setting::REFERENCE`], step by step; of an encoder the text as a whole.
pub fn reference(model: Model<'_>, ids: &[u32]) -> Trace {
    let setting = Setting::REFERENCE;
    let mut buffers = setting.buffers(&model, model.arch().context);
    let mut session = buffers.session(model, setting.backend, thumbformer::workers::Serial);
    if model.arch().is_encoder() {
        return encode(&mut session, ids);
    }
    take_source(&mut session);
    ids.iter().map(|&id| digest(session.step(id).expect("tokens that fit"))).collect()
}

/// Claims this many workers, but the caller runs all tasks itself, the last one first.
#[derive(Clone, Copy, Debug)]
pub struct Backwards(pub usize);

impl Workers for Backwards {
    fn count(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        tasks.iter_mut().rev().for_each(|task| task());
    }
}
