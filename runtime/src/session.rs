//! A conversation with a model: tokens in, logits out, everything in two buffers that the caller owns.
//!
//! A [`Session`] borrows a checked [`Model`], a cache and a scratch buffer of the sizes that its [`Plan`] states, and
//! allocates nothing. It remembers the tokens it has seen only as keys and values; [`Session::rewind`] forgets the last
//! ones. It does not choose tokens ([`crate::decode`]) and knows no text ([`crate::tokenizer`]). A model that is an encoder
//! takes in a text at once instead: [`Session::encode`]. An encoder-decoder does both: `Session::encode_source` takes in
//! what the tokens then answer.

#[cfg(feature = "encoder")]
mod encoder;
#[cfg(feature = "cross")]
mod source;

use crate::blob::Model;
use crate::cache::Cache;
use crate::kernel::Backend;
use crate::layer::Chunk;
use crate::plan::{Plan, Scratch};
use crate::snapshot::{self, Snapshot, SnapshotError};
use crate::workers::{Serial, Workers};

#[cfg(feature = "encoder")]
pub use encoder::Keys;

/// Why a session could not start or go on. Nothing has changed when one of these is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SessionError {
    /// The plan was made for another model.
    OtherModel,
    /// A buffer is smaller than planned.
    Buffer {
        /// `cache` or `scratch`.
        buffer: &'static str,
        /// Bytes planned.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// There are no tokens to process.
    NoTokens,
    /// A token is not in the vocabulary.
    Token {
        /// Its index among the tokens given.
        index: usize,
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// The tokens do not fit behind those already there. Rewind or reset, and the session goes on.
    ContextFull {
        /// Positions in use.
        position: usize,
        /// Tokens given.
        tokens: usize,
        /// Positions there are.
        context: usize,
    },
    /// More branches than planned, or none at all.
    Branches {
        /// Branches asked for.
        found: usize,
        /// Branches planned.
        planned: usize,
    },
    /// A branch is to continue one that is not there.
    Parent {
        /// The branch to continue.
        found: u32,
        /// Branches there are.
        branches: usize,
    },
    /// Not one token for each branch.
    Tokens {
        /// Tokens given.
        found: usize,
        /// Branches there are.
        expected: usize,
    },
    /// Rewinding goes back only.
    Rewind {
        /// Positions in use.
        position: usize,
        /// Positions asked to keep.
        asked: usize,
    },
    /// Layers with a window have forgotten what the token behind so few positions would see.
    Forgotten {
        /// Positions asked to keep.
        asked: usize,
        /// The fewest that can be kept, other than none.
        fewest: usize,
    },
    /// The model is an encoder: it takes in a text at once and has no next token.
    Encoder,
    /// The model is no encoder: its tokens see only those before them.
    Decoder,
    /// The model has no head, and so no logits.
    Headless,
    /// Not one token type for each token.
    TokenTypes {
        /// Types given.
        found: usize,
        /// Tokens given.
        expected: usize,
    },
    /// A token type that the model does not have.
    TokenType {
        /// Its index among those given.
        index: usize,
        /// The type.
        found: u8,
        /// Types there are.
        types: u32,
    },
    /// The encoded text has no such position.
    Position {
        /// The position.
        found: usize,
        /// Tokens of the text.
        tokens: usize,
    },
    /// The model is no encoder-decoder: it has no encoder for a source.
    NoEncoder,
    /// The model is an encoder-decoder, and no source has been encoded.
    NoSource,
    /// The plan has room for shorter sources only.
    SourceFull {
        /// Tokens given.
        tokens: usize,
        /// Tokens there is room for.
        room: usize,
    },
    /// An embedding's buffer has another length.
    Embedding {
        /// Values it has room for.
        found: usize,
        /// Values of an embedding.
        expected: usize,
    },
}

impl core::fmt::Display for SessionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            SessionError::OtherModel => write!(f, "the memory plan was made for another model"),
            SessionError::Buffer { buffer, expected, found } => {
                write!(f, "the {buffer} buffer has {found} bytes, the plan needs {expected}")
            }
            SessionError::NoTokens => write!(f, "there are no tokens to process"),
            SessionError::Token { index, id, vocab } => {
                write!(f, "token {id} at index {index} is not in the vocabulary of {vocab}")
            }
            SessionError::ContextFull { position, tokens, context } => {
                write!(f, "context full: {position} positions in use and {tokens} more tokens exceed {context}")
            }
            SessionError::Branches { found, planned } => {
                write!(f, "{found} branches were asked for, expected 1 to {planned}, as planned")
            }
            SessionError::Parent { found, branches } => {
                write!(f, "branch {found} is to be continued, but there are only {branches}")
            }
            SessionError::Tokens { found, expected } => {
                write!(f, "found {found} tokens, expected one for each of {expected} branches")
            }
            SessionError::Rewind { position, asked } => {
                write!(f, "cannot rewind to {asked}: only {position} positions are in use")
            }
            SessionError::Forgotten { asked, fewest } => {
                write!(
                    f,
                    "cannot rewind to {asked}: layers with a window have kept what is needed from {fewest} on only"
                )
            }
            SessionError::Encoder => {
                write!(f, "the model is an encoder: it takes in a text at once and continues none")
            }
            SessionError::Decoder => write!(f, "the model is no encoder: its tokens see only those before them"),
            SessionError::Headless => write!(f, "the model has no head to give logits, only vectors"),
            SessionError::TokenTypes { found, expected } => {
                write!(f, "found {found} token types, expected one for each of {expected} tokens")
            }
            SessionError::TokenType { index, found, types } => {
                write!(f, "token type {found} at index {index} is not below the model's {types}")
            }
            SessionError::Position { found, tokens } => {
                write!(f, "position {found} of an encoded text of {tokens} tokens")
            }
            SessionError::NoEncoder => write!(f, "the model has no encoder to take in a source"),
            SessionError::NoSource => write!(f, "the model is an encoder-decoder: encode a source first"),
            SessionError::SourceFull { tokens, room } => {
                write!(f, "the source has {tokens} tokens, the plan has room for {room}")
            }
            SessionError::Embedding { found, expected } => {
                write!(f, "a buffer for {found} values, expected one for the embedding's {expected}")
            }
        }
    }
}

impl core::error::Error for SessionError {}

/// A model at work. See the [module](self).
#[derive(Debug)]
pub struct Session<'m, 'b, W = Serial> {
    model: Model<'m>,
    plan: Plan,
    backend: Backend,
    workers: W,
    cache: Cache<'b>,
    scratch: Scratch<'b>,
    position: usize,
    #[cfg(feature = "cross")]
    source: Option<source::Text<'m, 'b>>,
}

impl<'m, 'b> Session<'m, 'b> {
    /// A session on this thread alone, with the fastest backend of the processor.
    ///
    /// `cache` and `scratch` must have at least [`Plan::cache_bytes`] and [`Plan::scratch_bytes`] bytes; where they start
    /// and what they hold does not matter.
    ///
    /// # Errors
    /// A buffer that is too small; a plan for another model.
    // Compiled as this crate is, not as the one that calls it.
    #[inline(never)]
    pub fn new(
        model: Model<'m>,
        plan: &Plan,
        cache: &'b mut [u8],
        scratch: &'b mut [u8],
    ) -> Result<Self, SessionError> {
        Self::with(model, plan, cache, scratch, Backend::detect(), Serial)
    }
}

impl<'m, 'b, W: Workers + Sync> Session<'m, 'b, W> {
    /// A session with a backend and workers of the caller's choice. Neither changes any result.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with(
        model: Model<'m>,
        plan: &Plan,
        cache: &'b mut [u8],
        scratch: &'b mut [u8],
        backend: Backend,
        workers: W,
    ) -> Result<Self, SessionError> {
        if plan.arch() != model.arch() || plan.packing() != model.header().packing {
            return Err(SessionError::OtherModel);
        }
        let buffer = |buffer, expected, found| SessionError::Buffer { buffer, expected, found };
        let found = cache.len();
        let caches = Cache::carve(plan, cache).ok_or(buffer("cache", plan.cache_bytes(), found))?;
        let found = scratch.len();
        let scratch = Scratch::carve(plan, scratch).ok_or(buffer("scratch", plan.scratch_bytes(), found))?;
        Ok(Self {
            model,
            plan: *plan,
            backend,
            workers,
            cache: caches.own,
            scratch,
            position: 0,
            #[cfg(feature = "cross")]
            source: source::Text::new(&model, plan, caches.source)?,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Positions in use.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there are.
    pub fn context(&self) -> usize {
        self.plan.limits().context as usize
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Forgets everything but a source.
    pub fn reset(&mut self) {
        self.keep(0);
    }

    /// Forgets all but the first `position` tokens; what follows has the same bits as if they had been the only ones. Of
    /// several branches the first remains.
    ///
    /// Layers with a window ([`Arch::window`](crate::arch::Arch::window)) keep no more positions than they need, so in a
    /// model that has any, a session can go back to 0 and by [`Plan::rewind_room`] positions, counted from the most that it
    /// has held since it was empty; perhaps a little further. [`Plan::with_rewind`] makes room for more.
    ///
    /// # Errors
    /// Fewer tokens are there, a layer with a window has forgotten what it needs, or the model is an encoder; the session
    /// is then unchanged.
    pub fn rewind(&mut self, position: usize) -> Result<(), SessionError> {
        self.check_decoder()?;
        if position > self.position {
            return Err(SessionError::Rewind { position: self.position, asked: position });
        }
        let fewest = self.cache.rings.shortest();
        if position > 0 && position < fewest {
            return Err(SessionError::Forgotten { asked: position, fewest });
        }
        self.keep(position);
        Ok(())
    }

    /// Appends `ids` and returns the logits behind the last one (`vocab` values). Of several branches the first goes on,
    /// alone; so do [`Session::step`] and [`Session::score`].
    ///
    /// # Errors
    /// An encoder, no tokens, one outside the vocabulary, or more than the context has room for; the session is then
    /// unchanged.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<&[f32], SessionError> {
        self.check(ids)?;
        let chunk = self.plan.limits().chunk as usize;
        for ids in ids.chunks(chunk) {
            self.forward(ids);
        }
        self.head((ids.len() - 1) % chunk, 1);
        Ok(self.logits(0))
    }

    /// Appends one token and returns the logits behind it (`vocab` values).
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn step(&mut self, id: u32) -> Result<&[f32], SessionError> {
        self.prefill(&[id])
    }

    /// The logits that [`Session::prefill`] or [`Session::step`] returned last, to be changed in place: sampling and
    /// constraints do. What [`Session::score`] and [`Session::step_branches`] leave there is their own business.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        let vocab = self.model.arch().vocab as usize;
        self.scratch.logits.get_mut(..vocab).unwrap_or(&mut [])
    }

    /// Branches there are: 1, until `branch` makes more.
    pub fn branches(&self) -> usize {
        self.cache.branches.live()
    }

    /// Replaces the branches by continuations of some of them: the new branch `i` is what branch `parents[i]` was. A
    /// branch may have several continuations or none. What they have in common stays shared; a tile of 32 positions at
    /// most is copied for each.
    ///
    /// # Errors
    /// No parents, more than [`Plan::with_branches`] has room for, or one that is not there; nothing has changed then.
    #[cfg(feature = "branches")]
    pub fn branch(&mut self, parents: &[u32]) -> Result<(), SessionError> {
        self.check_decoder()?;
        let (planned, branches) = (self.plan.branches() as usize, self.branches());
        if parents.is_empty() || parents.len() > planned {
            return Err(SessionError::Branches { found: parents.len(), planned });
        }
        if let Some(&found) = parents.iter().find(|&&parent| parent as usize >= branches) {
            return Err(SessionError::Parent { found, branches });
        }
        self.cache.part(parents, self.position);
        Ok(())
    }

    /// Appends a token to every branch and calls `visit` with each branch's index and the logits behind its token.
    ///
    /// # Errors
    /// Not one token for each branch, one outside the vocabulary, or no room: the context, or the plan's tail counted from
    /// where the branches parted; the session is then unchanged.
    #[cfg(feature = "branches")]
    pub fn step_branches(&mut self, ids: &[u32], mut visit: impl FnMut(usize, &[f32])) -> Result<(), SessionError> {
        self.check_ready()?;
        if ids.len() != self.branches() {
            return Err(SessionError::Tokens { found: ids.len(), expected: self.branches() });
        }
        self.check_ids(ids)?;
        self.check_room(1, self.cache.branches.limit(self.context()))?;
        for (branch, id) in ids.iter().enumerate() {
            self.cache.select(branch, self.position + 1);
            self.chunk(1).forward(core::slice::from_ref(id), &[], |_, _| ());
            self.head(0, 1);
            visit(branch, self.logits(0));
        }
        self.position += 1;
        Ok(())
    }

    /// Appends `ids` and calls `visit` with the index of each and the logits behind it, in order.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn score(&mut self, ids: &[u32], mut visit: impl FnMut(usize, &[f32])) -> Result<(), SessionError> {
        self.check(ids)?;
        let limits = self.plan.limits();
        let mut index = 0;
        for ids in ids.chunks(limits.chunk as usize) {
            self.forward(ids);
            let mut first = 0;
            while first < ids.len() {
                let count = (ids.len() - first).min(limits.logit_rows as usize);
                self.head(first, count);
                for row in 0..count {
                    visit(index, self.logits(row));
                    index += 1;
                }
                first += count;
            }
        }
        Ok(())
    }

    /// Writes a [`snapshot`] to the front of `out` and returns its length, [`Plan::snapshot_bytes`] at most. `ids`
    /// are the tokens that the session holds, which it does not know itself. Of several branches it is the first.
    ///
    /// # Errors
    /// An encoder, or an encoder-decoder (`snapshot_with_source` is for that); not as many ids as positions in use; an
    /// `out` that is too small.
    pub fn snapshot(&mut self, ids: &[u32], out: &mut [u8]) -> Result<usize, SnapshotError> {
        self.write_snapshot(&[], ids, out)
    }

    fn write_snapshot(&mut self, source_ids: &[u32], ids: &[u32], out: &mut [u8]) -> Result<usize, SnapshotError> {
        if self.model.arch().is_encoder() {
            return Err(SnapshotError::Encoder);
        }
        if ids.len() != self.position {
            return Err(SnapshotError::Ids { expected: self.position, found: ids.len() });
        }
        #[cfg(feature = "cross")]
        let source = match &mut self.source {
            Some(source) => {
                source.check_ids(source_ids)?;
                Some(&mut source.cache)
            }
            None if source_ids.is_empty() && !self.model.arch().cross => None,
            None => return Err(SnapshotError::SourceIds { expected: 0, found: source_ids.len() }),
        };
        #[cfg(not(feature = "cross"))]
        let source = None;
        self.cache.select(0, self.position);
        snapshot::write(&self.model, &mut self.cache, ids, source, source_ids, out)
    }

    /// Replaces what the session holds by the first `keep` tokens of a snapshot (all, if it has fewer) and its source, if
    /// there is one, with the same bits as if they had been given to [`Session::prefill`] now. Logits are not restored:
    /// give at least one more token.
    ///
    /// # Errors
    /// A snapshot of another model, more tokens than the context or than the plan has room for in a source, or fewer, but
    /// some, than its layers with a window go back to ([`Snapshot::in_common`] minds that); the session is then unchanged.
    pub fn restore(&mut self, snapshot: &Snapshot<'_>, keep: usize) -> Result<(), SnapshotError> {
        let (keep, context) = (keep.min(snapshot.position()), self.context());
        if keep > context {
            return Err(SnapshotError::ContextFull { tokens: keep, context });
        }
        snapshot.check_model(&self.model)?;
        snapshot.check_keep(keep)?;
        #[cfg(feature = "cross")]
        {
            let (tokens, room) = (snapshot.source_ids().len(), self.source_context());
            if tokens > room {
                return Err(SnapshotError::SourceFull { tokens, room });
            }
            if let Some(source) = &mut self.source {
                snapshot.read_source(&mut source.cache);
                source.tokens = tokens;
            }
        }
        self.keep(0);
        self.cache.select(0, keep);
        snapshot.read(self.model.arch(), &mut self.cache, keep);
        self.position = keep;
        Ok(())
    }

    /// Reads the key of a layer, KV head and position back from the cache into `key` (`head_dim` values): rotated, minus
    /// the model's mean key, and rounded to eight bits. The converter measures mean keys with it. Of an encoder only the last
    /// layer's are still there, of a layer with a window the last positions (see [`Plan::with_rewind`]). `key` is left alone
    /// if the position is not there.
    pub fn cached_key(&mut self, layer: u32, kv_head: u32, position: usize, key: &mut [f32]) {
        if position < self.position && self.cache.rings.holds(layer as usize, position) {
            self.cache.select(0, position);
            let arch = self.model.arch();
            if layer >= arch.layers || (arch.is_encoder() && layer != arch.layers - 1) {
                return key.fill(0.0);
            }
            let layer = if arch.is_encoder() { 0 } else { layer };
            self.cache.read_key(layer as usize, kv_head as usize, position, key);
        }
    }

    #[inline(always)]
    fn check_decoder(&self) -> Result<(), SessionError> {
        if self.model.arch().is_encoder() { Err(SessionError::Encoder) } else { Ok(()) }
    }

    /// Whether tokens can follow.
    #[inline(always)]
    fn check_ready(&self) -> Result<(), SessionError> {
        self.check_decoder()?;
        #[cfg(feature = "cross")]
        if self.model.arch().cross && self.source.as_ref().is_none_or(|source| source.tokens == 0) {
            return Err(SessionError::NoSource);
        }
        Ok(())
    }

    fn check(&self, ids: &[u32]) -> Result<(), SessionError> {
        self.check_ready()?;
        self.check_ids(ids)?;
        self.check_room(ids.len(), self.context())
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), SessionError> {
        let vocab = self.model.arch().vocab;
        if ids.is_empty() {
            return Err(SessionError::NoTokens);
        }
        if let Some((index, &id)) = ids.iter().enumerate().find(|&(_, &id)| id >= vocab) {
            return Err(SessionError::Token { index, id, vocab });
        }
        Ok(())
    }

    fn check_room(&self, tokens: usize, limit: usize) -> Result<(), SessionError> {
        if tokens > limit - self.position {
            return Err(SessionError::ContextFull { position: self.position, tokens, context: limit });
        }
        Ok(())
    }

    /// Keeps the first branch, and `position` tokens of it.
    fn keep(&mut self, position: usize) {
        self.cache.cut(position);
        self.position = position;
    }

    fn chunk(&mut self, count: usize) -> Chunk<'_, 'm, 'b, W> {
        Chunk {
            model: &self.model,
            backend: self.backend,
            workers: &self.workers,
            widths: self.plan.widths(),
            cache: &mut self.cache,
            scratch: &mut self.scratch,
            #[cfg(feature = "cross")]
            source: self.source.as_mut().map(|source| (&mut source.cache, source.tokens)),
            count,
            position: self.position,
        }
    }

    fn forward(&mut self, ids: &[u32]) {
        if self.branches() > 1 {
            self.cache.cut(self.position);
        }
        self.cache.select(0, self.position + ids.len());
        self.chunk(ids.len()).forward(ids, &[], |_, _| ());
        self.position += ids.len();
    }

    fn head(&mut self, first: usize, count: usize) {
        self.chunk(count).logits(first, count);
    }

    fn logits(&self, row: usize) -> &[f32] {
        let vocab = self.model.arch().vocab as usize;
        self.scratch.logits.get(row * vocab..(row + 1) * vocab).unwrap_or(&[])
    }
}
