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

use thumbformer::blob::header::Header;
use thumbformer::plan::PlanError;
use thumbformer::{Limits, Plan};

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

/// What a session needs for a model of this head, whose bytes `blob` begins with. Sources of an encoder-decoder are as
/// long as its context, or as its encoder allows.
///
/// # Errors
/// As [`Plan::for_header`].
pub const fn plan(
    header: &Header,
    limits: Limits,
    #[cfg_attr(not(feature = "cross"), allow(unused_variables, reason = "where there is no encoder"))] blob: &[u8],
) -> Result<Plan, PlanError> {
    #[cfg(feature = "cross")]
    if let Some(Ok(source)) = header.read_source(blob) {
        let longest = source.arch.context;
        let positions = if limits.context < longest { limits.context } else { longest };
        return match Plan::for_header(header, limits) {
            Ok(plan) => plan.with_source(&source, positions),
            error => error,
        };
    }
    Plan::for_header(header, limits)
}
