//! Attention: rotation, what a token sees, and the sum over it.

use rayon::prelude::*;
use thumbformer::arch::Arch;

use super::layers::{TASK, cap, dot, normalise};
use super::weights::{Layer, Weights};

#[derive(Clone, Debug, Default)]
pub(super) struct KeysValues {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl KeysValues {
    /// Takes the keys and values of new tokens from their `qkv`.
    pub(super) fn append(&mut self, arch: &Arch, qkv: &[f32]) {
        let (q, kv) = (arch.q_width() as usize, arch.kv_width() as usize);
        for token in qkv.chunks(arch.qkv_width() as usize) {
            self.keys.extend_from_slice(&token[q..q + kv]);
            self.values.extend_from_slice(&token[q + kv..]);
        }
    }
}

impl Weights {
    /// RoPE on the queries and keys of `qkv`: each pair `(i, i + rotary_dim/2)` of a head turns by
    /// `position · frequency[i]`.
    pub(super) fn rotate(&self, layer: u32, qkv: &mut [f32], first: usize) {
        let arch = &self.arch;
        let own = arch.window_rope && arch.windowed(layer);
        let frequencies = if own { &self.window_rope_frequencies } else { &self.rope_frequencies };
        let (head_dim, half) = (arch.head_dim as usize, frequencies.len());
        let rotated = (arch.q_width() + arch.kv_width()) as usize;
        for (token, qkv) in qkv.chunks_mut(arch.qkv_width() as usize).enumerate() {
            // The angle is rounded to f32 as in PyTorch, where the model was trained.
            let angle = |frequency: &f32| ((first + token) as f32 * frequency).sin_cos();
            let turns: Vec<(f32, f32)> = frequencies.iter().map(angle).collect();
            for head in qkv[..rotated].chunks_mut(head_dim) {
                let (left, right) = head.split_at_mut(half);
                for ((a, b), (sin, cos)) in left.iter_mut().zip(right).zip(&turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

impl Layer {
    /// Norms of every query and key head of `qkv`.
    pub(super) fn norm_heads(&self, arch: &Arch, qkv: &mut [f32]) {
        let (Some([query, key]), Some(kind)) = (&self.head_norms, arch.head_norm.kind()) else { return };
        let (head_dim, q_width, kv_width) = (arch.head_dim as usize, arch.q_width() as usize, arch.kv_width() as usize);
        for token in qkv.chunks_mut(arch.qkv_width() as usize) {
            let (queries, rest) = token.split_at_mut(q_width);
            for (heads, norm) in [(queries, query), (&mut rest[..kv_width], key)] {
                for (head, weight) in heads.chunks_mut(head_dim).zip(norm.weight.chunks(head_dim).cycle()) {
                    normalise(kind, arch.norm_eps, head, weight, norm.bias.as_deref());
                }
            }
        }
    }
}

/// What a token sees, and how it counts.
pub(super) struct Seen<'a> {
    /// One for each head, or none.
    pub(super) slopes: &'a [f32],
    /// `heads × distances`, or none.
    pub(super) biases: &'a [f32],
    /// Positions up to its own.
    pub(super) window: usize,
    /// All that there are instead.
    pub(super) all: bool,
    /// The first token's position.
    pub(super) first: usize,
}

/// Scaled dot-product attention, `softmax(q·Kᵀ · scale)·V`, of each token, whose queries stand at the front of its row of
/// `width` values, over what it sees; `heads / kv_heads` neighbouring query heads share a key and value head. Gives
/// `tokens × heads·head_dim`.
pub(super) fn attention(arch: &Arch, seen: &Seen<'_>, qkv: &[f32], width: u32, cache: &KeysValues) -> Vec<f32> {
    let (width, q_width, first) = (width as usize, arch.q_width() as usize, seen.first);
    let (distance, distances) = (arch.relative_distance as usize, arch.relative_distances() as usize);
    let (kv_width, head_dim) = (arch.kv_width() as usize, arch.head_dim as usize);
    let sharing = (arch.heads / arch.kv_heads) as usize;
    let mut out = vec![0f32; qkv.len() / width * q_width];
    let tokens = out.par_chunks_mut(q_width).zip(qkv.par_chunks(width)).enumerate();
    tokens.with_min_len(1 + TASK / (q_width * (first + 1))).for_each(|(token, (out, qkv))| {
        let own = first + token;
        let last = if seen.all { cache.keys.len() / kv_width - 1 } else { own };
        let visible = (last + 1) * kv_width;
        let earliest = (last + 1).saturating_sub(seen.window);
        for (head, (out, q)) in out.chunks_mut(head_dim).zip(qkv.chunks(head_dim)).enumerate() {
            let start = head / sharing * head_dim;
            let of_head = start..start + head_dim;
            let slope = seen.slopes.get(head).copied().unwrap_or(0.0);
            let biases = seen.biases.chunks(distances).nth(head);
            let bias = |position: usize| {
                biases.map_or(0.0, |biases| biases[(position + distance).saturating_sub(own).min(distances - 1)])
            };
            let score = |(position, k): (usize, &[f32])| {
                let score = dot(q, &k[of_head.clone()]) * arch.attention_scale;
                let score = if arch.score_cap == 0.0 { score } else { cap(score, arch.score_cap) };
                score - slope * own.abs_diff(position) as f32 + bias(position)
            };
            let range = earliest * kv_width..visible;
            let mut p: Vec<f32> = (earliest..).zip(cache.keys[range.clone()].chunks(kv_width)).map(score).collect();
            softmax(&mut p);
            for (p, v) in p.iter().zip(cache.values[range].chunks(kv_width)) {
                out.iter_mut().zip(&v[of_head.clone()]).for_each(|(out, v)| *out += p * v);
            }
        }
    });
    out
}

/// `eᶻ / Σ eᶻ`, the maximum taken out first.
fn softmax(z: &mut [f32]) {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    z.iter_mut().for_each(|z| *z = (*z - max).exp());
    let sum: f64 = z.iter().map(|z| f64::from(*z)).sum();
    z.iter_mut().for_each(|z| *z = (f64::from(*z) / sum) as f32);
}
