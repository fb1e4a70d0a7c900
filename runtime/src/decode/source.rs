//! What decoding asks of a model, so that it runs on anything that gives logits: a [`Session`], a reference, a test.

use crate::session::{Session, SessionError};
use crate::workers::Workers;

/// A sequence that can be extended by several tokens at once and cut back.
pub trait Sequence {
    /// Why it cannot go on.
    type Error;

    /// Tokens in it.
    fn position(&self) -> usize;

    /// Tokens there is room for.
    fn context(&self) -> usize;

    /// Tokens that it can be cut back by at any time; any number, unless it says otherwise.
    fn rewind_room(&self) -> usize {
        usize::MAX
    }

    /// Forgets all but the first `position` tokens.
    ///
    /// # Errors
    /// Fewer are there, or more are to be forgotten than [`Sequence::rewind_room`] says.
    fn rewind(&mut self, position: usize) -> Result<(), Self::Error>;

    /// Appends `ids` and shows the logits behind each, with its index, in order.
    ///
    /// # Errors
    /// Whatever stands in the way; nothing is appended then.
    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), Self::Error>;
}

/// Sequences of one length that go on side by side.
pub trait Branching {
    /// Why they cannot go on.
    type Error;

    /// Makes branch `i` a continuation of what branch `parents[i]` was.
    ///
    /// # Errors
    /// A parent that is not there; too many branches.
    fn branch(&mut self, parents: &[u32]) -> Result<(), Self::Error>;

    /// Appends a token to every branch and shows each branch's index and the logits behind its token.
    ///
    /// # Errors
    /// Whatever stands in the way; nothing is appended then.
    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), Self::Error>;
}

impl<W: Workers + Sync> Sequence for Session<'_, '_, W> {
    type Error = SessionError;

    fn position(&self) -> usize {
        Session::position(self)
    }

    fn context(&self) -> usize {
        Session::context(self)
    }

    fn rewind_room(&self) -> usize {
        self.plan().rewind_room()
    }

    fn rewind(&mut self, position: usize) -> Result<(), SessionError> {
        Session::rewind(self, position)
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), SessionError> {
        Session::score(self, ids, visit)
    }
}

#[cfg(feature = "branches")]
impl<W: Workers + Sync> Branching for Session<'_, '_, W> {
    type Error = SessionError;

    fn branch(&mut self, parents: &[u32]) -> Result<(), SessionError> {
        Session::branch(self, parents)
    }

    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), SessionError> {
        Session::step_branches(self, ids, visit)
    }
}
