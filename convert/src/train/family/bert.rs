//! BERT (Devlin et al., 2019) with its head for masked tokens: an encoder with learned positions, LayerNorm behind
//! sublayers, GELU, and biases everywhere. Tokens are all of the first kind.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde_json::{Value, json};

use super::{activation, only, size, size_or};
use crate::config::Config;
use crate::train::architecture::{Architecture, Preset};
use crate::train::batch::Batch;
use crate::train::model::Pass;
use crate::train::ops::Activation;
use crate::train::parameters::{Beginning, Layout};
use crate::train::vocabulary::Marked;

const WORDS: &str = "bert.embeddings.word_embeddings";
const PLACES: &str = "bert.embeddings.position_embeddings";
const KINDS: &str = "bert.embeddings.token_type_embeddings";
const NORM: &str = "bert.embeddings.LayerNorm";
const TRANSFORM: &str = "cls.predictions.transform.dense";
const TRANSFORM_NORM: &str = "cls.predictions.transform.LayerNorm";
const DECODER: &str = "cls.predictions.decoder.weight";
const BIAS: &str = "cls.predictions.bias";

/// Reads a config.json.
///
/// # Errors
/// A variant that is not trained here.
pub fn read(config: &Config) -> crate::Result<Architecture> {
    only(config, &[("is_decoder", false), ("add_cross_attention", false)])?;
    if config.string("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(config.error("position_embedding_type", "absolute"));
    }
    let (dim, heads) = (size(config, "hidden_size")?, size(config, "num_attention_heads")?);
    Architecture {
        preset: Preset::Bert,
        vocab: size(config, "vocab_size")?,
        dim,
        layers: size(config, "num_hidden_layers")?,
        decoder_layers: 0,
        heads,
        kv_heads: heads,
        head_dim: dim / heads.max(1),
        hidden: size(config, "intermediate_size")?,
        context: size(config, "max_position_embeddings")?,
        token_types: size_or(config, "type_vocab_size", 2)?,
        scaled_embedding: false,
        norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-12),
        rope_theta: 0.0,
        activation: activation(config, "hidden_act", Activation::Gelu)?,
        tied: config.boolean("tie_word_embeddings")?.unwrap_or(true),
    }
    .checked(config, "num_attention_heads", "num_attention_heads")
}

pub(super) fn config(a: &Architecture, marked: &Marked) -> Value {
    json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": a.vocab,
        "hidden_size": a.dim,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "intermediate_size": a.hidden,
        "max_position_embeddings": a.context,
        "type_vocab_size": a.token_types,
        "hidden_act": super::name_of(a.activation),
        "layer_norm_eps": a.norm_eps,
        "tie_word_embeddings": a.tied,
        "pad_token_id": marked.pad,
        "dtype": "float32",
    })
}

pub(super) fn layout(a: &Architecture) -> Layout {
    let (d, normal) = (a.dim, Beginning::NORMAL);
    let mut layout = Layout::default();
    layout.push(format!("{WORDS}.weight"), &[a.vocab, d], normal);
    layout.push(format!("{PLACES}.weight"), &[a.context, d], normal);
    layout.push(format!("{KINDS}.weight"), &[a.token_types, d], normal);
    layout.layer_norm(NORM, d);
    for i in 0..a.layers {
        let layer = |name: &str| format!("bert.encoder.layer.{i}.{name}");
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            layout.linear(&layer(name), [d, d], d, normal);
        }
        layout.layer_norm(&layer("attention.output.LayerNorm"), d);
        layout.linear(&layer("intermediate.dense"), [a.hidden, d], a.hidden, normal);
        layout.linear(&layer("output.dense"), [d, a.hidden], d, normal);
        layout.layer_norm(&layer("output.LayerNorm"), d);
    }
    layout.linear(TRANSFORM, [d, d], d, normal);
    layout.layer_norm(TRANSFORM_NORM, d);
    layout.push(BIAS, &[a.vocab], Beginning::Zeros);
    if !a.tied {
        layout.push(DECODER, &[a.vocab, d], normal);
    }
    layout
}

/// The oldest checkpoints call a norm's weight and bias gamma and beta, as TensorFlow does; some have the head's bias
/// as its decoder's; bare models have no prefix before their names.
pub(super) fn aliases(name: &str) -> Vec<String> {
    if name == BIAS {
        return vec!["cls.predictions.decoder.bias".into()];
    }
    let old = |new: &str, old: &str| name.strip_suffix(new).map(|norm| format!("{norm}{old}"));
    let old = old("LayerNorm.weight", "LayerNorm.gamma").or(old("LayerNorm.bias", "LayerNorm.beta"));
    old.into_iter().chain(name.strip_prefix("bert.").map(str::to_owned)).collect()
}

pub(super) fn logits(pass: &mut Pass<'_>, batch: &Batch) -> Result<Tensor> {
    let text = &batch.text;
    let segments = [&text.segments, &text.segments];
    let kinds: Arc<[u32]> = vec![0; text.ids.len()].into();
    let places = pass.rows(PLACES, &text.segments.positions())?;
    let embedded = ((pass.rows(WORDS, &text.ids)? + pass.rows(KINDS, &kinds)?)? + places)?;
    let embedded = pass.layer_norm(NORM, &embedded)?;
    let mut x = pass.dropout(embedded)?;
    for i in 0..pass.architecture.layers {
        let layer = |name: &str| format!("bert.encoder.layer.{i}.{name}");
        let q = pass.linear(&layer("attention.self.query"), &x)?;
        let k = pass.linear(&layer("attention.self.key"), &x)?;
        let v = pass.linear(&layer("attention.self.value"), &x)?;
        let h = pass.attention([&q, &k, &v], segments, false)?;
        let h = pass.linear(&layer("attention.output.dense"), &h)?;
        x = pass.add_and_norm(&layer("attention.output.LayerNorm"), x, h)?;
        let h = pass.activate(&pass.linear(&layer("intermediate.dense"), &x)?)?;
        let h = pass.linear(&layer("output.dense"), &h)?;
        x = pass.add_and_norm(&layer("output.LayerNorm"), x, h)?;
    }
    let x = pass.chosen(x, batch)?;
    let x = pass.layer_norm(TRANSFORM_NORM, &pass.activate(&pass.linear(TRANSFORM, &x)?)?)?;
    pass.head([DECODER, "bert.embeddings.word_embeddings.weight"], Some(BIAS), &x)
}
