//! GPT-J: LayerNorm, RoPE over neighbouring dimensions, attention and MLP in parallel with one norm, a head with a bias.

use thumbformer::arch::{Activation, Arch, Biases, Kind, Position, Role, TensorSpec, Wiring};

use super::spelling::{Qkv, Spelling};
use super::{Family, Names, Plan, activation, heads_of, inverse_sqrt, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Interleaved, Recipe};
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "gptj", classes: &["GPTJForCausalLM", "GPTJModel"], recipe };

/// Fields that are read here.
const FIELDS: [&str; 12] = [
    "activation_function",
    "layer_norm_epsilon",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    // The rotation itself, which every GPT-J has.
    "rotary",
    "rotary_dim",
    "scale_attn_weights",
    "tie_word_embeddings",
    "vocab_size",
];

const NAMES: [(Role, &str); 6] = [
    (Role::TokenEmbedding, "wte"),
    (Role::AttentionNorm, "ln_1"),
    (Role::AttentionOut, "attn.out_proj"),
    (Role::MlpUp, "mlp.fc_in"),
    (Role::MlpDown, "mlp.fc_out"),
    (Role::FinalNorm, "ln_f"),
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    super::fixed(config, "rotary", true)?;
    super::fixed(config, "scale_attn_weights", true)?;
    let mut notes = Vec::new();
    let (dim, heads, head_dim) = heads_of(config, "n_embd", "n_head")?;
    let rotary_dim = config.integer("rotary_dim")?.unwrap_or(64.min(head_dim));
    if rotary_dim == 0 || rotary_dim > head_dim || rotary_dim % 2 != 0 {
        return Err(config.error("rotary_dim", format!("an even number up to the width of a head, {head_dim}")));
    }
    let prefix = names.prefix(&["transformer."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(false);
    let head = names.head(&format!("{prefix}wte.weight"), "lm_head.weight", tie, &mut notes);
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim,
        hidden: config.integer("n_inner")?.unwrap_or(dim.saturating_mul(4)),
        context: config.required("n_positions")?,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        position: Position::Rope,
        rotary_dim,
        activation: activation(config, "activation_function", Activation::GeluTanh)?,
        wiring: Wiring::ParallelOneNorm,
        // A bare model has no head.
        biases: Biases { norm: true, mlp: true, head: names.has("lm_head.bias"), ..Biases::default() },
        tied_head: head.is_tied(),
        attention_scale: inverse_sqrt(head_dim),
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let spelling = Spelling {
        prefix,
        layers: "h.",
        names: &NAMES,
        qkv: Qkv::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        head_name: "lm_head",
        head,
    };
    let pieces = |spec: TensorSpec| {
        let mut pieces = spelling.pieces(&arch, spec);
        if spec.role == Role::Qkv && spec.kind == Kind::Matrix {
            let rotated = Interleaved { head_dim: head_dim as usize, rotary_dim: rotary_dim as usize };
            pieces.iter_mut().take(2).for_each(|piece| piece.interleaved = Some(rotated));
        }
        pieces
    };
    let ignorable = |name: &str| {
        let buffers = [".attn.bias", ".attn.masked_bias", ".attn.embed_positions"];
        buffers.iter().any(|buffer| name.ends_with(buffer)) || head.repeats(name, "lm_head.weight")
    };
    let computed = vec![(Role::RopeFrequencies, rope::Rope::plain(rotary_dim).frequencies(config)?)];
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
