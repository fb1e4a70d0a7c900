//! Phi-1, Phi-1.5 and Phi-2: LayerNorm, RoPE in a part of each head, attention and MLP in parallel with one norm, biases
//! everywhere.

use thumbformer::arch::{Activation, Biases, HeadNorm, Role, Wiring};

use super::spelling::{Draft, Qkv, Table, Terms, as_stored};
use super::{Family, Names, activation, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "phi", classes: &["PhiForCausalLM", "PhiModel"], recipe };

/// Fields that are read here; those of [`rope`] come on top.
const OWN: [&str; 5] =
    ["hidden_act", "intermediate_size", "max_position_embeddings", "num_key_value_heads", "qk_layernorm"];

const NAMES: [(Role, &str); 8] = [
    (Role::TokenEmbedding, "embed_tokens"),
    (Role::AttentionNorm, "input_layernorm"),
    (Role::AttentionOut, "self_attn.dense"),
    (Role::MlpUp, "mlp.fc1"),
    (Role::MlpDown, "mlp.fc2"),
    (Role::FinalNorm, "final_layernorm"),
    (Role::QueryNorm, "self_attn.q_layernorm"),
    (Role::KeyNorm, "self_attn.k_layernorm"),
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let terms = Terms {
        dim: "hidden_size",
        heads: "num_attention_heads",
        layers: "num_hidden_layers",
        norm_eps: "layer_norm_eps",
        own: &[OWN.as_slice(), &rope::FIELDS].concat(),
        tied: false,
        buffers: &[".rotary_emb.inv_freq"],
    };
    let qkv = Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    let table = Table { prefix: "model.", layers: "layers.", names: &NAMES, qkv, head: "lm_head" };
    let mut draft = Draft::read(names, config, &terms, table)?;
    draft.arch.kv_heads = config.integer("num_key_value_heads")?.unwrap_or(draft.arch.heads);
    draft.arch.hidden = config.required("intermediate_size")?;
    draft.arch.context = config.required("max_position_embeddings")?;
    draft.arch.activation = activation(config, "hidden_act", Activation::GeluTanh)?;
    draft.arch.wiring = Wiring::ParallelOneNorm;
    if config.boolean("qk_layernorm")?.unwrap_or(false) {
        draft.arch.head_norm = HeadNorm::Layer;
    }
    // A bare model has no head.
    let head = names.has("lm_head.bias");
    draft.arch.biases = Biases { norm: true, qkv: true, attention_out: true, mlp: true, head };
    draft.rotate(config, rope::Variant { partial: Some(0.5), ..Default::default() })?;
    draft.assemble(FAMILY.name, names, config, as_stored)
}
