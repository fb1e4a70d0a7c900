//! GPT-J: LayerNorm, RoPE over neighbouring dimensions, attention and MLP in parallel with one norm, a head with a bias.

use thumbformer::arch::{Activation, Biases, Kind, Role, TensorSpec, Wiring};

use super::spelling::{Draft, Qkv, Table, Terms};
use super::{Family, Names, Piece, activation, rope};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Interleaved, Recipe};
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "gptj", classes: &["GPTJForCausalLM", "GPTJModel"], recipe };

const TERMS: Terms<'_> = Terms {
    dim: "n_embd",
    heads: "n_head",
    layers: "n_layer",
    norm_eps: "layer_norm_epsilon",
    own: &[
        "activation_function",
        "n_inner",
        "n_positions",
        // With `scale_attn_weights`, what every GPT-J does: transformers reads neither.
        "rotary",
        "rotary_dim",
        "scale_attn_weights",
    ],
    tied: false,
    buffers: &[".attn.bias", ".attn.masked_bias", ".attn.embed_positions"],
};

const TABLE: Table<'_> = Table {
    prefix: "transformer.",
    layers: "h.",
    names: &[
        (Role::TokenEmbedding, "wte"),
        (Role::AttentionNorm, "ln_1"),
        (Role::AttentionOut, "attn.out_proj"),
        (Role::MlpUp, "mlp.fc_in"),
        (Role::MlpDown, "mlp.fc_out"),
        (Role::FinalNorm, "ln_f"),
    ],
    qkv: Qkv::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
    head: "lm_head",
};

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let mut draft = Draft::read(names, config, &TERMS, TABLE)?;
    for field in ["rotary", "scale_attn_weights"] {
        if config.boolean(field)? == Some(false) {
            draft.notes.push(format!("{field} is false, but every GPT-J does that, as in transformers"));
        }
    }
    let head_dim = draft.arch.head_dim;
    let rotary_dim = config.integer("rotary_dim")?.unwrap_or(64.min(head_dim));
    if rotary_dim == 0 || rotary_dim > head_dim || rotary_dim % 2 != 0 {
        return Err(config.error("rotary_dim", format!("an even number up to the width of a head, {head_dim}")));
    }
    draft.arch.hidden = config.integer("n_inner")?.unwrap_or(draft.arch.dim.saturating_mul(4));
    draft.arch.context = config.required("n_positions")?;
    draft.arch.activation = activation(config, "activation_function", Activation::GeluTanh)?;
    draft.arch.wiring = Wiring::ParallelOneNorm;
    // A bare model has no head.
    draft.arch.biases = Biases { norm: true, mlp: true, head: names.has("lm_head.bias"), ..Biases::default() };
    draft.rotate_by(config, &rope::Rope::plain(rotary_dim))?;
    let rotated = Interleaved { head_dim: head_dim as usize, rotary_dim: rotary_dim as usize };
    draft.assemble(FAMILY.name, names, config, |spec: TensorSpec, pieces: &mut [Piece]| {
        if spec.role == Role::Qkv && spec.kind == Kind::Matrix {
            pieces.iter_mut().take(2).for_each(|piece| piece.interleaved = Some(rotated));
        }
    })
}
