//! Training: from a text to a Hugging Face checkpoint, on a plain CPU.
//!
//! [`run`](mod@run) is a whole run; [`data`] makes examples of files; [`trainer`] is the steps; [`model`] is the
//! forward pass, which [`family`] spells out for each architecture, made of [`ops`] whose gradients candle's tape puts
//! together. What is drawn at random follows from the seed and the step's number alone, so a run that is resumed has
//! the bits of one that was never interrupted.
//!
//! A checkpoint can be fine-tuned whole, or by changes of low rank ([`parameters::LowRank`]); with the rounding of the
//! runtime or without ([`model::Rounding`]); and [`size`] finds what fits a board.
//!
//! Not for models that take a GPU to train: everything is f32 on the CPU.
//!
//! # Why candle, and why operations of its own
//!
//! A character-level GPT as nanoGPT trains it on a CPU (4 layers, width 128, 12 sequences of 64 characters), forward,
//! backward and AdamW, beside PyTorch 2.15 on the same machine. With candle's own operations a step took 459 ms on two
//! threads of an AMD EPYC (Zen 4), PyTorch's 319 ms: most of candle's time went to elementwise operations, each a pass over
//! memory. With the operations of [`ops`] that became 0.7 of PyTorch's speed on two threads. The rest was waiting: candle 0.11
//! adds gradients on a pool of threads that spin, in the way of those that work, and cores met after each of the many
//! small operations. So this is candle 0.9, which has no such pool, and each thread takes a part of the batch, forward
//! and backward ([`examples`]): 1.1 to 1.4 times PyTorch's speed on two threads of an AMD EPYC (Zen 3), 1.04 on
//! one. There burn 0.22 (backend flex, its own layers) had 0.3 of PyTorch's speed: 3,140 to 3,614 tokens a second.

pub mod architecture;
pub mod batch;
pub mod corpus;
pub mod data;
pub mod examples;
pub mod family;
pub mod folder;
pub mod log;
pub mod masking;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod pairs;
pub mod parameters;
pub mod run;
pub mod settings;
pub mod size;
pub mod tokenizers;
pub mod trainer;
pub mod vocabulary;

/// Copies a tensor's values, row-major.
fn values_of(tensor: &candle_core::Tensor) -> crate::Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
