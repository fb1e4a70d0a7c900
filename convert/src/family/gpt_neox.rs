//! GPT-NeoX and Pythia: LayerNorm, RoPE in a quarter of each head, attention and MLP in parallel with a norm each.

use thumbformer::arch::{Activation, Biases, Role, Wiring};

use super::spelling::{Draft, Qkv, Table, Terms, as_stored};
use super::{Family, Names, activation, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "gpt_neox", classes: &["GPTNeoXForCausalLM", "GPTNeoXModel"], recipe };

const TERMS: Terms<'_> = Terms {
    dim: "hidden_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    norm_eps: "layer_norm_eps",
    own: &[
        "attention_bias",
        "hidden_act",
        "intermediate_size",
        "max_position_embeddings",
        "rope_parameters",
        "rope_scaling",
        "rotary_emb_base",
        "rotary_pct",
        "use_parallel_residual",
    ],
    tied: false,
    buffers: &[".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"],
};

const TABLE: Table<'_> = Table {
    prefix: "gpt_neox.",
    layers: "layers.",
    names: &[
        (Role::TokenEmbedding, "embed_in"),
        (Role::AttentionNorm, "input_layernorm"),
        (Role::AttentionOut, "attention.dense"),
        (Role::MlpNorm, "post_attention_layernorm"),
        (Role::MlpUp, "mlp.dense_h_to_4h"),
        (Role::MlpDown, "mlp.dense_4h_to_h"),
        (Role::FinalNorm, "final_layer_norm"),
    ],
    qkv: Qkv::ByKvHead("attention.query_key_value"),
    head: "embed_out",
};

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let mut draft = Draft::read(names, config, &TERMS, TABLE)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(true);
    let parallel = config.boolean("use_parallel_residual")?.unwrap_or(true);
    draft.arch.hidden = config.required("intermediate_size")?;
    draft.arch.context = config.required("max_position_embeddings")?;
    draft.arch.activation = activation(config, "hidden_act", Activation::Gelu)?;
    draft.arch.wiring = if parallel { Wiring::Parallel } else { Wiring::Sequential };
    draft.arch.biases = Biases { norm: true, qkv: bias, attention_out: bias, mlp: true, head: false };
    let rope_fields = config.renamed("rotary_emb_base", "rope_theta").renamed("rotary_pct", "partial_rotary_factor");
    draft.rotate(&rope_fields, rope::Variant { partial: Some(0.25), ..Default::default() })?;
    draft.assemble(FAMILY.name, names, config, as_stored)
}
