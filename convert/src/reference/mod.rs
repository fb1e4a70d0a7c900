//! The f32 oracle: the architecture record executed in plain floats on the unquantized weights.
//!
//! It answers "what would the model have said before quantization?" for `eval --reference` and `run --precision f32`,
//! and it is the only check that can catch a wrong GELU, epsilon or rotation, because int8 noise hides such mistakes.
//! Written to be read beside the papers' equations, it shares no arithmetic with the runtime and is not bound by the
//! contract of equal bits: `exp` and its like come from the machine's library, so that last bits differ between
//! machines (not between threads or block sizes). Keys are not centred; softmax could not see it.
//!
//! Activations are row-major, `tokens × width`, the tokens being consecutive positions of one sequence.

mod attention;
mod layers;
mod weights;

use std::sync::Arc;

use thumbformer::SessionError;
use thumbformer::arch::Arch;

use self::attention::{KeysValues, Seen, attention};
use self::layers::{Linear, activate, add, normed};
use self::weights::{Layer, Weights};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// Tokens that go through the layers together: bounds the memory for activations and logits.
const BLOCK: usize = 64;
/// Positions whose logits are computed together: fewer, because a vocabulary can be large.
const LOGITS: usize = 8;

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
    /// ([`Role::KeyMean`](thumbformer::arch::Role::KeyMean)). Zeros before the first position.
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
