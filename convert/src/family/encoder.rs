//! What BERT and its relatives have in common: norms behind sublayers, learned positions, biases everywhere, attention over
//! the whole text, and for a head that fills in masked tokens a small network before the embedding's own matrix. They
//! differ in how they spell it.

use thumbformer::arch::{Activation, Arch, Biases, Role, TensorSpec};

use super::{Head, Names, Piece, Plan, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;

/// How a family spells its tensors, without `.weight` and `.bias`. Names of a layer follow its number.
pub(super) struct Spelling {
    pub(super) family: &'static str,
    /// Before all names but the head's.
    pub(super) prefix: &'static str,
    pub(super) layers: &'static str,
    /// Query, key, value.
    pub(super) qkv: [&'static str; 3],
    pub(super) attention_out: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) mlp_up: &'static str,
    pub(super) mlp_down: &'static str,
    pub(super) mlp_norm: &'static str,
    pub(super) transform: &'static str,
    pub(super) transform_norm: &'static str,
    pub(super) decoder: &'static str,
    /// The whole name of the head's bias. Files may have it as the decoder's too, or only.
    pub(super) head_bias: &'static str,
    /// Beginnings of names that may be left over.
    pub(super) unused: &'static [&'static str],
}

/// What a configuration says.
pub(super) struct Sizes {
    pub(super) vocab: u32,
    pub(super) dim: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) hidden: u32,
    pub(super) norm_eps: f32,
    pub(super) activation: Activation,
    /// Rows of the position embedding, and the first that is used.
    pub(super) positions: u32,
    pub(super) first_position: u32,
    pub(super) token_types: u32,
}

/// The field names that errors mention.
pub(super) struct Fields {
    pub(super) dim: &'static str,
    pub(super) heads: &'static str,
}

/// Whether the configuration's classes have a head for masked tokens. Those of a bare model, and unnamed ones, have it
/// where the file does.
pub(super) fn names_head(config: &Config) -> bool {
    let classes = config.get("architectures").and_then(|list| list.as_array());
    let head = |name: &str| name.ends_with("ForMaskedLM") || name.ends_with("ForPreTraining");
    classes.is_some_and(|list| list.iter().any(|name| name.as_str().is_some_and(head)))
}

pub(super) fn recipe(
    names: &Names<'_>,
    config: &Config,
    spelling: &Spelling,
    fields: &Fields,
    sizes: &Sizes,
) -> Result<Recipe> {
    let (dim, heads) = (sizes.dim, sizes.heads);
    if heads == 0 || dim % heads != 0 {
        return Err(config.error(fields.heads, format!("a divisor of {}, {dim}", fields.dim)));
    }
    let mut notes = Vec::new();
    let prefix = names.prefix(&[spelling.prefix]);
    let embedding = format!("{prefix}embeddings.word_embeddings.weight");
    let decoder = format!("{}.weight", spelling.decoder);
    let headless = !names_head(config) && !names.has(&format!("{}.weight", spelling.transform));
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let head = if headless { Head::Tied } else { names.head(&embedding, &decoder, tie, &mut notes) };
    let arch = validated(
        Arch {
            vocab: sizes.vocab,
            dim,
            layers: sizes.layers,
            heads,
            kv_heads: heads,
            head_dim: dim / heads,
            hidden: sizes.hidden,
            context: sizes.positions.saturating_sub(sizes.first_position),
            norm_eps: sizes.norm_eps,
            post_norm: true,
            embedding_norm: true,
            token_types: sizes.token_types,
            causal: false,
            activation: sizes.activation,
            biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: !headless },
            tied_head: head != Head::Own,
            head_transform: !headless,
            headless,
            attention_scale: inverse_sqrt(dim / heads),
            ..Arch::PLAIN
        },
        config.path(),
    )?;
    if headless && names.has(&format!("{prefix}pooler.dense.weight")) {
        notes.push("the pooler is left out: a text's vector is made of the last layer's".into());
    }

    // The oldest checkpoints call a norm's weight and bias gamma and beta, as TensorFlow does.
    let old = names.has(&format!("{prefix}embeddings.LayerNorm.gamma"));
    let (norm_weight, norm_bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
    let decoder_bias = format!("{}.bias", spelling.decoder);
    // A head of its own has its own bias; the other one is then added to nothing.
    let own_bias = names.has(&decoder_bias) && (head == Head::Own || !names.has(spelling.head_bias));
    let head_bias = if own_bias { decoder_bias.as_str() } else { spelling.head_bias };
    let pieces = |spec: TensorSpec| {
        let layer = |name: &str| format!("{prefix}{}.{}.{name}", spelling.layers, spec.layer);
        let linear = |name: &str, what: &str, rows: u32| vec![Piece::whole(format!("{}.{what}", layer(name)), rows)];
        let norm = |name: String, what: &str| vec![Piece::whole(format!("{name}.{what}"), dim)];
        let qkv =
            |what: &str| spelling.qkv.iter().map(|name| Piece::whole(format!("{}.{what}", layer(name)), dim)).collect();
        let embeddings = |name: &str| format!("{prefix}embeddings.{name}");
        match spec.role {
            Role::TokenEmbedding if head == Head::Only => vec![Piece::whole(&decoder, arch.vocab)],
            Role::TokenEmbedding => vec![Piece::whole(&embedding, arch.vocab)],
            Role::PositionEmbedding => vec![Piece {
                first_row: sizes.first_position,
                rows: arch.context,
                ..Piece::whole(embeddings("position_embeddings.weight"), sizes.positions)
            }],
            Role::TokenTypeEmbedding => {
                vec![Piece::whole(embeddings("token_type_embeddings.weight"), arch.token_types)]
            }
            Role::EmbeddingNorm => norm(embeddings("LayerNorm"), norm_weight),
            Role::EmbeddingNormBias => norm(embeddings("LayerNorm"), norm_bias),
            Role::Qkv => qkv("weight"),
            Role::QkvBias => qkv("bias"),
            Role::AttentionOut => linear(spelling.attention_out, "weight", dim),
            Role::AttentionOutBias => linear(spelling.attention_out, "bias", dim),
            Role::AttentionNorm => norm(layer(spelling.attention_norm), norm_weight),
            Role::AttentionNormBias => norm(layer(spelling.attention_norm), norm_bias),
            Role::MlpUp => linear(spelling.mlp_up, "weight", arch.hidden),
            Role::MlpUpBias => linear(spelling.mlp_up, "bias", arch.hidden),
            Role::MlpDown => linear(spelling.mlp_down, "weight", dim),
            Role::MlpDownBias => linear(spelling.mlp_down, "bias", dim),
            Role::MlpNorm => norm(layer(spelling.mlp_norm), norm_weight),
            Role::MlpNormBias => norm(layer(spelling.mlp_norm), norm_bias),
            Role::HeadTransform => vec![Piece::whole(format!("{}.weight", spelling.transform), dim)],
            Role::HeadTransformBias => vec![Piece::whole(format!("{}.bias", spelling.transform), dim)],
            Role::HeadTransformNorm => norm(spelling.transform_norm.into(), norm_weight),
            Role::HeadTransformNormBias => norm(spelling.transform_norm.into(), norm_bias),
            Role::Head => vec![Piece::whole(&decoder, arch.vocab)],
            Role::HeadBias => vec![Piece::whole(head_bias, arch.vocab)],
            // Computed, or not of these families.
            _ => Vec::new(),
        }
    };
    // Numbers of positions as a tensor, heads for other tasks, and copies of what is tied.
    let ignorable = |name: &str| {
        name.ends_with("embeddings.position_ids")
            || (!headless && (name == decoder_bias || name == spelling.head_bias))
            || (head == Head::Tied && name == decoder)
            || name.starts_with(&format!("{prefix}pooler."))
            || spelling.unused.iter().any(|unused| name.starts_with(unused))
    };
    Plan { family: spelling.family, arch, computed: Vec::new(), pieces: &pieces, ignorable: &ignorable, notes }
        .assemble(names)
}
