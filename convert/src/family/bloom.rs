//! BLOOM: ALiBi, a norm of the embedding, LayerNorm and biases everywhere.

use thumbformer::arch::{Activation, Biases, Role};

use super::spelling::{Draft, Qkv, Table, Terms, as_stored};
use super::{Family, Names, alibi};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "bloom", classes: &["BloomForCausalLM", "BloomModel"], recipe };

/// Fields that are read, or say nothing.
const OWN: [&str; 15] = [
    "apply_residual_connection_post_layernorm",
    // Of mixed precision and of how the training was spread over machines.
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "hidden_size",
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
];

/// Positions that the published models were trained on.
const CONTEXT: u32 = 2048;

const TABLE: Table<'_> = Table {
    prefix: "transformer.",
    layers: "h.",
    names: &[
        (Role::TokenEmbedding, "word_embeddings"),
        (Role::EmbeddingNorm, "word_embeddings_layernorm"),
        (Role::AttentionNorm, "input_layernorm"),
        (Role::AttentionOut, "self_attention.dense"),
        (Role::MlpNorm, "post_attention_layernorm"),
        (Role::MlpUp, "mlp.dense_h_to_4h"),
        (Role::MlpDown, "mlp.dense_4h_to_h"),
        (Role::FinalNorm, "ln_f"),
    ],
    qkv: Qkv::ByKvHead("self_attention.query_key_value"),
    head: "lm_head",
};

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    // The second names are transformers' own for the same.
    let either = |a, b| if config.get(a).is_some() { a } else { b };
    let terms = Terms {
        dim: either("n_embed", "hidden_size"),
        heads: either("n_head", "num_attention_heads"),
        layers: either("n_layer", "num_hidden_layers"),
        norm_eps: "layer_norm_epsilon",
        own: &OWN,
        tied: true,
        buffers: &[],
    };
    let mut draft = Draft::read(names, config, &terms, TABLE)?;
    draft.arch.hidden = draft.arch.dim.saturating_mul(4);
    if let Some(found) = config.integer("n_inner")?.filter(|&found| found != draft.arch.hidden) {
        let hidden = draft.arch.hidden;
        draft.notes.push(format!("n_inner is {found}, but a BLOOM's MLP is 4 times as wide as the model: {hidden}"));
    }
    draft.arch.context = match config.integer("seq_length")? {
        Some(context) => context,
        None => {
            draft.notes.push(format!("the configuration names no seq_length: a context of {CONTEXT} is assumed"));
            CONTEXT
        }
    };
    draft.arch.embedding_norm = true;
    draft.arch.normed_residual = config.boolean("apply_residual_connection_post_layernorm")?.unwrap_or(false);
    draft.arch.activation = Activation::GeluTanh;
    draft.arch.biases = Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false };
    draft.slope(alibi::slopes(draft.arch.heads));
    draft.assemble(FAMILY.name, names, config, as_stored)
}
