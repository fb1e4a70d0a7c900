//! Training: steps against PyTorch's, and the command as users meet it.

#[path = "../common/mod.rs"]
mod common;

mod command;
mod fitting;
mod low_rank;
mod rounding;
mod steps;
