//! The forward pass of a decoder, and its loss.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::architecture::{Architecture, Preset};
use super::batch::Batch;
use super::ops::{
    Activate, Attention, CrossEntropy, Dropout, Embedding, Gated, LayerNorm, Linear, RmsNorm, Rope, Segments,
};
use super::parameters::Parameters;

/// A decoder with its weights.
#[derive(Debug)]
pub struct Model {
    /// Its sizes.
    pub architecture: Architecture,
    /// Its weights.
    pub parameters: Parameters,
    /// RoPE's cosines and sines.
    angles: Arc<[f32]>,
}

/// What differs between training and evaluation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regularization {
    /// Probability of dropout.
    pub dropout: f32,
    /// What its masks are made of: another in each step.
    pub seed: u64,
    /// Label smoothing's ε.
    pub smoothing: f32,
}

/// Counts the dropouts of a forward pass, so that each has a mask of its own.
struct Masks {
    p: f32,
    seed: u64,
    used: u64,
}

impl Masks {
    fn next(&mut self) -> Option<Dropout> {
        self.used += 1;
        let seed = crate::random::SplitMix64(self.seed.wrapping_add(self.used)).next_u64();
        (self.p > 0.0).then_some(Dropout { p: self.p, seed })
    }

    fn apply(&mut self, x: Tensor) -> Result<Tensor> {
        match self.next() {
            Some(dropout) => x.apply_op1(dropout),
            None => Ok(x),
        }
    }
}

impl Model {
    /// A model of these weights.
    pub fn new(architecture: Architecture, parameters: Parameters) -> Self {
        let angles = match architecture.preset {
            Preset::Llama => Rope::table(architecture.context, architecture.head_dim, architecture.rope_theta),
            Preset::Gpt2 => Arc::default(),
        };
        Self { architecture, parameters, angles }
    }

    /// The mean loss of a batch's targets, weighted; `norm` is what the sum is divided by.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn loss(&self, batch: &Batch, norm: f32, regularization: Regularization) -> Result<Tensor> {
        let logits = self.logits(batch, regularization)?;
        let (targets, weights) = (batch.targets.clone(), batch.weights.clone());
        logits.apply_op1(CrossEntropy { targets, weights, smoothing: regularization.smoothing, norm })
    }

    /// Logits `[tokens, vocabulary]` of all tokens of a batch.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn logits(&self, batch: &Batch, regularization: Regularization) -> Result<Tensor> {
        let a = &self.architecture;
        let mut masks = Masks { p: regularization.dropout, seed: regularization.seed, used: 0 };
        let ids = batch.ids.clone();
        let positions = batch.segments.positions();
        if positions.iter().any(|&position| position as usize >= a.context) {
            candle_core::bail!("a sequence longer than the context of {}", a.context);
        }
        match a.preset {
            Preset::Llama => {
                let table = self.parameters.get("model.embed_tokens.weight")?;
                let mut x = masks.apply(table.apply_op1(Embedding { ids })?)?;
                let rope = Rope::new(positions, self.angles.clone(), a.head_dim);
                for i in 0..a.layers {
                    x = self.llama_block(&format!("model.layers.{i}"), x, &rope, &batch.segments, &mut masks)?;
                }
                self.head(&self.rms_norm("model.norm", &x)?, &table)
            }
            Preset::Gpt2 => {
                let table = self.parameters.get("transformer.wte.weight")?;
                let places = self.parameters.get("transformer.wpe.weight")?;
                let x = (table.apply_op1(Embedding { ids })? + places.apply_op1(Embedding { ids: positions })?)?;
                let mut x = masks.apply(x)?;
                for i in 0..a.layers {
                    x = self.gpt2_block(&format!("transformer.h.{i}"), x, &batch.segments, &mut masks)?;
                }
                self.head(&self.layer_norm("transformer.ln_f", &x)?, &table)
            }
        }
    }

    fn llama_block(
        &self,
        block: &str,
        x: Tensor,
        rope: &Rope,
        segments: &Arc<Segments>,
        masks: &mut Masks,
    ) -> Result<Tensor> {
        let linear = |name: &str, x: &Tensor| {
            let weight = self.parameters.get(&format!("{block}.{name}.weight"))?;
            Linear { transposed: false }.apply(x, &weight, None)
        };
        let h = self.rms_norm(&format!("{block}.input_layernorm"), &x)?;
        let q = linear("self_attn.q_proj", &h)?.apply_op1(rope.clone())?;
        let k = linear("self_attn.k_proj", &h)?.apply_op1(rope.clone())?;
        let v = linear("self_attn.v_proj", &h)?;
        let h = q.apply_op3(&k, &v, self.attention(segments, masks))?;
        let x = (x + masks.apply(linear("self_attn.o_proj", &h)?)?)?;
        let h = self.rms_norm(&format!("{block}.post_attention_layernorm"), &x)?;
        let (gate, up) = (linear("mlp.gate_proj", &h)?, linear("mlp.up_proj", &h)?);
        let h = gate.apply_op2(&up, Gated(self.architecture.activation))?;
        x + masks.apply(linear("mlp.down_proj", &h)?)?
    }

    fn gpt2_block(&self, block: &str, x: Tensor, segments: &Arc<Segments>, masks: &mut Masks) -> Result<Tensor> {
        let linear = |name: &str, x: &Tensor| {
            let weight = self.parameters.get(&format!("{block}.{name}.weight"))?;
            let bias = self.parameters.get(&format!("{block}.{name}.bias"))?;
            Linear { transposed: true }.apply(x, &weight, Some(&bias))
        };
        let h = self.layer_norm(&format!("{block}.ln_1"), &x)?;
        let qkv = linear("attn.c_attn", &h)?;
        let d = self.architecture.dim;
        let part = |i: usize| qkv.narrow(1, i * d, d)?.contiguous();
        let h = part(0)?.apply_op3(&part(1)?, &part(2)?, self.attention(segments, masks))?;
        let x = (x + masks.apply(linear("attn.c_proj", &h)?)?)?;
        let h = linear("mlp.c_fc", &self.layer_norm(&format!("{block}.ln_2"), &x)?)?;
        let h = h.apply_op1(Activate(self.architecture.activation))?;
        x + masks.apply(linear("mlp.c_proj", &h)?)?
    }

    fn attention(&self, segments: &Arc<Segments>, masks: &mut Masks) -> Attention {
        let a = &self.architecture;
        Attention {
            queries: segments.clone(),
            keys: segments.clone(),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            causal: true,
            scale: 1.0 / (a.head_dim as f32).sqrt(),
            dropout: masks.next(),
            quantized: false,
        }
    }

    fn rms_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let gain = self.parameters.get(&format!("{name}.weight"))?;
        x.apply_op2(&gain, RmsNorm { eps: self.architecture.norm_eps as f32 })
    }

    fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let gain = self.parameters.get(&format!("{name}.weight"))?;
        let bias = self.parameters.get(&format!("{name}.bias"))?;
        x.apply_op3(&gain, &bias, LayerNorm { eps: self.architecture.norm_eps as f32 })
    }

    fn head(&self, x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let weight = self.parameters.find("lm_head.weight")?.unwrap_or_else(|| embedding.clone());
        Linear { transposed: false }.apply(x, &weight, None)
    }
}
