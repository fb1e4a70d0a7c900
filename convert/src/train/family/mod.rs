//! The families: of each, how transformers spells its configuration and its tensors, and what it computes.
//!
//! Names and shapes are transformers', so that what is written here is read there, and by `convert`.

pub mod bert;
pub mod encoder_decoder;
pub mod gpt2;
pub mod llama;

use serde_json::Value;

use super::architecture::{Architecture, Preset};
use super::batch::Batch;
use super::model::Pass;
use super::ops::Activation;
use super::parameters::Layout;
use super::vocabulary::Marked;
use crate::Result;
use crate::config::Config;

/// A field that is a size.
fn size(config: &Config, field: &str) -> Result<usize> {
    Ok(config.required(field)? as usize)
}

/// A field that is a size where it is given.
fn size_or(config: &Config, field: &str, default: usize) -> Result<usize> {
    Ok(config.integer(field)?.map_or(default, |n| n as usize))
}

/// Refuses a variant that is not trained here: `field` must say `usual`, which is also what stands for nothing.
fn only(config: &Config, fields: &[(&str, bool)]) -> Result<()> {
    for &(field, usual) in fields {
        if config.boolean(field)?.unwrap_or(usual) != usual {
            return Err(config.error(field, format!("{usual}: the variant is not trained here")));
        }
    }
    Ok(())
}

/// A field that names an activation.
fn activation(config: &Config, field: &str, default: Activation) -> Result<Activation> {
    match config.string(field)? {
        None => Ok(default),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => Err(config.error(field, "gelu, gelu_new, silu or relu")),
    }
}

/// transformers' name of an activation.
fn name_of(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    }
}

/// The config.json that transformers and `convert` read, with the tokens that mean something.
pub fn config(a: &Architecture, marked: &Marked) -> Value {
    match a.preset {
        Preset::Llama => llama::config(a, marked),
        Preset::Gpt2 => gpt2::config(a, marked),
        Preset::Bert => bert::config(a, marked),
        Preset::EncoderDecoder => encoder_decoder::config(a, marked),
    }
}

/// The tensors that an architecture has.
pub fn layout(a: &Architecture) -> Layout {
    match a.preset {
        Preset::Llama => llama::layout(a),
        Preset::Gpt2 => gpt2::layout(a),
        Preset::Bert => bert::layout(a),
        Preset::EncoderDecoder => encoder_decoder::layout(a),
    }
}

/// Other names under which files may have a tensor.
pub fn aliases(preset: Preset, name: &str) -> Vec<String> {
    match preset {
        Preset::Llama => Vec::new(),
        Preset::Gpt2 => gpt2::aliases(name),
        Preset::Bert => bert::aliases(name),
        Preset::EncoderDecoder => encoder_decoder::aliases(name),
    }
}

/// Logits `[predictions, vocabulary]` of a batch.
///
/// # Errors
/// A batch that does not fit the model.
pub fn logits(pass: &mut Pass<'_>, batch: &Batch) -> candle_core::Result<candle_core::Tensor> {
    match pass.architecture.preset {
        Preset::Llama => llama::logits(pass, batch),
        Preset::Gpt2 => gpt2::logits(pass, batch),
        Preset::Bert => bert::logits(pass, batch),
        Preset::EncoderDecoder => encoder_decoder::logits(pass, batch),
    }
}
