//! int8 transformers in `no_std` Rust: the same bits on a microcontroller and on the desktop.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod arch;
pub mod blob;
mod cache;
pub mod decode;
mod digest;
#[allow(unsafe_code)]
pub mod kernel;
pub mod layer;
pub mod math;
pub mod matrix;
pub mod packing;
pub mod plan;
pub mod session;
pub mod tokenizer;
pub mod workers;

pub use blob::{Aligned, BlobError, Model};
pub use digest::Digest;
pub use kernel::Backend;
pub use plan::{Limits, Plan};
pub use session::{Session, SessionError};
