//! LLaMA 1, 2 and 3 as transformers stores them: pre-RMSNorm, RoPE with halves, grouped-query attention, gated MLP.

use thumbformer::arch::{Activation, Arch, Biases, Norm, Position, Role, TensorSpec};

use super::{Head, Names, Piece, Plan, activation, inverse_sqrt, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;

/// transformers' classes that compute this.
pub(super) const CLASSES: [&str; 2] = ["LlamaForCausalLM", "LlamaModel"];

/// Fields that are read here, or say nothing; those of [`rope`] come on top.
const FIELDS: [&str; 16] = [
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    // SmolLM's remark that it is what it is.
    "is_llama_config",
    "layer_types",
    "max_position_embeddings",
    // An older name that some files keep beside the newer.
    "max_sequence_length",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
];

pub(super) fn recipe(names: &Names<'_>, config: &Config) -> Result<Recipe> {
    config.refuse_unknown(&[FIELDS.as_slice(), &rope::FIELDS].concat())?;
    let mut notes = Vec::new();
    let (dim, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
    let head_dim = match config.integer("head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && dim % heads == 0 => dim / heads,
        None => return Err(config.error("num_attention_heads", format!("a divisor of hidden_size, {dim}"))),
    };
    if let Some(types) = config.get("layer_types") {
        let full = types.as_array().is_some_and(|types| types.iter().all(|name| name == "full_attention"));
        if !full {
            return Err(config.error("layer_types", "full_attention in all layers"));
        }
    }
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    let prefix = names.prefix("model.");
    let embedding = format!("{prefix}embed_tokens.weight");
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(false);
    let head = names.head(&embedding, "lm_head.weight", tie, &mut notes);
    let arch = validated(
        Arch {
            vocab: config.required("vocab_size")?,
            dim,
            layers: config.required("num_hidden_layers")?,
            heads,
            kv_heads: config.integer("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            hidden: config.required("intermediate_size")?,
            context: config.required("max_position_embeddings")?,
            norm: Norm::Rms,
            norm_eps: config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            position: Position::Rope,
            rotary_dim: head_dim,
            activation: activation(config, "hidden_act", Activation::Silu)?,
            gated: true,
            biases: Biases {
                norm: false,
                qkv: attention_bias,
                attention_out: attention_bias,
                mlp: config.boolean("mlp_bias")?.unwrap_or(false),
                head: false,
            },
            tied_head: head != Head::Own,
            attention_scale: inverse_sqrt(head_dim),
            ..Arch::PLAIN
        },
        config.path(),
    )?;
    let frequencies = rope::frequencies(config, head_dim, &mut notes)?;

    let pieces = |spec: TensorSpec| {
        let layer = format!("{prefix}layers.{}.", spec.layer);
        let one = |name: &str, rows: u32| vec![Piece::whole(format!("{layer}{name}"), rows)];
        let many = |of: &[(&str, u32)], what: &str| {
            of.iter().map(|(name, rows)| Piece::whole(format!("{layer}{name}.{what}"), *rows)).collect()
        };
        let qkv = [
            ("self_attn.q_proj", arch.q_width()),
            ("self_attn.k_proj", arch.kv_width()),
            ("self_attn.v_proj", arch.kv_width()),
        ];
        let up = [("mlp.gate_proj", arch.hidden), ("mlp.up_proj", arch.hidden)];
        match spec.role {
            Role::TokenEmbedding if head == Head::Only => vec![Piece::whole("lm_head.weight", arch.vocab)],
            Role::TokenEmbedding => vec![Piece::whole(&embedding, arch.vocab)],
            Role::AttentionNorm => one("input_layernorm.weight", dim),
            Role::Qkv => many(&qkv, "weight"),
            Role::QkvBias => many(&qkv, "bias"),
            Role::AttentionOut => one("self_attn.o_proj.weight", dim),
            Role::AttentionOutBias => one("self_attn.o_proj.bias", dim),
            Role::MlpNorm => one("post_attention_layernorm.weight", dim),
            Role::MlpUp => many(&up, "weight"),
            Role::MlpUpBias => many(&up, "bias"),
            Role::MlpDown => one("mlp.down_proj.weight", dim),
            Role::MlpDownBias => one("mlp.down_proj.bias", dim),
            Role::FinalNorm => vec![Piece::whole(format!("{prefix}norm.weight"), dim)],
            Role::Head => vec![Piece::whole("lm_head.weight", arch.vocab)],
            // Computed, or not of this family.
            _ => Vec::new(),
        }
    };
    let ignorable =
        |name: &str| name.ends_with(".rotary_emb.inv_freq") || (head == Head::Tied && name == "lm_head.weight");
    Plan { family: "llama", arch, frequencies, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
