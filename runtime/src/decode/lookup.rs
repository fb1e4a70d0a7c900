//! Prompt lookup: several greedy tokens from one pass over the weights, where the answer repeats what was said before.
//!
//! The last tokens are looked up further back in the text; what followed them there is the draft. One pass scores the
//! whole draft, and as much of it is taken as greedy decoding would have chosen anyway (speculative decoding, Leviathan
//! et al., 2022, arXiv:2211.17192, without a second model, as in Saxena's "Prompt Lookup Decoding", 2023). By the contract
//! of equal bits, scoring in a chunk gives the logits of single steps, so the tokens are exactly those of plain greedy
//! decoding, always. It pays where weights are read from memory once for all tokens of a chunk; a processor that is bound
//! by arithmetic loses what is drafted in vain.

use super::argmax;
use super::source::Sequence;

/// The looked-up continuation of `history`: the tokens that followed the last occurrence, further back, of its last
/// `longest` tokens, or of fewer, down to one. The draft begins with the last token of `history` itself; without an
/// occurrence it is that token alone.
fn draft(history: &[u32], longest: usize, most: usize) -> &[u32] {
    let len = history.len();
    for n in (1..=longest.min(len.saturating_sub(1))).rev() {
        let suffix = history.get(len - n..).unwrap_or(&[]);
        if let Some(at) = history.get(..len - 1).unwrap_or(&[]).windows(n).rposition(|window| window == suffix) {
            let last = at + n - 1;
            return history.get(last..len.min(last.saturating_add(most).saturating_add(1))).unwrap_or(&[]);
        }
    }
    history.get(len.saturating_sub(1)..).unwrap_or(&[])
}

/// Prompt lookup with its statistics.
///
/// ```
/// use thumbformer::decode::{PromptLookup, argmax};
/// # use thumbformer::{Session, SessionError};
/// /// Generates into `history[start..]`, behind a prompt that is there already; returns where it ends.
/// fn answer(session: &mut Session<'_, '_>, history: &mut [u32], start: usize) -> Result<usize, SessionError> {
///     let mut lookup = PromptLookup::new(3, 8);
///     let mut len = start + 1;
///     history[start] = argmax(session.prefill(&history[..start])?);
///     while len < history.len() {
///         let (known, room) = history.split_at_mut(len);
///         len += lookup.step(session, known, room)?;
///     }
///     println!("{} of {} drafted tokens were right", lookup.accepted(), lookup.drafted());
///     Ok(len)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct PromptLookup {
    longest: usize,
    most: usize,
    passes: u64,
    drafted: u64,
    accepted: u64,
}

impl PromptLookup {
    /// Looks up at most the last `longest` tokens and drafts at most `most`, and never more than the sequence can be cut
    /// back by ([`Sequence::rewind_room`]). The session's chunk should hold one more than that.
    pub const fn new(longest: usize, most: usize) -> Self {
        Self { longest, most, passes: 0, drafted: 0, accepted: 0 }
    }

    /// Greedy tokens behind `history`, at least one, into the front of `out`; returns how many.
    ///
    /// The sequence holds all of `history` but its last token, and afterwards all but the last of what was found. It
    /// does not stop at an end token, but what comes behind one can be cut off: it is never more than was drafted.
    ///
    /// # Errors
    /// Those of the sequence: it is full, or a token is unknown. It is then as before. Nothing is done, and nothing found,
    /// if `history` or `out` is empty.
    pub fn step<S: Sequence + ?Sized>(
        &mut self,
        sequence: &mut S,
        history: &[u32],
        out: &mut [u32],
    ) -> Result<usize, S::Error> {
        let start = sequence.position();
        if history.is_empty() || out.is_empty() {
            return Ok(0);
        }
        let room = sequence.context().saturating_sub(start).min(out.len()).saturating_sub(1);
        let draft = draft(history, self.longest, self.most.min(room).min(sequence.rewind_room()));
        // Token i of the draft is checked by the logits behind token i − 1.
        let mut found = 0;
        sequence.score(draft, &mut |index, logits| {
            let wrong = found < index || (index > 0 && out.get(index - 1) != draft.get(index));
            if !wrong && let Some(slot) = out.get_mut(index) {
                *slot = argmax(logits);
                found = index + 1;
            }
        })?;
        self.passes += 1;
        self.drafted += draft.len().saturating_sub(1) as u64;
        self.accepted += found.saturating_sub(1) as u64;
        sequence.rewind(start + found)?;
        Ok(found)
    }

    /// Passes over the weights.
    pub const fn passes(&self) -> u64 {
        self.passes
    }

    /// Tokens drafted.
    pub const fn drafted(&self) -> u64 {
        self.drafted
    }

    /// Drafted tokens that were right: passes saved.
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }
}
