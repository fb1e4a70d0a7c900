//! Training: from a text to a Hugging Face checkpoint, on a plain CPU.
//!
//! [`run`](mod@run) is a whole run; [`trainer`] is its steps; [`model`] is the forward pass, made of [`ops`] whose gradients
//! candle's tape puts together. What is drawn at random follows from the seed and the step's number alone, so a run that is
//! resumed has the bits of one that was never interrupted.
//!
//! Not for models that take a GPU to train: everything is f32 on the CPU.
//!
//! # Why candle, and why operations of its own
//!
//! A character-level GPT as nanoGPT trains it on a CPU (4 layers, width 128, 12 sequences of 64 characters), forward,
//! backward and AdamW on two busy cores: candle's own operations took 459 ms for the best of 40 steps, PyTorch 2.15 319 ms
//! for the best of 60. Most of candle's time goes to elementwise operations, each a pass over memory on one core. burn's
//! ndarray backend was not measured: it composes norms, softmax and cross-entropy of such operations too, takes twice
//! candle's dependencies, and its operations with gradients of one's own are generic over backends that are of no use here.

pub mod architecture;
pub mod batch;
pub mod corpus;
pub mod examples;
pub mod folder;
pub mod log;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod pairs;
pub mod parameters;
pub mod run;
pub mod settings;
pub mod trainer;
pub mod vocabulary;

/// Copies a tensor's values, row-major.
fn values_of(tensor: &candle_core::Tensor) -> crate::Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
