//! The tensors that a record calls for: their shapes, and the one order in which a blob holds them.

use core::ops::Range;

use super::{Arch, CLASSIC, CROSS, ENCODER, HeadNorm, Position, Role, SHAPING};

/// Whether a tensor is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// int8 rows with f16 group scales.
    Matrix = 0,
    /// One row of f32.
    Vector = 1,
}

/// One tensor the record calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its layer; 0 for tensors outside the layers.
    pub layer: u32,
    /// Quantized or not.
    pub kind: Kind,
    /// Outputs; 1 for vectors.
    pub rows: u32,
    /// Inputs, or a vector's length.
    pub cols: u32,
}

/// Tensors before, in each, and after the layers: the longest lists that any record can call for.
const MAX_BEFORE: usize = if CROSS {
    9
} else if ENCODER {
    8
} else {
    5
};
const MAX_LAYER: usize = if CROSS {
    28
} else if SHAPING {
    19
} else {
    17
};
const MAX_AFTER: usize = if ENCODER { 8 } else { 4 };

impl Arch {
    /// Whether the record has tensors of that role.
    #[inline(always)]
    const fn has(&self, role: Role) -> bool {
        match role {
            Role::TokenEmbedding => !(CROSS && self.shared_embedding),
            Role::RelativeBias => CROSS && matches!(self.position, Position::Relative),
            Role::CrossNorm | Role::CrossQuery | Role::CrossKeyValue | Role::CrossKeyMean | Role::CrossOut => {
                self.has_cross()
            }
            Role::CrossNormBias => self.has_cross() && self.shifts(),
            Role::CrossQueryBias | Role::CrossKeyValueBias => self.has_cross() && self.biases.qkv,
            Role::CrossOutBias => self.has_cross() && self.biases.attention_out,
            Role::PositionEmbedding => CLASSIC && matches!(self.position, Position::Learned),
            Role::RopeFrequencies => matches!(self.position, Position::Rope),
            Role::AlibiSlopes => SHAPING && matches!(self.position, Position::Alibi),
            Role::WindowRopeFrequencies => SHAPING && self.window_rope,
            Role::TokenTypeEmbedding => ENCODER && self.token_types > 0,
            Role::EmbeddingNorm => ENCODER && self.embedding_norm,
            Role::EmbeddingNormBias => ENCODER && self.embedding_norm && self.shifts(),
            Role::MlpNorm => !self.has_one_norm(),
            Role::MlpNormBias => self.shifts() && !self.has_one_norm(),
            Role::AttentionNormBias => self.shifts(),
            Role::FinalNorm => self.norms_output(),
            Role::FinalNormBias => self.norms_output() && self.shifts(),
            Role::QkvBias => self.biases.qkv,
            Role::AttentionOutBias => self.biases.attention_out,
            Role::MlpUpBias | Role::MlpDownBias => self.biases.mlp,
            Role::QueryNorm | Role::KeyNorm => SHAPING && !matches!(self.head_norm, HeadNorm::None),
            Role::QueryNormBias | Role::KeyNormBias => SHAPING && matches!(self.head_norm, HeadNorm::Layer),
            Role::AttentionOutNorm | Role::MlpOutNorm => SHAPING && self.output_norms,
            Role::Head => !self.tied_head,
            Role::HeadBias => self.biases.head,
            Role::HeadTransform | Role::HeadTransformBias | Role::HeadTransformNorm => ENCODER && self.head_transform,
            Role::HeadTransformNormBias => ENCODER && self.head_transform && self.shifts(),
            _ => true,
        }
    }

    /// Whether every head has norm weights of its own.
    #[inline(always)]
    pub(crate) const fn norms_by_head(&self) -> bool {
        SHAPING && matches!(self.head_norm, HeadNorm::LayerByHead)
    }

    /// The tensor of that role, `None` if this record has none.
    #[inline]
    pub const fn tensor(&self, role: Role, layer: u32) -> Option<TensorSpec> {
        if !self.has(role) {
            return None;
        }
        let (kind, rows, cols) = match role {
            Role::TokenEmbedding | Role::Head => (Kind::Matrix, self.vocab, self.dim),
            Role::PositionEmbedding => (Kind::Matrix, self.context, self.dim),
            Role::RopeFrequencies | Role::WindowRopeFrequencies => (Kind::Vector, 1, self.rotary_dim / 2),
            Role::AlibiSlopes => (Kind::Vector, 1, self.heads),
            Role::RelativeBias => (Kind::Vector, 1, self.heads * self.relative_distances()),
            Role::CrossNorm | Role::CrossNormBias | Role::CrossOutBias => (Kind::Vector, 1, self.dim),
            Role::CrossQuery => (Kind::Matrix, self.q_width(), self.dim),
            Role::CrossQueryBias => (Kind::Vector, 1, self.q_width()),
            Role::CrossKeyValue => (Kind::Matrix, 2 * self.kv_width(), self.dim),
            Role::CrossKeyValueBias => (Kind::Vector, 1, 2 * self.kv_width()),
            Role::CrossKeyMean => (Kind::Vector, 1, self.kv_width()),
            Role::CrossOut => (Kind::Matrix, self.dim, self.q_width()),
            Role::AttentionNorm | Role::AttentionNormBias => (Kind::Vector, 1, self.dim),
            Role::Qkv => (Kind::Matrix, self.qkv_width(), self.dim),
            Role::QkvBias => (Kind::Vector, 1, self.qkv_width()),
            Role::KeyMean => (Kind::Vector, 1, self.kv_width()),
            Role::AttentionOut => (Kind::Matrix, self.dim, self.q_width()),
            Role::AttentionOutBias => (Kind::Vector, 1, self.dim),
            Role::MlpNorm | Role::MlpNormBias => (Kind::Vector, 1, self.dim),
            Role::MlpUp => (Kind::Matrix, self.up_width(), self.dim),
            Role::MlpUpBias => (Kind::Vector, 1, self.up_width()),
            Role::MlpDown => (Kind::Matrix, self.dim, self.hidden),
            Role::MlpDownBias => (Kind::Vector, 1, self.dim),
            Role::AttentionOutNorm | Role::MlpOutNorm => (Kind::Vector, 1, self.dim),
            Role::QueryNorm if self.norms_by_head() => (Kind::Vector, 1, self.q_width()),
            Role::KeyNorm if self.norms_by_head() => (Kind::Vector, 1, self.kv_width()),
            Role::QueryNorm | Role::KeyNorm | Role::QueryNormBias | Role::KeyNormBias => {
                (Kind::Vector, 1, self.head_dim)
            }
            Role::HeadBias => (Kind::Vector, 1, self.vocab),
            Role::FinalNorm | Role::FinalNormBias => (Kind::Vector, 1, self.dim),
            Role::TokenTypeEmbedding => (Kind::Matrix, self.token_types, self.dim),
            Role::EmbeddingNorm | Role::EmbeddingNormBias => (Kind::Vector, 1, self.dim),
            Role::HeadTransform => (Kind::Matrix, self.dim, self.dim),
            Role::HeadTransformBias => (Kind::Vector, 1, self.dim),
            Role::HeadTransformNorm | Role::HeadTransformNormBias => (Kind::Vector, 1, self.dim),
        };
        Some(TensorSpec { role, layer, kind, rows, cols })
    }

    /// Every tensor of the record, in the one order in which a blob holds them.
    pub fn tensors(&self) -> Tensors<'_> {
        Tensors { arch: self, at: 0, layer: 0 }
    }

    /// Number of trained parameters: every tensor but those that are computed.
    pub fn parameters(&self) -> u64 {
        self.tensors().filter(|t| t.role.is_trained()).map(|t| u64::from(t.rows) * u64::from(t.cols)).sum()
    }
}

/// What [`Arch::tensors`] gives.
#[derive(Clone, Debug)]
pub struct Tensors<'a> {
    arch: &'a Arch,
    /// Index of the next role, of those before the layers, then of a layer, then behind them.
    at: usize,
    layer: u32,
}

impl Iterator for Tensors<'_> {
    type Item = TensorSpec;

    fn next(&mut self) -> Option<TensorSpec> {
        loop {
            let at = self.at;
            let in_layer = at.checked_sub(MAX_BEFORE);
            let role = match in_layer {
                None => BEFORE.get(at),
                Some(i) => LAYER.get(i).or_else(|| AFTER.get(i - MAX_LAYER)),
            };
            let spec = self.arch.tensor(*role?, self.layer);
            self.at += 1;
            if in_layer == Some(MAX_LAYER - 1) {
                // The next layer, or what is behind the last.
                self.layer += 1;
                if self.layer < self.arch.layers {
                    self.at = MAX_BEFORE;
                } else {
                    self.layer = 0;
                }
            }
            if spec.is_some() {
                return spec;
            }
        }
    }
}

/// Where tensors stand in [`Arch::tensors`]: counted once, because a token asks for all of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    /// Tensors before the layers.
    before: u32,
    /// Tensors of a layer.
    layer: u32,
}

impl Order {
    pub(crate) fn new(arch: &Arch) -> Self {
        let present = |roles: &[Role]| roles.iter().map(|&role| u32::from(arch.has(role))).sum();
        Self { before: present(&BEFORE), layer: present(&LAYER) }
    }

    /// Index of the first tensor of layer `layer`.
    pub(crate) fn first_index(&self, layer: u32) -> u32 {
        self.before + layer * self.layer
    }

    /// Indices of the tensors among which that role's is, if there is one: roles are numbered by where they stand.
    pub(crate) fn range(&self, arch: &Arch, role: Role, layer: u32) -> Range<u32> {
        let behind = self.first_index(arch.layers);
        match role as u16 {
            ..16 => 0..self.before,
            16..48 if layer < arch.layers => self.first_index(layer)..self.first_index(layer + 1),
            16..48 => 0..0,
            48.. => behind..behind + MAX_AFTER as u32,
        }
    }
}

/// The first of `all`: roles that a feature adds stand last in their lists, and are no part of runtimes without it.
const fn first<const N: usize>(all: &[Role]) -> [Role; N] {
    let mut roles = [Role::TokenEmbedding; N];
    let mut i = 0;
    while i < N {
        roles[i] = all[i];
        i += 1;
    }
    roles
}

const BEFORE: [Role; MAX_BEFORE] = first(&[
    Role::TokenEmbedding,
    Role::PositionEmbedding,
    Role::RopeFrequencies,
    Role::WindowRopeFrequencies,
    Role::AlibiSlopes,
    Role::TokenTypeEmbedding,
    Role::EmbeddingNorm,
    Role::EmbeddingNormBias,
    Role::RelativeBias,
]);
const LAYER: [Role; MAX_LAYER] = first(&[
    Role::AttentionNorm,
    Role::AttentionNormBias,
    Role::Qkv,
    Role::QkvBias,
    Role::QueryNorm,
    Role::KeyNorm,
    Role::KeyMean,
    Role::AttentionOut,
    Role::AttentionOutBias,
    Role::AttentionOutNorm,
    Role::MlpNorm,
    Role::MlpNormBias,
    Role::MlpUp,
    Role::MlpUpBias,
    Role::MlpDown,
    Role::MlpDownBias,
    Role::MlpOutNorm,
    Role::QueryNormBias,
    Role::KeyNormBias,
    Role::CrossNorm,
    Role::CrossNormBias,
    Role::CrossQuery,
    Role::CrossQueryBias,
    Role::CrossKeyValue,
    Role::CrossKeyValueBias,
    Role::CrossKeyMean,
    Role::CrossOut,
    Role::CrossOutBias,
]);
const AFTER: [Role; MAX_AFTER] = first(&[
    Role::FinalNorm,
    Role::FinalNormBias,
    Role::Head,
    Role::HeadBias,
    Role::HeadTransform,
    Role::HeadTransformBias,
    Role::HeadTransformNorm,
    Role::HeadTransformNormBias,
]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Activation, Biases, Norm, Wiring};

    #[test]
    fn every_tensor_is_where_its_role_says() {
        let plain = Arch {
            vocab: 5,
            dim: 4,
            layers: 3,
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            hidden: 6,
            context: 7,
            norm: Norm::Rms,
            position: Position::Rope,
            rotary_dim: 2,
            activation: Activation::Silu,
            gated: true,
            ..Arch::PLAIN
        };
        let all = Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: true };
        let full = Arch { position: Position::Learned, rotary_dim: 0, biases: all, tied_head: false, ..plain };
        let full = Arch { head_norm: HeadNorm::Rms, output_norms: true, ..full };
        let windowed = Arch { window: 3, window_rope: true, ..plain };
        let alibi = Arch { wiring: Wiring::ParallelOneNorm, position: Position::Alibi, ..full };
        let late = Arch { window_from: 2, ..windowed };
        let biased = Arch { biases: Biases { qkv: true, ..Biases::default() }, ..plain };
        let encoder = Arch { causal: false, post_norm: true, embedding_norm: true, token_types: 2, ..full };
        let encoder = [encoder, Arch { head_transform: true, ..encoder }, Arch { embedding_norm: false, ..encoder }];
        let other_norms = [Arch { normed_residual: true, ..full }, Arch { final_norm: false, ..full }];
        let encoder = encoder.into_iter().chain(other_norms);
        let relative = Arch { position: Position::Relative, rotary_dim: 0, relative_distance: 4, ..plain };
        let bare = Arch { causal: false, headless: true, shared_embedding: true, ..relative };
        let cross = Arch { cross: true, ..relative };
        let full_cross = Arch { cross: true, head_norm: HeadNorm::None, output_norms: false, post_norm: true, ..full };
        let cross = [relative, bare, cross, full_cross].into_iter().filter(|_| CROSS);
        let head_norms = [HeadNorm::Layer, HeadNorm::LayerByHead].map(|head_norm| Arch { head_norm, ..plain });
        let archs = [plain, full, windowed, late, alibi, biased];
        for arch in archs.into_iter().chain(head_norms).chain(encoder.filter(|_| ENCODER)).chain(cross) {
            arch.validate().unwrap();
            let order = Order::new(&arch);
            for (index, spec) in (0u32..).zip(arch.tensors()) {
                assert!(order.range(&arch, spec.role, spec.layer).contains(&index), "{spec:?}");
            }
            assert!(order.range(&arch, Role::Qkv, 3).is_empty());
            assert!(order.range(&arch, Role::Qkv, u32::MAX).is_empty());
            assert_eq!(arch.tensor(Role::FinalNorm, 0).is_none(), arch.post_norm || !arch.final_norm);
        }
    }
}
