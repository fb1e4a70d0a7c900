//! Queries against one head's cache, from cached floats to the output.

use core::f32::consts::LOG2_E;
use std::vec::Vec;

use fastrand::Rng;
use proptest::prelude::*;

use super::{Floats, LAYOUTS, bits, floats, lanes, quantized};
use crate::branch::Places;
use crate::cache::{HeadCacheMut, HeadShape, TILE};
use crate::kernel::{Backend, Queries, Rules, Shaping, TileMut};
use crate::math::{exp, exp2};
use crate::packing::{Layout, QUAD, round_up};

#[derive(Clone, Debug)]
struct Problem {
    head_dim: usize,
    /// What the last token sees.
    visible: usize,
    /// Positions in the cache beyond the visible ones.
    hidden: usize,
    /// Tokens, at most as many as positions.
    tokens: usize,
    /// Heads that share the cache.
    group: usize,
    /// Tokens see no later ones.
    causal: bool,
    keys: Floats,
    values: Floats,
    query: Floats,
    query_scale: f32,
    /// Positions that a query sees; 0 for all.
    window: usize,
    /// With a window: the cache holds no more positions than it must.
    ring: bool,
    /// 0 for none.
    cap: f32,
    /// The first head's slope; the next ones' are a half, a quarter…
    slope: f32,
    /// Of values for each distance; 0 for none.
    distance: usize,
    seed: u64,
}

fn problems() -> impl Strategy<Value = Problem> {
    let scale = prop_oneof![3 => 0.001f32..2.0, 1 => Just(0.0f32), 1 => Just(1e30)];
    let shape = (1usize..=130, 1usize..=200, 0usize..70, 1usize..=5, 1usize..=3, any::<bool>());
    let or = |least, most| prop_oneof![2 => Just(0.0f32), 1 => least..most];
    let some = |most| prop_oneof![2 => Just(0), 1 => 1usize..=most];
    let shaping = (some(210), or(0.5f32, 60.0), or(0.001, 1.0), some(120), any::<bool>());
    (shape, floats(), floats(), floats(), scale, shaping, any::<u64>()).prop_map(
        |((head_dim, visible, hidden, tokens, group, causal), keys, values, query, query_scale, shaping, seed)| {
            let shaping = if cfg!(feature = "shaping") { shaping } else { (0, 0.0, 0.0, 0, false) };
            Problem {
                head_dim,
                visible,
                hidden,
                tokens: tokens.min(visible),
                group,
                causal: causal || !cfg!(feature = "encoder"),
                keys,
                values,
                query,
                query_scale,
                window: shaping.0,
                cap: shaping.1,
                slope: shaping.2,
                distance: shaping.3,
                ring: shaping.4,
                seed,
            }
        },
    )
}

/// `head_dim` floats for each visible position, and for each token and head.
struct Data {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

impl Problem {
    fn data(&self) -> Data {
        let rng = &mut Rng::with_seed(self.seed);
        let mut many = |kind: Floats, n| (0..n).map(|_| kind.take(self.head_dim, rng)).collect();
        let (keys, values) = (many(self.keys, self.visible), many(self.values, self.visible));
        Data { keys, values, queries: many(self.query, self.tokens * self.group) }
    }

    /// The outputs of all tokens and heads.
    fn expected(&self, data: &Data) -> Vec<f32> {
        let first = self.visible - self.tokens + 1;
        let queries = data.queries.iter().enumerate();
        let visible = |t| if self.causal { first + t } else { self.visible };
        let own = |t| if self.causal { first + t - 1 } else { t };
        let all = queries.flat_map(|(i, query)| {
            let (t, head) = (i / self.group, i % self.group);
            self.attention(data, query, visible(t), own(t), head)
        });
        all.collect()
    }

    /// Values of a head, by distance.
    fn biases(&self, head: usize) -> Vec<f32> {
        let distances = if self.causal { self.distance + 1 } else { 2 * self.distance + 1 };
        let value = |i: usize| ((i * 7 + head * 3) % 11) as f32 * 0.3 - 1.5;
        if self.distance == 0 { Vec::new() } else { (0..distances).map(value).collect() }
    }

    /// Streaming attention as its documentation states it, position by position.
    fn attention(&self, data: &Data, query: &[f32], visible: usize, own: usize, head: usize) -> Vec<f32> {
        let dot = |a: &[i8], b: &[i8]| a.iter().zip(b).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum::<i64>();
        let (q_scale, query) = quantized(query);
        let q_scale = q_scale * self.query_scale;
        let (mut m, mut l, mut o) = (f32::NEG_INFINITY, 0f32, std::vec![0f32; self.head_dim]);
        let first = if self.window == 0 { 0 } else { visible.saturating_sub(self.window) };
        let (cap, slope) = (self.cap * LOG2_E, self.slopes()[head] * LOG2_E);
        for tile in first / TILE..visible.div_ceil(TILE) {
            let positions = first.max(tile * TILE)..visible.min((tile + 1) * TILE);
            let keys = data.keys[positions.clone()].iter().map(|k| quantized(k));
            let s = keys.map(|(scale, k)| dot(&query, &k) as f32 * (scale * q_scale));
            let s = s.map(|s| if cap == 0.0 { s } else { cap * (1.0 - 2.0 / (1.0 + exp(2.0 * (s / cap)))) });
            let s = s.zip(positions.clone()).map(
                |(s, j)| {
                    if slope == 0.0 { s } else { s - slope * (visible - 1 - j) as f32 }
                },
            );
            let biases = self.biases(head);
            let s = s.zip(positions.clone()).map(|(s, j)| {
                if biases.is_empty() {
                    return s;
                }
                let distance = (j as i64 - own as i64).clamp(-(self.distance as i64), self.distance as i64);
                s + biases[(distance + self.distance as i64) as usize] * LOG2_E
            });
            let s: Vec<f32> = s.collect();
            let new_m = s.iter().fold(m, |m, &s| m.max(s));
            let c = exp2(m - new_m);
            m = new_m;
            let p: Vec<f32> = s.iter().map(|s| exp2(s - m)).collect();
            // Lanes go by place in the tile; those of hidden positions get nothing.
            let hidden = positions.start - tile * TILE;
            l = l * c + lanes(core::iter::repeat_n(0.0, hidden).chain(p.iter().copied()));
            let values: Vec<(f32, Vec<i8>)> = data.values[positions].iter().map(|v| quantized(v)).collect();
            let w: Vec<f32> = p.iter().zip(&values).map(|(p, (scale, _))| p * scale).collect();
            let (w_scale, w) = quantized(&w);
            for (i, o) in o.iter_mut().enumerate() {
                let column: Vec<i8> = values.iter().map(|(_, v)| v[i]).collect();
                *o = *o * c + dot(&w, &column) as f32 * w_scale;
            }
        }
        o.iter().map(|o| o * (1.0 / l)).collect()
    }

    fn slopes(&self) -> Vec<f32> {
        (0..self.group).map(|head| self.slope * 0.5f32.powi(head as i32)).collect()
    }

    /// Caches everything in buffers full of garbage and attends.
    fn run(&self, data: &Data, backend: Backend, layout: Layout) -> Vec<f32> {
        let rng = &mut Rng::with_seed(!self.seed);
        let mut positions = round_up(self.visible + self.hidden, TILE);
        if self.ring && self.window > 0 {
            positions = positions.min(round_up(self.window + self.tokens - 1, TILE));
        }
        let shape = HeadShape { layout, head_dim: self.head_dim, positions };
        let mut bytes = |n: usize| (0..n).map(|_| rng.u8(..)).collect::<Vec<u8>>();
        let (mut keys, mut values) = (bytes(shape.keys()), bytes(shape.values()));
        let mut garbage = || (0..shape.positions).map(|_| Floats::Broken.take(1, rng)[0]).collect::<Vec<f32>>();
        let (mut key_scales, mut value_scales) = (garbage(), garbage());
        let mut cache = HeadCacheMut {
            shape,
            places: Places::default(),
            keys: &mut keys,
            values: &mut values,
            key_scales: &mut key_scales,
            value_scales: &mut value_scales,
        };
        let mut room = std::vec![0x55i8; round_up(self.head_dim, QUAD)];
        for (position, (key, value)) in data.keys.iter().zip(&data.values).enumerate() {
            // Something else was here before a rewind.
            cache.write(backend, position, value, key, &mut room);
            cache.write(backend, position, key, value, &mut room);
        }
        // Rows with something behind them, as in a session's buffers.
        let (tokens, group, bytes) = (self.tokens, self.group, layout.vector_bytes(self.head_dim));
        let (width, stride) = (group * bytes, group * bytes + 8);
        let mut q = std::vec![0x55i8; tokens * stride];
        let (mut scales, mut starts) =
            (std::vec![f32::NAN; tokens * (group + 1)], std::vec![7i32; tokens * (group + 1)]);
        let out_stride = group * self.head_dim + 3;
        let mut out = std::vec![7f32; tokens * out_stride];
        let values = &mut TileMut::new(&mut q, width, stride);
        let (scales, starts) =
            (&mut TileMut::new(&mut scales, group, group + 1), &mut TileMut::new(&mut starts, group, group + 1));
        for (i, query) in data.queries.iter().enumerate() {
            let (t, head) = (i / group, i % group);
            let (values, scale) = (&mut values.row(t)[head * bytes..][..bytes], &mut scales.row(t)[head..=head]);
            backend.quantize(layout, query, self.head_dim, values, scale, &mut starts.row(t)[head..=head]);
            scale[0] *= self.query_scale;
        }
        let causal = self.causal;
        let position = if causal { self.visible - tokens } else { self.visible };
        let tile = &mut TileMut::new(&mut out, group * self.head_dim, out_stride);
        let slopes = self.slopes();
        let biases: Vec<f32> = (0..self.group).flat_map(|head| self.biases(head)).collect();
        let (cap, window, distance) = (self.cap, self.window, self.distance);
        let shaping = Shaping::new(Rules { cap, slopes: &slopes, biases: &biases, distance, window });
        backend.attend(&cache.view(), Queries { values, scales, starts, position, causal, shaping }, tile);
        let rows = out.chunks(out_stride).map(|row| row.split_at(group * self.head_dim));
        rows.flat_map(|(row, rest)| {
            assert_eq!(rest, [7.0; 3], "written beyond a row");
            row.to_vec()
        })
        .collect()
    }
}

proptest! {
    #[test]
    fn every_backend_and_layout_attends_as_documented(p in problems()) {
        let data = p.data();
        let expected = bits(&p.expected(&data));
        for layout in LAYOUTS {
            for backend in Backend::available() {
                let found = p.run(&data, backend, layout);
                prop_assert_eq!(bits(&found), &expected[..], "{} {:?}", backend.name(), layout);
            }
        }
    }
}

/// That the formula above is attention at all: against softmax (to base 2) in f64, within what eight bits lose.
#[test]
fn attention_is_close_to_softmax() {
    for (head_dim, visible) in [(1, 1), (6, 31), (16, 33), (64, 200), (130, 97)] {
        let p = Problem {
            head_dim,
            visible,
            hidden: 0,
            tokens: 1,
            group: 1,
            causal: true,
            keys: Floats::Usual,
            values: Floats::Usual,
            query: Floats::Usual,
            query_scale: 1.0 / (head_dim as f32).sqrt(),
            window: 0,
            ring: false,
            cap: 0.0,
            slope: 0.0,
            distance: 0,
            seed: 3,
        };
        let data = p.data();
        let f64s = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let query = f64s(&data.queries[0]);
        let score =
            |k: &Vec<f32>| query.iter().zip(f64s(k)).map(|(q, k)| q * k).sum::<f64>() * f64::from(p.query_scale);
        let p_j: Vec<f64> = data.keys.iter().map(|k| score(k).exp2()).collect();
        let total: f64 = p_j.iter().sum();
        for (i, y) in p.run(&data, Backend::detect(), Layout::Rows8).iter().enumerate() {
            let exact = p_j.iter().zip(&data.values).map(|(p, v)| p * f64::from(v[i])).sum::<f64>() / total;
            // Values reach 4, keys and queries are rounded to 1/127 of that.
            assert!((f64::from(*y) - exact).abs() < 0.2, "{head_dim} {visible}: {y} {exact}");
        }
    }
}
