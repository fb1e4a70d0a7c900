//! From logits to tokens: greedy choice and when to stop.

mod greedy;
mod stop;

pub use greedy::argmax;
pub use stop::{StopStrings, Stopped};
