//! int8 transformers in `no_std` Rust: the same bits on a microcontroller and on the desktop.
#![no_std]
#![deny(unsafe_code)]

pub mod arch;
pub mod tokenizer;
