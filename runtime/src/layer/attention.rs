//! Masked self-attention with grouped queries: `x = x + Wₒ·softmax(q·kᵀ/√d)·v`, streamed over an int8 cache.
//!
//! Queries, keys and values of a chunk come from one product. Each KV head then goes its own way: normalise if the model
//! does, rotate, subtract the mean key, quantize keys and values into the cache, and let every query of its group attend. A
//! query of position p sees positions 0…p, or the last of them if the layer has a window, whose cache then holds no others
//! than it must: the causal mask is a length. In an encoder the chunk is the whole text, whose keys and values all are in
//! the cache before its queries attend, to all of them; the next layer then takes the same place.
//!
//! Attention is exact and needs no memory that grows with the context (online softmax, Milakov and Gimelshein, 2018,
//! arXiv:1805.02867; tiles as in FlashAttention, Dao et al., 2022, arXiv:2205.14135). For each tile of
//! 32 positions, aligned to the absolute position, with m the largest score so far, l the sum of
//! powers and o the output:
//!
//! ```text
//! s_j = (q · k_j) · (k_scale_j · q_scale)            int8 dot product; q_scale includes log₂e/√d
//! m'  = max(m, max_j s_j)                            c = exp2(m − m')
//! p_j = exp2(s_j − m')                               l = l·c + Σ_j p_j
//! w_j = p_j · v_scale_j, quantized over the tile     o = o·c + (Σ_j w_j v_j) · w_scale        int8 dot product
//! ```
//!
//! and at the end o / l. Where a model caps scores or adds to them by distance, that happens between the first line and
//! the second. Tiles depend on absolute positions only, so a chunk of any size, a single step, and the same
//! position after a rewind have the same bits.

use super::Chunk;
use super::linear::{Source, Target};
use crate::arch::{Arch, CROSS, Position, Role, SHAPING};
use crate::blob::Layer;
use crate::cache::{HeadCacheMut, HeadShape};
use crate::kernel::{Backend, Queries, Rules, Shaping, TileMut, Write};
use crate::packing::QUAD;
use crate::workers::{Phase, Workers, for_each};

/// A KV head's columns of the chunk's buffers, and its cache.
pub(super) struct Head<'a> {
    /// f32 queries of the group's heads; attention leaves its output here.
    pub(super) queries: TileMut<'a, f32>,
    /// None where they are cached already.
    pub(super) keys: TileMut<'a, f32>,
    pub(super) values: TileMut<'a, f32>,
    /// Room for the quantized queries: values, scales, starts.
    pub(super) quantized: TileMut<'a, i8>,
    pub(super) scales: TileMut<'a, f32>,
    pub(super) starts: TileMut<'a, i32>,
    pub(super) mean: &'a [f32],
    pub(super) shaping: Shaping<'a>,
    pub(super) cache: HeadCacheMut<'a>,
}

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    pub(super) fn attention(&mut self, index: u32, layer: &Layer<'_>) {
        let arch = self.model.arch();
        let norm = (layer.attention_norm, layer.attention_norm_bias);
        self.input(Source::Residual, norm);
        self.linear(&layer.qkv, layer.qkv_bias, Write::Store, self.count, Target::Wide);
        self.attend(index, layer);
        self.prepare(Source::Residual, Phase::Quantize, 0, self.count, arch.q_width() as usize, &|_, _, _| {});
        self.add(&layer.attention_out, layer.attention_out_bias, layer.attention_out_norm);
        if arch.norms_behind() {
            self.norm(norm);
        }
    }

    /// From queries, keys and values in the wide rows to the heads' outputs in the queries' place.
    fn attend(&mut self, index: u32, layer: &Layer<'_>) {
        let arch = self.model.arch();
        let (backend, position, count) = (self.backend, self.position, self.count);
        let (head_dim, group) = (arch.head_dim as usize, (arch.heads / arch.kv_heads) as usize);
        let (q_width, kv_width) = (arch.q_width() as usize, arch.kv_width() as usize);
        let scratch = &mut *self.scratch;

        let wide = scratch.wide.get_mut(..count * self.widths.wide).unwrap_or(&mut []);
        let (queries, rest) = TileMut::new(wide, q_width + 2 * kv_width, self.widths.wide).split_at(q_width);
        let (keys, values) = rest.split_at(kv_width);
        let quantized_head = self.model.header().packing.layout.vector_bytes(head_dim);
        let heads = arch.heads as usize;
        let mut queries = queries.strips(group * head_dim);
        let mut keys = keys.strips(head_dim);
        let mut values = values.strips(head_dim);
        let mut quantized = TileMut::new(scratch.quantized, heads * quantized_head, heads * quantized_head)
            .strips(group * quantized_head);
        let mut scales = TileMut::new(scratch.scales, heads, heads).strips(group);
        let mut starts = TileMut::new(scratch.starts, heads, heads).strips(group);
        let mut means = layer.key_mean.chunks_exact(head_dim);
        let windowed = arch.windowed(index);
        let (rotary_dim, own) = (arch.rotary_dim as usize, windowed && arch.window_rope);
        let of_layer = if own { rotary_dim..2 * rotary_dim } else { 0..rotary_dim };
        let rope = scratch.rope.chunks_exact(self.widths.rope.max(1));
        let window = if windowed { arch.window as usize } else { 0 };
        let alibi = SHAPING && matches!(arch.position, Position::Alibi);
        let slopes = if alibi { self.model.vector(Role::AlibiSlopes, 0) } else { None }.unwrap_or(&[]);
        let mut slopes = slopes.chunks_exact(group);
        let relative = SHAPING && CROSS && matches!(arch.position, Position::Relative);
        let biases = if relative { self.model.vector(Role::RelativeBias, 0) } else { None }.unwrap_or(&[]);
        let mut biases = biases.chunks_exact(if relative { group * arch.relative_distances() as usize } else { 1 });

        // An encoder is done with a layer's keys and values before the next.
        let cached = if arch.is_encoder() { 0 } else { index as usize };
        let heads = self.cache.heads_mut(cached).map_while(|cache| {
            Some(Head {
                queries: queries.next()?,
                keys: keys.next()?,
                values: values.next()?,
                quantized: quantized.next()?,
                scales: scales.next()?,
                starts: starts.next()?,
                mean: means.next()?,
                shaping: Shaping::new(Rules {
                    cap: arch.score_cap,
                    slopes: slopes.next().unwrap_or(&[]),
                    biases: biases.next().unwrap_or(&[]),
                    distance: arch.relative_distance as usize,
                    window,
                }),
                cache,
            })
        });
        let workers = self.workers;
        for_each(workers, heads.enumerate(), |(kv_head, mut head)| {
            let mut angles = rope.clone();
            if SHAPING && let Some(kind) = arch.head_norm.kind() {
                workers.enter(Phase::Norm);
                let own = if arch.norms_by_head() { kv_head } else { 0 };
                let query = layer.query_norm.and_then(|all| all.get(own * group * head_dim..)).unwrap_or(&[]);
                let key = layer.key_norm.and_then(|all| all.get(own * head_dim..)).unwrap_or(&[]);
                for t in 0..count {
                    let (eps, queries, keys) = (arch.norm_eps, head.queries.row(t), head.keys.row(t));
                    backend.norm_heads(kind, eps, queries, head_dim, query, layer.query_norm_bias);
                    backend.norm_heads(kind, eps, keys, head_dim, key, layer.key_norm_bias);
                }
            }
            for t in 0..count {
                let row = angles.next().unwrap_or(&[]);
                // A row holds the angles of all layers, then those of layers with a window.
                let row = if SHAPING { row.get(of_layer.clone()).unwrap_or(&[]) } else { row };
                head.enter(workers, backend, arch, t, position + t, row);
            }
            workers.enter(Phase::Attention);
            if arch.is_encoder() {
                head.attend(backend, count, false);
            } else {
                head.attend(backend, position, true);
            }
        });
    }
}

impl Head<'_> {
    /// Rotates the queries and the key of token `t`, caches its key and value, and quantizes its queries.
    fn enter(
        &mut self,
        workers: &impl Workers,
        backend: Backend,
        arch: &Arch,
        t: usize,
        position: usize,
        angles: &[f32],
    ) {
        workers.enter(Phase::Rope);
        let head_dim = arch.head_dim as usize;
        backend.rotate(self.keys.row(t), head_dim, angles);
        workers.enter(Phase::Cache);
        self.remember(backend, t, position);
        workers.enter(Phase::Rope);
        backend.rotate(self.queries.row(t), head_dim, angles);
        workers.enter(Phase::Quantize);
        self.quantize(backend, arch, t);
    }

    /// Caches the key and value of token `t`.
    #[inline(always)]
    pub(super) fn remember(&mut self, backend: Backend, t: usize, position: usize) {
        let HeadShape { layout, head_dim, .. } = self.cache.shape;
        let key = self.keys.row(t);
        for (k, m) in key.iter_mut().zip(self.mean) {
            *k -= m;
        }
        // The first query's place is free until the query is quantized.
        let room = self.quantized.row(t).get_mut(..layout.vector_bytes(head_dim)).unwrap_or(&mut []);
        self.cache.write(backend, position, key, self.values.row(t), room);
    }

    /// Quantizes the queries of token `t`.
    #[inline(always)]
    pub(super) fn quantize(&mut self, backend: Backend, arch: &Arch, t: usize) {
        let HeadShape { layout, head_dim, .. } = self.cache.shape;
        let quantized_head = layout.vector_bytes(head_dim);
        let (queries, scales, quantized) = (self.queries.row(t), self.scales.row(t), self.quantized.row(t));
        if head_dim.is_multiple_of(QUAD) {
            // Heads are groups of one vector.
            backend.quantize(layout, queries, head_dim, quantized, scales, self.starts.row(t));
        } else {
            let heads = queries.chunks_exact(head_dim).zip(quantized.chunks_exact_mut(quantized_head));
            let groups = scales.chunks_mut(1).zip(self.starts.row(t).chunks_mut(1));
            for ((query, q), (scale, start)) in heads.zip(groups) {
                backend.quantize(layout, query, head_dim, q, scale, start);
            }
        }
        for scale in scales {
            *scale *= arch.attention_scale * core::f32::consts::LOG2_E;
        }
    }

    /// Every query attends to all positions up to its own; to the first `position` if not `causal`.
    pub(super) fn attend(&mut self, backend: Backend, position: usize, causal: bool) {
        let (values, scales, starts, shaping) = (&mut self.quantized, &mut self.scales, &mut self.starts, self.shaping);
        backend.attend(
            &self.cache.view(),
            Queries { values, scales, starts, position, causal, shaping },
            &mut self.queries,
        );
    }
}
