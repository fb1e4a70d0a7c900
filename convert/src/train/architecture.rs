//! What is trained: a family's sizes, as Hugging Face's config.json spells them.

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ops::Activation;
use crate::config::Config;
use crate::source::{Overrides, Source};
use crate::{Error, Result};

/// A model family that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// RoPE, RMSNorm, SwiGLU, grouped-query attention, no biases
    Llama,
    /// Learned positions, LayerNorm, GELU, biases
    Gpt2,
}

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The family.
    pub preset: Preset,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; as many as heads in a GPT-2.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub hidden: usize,
    /// Most tokens of a sequence.
    pub context: usize,
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
    /// Blocks [default: 4]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Attention heads, of dim / heads features each [default: 4]
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Heads of keys and values in a llama, a divisor of the heads [default: half of the heads, or 1]
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Width of the MLP [default: 4·dim; in a llama 8/3·dim, rounded up to a multiple of 32]
    #[arg(long, value_name = "N")]
    pub hidden: Option<usize>,
    /// Most tokens of a sequence [default: 128]
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
        let kv_heads = match preset {
            Preset::Llama => sizes.kv_heads.unwrap_or(if heads.is_multiple_of(2) { heads / 2 } else { heads }),
            Preset::Gpt2 => sizes.kv_heads.unwrap_or(heads),
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || (preset == Preset::Gpt2 && kv_heads != heads) {
            let expected = if preset == Preset::Gpt2 { "as many in a gpt2" } else { "a divisor" };
            return refuse("kv-heads", kv_heads, format!("{expected}: there are {heads} heads"));
        }
        if preset == Preset::Llama && !head_dim.is_multiple_of(2) {
            return refuse("heads", heads, format!("heads of an even width, {dim} / {heads} is {head_dim}"));
        }
        let hidden = sizes.hidden.unwrap_or(match preset {
            Preset::Llama => (8 * dim).div_ceil(3).next_multiple_of(32),
            Preset::Gpt2 => 4 * dim,
        });
        let (layers, context) = (sizes.layers.unwrap_or(4), sizes.context.unwrap_or(128));
        for (option, size) in [("layers", layers), ("hidden", hidden)] {
            if size == 0 {
                return refuse(option, size, "at least 1".into());
            }
        }
        if context < 2 {
            return refuse("context", context, "at least 2".into());
        }
        let activation = match preset {
            Preset::Llama => Activation::Silu,
            Preset::Gpt2 => Activation::GeluTanh,
        };
        let (norm_eps, rope_theta, tied) = (1e-5, 10_000.0, true);
        Ok(Self {
            preset,
            vocab,
            dim,
            layers,
            heads,
            kv_heads,
            head_dim,
            hidden,
            context,
            norm_eps,
            rope_theta,
            activation,
            tied,
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
            return Self::read_nanogpt(config);
        }
        match config.string("model_type")? {
            Some("llama") => Self::read_llama(config),
            Some("gpt2") => Self::read_gpt2(config),
            _ => Err(config.error("model_type", "llama or gpt2, the families that can be trained")),
        }
    }

    fn read_llama(config: &Config) -> Result<Self> {
        let size = |field: &str| config.required(field).map(|n| n as usize);
        let (dim, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        for field in ["attention_bias", "mlp_bias"] {
            if config.boolean(field)?.unwrap_or(false) {
                return Err(config.error(field, "false: biases of a llama are not trained here"));
            }
        }
        let rope = config.object("rope_parameters")?;
        let scaling = config.object("rope_scaling")?;
        for rope in [&rope, &scaling].into_iter().flatten() {
            for field in ["rope_type", "type"] {
                if rope.string(field)?.is_some_and(|kind| kind != "default") {
                    return Err(rope.error(field, "default: scaled RoPE is not trained here"));
                }
            }
        }
        let of_rope = rope.as_ref().map(|rope| rope.number("rope_theta")).transpose()?.flatten();
        if config.string("hidden_act")?.is_some_and(|name| name != "silu") {
            return Err(config.error("hidden_act", "silu"));
        }
        Self {
            preset: Preset::Llama,
            vocab: size("vocab_size")?,
            dim,
            layers: size("num_hidden_layers")?,
            heads,
            kv_heads: config.integer("num_key_value_heads")?.map_or(heads, |n| n as usize),
            head_dim: config.integer("head_dim")?.map_or(dim / heads.max(1), |n| n as usize),
            hidden: size("intermediate_size")?,
            context: size("max_position_embeddings")?,
            norm_eps: config.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: of_rope.or(config.number("rope_theta")?).unwrap_or(10_000.0),
            activation: Activation::Silu,
            tied: config.boolean("tie_word_embeddings")?.unwrap_or(false),
        }
        .checked(config, "num_attention_heads", "num_key_value_heads")
    }

    fn read_gpt2(config: &Config) -> Result<Self> {
        let size = |field: &str| config.required(field).map(|n| n as usize);
        let (dim, heads) = (size("n_embd")?, size("n_head")?);
        for (field, usual) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
            if config.boolean(field)?.unwrap_or(usual) != usual {
                return Err(config.error(field, format!("{usual}: the variant is not trained here")));
            }
        }
        let activation = match config.string("activation_function")? {
            None | Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("gelu") => Activation::Gelu,
            Some("relu") => Activation::Relu,
            Some(_) => return Err(config.error("activation_function", "gelu_new, gelu or relu")),
        };
        Self {
            preset: Preset::Gpt2,
            vocab: size("vocab_size")?,
            dim,
            layers: size("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: dim / heads.max(1),
            hidden: config.integer("n_inner")?.map_or(4 * dim, |n| n as usize),
            context: size("n_positions")?,
            norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-5),
            rope_theta: 0.0,
            activation,
            tied: config.boolean("tie_word_embeddings")?.unwrap_or(true),
        }
        .checked(config, "n_head", "n_head")
    }

    /// A GPT-2 with the exact GELU.
    fn read_nanogpt(config: &Config) -> Result<Self> {
        let size = |field: &str| config.required(field).map(|n| n as usize);
        let (dim, heads) = (size("n_embd")?, size("n_head")?);
        Self {
            preset: Preset::Gpt2,
            vocab: size("vocab_size")?,
            dim,
            layers: size("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: dim / heads.max(1),
            hidden: 4 * dim,
            context: size("block_size")?,
            norm_eps: 1e-5,
            rope_theta: 0.0,
            activation: Activation::Gelu,
            tied: true,
        }
        .checked(config, "n_head", "n_head")
    }

    fn checked(self, config: &Config, heads: &str, kv_heads: &str) -> Result<Self> {
        let odd = self.preset == Preset::Llama && !self.head_dim.is_multiple_of(2);
        if self.heads == 0 || self.head_dim == 0 || odd {
            return Err(config.error(heads, "heads of some features, of an even number of them in a llama"));
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(config.error(kv_heads, format!("a divisor of {}", self.heads)));
        }
        Ok(self)
    }

    /// The config.json that transformers and `convert` read. `end` is the token that ends a text, where there is one.
    pub fn config(&self, end: Option<u32>) -> Value {
        let activation = match self.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::Silu => "silu",
            Activation::Relu => "relu",
        };
        match self.preset {
            Preset::Llama => json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": self.vocab,
                "hidden_size": self.dim,
                "intermediate_size": self.hidden,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_dim,
                "max_position_embeddings": self.context,
                "hidden_act": activation,
                "rms_norm_eps": self.norm_eps,
                "rope_theta": self.rope_theta,
                "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
                "attention_bias": false,
                "mlp_bias": false,
                "tie_word_embeddings": self.tied,
                "bos_token_id": null,
                "eos_token_id": end,
                "dtype": "float32",
            }),
            Preset::Gpt2 => json!({
                "architectures": ["GPT2LMHeadModel"],
                "model_type": "gpt2",
                "vocab_size": self.vocab,
                "n_embd": self.dim,
                "n_inner": self.hidden,
                "n_layer": self.layers,
                "n_head": self.heads,
                "n_positions": self.context,
                "activation_function": activation,
                "layer_norm_epsilon": self.norm_eps,
                "tie_word_embeddings": self.tied,
                "bos_token_id": null,
                "eos_token_id": end,
                "dtype": "float32",
            }),
        }
    }
}
