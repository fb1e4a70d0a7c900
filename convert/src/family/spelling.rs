//! How a file spells tensors, for families that need no more than a name for each role.
//!
//! A table from role to name, below a prefix and the layer's number. Sizes follow from the record; queries, keys and
//! values have their own ways of being stored together. Such families start from a [`Draft`] and say what is their own.

use thumbformer::arch::{Arch, Biases, Kind, Position, Role, TensorSpec};

use super::{Head, Names, Piece, Plan, heads_of, inverse_sqrt, rope, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Recipe, Source};

/// How a family's configurations call what all have, and what else there is in its files.
pub(super) struct Terms<'a> {
    pub(super) dim: &'static str,
    pub(super) heads: &'static str,
    pub(super) layers: &'static str,
    pub(super) norm_eps: &'static str,
    /// Other fields that are read, or say nothing.
    pub(super) own: &'a [&'static str],
    /// Whether the head is the embedding, if the configuration does not say.
    pub(super) tied: bool,
    /// What names of tensors without meaning end with.
    pub(super) buffers: &'static [&'static str],
}

/// A model of a family with a table, before its sizes are checked.
pub(super) struct Draft<'a> {
    /// LayerNorm with biases and an epsilon of 1e-5, as many key/value heads as heads, scores scaled by the width of a
    /// head; what feeds forward and what tells positions is up to the family.
    pub(super) arch: Arch,
    spelling: Spelling<'a>,
    computed: Vec<(Role, Source)>,
    pub(super) notes: Vec<String>,
    buffers: &'static [&'static str],
}

impl<'a> Draft<'a> {
    /// Reads what all of them have.
    pub(super) fn read(names: &Names<'_>, config: &Config, terms: &Terms<'_>, table: Table<'a>) -> Result<Self> {
        let all = [terms.dim, terms.heads, terms.layers, terms.norm_eps, "tie_word_embeddings", "vocab_size"];
        config.refuse_unknown(&[&all, terms.own].concat())?;
        let mut notes = Vec::new();
        let (dim, heads, head_dim) = heads_of(config, terms.dim, terms.heads)?;
        let mut spelling = Spelling { prefix: names.prefix(&[table.prefix]), table, head: Head::Own };
        let tie = config.boolean("tie_word_embeddings")?.unwrap_or(terms.tied);
        spelling.head = names.head(&spelling.embedding(), &spelling.head_name("weight"), tie, &mut notes);
        let arch = Arch {
            vocab: config.required("vocab_size")?,
            dim,
            layers: config.required(terms.layers)?,
            heads,
            kv_heads: heads,
            head_dim,
            norm_eps: config.number(terms.norm_eps)?.unwrap_or(1e-5) as f32,
            biases: Biases { norm: true, ..Biases::default() },
            tied_head: spelling.head.is_tied(),
            attention_scale: inverse_sqrt(head_dim),
            ..Arch::PLAIN
        };
        Ok(Self { arch, spelling, computed: Vec::new(), notes, buffers: terms.buffers })
    }

    /// RoPE as the configuration describes it, for the record's context.
    pub(super) fn rotate(&mut self, config: &Config, variant: rope::Variant) -> Result<()> {
        let rope = rope::Rope::read(config, self.arch.head_dim, self.arch.context, variant, &mut self.notes)?;
        self.rotate_by(config, &rope)
    }

    /// RoPE from elsewhere.
    pub(super) fn rotate_by(&mut self, config: &Config, rope: &rope::Rope) -> Result<()> {
        self.arch.position = Position::Rope;
        self.arch.rotary_dim = rope.rotary_dim;
        self.arch.attention_scale = rope.attention_scale(config, self.arch.head_dim)?;
        self.computed.push((Role::RopeFrequencies, rope.frequencies(config)?));
        Ok(())
    }

    /// ALiBi with these slopes.
    pub(super) fn slope(&mut self, slopes: Source) {
        self.arch.position = Position::Alibi;
        self.computed.push((Role::AlibiSlopes, slopes));
    }

    /// Checks the sizes and makes the recipe. `change` may alter what tensors are made of.
    pub(super) fn assemble(
        self,
        family: &'static str,
        names: &Names<'_>,
        config: &Config,
        change: impl Fn(TensorSpec, &mut [Piece]),
    ) -> Result<Recipe> {
        let Self { arch, spelling, computed, notes, buffers } = self;
        let arch = validated(arch, config.path())?;
        let pieces = |spec: TensorSpec| {
            let mut pieces = spelling.pieces(&arch, spec);
            change(spec, &mut pieces);
            pieces
        };
        let ignorable = |name: &str| {
            let buffer = buffers.iter().any(|buffer| name.ends_with(buffer));
            buffer || spelling.head.repeats(name, &spelling.head_name("weight"))
        };
        Plan { family, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
    }
}

/// Leaves pieces as they are.
pub(super) fn as_stored(_: TensorSpec, _: &mut [Piece]) {}

/// A family's names.
pub(super) struct Table<'a> {
    /// Before all names but the head's, in files of a model with a head.
    pub(super) prefix: &'static str,
    /// Before a layer's number: `layers.` or `h.`.
    pub(super) layers: &'static str,
    /// Name of each role's tensor, within its layer if it has one. Biases are named with their matrices.
    pub(super) names: &'a [(Role, &'static str)],
    pub(super) qkv: Qkv,
    /// Name of the head, which has no prefix.
    pub(super) head: &'static str,
}

/// How a checkpoint has them.
struct Spelling<'a> {
    prefix: &'static str,
    table: Table<'a>,
    head: Head,
}

/// How queries, keys and values are stored.
pub(super) enum Qkv {
    /// Three tensors.
    Separate([&'static str; 3]),
    /// One tensor: for each key/value head the queries that share it, its key, its value.
    ByKvHead(&'static str),
}

impl Spelling<'_> {
    fn head_name(&self, what: &str) -> String {
        format!("{}.{what}", self.table.head)
    }

    /// Name of the token embedding.
    fn embedding(&self) -> String {
        format!("{}{}.weight", self.prefix, self.name(Role::TokenEmbedding).unwrap_or_default())
    }

    fn name(&self, role: Role) -> Option<&'static str> {
        self.table.names.iter().find(|(found, _)| *found == role).map(|(_, name)| *name)
    }

    /// Where each tensor of the record comes from; nothing for those that are computed or not in the table.
    fn pieces(&self, arch: &Arch, spec: TensorSpec) -> Vec<Piece> {
        let rows = if spec.kind == Kind::Vector { spec.cols } else { spec.rows };
        let layer = format!("{}{}{}.", self.prefix, self.table.layers, spec.layer);
        let (role, what) = without_bias(spec.role);
        match role {
            Role::Qkv => self.qkv(arch, &layer, what),
            Role::TokenEmbedding if self.head == Head::Only => self.whole(self.table.head, rows, what),
            Role::Head => self.whole(self.table.head, rows, what),
            role => {
                let name = self.name(role);
                let outer = matches!(role, Role::TokenEmbedding | Role::EmbeddingNorm | Role::FinalNorm);
                let at = if outer { self.prefix } else { &layer };
                name.map(|name| self.whole(&format!("{at}{name}"), rows, what)).unwrap_or_default()
            }
        }
    }

    fn whole(&self, name: &str, rows: u32, what: &str) -> Vec<Piece> {
        vec![Piece::whole(format!("{name}.{what}"), rows)]
    }

    fn qkv(&self, arch: &Arch, layer: &str, what: &str) -> Vec<Piece> {
        match self.table.qkv {
            Qkv::Separate(names) => {
                let widths = [arch.q_width(), arch.kv_width(), arch.kv_width()];
                names
                    .iter()
                    .zip(widths)
                    .flat_map(|(name, rows)| self.whole(&format!("{layer}{name}"), rows, what))
                    .collect()
            }
            Qkv::ByKvHead(name) => by_kv_head(arch, &Piece::whole(format!("{layer}{name}.{what}"), arch.qkv_width())),
        }
    }
}

/// All queries, then all keys, then all values, of a tensor that holds them for each key/value head together.
pub(super) fn by_kv_head(arch: &Arch, whole: &Piece) -> Vec<Piece> {
    let (head_dim, sharing) = (arch.head_dim, arch.heads / arch.kv_heads);
    let part = |first: u32, rows: u32| {
        let of_head = (sharing + 2) * head_dim;
        (0..arch.kv_heads).map(move |head| whole.rows(head * of_head + first, rows))
    };
    let queries = sharing * head_dim;
    part(0, queries).chain(part(queries, head_dim)).chain(part(queries + head_dim, head_dim)).collect()
}

/// The role of the matrix or norm that a bias belongs to, and what its name ends with.
fn without_bias(role: Role) -> (Role, &'static str) {
    match role {
        Role::EmbeddingNormBias => (Role::EmbeddingNorm, "bias"),
        Role::AttentionNormBias => (Role::AttentionNorm, "bias"),
        Role::QkvBias => (Role::Qkv, "bias"),
        Role::AttentionOutBias => (Role::AttentionOut, "bias"),
        Role::MlpNormBias => (Role::MlpNorm, "bias"),
        Role::MlpUpBias => (Role::MlpUp, "bias"),
        Role::MlpDownBias => (Role::MlpDown, "bias"),
        Role::FinalNormBias => (Role::FinalNorm, "bias"),
        Role::HeadBias => (Role::Head, "bias"),
        Role::QueryNormBias => (Role::QueryNorm, "bias"),
        Role::KeyNormBias => (Role::KeyNorm, "bias"),
        role => (role, "weight"),
    }
}
