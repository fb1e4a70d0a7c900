//! The architecture record: what model families differ in, as a dozen small fields and enums.
//!
//! A converter fills one [`Arch`] from a family's configuration; the runtime and the f32 reference both execute it, and
//! neither ever learns a family's name. From the record follow every tensor's role and shape ([`Arch::tensors`]), the
//! memory plan ([`crate::plan`]) and the forward pass ([`crate::session`]). The record holds no weights and decides
//! nothing about quantization.
//!
//! The block diagram it describes, for a token sequence `t` at positions `p`:
//!
//! ```text
//! x = TokenEmbedding[t] · embedding_scale  (+ PositionEmbedding[p]   if position is Learned)
//!                                          (+ TokenTypeEmbedding[·]  if there are token types)
//! x = norm(x)                                      if embedding_norm
//! for each layer:
//!     y = x                                        the layer's input, for the MLP if parallel
//!     x = x + Attention(norm(x))                   heads of queries and keys normalised if head_norm, rotated by RoPE
//!                                                  if position is Rope; scores shaped by score_cap, ALiBi, relative
//!                                                  positions and window
//!     x = x + CrossAttention(norm(x))              if cross: keys and values are the encoder's output
//!     x = x + Mlp(norm(y if parallel else x))      down(act(up(x)))  or  down(act(gate(x)) * up(x))
//! x = norm(x)                                      if final_norm
//! x = norm(act(HeadTransform · x))                 if head_transform
//! logits = Head · x  (+ HeadBias)                  Head = TokenEmbedding if tied, none at all if headless; shaped by
//!                                                  logit_cap
//! ```
//!
//! What is added to x goes through a norm of its own before that if output_norms.
//!
//! With `post_norm` a layer is `x = norm(x + Attention(x))` and `x = norm(x + Mlp(x))` instead, and nothing is
//! normalised behind the last one. With `normed_residual` it is `x = norm(x)`, `x = x + Attention(x)`, and `x =
//! norm(x)`, `x = x + Mlp(x)`: the residual stream itself is normalised. Attention sees a token and those before it if
//! `causal`, else the whole sequence: such a model is an encoder, which has no next token to predict and is given a
//! text at once.
//!
//! A record with `cross` is the decoder of a model that has an encoder too (Vaswani et al., 2017, arXiv:1706.03762). The
//! encoder has a record of its own, without a head; its output, for every token of a source text, is what all layers of the
//! decoder attend to beside their own tokens.

use core::ops::Range;

use crate::feature::Feature;

/// What a layer's normalisation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Norm {
    /// LayerNorm: subtract the mean, divide by the standard deviation, scale, shift (Ba et al., 2016, arXiv:1607.06450).
    Layer = 0,
    /// RMSNorm: divide by the root mean square, scale (Zhang and Sennrich, 2019, arXiv:1910.07467).
    Rms = 1,
}

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Position {
    /// A learned vector is added to each token's embedding.
    Learned = 0,
    /// Rotary embedding of queries and keys (Su et al., 2021, arXiv:2104.09864). Dimension `i` of a head is paired with
    /// `i + rotary_dim/2`; the frequencies stand in the blob, so every scaling rule is the converter's business.
    Rope = 1,
    /// Attention with linear biases (ALiBi; Press et al., 2022, arXiv:2108.12409): a score loses its head's slope for every
    /// position between query and key. The slopes stand in the blob.
    Alibi = 2,
    /// A score gains a value that depends on its head and on how far key and query are apart (T5; Raffel et al., 2019,
    /// arXiv:1910.10683). The values stand in the blob, one for each distance up to [`Arch::relative_distance`], so how
    /// distances share them is the converter's business.
    Relative = 3,
}

/// The MLP's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activation {
    /// `x·Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel, 2016, arXiv:1606.08415).
    Gelu = 0,
    /// The same paper's tanh approximation, GPT-2's `gelu_new`.
    GeluTanh = 1,
    /// `x·sigmoid(x)`, also called swish.
    Silu = 2,
    /// `max(x, 0)`.
    Relu = 3,
}

/// How attention and MLP of a layer follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wiring {
    /// The MLP reads what attention left.
    Sequential = 0,
    /// Both read the layer's input, each through its norm, and are added to it together (Wang and Komatsuzaki, 2021).
    Parallel = 1,
    /// The same with one norm for both.
    ParallelOneNorm = 2,
}

/// Which linear layers and norms carry a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The shift of every norm.
    pub norm: bool,
    /// Query, key and value projections.
    pub qkv: bool,
    /// The attention's output projection.
    pub attention_out: bool,
    /// Both MLP projections (all three if gated).
    pub mlp: bool,
    /// The logits.
    pub head: bool,
}

/// The architecture record. See the [module](self) for the network it describes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arch {
    /// Rows of the token embedding and number of logits.
    pub vocab: u32,
    /// Width of the residual stream.
    pub dim: u32,
    /// Number of layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; a divisor of `heads` (grouped-query attention, Ainslie et al., 2023, arXiv:2305.13245).
    pub kv_heads: u32,
    /// Width of one head; need not be `dim / heads`.
    pub head_dim: u32,
    /// Width of the MLP between its projections.
    pub hidden: u32,
    /// Positions the model can attend to at most.
    pub context: u32,
    /// Norm of every layer and of the final one.
    pub norm: Norm,
    /// Added to the variance (or mean square) under the root.
    pub norm_eps: f32,
    /// RMSNorm of every query and key head before it is rotated (Henry et al., 2020, arXiv:2010.04245, as Qwen3 has it).
    pub head_norm: bool,
    /// What the MLP reads.
    pub wiring: Wiring,
    /// Factor of the token embedding, usually 1 or `√dim`.
    pub embedding_scale: f32,
    /// Each sublayer's sum is normalised instead of its input (Vaswani et al., 2017, arXiv:1706.03762), and the last
    /// layer's output is not.
    pub post_norm: bool,
    /// What a sublayer's norm gives takes the residual stream's place: a sublayer's output is added to its normalised
    /// input (an option of BLOOM's; BigScience, 2022, arXiv:2211.05100).
    pub normed_residual: bool,
    /// Norms before sublayers are followed by one behind the last layer.
    pub final_norm: bool,
    /// The sum of the embeddings is normalised.
    pub embedding_norm: bool,
    /// Kinds of tokens that have a vector of their own, such as BERT's first and second text: at most 255, 0 for none.
    pub token_types: u32,
    /// A token sees itself and those before it, and so predicts the next one; else it sees all of them (BERT: Devlin et
    /// al., 2018, arXiv:1810.04805).
    pub causal: bool,
    /// Position scheme.
    pub position: Position,
    /// Leading dimensions of each head that RoPE rotates: even, at most `head_dim`; 0 without RoPE.
    pub rotary_dim: u32,
    /// MLP non-linearity.
    pub activation: Activation,
    /// Gated MLP (GLU variants, Shazeer, 2020, arXiv:2002.05202): `down(act(gate(x)) * up(x))`.
    pub gated: bool,
    /// Which layers carry a bias.
    pub biases: Biases,
    /// The head shares the token embedding's matrix.
    pub tied_head: bool,
    /// Before the head come a linear layer `dim` wide, the MLP's non-linearity and a norm.
    pub head_transform: bool,
    /// There are no logits, only the last layer's output.
    pub headless: bool,
    /// Factor of the attention scores before softmax, usually `1/√head_dim`.
    pub attention_scale: f32,
    /// A score `s`, scaled, becomes `cap·tanh(s/cap)` (Gemma 2, 2024, arXiv:2408.00118); 0 for none.
    pub score_cap: f32,
    /// The same for logits.
    pub logit_cap: f32,
    /// Positions that a query sees, its own and those before it (Mistral; Jiang et al., 2023, arXiv:2310.06825); 0 for all.
    /// Layers with a window hold no more positions than they need, but [`Arch::context`] bounds a sequence all the same.
    pub window: u32,
    /// The first layer with the window.
    pub window_from: u32,
    /// From there on, every so-many-th layer sees all positions in spite of the window; 0 for none.
    pub global_every: u32,
    /// Layers with a window rotate by frequencies of their own.
    pub window_rope: bool,
    /// Norms of the outputs of attention and MLP, before they are added to the residual stream.
    pub output_norms: bool,
    /// The decoder of an encoder-decoder: each layer also attends to what the encoder made of a source text.
    pub cross: bool,
    /// The encoder of an encoder-decoder that takes its token embedding from the decoder.
    pub shared_embedding: bool,
    /// With relative positions: from which distance on all keys are equally far; else 0.
    pub relative_distance: u32,
}

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
    /// Vector `head_dim`: for each query head.
    QueryNorm = 29,
    /// Vector `head_dim`: for each key head.
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

/// Largest width the format allows for `dim`, `hidden` and `heads·head_dim`: an int8 dot product of one row stays in i32.
pub const MAX_WIDTH: u32 = 65_536;
/// Largest `head_dim`: an int8 dot product of one head converts to f32 exactly.
pub const MAX_HEAD_DIM: u32 = 1_024;
/// Largest vocabulary.
pub const MAX_VOCAB: u32 = 1 << 22;
/// Largest context.
pub const MAX_CONTEXT: u32 = 1 << 20;
/// Largest number of token types.
pub const MAX_TOKEN_TYPES: u32 = 255;
/// Largest distance that relative positions tell apart: the vector of all heads' stays below 2³² values.
pub const MAX_RELATIVE_DISTANCE: u32 = 16_384;
/// Largest frequency of a rotated pair, in radians per position. The largest angle is 2²⁸ then: sine and cosine of larger
/// ones take arithmetic of a thousand bits, and rotate by chance, because an f32 there is off by whole turns.
pub const MAX_FREQUENCY: f32 = 256.0;
/// Largest number of layers.
pub const MAX_LAYERS: u32 = 4_096;

/// Which rule an [`Arch`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ArchError {
    /// The offending field.
    pub field: &'static str,
    /// What holds for it in a valid record.
    pub rule: &'static str,
}

impl core::fmt::Display for ArchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "architecture field `{}` must be {}", self.field, self.rule)
    }
}

impl core::error::Error for ArchError {}

/// Whether this runtime computes what models had before RMSNorm, gates and rotary positions.
pub(crate) const CLASSIC: bool = cfg!(feature = "classic");

/// Whether this runtime computes what scores, heads and outputs of some models go through.
pub(crate) const SHAPING: bool = cfg!(feature = "shaping");

/// Whether this runtime computes what encoders need.
pub(crate) const ENCODER: bool = cfg!(feature = "encoder");

/// Whether this runtime computes what encoder-decoders need.
pub(crate) const CROSS: bool = cfg!(feature = "cross");

/// Tensors before, in each, and after the layers: the longest lists that any record can call for.
const MAX_BEFORE: usize = if CROSS {
    9
} else if ENCODER {
    8
} else {
    5
};
const MAX_LAYER: usize = if CROSS { 26 } else { 17 };
const MAX_AFTER: usize = if ENCODER { 8 } else { 4 };

/// [`Arch::window`], and the layers that have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub(crate) window: u32,
    pub(crate) from: u32,
    pub(crate) global_every: u32,
}

impl Windows {
    /// Whether that layer has it.
    pub(crate) const fn has(self, layer: u32) -> bool {
        if self.window == 0 || layer < self.from {
            return false;
        }
        self.global_every == 0 || !(layer - self.from + 1).is_multiple_of(self.global_every)
    }

    /// How many of the first `layers` layers have it.
    pub(crate) const fn before(self, layers: u32) -> u32 {
        if self.window == 0 || layers <= self.from {
            return 0;
        }
        let layers = layers - self.from;
        match layers.checked_div(self.global_every) {
            Some(global) => layers - global,
            None => layers,
        }
    }
}

impl Arch {
    /// A record with every option at its plainest: LayerNorm without biases, learned positions, a plain GELU MLP, a tied
    /// head, scores and embeddings as they are; and every size 1. Records are written as what differs from it, so they
    /// need not name what they do without.
    pub const PLAIN: Arch = Arch {
        vocab: 1,
        dim: 1,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        hidden: 1,
        context: 1,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        head_norm: false,
        wiring: Wiring::Sequential,
        embedding_scale: 1.0,
        post_norm: false,
        normed_residual: false,
        final_norm: true,
        embedding_norm: false,
        token_types: 0,
        causal: true,
        position: Position::Learned,
        rotary_dim: 0,
        activation: Activation::Gelu,
        gated: false,
        biases: Biases { norm: false, qkv: false, attention_out: false, mlp: false, head: false },
        tied_head: true,
        head_transform: false,
        headless: false,
        attention_scale: 1.0,
        score_cap: 0.0,
        logit_cap: 0.0,
        window: 0,
        window_from: 0,
        global_every: 0,
        window_rope: false,
        output_norms: false,
        cross: false,
        shared_embedding: false,
        relative_distance: 0,
    };

    /// Whether attention and MLP read the same.
    pub const fn is_parallel(&self) -> bool {
        CLASSIC && !matches!(self.wiring, Wiring::Sequential)
    }

    /// Whether norms have a shift.
    #[inline(always)]
    const fn shifts(&self) -> bool {
        CLASSIC && self.biases.norm
    }

    /// Whether attention and MLP have one norm.
    #[inline(always)]
    const fn has_one_norm(&self) -> bool {
        CLASSIC && matches!(self.wiring, Wiring::ParallelOneNorm)
    }

    /// Which layers have a window.
    pub(crate) const fn windows(&self) -> Windows {
        let window = if SHAPING { self.window } else { 0 };
        Windows { window, from: self.window_from, global_every: self.global_every }
    }

    /// Whether queries of that layer see the last [`Arch::window`] positions only.
    pub const fn windowed(&self, layer: u32) -> bool {
        self.windows().has(layer)
    }

    /// How many layers see the last [`Arch::window`] positions only.
    pub const fn windowed_layers(&self) -> u32 {
        self.windows().before(self.layers)
    }

    /// Whether scores go through more than a scale.
    pub const fn shapes_scores(&self) -> bool {
        self.window > 0 || self.score_cap != 0.0 || matches!(self.position, Position::Alibi | Position::Relative)
    }

    /// Checks every field's range, so that no later size computation overflows on a 64-bit machine and 32-bit ones can
    /// report a model that is too large for them.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub const fn validate(&self) -> Result<(), ArchError> {
        macro_rules! rule {
            ($ok:expr, $field:literal, $rule:literal) => {
                if !$ok {
                    return Err(ArchError { field: $field, rule: $rule });
                }
            };
        }
        rule!(self.vocab >= 1 && self.vocab <= MAX_VOCAB, "vocab", "in 1..=4194304");
        rule!(self.dim >= 1 && self.dim <= MAX_WIDTH, "dim", "in 1..=65536");
        rule!(self.layers >= 1 && self.layers <= MAX_LAYERS, "layers", "in 1..=4096");
        rule!(self.heads >= 1 && self.heads <= MAX_WIDTH, "heads", "in 1..=65536");
        rule!(self.head_dim >= 1 && self.head_dim <= MAX_HEAD_DIM, "head_dim", "in 1..=1024");
        rule!(
            self.heads as u64 * self.head_dim as u64 <= MAX_WIDTH as u64,
            "heads",
            "such that heads x head_dim <= 65536"
        );
        rule!(
            self.kv_heads >= 1 && self.kv_heads <= self.heads && self.heads.is_multiple_of(self.kv_heads),
            "kv_heads",
            "a divisor of heads"
        );
        rule!(self.hidden >= 1 && self.hidden <= MAX_WIDTH, "hidden", "in 1..=65536");
        rule!(self.context >= 1 && self.context <= MAX_CONTEXT, "context", "in 1..=1048576");
        rule!(self.norm_eps.is_finite() && self.norm_eps >= 0.0, "norm_eps", "finite and not negative");
        rule!(self.embedding_scale.is_finite() && self.embedding_scale > 0.0, "embedding_scale", "finite and positive");
        rule!(self.attention_scale.is_finite() && self.attention_scale > 0.0, "attention_scale", "finite and positive");
        rule!(self.score_cap.is_finite() && self.score_cap >= 0.0, "score_cap", "finite and not negative");
        rule!(self.logit_cap.is_finite() && self.logit_cap >= 0.0, "logit_cap", "finite and not negative");
        rule!(self.window <= MAX_CONTEXT, "window", "at most 1048576");
        rule!(!self.output_norms || matches!(self.norm, Norm::Rms), "output_norms", "unset without RMSNorm");
        if SHAPING {
            rule!(
                if self.window > 0 { self.window_from < self.layers } else { self.window_from == 0 },
                "window_from",
                "a layer, and 0 without a window"
            );
        }
        rule!(self.window > 0 || self.global_every == 0, "global_every", "0 without a window");
        rule!(
            !self.window_rope || (self.window > 0 && matches!(self.position, Position::Rope)),
            "window_rope",
            "unset without a window and RoPE"
        );
        rule!(
            self.rotary_dim.is_multiple_of(2) && self.rotary_dim <= self.head_dim,
            "rotary_dim",
            "even and at most head_dim"
        );
        rule!(
            matches!(self.position, Position::Rope) == (self.rotary_dim > 0),
            "rotary_dim",
            "positive with RoPE and 0 without"
        );
        if ENCODER {
            rule!(self.token_types <= MAX_TOKEN_TYPES, "token_types", "at most 255");
            rule!(!self.causal || self.token_types == 0, "token_types", "0 in a causal model");
            rule!(!(self.post_norm && self.is_parallel()), "post_norm", "false in a parallel model");
            rule!(
                !(self.normed_residual && (self.post_norm || self.is_parallel())),
                "normed_residual",
                "false in a parallel model, and with norms behind sublayers"
            );
            rule!(self.final_norm || !self.post_norm, "final_norm", "true with norms behind sublayers");
            rule!(self.causal || self.window == 0, "window", "0 in an encoder");
            rule!(
                self.causal || !matches!(self.position, Position::Alibi),
                "position",
                "another than ALiBi in an encoder"
            );
            let head = !self.tied_head || self.head_transform || self.biases.head;
            rule!(
                !self.headless || !(self.causal || head),
                "headless",
                "false in a causal model, and with parts of a head"
            );
        }
        if CROSS {
            rule!(
                matches!(self.position, Position::Relative) == (self.relative_distance > 0),
                "relative_distance",
                "positive with relative positions and 0 without"
            );
            rule!(self.relative_distance <= MAX_RELATIVE_DISTANCE, "relative_distance", "at most 16384");
            let plain = !(self.is_parallel() || self.head_norm || self.output_norms);
            rule!(
                !self.cross || (self.causal && plain),
                "cross",
                "false in an encoder, in parallel layers, and with norms of heads or outputs"
            );
            rule!(!self.shared_embedding || self.headless, "shared_embedding", "false in a model with a head");
        }
        Ok(())
    }

    /// Whether a model of this record needs that Cargo feature.
    pub const fn needs(&self, feature: Feature) -> bool {
        match feature {
            Feature::Classic => {
                self.biases.norm
                    || !matches!((self.norm, self.wiring), (Norm::Rms, Wiring::Sequential))
                    || !matches!(self.activation, Activation::Silu | Activation::GeluTanh)
                    || matches!(self.position, Position::Learned)
            }
            Feature::Shaping => self.shapes_scores() || self.logit_cap != 0.0 || self.head_norm || self.output_norms,
            Feature::Encoder => {
                let norms = self.post_norm || self.normed_residual || !self.final_norm || self.embedding_norm;
                !self.causal || norms || self.head_transform
            }
            Feature::Cross => self.cross || self.shared_embedding || matches!(self.position, Position::Relative),
            Feature::Portable | Feature::Normalizers | Feature::Unigram | Feature::WordPiece => false,
        }
    }

    /// Whether the model is given a whole text at once, each token seeing all others.
    #[inline(always)]
    pub const fn is_encoder(&self) -> bool {
        ENCODER && !self.causal
    }

    /// Whether layers also attend to what an encoder made of a source text.
    #[inline(always)]
    pub const fn has_cross(&self) -> bool {
        CROSS && self.cross
    }

    /// Distances between key and query that have a value of their own, for each head.
    pub const fn relative_distances(&self) -> u32 {
        if self.causal { self.relative_distance + 1 } else { 2 * self.relative_distance + 1 }
    }

    /// Logits of a position.
    pub const fn logits(&self) -> u32 {
        if ENCODER && self.headless { 0 } else { self.vocab }
    }

    /// Whether norms stand behind sublayers.
    #[inline(always)]
    pub(crate) const fn norms_behind(&self) -> bool {
        ENCODER && self.post_norm
    }

    /// Whether norms before sublayers change the residual stream.
    #[inline(always)]
    pub(crate) const fn norms_residual(&self) -> bool {
        ENCODER && self.normed_residual
    }

    /// Whether there is a norm behind the last layer.
    #[inline(always)]
    const fn norms_output(&self) -> bool {
        !ENCODER || (self.final_norm && !self.post_norm)
    }

    /// Layers whose keys and values outlive them: an encoder is done with a layer's when the next one begins.
    pub const fn cached_layers(&self) -> u32 {
        if self.is_encoder() { 1 } else { self.layers }
    }

    /// Width of all query heads.
    pub const fn q_width(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads.
    pub const fn kv_width(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Rows of [`Role::Qkv`].
    pub const fn qkv_width(&self) -> u32 {
        self.q_width() + 2 * self.kv_width()
    }

    /// Rows of [`Role::MlpUp`].
    pub const fn up_width(&self) -> u32 {
        if self.gated { 2 * self.hidden } else { self.hidden }
    }

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
            Role::QueryNorm | Role::KeyNorm => SHAPING && self.head_norm,
            Role::AttentionOutNorm | Role::MlpOutNorm => SHAPING && self.output_norms,
            Role::Head => !self.tied_head,
            Role::HeadBias => self.biases.head,
            Role::HeadTransform | Role::HeadTransformBias | Role::HeadTransformNorm => ENCODER && self.head_transform,
            Role::HeadTransformNormBias => ENCODER && self.head_transform && self.shifts(),
            _ => true,
        }
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
            Role::QueryNorm | Role::KeyNorm => (Kind::Vector, 1, self.head_dim),
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

/// The first of `all`: roles that only encoders and encoder-decoders have stand last in their lists, and are no part of
/// other runtimes.
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
        let full = Arch { head_norm: true, output_norms: true, ..full };
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
        let full_cross = Arch { cross: true, head_norm: false, output_norms: false, post_norm: true, ..full };
        let cross = [relative, bare, cross, full_cross].into_iter().filter(|_| CROSS);
        let archs = [plain, full, windowed, late, alibi, biased];
        for arch in archs.into_iter().chain(encoder.filter(|_| ENCODER)).chain(cross) {
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

    #[cfg(feature = "shaping")]
    #[test]
    fn layers_with_a_window() {
        let windowed = |arch: Arch| {
            arch.validate().unwrap();
            (0..arch.layers).map(|layer| arch.windowed(layer)).collect::<std::vec::Vec<_>>()
        };
        let all = Arch { layers: 6, window: 3, ..Arch::PLAIN };
        assert_eq!(windowed(Arch { window: 0, ..all }), [false; 6]);
        assert_eq!(windowed(all), [true; 6]);
        assert_eq!(windowed(Arch { window_from: 4, ..all }), [false, false, false, false, true, true]);
        assert_eq!(windowed(Arch { global_every: 3, ..all }), [true, true, false, true, true, false]);
        assert_eq!(windowed(Arch { window_from: 1, global_every: 2, ..all }), [false, true, false, true, false, true]);
        for (arch, field) in [
            (Arch { window_from: 6, ..all }, "window_from"),
            (Arch { window_from: u32::MAX, ..all }, "window_from"),
            (Arch { window_from: 1, window: 0, ..all }, "window_from"),
            (Arch { global_every: 1, window: 0, ..all }, "global_every"),
        ] {
            assert_eq!(arch.validate().unwrap_err().field, field);
        }
    }

    #[cfg(feature = "encoder")]
    #[test]
    fn encoders_that_contradict_themselves_are_refused() {
        let refused = |arch: Arch, field| assert_eq!(arch.validate().unwrap_err().field, field);
        refused(Arch { token_types: 2, ..Arch::PLAIN }, "token_types");
        let encoder = Arch { causal: false, ..Arch::PLAIN };
        encoder.validate().unwrap();
        refused(Arch { token_types: 256, ..encoder }, "token_types");
        refused(Arch { post_norm: true, wiring: Wiring::Parallel, ..encoder }, "post_norm");
        refused(Arch { normed_residual: true, wiring: Wiring::Parallel, ..encoder }, "normed_residual");
        refused(Arch { normed_residual: true, post_norm: true, ..encoder }, "normed_residual");
        refused(Arch { final_norm: false, post_norm: true, ..encoder }, "final_norm");
        refused(Arch { window: 5, ..encoder }, "window");
        refused(Arch { position: Position::Alibi, ..encoder }, "position");
        let headless = Arch { headless: true, ..encoder };
        headless.validate().unwrap();
        refused(Arch { causal: true, ..headless }, "headless");
        refused(Arch { shared_embedding: true, ..encoder }, "shared_embedding");
        refused(Arch { cross: true, ..encoder }, "cross");
        refused(Arch { cross: true, wiring: Wiring::Parallel, ..Arch::PLAIN }, "cross");
        refused(Arch { relative_distance: 3, ..Arch::PLAIN }, "relative_distance");
        let relative = Arch { position: Position::Relative, ..Arch::PLAIN };
        refused(relative, "relative_distance");
        refused(Arch { relative_distance: 16_385, ..relative }, "relative_distance");
        refused(Arch { tied_head: false, ..headless }, "headless");
        refused(Arch { head_transform: true, ..headless }, "headless");
        refused(Arch { biases: Biases { head: true, ..Biases::default() }, ..headless }, "headless");
    }
}
