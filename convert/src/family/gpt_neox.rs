//! GPT-NeoX and Pythia: LayerNorm, RoPE in a quarter of each head, attention and MLP in parallel with a norm each.

use thumbformer::arch::{Activation, Arch, Biases, Position, Role, TensorSpec, Wiring};

use super::spelling::{Qkv, Spelling};
use super::{Family, Names, Plan, activation, heads_of, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "gpt_neox", classes: &["GPTNeoXForCausalLM", "GPTNeoXModel"], recipe };

/// Fields that are read here.
const FIELDS: [&str; 15] = [
    "attention_bias",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rope_parameters",
    "rope_scaling",
    "rotary_emb_base",
    "rotary_pct",
    "tie_word_embeddings",
    "use_parallel_residual",
    "vocab_size",
];

const NAMES: [(Role, &str); 7] = [
    (Role::TokenEmbedding, "embed_in"),
    (Role::AttentionNorm, "input_layernorm"),
    (Role::AttentionOut, "attention.dense"),
    (Role::MlpNorm, "post_attention_layernorm"),
    (Role::MlpUp, "mlp.dense_h_to_4h"),
    (Role::MlpDown, "mlp.dense_4h_to_h"),
    (Role::FinalNorm, "final_layer_norm"),
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    let mut notes = Vec::new();
    let (dim, heads, head_dim) = heads_of(config, "hidden_size", "num_attention_heads")?;
    let context = config.required("max_position_embeddings")?;
    let rope_fields = config.renamed("rotary_emb_base", "rope_theta").renamed("rotary_pct", "partial_rotary_factor");
    let variant = rope::Variant { partial: Some(0.25), ..Default::default() };
    let rope = rope::Rope::read(&rope_fields, head_dim, context, variant, &mut notes)?;
    let prefix = names.prefix(&["gpt_neox."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(false);
    let head = names.head(&format!("{prefix}embed_in.weight"), "embed_out.weight", tie, &mut notes);
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(true);
    let parallel = config.boolean("use_parallel_residual")?.unwrap_or(true);
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        hidden: config.required("intermediate_size")?,
        context,
        norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
        position: Position::Rope,
        rotary_dim: rope.rotary_dim,
        activation: activation(config, "hidden_act", Activation::Gelu)?,
        wiring: if parallel { Wiring::Parallel } else { Wiring::Sequential },
        biases: Biases { norm: true, qkv: attention_bias, attention_out: attention_bias, mlp: true, head: false },
        tied_head: head.is_tied(),
        attention_scale: rope.attention_scale(config, head_dim)?,
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let spelling = Spelling {
        prefix,
        layers: "layers.",
        names: &NAMES,
        qkv: Qkv::ByKvHead("attention.query_key_value"),
        head_name: "embed_out",
        head,
    };
    let pieces = |spec: TensorSpec| spelling.pieces(&arch, spec);
    let ignorable = |name: &str| {
        let buffers = [".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"];
        buffers.iter().any(|buffer| name.ends_with(buffer)) || head.repeats(name, "embed_out.weight")
    };
    let computed = vec![(Role::RopeFrequencies, rope.frequencies(config)?)];
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
