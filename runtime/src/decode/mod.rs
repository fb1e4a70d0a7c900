//! From logits to tokens: choosing them, constraining them, getting several at once, and when to stop.
//!
//! - [`argmax`]: the likeliest token. [`Sampler`]: a random one, with temperature, top-k, top-p, min-p and penalties.
//! - [`BeamSearch`]: the likeliest sequences, over branches of a session.
//! - [`Constraint`]: only texts of a [`Grammar`].
//! - [`PromptLookup`]: greedy decoding in fewer passes, with the same result.
//! - [`StopStrings`]: where an answer ends.
//!
//! All of it works in memory that the caller owns, and gives the same tokens on every target. [`Sequence`] and
//! [`Branching`] are what the algorithms ask of a model.

mod beam;
pub mod grammar;
mod greedy;
mod lookup;
mod random;
mod sample;
mod select;
mod source;
mod stop;

pub use beam::{BeamError, BeamSearch, BeamSettings, EarlyStopping};
pub use grammar::{Constraint, ConstraintError, Grammar, GrammarError};
pub use greedy::argmax;
pub use lookup::PromptLookup;
pub use random::Random;
pub use sample::{Sampler, Sampling, SamplingError, Seen};
pub use source::{Branching, Sequence};
pub use stop::{StopStrings, Stopped};
