//! A model, its forward pass and its loss.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::architecture::{Architecture, Preset};
use super::batch::Batch;
use super::family;
use super::ops::{
    Activate, Attention, CrossEntropy, Dropout, Embedding, Gated, Linear, Norm, Quantize, Residual, Rope, Segments,
};
use super::parameters::Parameters;
use crate::random::SplitMix64;

/// A model with its weights.
#[derive(Debug)]
pub struct Model {
    /// Its sizes.
    pub architecture: Architecture,
    /// Its weights.
    pub parameters: Parameters,
    /// What is known of positions without training.
    positions: Arc<[f32]>,
    /// Computes as the runtime will, in its steps of int8.
    pub rounding: Option<Rounding>,
}

/// What of the runtime's rounding is for the converter to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Columns that share a scale; 0 for whole rows.
    pub group: u32,
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

impl Model {
    /// A model of these weights.
    pub fn new(architecture: Architecture, parameters: Parameters) -> Self {
        let a = &architecture;
        let positions = match a.preset {
            Preset::Llama => Rope::table(a.context, a.head_dim, a.rope_theta),
            Preset::EncoderDecoder => family::encoder_decoder::sines(a),
            Preset::Gpt2 | Preset::Bert => Arc::default(),
        };
        Self { architecture, parameters, positions, rounding: None }
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

    /// Logits `[predictions, vocabulary]` of a batch: of the chosen tokens, or of all.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn logits(&self, batch: &Batch, regularization: Regularization) -> Result<Tensor> {
        let context = self.architecture.context;
        for tokens in [Some(&batch.text), batch.source.as_ref()].into_iter().flatten() {
            if tokens.segments.longest() > context {
                candle_core::bail!("a sequence of {} tokens, the context is {context}", tokens.segments.longest());
            }
        }
        let mut pass = Pass {
            architecture: &self.architecture,
            positions: &self.positions,
            parameters: &self.parameters,
            rounding: self.rounding,
            dropout: regularization.dropout,
            seed: regularization.seed,
            used: 0,
        };
        family::logits(&mut pass, batch)
    }
}

/// A forward pass: layers by their names in the checkpoint, and dropouts that each have a mask of their own.
#[derive(Debug)]
pub struct Pass<'m> {
    /// The model's sizes.
    pub architecture: &'m Architecture,
    /// What is known of positions without training.
    pub positions: &'m Arc<[f32]>,
    parameters: &'m Parameters,
    rounding: Option<Rounding>,
    dropout: f32,
    seed: u64,
    /// Dropouts so far.
    used: u64,
}

impl Pass<'_> {
    /// Rows of a table.
    ///
    /// # Errors
    /// No such table, or a row that it does not have. Of all these functions: no such layer, or another width.
    pub fn rows(&self, table: &str, ids: &Arc<[u32]>) -> Result<Tensor> {
        let table = self.rounded(self.parameters.get(&format!("{table}.weight"))?, Quantize::Weights)?;
        table.apply_op1(Embedding { ids: ids.clone() })
    }

    /// The tokens that predict something.
    pub fn chosen(&self, x: Tensor, batch: &Batch) -> Result<Tensor> {
        match &batch.chosen {
            Some(chosen) => x.apply_op1(Embedding { ids: chosen.clone() }),
            None => Ok(x),
        }
    }

    /// A linear layer, with its bias where it has one.
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.apply(Linear { transposed: false }, name, x)
    }

    /// The same, stored `[in, out]`.
    pub fn transposed_linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.apply(Linear { transposed: true }, name, x)
    }

    /// Linear layers that are stored side by side as one, `[in, N·out]`.
    pub fn transposed_linears<const N: usize>(&self, name: &str, x: &Tensor) -> Result<[Tensor; N]> {
        let weight = self.parameters.get(&format!("{name}.weight"))?;
        let bias = self.parameters.find(&format!("{name}.bias"))?;
        let width = weight.dim(1)? / N;
        // One after the other: cut from a common result, their gradients would be put together from zeros.
        let mut parts = Vec::with_capacity(N);
        for i in 0..N {
            let weight = weight.narrow(1, i * width, width)?;
            let bias = bias.as_ref().map(|bias| bias.narrow(0, i * width, width)).transpose()?;
            parts.push(self.product(Linear { transposed: true }, x, weight, bias)?);
        }
        parts.try_into().map_err(|_| candle_core::Error::Msg(format!("{name}: not {N} layers")))
    }

    fn apply(&self, linear: Linear, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.parameters.get(&format!("{name}.weight"))?;
        self.product(linear, x, weight, self.parameters.find(&format!("{name}.bias"))?)
    }

    /// A linear layer's product, of rounded factors if need be.
    fn product(&self, linear: Linear, x: &Tensor, weight: Tensor, bias: Option<Tensor>) -> Result<Tensor> {
        let Some(_) = self.rounding else { return linear.apply(x, &weight, bias.as_ref()) };
        // Groups run along the inputs.
        let weight = if linear.transposed { weight.t()?.contiguous()? } else { weight };
        let (x, weight) = (self.rounded(x.clone(), Quantize::Features)?, self.rounded(weight, Quantize::Weights)?);
        Linear { transposed: false }.apply(&x, &weight, bias.as_ref())
    }

    /// Rounds groups of columns, if anything is rounded.
    fn rounded(&self, x: Tensor, how: fn(usize) -> Quantize) -> Result<Tensor> {
        let Some(Rounding { group }) = self.rounding else { return Ok(x) };
        let (_, cols) = x.dims2()?;
        x.apply_op1(how(if group == 0 { cols } else { group as usize }))
    }

    /// The head: the first of these tensors that there is, and a bias.
    pub fn head(&self, weights: [&str; 2], bias: Option<&str>, x: &Tensor) -> Result<Tensor> {
        let [own, embedding] = weights;
        let weight = self.parameters.find(own)?.map_or_else(|| self.parameters.get(embedding), Ok)?;
        let bias = bias.map(|name| self.parameters.get(name)).transpose()?;
        self.product(Linear { transposed: false }, x, weight, bias)
    }

    /// RMS normalization.
    pub fn rms_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let gain = self.parameters.get(&format!("{name}.weight"))?;
        x.apply_op2(&gain, Norm { eps: self.architecture.norm_eps as f32, centred: false })
    }

    /// Layer normalization.
    pub fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let gain = self.parameters.get(&format!("{name}.weight"))?;
        let bias = self.parameters.get(&format!("{name}.bias"))?;
        x.apply_op3(&gain, &bias, Norm { eps: self.architecture.norm_eps as f32, centred: true })
    }

    /// The architecture's activation.
    pub fn activate(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1(Activate(self.architecture.activation))
    }

    /// The architecture's activation of `gate`, times `up`.
    pub fn gated(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.apply_op2(up, Gated(self.architecture.activation))
    }

    /// Attention of queries to keys and values. `segments` are the sequences of the queries, and those of the keys.
    pub fn attention(&mut self, qkv: [&Tensor; 3], segments: [&Arc<Segments>; 2], causal: bool) -> Result<Tensor> {
        let a = self.architecture;
        let ([q, k, v], [queries, keys]) = (qkv, segments);
        let attention = Attention {
            queries: queries.clone(),
            keys: keys.clone(),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            causal,
            scale: 1.0 / (a.head_dim as f32).sqrt(),
            dropout: self.mask(),
            quantized: self.rounding.is_some(),
        };
        if self.rounding.is_none() {
            return q.apply_op3(k, v, attention);
        }
        let by_head = |x: &Tensor| x.apply_op1(Quantize::Features(a.head_dim));
        // Keys are rounded without what they have in common: here in the batch, later in the converter's text.
        let mean = k.detach().mean_keepdim(0)?;
        let k = by_head(&k.broadcast_sub(&mean)?)?.broadcast_add(&mean)?;
        by_head(q)?.apply_op3(&k, &by_head(v)?, attention)
    }

    /// Dropout.
    pub fn dropout(&mut self, x: Tensor) -> Result<Tensor> {
        match self.mask() {
            Some(dropout) => x.apply_op1(dropout),
            None => Ok(x),
        }
    }

    /// The residual stream `x` with a sublayer's output `h`, behind dropout.
    pub fn add(&mut self, x: Tensor, h: Tensor) -> Result<Tensor> {
        x.apply_op2(&h, Residual { dropout: self.mask() })
    }

    /// What comes behind a sublayer: dropout of its output `h`, the sum with its input, layer normalization.
    pub fn add_and_norm(&mut self, name: &str, x: Tensor, h: Tensor) -> Result<Tensor> {
        let sum = self.add(x, h)?;
        self.layer_norm(name, &sum)
    }

    /// The next dropout's mask.
    fn mask(&mut self) -> Option<Dropout> {
        self.used += 1;
        let seed = SplitMix64(self.seed.wrapping_add(self.used)).next_u64();
        (self.dropout > 0.0).then_some(Dropout { p: self.dropout, seed })
    }
}
