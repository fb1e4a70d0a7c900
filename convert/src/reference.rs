//! The f32 oracle: the architecture record executed in plain floats on the unquantized weights.
//!
//! It answers "what would the model have said before quantization?" for `eval --reference` and `run --precision f32`,
//! and it is the only check that can catch a wrong GELU, epsilon or rotation, because int8 noise hides such mistakes.
//! Written to be read beside the papers' equations, it shares no arithmetic with the runtime and is not bound by the
//! contract of equal bits: `exp` and its like come from the machine's library, so that last bits differ between
//! machines (not between threads or block sizes). Keys are not centred; softmax could not see it.
//!
//! Activations are row-major, `tokens × width`, the tokens being consecutive positions of one sequence.

use std::collections::HashMap;
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

use rayon::prelude::*;
use thumbformer::SessionError;
use thumbformer::arch::{Activation, Arch, Norm, Position, Role, TensorSpec};

use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// Tokens that go through the layers together: bounds the memory for activations and logits.
const BLOCK: usize = 64;
/// Positions whose logits are computed together: fewer, because a vocabulary can be large.
const LOGITS: usize = 8;
/// Multiply-adds that are worth a task of their own.
const TASK: usize = 1 << 17;

/// A model in f32 with the keys and values of the positions it has seen.
///
/// A clone shares the weights and has a cache of its own, so clones can run different sequences in parallel.
#[derive(Clone, Debug)]
pub struct Reference {
    weights: Arc<Weights>,
    /// For each layer: keys after rotation, and values, `position × kv_width`.
    cache: Vec<KeysValues>,
    position: usize,
    /// The encoder of an encoder-decoder.
    encoder: Option<Box<Reference>>,
    /// For each layer of its decoder the keys and values of the source; none before the first.
    source: Arc<Vec<KeysValues>>,
}

#[derive(Debug)]
struct Weights {
    arch: Arch,
    /// `vocab × dim`; also the head, if tied, and the encoder's, if it shares it
    token_embedding: Arc<Linear>,
    /// `context × dim`, empty without learned positions
    position_embedding: Vec<f32>,
    /// `rotary_dim / 2` radians per position, empty without RoPE
    rope_frequencies: Vec<f32>,
    /// The same for layers with a window, empty if they have none of their own.
    window_rope_frequencies: Vec<f32>,
    /// One for each head, empty without ALiBi.
    alibi_slopes: Vec<f32>,
    /// `heads × distances`, empty without relative positions.
    relative_bias: Vec<f32>,
    /// `token_types × dim`, empty without token types
    token_type_embedding: Vec<f32>,
    embedding_norm: Option<Scale>,
    layers: Vec<Layer>,
    /// `None` where every layer ends with a norm, and in some others
    final_norm: Option<Scale>,
    head_transform: Option<(Linear, Scale)>,
    /// `None` if tied
    head: Option<Linear>,
    head_bias: Option<Vec<f32>>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Scale,
    qkv: Linear,
    /// RMSNorm of each query and each key head.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    attention_out: Linear,
    attention_out_norm: Option<Scale>,
    cross: Option<Cross>,
    /// `None` if it is attention's.
    mlp_norm: Option<Scale>,
    /// Gate, then up, if gated.
    mlp_up: Linear,
    mlp_down: Linear,
    mlp_out_norm: Option<Scale>,
}

/// Attention to a source.
#[derive(Debug)]
struct Cross {
    norm: Scale,
    query: Linear,
    key_value: Linear,
    out: Linear,
}

/// What follows a norm's division: `weight · x + bias`.
#[derive(Debug)]
struct Scale {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// `y = W·x + b`; `weight` is `outputs × inputs`.
#[derive(Debug)]
struct Linear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
}

#[derive(Clone, Debug, Default)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Reference {
    /// Reads all weights into memory, four bytes each.
    ///
    /// # Errors
    /// What [`Recipe::read_rows`] reports, or a recipe that lacks a tensor its record calls for.
    pub fn load(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<Self> {
        Self::of(Weights::load(recipe, checkpoint, None)?, |embedding| {
            let encoder = |source| Self::of(Weights::load(source, checkpoint, Some(embedding))?, |_| Ok(None));
            Ok(recipe.source.as_deref().map(encoder).transpose()?.map(Box::new))
        })
    }

    fn of(weights: Weights, encoder: impl FnOnce(&Arc<Linear>) -> Result<Option<Box<Self>>>) -> Result<Self> {
        let cache = vec![KeysValues::default(); weights.layers.len()];
        let encoder = encoder(&weights.token_embedding)?;
        Ok(Self { weights: Arc::new(weights), cache, position: 0, encoder, source: Arc::default() })
    }

    /// Takes in a source, in place of the one before, and forgets all positions.
    ///
    /// # Errors
    /// As [`thumbformer::Session::encode_source`].
    pub fn encode_source(&mut self, ids: &[u32]) -> Result<()> {
        let Some(encoder) = &mut self.encoder else { return Err(SessionError::NoEncoder.into()) };
        let x = encoder.encode(ids, &[])?;
        let arch = &self.weights.arch;
        let width = arch.kv_width() as usize;
        let of_layer = |layer: &Layer| {
            let mut source = KeysValues::default();
            for token in
                layer.cross.iter().flat_map(|cross| cross.key_value.apply(&x)).collect::<Vec<_>>().chunks(2 * width)
            {
                source.keys.extend_from_slice(&token[..width]);
                source.values.extend_from_slice(&token[width..]);
            }
            source
        };
        self.source = Arc::new(self.weights.layers.iter().map(of_layer).collect());
        self.reset();
        Ok(())
    }

    /// The record it executes.
    pub fn arch(&self) -> &Arch {
        &self.weights.arch
    }

    /// Number of positions seen, which is the position of the next token.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all positions, but no source.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Forgets all positions from `position` on.
    ///
    /// # Errors
    /// `position` lies beyond those seen.
    pub fn rewind(&mut self, position: usize) -> Result<()> {
        if position > self.position {
            let seen = self.position;
            return Err(Error::Usage(format!("cannot rewind to position {position}: only {seen} have been seen")));
        }
        self.truncate(position);
        Ok(())
    }

    /// Appends `ids` to the sequence and shows `visit` each new position's logits, in order, as
    /// `visit(position, logits)` with `vocab` logits.
    ///
    /// # Errors
    /// An encoder, an id outside the vocabulary or more tokens than the context has room for; nothing is appended then.
    pub fn forward(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.check(ids)?;
        let (dim, vocab) = (self.arch().dim as usize, self.arch().vocab as usize);
        for block in ids.chunks(BLOCK) {
            let first = self.position;
            let x = self.hidden(block, &[]);
            for (i, x) in x.chunks(LOGITS * dim).enumerate() {
                for (j, logits) in self.weights.logits(x).chunks(vocab).enumerate() {
                    visit(first + LOGITS * i + j, logits);
                }
            }
        }
        Ok(())
    }

    /// Appends `ids` to the sequence and returns the last one's logits only, which saves the other products with the
    /// head.
    ///
    /// # Errors
    /// As [`Reference::forward`], or `ids` is empty.
    pub fn forward_last(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check(ids)?;
        let mut last = None;
        for block in ids.chunks(BLOCK) {
            last = Some(self.hidden(block, &[]));
        }
        let x = last.ok_or_else(|| Error::Usage("no token was given: logits need at least one".into()))?;
        Ok(self.weights.logits(&x[x.len() - self.arch().dim as usize..]))
    }

    /// Takes in a text, in place of the one before, and returns a vector for each token, `tokens × dim`. Without
    /// `token_types` all are 0.
    ///
    /// # Errors
    /// As [`thumbformer::Session::encode`].
    pub fn encode(&mut self, ids: &[u32], token_types: &[u8]) -> Result<Vec<f32>> {
        let arch = *self.arch();
        if arch.causal {
            return Err(SessionError::Decoder.into());
        }
        let (types, expected) = (arch.token_types.max(1), ids.len());
        if !token_types.is_empty() && token_types.len() != expected {
            return Err(SessionError::TokenTypes { found: token_types.len(), expected }.into());
        }
        if let Some((index, &found)) = token_types.iter().enumerate().find(|&(_, &found)| u32::from(found) >= types) {
            return Err(SessionError::TokenType { index, found, types }.into());
        }
        self.reset();
        self.check_tokens(ids)?;
        if ids.is_empty() {
            return Err(SessionError::NoTokens.into());
        }
        Ok(self.hidden(ids, token_types))
    }

    /// The logits of an encoder's vectors, `tokens × vocab`.
    ///
    /// # Errors
    /// The model has no head.
    pub fn token_logits(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        if self.arch().headless {
            return Err(SessionError::Headless.into());
        }
        Ok(self.weights.logits(hidden))
    }

    /// The mean key of all positions seen, after rotation: for each layer `kv_heads·head_dim` values
    /// ([`Role::KeyMean`]). Zeros before the first position.
    pub fn mean_keys(&self) -> Vec<Vec<f32>> {
        let width = self.arch().kv_width() as usize;
        let mean = |cache: &KeysValues| {
            let mut sum = vec![0f64; width];
            for key in cache.keys.chunks(width) {
                sum.iter_mut().zip(key).for_each(|(s, k)| *s += f64::from(*k));
            }
            sum.iter().map(|s| (s / self.position.max(1) as f64) as f32).collect()
        };
        self.cache.iter().map(mean).collect()
    }

    fn truncate(&mut self, position: usize) {
        let len = position * self.arch().kv_width() as usize;
        for cache in &mut self.cache {
            cache.keys.truncate(len);
            cache.values.truncate(len);
        }
        self.position = position;
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if !self.arch().causal {
            return Err(SessionError::Encoder.into());
        }
        if self.arch().cross && self.source.is_empty() {
            return Err(SessionError::NoSource.into());
        }
        self.check_tokens(ids)
    }

    fn check_tokens(&self, ids: &[u32]) -> Result<()> {
        let arch = self.arch();
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id >= arch.vocab) {
            let vocab = arch.vocab;
            return Err(Error::Usage(format!(
                "token id {id} (number {index} of those given) is not below the vocabulary's size of {vocab}"
            )));
        }
        let (seen, more, context) = (self.position, ids.len(), arch.context);
        if more > (context as usize).saturating_sub(seen) {
            return Err(Error::Usage(format!("{more} tokens after {seen} do not fit into the context of {context}")));
        }
        Ok(())
    }

    /// Runs new tokens through all layers and the final norm: `tokens × dim`.
    fn hidden(&mut self, ids: &[u32], token_types: &[u8]) -> Vec<f32> {
        let weights = Arc::clone(&self.weights);
        let arch = &weights.arch;
        let mut x = weights.embed(ids, token_types, self.position);
        for (index, (layer, cache)) in (0..).zip(weights.layers.iter().zip(&mut self.cache)) {
            let mut input = if arch.is_parallel() { x.clone() } else { Vec::new() };
            let mut qkv = layer.qkv.apply(&layer.attention_norm.before(arch, &mut x));
            layer.norm_heads(arch, &mut qkv);
            weights.rotate(index, &mut qkv, self.position);
            cache.append(arch, &qkv);
            let window = if arch.windowed(index) { arch.window as usize } else { usize::MAX };
            let (slopes, biases) = (&weights.alibi_slopes, &weights.relative_bias);
            let seen = Seen { slopes, biases, window, all: !arch.causal, first: self.position };
            let mixed = attention(arch, &seen, &qkv, arch.qkv_width(), cache);
            add(&mut x, &normed(arch, &layer.attention_out_norm, layer.attention_out.apply(&mixed)));
            layer.attention_norm.behind(arch, &mut x);

            if let (Some(cross), Some(source)) = (&layer.cross, self.source.get(index as usize)) {
                let queries = cross.query.apply(&cross.norm.before(arch, &mut x));
                let seen = Seen { slopes: &[], biases: &[], window: usize::MAX, all: true, first: 0 };
                let mixed = attention(arch, &seen, &queries, arch.q_width(), source);
                add(&mut x, &cross.out.apply(&mixed));
                cross.norm.behind(arch, &mut x);
            }

            let norm = layer.mlp_norm.as_ref().unwrap_or(&layer.attention_norm);
            let given = if arch.is_parallel() { &mut input } else { &mut x };
            let up = layer.mlp_up.apply(&norm.before(arch, given));
            add(&mut x, &normed(arch, &layer.mlp_out_norm, layer.mlp_down.apply(&activate(arch, arch.gated, up))));
            norm.behind(arch, &mut x);
        }
        self.position += ids.len();
        weights.final_norm.as_ref().map_or_else(|| x.clone(), |norm| norm.apply(arch, &x))
    }
}

impl Weights {
    /// `shared` is the decoder's token embedding, for an encoder that has none.
    fn load(recipe: &Recipe, checkpoint: &Checkpoint, shared: Option<&Arc<Linear>>) -> Result<Self> {
        let arch = recipe.arch;
        arch.validate().map_err(|e| Error::Usage(e.to_string()))?;
        let mut tensors = Tensors::read(recipe, checkpoint)?;
        let layers = (0..arch.layers).map(|l| Layer::take(&mut tensors, l)).collect::<Result<_>>()?;
        Ok(Self {
            arch,
            token_embedding: match shared.filter(|_| arch.shared_embedding) {
                Some(shared) => Arc::clone(shared),
                None => Arc::new(tensors.linear(Role::TokenEmbedding, None, 0)?),
            },
            relative_bias: tensors.take(Role::RelativeBias, 0)?.unwrap_or_default(),
            head_bias: tensors.take(Role::HeadBias, 0)?,
            position_embedding: tensors.take(Role::PositionEmbedding, 0)?.unwrap_or_default(),
            rope_frequencies: tensors.take(Role::RopeFrequencies, 0)?.unwrap_or_default(),
            window_rope_frequencies: tensors.take(Role::WindowRopeFrequencies, 0)?.unwrap_or_default(),
            alibi_slopes: tensors.take(Role::AlibiSlopes, 0)?.unwrap_or_default(),
            token_type_embedding: tensors.take(Role::TokenTypeEmbedding, 0)?.unwrap_or_default(),
            embedding_norm: tensors.scale_if(Role::EmbeddingNorm, Role::EmbeddingNormBias)?,
            layers,
            final_norm: tensors.scale_if(Role::FinalNorm, Role::FinalNormBias)?,
            head_transform: match tensors.scale_if(Role::HeadTransformNorm, Role::HeadTransformNormBias)? {
                Some(norm) => Some((tensors.linear(Role::HeadTransform, Some(Role::HeadTransformBias), 0)?, norm)),
                None => None,
            },
            head: if arch.tied_head { None } else { Some(tensors.linear(Role::Head, None, 0)?) },
        })
    }

    /// Ids below the vocabulary's size, positions below the context's; token types below theirs, 0 where there are none.
    fn embed(&self, ids: &[u32], token_types: &[u8], first: usize) -> Vec<f32> {
        let dim = self.arch.dim as usize;
        let row = |matrix: &[f32], row: usize| matrix[row * dim..(row + 1) * dim].to_vec();
        let mut x: Vec<f32> = ids.iter().flat_map(|&id| row(&self.token_embedding.weight, id as usize)).collect();
        if self.arch.embedding_scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.arch.embedding_scale);
        }
        if self.arch.position == Position::Learned {
            let positions = &self.position_embedding[first * dim..(first + ids.len()) * dim];
            add(&mut x, positions);
        }
        if !self.token_type_embedding.is_empty() {
            let types = token_types.iter().copied().chain(std::iter::repeat(0));
            for (x, token_type) in x.chunks_mut(dim).zip(types) {
                add(x, &row(&self.token_type_embedding, token_type.into()));
            }
        }
        self.embedding_norm.as_ref().map_or_else(|| x.clone(), |norm| norm.apply(&self.arch, &x))
    }

    /// RoPE on the queries and keys of `qkv`: each pair `(i, i + rotary_dim/2)` of a head turns by
    /// `position · frequency[i]`.
    fn rotate(&self, layer: u32, qkv: &mut [f32], first: usize) {
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

    /// `tokens × vocab` of `tokens × dim`.
    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let head = self.head.as_ref().unwrap_or(self.token_embedding.as_ref());
        let mut logits = match &self.head_transform {
            Some((transform, norm)) => {
                head.apply(&norm.apply(&self.arch, &activate(&self.arch, false, transform.apply(x))))
            }
            None => head.apply(x),
        };
        if let Some(bias) = &self.head_bias {
            logits.chunks_mut(bias.len()).for_each(|logits| add(logits, bias));
        }
        if self.arch.logit_cap != 0.0 {
            logits.iter_mut().for_each(|x| *x = cap(*x, self.arch.logit_cap));
        }
        logits
    }
}

impl Layer {
    fn take(tensors: &mut Tensors, layer: u32) -> Result<Self> {
        Ok(Self {
            attention_norm: tensors.scale(Role::AttentionNorm, Role::AttentionNormBias, layer)?,
            qkv: tensors.linear(Role::Qkv, Some(Role::QkvBias), layer)?,
            head_norms: tensors.take(Role::QueryNorm, layer)?.zip(tensors.take(Role::KeyNorm, layer)?),
            attention_out: tensors.linear(Role::AttentionOut, Some(Role::AttentionOutBias), layer)?,
            attention_out_norm: tensors.weight(Role::AttentionOutNorm, layer)?,
            mlp_out_norm: tensors.weight(Role::MlpOutNorm, layer)?,
            cross: match tensors.arch.cross {
                true => Some(Cross {
                    norm: tensors.scale(Role::CrossNorm, Role::CrossNormBias, layer)?,
                    query: tensors.linear(Role::CrossQuery, Some(Role::CrossQueryBias), layer)?,
                    key_value: tensors.linear(Role::CrossKeyValue, Some(Role::CrossKeyValueBias), layer)?,
                    out: tensors.linear(Role::CrossOut, Some(Role::CrossOutBias), layer)?,
                }),
                false => None,
            },
            mlp_norm: match tensors.take(Role::MlpNorm, layer)? {
                Some(weight) => Some(Scale { weight, bias: tensors.take(Role::MlpNormBias, layer)? }),
                None => None,
            },
            mlp_up: tensors.linear(Role::MlpUp, Some(Role::MlpUpBias), layer)?,
            mlp_down: tensors.linear(Role::MlpDown, Some(Role::MlpDownBias), layer)?,
        })
    }
}

impl Layer {
    /// RMSNorm of every query and key head of `qkv`.
    fn norm_heads(&self, arch: &Arch, qkv: &mut [f32]) {
        let Some((query, key)) = &self.head_norms else { return };
        let (q_width, kv_width) = (arch.q_width() as usize, arch.kv_width() as usize);
        for token in qkv.chunks_mut(arch.qkv_width() as usize) {
            let (queries, rest) = token.split_at_mut(q_width);
            for (heads, weight) in [(queries, query), (&mut rest[..kv_width], key)] {
                for head in heads.chunks_mut(weight.len()) {
                    let mean = head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / head.len() as f64;
                    let factor = (mean + f64::from(arch.norm_eps)).sqrt().recip();
                    head.iter_mut().zip(weight).for_each(|(x, w)| *x = (f64::from(*x) * factor) as f32 * w);
                }
            }
        }
    }
}

impl Scale {
    /// What a sublayer is given: normalised, unless its sum will be. In models that say so, the residual stream becomes it.
    fn before(&self, arch: &Arch, x: &mut Vec<f32>) -> Vec<f32> {
        if arch.normed_residual {
            *x = self.apply(arch, x);
        }
        if arch.normed_residual || arch.post_norm { x.clone() } else { self.apply(arch, x) }
    }

    /// Normalises a sublayer's sum in models that do.
    fn behind(&self, arch: &Arch, x: &mut Vec<f32>) {
        if arch.post_norm {
            *x = self.apply(arch, x);
        }
    }

    /// LayerNorm: `(x − mean) / √(variance + eps) · weight + bias`; RMSNorm the same with a mean of 0.
    fn apply(&self, arch: &Arch, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        for x in out.chunks_mut(self.weight.len()) {
            let n = x.len() as f64;
            let mean = match arch.norm {
                Norm::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
                Norm::Rms => 0.0,
            };
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            let factor = (variance + f64::from(arch.norm_eps)).sqrt().recip();
            for (x, weight) in x.iter_mut().zip(&self.weight) {
                *x = ((f64::from(*x) - mean) * factor) as f32 * weight;
            }
            if let Some(bias) = &self.bias {
                add(x, bias);
            }
        }
        out
    }
}

impl Linear {
    /// `tokens × outputs` of `tokens × inputs`.
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.weight.len() / self.inputs;
        let rows = (TASK / self.inputs).max(1);
        let mut out = vec![0f32; x.len() / self.inputs * outputs];
        out.par_chunks_mut(outputs).zip(x.par_chunks(self.inputs)).with_min_len(rows.div_ceil(outputs)).for_each(
            |(y, x)| {
                y.par_chunks_mut(rows).zip(self.weight.par_chunks(rows * self.inputs)).for_each(|(y, weight)| {
                    for (y, row) in y.iter_mut().zip(weight.chunks(self.inputs)) {
                        *y = dot(row, x);
                    }
                });
                if let Some(bias) = &self.bias {
                    add(y, bias);
                }
            },
        );
        out
    }
}

impl KeysValues {
    /// Takes the keys and values of new tokens from their `qkv`.
    fn append(&mut self, arch: &Arch, qkv: &[f32]) {
        let (q, kv) = (arch.q_width() as usize, arch.kv_width() as usize);
        for token in qkv.chunks(arch.qkv_width() as usize) {
            self.keys.extend_from_slice(&token[q..q + kv]);
            self.values.extend_from_slice(&token[q + kv..]);
        }
    }
}

/// The norm of a layer's output, if it has one.
fn normed(arch: &Arch, norm: &Option<Scale>, y: Vec<f32>) -> Vec<f32> {
    match norm {
        Some(norm) => norm.apply(arch, &y),
        None => y,
    }
}

/// `cap·tanh(x/cap)`.
fn cap(x: f32, cap: f32) -> f32 {
    let cap = f64::from(cap);
    (cap * (f64::from(x) / cap).tanh()) as f32
}

/// What a token sees, and how it counts.
struct Seen<'a> {
    /// One for each head, or none.
    slopes: &'a [f32],
    /// `heads × distances`, or none.
    biases: &'a [f32],
    /// Positions up to its own.
    window: usize,
    /// All that there are instead.
    all: bool,
    /// The first token's position.
    first: usize,
}

/// Scaled dot-product attention, `softmax(q·Kᵀ · scale)·V`, of each token, whose queries stand at the front of its row of
/// `width` values, over what it sees; `heads / kv_heads` neighbouring query heads share a key and value head. Gives
/// `tokens × heads·head_dim`.
fn attention(arch: &Arch, seen: &Seen<'_>, qkv: &[f32], width: u32, cache: &KeysValues) -> Vec<f32> {
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

/// The MLP between its projections: `act(up)`, or `act(gate) · up` of `[gate | up]`. Gives `tokens × hidden`.
fn activate(arch: &Arch, gated: bool, mut up: Vec<f32>) -> Vec<f32> {
    let act = |x: f32| {
        let z = f64::from(x);
        let y = match arch.activation {
            Activation::Gelu => 0.5 * z * (1.0 + libm::erf(z * FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * z * (1.0 + ((2.0 / PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh()),
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::Relu => z.max(0.0),
        };
        y as f32
    };
    if !gated {
        up.par_iter_mut().with_min_len(TASK / 16).for_each(|x| *x = act(*x));
        return up;
    }
    let hidden = arch.hidden as usize;
    let mut out = vec![0f32; up.len() / 2];
    let tokens = out.par_chunks_mut(hidden).zip(up.par_chunks(2 * hidden));
    tokens.with_min_len(1 + TASK / 16 / hidden).for_each(|(out, gate_up)| {
        let (gate, up) = gate_up.split_at(hidden);
        out.iter_mut().zip(gate.iter().zip(up)).for_each(|(out, (gate, up))| *out = act(*gate) * up);
    });
    out
}

/// Sixteen sums side by side, so that the compiler can use vector registers and rounding errors stay small.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<16>();
    let (b, b_tail) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// The recipe's tensors, to be taken one by one.
struct Tensors {
    arch: Arch,
    values: HashMap<(Role, u32), Vec<f32>>,
}

impl Tensors {
    fn read(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<Self> {
        let used = recipe.tensors.par_iter().filter(|tensor| !tensor.spec.role.is_key_mean());
        let values = used.map(|tensor| {
            let TensorSpec { role, layer, rows, cols, .. } = tensor.spec;
            let mut values = vec![0f32; rows as usize * cols as usize];
            recipe.read_rows(checkpoint, tensor, 0..rows as usize, &mut values)?;
            Ok(((role, layer), values))
        });
        Ok(Self { arch: recipe.arch, values: values.collect::<Result<_>>()? })
    }

    /// `None` where the record calls for no such tensor.
    fn take(&mut self, role: Role, layer: u32) -> Result<Option<Vec<f32>>> {
        let Some(spec) = self.arch.tensor(role, layer) else { return Ok(None) };
        let expected = spec.rows as usize * spec.cols as usize;
        match self.values.remove(&(role, layer)) {
            Some(values) if values.len() == expected => Ok(Some(values)),
            found => Err(Error::Usage(format!(
                "recipe: {} of layer {layer}: found {} values, expected {expected}",
                role.name(),
                found.map_or(0, |v| v.len())
            ))),
        }
    }

    fn linear(&mut self, weight: Role, bias: Option<Role>, layer: u32) -> Result<Linear> {
        let inputs = self.arch.tensor(weight, layer).map_or(1, |spec| spec.cols as usize);
        let bias = bias.map_or(Ok(None), |bias| self.take(bias, layer))?;
        Ok(Linear { weight: self.take(weight, layer)?.unwrap_or_default(), bias, inputs })
    }

    /// A norm without a shift, if the record has it.
    fn weight(&mut self, role: Role, layer: u32) -> Result<Option<Scale>> {
        Ok(self.take(role, layer)?.map(|weight| Scale { weight, bias: None }))
    }

    /// A norm outside the layers, `None` if the record calls for none.
    fn scale_if(&mut self, weight: Role, bias: Role) -> Result<Option<Scale>> {
        if self.arch.tensor(weight, 0).is_some() { self.scale(weight, bias, 0).map(Some) } else { Ok(None) }
    }

    fn scale(&mut self, weight: Role, bias: Role, layer: u32) -> Result<Scale> {
        Ok(Scale { weight: self.take(weight, layer)?.unwrap_or_default(), bias: self.take(bias, layer)? })
    }
}
