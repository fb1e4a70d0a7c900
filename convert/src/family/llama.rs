//! LLaMA 1, 2 and 3 as transformers stores them: pre-RMSNorm, RoPE with halves, grouped-query attention, gated MLP.
//!
//! Most later families are this with a difference or two. They start from a [`Draft`] and change it.

use thumbformer::arch::{Activation, Arch, Biases, HeadNorm, Norm, Position, Role, TensorSpec};

use super::{Family, Head, Names, Piece, Plan, activation, alibi, inverse_sqrt, rope, validated, windows};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;
use crate::source::Overrides;

pub(super) const FAMILY: Family = Family { name: "llama", classes: &["LlamaForCausalLM", "LlamaModel"], recipe };

/// Fields that a [`Draft`] reads; those of [`rope`] come on top.
const FIELDS: [&str; 10] = [
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "tie_word_embeddings",
    "vocab_size",
];

fn recipe(names: &Names<'_>, config: &Config, _: &Overrides) -> Result<Recipe> {
    let own = [
        "attention_bias",
        // SmolLM's remark that it is what it is.
        "is_llama_config",
        "layer_types",
        // An older name of the context that some files keep beside the newer.
        "max_sequence_length",
        "mlp_bias",
        "rms_norm_eps",
    ];
    let mut draft = Draft::read(names, config, &own, rope::Variant::default())?;
    if let Some(types) = config.get("layer_types") {
        let full = types.as_array().is_some_and(|types| types.iter().all(|name| name == "full_attention"));
        if !full {
            return Err(config.error("layer_types", "full_attention in all layers"));
        }
    }
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    draft.arch.norm_eps = config.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    draft.arch.biases.qkv = attention_bias;
    draft.arch.biases.attention_out = attention_bias;
    draft.arch.biases.mlp = config.boolean("mlp_bias")?.unwrap_or(false);
    draft.assemble(FAMILY.name, names, config)
}

/// A model of LLaMA's kind, before its sizes are checked.
pub(super) struct Draft {
    /// LLaMA's, with an epsilon of 1e-6 and no biases.
    pub(super) arch: Arch,
    pub(super) layout: Layout,
    rope: Option<rope::Rope>,
    /// Of layers with a window, where they have one of their own.
    pub(super) window_rope: Option<rope::Rope>,
    pub(super) notes: Vec<String>,
}

impl Draft {
    /// Reads what all of them spell alike; `own` are the fields that the family reads itself.
    pub(super) fn read(names: &Names<'_>, config: &Config, own: &[&str], variant: rope::Variant) -> Result<Self> {
        Self::with_rope(names, config, own, |head_dim, context, notes| {
            rope::Rope::read(config, head_dim, context, variant, notes).map(Some)
        })
    }

    /// The same with RoPE, or none, from elsewhere: `rope(head_dim, context, notes)`.
    pub(super) fn with_rope(
        names: &Names<'_>,
        config: &Config,
        own: &[&str],
        rope: impl FnOnce(u32, u32, &mut Vec<String>) -> Result<Option<rope::Rope>>,
    ) -> Result<Self> {
        config.refuse_unknown(&[FIELDS.as_slice(), &rope::FIELDS, own].concat())?;
        let mut notes = Vec::new();
        let (dim, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
        let head_dim = match config.integer("head_dim")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && dim % heads == 0 => dim / heads,
            None => return Err(config.error("num_attention_heads", format!("a divisor of hidden_size, {dim}"))),
        };
        let context = config.required("max_position_embeddings")?;
        let rope = rope(head_dim, context, &mut notes)?;
        let prefix = names.prefix(&["model."]);
        let tie = config.boolean("tie_word_embeddings")?.unwrap_or(false);
        let head = names.head(&format!("{prefix}embed_tokens.weight"), "lm_head.weight", tie, &mut notes);
        let arch = Arch {
            vocab: config.required("vocab_size")?,
            dim,
            layers: config.required("num_hidden_layers")?,
            heads,
            // Where a family has another default, the stored shapes contradict a wrong guess.
            kv_heads: config.integer("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            hidden: config.required("intermediate_size")?,
            context,
            norm: Norm::Rms,
            norm_eps: 1e-6,
            position: if rope.is_some() { Position::Rope } else { Position::Alibi },
            rotary_dim: rope.as_ref().map_or(0, |rope| rope.rotary_dim),
            activation: activation(config, "hidden_act", Activation::Silu)?,
            gated: true,
            biases: Biases::default(),
            tied_head: head.is_tied(),
            attention_scale: inverse_sqrt(head_dim),
            ..Arch::PLAIN
        };
        let layout = Layout {
            prefix,
            head,
            fused_qkv: None,
            fused_up: None,
            rotated_scale: 1.0,
            unit_head: false,
            norm_offset: 0.0,
        };
        Ok(Draft { arch, layout, rope, window_rope: None, notes })
    }

    /// Limits what layers see to `window` positions: in those that `layer_types` lists, else in `layers`. Where a
    /// record cannot say which, the context is cut to the window, within which all layers see the same.
    pub(super) fn limit_sight(&mut self, config: &Config, window: u32, layers: windows::Layers) -> Result<()> {
        let context = self.arch.context;
        if window >= context {
            // It hides nothing.
            windows::listed(config, self.arch.layers)?;
        } else if !windows::apply(&mut self.arch, config, window, layers)? {
            self.arch.context = window;
            self.notes.push(format!(
                "layer_types has no pattern, nor at most 64 layers: the context is cut from {context} to the {window} \
                 positions of sliding_window, within which all layers see the same"
            ));
        }
        Ok(())
    }

    /// Ties the head where the configuration does not say otherwise.
    pub(super) fn tie_by_default(&mut self, names: &Names<'_>, config: &Config) -> Result<()> {
        if config.boolean("tie_word_embeddings")?.is_none() {
            let embedding = format!("{}embed_tokens.weight", self.layout.prefix);
            self.layout.head = names.head(&embedding, "lm_head.weight", true, &mut self.notes);
            self.arch.tied_head = self.layout.head.is_tied();
        }
        Ok(())
    }

    /// Checks the sizes and makes the recipe.
    pub(super) fn assemble(mut self, family: &'static str, names: &Names<'_>, config: &Config) -> Result<Recipe> {
        let factor = self.rope.as_ref().map_or(1.0, rope::Rope::score_factor);
        if factor != 1.0 && self.arch.rotary_dim == self.arch.head_dim {
            self.arch.attention_scale = (factor / f64::from(self.arch.head_dim).sqrt()) as f32;
        } else {
            // The rest of a head is not scaled, so that the queries must be.
            self.layout.rotated_scale = factor as f32;
        }
        let arch = validated(self.arch, config.path())?;
        let mut computed = Vec::new();
        for (role, rope) in [(Role::RopeFrequencies, &self.rope), (Role::WindowRopeFrequencies, &self.window_rope)] {
            if let Some(rope) = rope {
                computed.push((role, rope.frequencies(config)?));
            }
        }
        if arch.position == Position::Alibi {
            computed.push((Role::AlibiSlopes, alibi::slopes(arch.heads)));
        }
        let pieces = |spec: TensorSpec| self.layout.pieces(&arch, names, spec);
        let ignorable = |name: &str| self.layout.ignorable(name);
        Plan { family, arch, computed, pieces: &pieces, ignorable: &ignorable, notes: self.notes }.assemble(names)
    }
}

/// How a file spells the tensors.
pub(super) struct Layout {
    /// Before all names but the head's.
    prefix: &'static str,
    pub(super) head: Head,
    /// One tensor of queries, keys and values, where they are stored so.
    pub(super) fused_qkv: Option<&'static str>,
    /// One tensor of gate and up, where they are stored so.
    pub(super) fused_up: Option<&'static str>,
    /// Factor of the rotated dimensions of the queries.
    rotated_scale: f32,
    /// The head's rows are brought to unit length.
    pub(super) unit_head: bool,
    /// Added to the weights of norms.
    pub(super) norm_offset: f32,
}

impl Layout {
    /// Where each tensor of the record comes from.
    fn pieces(&self, arch: &Arch, names: &Names<'_>, spec: TensorSpec) -> Vec<Piece> {
        let (prefix, dim) = (self.prefix, arch.dim);
        let layer = format!("{prefix}layers.{}.", spec.layer);
        let one = |name: &str, rows: u32| vec![Piece::whole(format!("{layer}{name}"), rows)];
        let outer = |name: &str, rows: u32| vec![Piece::whole(format!("{prefix}{name}"), rows)];
        let many = |of: &[(&str, u32)], what: &str| -> Vec<Piece> {
            of.iter().map(|(name, rows)| Piece::whole(format!("{layer}{name}.{what}"), *rows)).collect()
        };
        let qkv = |what: &str| {
            let whole = match self.fused_qkv {
                Some(name) => many(&[(name, arch.qkv_width())], what),
                None => many(
                    &[
                        ("self_attn.q_proj", arch.q_width()),
                        ("self_attn.k_proj", arch.kv_width()),
                        ("self_attn.v_proj", arch.kv_width()),
                    ],
                    what,
                ),
            };
            self.scaled(arch, names, whole)
        };
        let up = |what: &str| match self.fused_up {
            Some(name) => many(&[(name, arch.up_width())], what),
            None => many(&[("mlp.gate_proj", arch.hidden), ("mlp.up_proj", arch.hidden)], what),
        };
        // As StableLM has them.
        let by_head = |of: &str, heads: u32| -> Vec<Piece> {
            let name = |head: u32| format!("{layer}self_attn.{of}_layernorm.norms.{head}.weight");
            (0..heads).map(|head| Piece::whole(name(head), arch.head_dim)).collect()
        };
        let mut pieces = match spec.role {
            Role::TokenEmbedding if self.head == Head::Only => vec![Piece::whole("lm_head.weight", arch.vocab)],
            Role::TokenEmbedding => outer("embed_tokens.weight", arch.vocab),
            Role::AttentionNorm => one("input_layernorm.weight", dim),
            Role::AttentionNormBias => one("input_layernorm.bias", dim),
            Role::Qkv => qkv("weight"),
            Role::QkvBias => qkv("bias"),
            Role::AttentionOut => one("self_attn.o_proj.weight", dim),
            Role::AttentionOutBias => one("self_attn.o_proj.bias", dim),
            Role::MlpNorm if arch.output_norms => one("pre_feedforward_layernorm.weight", dim),
            Role::MlpNorm => one("post_attention_layernorm.weight", dim),
            Role::MlpNormBias => one("post_attention_layernorm.bias", dim),
            Role::MlpUp => up("weight"),
            Role::MlpUpBias => up("bias"),
            Role::MlpDown => one("mlp.down_proj.weight", dim),
            Role::MlpDownBias => one("mlp.down_proj.bias", dim),
            Role::FinalNorm => outer("norm.weight", dim),
            Role::FinalNormBias => outer("norm.bias", dim),
            Role::Head => vec![Piece { unit_rows: self.unit_head, ..Piece::whole("lm_head.weight", arch.vocab) }],
            Role::QueryNorm if arch.head_norm == HeadNorm::LayerByHead => by_head("q", arch.heads),
            Role::KeyNorm if arch.head_norm == HeadNorm::LayerByHead => by_head("k", arch.kv_heads),
            Role::QueryNorm => one("self_attn.q_norm.weight", arch.head_dim),
            Role::KeyNorm => one("self_attn.k_norm.weight", arch.head_dim),
            Role::AttentionOutNorm => one("post_attention_layernorm.weight", dim),
            Role::MlpOutNorm => one("post_feedforward_layernorm.weight", dim),
            // Computed, or not of this layout.
            _ => Vec::new(),
        };
        if spec.role.is_norm() {
            pieces.iter_mut().for_each(|piece| piece.offset = self.norm_offset);
        }
        pieces
    }

    /// The same rows, with the factor of the queries' rotated dimensions.
    fn scaled(&self, arch: &Arch, names: &Names<'_>, qkv: Vec<Piece>) -> Vec<Piece> {
        let [queries, rest @ ..] = qkv.as_slice() else { return qkv };
        // What is not stored is reported whole.
        if self.rotated_scale == 1.0 || !names.has(&queries.name) {
            return qkv;
        }
        let (head_dim, rotary_dim) = (arch.head_dim, arch.rotary_dim);
        let mut scaled = Vec::new();
        for head in (0..arch.q_width()).step_by(head_dim as usize) {
            scaled.push(Piece { scale: self.rotated_scale, ..queries.rows(head, rotary_dim) });
            scaled.push(queries.rows(head + rotary_dim, head_dim - rotary_dim));
        }
        // Keys and values, if they are stored with the queries.
        scaled.push(queries.rows(arch.q_width(), queries.rows - arch.q_width()));
        scaled.extend(rest.iter().map(|piece| piece.rows(0, piece.rows)));
        scaled.retain(|piece| piece.rows > 0);
        scaled
    }

    /// Rotary frequencies that older versions stored, and the copy of a tied head.
    fn ignorable(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq") || self.head.repeats(name, "lm_head.weight")
    }
}
