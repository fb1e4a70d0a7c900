//! GPT-2 as transformers stores it: learned positions, pre-LayerNorm, biases everywhere, matrices `[in, out]` (Conv1D).

use thumbformer::arch::{Activation, Arch, Biases, Norm, Position, Role, TensorSpec};

use super::{Family, Head, Names, Piece, Plan, activation, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "gpt2", classes: &["GPT2LMHeadModel", "GPT2Model"], recipe };

/// Fields that [`arch`] reads, or that say nothing.
pub(super) const FIELDS: [&str; 10] = [
    "activation_function",
    "layer_norm_epsilon",
    // An older name of n_positions that files keep beside it.
    "n_ctx",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    "scale_attn_weights",
    "vocab_size",
];

/// What GPT-2 computes, in the configuration's sizes; families change what they differ in.
pub(super) fn arch(config: &Config, head: Head) -> Result<Arch> {
    let (dim, heads) = (config.required("n_embd")?, config.required("n_head")?);
    if heads == 0 || dim % heads != 0 {
        return Err(config.error("n_head", format!("a divisor of n_embd, {dim}")));
    }
    let scaled = config.boolean("scale_attn_weights")?.unwrap_or(true);
    Ok(Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers: config.required("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        hidden: config.integer("n_inner")?.unwrap_or(dim.saturating_mul(4)),
        context: config.required("n_positions")?,
        norm: Norm::Layer,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        position: Position::Learned,
        rotary_dim: 0,
        activation: activation(config, "activation_function", Activation::GeluTanh)?,
        gated: false,
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false },
        tied_head: head.is_tied(),
        attention_scale: if scaled { inverse_sqrt(dim / heads) } else { 1.0 },
        ..Arch::PLAIN
    })
}

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = [
        // Changes the order of operations in mixed precision, not what is computed.
        "reorder_and_upcast_attn",
        "scale_attn_by_inverse_layer_idx",
        "tie_word_embeddings",
    ];
    config.refuse_unknown(&[FIELDS.as_slice(), &own].concat())?;
    let mut notes = Vec::new();
    let prefix = names.prefix(&["transformer."]);
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let head = names.head(&format!("{prefix}wte.weight"), "lm_head.weight", tie, &mut notes);
    let arch = validated(arch(config, head)?, config.path())?;
    let layout = Layout {
        prefix,
        transposed: true,
        scale_by_layer: config.boolean("scale_attn_by_inverse_layer_idx")?.unwrap_or(false),
        fused: Fused::Whole,
        head,
    };
    let pieces = |spec: TensorSpec| layout.pieces(&arch, names, spec);
    let ignorable = |name: &str| layout.ignorable(name);
    Plan { family: FAMILY.name, arch, computed: Vec::new(), pieces: &pieces, ignorable: &ignorable, notes }
        .assemble(names)
}

/// How a file spells GPT-2's tensors.
pub(super) struct Layout {
    /// Before all names but the head's.
    pub(super) prefix: &'static str,
    /// Matrices are stored `[in, out]`.
    pub(super) transposed: bool,
    /// Attention scores of layer `i` are divided by `i + 1`.
    pub(super) scale_by_layer: bool,
    pub(super) fused: Fused,
    pub(super) head: Head,
}

/// In which order queries, keys and values lie in their one tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fused {
    /// All queries, then keys, then values.
    Whole,
    /// Query, key and value of the first head, then of the next.
    ByHead,
}

impl Layout {
    /// Where each tensor of the record comes from.
    pub(super) fn pieces(&self, arch: &Arch, names: &Names<'_>, spec: TensorSpec) -> Vec<Piece> {
        let prefix = self.prefix;
        let layer = |name: &str| format!("{prefix}h.{}.{name}", spec.layer);
        let vector = |name: &str, rows: u32| vec![Piece::whole(layer(name), rows)];
        let matrix =
            |name: &str, rows: u32| vec![Piece { transposed: self.transposed, ..Piece::whole(layer(name), rows) }];
        match spec.role {
            Role::TokenEmbedding if self.head == Head::Only => vec![Piece::whole("lm_head.weight", arch.vocab)],
            Role::TokenEmbedding => vec![Piece::whole(format!("{prefix}wte.weight"), arch.vocab)],
            Role::PositionEmbedding => vec![Piece::whole(format!("{prefix}wpe.weight"), arch.context)],
            Role::AttentionNorm => vector("ln_1.weight", arch.dim),
            Role::AttentionNormBias => vector("ln_1.bias", arch.dim),
            Role::Qkv => self.qkv(arch, names, spec, layer("attn.c_attn.weight")),
            Role::QkvBias => self.qkv(arch, names, spec, layer("attn.c_attn.bias")),
            Role::AttentionOut => matrix("attn.c_proj.weight", arch.dim),
            Role::AttentionOutBias => vector("attn.c_proj.bias", arch.dim),
            Role::MlpNorm => vector("ln_2.weight", arch.dim),
            Role::MlpNormBias => vector("ln_2.bias", arch.dim),
            Role::MlpUp => matrix("mlp.c_fc.weight", arch.hidden),
            Role::MlpUpBias => vector("mlp.c_fc.bias", arch.hidden),
            Role::MlpDown => matrix("mlp.c_proj.weight", arch.dim),
            Role::MlpDownBias => vector("mlp.c_proj.bias", arch.dim),
            Role::FinalNorm => vec![Piece::whole(format!("{prefix}ln_f.weight"), arch.dim)],
            Role::FinalNormBias => vec![Piece::whole(format!("{prefix}ln_f.bias"), arch.dim)],
            Role::Head => vec![Piece::whole("lm_head.weight", arch.vocab)],
            _ => Vec::new(),
        }
    }

    /// Queries, keys and values are one tensor. A layer's factor of the scores is put into its queries.
    fn qkv(&self, arch: &Arch, names: &Names<'_>, spec: TensorSpec, name: String) -> Vec<Piece> {
        let whole = Piece { transposed: self.transposed, ..Piece::whole(name, arch.qkv_width()) };
        let (queries, head_dim) = (arch.q_width(), arch.head_dim);
        // What is not stored is reported whole.
        if self.fused == Fused::ByHead && names.has(&whole.name) {
            let of_head = |part: u32, head: u32| whole.rows((3 * head + part) * head_dim, head_dim);
            return (0..3)
                .flat_map(|part| (0..arch.heads).map(move |head| (part, head)))
                .map(|(p, h)| of_head(p, h))
                .collect();
        }
        if !self.scale_by_layer || spec.layer == 0 {
            return vec![whole];
        }
        let scale = 1.0 / (spec.layer + 1) as f32;
        vec![Piece { scale, ..whole.rows(0, queries) }, whole.rows(queries, whole.rows - queries)]
    }

    /// Causal masks that older versions stored, and the copy of a tied head.
    pub(super) fn ignorable(&self, name: &str) -> bool {
        name.ends_with(".attn.bias")
            || name.ends_with(".attn.masked_bias")
            || (self.head == Head::Tied && name == "lm_head.weight")
    }
}
