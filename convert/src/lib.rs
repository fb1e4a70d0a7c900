//! Turns trained transformers into int8 blobs for the `thumbformer` runtime, and runs and measures them.
//!
//! Data flows one way: checkpoint → family → architecture record and named f32 tensors ([`recipe::Recipe`]) →
//! quantize and pack → blob.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod family;
pub mod recipe;
pub mod source;
pub mod tokenizer;

pub use error::{Error, Result};
