//! One face for the two ways to run a model: int8 by the runtime, f32 by the reference.

use thumbformer::decode::{Branching, Sequence};
use thumbformer::workers::Workers;
use thumbformer::{Session, Snapshot, arch::Arch};

use crate::reference::Reference;
use crate::{Error, Result};

/// A sequence in progress.
pub trait Engine {
    /// The architecture.
    fn arch(&self) -> &Arch;

    /// Positions there are.
    fn context(&self) -> usize;

    /// Positions in use.
    fn position(&self) -> usize;

    /// Forgets everything but a source.
    fn reset(&mut self);

    /// Takes in a source, of an encoder-decoder, in place of the one before, and forgets everything else.
    ///
    /// # Errors
    /// As [`Session::encode_source`].
    fn encode_source(&mut self, ids: &[u32]) -> Result<()>;

    /// As [`Sequence::rewind_room`].
    fn rewind_room(&self) -> usize;

    /// Forgets all but the first `position` tokens.
    ///
    /// # Errors
    /// Fewer are there, or more are to be forgotten than [`Engine::rewind_room`] says.
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

    /// As [`Session::branch`].
    ///
    /// # Errors
    /// Too many branches, or a parent that is not there.
    fn branch(&mut self, parents: &[u32]) -> Result<()>;

    /// As [`Session::step_branches`].
    ///
    /// # Errors
    /// As [`Engine::prefill`], or not one id for each branch.
    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()>;

    /// A snapshot of the state, which is that behind `ids`, and of an encoder-decoder behind `source`.
    ///
    /// # Errors
    /// The engine has no snapshots, or holds other tokens.
    fn snapshot(&mut self, source: &[u32], ids: &[u32]) -> Result<Vec<u8>>;

    /// Takes as much from a snapshot as `prompt` begins alike, but its last token, and of an encoder-decoder first the
    /// source; nothing if that is another than `source`, which is then to be encoded. Returns how many tokens it took, those
    /// of the source included.
    ///
    /// # Errors
    /// The engine has no snapshots, or the snapshot is damaged or another model's.
    fn restore(&mut self, snapshot: &[u8], source: &[u32], prompt: &[u32]) -> Result<usize>;
}

impl Sequence for dyn Engine + '_ {
    type Error = Error;

    fn position(&self) -> usize {
        Engine::position(self)
    }

    fn context(&self) -> usize {
        Engine::context(self)
    }

    fn rewind_room(&self) -> usize {
        Engine::rewind_room(self)
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        Engine::rewind(self, position)
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        Engine::score(self, ids, visit)
    }
}

impl Branching for dyn Engine + '_ {
    type Error = Error;

    fn branch(&mut self, parents: &[u32]) -> Result<()> {
        Engine::branch(self, parents)
    }

    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        Engine::step_branches(self, ids, visit)
    }
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

    fn encode_source(&mut self, ids: &[u32]) -> Result<()> {
        Ok(Session::encode_source(self, ids)?)
    }

    fn rewind_room(&self) -> usize {
        self.plan().rewind_room()
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

    fn branch(&mut self, parents: &[u32]) -> Result<()> {
        Ok(Session::branch(self, parents)?)
    }

    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        Ok(Session::step_branches(self, ids, visit)?)
    }

    fn snapshot(&mut self, source: &[u32], ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.plan().snapshot_bytes_with_source(source.len() as u32, ids.len() as u32)];
        let len = self.snapshot_with_source(source, ids, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn restore(&mut self, snapshot: &[u8], source: &[u32], prompt: &[u32]) -> Result<usize> {
        let snapshot = Snapshot::new(snapshot, self.model())?;
        if !snapshot.source_ids().eq(source.iter().copied()) {
            return Ok(0);
        }
        let keep = snapshot.in_common(prompt);
        Session::restore(self, &snapshot, keep)?;
        Ok(source.len() + keep)
    }
}

/// The reference, and more of it when a sequence branches: clones share the weights.
#[derive(Debug)]
pub struct Branches {
    first: Reference,
    others: Vec<Reference>,
}

impl Branches {
    /// One branch.
    pub fn new(first: Reference) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl Engine for Branches {
    fn arch(&self) -> &Arch {
        self.first.arch()
    }

    fn context(&self) -> usize {
        self.first.arch().context as usize
    }

    fn position(&self) -> usize {
        self.first.position()
    }

    fn reset(&mut self) {
        self.others.clear();
        self.first.reset();
    }

    fn encode_source(&mut self, ids: &[u32]) -> Result<()> {
        self.others.clear();
        self.first.encode_source(ids)
    }

    fn rewind_room(&self) -> usize {
        usize::MAX
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        self.first.rewind(position)?;
        self.others.clear();
        Ok(())
    }

    fn prefill(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        *logits = self.first.forward_last(ids)?;
        self.others.clear();
        Ok(())
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let first = self.first.position();
        self.first.forward(ids, &mut |position, logits| visit(position - first, logits))?;
        self.others.clear();
        Ok(())
    }

    fn branch(&mut self, parents: &[u32]) -> Result<()> {
        let branch = |parent: &u32| match *parent as usize {
            0 => Some(self.first.clone()),
            parent => self.others.get(parent - 1).cloned(),
        };
        let no_parent =
            || Error::Usage(format!("branches {parents:?} are to be continued: found one that is not there"));
        let branches: Vec<_> = parents.iter().map(branch).collect::<Option<_>>().ok_or_else(no_parent)?;
        let mut branches = branches.into_iter();
        self.first = branches.next().ok_or_else(no_parent)?;
        self.others = branches.collect();
        Ok(())
    }

    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let (found, expected) = (ids.len(), 1 + self.others.len());
        if found != expected {
            return Err(thumbformer::SessionError::Tokens { found, expected }.into());
        }
        for (i, (branch, id)) in std::iter::once(&mut self.first).chain(&mut self.others).zip(ids).enumerate() {
            visit(i, &branch.forward_last(&[*id])?);
        }
        Ok(())
    }

    fn snapshot(&mut self, _: &[u32], _: &[u32]) -> Result<Vec<u8>> {
        Err(no_snapshots())
    }

    fn restore(&mut self, _: &[u8], _: &[u32], _: &[u32]) -> Result<usize> {
        Err(no_snapshots())
    }
}

/// Only int8 has snapshots.
pub(crate) fn no_snapshots() -> Error {
    Error::Usage("states are saved and loaded for int8 only, not with --precision f32".into())
}
