//! GPT-2 (Radford et al., 2019), and nanoGPT's own checkpoints of it: learned positions, LayerNorm before sublayers,
//! GELU, biases. Matrices are stored `[in, out]`.

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

/// Reads a config.json.
///
/// # Errors
/// A variant that is not trained here.
pub fn read(config: &Config) -> crate::Result<Architecture> {
    only(config, &[("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)])?;
    let usual = of(config, "n_positions", activation(config, "activation_function", Activation::GeluTanh)?)?;
    Architecture {
        hidden: size_or(config, "n_inner", usual.hidden)?,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(usual.norm_eps),
        tied: config.boolean("tie_word_embeddings")?.unwrap_or(usual.tied),
        ..usual
    }
    .checked(config, "n_head", "n_head")
}

/// Reads nanoGPT's `model_args`: a GPT-2 with the exact GELU.
///
/// # Errors
/// Sizes that make no sense.
pub fn read_nanogpt(config: &Config) -> crate::Result<Architecture> {
    of(config, "block_size", Activation::Gelu)?.checked(config, "n_head", "n_head")
}

/// What the fields that both have say; `context` is the one for the longest sequence.
fn of(config: &Config, context: &str, activation: Activation) -> crate::Result<Architecture> {
    let (dim, heads) = (size(config, "n_embd")?, size(config, "n_head")?);
    Ok(Architecture {
        preset: Preset::Gpt2,
        vocab: size(config, "vocab_size")?,
        dim,
        layers: size(config, "n_layer")?,
        decoder_layers: 0,
        heads,
        kv_heads: heads,
        head_dim: dim / heads.max(1),
        hidden: 4 * dim,
        context: size(config, context)?,
        token_types: 0,
        scaled_embedding: false,
        norm_eps: 1e-5,
        rope_theta: 0.0,
        activation,
        tied: true,
    })
}

pub(super) fn config(a: &Architecture, marked: &Marked) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": a.vocab,
        "n_embd": a.dim,
        "n_inner": a.hidden,
        "n_layer": a.layers,
        "n_head": a.heads,
        "n_positions": a.context,
        "activation_function": super::name_of(a.activation),
        "layer_norm_epsilon": a.norm_eps,
        "tie_word_embeddings": a.tied,
        "bos_token_id": null,
        "eos_token_id": marked.end,
        "dtype": "float32",
    })
}

pub(super) fn layout(a: &Architecture) -> Layout {
    let d = a.dim;
    let (normal, residual) = (Beginning::NORMAL, Beginning::residual(2 * a.layers));
    let mut layout = Layout::default();
    layout.push("transformer.wte.weight", &[a.vocab, d], normal);
    layout.push("transformer.wpe.weight", &[a.context, d], normal);
    for i in 0..a.layers {
        let block = |name: &str| format!("transformer.h.{i}.{name}");
        layout.layer_norm(&block("ln_1"), d);
        layout.linear(&block("attn.c_attn"), [d, 3 * d], 3 * d, normal);
        layout.linear(&block("attn.c_proj"), [d, d], d, residual);
        layout.layer_norm(&block("ln_2"), d);
        layout.linear(&block("mlp.c_fc"), [d, a.hidden], a.hidden, normal);
        layout.linear(&block("mlp.c_proj"), [a.hidden, d], d, residual);
    }
    layout.layer_norm("transformer.ln_f", d);
    if !a.tied {
        layout.push("lm_head.weight", &[a.vocab, d], normal);
    }
    layout
}

/// The published gpt2 has no prefix before its names.
pub(super) fn aliases(name: &str) -> Vec<String> {
    name.strip_prefix("transformer.").map(str::to_owned).into_iter().collect()
}

pub(super) fn logits(pass: &mut Pass<'_>, batch: &Batch) -> Result<Tensor> {
    let text = &batch.text;
    let places = pass.rows("transformer.wpe", &text.segments.positions())?;
    let embedded = (pass.rows("transformer.wte", &text.ids)? + places)?;
    let mut x = pass.dropout(embedded)?;
    for i in 0..pass.architecture.layers {
        let block = |name: &str| format!("transformer.h.{i}.{name}");
        let h = pass.layer_norm(&block("ln_1"), &x)?;
        let [q, k, v] = pass.transposed_linears(&block("attn.c_attn"), &h)?;
        let h = pass.attention([&q, &k, &v], [&text.segments, &text.segments], true)?;
        let h = pass.transposed_linear(&block("attn.c_proj"), &h)?;
        x = pass.add(x, h)?;
        let h = pass.layer_norm(&block("ln_2"), &x)?;
        let h = pass.activate(&pass.transposed_linear(&block("mlp.c_fc"), &h)?)?;
        let h = pass.transposed_linear(&block("mlp.c_proj"), &h)?;
        x = pass.add(x, h)?;
    }
    let x = pass.layer_norm("transformer.ln_f", &x)?;
    pass.head(["lm_head.weight", "transformer.wte.weight"], None, &x)
}
