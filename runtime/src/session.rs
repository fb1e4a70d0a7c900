//! A conversation with a model: tokens in, logits out, everything in two buffers that the caller owns.
//!
//! A [`Session`] borrows a checked [`Model`], a cache and a scratch buffer of the sizes that its [`Plan`] states, and
//! allocates nothing. It remembers the tokens it has seen only as keys and values; [`Session::rewind`] forgets the last
//! ones. It does not choose tokens ([`crate::decode`]) and knows no text ([`crate::tokenizer`]).

use crate::blob::Model;
use crate::cache::Cache;
use crate::kernel::Backend;
use crate::layer::Chunk;
use crate::plan::{Plan, Scratch};
use crate::workers::{Serial, Workers};

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
    /// Rewinding goes back only.
    Rewind {
        /// Positions in use.
        position: usize,
        /// Positions asked to keep.
        asked: usize,
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
            SessionError::Rewind { position, asked } => {
                write!(f, "cannot rewind to {asked}: only {position} positions are in use")
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
}

impl<'m, 'b> Session<'m, 'b> {
    /// A session on this thread alone, with the fastest backend of the processor.
    ///
    /// `cache` and `scratch` must have at least [`Plan::cache_bytes`] and [`Plan::scratch_bytes`] bytes; where they start
    /// and what they hold does not matter.
    ///
    /// # Errors
    /// A buffer that is too small; a plan for another model.
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
        let cache = Cache::carve(plan, cache).ok_or(buffer("cache", plan.cache_bytes(), found))?;
        let found = scratch.len();
        let scratch = Scratch::carve(plan, scratch).ok_or(buffer("scratch", plan.scratch_bytes(), found))?;
        Ok(Self { model, plan: *plan, backend, workers, cache, scratch, position: 0 })
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

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Forgets all but the first `position` tokens; what follows has the same bits as if they had been the only ones.
    ///
    /// # Errors
    /// Fewer tokens are there.
    pub fn rewind(&mut self, position: usize) -> Result<(), SessionError> {
        if position > self.position {
            return Err(SessionError::Rewind { position: self.position, asked: position });
        }
        self.position = position;
        Ok(())
    }

    /// Appends `ids` and returns the logits behind the last one (`vocab` values).
    ///
    /// # Errors
    /// No tokens, one outside the vocabulary, or more than the context has room for; the session is then unchanged.
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

    /// Reads the key of a layer, KV head and position back from the cache into `key` (`head_dim` values): rotated, minus
    /// the model's mean key, and rounded to eight bits. The converter measures mean keys with it.
    pub fn cached_key(&mut self, layer: u32, kv_head: u32, position: usize, key: &mut [f32]) {
        if position < self.position {
            self.cache.read_key(layer as usize, kv_head as usize, position, key);
        }
    }

    fn check(&self, ids: &[u32]) -> Result<(), SessionError> {
        let vocab = self.model.arch().vocab;
        if ids.is_empty() {
            return Err(SessionError::NoTokens);
        }
        if let Some((index, &id)) = ids.iter().enumerate().find(|&(_, &id)| id >= vocab) {
            return Err(SessionError::Token { index, id, vocab });
        }
        if ids.len() > self.context() - self.position {
            return Err(SessionError::ContextFull {
                position: self.position,
                tokens: ids.len(),
                context: self.context(),
            });
        }
        Ok(())
    }

    fn chunk(&mut self, count: usize) -> Chunk<'_, 'm, 'b, W> {
        Chunk {
            model: &self.model,
            backend: self.backend,
            workers: &self.workers,
            widths: self.plan.widths(),
            cache: &mut self.cache,
            scratch: &mut self.scratch,
            count,
            position: self.position,
        }
    }

    fn forward(&mut self, ids: &[u32]) {
        self.chunk(ids.len()).forward(ids);
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
