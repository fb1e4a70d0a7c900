//! Encoder-decoders: a source text in, which every token of the answer then attends to.

use super::encoder::Keys;
use super::{Session, SessionError};
use crate::blob::Model;
use crate::cache::{Cache, HeadShape};
use crate::layer::Chunk;
use crate::plan::{Plan, Widths};
use crate::snapshot::SnapshotError;
use crate::workers::Workers;

/// The encoder, and what the decoder's layers attend to.
#[derive(Debug)]
pub(super) struct Text<'m, 'b> {
    encoder: Model<'m>,
    /// For each layer of the decoder the keys and values of the source.
    pub(super) cache: Cache<'b>,
    /// Tokens of the source; 0 before the first.
    pub(super) tokens: usize,
}

impl<'m, 'b> Text<'m, 'b> {
    /// `None` without an encoder, or if nothing is planned for it.
    pub(super) fn new(model: &Model<'m>, plan: &Plan, cache: Option<Cache<'b>>) -> Result<Option<Self>, SessionError> {
        let (Some(encoder), Some(cache)) = (model.source(), cache) else { return Ok(None) };
        if plan.source().is_none_or(|source| source.arch != *encoder.arch()) {
            return Err(SessionError::OtherModel);
        }
        Ok(Some(Self { encoder, cache, tokens: 0 }))
    }

    /// Whether a snapshot can be taken, with `ids` as the source's.
    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<(), SnapshotError> {
        if ids.len() != self.tokens {
            return Err(SnapshotError::SourceIds { expected: self.tokens, found: ids.len() });
        }
        if ids.is_empty() {
            return Err(SnapshotError::Source { found: 0, most: self.encoder.arch().context });
        }
        Ok(())
    }
}

impl<W: Workers + Sync> Session<'_, '_, W> {
    /// Takes in a source text, in place of the one before, and forgets all tokens. Those that follow attend to it, and so
    /// do all branches; [`Session::reset`] keeps it.
    ///
    /// # Errors
    /// A model that is no encoder-decoder, no tokens, one outside the encoder's vocabulary, more than the plan has room
    /// for ([`Plan::with_source`]); the session is then unchanged.
    pub fn encode_source(&mut self, ids: &[u32]) -> Result<(), SessionError> {
        self.encode_source_with(ids, |_, _| ())
    }

    /// [`Session::encode_source`], showing `layer_done` each layer's number and keys of the encoder. The converter measures
    /// mean keys with it.
    ///
    /// # Errors
    /// As [`Session::encode_source`].
    pub fn encode_source_with(
        &mut self,
        ids: &[u32],
        mut layer_done: impl FnMut(u32, Keys<'_, '_>),
    ) -> Result<(), SessionError> {
        if !self.model.arch().cross {
            return Err(SessionError::NoEncoder);
        }
        let room = self.source_context();
        if ids.len() > room {
            return Err(SessionError::SourceFull { tokens: ids.len(), room });
        }
        let packing = self.plan.packing();
        let chunk_tokens = self.plan.limits().chunk as usize;
        let own_shape = HeadShape::new(self.model.arch(), packing.layout, room as u32);
        let own_heads = self.model.arch().kv_heads;
        let Some(source) = &mut self.source else { return Err(SessionError::NoEncoder) };
        let arch = *source.encoder.arch();
        if ids.is_empty() {
            return Err(SessionError::NoTokens);
        }
        if let Some((index, &id)) = ids.iter().enumerate().find(|&(_, &id)| id >= arch.vocab) {
            return Err(SessionError::Token { index, id, vocab: arch.vocab });
        }
        source.cache.reshape(HeadShape::new(&arch, packing.layout, room as u32), arch.kv_heads);
        let mut chunk = Chunk {
            model: &source.encoder,
            backend: self.backend,
            workers: &self.workers,
            widths: Widths::new(&arch, packing),
            cache: &mut source.cache,
            scratch: &mut self.scratch,
            source: None,
            count: ids.len(),
            position: 0,
        };
        chunk.forward(ids, &[], |layer, cache| layer_done(layer, Keys::new(cache, ids.len())));
        chunk.finish();
        // The encoder is done with its place.
        source.cache.reshape(own_shape, own_heads);
        for first in (0..ids.len()).step_by(chunk_tokens) {
            let mut chunk = Chunk {
                model: &self.model,
                backend: self.backend,
                workers: &self.workers,
                widths: self.plan.widths(),
                cache: &mut source.cache,
                scratch: &mut self.scratch,
                source: None,
                count: chunk_tokens.min(ids.len() - first),
                position: 0,
            };
            chunk.remember_source(first);
        }
        source.tokens = ids.len();
        self.keep(0);
        Ok(())
    }

    /// [`Session::snapshot`] of an encoder-decoder: `source` are the tokens of the source, `ids` those behind it. It holds
    /// what the decoder attends to, so that neither is computed again; it has
    /// [`Plan::snapshot_bytes_with_source`] bytes at most.
    ///
    /// # Errors
    /// As [`Session::snapshot`]; no source, or not as many ids as it has.
    pub fn snapshot_with_source(
        &mut self,
        source: &[u32],
        ids: &[u32],
        out: &mut [u8],
    ) -> Result<usize, SnapshotError> {
        self.write_snapshot(source, ids, out)
    }

    /// Tokens of a source that there is room for; 0 if the model is no encoder-decoder.
    pub fn source_context(&self) -> usize {
        self.plan.source().map_or(0, |source| source.positions as usize)
    }

    /// Tokens of the source that was encoded last; 0 before the first.
    pub fn source_tokens(&self) -> usize {
        self.source.as_ref().map_or(0, |source| source.tokens)
    }

    /// Reads the key with which a layer and KV head attend to a position of the source, as [`Session::cached_key`] does.
    pub fn cached_source_key(&mut self, layer: u32, kv_head: u32, position: usize, key: &mut [f32]) {
        if let Some(source) = self.source.as_mut().filter(|source| position < source.tokens) {
            source.cache.read_key(layer as usize, kv_head as usize, position, key);
        }
    }
}
