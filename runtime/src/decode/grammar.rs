//! Constrained decoding: an answer is one of the texts of a grammar, whatever the model would rather say.
//!
//! A [`Grammar`] is a deterministic automaton over bytes, made by `thumbformer run --save-grammar` (or the converter's
//! library) of a regular expression or of a list of strings, for the tokenizer of one model. Everything difficult, that
//! is parsing, Unicode, determinization and minimization, happens there, with the regex crate; what is left is a table
//! that a device reads in place with one look-up a byte. An automaton for both, rather than a trie for lists and an engine
//! for expressions, because a list's automaton is never larger than its trie and there is one thing to check.
//!
//! A [`Constraint`] walks the bytes that each token would add to the text. A token is allowed if the automaton survives
//! them *and can still reach an accepting state by whole tokens, within the tokens that are left*: for each state the
//! table holds the least number of tokens that complete a text. So an answer never gets stuck, is never cut short by the
//! context, and cannot be malformed. The end token is allowed in accepting states only.
//!
//! No memory of the vocabulary's size is needed: what is not allowed becomes −∞ in the row of logits.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `thumbgrm` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | number of states; state 0 is the start, and no text comes back to it |
//! | 16 | 4 | number of classes of bytes |
//! | 20 | 4 | CRC-32 of the tokenizer section it was made for |
//! | 24 | 4 | CRC-32 of everything from offset 32 |
//! | 28 | 4 | CRC-32 of the first 28 bytes |
//! | 32 | 256 | the class of each byte |
//! | 288 | 2·states | tokens that complete a text at least: 0 in accepting states, 0xFFFF where none do |
//! | | 2·states·classes | the next state; 0xFFFF is none |
//!
//! All numbers are little-endian.

use core::fmt::{self, Write};

use crate::blob::crc::crc32;
use crate::tokenizer::{TextStream, Tokenizer};

/// First bytes of every grammar.
pub const MAGIC: [u8; 8] = *b"thumbgrm";
/// The only version there is.
pub const VERSION: u32 = 1;
/// States that a grammar can have at most.
pub const MAX_STATES: usize = NONE as usize;
/// In place of a state, or of a number of tokens.
pub const NONE: u16 = u16::MAX;

/// Bytes before the classes.
const HEAD: usize = 32;
/// Values of a byte.
const BYTES: usize = 256;

/// What is wrong with a grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum GrammarError {
    /// The bytes do not begin as a grammar does.
    Magic,
    /// Another version's.
    Version {
        /// The version found.
        found: u32,
    },
    /// Too few or too many bytes.
    Length {
        /// Bytes that its head calls for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Bytes have changed since it was made.
    Checksum,
    /// It was made for another tokenizer.
    OtherTokenizer,
    /// No states, or more than [`MAX_STATES`]; no classes, or more than 256.
    Size {
        /// States found.
        states: u32,
        /// Classes found.
        classes: u32,
    },
    /// A byte's class, or the next state of a state, is out of range.
    Range {
        /// Offset in the grammar's bytes.
        offset: usize,
    },
    /// It allows no text.
    Nothing,
}

impl fmt::Display for GrammarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            GrammarError::Magic => write!(f, "not a grammar"),
            GrammarError::Version { found } => write!(f, "grammar of version {found}, expected {VERSION}"),
            GrammarError::Length { expected, found } => write!(f, "grammar of {found} bytes, expected {expected}"),
            GrammarError::Checksum => write!(f, "the grammar's checksum does not hold: it is damaged"),
            GrammarError::OtherTokenizer => write!(f, "the grammar was made for another tokenizer"),
            GrammarError::Size { states, classes } => {
                write!(f, "grammar of {states} states and {classes} classes, expected 1 to {MAX_STATES} and 1 to 256")
            }
            GrammarError::Range { offset } => write!(f, "grammar: the number at offset {offset} is out of range"),
            GrammarError::Nothing => write!(f, "the grammar allows no text that the model's tokens can spell"),
        }
    }
}

impl core::error::Error for GrammarError {}

/// A checked grammar, in place. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Grammar<'a> {
    classes: &'a [u8; BYTES],
    class_count: usize,
    finish: &'a [[u8; 2]],
    next: &'a [[u8; 2]],
}

impl<'a> Grammar<'a> {
    /// Checks a grammar for the tokenizer whose section is given ([`Model::tokenizer_section`]).
    ///
    /// [`Model::tokenizer_section`]: crate::Model::tokenizer_section
    ///
    /// # Errors
    /// What is wrong with it; that it allows nothing.
    pub fn new(bytes: &'a [u8], tokenizer_section: &[u8]) -> Result<Self, GrammarError> {
        let found = bytes.len() as u64;
        if !bytes.starts_with(&MAGIC) {
            return Err(GrammarError::Magic);
        }
        let (head, content) =
            bytes.split_first_chunk::<HEAD>().ok_or(GrammarError::Length { expected: HEAD as u64, found })?;
        let words = head.as_chunks::<4>().0;
        let word = |index: usize| words.get(index).map_or(0, |&le| u32::from_le_bytes(le));
        let (version, states, classes) = (word(2), word(3), word(4));
        if version != VERSION {
            return Err(GrammarError::Version { found: version });
        }
        if head.get(..HEAD - 4).map(crc32) != Some(word(7)) {
            return Err(GrammarError::Checksum);
        }
        if !(1..=MAX_STATES as u32).contains(&states) || !(1..=BYTES as u32).contains(&classes) {
            return Err(GrammarError::Size { states, classes });
        }
        let expected = (HEAD + BYTES) as u64 + 2 * u64::from(states) * (1 + u64::from(classes));
        if found != expected {
            return Err(GrammarError::Length { expected, found });
        }
        if crc32(content) != word(6) {
            return Err(GrammarError::Checksum);
        }
        if crc32(tokenizer_section) != word(5) {
            return Err(GrammarError::OtherTokenizer);
        }
        let short = GrammarError::Length { expected, found };
        let (of_bytes, tables) = content.split_first_chunk::<BYTES>().ok_or(short)?;
        if let Some(at) = of_bytes.iter().position(|&class| u32::from(class) >= classes) {
            return Err(GrammarError::Range { offset: HEAD + at });
        }
        let (finish, next) = tables.as_chunks().0.split_at_checked(states as usize).ok_or(short)?;
        let bad = |&le: &[u8; 2]| {
            let state = u16::from_le_bytes(le);
            state != NONE && !(1..states).contains(&state.into())
        };
        if let Some(at) = next.iter().position(bad) {
            return Err(GrammarError::Range { offset: HEAD + BYTES + 2 * (states as usize + at) });
        }
        let grammar = Self { classes: of_bytes, class_count: classes as usize, finish, next };
        if grammar.finish(0) == NONE { Err(GrammarError::Nothing) } else { Ok(grammar) }
    }

    /// Number of states.
    pub fn states(&self) -> usize {
        self.finish.len()
    }

    /// Tokens that complete a text at least, counted from its beginning, without an end token.
    pub fn shortest(&self) -> usize {
        self.finish(0).into()
    }

    fn finish(&self, state: u16) -> u16 {
        self.finish.get(usize::from(state)).map_or(NONE, |&le| u16::from_le_bytes(le))
    }

    fn step(&self, state: u16, byte: u8) -> u16 {
        let class = self.classes.get(usize::from(byte)).copied().unwrap_or(0);
        let at = usize::from(state) * self.class_count + usize::from(class);
        self.next.get(at).map_or(NONE, |&le| u16::from_le_bytes(le))
    }

    fn walk(&self, state: u16, bytes: &[u8]) -> u16 {
        bytes.iter().fold(state, |state, &byte| if state == NONE { NONE } else { self.step(state, byte) })
    }
}

/// A text in progress that a grammar constrains.
///
/// ```
/// use thumbformer::decode::{Constraint, Grammar, argmax};
/// # use thumbformer::Session;
/// # #[derive(Debug)] struct Failed;
/// # impl<T: std::error::Error> From<T> for Failed { fn from(_: T) -> Self { Failed } }
/// /// The likeliest call that the grammar allows, of at most `out.len()` tokens; returns how many there are.
/// fn call(session: &mut Session<'_, '_>, flash: &[u8], prompt: &[u32], out: &mut [u32]) -> Result<usize, Failed> {
///     let model = *session.model();
///     let grammar = Grammar::new(flash, model.tokenizer_section())?;
///     let mut text = Constraint::new(grammar, *model.tokenizer().ok_or(Failed)?, model.special().end());
///     session.prefill(prompt)?;
///     let room = out.len();
///     for (len, slot) in out.iter_mut().enumerate() {
///         if !text.apply(session.logits_mut(), room - len)? {
///             return Ok(len); // complete, in a model without end tokens
///         }
///         *slot = argmax(session.logits_mut());
///         if model.special().end().contains(slot) {
///             return Ok(len);
///         }
///         text.push(*slot);
///         session.step(*slot)?;
///     }
///     Ok(room)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Constraint<'a> {
    grammar: Grammar<'a>,
    end: &'a [u32],
    /// Behind the text so far, without bytes that the stream holds back.
    state: u16,
    stream: TextStream<'a>,
}

/// Why no token is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ConstraintError {
    /// No text can be completed with so few tokens.
    Room {
        /// Tokens needed at least, the end token included.
        needed: usize,
        /// Tokens left.
        left: usize,
    },
    /// The text so far is the beginning of none that the grammar allows: a token was pushed that was not allowed.
    Left,
}

impl fmt::Display for ConstraintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ConstraintError::Room { needed, left } => {
                write!(f, "the grammar's shortest text takes {needed} more tokens, there is room for {left}")
            }
            ConstraintError::Left => write!(f, "the text has left the grammar"),
        }
    }
}

impl core::error::Error for ConstraintError {}

/// Walks what a stream shows.
struct Walk<'g, 'a> {
    grammar: &'g Grammar<'a>,
    state: u16,
    walked: bool,
}

impl Write for Walk<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.state = self.grammar.walk(self.state, text.as_bytes());
        self.walked |= !text.is_empty();
        if self.state == NONE { Err(fmt::Error) } else { Ok(()) }
    }
}

impl<'a> Constraint<'a> {
    /// At the beginning of a text as [`Tokenizer::stream`] shows it; `end` are the tokens that end an answer.
    pub fn new(grammar: Grammar<'a>, tokenizer: Tokenizer<'a>, end: &'a [u32]) -> Self {
        Self { grammar, end, state: 0, stream: tokenizer.stream(true) }
    }

    /// The text so far is one that the grammar allows.
    pub fn is_accepting(&self) -> bool {
        self.grammar.finish(self.here()) == 0
    }

    /// The state behind all bytes so far, those of an incomplete character included.
    fn here(&self) -> u16 {
        self.grammar.walk(self.state, self.stream.held())
    }

    /// Tokens that complete the text at least, the end token included.
    fn needed(&self, state: u16) -> usize {
        usize::from(self.grammar.finish(state)) + usize::from(!self.end.is_empty())
    }

    /// Sets the logits of all tokens to −∞ that must not come next, if at most `left` tokens come, an end token included.
    /// False if the text is complete and nothing can follow, not even an end token, because the model has none.
    ///
    /// # Errors
    /// No token is allowed. Cannot happen if the first call does not fail, `left` goes down by one each time, and what was
    /// allowed is pushed.
    pub fn apply(&self, logits: &mut [f32], left: usize) -> Result<bool, ConstraintError> {
        let here = self.here();
        let finish = self.grammar.finish(here);
        if finish == NONE {
            return Err(ConstraintError::Left);
        }
        let accepting = finish == 0;
        let mut any = false;
        let mut trial = self.stream.clone();
        for (id, logit) in (0u32..).zip(logits) {
            let allowed = if self.end.contains(&id) {
                accepting && left > 0
            } else {
                trial.resume(&self.stream);
                self.after(&mut trial, id)
                    .is_some_and(|state| self.grammar.finish(state) != NONE && self.needed(state) < left)
            };
            any |= allowed;
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        if any {
            return Ok(true);
        }
        if accepting && self.end.is_empty() {
            return Ok(false);
        }
        Err(ConstraintError::Room { needed: self.needed(here), left })
    }

    /// Takes a token of the text; an end token is none.
    pub fn push(&mut self, id: u32) {
        let mut walk = Walk { grammar: &self.grammar, state: self.state, walked: false };
        // A failed walk leaves no state.
        let _ = self.stream.push(id, &mut walk);
        self.state = walk.state;
    }

    /// The state behind a further token, for which `stream` is at the end of the text. `None` if there is none, or if the
    /// token adds nothing: special tokens, those beyond the tokenizer's vocabulary, a space that the text's beginning loses.
    fn after(&self, stream: &mut TextStream<'a>, id: u32) -> Option<u16> {
        let mut walk = Walk { grammar: &self.grammar, state: self.state, walked: false };
        stream.push(id, &mut walk).ok()?;
        let adds = walk.walked || stream.held().len() > self.stream.held().len();
        let state = self.grammar.walk(walk.state, stream.held());
        (adds && state != NONE).then_some(state)
    }
}
