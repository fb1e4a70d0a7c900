//! What the demonstration is made of: the board, the model, the buffers of its session, and how all that is measured.
//!
//! Nothing here knows a model's size: it comes from the file, when the firmware is built or, with the feature `alloc`, when
//! it starts. An application of its own needs little of this; `examples/minimal.rs` does without.
#![no_std]

// Linked for the critical section of this single core, which loggers take.
use cortex_m as _;

pub mod board;
#[cfg_attr(feature = "alloc", path = "buffers/heap.rs")]
#[cfg_attr(not(feature = "alloc"), path = "buffers/fixed.rs")]
pub mod buffers;
pub mod clock;
mod fault;
pub mod input;
pub mod memory;
mod memory_functions;
#[cfg_attr(feature = "model-in-flash", path = "model/in_flash.rs")]
#[cfg_attr(not(feature = "model-in-flash"), path = "model/embedded.rs")]
pub mod model;

use thumbformer::Limits;

/// A number of the build script.
const fn built_in(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("the build script gives a number"),
    }
}

/// Positions of a session; with `model-in-flash` 0 for as many as the model has.
pub const CONTEXT: u32 = built_in(env!("THUMBFORMER_CONTEXT"));

/// What the build chose for a model of so many positions.
pub const fn limits(model_context: u32) -> Limits {
    Limits::new(if CONTEXT == 0 { model_context } else { CONTEXT }, built_in(env!("THUMBFORMER_CHUNK")))
}
