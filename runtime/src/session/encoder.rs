//! Encoders: a whole text in, a vector for every token out; from these logits, to fill in masked tokens, or one vector for
//! the text.

use super::{Session, SessionError};
use crate::blob::header::Pooling;
use crate::cache::Cache;
use crate::math;
use crate::workers::Workers;

/// One layer's keys, while [`Session::encode_with`] is at that layer.
#[derive(Debug)]
pub struct Keys<'c, 'b> {
    cache: &'c mut Cache<'b>,
    tokens: usize,
}

impl<'c, 'b> Keys<'c, 'b> {
    #[inline]
    pub(super) fn new(cache: &'c mut Cache<'b>, tokens: usize) -> Self {
        Self { cache, tokens }
    }

    /// Reads the key of a KV head and position into `key` (`head_dim` values): rotated, minus the model's mean key, and
    /// rounded to eight bits.
    pub fn read(&mut self, kv_head: u32, position: usize, key: &mut [f32]) {
        if position < self.tokens {
            self.cache.read_key(0, kv_head as usize, position, key);
        }
    }
}

impl<W: Workers + Sync> Session<'_, '_, W> {
    /// Takes in a text, in place of the one before. `token_types` says which of its kinds each token is, such as BERT's
    /// first and second text (what [`encode_pair`](crate::tokenizer::Tokenizer::encode_pair) gives as segments); without
    /// any, all are 0. [`Session::hidden`], [`Session::token_logits`] and [`Session::embedding`] then answer.
    ///
    /// ```
    /// # use thumbformer::{Session, SessionError};
    /// fn embed(session: &mut Session<'_, '_>, ids: &[u32], vector: &mut [f32]) -> Result<(), SessionError> {
    ///     session.encode(ids, &[])?; // as the tokenizer's `encode` gave them
    ///     session.embedding(session.model().header().pooling, vector) // `dim` values, of length 1
    /// }
    /// ```
    ///
    /// # Errors
    /// A model that is no encoder, no tokens, one outside the vocabulary, more than the context has room for; token types,
    /// but not one for each token, or one that the model does not have. The session is then unchanged.
    pub fn encode(&mut self, ids: &[u32], token_types: &[u8]) -> Result<(), SessionError> {
        self.encode_with(ids, token_types, |_, _| ())
    }

    /// [`Session::encode`], showing `layer_done` each layer's number and keys. The converter measures mean keys with it.
    ///
    /// # Errors
    /// As [`Session::encode`].
    pub fn encode_with(
        &mut self,
        ids: &[u32],
        token_types: &[u8],
        mut layer_done: impl FnMut(u32, Keys<'_, '_>),
    ) -> Result<(), SessionError> {
        let arch = *self.model.arch();
        if !arch.is_encoder() {
            return Err(SessionError::Decoder);
        }
        self.check_ids(ids)?;
        if ids.len() > self.context() {
            return Err(SessionError::ContextFull { position: 0, tokens: ids.len(), context: self.context() });
        }
        if !token_types.is_empty() && token_types.len() != ids.len() {
            return Err(SessionError::TokenTypes { found: token_types.len(), expected: ids.len() });
        }
        // Where there is only one kind, it has no name.
        let types = arch.token_types.max(1);
        if let Some((index, &found)) = token_types.iter().enumerate().find(|&(_, &found)| u32::from(found) >= types) {
            return Err(SessionError::TokenType { index, found, types });
        }
        self.keep(0);
        self.cache.select(0, ids.len());
        let mut chunk = self.chunk(ids.len());
        chunk.forward(ids, token_types, |layer, cache| layer_done(layer, Keys::new(cache, ids.len())));
        chunk.finish();
        self.position = ids.len();
        Ok(())
    }

    /// The vector (`dim` values) of the token at `position` of the text that was encoded last.
    ///
    /// # Errors
    /// A model that is no encoder; a position that the text does not have.
    pub fn hidden(&self, position: usize) -> Result<&[f32], SessionError> {
        self.check_position(position)?;
        let dim = self.model.arch().dim as usize;
        Ok(self.scratch.residual.get(position * dim..(position + 1) * dim).unwrap_or(&[]))
    }

    /// The logits (`vocab` values) of the token at `position` of the text that was encoded last: what the model would put
    /// there.
    ///
    /// # Errors
    /// A model that is no encoder or has no head; a position that the text does not have.
    pub fn token_logits(&mut self, position: usize) -> Result<&[f32], SessionError> {
        self.check_position(position)?;
        if self.model.arch().headless {
            return Err(SessionError::Headless);
        }
        self.head(position, 1);
        Ok(self.logits(0))
    }

    /// One vector (`dim` values) for the text that was encoded last, of length 1, so that the dot product of two texts'
    /// vectors is their cosine. All zeros if there is no direction.
    ///
    /// # Errors
    /// A model that is no encoder; no text; an `out` that has not `dim` values.
    pub fn embedding(&self, pooling: Pooling, out: &mut [f32]) -> Result<(), SessionError> {
        let first = self.hidden(0)?;
        if out.len() != first.len() {
            return Err(SessionError::Embedding { found: out.len(), expected: first.len() });
        }
        out.copy_from_slice(first);
        if pooling == Pooling::Mean {
            for position in 1..self.position {
                out.iter_mut().zip(self.hidden(position)?).for_each(|(sum, x)| *sum += x);
            }
        }
        // Divided by the largest first, so that no square overflows.
        let largest = math::absmax(out);
        if largest > 0.0 {
            out.iter_mut().for_each(|x| *x /= largest);
            let length = libm::sqrtf(math::sum(out, |x| x * x));
            out.iter_mut().for_each(|x| *x /= length);
        }
        Ok(())
    }

    fn check_position(&self, position: usize) -> Result<(), SessionError> {
        if !self.model.arch().is_encoder() {
            return Err(SessionError::Decoder);
        }
        if position >= self.position {
            return Err(SessionError::Position { found: position, tokens: self.position });
        }
        Ok(())
    }
}
