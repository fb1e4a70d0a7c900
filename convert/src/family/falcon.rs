//! Falcon: LayerNorm, few key/value heads, attention and MLP in parallel (with one norm in the smaller models, with two in
//! the larger), or one after the other. RoPE, or ALiBi in the models trained on RefinedWeb alone.
//!
//! ALiBi is added to scores before they are scaled. transformers multiplies slopes by positions in bfloat16: its slopes
//! are rounded so here too, but a product with a position is exact. The two are equal up to position 256 where slopes
//! are powers of two (eight heads, or fewer); elsewhere transformers rounds each position's bias to eight bits of its
//! own, so that what a token sees depends on how far it is from the text's beginning.

use thumbformer::arch::{Activation, Biases, Role, Wiring};

use super::spelling::{Draft, Qkv, Table, Terms, as_stored};
use super::{Family, Names, activation, alibi, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "falcon", classes: &["FalconForCausalLM", "FalconModel"], recipe };

/// Fields that are read here; those of [`rope`] come on top.
const OWN: [&str; 11] = [
    "activation",
    "alibi",
    // Written into configurations, and used by no version of the model.
    "apply_residual_connection_post_layernorm",
    "bias",
    "ffn_hidden_size",
    "max_position_embeddings",
    "multi_query",
    "new_decoder_architecture",
    "num_kv_heads",
    "num_ln_in_parallel_attn",
    "parallel_attn",
];

const NAMES: [(Role, &str); 5] = [
    (Role::TokenEmbedding, "word_embeddings"),
    (Role::AttentionOut, "self_attention.dense"),
    (Role::MlpUp, "mlp.dense_h_to_4h"),
    (Role::MlpDown, "mlp.dense_4h_to_h"),
    (Role::FinalNorm, "ln_f"),
];
const ONE_NORM: [(Role, &str); 1] = [(Role::AttentionNorm, "input_layernorm")];
const SEQUENTIAL_NORMS: [(Role, &str); 2] =
    [(Role::AttentionNorm, "input_layernorm"), (Role::MlpNorm, "post_attention_layernorm")];
const PARALLEL_NORMS: [(Role, &str); 2] = [(Role::AttentionNorm, "ln_attn"), (Role::MlpNorm, "ln_mlp")];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let flag = |field: &str, default| config.boolean(field).map(|found| found.unwrap_or(default));
    let (grouped, parallel) = (flag("new_decoder_architecture", false)?, flag("parallel_attn", true)?);
    if grouped && !parallel {
        return Err(config.error("parallel_attn", "true in the new decoder architecture"));
    }
    let two = match config.integer("num_ln_in_parallel_attn")? {
        None => grouped,
        Some(1) => false,
        Some(2) if grouped => true,
        Some(_) => return Err(config.error("num_ln_in_parallel_attn", "1, or 2 in the new decoder architecture")),
    };
    let (wiring, norms) = match (parallel, two) {
        (false, _) => (Wiring::Sequential, &SEQUENTIAL_NORMS[..]),
        (true, false) => (Wiring::ParallelOneNorm, &ONE_NORM[..]),
        (true, true) => (Wiring::Parallel, &PARALLEL_NORMS[..]),
    };
    let terms = Terms {
        dim: "hidden_size",
        heads: "num_attention_heads",
        layers: "num_hidden_layers",
        norm_eps: "layer_norm_epsilon",
        own: &[OWN.as_slice(), &rope::FIELDS].concat(),
        tied: true,
        buffers: &[".rotary_emb.inv_freq"],
    };
    let table = Table {
        prefix: "transformer.",
        layers: "h.",
        names: &[&NAMES, norms].concat(),
        qkv: Qkv::ByKvHead("self_attention.query_key_value"),
        head: "lm_head",
    };
    let mut draft = Draft::read(names, config, &terms, table)?;
    draft.arch.kv_heads = match (grouped, flag("multi_query", true)?) {
        (true, _) => config.integer("num_kv_heads")?.unwrap_or(draft.arch.heads),
        (false, true) => 1,
        (false, false) => draft.arch.heads,
    };
    draft.arch.hidden = config.integer("ffn_hidden_size")?.unwrap_or(draft.arch.dim.saturating_mul(4));
    draft.arch.context = config.integer("max_position_embeddings")?.unwrap_or(2048);
    draft.arch.activation = activation(config, "activation", Activation::Gelu)?;
    draft.arch.wiring = wiring;
    let bias = flag("bias", false)?;
    draft.arch.biases = Biases { norm: true, qkv: bias, attention_out: bias, mlp: bias, head: false };
    if flag("alibi", false)? {
        draft.slope(alibi::slopes_in_bf16(draft.arch.heads, draft.arch.attention_scale));
    } else {
        draft.rotate(config, rope::Variant::default())?;
    }
    draft.assemble(FAMILY.name, names, config, as_stored)
}
