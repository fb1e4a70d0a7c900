//! The first transformer (Vaswani et al., 2017): an encoder and a decoder with LayerNorm behind sublayers, sines and
//! cosines for positions, embeddings times √dim, one matrix for source, answer and head.
//!
//! It is written as transformers' Marian, which is this network. BART would have trained positions with two rows that
//! nothing uses and a norm more, T5 other norms, positions and biases; the paper's own code has no place in
//! transformers. What differs from the paper: of a position's dimensions the first half is sines, not every other one,
//! and the logits have a bias, which Marian trains too. A permutation of dimensions changes nothing in a network that
//! is trained with it.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde_json::{Value, json};

use super::{activation, only, size};
use crate::config::Config;
use crate::family::sinusoidal::{self, Order};
use crate::train::architecture::{Architecture, Preset};
use crate::train::batch::{Batch, Tokens};
use crate::train::model::Pass;
use crate::train::ops::{Activation, Segments};
use crate::train::parameters::{Beginning, Layout};
use crate::train::vocabulary::Marked;

const SHARED: &str = "model.shared";
const HEAD: &str = "lm_head.weight";
const BIAS: &str = "final_logits_bias";

/// Reads a config.json.
///
/// # Errors
/// A variant that is not trained here.
pub fn read(config: &Config) -> crate::Result<Architecture> {
    only(
        config,
        &[
            ("is_encoder_decoder", true),
            ("static_position_embeddings", true),
            ("share_encoder_decoder_embeddings", true),
            ("normalize_before", false),
            ("normalize_embedding", false),
            ("add_final_layer_norm", false),
        ],
    )?;
    let same = |what: &str| -> crate::Result<usize> {
        let (encoder, decoder) = (format!("encoder_{what}"), format!("decoder_{what}"));
        let n = size(config, &encoder)?;
        if size(config, &decoder)? != n {
            return Err(config.error(&decoder, format!("{n}, as in the encoder")));
        }
        Ok(n)
    };
    let (dim, heads) = (size(config, "d_model")?, same("attention_heads")?);
    Architecture {
        preset: Preset::EncoderDecoder,
        vocab: size(config, "vocab_size")?,
        dim,
        layers: size(config, "encoder_layers")?,
        decoder_layers: size(config, "decoder_layers")?,
        heads,
        kv_heads: heads,
        head_dim: dim / heads.max(1),
        hidden: same("ffn_dim")?,
        context: size(config, "max_position_embeddings")?,
        token_types: 0,
        scaled_embedding: config.boolean("scale_embedding")?.unwrap_or(false),
        norm_eps: 1e-5,
        rope_theta: 0.0,
        activation: activation(config, "activation_function", Activation::Gelu)?,
        tied: config.boolean("tie_word_embeddings")?.unwrap_or(true),
    }
    .checked(config, "encoder_attention_heads", "encoder_attention_heads")
}

pub(super) fn config(a: &Architecture, marked: &Marked) -> Value {
    json!({
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": true,
        "vocab_size": a.vocab,
        "decoder_vocab_size": a.vocab,
        "share_encoder_decoder_embeddings": true,
        "d_model": a.dim,
        "encoder_layers": a.layers,
        "decoder_layers": a.decoder_layers,
        "encoder_attention_heads": a.heads,
        "decoder_attention_heads": a.heads,
        "encoder_ffn_dim": a.hidden,
        "decoder_ffn_dim": a.hidden,
        "max_position_embeddings": a.context,
        "activation_function": super::name_of(a.activation),
        "scale_embedding": a.scaled_embedding,
        "static_position_embeddings": true,
        "tie_word_embeddings": a.tied,
        "decoder_start_token_id": marked.start,
        "bos_token_id": null,
        "eos_token_id": marked.end,
        "pad_token_id": marked.pad.or(marked.start),
        "forced_eos_token_id": null,
        "dtype": "float32",
    })
}

pub(super) fn layout(a: &Architecture) -> Layout {
    let d = a.dim;
    // As tensor2tensor began: embeddings of variance 1 once they are scaled, matrices so that they keep the variance.
    let glorot = |inputs: usize, outputs: usize| Beginning::Normal((2.0 / (inputs + outputs) as f32).sqrt());
    let embedding = Beginning::Normal(1.0 / (d as f32).sqrt());
    let mut layout = Layout::default();
    layout.push(format!("{SHARED}.weight"), &[a.vocab, d], embedding);
    let mut stack = |stack: &str, layers: usize, attentions: &[&str]| {
        for i in 0..layers {
            let layer = |name: &str| format!("model.{stack}.layers.{i}.{name}");
            for attention in attentions {
                for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    layout.linear(&layer(&format!("{attention}.{name}")), [d, d], d, glorot(d, d));
                }
                layout.layer_norm(&layer(&format!("{attention}_layer_norm")), d);
            }
            layout.linear(&layer("fc1"), [a.hidden, d], a.hidden, glorot(d, a.hidden));
            layout.linear(&layer("fc2"), [d, a.hidden], d, glorot(a.hidden, d));
            layout.layer_norm(&layer("final_layer_norm"), d);
        }
    };
    stack("encoder", a.layers, &["self_attn"]);
    stack("decoder", a.decoder_layers, &["self_attn", "encoder_attn"]);
    layout.push(BIAS, &[1, a.vocab], Beginning::Zeros);
    if !a.tied {
        layout.push(HEAD, &[a.vocab, d], embedding);
    }
    layout
}

/// Files without the shared name have the copies only.
pub(super) fn aliases(name: &str) -> Vec<String> {
    let copies = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"].map(str::to_owned);
    if name.strip_suffix(".weight") == Some(SHARED) { copies.into() } else { Vec::new() }
}

/// `[context, dim]` of sines and cosines.
pub(in crate::train) fn sines(a: &Architecture) -> Arc<[f32]> {
    sinusoidal::table(a.context as u32, a.dim as u32, Order::Halves).into()
}

pub(super) fn logits(pass: &mut Pass<'_>, batch: &Batch) -> Result<Tensor> {
    let Some(source) = &batch.source else { candle_core::bail!("an encoder-decoder without a source") };
    let mut x = embed(pass, source)?;
    let own = [&source.segments, &source.segments];
    for i in 0..pass.architecture.layers {
        let layer = |name: &str| format!("model.encoder.layers.{i}.{name}");
        x = attend(pass, &layer("self_attn"), x.clone(), &x, own, false)?;
        x = mlp(pass, layer, x)?;
    }
    let memory = x;
    let text = &batch.text;
    let mut x = embed(pass, text)?;
    let (own, across) = ([&text.segments, &text.segments], [&text.segments, &source.segments]);
    for i in 0..pass.architecture.decoder_layers {
        let layer = |name: &str| format!("model.decoder.layers.{i}.{name}");
        x = attend(pass, &layer("self_attn"), x.clone(), &x, own, true)?;
        x = attend(pass, &layer("encoder_attn"), x, &memory, across, false)?;
        x = mlp(pass, layer, x)?;
    }
    pass.head([HEAD, "model.shared.weight"], Some(BIAS), &x)
}

/// Embeddings and positions.
fn embed(pass: &mut Pass<'_>, tokens: &Tokens) -> Result<Tensor> {
    let dim = pass.architecture.dim;
    let mut x = pass.rows(SHARED, &tokens.ids)?;
    if pass.architecture.scaled_embedding {
        x = (x * (dim as f64).sqrt())?;
    }
    let positions = tokens.segments.positions();
    let sines = positions.iter().flat_map(|&position| &pass.positions[position as usize * dim..][..dim]);
    let sines = Tensor::from_vec(sines.copied().collect::<Vec<f32>>(), (positions.len(), dim), x.device())?;
    pass.dropout((x + sines)?)
}

/// LayerNorm(x + attention of x to `memory`).
fn attend(
    pass: &mut Pass<'_>,
    name: &str,
    x: Tensor,
    memory: &Tensor,
    segments: [&Arc<Segments>; 2],
    causal: bool,
) -> Result<Tensor> {
    let q = pass.linear(&format!("{name}.q_proj"), &x)?;
    let k = pass.linear(&format!("{name}.k_proj"), memory)?;
    let v = pass.linear(&format!("{name}.v_proj"), memory)?;
    let h = pass.attention([&q, &k, &v], segments, causal)?;
    let h = pass.linear(&format!("{name}.out_proj"), &h)?;
    pass.add_and_norm(&format!("{name}_layer_norm"), x, h)
}

/// LayerNorm(x + MLP of x).
fn mlp(pass: &mut Pass<'_>, layer: impl Fn(&str) -> String, x: Tensor) -> Result<Tensor> {
    let h = pass.activate(&pass.linear(&layer("fc1"), &x)?)?;
    let h = pass.linear(&layer("fc2"), &h)?;
    pass.add_and_norm(&layer("final_layer_norm"), x, h)
}
