//! What is trained: a family's sizes, as Hugging Face's config.json spells them.

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::family;
use super::ops::Activation;
use crate::config::Config;
use crate::source::{Overrides, Source};
use crate::{Error, Result};

/// A model family that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// RoPE, RMSNorm, SwiGLU, grouped-query attention, no biases
    Llama,
    /// Learned positions, LayerNorm, GELU, biases
    Gpt2,
    /// An encoder: learned positions, LayerNorm behind sublayers, GELU, biases
    Bert,
    /// The first transformer: sines for positions, LayerNorm behind sublayers, ReLU, biases
    EncoderDecoder,
}

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The family.
    pub preset: Preset,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Blocks; of an encoder-decoder, the encoder's.
    pub layers: usize,
    /// An encoder-decoder's blocks of the decoder.
    pub decoder_layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; as many as heads but in a LLaMA.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub hidden: usize,
    /// Most tokens of a sequence; of a source and of an answer.
    pub context: usize,
    /// Kinds of tokens that a BERT tells apart.
    pub token_types: usize,
    /// An encoder-decoder's embeddings are multiplied by √dim.
    pub scaled_embedding: bool,
    /// The norms' ε.
    pub norm_eps: f64,
    /// RoPE's base, of a LLaMA.
    pub rope_theta: f64,
    /// The MLP's activation.
    pub activation: Activation,
    /// The head is the embedding's table.
    pub tied: bool,
}

/// Sizes that the user chose; the preset's stand for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct Sizes {
    /// Width of the model [default: 128]
    #[arg(long, value_name = "N")]
    pub dim: Option<usize>,
    /// Blocks; in an encoder-decoder, of each side [default: 4]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Blocks of the decoder in an encoder-decoder [default: as many as the encoder has]
    #[arg(long, value_name = "N")]
    pub decoder_layers: Option<usize>,
    /// Attention heads, of dim / heads features each [default: 4]
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Heads of keys and values in a llama, a divisor of the heads [default: half of the heads, or 1]
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Width of the MLP [default: 4·dim; in a llama 8/3·dim, rounded up to a multiple of 32]
    #[arg(long, value_name = "N")]
    pub hidden: Option<usize>,
    /// Most tokens of a sequence; in an encoder-decoder, of a source and of an answer [default: 128]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
}

impl Architecture {
    /// The preset with the user's sizes, for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// Sizes that do not divide each other, or are zero.
    pub fn new(preset: Preset, sizes: Sizes, vocab: usize) -> Result<Self> {
        let refuse = |option: &str, found: usize, expected: String| {
            Err(Error::Usage(format!("--{option} {found}: expected {expected}")))
        };
        let dim = sizes.dim.unwrap_or(128);
        let heads = sizes.heads.unwrap_or(4);
        if heads == 0 || !dim.is_multiple_of(heads) || dim == 0 {
            return refuse("heads", heads, format!("a divisor of the width, {dim}"));
        }
        let head_dim = dim / heads;
        let default_kv_heads = match preset {
            Preset::Llama if heads.is_multiple_of(2) => heads / 2,
            _ => heads,
        };
        let kv_heads = sizes.kv_heads.unwrap_or(default_kv_heads);
        let grouped = preset == Preset::Llama;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || (!grouped && kv_heads != heads) {
            let expected = if grouped { "a divisor" } else { "as many except in a llama" };
            return refuse("kv-heads", kv_heads, format!("{expected}: there are {heads} heads"));
        }
        if preset == Preset::Llama && !head_dim.is_multiple_of(2) {
            return refuse("heads", heads, format!("heads of an even width, {dim} / {heads} is {head_dim}"));
        }
        let hidden = sizes.hidden.unwrap_or(match preset {
            Preset::Llama => (8 * dim).div_ceil(3).next_multiple_of(32),
            _ => 4 * dim,
        });
        let (layers, context) = (sizes.layers.unwrap_or(4), sizes.context.unwrap_or(128));
        let decoder_layers = match (preset, sizes.decoder_layers) {
            (Preset::EncoderDecoder, given) => given.unwrap_or(layers),
            (_, None) => 0,
            (_, Some(found)) => return refuse("decoder-layers", found, "an encoder-decoder".into()),
        };
        let both_sides = preset == Preset::EncoderDecoder;
        let mut counts = vec![("layers", layers), ("hidden", hidden)];
        counts.extend(both_sides.then_some(("decoder-layers", decoder_layers)));
        if let Some((option, size)) = counts.into_iter().find(|(_, size)| *size == 0) {
            return refuse(option, size, "at least 1".into());
        }
        if context < 2 {
            return refuse("context", context, "at least 2".into());
        }
        Ok(Self {
            preset,
            vocab,
            dim,
            layers,
            decoder_layers,
            heads,
            kv_heads,
            head_dim,
            hidden,
            context,
            token_types: if preset == Preset::Bert { 2 } else { 0 },
            scaled_embedding: both_sides,
            norm_eps: if preset == Preset::Bert { 1e-12 } else { 1e-5 },
            rope_theta: 10_000.0,
            activation: match preset {
                Preset::Llama => Activation::Silu,
                Preset::Gpt2 => Activation::GeluTanh,
                Preset::Bert => Activation::Gelu,
                Preset::EncoderDecoder => Activation::Relu,
            },
            tied: true,
        })
    }

    /// Reads the configuration of a checkpoint of a family that can be trained: its config.json, or the `model_args` in
    /// nanoGPT's ckpt.pt. `path` is a folder or a file as `convert` takes them.
    ///
    /// # Errors
    /// Another family, or a variant of these that is not trained here: the field is named.
    pub fn read(path: &Path) -> Result<Self> {
        let source = Source::find(path, &Overrides::default())?;
        let config = source.config.as_ref().ok_or_else(|| source.no_config())?;
        if source.checkpoint.model_args().is_some() {
            return family::gpt2::read_nanogpt(config);
        }
        match config.string("model_type")? {
            Some("llama") => family::llama::read(config),
            Some("gpt2") => family::gpt2::read(config),
            Some("bert") => family::bert::read(config),
            Some("marian") => family::encoder_decoder::read(config),
            _ => Err(config.error("model_type", "llama, gpt2, bert or marian, the families that can be trained")),
        }
    }

    /// Refuses heads that make no sense; the arguments name the fields that say how many there are.
    ///
    /// # Errors
    /// The field.
    pub(super) fn checked(self, config: &Config, heads: &str, kv_heads: &str) -> Result<Self> {
        let odd = self.preset == Preset::Llama && !self.head_dim.is_multiple_of(2);
        if self.heads == 0 || self.head_dim == 0 || odd {
            return Err(config.error(heads, "heads of some features, of an even number of them in a llama"));
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(config.error(kv_heads, format!("a divisor of {}", self.heads)));
        }
        Ok(self)
    }
}
