//! One face for the two ways to run a model: int8 by the runtime, f32 by the reference.

use thumbformer::workers::Workers;
use thumbformer::{Session, arch::Arch};

use crate::Result;
use crate::reference::Reference;

/// A sequence in progress.
pub trait Engine {
    /// The architecture.
    fn arch(&self) -> &Arch;

    /// Positions there are.
    fn context(&self) -> usize;

    /// Positions in use.
    fn position(&self) -> usize;

    /// Forgets everything.
    fn reset(&mut self);

    /// Forgets all but the first `position` tokens.
    ///
    /// # Errors
    /// Fewer are there.
    fn rewind(&mut self, position: usize) -> Result<()>;

    /// Appends `ids`; `logits` receives those behind the last one.
    ///
    /// # Errors
    /// No ids, one outside the vocabulary, no room.
    fn prefill(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<()>;

    /// Appends `ids` and shows the logits behind each, with its index.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()>;
}

impl<W: Workers + Sync> Engine for Session<'_, '_, W> {
    fn arch(&self) -> &Arch {
        self.model().arch()
    }

    fn context(&self) -> usize {
        Session::context(self)
    }

    fn position(&self) -> usize {
        Session::position(self)
    }

    fn reset(&mut self) {
        Session::reset(self);
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        Ok(Session::rewind(self, position)?)
    }

    fn prefill(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        let last = Session::prefill(self, ids)?;
        logits.clear();
        logits.extend_from_slice(last);
        Ok(())
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        Ok(Session::score(self, ids, visit)?)
    }
}

impl Engine for Reference {
    fn arch(&self) -> &Arch {
        Reference::arch(self)
    }

    fn context(&self) -> usize {
        Reference::arch(self).context as usize
    }

    fn position(&self) -> usize {
        Reference::position(self)
    }

    fn reset(&mut self) {
        Reference::reset(self);
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        Reference::rewind(self, position)
    }

    fn prefill(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        *logits = self.forward_last(ids)?;
        Ok(())
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let first = Reference::position(self);
        self.forward(ids, &mut |position, logits| visit(position - first, logits))
    }
}
