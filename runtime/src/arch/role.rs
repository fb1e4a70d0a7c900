//! What tensors are for, and what each is called.

use super::MAX_FREQUENCY;

/// What a tensor of the blob is for. Matrices are `rows × cols` as in `y = W·x`: rows are outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Role {
    /// Matrix `vocab × dim`.
    TokenEmbedding = 0,
    /// Matrix `context × dim`.
    PositionEmbedding = 1,
    /// Vector `rotary_dim / 2`: radians per position of each rotated pair, scaling rules applied; [`MAX_FREQUENCY`] at most,
    /// either way.
    RopeFrequencies = 2,
    /// Matrix `token_types × dim`.
    TokenTypeEmbedding = 3,
    /// Vector `dim`.
    EmbeddingNorm = 4,
    /// Vector `dim`.
    EmbeddingNormBias = 5,
    /// Vector `heads`: what a score loses for each position between query and key.
    AlibiSlopes = 6,
    /// Vector `rotary_dim / 2`: the same as [`Role::RopeFrequencies`], for layers with a window.
    WindowRopeFrequencies = 7,
    /// Vector of `heads` rows, one value for each distance from key to query: `relative_distance` before it to 0; in an
    /// encoder on to `relative_distance` behind it.
    RelativeBias = 8,
    /// Vector `dim`.
    AttentionNorm = 16,
    /// Vector `dim`.
    AttentionNormBias = 17,
    /// Matrix `(heads + 2·kv_heads)·head_dim × dim`: rows of all query heads, then keys, then values.
    Qkv = 18,
    /// Vector as long as `Qkv` has rows.
    QkvBias = 19,
    /// Vector `kv_heads·head_dim`: subtracted from every key after RoPE. Softmax cannot see it; int8 keys gain by it.
    KeyMean = 20,
    /// Matrix `dim × heads·head_dim`.
    AttentionOut = 21,
    /// Vector `dim`.
    AttentionOutBias = 22,
    /// Vector `dim`.
    MlpNorm = 23,
    /// Vector `dim`.
    MlpNormBias = 24,
    /// Matrix `hidden × dim`, or `2·hidden × dim` if gated: rows of the gate, then of up.
    MlpUp = 25,
    /// Vector as long as `MlpUp` has rows.
    MlpUpBias = 26,
    /// Matrix `dim × hidden`.
    MlpDown = 27,
    /// Vector `dim`.
    MlpDownBias = 28,
    /// Vector `head_dim`, for every query head; `heads·head_dim` if each has its own.
    QueryNorm = 29,
    /// Vector `head_dim`, for every key head; `kv_heads·head_dim` if each has its own.
    KeyNorm = 30,
    /// Vector `dim`.
    AttentionOutNorm = 31,
    /// Vector `dim`.
    MlpOutNorm = 32,
    /// Vector `dim`: before (or behind) attention to the source.
    CrossNorm = 33,
    /// Vector `dim`.
    CrossNormBias = 34,
    /// Matrix `heads·head_dim × dim`.
    CrossQuery = 35,
    /// Vector as long as `CrossQuery` has rows.
    CrossQueryBias = 36,
    /// Matrix `2·kv_heads·head_dim × dim`, for the encoder's output: rows of all key heads, then values.
    CrossKeyValue = 37,
    /// Vector as long as `CrossKeyValue` has rows.
    CrossKeyValueBias = 38,
    /// Vector `kv_heads·head_dim`: what [`Role::KeyMean`] is, for the source's keys.
    CrossKeyMean = 39,
    /// Matrix `dim × heads·head_dim`.
    CrossOut = 40,
    /// Vector `dim`.
    CrossOutBias = 41,
    /// Vector `head_dim`.
    QueryNormBias = 42,
    /// Vector `head_dim`.
    KeyNormBias = 43,
    /// Vector `dim`.
    FinalNorm = 48,
    /// Vector `dim`.
    FinalNormBias = 49,
    /// Matrix `vocab × dim`, absent if the head is tied.
    Head = 50,
    /// Vector `vocab`.
    HeadBias = 51,
    /// Matrix `dim × dim`.
    HeadTransform = 52,
    /// Vector `dim`.
    HeadTransformBias = 53,
    /// Vector `dim`.
    HeadTransformNorm = 54,
    /// Vector `dim`.
    HeadTransformNormBias = 55,
}

impl Role {
    /// Whether it is the weight of a norm.
    pub const fn is_norm(self) -> bool {
        use Role::{AttentionNorm, AttentionOutNorm, FinalNorm, KeyNorm, MlpNorm, MlpOutNorm, QueryNorm};
        matches!(self, AttentionNorm | QueryNorm | KeyNorm | AttentionOutNorm | MlpNorm | MlpOutNorm | FinalNorm)
            || matches!(self, Role::EmbeddingNorm | Role::HeadTransformNorm | Role::CrossNorm)
    }

    /// Whether it comes from a checkpoint; else the converter computes it.
    pub const fn is_trained(self) -> bool {
        let computed = matches!(self, Role::RopeFrequencies | Role::WindowRopeFrequencies | Role::AlibiSlopes);
        // There are fewer values than distances.
        !computed && !self.is_key_mean() && !matches!(self, Role::RelativeBias)
    }

    /// The largest absolute value that a vector of this role may hold.
    pub const fn largest(self) -> f32 {
        if matches!(self, Role::RopeFrequencies | Role::WindowRopeFrequencies) { MAX_FREQUENCY } else { f32::MAX }
    }

    /// Whether it is what keys are centred by.
    pub const fn is_key_mean(self) -> bool {
        matches!(self, Role::KeyMean | Role::CrossKeyMean)
    }

    /// The role's name as `inspect` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::TokenEmbedding => "token_embedding",
            Role::PositionEmbedding => "position_embedding",
            Role::RopeFrequencies => "rope_frequencies",
            Role::AlibiSlopes => "alibi_slopes",
            Role::WindowRopeFrequencies => "window_rope_frequencies",
            Role::RelativeBias => "relative_bias",
            Role::TokenTypeEmbedding => "token_type_embedding",
            Role::EmbeddingNorm => "embedding_norm",
            Role::EmbeddingNormBias => "embedding_norm.bias",
            Role::AttentionNorm => "attention_norm",
            Role::AttentionNormBias => "attention_norm.bias",
            Role::Qkv => "qkv",
            Role::QkvBias => "qkv.bias",
            Role::KeyMean => "key_mean",
            Role::AttentionOut => "attention_out",
            Role::AttentionOutBias => "attention_out.bias",
            Role::MlpNorm => "mlp_norm",
            Role::MlpNormBias => "mlp_norm.bias",
            Role::MlpUp => "mlp_up",
            Role::MlpUpBias => "mlp_up.bias",
            Role::MlpDown => "mlp_down",
            Role::MlpDownBias => "mlp_down.bias",
            Role::QueryNorm => "query_norm",
            Role::KeyNorm => "key_norm",
            Role::QueryNormBias => "query_norm.bias",
            Role::KeyNormBias => "key_norm.bias",
            Role::AttentionOutNorm => "attention_out_norm",
            Role::MlpOutNorm => "mlp_out_norm",
            Role::CrossNorm => "cross_norm",
            Role::CrossNormBias => "cross_norm.bias",
            Role::CrossQuery => "cross_query",
            Role::CrossQueryBias => "cross_query.bias",
            Role::CrossKeyValue => "cross_key_value",
            Role::CrossKeyValueBias => "cross_key_value.bias",
            Role::CrossKeyMean => "cross_key_mean",
            Role::CrossOut => "cross_out",
            Role::CrossOutBias => "cross_out.bias",
            Role::FinalNorm => "final_norm",
            Role::FinalNormBias => "final_norm.bias",
            Role::Head => "head",
            Role::HeadBias => "head.bias",
            Role::HeadTransform => "head_transform",
            Role::HeadTransformBias => "head_transform.bias",
            Role::HeadTransformNorm => "head_transform_norm",
            Role::HeadTransformNormBias => "head_transform_norm.bias",
        }
    }
}
