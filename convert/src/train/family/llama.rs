//! LLaMA (Touvron et al., 2023): RoPE, RMSNorm before sublayers, SwiGLU, grouped-query attention, no biases.

use candle_core::{Result, Tensor};
use serde_json::{Value, json};

use super::{activation, only, size, size_or};
use crate::config::Config;
use crate::train::architecture::{Architecture, Preset};
use crate::train::batch::Batch;
use crate::train::model::Pass;
use crate::train::ops::{Activation, Rope};
use crate::train::parameters::{Beginning, Layout};
use crate::train::vocabulary::Marked;

/// Reads a config.json.
///
/// # Errors
/// A variant that is not trained here.
pub fn read(config: &Config) -> crate::Result<Architecture> {
    let (dim, heads) = (size(config, "hidden_size")?, size(config, "num_attention_heads")?);
    only(config, &[("attention_bias", false), ("mlp_bias", false)])?;
    let rope = config.object("rope_parameters")?;
    let scaling = config.object("rope_scaling")?;
    for rope in [&rope, &scaling].into_iter().flatten() {
        for field in ["rope_type", "type"] {
            if rope.string(field)?.is_some_and(|kind| kind != "default") {
                return Err(rope.error(field, "default: scaled RoPE is not trained here"));
            }
        }
    }
    let of_rope = rope.as_ref().map(|rope| rope.number("rope_theta")).transpose()?.flatten();
    if activation(config, "hidden_act", Activation::Silu)? != Activation::Silu {
        return Err(config.error("hidden_act", "silu"));
    }
    Architecture {
        preset: Preset::Llama,
        vocab: size(config, "vocab_size")?,
        dim,
        layers: size(config, "num_hidden_layers")?,
        decoder_layers: 0,
        heads,
        kv_heads: size_or(config, "num_key_value_heads", heads)?,
        head_dim: size_or(config, "head_dim", dim / heads.max(1))?,
        hidden: size(config, "intermediate_size")?,
        context: size(config, "max_position_embeddings")?,
        token_types: 0,
        scaled_embedding: false,
        norm_eps: config.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: of_rope.or(config.number("rope_theta")?).unwrap_or(10_000.0),
        activation: Activation::Silu,
        tied: config.boolean("tie_word_embeddings")?.unwrap_or(false),
    }
    .checked(config, "num_attention_heads", "num_key_value_heads")
}

pub(super) fn config(a: &Architecture, marked: &Marked) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": a.vocab,
        "hidden_size": a.dim,
        "intermediate_size": a.hidden,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.context,
        "hidden_act": super::name_of(a.activation),
        "rms_norm_eps": a.norm_eps,
        "rope_theta": a.rope_theta,
        "rope_parameters": { "rope_theta": a.rope_theta, "rope_type": "default" },
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": a.tied,
        "bos_token_id": null,
        "eos_token_id": marked.end,
        "dtype": "float32",
    })
}

pub(super) fn layout(a: &Architecture) -> Layout {
    let (d, q, kv) = (a.dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let (normal, residual) = (Beginning::NORMAL, Beginning::residual(2 * a.layers));
    let mut layout = Layout::default();
    layout.push("model.embed_tokens.weight", &[a.vocab, d], normal);
    for i in 0..a.layers {
        let layer = |name: &str| format!("model.layers.{i}.{name}.weight");
        layout.push(layer("input_layernorm"), &[d], Beginning::Ones);
        layout.push(layer("self_attn.q_proj"), &[q, d], normal);
        layout.push(layer("self_attn.k_proj"), &[kv, d], normal);
        layout.push(layer("self_attn.v_proj"), &[kv, d], normal);
        layout.push(layer("self_attn.o_proj"), &[d, q], residual);
        layout.push(layer("post_attention_layernorm"), &[d], Beginning::Ones);
        layout.push(layer("mlp.gate_proj"), &[a.hidden, d], normal);
        layout.push(layer("mlp.up_proj"), &[a.hidden, d], normal);
        layout.push(layer("mlp.down_proj"), &[d, a.hidden], residual);
    }
    layout.push("model.norm.weight", &[d], Beginning::Ones);
    if !a.tied {
        layout.push("lm_head.weight", &[a.vocab, d], normal);
    }
    layout
}

pub(super) fn logits(pass: &mut Pass<'_>, batch: &Batch) -> Result<Tensor> {
    let text = &batch.text;
    let embedded = pass.rows("model.embed_tokens", &text.ids)?;
    let mut x = pass.dropout(embedded)?;
    let rope = Rope::new(text.segments.positions(), pass.positions.clone(), pass.architecture.head_dim);
    for i in 0..pass.architecture.layers {
        let block = |name: &str| format!("model.layers.{i}.{name}");
        let h = pass.rms_norm(&block("input_layernorm"), &x)?;
        let q = pass.linear(&block("self_attn.q_proj"), &h)?.apply_op1(rope.clone())?;
        let k = pass.linear(&block("self_attn.k_proj"), &h)?.apply_op1(rope.clone())?;
        let v = pass.linear(&block("self_attn.v_proj"), &h)?;
        let h = pass.attention([&q, &k, &v], [&text.segments, &text.segments], true)?;
        let h = pass.linear(&block("self_attn.o_proj"), &h)?;
        x = pass.add(x, h)?;
        let h = pass.rms_norm(&block("post_attention_layernorm"), &x)?;
        let (gate, up) = (pass.linear(&block("mlp.gate_proj"), &h)?, pass.linear(&block("mlp.up_proj"), &h)?);
        let h = pass.linear(&block("mlp.down_proj"), &pass.gated(&gate, &up)?)?;
        x = pass.add(x, h)?;
    }
    let x = pass.rms_norm("model.norm", &x)?;
    pass.head(["lm_head.weight", "model.embed_tokens.weight"], None, &x)
}
