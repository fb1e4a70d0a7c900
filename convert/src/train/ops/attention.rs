//! Scaled dot-product attention over sequences of any length.

use std::array;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use thumbformer::math::{exp, max, sum};

use super::quantize::round;
use super::{Dropout, add_rows, argument, dot, gradient, result, values, vectorized};
use crate::quantize::absmax;

/// Positions that the runtime's attention takes at a time.
const TILE: usize = 32;

/// Queries whose shares of the keys' and values' gradients are added at a time.
const QUERIES: usize = 4;

/// Where each sequence of a batch begins and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<Range<usize>>);

impl Segments {
    /// Sequences of these lengths, one behind the other.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let segment = |length: usize| {
            let start = end;
            end += length;
            start..end
        };
        Self(lengths.into_iter().map(segment).collect())
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.0.last().map_or(0, |last| last.end)
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.0.iter().map(Range::len).max().unwrap_or(0)
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> Arc<[u32]> {
        self.0.iter().flat_map(|segment| 0..segment.len() as u32).collect()
    }

    /// Cuts rows of `width` into the sequences' own.
    fn split<'a>(&self, mut rows: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let cut = |segment: &Range<usize>| {
            let (first, rest) = std::mem::take(&mut rows).split_at_mut(segment.len() * width);
            rows = rest;
            first
        };
        self.0.iter().map(cut).collect()
    }
}

/// softmax(scale·Q·Kᵀ)·V for each head, each sequence by itself. Queries are `[tokens, heads·head_dim]`, keys and values
/// `[tokens, kv_heads·head_dim]`; each key head serves `heads / kv_heads` query heads that follow each other.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Sequences of the queries.
    pub queries: Arc<Segments>,
    /// Sequences of keys and values, one for each of the queries'.
    pub keys: Arc<Segments>,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// A token sees itself and what comes before it only.
    pub causal: bool,
    /// Factor of the scores.
    pub scale: f32,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
    /// Probabilities are rounded as the runtime rounds them; values must be rounded already ([`Quantize`]).
    ///
    /// [`Quantize`]: super::Quantize
    pub quantized: bool,
}

/// One sequence's rows, and where its first row lies in the batch.
struct Sequence<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    first: usize,
}

impl Attention {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn sequences<'a>(&'a self, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Vec<Sequence<'a>> {
        let (width, kv_width) = (self.width(), self.kv_width());
        let rows = |x: &'a [f32], segment: &Range<usize>, width: usize| &x[segment.start * width..segment.end * width];
        let pairs = self.queries.0.iter().zip(&self.keys.0);
        pairs
            .map(|(of_q, of_k)| Sequence {
                q: rows(q, of_q, width),
                k: rows(k, of_k, kv_width),
                v: rows(v, of_k, kv_width),
                first: of_q.start,
            })
            .collect()
    }

    /// How many keys query `i` of a sequence with `keys` of them sees.
    fn seen(&self, i: usize, keys: usize) -> usize {
        if self.causal { keys.min(i + 1) } else { keys }
    }

    /// The features of one head, `[head_dim][tokens]`: loops over tokens then run along memory.
    #[inline(always)]
    fn transposed(&self, rows: &[f32], head: usize, out: &mut Vec<f32>) {
        let (width, d) = (self.kv_width(), self.head_dim);
        let tokens = rows.len() / width;
        out.clear();
        out.resize(tokens * d, 0.0);
        for (t, row) in rows.chunks_exact(width).enumerate() {
            for (c, x) in row[head * d..][..d].iter().enumerate() {
                out[c * tokens + t] = *x;
            }
        }
    }

    /// Probabilities of the keys for one query: `p` has as many places as keys are seen.
    #[inline(always)]
    fn probabilities(&self, q: &[f32], keys: &[f32], tokens: usize, p: &mut [f32]) {
        p.fill(0.0);
        add_rows(p, q, keys, tokens);
        p.iter_mut().for_each(|score| *score *= self.scale);
        let largest = max(p, f32::NEG_INFINITY, |x| x);
        for x in p.iter_mut() {
            *x = exp(*x - largest);
        }
        let inverse = 1.0 / sum(p, |x| x);
        for x in p.iter_mut() {
            *x *= inverse;
        }
    }

    /// Rounds what a query takes of each value as the runtime does: times the value's scale, over a tile of positions.
    #[inline(always)]
    fn round(&self, p: &mut [f32], scales: &[f32]) {
        for (p, scales) in p.chunks_mut(TILE).zip(scales.chunks(TILE)) {
            p.iter_mut().zip(scales).for_each(|(p, scale)| *p *= scale);
            round(p);
            // A value whose scale is zero is zero.
            p.iter_mut().zip(scales).for_each(|(p, &scale)| *p = if scale > 0.0 { *p / scale } else { 0.0 });
        }
    }

    /// The scale of each position's values of one head.
    #[inline(always)]
    fn scales(&self, v: &[f32], head: usize, scales: &mut [f32]) {
        for (scale, v) in scales.iter_mut().zip(v.chunks_exact(self.kv_width())) {
            *scale = absmax(&v[head * self.head_dim..][..self.head_dim]) / 127.0;
        }
    }

    /// The dropout's factor of head `head`, row `row` of the batch, key `key`.
    #[inline(always)]
    fn kept(&self, dropout: Dropout, head: usize, row: usize, key: usize) -> f32 {
        // Rows and keys below 2²⁰, heads above.
        dropout.factor((head << 40) | (row << 20) | key)
    }

    #[inline(always)]
    fn forward(&self, Sequence { q, k, v, first }: Sequence<'_>, out: &mut [f32]) {
        let (d, width, kv_width) = (self.head_dim, self.width(), self.kv_width());
        let tokens = k.len() / kv_width;
        let (mut keys, mut p, mut scales) = (Vec::new(), vec![0.0; tokens], vec![0.0; tokens]);
        for kv in 0..self.kv_heads {
            self.transposed(k, kv, &mut keys);
            if self.quantized {
                self.scales(v, kv, &mut scales);
            }
            let group = self.heads / self.kv_heads;
            for head in kv * group..(kv + 1) * group {
                for (i, (q, out)) in q.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
                    let (q, out) = (&q[head * d..][..d], &mut out[head * d..][..d]);
                    let p = &mut p[..self.seen(i, tokens)];
                    self.probabilities(q, &keys, tokens, p);
                    if let Some(dropout) = self.dropout {
                        for (j, p) in p.iter_mut().enumerate() {
                            *p *= self.kept(dropout, head, first + i, j);
                        }
                    }
                    if self.quantized {
                        self.round(p, &scales);
                    }
                    add_rows(out, p, &v[kv * d..], kv_width);
                }
            }
        }
    }

    // Rounded probabilities have the gradients of those that are not.
    // dV = Pᵀ·dO; dP = dO·Vᵀ; dS = P∘(dP − Σ P∘dP); dQ = scale·dS·K; dK = scale·dSᵀ·Q. P is computed again.
    #[inline(always)]
    fn backward(&self, sequence: Sequence<'_>, grad: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let Sequence { q, k, v, first } = sequence;
        let (d, width, kv_width) = (self.head_dim, self.width(), self.kv_width());
        let (queries, tokens) = (q.len() / width, k.len() / kv_width);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut kept: [Vec<f32>; QUERIES] = array::from_fn(|_| vec![0.0; tokens]);
        let mut ds = kept.clone();
        let mut p = vec![0.0; tokens];
        for kv in 0..self.kv_heads {
            self.transposed(k, kv, &mut keys);
            self.transposed(v, kv, &mut values);
            let group = self.heads / self.kv_heads;
            for head in kv * group..(kv + 1) * group {
                for start in (0..queries).step_by(QUERIES) {
                    let block = start..queries.min(start + QUERIES);
                    let all = self.seen(block.end - 1, tokens);
                    for ((i, kept), ds) in block.clone().zip(&mut kept).zip(&mut ds) {
                        let at = i * width + head * d;
                        let seen = self.seen(i, tokens);
                        let (p, of_p) = (&mut p[..seen], &mut ds[..seen]);
                        self.probabilities(&q[at..][..d], &keys, tokens, p);
                        of_p.fill(0.0);
                        add_rows(of_p, &grad[at..][..d], &values, tokens);
                        kept[..seen].copy_from_slice(p);
                        if let Some(dropout) = self.dropout {
                            for (j, (kept, of_p)) in kept.iter_mut().zip(of_p.iter_mut()).enumerate() {
                                let factor = self.kept(dropout, head, first + i, j);
                                *kept *= factor;
                                *of_p *= factor;
                            }
                        }
                        let mean = dot(p, of_p);
                        for (p, ds) in p.iter().zip(of_p.iter_mut()) {
                            *ds = self.scale * p * (*ds - mean);
                        }
                        add_rows(&mut dq[at..][..d], of_p, &k[kv * d..], kv_width);
                        // What the block's later queries see and this one does not.
                        kept[seen..all].fill(0.0);
                        ds[seen..all].fill(0.0);
                    }
                    let rows = start * width + head * d;
                    for j in 0..all {
                        let at = j * kv_width + kv * d;
                        let factors = |of: &[Vec<f32>; QUERIES]| array::from_fn::<_, QUERIES, _>(|i| of[i][j]);
                        add_rows(&mut dv[at..][..d], &factors(&kept)[..block.len()], &grad[rows..], width);
                        add_rows(&mut dk[at..][..d], &factors(&ds)[..block.len()], &q[rows..], width);
                    }
                }
            }
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (width, kv_width) = (self.width(), self.kv_width());
        let (of_q, of_k) = ((self.queries.tokens(), width), (self.keys.tokens(), kv_width));
        if lq.shape().dims2()? != of_q || lk.shape().dims2()? != of_k || lv.shape().dims2()? != of_k {
            bail!("attention of {of_q:?} to {of_k:?}: {:?}, {:?}, {:?}", lq.shape(), lk.shape(), lv.shape());
        }
        if self.queries.0.len() != self.keys.0.len() {
            bail!("attention of {} sequences to {}", self.queries.0.len(), self.keys.0.len());
        }
        if self.keys.0.iter().any(Range::is_empty) {
            bail!("attention to a sequence of no tokens");
        }
        let sequences = self.sequences(argument(q, lq)?, argument(k, lk)?, argument(v, lv)?);
        let mut out = vec![0.0; of_q.0 * width];
        let rows = self.queries.split(&mut out, width);
        sequences.into_par_iter().zip(rows).for_each(|(sequence, out)| {
            vectorized(
                #[inline(always)]
                || self.forward(sequence, out),
            )
        });
        result(out, lq.shape())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (width, kv_width) = (self.width(), self.kv_width());
        let (qs, ks, vs, grad) = (values(q)?, values(k)?, values(v)?, values(grad)?);
        let (mut dq, mut dk, mut dv) = (vec![0.0; qs.len()], vec![0.0; ks.len()], vec![0.0; vs.len()]);
        let grad = &*grad;
        let sequences = self.sequences(&qs, &ks, &vs);
        let gradients: Vec<_> = self
            .queries
            .split(&mut dq, width)
            .into_iter()
            .zip(self.keys.split(&mut dk, kv_width))
            .zip(self.keys.split(&mut dv, kv_width))
            .collect();
        sequences.into_par_iter().zip(gradients).for_each(|(sequence, ((dq, dk), dv))| {
            let grad = &grad[sequence.first * width..][..sequence.q.len()];
            vectorized(
                #[inline(always)]
                || self.backward(sequence, grad, dq, dk, dv),
            );
        });
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}
