//! How a file spells tensors, for families that need no more than a name for each role.
//!
//! A table from role to name, below a prefix and the layer's number. Sizes follow from the record; queries, keys and
//! values have their own ways of being stored together.

use thumbformer::arch::{Arch, Kind, Role, TensorSpec};

use super::{Head, Piece};

/// A family's names.
pub(super) struct Spelling<'a> {
    /// Before all names but the head's.
    pub(super) prefix: &'static str,
    /// Before a layer's number: `layers.` or `h.`.
    pub(super) layers: &'static str,
    /// Name of each role's tensor, within its layer if it has one. Biases are named with their matrices.
    pub(super) names: &'a [(Role, &'static str)],
    pub(super) qkv: Qkv,
    /// Name of the head, which has no prefix.
    pub(super) head_name: &'static str,
    pub(super) head: Head,
}

/// How queries, keys and values are stored.
pub(super) enum Qkv {
    /// Three tensors.
    Separate([&'static str; 3]),
    /// One tensor: for each key/value head the queries that share it, its key, its value.
    ByKvHead(&'static str),
}

impl Spelling<'_> {
    /// Where each tensor of the record comes from; nothing for those that are computed or not in the table.
    pub(super) fn pieces(&self, arch: &Arch, spec: TensorSpec) -> Vec<Piece> {
        let rows = if spec.kind == Kind::Vector { spec.cols } else { spec.rows };
        let layer = format!("{}{}{}.", self.prefix, self.layers, spec.layer);
        let (role, what) = without_bias(spec.role);
        match role {
            Role::Qkv => self.qkv(arch, &layer, what),
            Role::TokenEmbedding if self.head == Head::Only => self.whole(self.head_name, rows, what),
            Role::Head => self.whole(self.head_name, rows, what),
            role => {
                let name = self.names.iter().find(|(found, _)| *found == role).map(|(_, name)| name);
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
        match self.qkv {
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
        role => (role, "weight"),
    }
}
