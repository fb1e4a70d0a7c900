//! OPT: GPT-2 with ReLU and separate projections, whose positions begin at the third row of their table.
//!
//! The model with 350 million parameters differs: its norms stand behind sublayers, and its embedding is narrower than
//! the rest. Between the two stand a matrix at either end, which the converter multiplies embedding and head by: exact
//! but for one rounding to f32, and nothing the runtime need know. It costs the weights of a wider embedding and of a
//! head.

use thumbformer::arch::{Activation, Arch, Biases, Norm, Position, Role, TensorSpec};

use super::{Factor, Family, Head, Names, Piece, Plan, activation, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Recipe, Source};
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "opt", classes: &["OPTForCausalLM", "OPTModel"], recipe };

/// Fields that are read, or say nothing.
const FIELDS: [&str; 15] = [
    "_remove_final_layer_norm",
    "activation_function",
    "do_layer_norm_before",
    "enable_bias",
    "ffn_dim",
    "hidden_size",
    // Of training.
    "init_std",
    "layer_norm_elementwise_affine",
    "layerdrop",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "tie_word_embeddings",
    "vocab_size",
    "word_embed_proj_dim",
];

/// Rows before position 0's, left from fairseq's padding index.
const POSITION_OFFSET: u32 = 2;

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    let flag = |field: &str, default| config.boolean(field).map(|found| found.unwrap_or(default));
    let post_norm = !flag("do_layer_norm_before", true)?;
    // Only models with norms before have one at the end that could be missing.
    let final_norm = post_norm || !flag("_remove_final_layer_norm", false)?;
    let affine = flag("layer_norm_elementwise_affine", true)?;
    let mut notes = Vec::new();
    let (dim, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
    if heads == 0 || dim % heads != 0 {
        return Err(config.error("num_attention_heads", format!("a divisor of hidden_size, {dim}")));
    }
    let width = config.integer("word_embed_proj_dim")?.filter(|&width| width != dim);
    let prefix = names.prefix(&["model.decoder.", "decoder."]);
    let tie = flag("tie_word_embeddings", true)?;
    let head = names.head(&format!("{prefix}embed_tokens.weight"), "lm_head.weight", tie, &mut notes);
    let bias = flag("enable_bias", true)?;
    if let Some(width) = width {
        notes.push(format!(
            "the embedding, {width} wide, is stored as it is projected to {dim}, and so is the head: together 2·{dim} \
             weights a token in place of {}",
            if head.is_tied() { width.to_string() } else { format!("2·{width}") }
        ));
    }
    let arch = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        hidden: config.required("ffn_dim")?,
        context: config.required("max_position_embeddings")?,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        post_norm,
        final_norm,
        position: Position::Learned,
        rotary_dim: 0,
        activation: activation(config, "activation_function", Activation::Relu)?,
        gated: false,
        biases: Biases { norm: affine, qkv: bias, attention_out: bias, mlp: bias, head: false },
        // The two projections differ.
        tied_head: head.is_tied() && width.is_none(),
        attention_scale: inverse_sqrt(dim / heads),
        ..Arch::PLAIN
    };
    let arch = validated(arch, config.path())?;
    let pieces = |spec: TensorSpec| {
        if !affine && spec.role.is_norm() {
            return Vec::new();
        }
        let mut pieces = pieces(prefix, head, &arch, spec);
        if let (Some(inner), Some(piece)) = (width, pieces.first_mut()) {
            piece.factor = match spec.role {
                Role::TokenEmbedding => {
                    Some(Factor { name: format!("{prefix}project_in.weight"), inner, transposed: false })
                }
                Role::Head => Some(Factor { name: format!("{prefix}project_out.weight"), inner, transposed: true }),
                _ => None,
            };
        }
        pieces
    };
    let ignorable = |name: &str| head.repeats(name, "lm_head.weight");
    let ones = |role| (role, Source::Values(vec![1.0; dim as usize]));
    let computed = match affine {
        true => Vec::new(),
        false => [Role::AttentionNorm, Role::MlpNorm, Role::FinalNorm].map(ones).into(),
    };
    Plan { family: FAMILY.name, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}

/// Where each tensor of the record comes from.
fn pieces(prefix: &str, head: Head, arch: &Arch, spec: TensorSpec) -> Vec<Piece> {
    let dim = arch.dim;
    let layer = |name: &str, rows: u32| vec![Piece::whole(format!("{prefix}layers.{}.{name}", spec.layer), rows)];
    let outer = |name: &str, rows: u32| vec![Piece::whole(format!("{prefix}{name}"), rows)];
    let qkv = |what: &str| {
        let one = |name: &str| Piece::whole(format!("{prefix}layers.{}.self_attn.{name}.{what}", spec.layer), dim);
        ["q_proj", "k_proj", "v_proj"].map(one).into()
    };
    match spec.role {
        Role::TokenEmbedding if head == Head::Only => vec![Piece::whole("lm_head.weight", arch.vocab)],
        Role::TokenEmbedding => outer("embed_tokens.weight", arch.vocab),
        Role::PositionEmbedding => {
            let table = Piece::whole(format!("{prefix}embed_positions.weight"), arch.context + POSITION_OFFSET);
            vec![table.rows(POSITION_OFFSET, arch.context)]
        }
        Role::AttentionNorm => layer("self_attn_layer_norm.weight", dim),
        Role::AttentionNormBias => layer("self_attn_layer_norm.bias", dim),
        Role::Qkv => qkv("weight"),
        Role::QkvBias => qkv("bias"),
        Role::AttentionOut => layer("self_attn.out_proj.weight", dim),
        Role::AttentionOutBias => layer("self_attn.out_proj.bias", dim),
        Role::MlpNorm => layer("final_layer_norm.weight", dim),
        Role::MlpNormBias => layer("final_layer_norm.bias", dim),
        Role::MlpUp => layer("fc1.weight", arch.hidden),
        Role::MlpUpBias => layer("fc1.bias", arch.hidden),
        Role::MlpDown => layer("fc2.weight", dim),
        Role::MlpDownBias => layer("fc2.bias", dim),
        Role::FinalNorm => outer("final_layer_norm.weight", dim),
        Role::FinalNormBias => outer("final_layer_norm.bias", dim),
        Role::Head if head == Head::Tied => outer("embed_tokens.weight", arch.vocab),
        Role::Head => vec![Piece::whole("lm_head.weight", arch.vocab)],
        _ => Vec::new(),
    }
}
