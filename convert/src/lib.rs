//! Turns trained transformers into int8 blobs for the `thumbformer` runtime, and runs and measures them.
//!
//! Data flows one way: checkpoint → family → architecture record and named f32 tensors ([`recipe::Recipe`]) →
//! quantize and pack → blob.
#![deny(unsafe_code)]

pub mod accuracy;
pub mod boards;
pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod encode;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod family;
pub mod generate;
pub mod grammar;
pub mod mapped;
pub mod memory;
pub mod output;
pub mod pipeline;
pub mod quantize;
pub mod random;
pub mod recipe;
pub mod reference;
pub mod sentence;
pub mod source;
pub mod synthetic;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
pub mod writer;

pub use error::{Error, Result};
