//! int8 transformers in `no_std` Rust: the same bits on a microcontroller and on the desktop.
//!
//! This crate executes a `.thumb` file, which the `convert` program makes of a trained checkpoint: the architecture, the
//! tokenizer and the int8 weights, used where they lie, in flash or in a memory map. It needs no allocator and no
//! standard library.
//!
//! ```
//! use thumbformer::{Limits, Model, Plan, Session, decode::argmax};
//!
//! # #[derive(Debug)] struct Failed;
//! # impl<T: std::error::Error> From<T> for Failed { fn from(_: T) -> Self { Failed } }
//! fn answer(blob: &[u8], request: &str) -> Result<String, Failed> {
//!     let model = Model::new(blob)?; // checks the whole file; nothing can go wrong with it afterwards
//!     let plan = Plan::for_header(model.header(), Limits::new(128, 8))?; // a const fn: firmware sizes statics with it
//!     let (mut cache, mut scratch) = (vec![0; plan.cache_bytes()], vec![0; plan.scratch_bytes()]);
//!     let mut session = Session::new(model, &plan, &mut cache, &mut scratch)?;
//!     let tokenizer = model.tokenizer().ok_or(Failed)?;
//!     let (mut workspace, mut ids) = ([0; 1024], [0; 128]);
//!     let count = tokenizer.encode_prompt(request, &mut workspace, &mut ids)?;
//!     let (mut text, mut stream) = (String::new(), tokenizer.stream(true));
//!     let mut id = argmax(session.prefill(&ids[..count])?);
//!     while !model.special().end().contains(&id) {
//!         stream.push(id, &mut text)?; // whole characters, as they come
//!         id = argmax(session.step(id)?); // `ContextFull` when no position is left
//!     }
//!     Ok(text)
//! }
//! ```
//!
//! # One result everywhere
//!
//! The same file gives the same logits, bit for bit, on every target, with every backend, at any number of threads and
//! any size of prompt chunks. int8 dot products are exact, and the float operations between them have one order
//! ([`math`]); so what was evaluated on a desk is what a device computes. [`Digest`] is how two machines compare notes.
//!
//! # Where to read on
//!
//! - [`blob`]: the file, byte by byte, and the one parser. [`packing`]: how int8 weights lie in memory.
//! - [`arch`]: what model families differ in. [`plan`]: how much memory a session needs.
//! - [`session`]: tokens in, logits out; of an encoder a whole text in, a vector for each token out. [`layer`]: the network,
//!   layer by layer, with the papers.
//! - [`kernel`]: the inner loops of each instruction set; the only `unsafe` code. [`workers`]: threads.
//! - [`snapshot`]: a session's state as bytes, so that a fixed beginning is computed once.
//! - [`decode`]: choosing tokens, and when to stop. [`tokenizer`]: text to tokens and back, on the device.
//! - [`your_own_board`]: what it takes on a microcontroller, step by step.
//!
//! # Features
//!
//! - `std`: a thread pool (`kernel::pool`) and a faster checksum, for hosts. Changes no result.
//! - `defmt`: `defmt::Format` for errors.
//! - `branches` (on by default): several sequences in one session, for beam search. Firmware without it saves 2 KB of flash.
//! - `classic` (on by default): what models had before RMSNorm, gates and rotary positions: LayerNorm, learned positions,
//!   GELU by the error function, ReLU, parallel layers.
//! - `shaping` (on by default): scores that go through more than a scale, norms of heads and of outputs.
//! - `portable` (on by default): on a Cortex-M with the DSP extension, the portable kernels beside those in assembly, for
//!   files in the layout `rows8` and for sizes that are no multiples of four or eight. Elsewhere they are always there.
//! - `encoder` (on by default): models that see a whole text at once (BERT), token types, and norms in other places than
//!   most decoders have them: behind sublayers (OPT-350m too) and embeddings (BLOOM too), of the residual stream, none at
//!   the end. Firmware for other models saves their flash by leaving it out.
//! - `cross` (on by default, with `encoder`): encoder-decoders (T5, Marian, BART), whose tokens attend to a source text too,
//!   and relative positions.
//! - `normalizers`, `unigram`, `wordpiece` (on by default): what some tokenizers need, see [`tokenizer`]. Firmware for a
//!   model whose tokenizer does without them saves their flash by leaving them out.
//!
//! A model that needs a feature which is off is refused, and the error names it. [`Model::needs`] says it before that.
//!
//! # Panics
//!
//! None on any file, text or tokens. Slices that are too short are treated as far as they go, or refused with an error
//! where one is documented. Two things remain the caller's: sizes that the format does not allow can overflow in the plain
//! arithmetic of [`packing`], [`arch`] and [`blob::placement`], and the thread pool passes on panics of its tasks.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod arch;
pub mod blob;
#[cfg(feature = "branches")]
mod branch;
#[cfg(not(feature = "branches"))]
#[path = "branch/none.rs"]
mod branch;
mod cache;
pub mod decode;
mod digest;
pub mod feature;
#[allow(unsafe_code)]
pub mod kernel;
pub mod layer;
pub mod math;
pub mod matrix;
pub mod packing;
pub mod plan;
#[cfg(feature = "shaping")]
mod ring;
#[cfg(not(feature = "shaping"))]
#[path = "ring/none.rs"]
mod ring;
pub mod session;
pub mod snapshot;
pub mod tokenizer;
pub mod workers;
#[doc = include_str!("your_own_board.md")]
pub mod your_own_board {}

pub use blob::{Aligned, BlobError, Model};
pub use digest::Digest;
pub use feature::Feature;
pub use kernel::Backend;
pub use plan::{Limits, Plan};
pub use session::{Session, SessionError};
pub use snapshot::{Snapshot, SnapshotError};
