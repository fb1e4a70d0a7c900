//! What the tests that cross crates share: golden checkpoints, models of awkward shapes, sessions in dirty buffers,
//! and damage to blobs.
//!
//! The tests themselves are in `tests/`. Nothing here computes an expected value.
#![deny(unsafe_code)]

pub mod checkpoints;
pub mod damage;
pub mod sessions;
pub mod shapes;
pub mod tiny;
