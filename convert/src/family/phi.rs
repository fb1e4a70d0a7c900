//! Phi-1, Phi-1.5 and Phi-2: LayerNorm, RoPE in a part of each head, attention and MLP in parallel with one norm, biases
//! everywhere.

use thumbformer::arch::{Activation, Arch, Biases, Position, Role, TensorSpec, Wiring};

use super::spelling::{Qkv, Spelling};
use super::{Family, Names, Plan, activation, fixed, heads_of, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "phi", classes: &["PhiForCausalLM", "PhiModel"], recipe };

/// Fields that are read here; those of [`rope`] come on top.
const FIELDS: [&str; 11] = [
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "qk_layernorm",
    "tie_word_embeddings",
    "vocab_size",
];

const NAMES: [(Role, &str); 6] = [
    (Role::TokenEmbedding, "embed_tokens"),
    (Role::AttentionNorm, "input_layernorm"),
    (Role::AttentionOut, "self_attn.dense"),
    (Role::MlpUp, "mlp.fc1"),
    (Role::MlpDown, "mlp.fc2"),
    (Role::FinalNorm, "final_layernorm"),
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&[FIELDS.as_slice(), &rope::FIELDS].concat())?;
    fixed(config, "qk_layernorm", false)?;
    let mut notes = Vec::new();
    let (dim, heads, head_dim) = heads_of(config, "hidden_size", "num_attention_heads")?;
    let context = config.required("max_position_embeddings")?;
    let variant = rope::Variant { partial: Some(0.5), ..Default::default() };
    let rope = rope::Rope::read(config, head_dim, context, variant, &mut notes)?;
    let prefix = names.prefix(&["model."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(false);
    let head = names.head(&format!("{prefix}embed_tokens.weight"), "lm_head.weight", tie, &mut notes);
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("num_hidden_layers")?,
        heads,
        kv_heads: config.integer("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        hidden: config.required("intermediate_size")?,
        context,
        norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
        position: Position::Rope,
        rotary_dim: rope.rotary_dim,
        activation: activation(config, "hidden_act", Activation::GeluTanh)?,
        wiring: Wiring::ParallelOneNorm,
        // A bare model has no head.
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: names.has("lm_head.bias") },
        tied_head: head.is_tied(),
        attention_scale: rope.attention_scale(config, head_dim)?,
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let spelling = Spelling {
        prefix,
        layers: "layers.",
        names: &NAMES,
        qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        head_name: "lm_head",
        head,
    };
    let pieces = |spec: TensorSpec| spelling.pieces(&arch, spec);
    let ignorable = |name: &str| name.ends_with(".rotary_emb.inv_freq") || head.repeats(name, "lm_head.weight");
    let computed = vec![(Role::RopeFrequencies, rope.frequencies(config)?)];
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
