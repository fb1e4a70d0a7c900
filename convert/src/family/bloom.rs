//! BLOOM: ALiBi, a norm of the embedding, LayerNorm and biases everywhere.

use thumbformer::arch::{Activation, Arch, Biases, Position, Role, TensorSpec};

use super::spelling::{Qkv, Spelling};
use super::{Family, Names, Plan, alibi, heads_of, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "bloom", classes: &["BloomForCausalLM", "BloomModel"], recipe };

/// Fields that are read, or say nothing.
const FIELDS: [&str; 18] = [
    "apply_residual_connection_post_layernorm",
    // Of mixed precision and of how the training was spread over machines.
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "hidden_size",
    "layer_norm_epsilon",
    "masked_softmax_fusion",
    "n_embed",
    "n_head",
    "n_inner",
    "n_layer",
    "num_attention_heads",
    "num_hidden_layers",
    "offset_alibi",
    "seq_length",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "tie_word_embeddings",
    "vocab_size",
];

/// Positions that the published models were trained on.
const CONTEXT: u32 = 2048;

const NAMES: [(Role, &str); 8] = [
    (Role::TokenEmbedding, "word_embeddings"),
    (Role::EmbeddingNorm, "word_embeddings_layernorm"),
    (Role::AttentionNorm, "input_layernorm"),
    (Role::AttentionOut, "self_attention.dense"),
    (Role::MlpNorm, "post_attention_layernorm"),
    (Role::MlpUp, "mlp.dense_h_to_4h"),
    (Role::MlpDown, "mlp.dense_4h_to_h"),
    (Role::FinalNorm, "ln_f"),
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    let mut notes = Vec::new();
    // The second names are transformers' own for the same.
    let either = |a, b| if config.get(a).is_some() { a } else { b };
    let (dim, heads, head_dim) =
        heads_of(config, either("n_embed", "hidden_size"), either("n_head", "num_attention_heads"))?;
    if config.integer("n_inner")?.is_some_and(|hidden| hidden != dim.saturating_mul(4)) {
        return Err(config.error("n_inner", format!("4 times the width, {}", dim.saturating_mul(4))));
    }
    let context = match config.integer("seq_length")? {
        Some(context) => context,
        None => {
            notes.push(format!("the configuration names no seq_length: a context of {CONTEXT} is assumed"));
            CONTEXT
        }
    };
    let prefix = names.prefix(&["transformer."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let head = names.head(&format!("{prefix}word_embeddings.weight"), "lm_head.weight", tie, &mut notes);
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required(either("n_layer", "num_hidden_layers"))?,
        heads,
        kv_heads: heads,
        head_dim,
        hidden: dim.saturating_mul(4),
        context,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        position: Position::Alibi,
        embedding_norm: true,
        normed_residual: config.boolean("apply_residual_connection_post_layernorm")?.unwrap_or(false),
        activation: Activation::GeluTanh,
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false },
        tied_head: head.is_tied(),
        attention_scale: inverse_sqrt(head_dim),
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let spelling = Spelling {
        prefix,
        layers: "h.",
        names: &NAMES,
        qkv: Qkv::ByKvHead("self_attention.query_key_value"),
        head_name: "lm_head",
        head,
    };
    let pieces = |spec: TensorSpec| spelling.pieces(&arch, spec);
    let ignorable = |name: &str| head.repeats(name, "lm_head.weight");
    let computed = vec![(Role::AlibiSlopes, alibi::slopes(heads))];
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
