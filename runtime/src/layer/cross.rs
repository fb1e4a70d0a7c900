//! Attention to a source text: `x = x + Wₒ·softmax(q·kᵀ)·v`, where keys and values are of an encoder's output.
//!
//! They are the same for every token and every branch, so each layer's are computed once for a source, into a cache of its
//! own; a query then sees all of the source. There is no rotation and nothing that depends on positions.

use super::Chunk;
use super::attention::Head;
use super::linear::{Source, Target, copy};
use crate::blob::CrossLayer;
use crate::kernel::{Shaping, TileMut, Write};
use crate::workers::{Phase, Workers, for_each};

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    /// Attends to the source; nothing without one.
    pub(super) fn cross_attention(&mut self, index: u32, layer: &CrossLayer<'_>) {
        let arch = *self.arch();
        let norm = (layer.norm, layer.norm_bias);
        self.input(Source::Residual, norm);
        self.linear(&layer.query, layer.query_bias, Write::Store, self.count, Target::Wide);
        self.attend_source(index);
        self.prepare(Source::Residual, Phase::Quantize, 0, self.count, arch.q_width() as usize, &|_, _, _| {});
        self.add(&layer.out, layer.out_bias, None);
        if arch.norms_behind() {
            self.norm(norm);
        }
    }

    /// From queries in the wide rows to the heads' outputs in their place.
    fn attend_source(&mut self, index: u32) {
        let (arch, backend, workers, count) = (*self.arch(), self.backend, self.workers, self.count);
        let group = (arch.heads / arch.kv_heads) as usize;
        let (heads, head_dim) = (arch.heads as usize, arch.head_dim as usize);
        let quantized_head = self.model.header().packing.layout.vector_bytes(head_dim);
        let scratch = &mut *self.scratch;
        let wide = scratch.wide.get_mut(..count * self.widths.wide).unwrap_or(&mut []);
        let mut queries = TileMut::new(wide, arch.q_width() as usize, self.widths.wide).strips(group * head_dim);
        let mut quantized = TileMut::new(scratch.quantized, heads * quantized_head, heads * quantized_head)
            .strips(group * quantized_head);
        let mut scales = TileMut::new(scratch.scales, heads, heads).strips(group);
        let mut starts = TileMut::new(scratch.starts, heads, heads).strips(group);
        let Some((cache, tokens)) = &mut self.source else { return };
        let tokens = *tokens;
        let heads = cache.heads_mut(index as usize).map_while(|cache| {
            Some(Head {
                queries: queries.next()?,
                keys: TileMut::new(&mut [], 0, 0),
                values: TileMut::new(&mut [], 0, 0),
                quantized: quantized.next()?,
                scales: scales.next()?,
                starts: starts.next()?,
                mean: &[],
                shaping: Shaping::default(),
                cache,
            })
        });
        for_each(workers, heads, |mut head| {
            workers.enter(Phase::Quantize);
            for t in 0..count {
                head.quantize(backend, &arch, t);
            }
            workers.enter(Phase::Attention);
            head.attend(backend, tokens, false);
        });
    }

    /// Caches the keys and values of every layer for the tokens `first..first + count` of the source, whose vectors the
    /// encoder left in the residual stream.
    pub(crate) fn remember_source(&mut self, first: usize) {
        let (arch, backend, workers, count) = (*self.arch(), self.backend, self.workers, self.count);
        let (head_dim, kv_width) = (arch.head_dim as usize, arch.kv_width() as usize);
        let room = self.model.header().packing.layout.vector_bytes(head_dim);
        for index in 0..arch.layers {
            let Some(layer) = self.model.layer(index).and_then(|layer| layer.cross) else { return };
            // Each time anew: caching takes the quantized vectors' place.
            self.prepare(Source::Residual, Phase::Quantize, first, count, arch.dim as usize, &|_, x, row| copy(x, row));
            self.linear(&layer.key_value, layer.key_value_bias, Write::Store, count, Target::Wide);
            let scratch = &mut *self.scratch;
            let wide = scratch.wide.get_mut(..count * self.widths.wide).unwrap_or(&mut []);
            let (keys, values) = TileMut::new(wide, 2 * kv_width, self.widths.wide).split_at(kv_width);
            let (mut keys, mut values) = (keys.strips(head_dim), values.strips(head_dim));
            let width = arch.kv_heads as usize * room;
            let mut quantized = TileMut::new(scratch.quantized, width, width).strips(room);
            let mut means = layer.key_mean.chunks_exact(head_dim);
            let heads = self.cache.heads_mut(index as usize).map_while(|cache| {
                Some(Head {
                    queries: TileMut::new(&mut [], 0, 0),
                    keys: keys.next()?,
                    values: values.next()?,
                    quantized: quantized.next()?,
                    scales: TileMut::new(&mut [], 0, 0),
                    starts: TileMut::new(&mut [], 0, 0),
                    mean: means.next()?,
                    shaping: Shaping::default(),
                    cache,
                })
            });
            for_each(workers, heads, |mut head| {
                workers.enter(Phase::Cache);
                for t in 0..count {
                    head.remember(backend, t, first + t);
                }
            });
        }
    }
}
