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

mod role;
mod rules;
mod tensors;
mod windows;

use crate::feature::Feature;

pub use role::Role;
pub use rules::{
    ArchError, MAX_CONTEXT, MAX_FREQUENCY, MAX_HEAD_DIM, MAX_LAYERS, MAX_RELATIVE_DISTANCE, MAX_TOKEN_TYPES, MAX_VOCAB,
    MAX_WIDTH,
};
pub(crate) use tensors::Order;
pub use tensors::{Kind, TensorSpec, Tensors};
pub use windows::LayerSet;
#[cfg(feature = "shaping")]
pub(crate) use windows::Windows;

/// Whether this runtime computes what models had before RMSNorm, gates and rotary positions.
pub(crate) const CLASSIC: bool = cfg!(feature = "classic");

/// Whether this runtime computes what scores, heads and outputs of some models go through.
pub(crate) const SHAPING: bool = cfg!(feature = "shaping");

/// Whether this runtime computes what encoders need.
pub(crate) const ENCODER: bool = cfg!(feature = "encoder");

/// Whether this runtime computes what encoder-decoders need.
pub(crate) const CROSS: bool = cfg!(feature = "cross");

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

/// What every query and key head goes through before it is rotated (Henry et al., 2020, arXiv:2010.04245).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HeadNorm {
    /// Nothing.
    None = 0,
    /// RMSNorm; the query heads share their weights, and the key heads theirs (Qwen3).
    Rms = 1,
    /// LayerNorm with a shift, shared in the same way (an option of Phi's).
    Layer = 2,
    /// LayerNorm without a shift; every head has its own weights (StableLM 2 12B).
    LayerByHead = 3,
}

impl HeadNorm {
    /// What it computes.
    pub const fn kind(self) -> Option<Norm> {
        match self {
            HeadNorm::None => None,
            HeadNorm::Rms => Some(Norm::Rms),
            HeadNorm::Layer | HeadNorm::LayerByHead => Some(Norm::Layer),
        }
    }
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
    /// Norm of every query and key head before it is rotated.
    pub head_norm: HeadNorm,
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
    /// The layers with the window where these two do not say it, in a model of 64 layers at most; else none.
    pub window_list: LayerSet,
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
        head_norm: HeadNorm::None,
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
        window_list: LayerSet::NONE,
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

    /// Whether scores go through more than a scale.
    pub const fn shapes_scores(&self) -> bool {
        self.window > 0 || self.score_cap != 0.0 || matches!(self.position, Position::Alibi | Position::Relative)
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
            Feature::Shaping => {
                self.shapes_scores() || self.logit_cap != 0.0 || self.head_norm.kind().is_some() || self.output_norms
            }
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
}
