//! Beam search: the K likeliest sequences so far go on side by side.
//!
//! The score of a sequence of n tokens is Σ log p / nᵃ with the length penalty a. At each step the tokens of all K rows of
//! logits compete; the best (1 + number of end tokens)·K of the K·V are kept in a short sorted list, for which the rows are
//! read once, and never sorted or stored. Those among the first K that end become hypotheses; the best K that do not end
//! are the next beams. This is transformers' `generate(num_beams, length_penalty, early_stopping, max_new_tokens)`, token
//! for token; of equal scores the lower beam, then the lower token comes first. A beam is a chain of links, so nothing is
//! copied when beams change places, and the caches of [`Session::branch`](crate::Session::branch) share what the beams
//! have in common. With fewer continuations than beams, as at the first step, there are fewer beams for a while.

use bytemuck::{Pod, Zeroable};

use super::select::insert;
use super::source::Branching;
use crate::math;

/// When a search ends, once it has as many hypotheses as beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best beam, judged by its present length, would be worse than all of them.
    #[default]
    Heuristic,
    /// At once.
    Always,
    /// When no continuation of the best beam can be better: with a positive length penalty, at the most tokens.
    Never,
}

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSettings<'e> {
    /// Beams, and hypotheses kept.
    pub beams: usize,
    /// Tokens of a hypothesis at most, the end token included.
    pub max_tokens: usize,
    /// Exponent of the length that a score is divided by: 0 prefers short hypotheses, 1 is the mean of log p, more
    /// prefers long ones.
    pub length_penalty: f32,
    /// When to end.
    pub early_stopping: EarlyStopping,
    /// Tokens that end a hypothesis.
    pub end: &'e [u32],
}

/// Why no search can be made.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BeamError {
    /// No beams, or no tokens.
    Zero {
        /// Which.
        setting: &'static str,
    },
    /// The length penalty is not finite.
    LengthPenalty {
        /// Its value.
        found: f32,
    },
    /// The memory is smaller than [`BeamSearch::room`] says.
    Room {
        /// Words needed.
        expected: usize,
        /// Words given.
        found: usize,
    },
}

impl core::fmt::Display for BeamError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            BeamError::Zero { setting } => write!(f, "beam search: `{setting}` must be at least 1"),
            BeamError::LengthPenalty { found } => write!(f, "beam search: the length penalty {found} is not finite"),
            BeamError::Room { expected, found } => {
                write!(f, "beam search: memory of {found} words, expected {expected}")
            }
        }
    }
}

impl core::error::Error for BeamError {}

/// No link: a sequence's beginning.
const NONE: u32 = u32::MAX;

/// A token of a beam and where the beam comes from. All links of a step lie together, `beams` a step.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Link {
    id: u32,
    parent: u32,
}

/// A sequence that goes on.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Running {
    /// Σ log p.
    score: f32,
    last: u32,
}

/// A continuation of a beam.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Candidate {
    /// Σ log p.
    score: f32,
    beam: u32,
    id: u32,
}

/// A sequence that has ended with the token `id`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Ended {
    score: f32,
    parent: u32,
    id: u32,
    len: u32,
}

/// A beam search in its buffer.
///
/// ```
/// use thumbformer::decode::{BeamSearch, BeamSettings, EarlyStopping};
/// # use thumbformer::Session;
/// # #[derive(Debug)] struct Failed;
/// # impl<T: std::error::Error> From<T> for Failed { fn from(_: T) -> Self { Failed } }
/// # #[cfg(feature = "branches")]
/// /// The likeliest of four beams of up to 32 tokens; the session's plan is `with_branches(4, 32)`.
/// fn answer<'o>(session: &mut Session<'_, '_>, prompt: &[u32], out: &'o mut [u32; 32]) -> Result<&'o [u32], Failed> {
///     let settings = BeamSettings {
///         beams: 4,
///         max_tokens: 32,
///         length_penalty: 1.0,
///         early_stopping: EarlyStopping::Heuristic,
///         end: &[2],
///     };
///     let mut room = [0; BeamSearch::room(4, 32, 1)];
///     let mut search = BeamSearch::new(settings, &mut room)?;
///     search.begin(session.prefill(prompt)?);
///     while !search.is_done() {
///         search.step(session)?;
///     }
///     let (len, _score) = search.hypothesis(0, out).ok_or(Failed)?;
///     Ok(&out[..len])
/// }
/// ```
#[derive(Debug)]
pub struct BeamSearch<'b, 'e> {
    settings: BeamSettings<'e>,
    running: &'b mut [Running],
    /// Beams that there are.
    live: usize,
    candidates: &'b mut [Candidate],
    found: usize,
    ended: &'b mut [Ended],
    hypotheses: usize,
    links: &'b mut [Link],
    parents: &'b mut [u32],
    ids: &'b mut [u32],
    /// Tokens of every beam.
    len: usize,
    done: bool,
}

/// Continuations kept for each beam, so that enough go on even if the best all end.
const fn continuations(end_tokens: usize) -> usize {
    if end_tokens > 1 { end_tokens.saturating_add(1) } else { 2 }
}

/// Words of a type.
const fn words<T>() -> usize {
    size_of::<T>() / size_of::<u32>()
}

impl<'b, 'e> BeamSearch<'b, 'e> {
    /// Words of memory that a search needs; `usize::MAX` if there cannot be so many.
    pub const fn room(beams: usize, max_tokens: usize, end_tokens: usize) -> usize {
        let candidates = continuations(end_tokens).saturating_mul(words::<Candidate>());
        let links = max_tokens.saturating_mul(words::<Link>());
        let beam = candidates.saturating_add(links).saturating_add(words::<Running>() + words::<Ended>() + 2);
        beams.saturating_mul(beam)
    }

    /// A search in `room`, which has at least [`BeamSearch::room`] words.
    ///
    /// # Errors
    /// Settings that make no sense; too little memory.
    pub fn new(settings: BeamSettings<'e>, room: &'b mut [u32]) -> Result<Self, BeamError> {
        let BeamSettings { beams, max_tokens, length_penalty, end, .. } = settings;
        if beams == 0 || max_tokens == 0 {
            return Err(BeamError::Zero { setting: if beams == 0 { "beams" } else { "max_tokens" } });
        }
        if !length_penalty.is_finite() {
            return Err(BeamError::LengthPenalty { found: length_penalty });
        }
        fn take<'b, T: Pod>(room: &mut &'b mut [u32], count: usize) -> Option<&'b mut [T]> {
            let (head, rest) = core::mem::take(room).split_at_mut_checked(count.checked_mul(words::<T>())?)?;
            *room = rest;
            bytemuck::try_cast_slice_mut(head).ok()
        }
        let found = room.len();
        let mut rest = room;
        let mut cut = || {
            Some(Self {
                settings,
                running: take(&mut rest, beams)?,
                live: 0,
                candidates: take(&mut rest, beams.checked_mul(continuations(end.len()))?)?,
                found: 0,
                ended: take(&mut rest, beams)?,
                hypotheses: 0,
                links: take(&mut rest, beams.checked_mul(max_tokens)?)?,
                parents: take(&mut rest, beams)?,
                ids: take(&mut rest, beams)?,
                len: 0,
                done: false,
            })
        };
        cut().ok_or(BeamError::Room { expected: Self::room(beams, max_tokens, end.len()), found })
    }

    /// Starts from the logits behind the prompt.
    pub fn begin(&mut self, logits: &[f32]) {
        if let Some(first) = self.running.first_mut() {
            *first = Running { score: 0.0, last: NONE };
        }
        (self.live, self.found, self.hypotheses, self.len, self.done) = (1, 0, 0, 0, false);
        self.consider(0, logits);
        self.select();
    }

    /// Extends every beam by a token.
    ///
    /// # Errors
    /// Those of the source; the search can then not go on.
    pub fn step<B: Branching + ?Sized>(&mut self, source: &mut B) -> Result<(), B::Error> {
        if self.done {
            return Ok(());
        }
        source.branch(self.parents.get(..self.live).unwrap_or(&[]))?;
        // Taken out, so that the logits can be considered while the source reads it.
        let ids = core::mem::take(&mut self.ids);
        self.found = 0;
        let stepped =
            source.step_branches(ids.get(..self.live).unwrap_or(&[]), &mut |beam, logits| self.consider(beam, logits));
        self.ids = ids;
        stepped?;
        self.select();
        Ok(())
    }

    /// The search has ended.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Hypotheses there are: as many as beams at most, and none if no token was possible.
    pub fn hypotheses(&self) -> usize {
        self.hypotheses
    }

    /// Writes the tokens of the `n`th best hypothesis, end token included, to the front of `out`; returns their number and
    /// the score. `None` if there is none, or it does not fit.
    pub fn hypothesis(&self, n: usize, out: &mut [u32]) -> Option<(usize, f32)> {
        let ended = self.ended.get(..self.hypotheses)?.get(n)?;
        let out = out.get_mut(..ended.len as usize)?;
        let (mut id, mut parent) = (ended.id, ended.parent);
        for slot in out.iter_mut().rev() {
            *slot = id;
            if let Some(link) = self.links.get(parent as usize) {
                (id, parent) = (link.id, link.parent);
            }
        }
        Some((out.len(), ended.score))
    }

    /// Takes a beam's continuations among the candidates, if they are good enough.
    fn consider(&mut self, beam: usize, logits: &[f32]) {
        let Some(running) = self.running.get(beam) else { return };
        let largest = math::max(logits, f32::NEG_INFINITY, |x| x);
        let log_sum = libm::logf(math::sum(logits, |x| math::exp(x - largest)));
        for (id, &logit) in (0u32..).zip(logits) {
            let score = running.score + ((logit - largest) - log_sum);
            let worst = if self.found < self.candidates.len() {
                f32::NEG_INFINITY
            } else {
                self.candidates.last().map_or(f32::INFINITY, |last| last.score)
            };
            // False for NaN.
            if score > worst {
                let candidate = Candidate { score, beam: beam as u32, id };
                self.found = insert(self.candidates, self.found, candidate, |candidate| candidate.score);
            }
        }
    }

    /// From candidates to hypotheses and to the next beams.
    fn select(&mut self) {
        let BeamSettings { beams, max_tokens, length_penalty, early_stopping, end } = self.settings;
        let penalty = |len: usize| libm::powf(len as f32, length_penalty);
        let step = self.len * beams;
        self.len += 1;
        let mut live = 0;
        for rank in 0..self.found {
            let Some(&candidate) = self.candidates.get(rank) else { break };
            let Candidate { score, beam, id } = candidate;
            let parent = self.running.get(beam as usize).map_or(NONE, |running| running.last);
            if self.len == max_tokens || end.contains(&id) {
                if rank < beams {
                    let ended = Ended { score: score / penalty(self.len), parent, id, len: self.len as u32 };
                    self.hypotheses = insert(self.ended, self.hypotheses, ended, |ended| ended.score);
                }
            } else if live < beams {
                if let (Some(link), Some(to), Some(next), Some(slot)) = (
                    self.links.get_mut(step + live),
                    self.parents.get_mut(live),
                    self.ids.get_mut(live),
                    // Candidates before this one have had their turn.
                    self.candidates.get_mut(live),
                ) {
                    (*link, *to, *next, *slot) = (Link { id, parent }, beam, id, candidate);
                }
                live += 1;
            }
        }
        for (slot, (running, candidate)) in self.running.iter_mut().zip(self.candidates.iter()).take(live).enumerate() {
            *running = Running { score: candidate.score, last: (step + slot) as u32 };
        }
        self.live = live;
        let best = self.running.first().filter(|_| live > 0).map(|best| {
            let longest = early_stopping == EarlyStopping::Never && length_penalty > 0.0;
            best.score / penalty(if longest { max_tokens } else { self.len })
        });
        let full = self.hypotheses == beams;
        let worst = self.ended.last().map_or(f32::NEG_INFINITY, |worst| worst.score);
        self.done = match best {
            None => true,
            Some(best) => full && (early_stopping == EarlyStopping::Always || best <= worst),
        };
    }
}
