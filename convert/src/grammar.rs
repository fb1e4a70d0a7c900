//! Grammars for constrained decoding: from a regular expression or a list of texts to the table that devices read
//! ([`thumbformer::decode::grammar`]).
//!
//! `regex-automata` parses and determinizes: the crate behind Rust's `regex`, linear in the text, with Unicode classes.
//! Its own serialized automata are made for searching (a match is reported a byte late, and states from which nothing can
//! match may remain), so what it finds is walked state by state into a plain table: states that cannot reach acceptance
//! go, equal ones are merged, and each learns how many tokens of the model at least complete a text from there. An
//! expression must match the whole answer; `^` and `$` are allowed and change nothing. What needs more than a finite
//! automaton (nested brackets of any depth) is no regular expression: bound the depth.

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::prelude::*;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use thumbformer::decode::grammar::{MAGIC, MAX_STATES, NONE, VERSION};
use thumbformer::tokenizer::{Kind, Tokenizer};

use crate::{Error, Result};

/// Memory that building an automaton may take, so that no expression takes all of it.
const MEMORY: usize = 256 << 20;
/// States that an automaton may have before it is minimized.
const STATES: usize = MEMORY / size_of::<[u32; 256]>();

/// An automaton over bytes that accepts whole texts: every state but perhaps the start reaches acceptance.
#[derive(Clone, Debug)]
pub struct Texts {
    /// For each state, the next one for each byte; [`DEAD`] is none.
    next: Vec<[u32; 256]>,
    accepting: Vec<bool>,
}

const DEAD: u32 = u32::MAX;

impl Texts {
    /// All texts that a regular expression (in the syntax of Rust's `regex`) matches as a whole.
    ///
    /// # Errors
    /// A wrong expression, or one whose automaton is too large.
    pub fn regex(pattern: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Usage(format!("regular expression {pattern:?}: {reason}"));
        let config = dense::Config::new()
            // All matches, not the ones that a search would prefer: a|ab is both.
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(MEMORY))
            .determinize_size_limit(Some(MEMORY));
        let dfa = dense::Builder::new().configure(config).build(pattern).map_err(|e| wrong(sources(&e)))?;
        let start =
            dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).map_err(|error| wrong(error.to_string()))?;
        let mut texts = Self { next: Vec::new(), accepting: Vec::new() };
        let mut known = HashMap::from([(start, 0)]);
        let mut states = vec![start];
        while let Some(&state) = states.get(texts.next.len()) {
            let mut row = [DEAD; 256];
            for (byte, next) in (0..=u8::MAX).zip(&mut row) {
                let state = dfa.next_state(state, byte);
                if !dfa.is_dead_state(state) && !dfa.is_quit_state(state) {
                    *next = *known.entry(state).or_insert_with(|| {
                        states.push(state);
                        states.len() as u32 - 1
                    });
                }
            }
            if states.len() > STATES {
                return Err(wrong(format!("more than {STATES} states")));
            }
            texts.next.push(row);
            texts.accepting.push(accepts(&dfa, state));
        }
        Ok(texts.minimized())
    }

    /// All texts of a list.
    ///
    /// # Errors
    /// Lists whose automaton is too large.
    pub fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self> {
        let mut trie = Self { next: vec![[DEAD; 256]], accepting: vec![false] };
        for text in texts {
            let mut state = 0;
            for &byte in text.as_bytes() {
                let new = trie.next.len() as u32;
                let next = &mut trie.next[state][usize::from(byte)];
                if *next == DEAD {
                    *next = new;
                    if trie.next.len() > STATES {
                        return Err(Error::Usage("the list of allowed texts is too large for an automaton".into()));
                    }
                    trie.next.push([DEAD; 256]);
                    trie.accepting.push(false);
                }
                state = trie.next[state][usize::from(byte)] as usize;
            }
            trie.accepting[state] = true;
        }
        Ok(trie.minimized())
    }

    /// Number of states.
    pub fn states(&self) -> usize {
        self.next.len()
    }

    /// A text is accepted.
    pub fn accepts(&self, text: &str) -> bool {
        let end = text.bytes().try_fold(0usize, |state, byte| {
            let next = self.next[state][usize::from(byte)];
            (next != DEAD).then_some(next as usize)
        });
        end.is_some_and(|state| self.accepting[state])
    }

    /// Without states that reach no acceptance and with equal ones merged (Moore, 1956); the start stays state 0, and is
    /// a state of its own that nothing leads to.
    fn minimized(self) -> Self {
        let mut useful = self.accepting.clone();
        loop {
            let before = useful.iter().filter(|useful| **useful).count();
            for state in (0..useful.len()).rev() {
                useful[state] |= self.next[state].iter().any(|&next| next != DEAD && useful[next as usize]);
            }
            if useful.iter().filter(|useful| **useful).count() == before {
                break;
            }
        }
        // Classes of states that no text so far tells apart; 0 is that of the useless ones.
        let mut class: Vec<u32> = useful
            .iter()
            .zip(&self.accepting)
            .map(|(&useful, &accepting)| u32::from(useful) + u32::from(accepting))
            .collect();
        let mut classes = 0;
        loop {
            let mut known = HashMap::new();
            let split: Vec<u32> = (0..class.len())
                .map(|state| {
                    if !useful[state] {
                        return 0;
                    }
                    let row = self.next[state].map(|next| if next == DEAD { 0 } else { class[next as usize] });
                    let new = known.len() as u32 + 1;
                    *known.entry((class[state], row)).or_insert(new)
                })
                .collect();
            let count = known.len();
            class = split;
            if count == classes {
                break;
            }
            classes = count;
        }
        let mut merged = Self { next: vec![[DEAD; 256]; classes + 1], accepting: vec![false; classes + 1] };
        let row = |state: usize| {
            self.next[state].map(|next| match next {
                DEAD => DEAD,
                next if class[next as usize] == 0 => DEAD,
                next => class[next as usize],
            })
        };
        for state in (0..class.len()).filter(|&state| class[state] > 0) {
            merged.next[class[state] as usize] = row(state);
            merged.accepting[class[state] as usize] = self.accepting[state];
        }
        merged.next[0] = row(0);
        merged.accepting[0] = self.accepting[0];
        merged.reachable()
    }

    /// Only the states that the start leads to.
    fn reachable(self) -> Self {
        let mut place = vec![DEAD; self.next.len()];
        place[0] = 0;
        let mut order = vec![0];
        let mut at = 0;
        while let Some(&state) = order.get(at) {
            for &next in self.next[state].iter().filter(|&&next| next != DEAD) {
                if place[next as usize] == DEAD {
                    place[next as usize] = order.len() as u32;
                    order.push(next as usize);
                }
            }
            at += 1;
        }
        let rename = |next: u32| if next == DEAD { DEAD } else { place[next as usize] };
        Self {
            next: order.iter().map(|&state| self.next[state].map(rename)).collect(),
            accepting: order.iter().map(|&state| self.accepting[state]).collect(),
        }
    }

    /// The grammar for a tokenizer and the bytes of its section; `end` are the tokens that end an answer. Ready for
    /// [`Grammar::new`](thumbformer::decode::Grammar::new).
    ///
    /// # Errors
    /// More states than a grammar can have. A grammar that allows nothing is made; the runtime refuses it.
    pub fn grammar(&self, tokenizer: &Tokenizer<'_>, section: &[u8], end: &[u32]) -> Result<Vec<u8>> {
        let states = self.states();
        if states > MAX_STATES {
            return Err(Error::Usage(format!("a grammar of {states} states, expected at most {MAX_STATES}")));
        }
        let finish = self.finish(tokenizer, end);
        // Bytes that every state treats alike.
        let mut columns = HashMap::new();
        let classes: Vec<u8> = (0..256)
            .map(|byte| {
                let column: Vec<u32> = self.next.iter().map(|row| row[byte]).collect();
                let new = columns.len() as u8;
                *columns.entry(column).or_insert(new)
            })
            .collect();
        let mut content = classes.clone();
        finish.iter().for_each(|tokens| content.extend(tokens.to_le_bytes()));
        for row in &self.next {
            for class in 0..columns.len() {
                let byte = classes.iter().position(|&c| usize::from(c) == class).unwrap_or(0);
                content.extend((row[byte].min(u32::from(NONE)) as u16).to_le_bytes());
            }
        }
        let crc = thumbformer::blob::crc::crc32;
        let words = [VERSION, states as u32, columns.len() as u32, crc(section), crc(&content)];
        let mut bytes = MAGIC.to_vec();
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(crc(&bytes).to_le_bytes());
        bytes.extend(content);
        Ok(bytes)
    }

    /// The least number of tokens that complete a text, for each state; [`NONE`] where none do.
    fn finish(&self, tokenizer: &Tokenizer<'_>, end: &[u32]) -> Vec<u16> {
        let spoken = |id: &u32| !end.contains(id) && !tokenizer.is_special(*id);
        let tokens = (0..tokenizer.vocab()).filter(spoken);
        let mut trie = Trie::default();
        tokens.clone().for_each(|id| trie.insert(&continuation(tokenizer, id)));
        let mut reached: Vec<Vec<u32>> = (0..self.states()).into_par_iter().map(|s| trie.walk(self, s)).collect();
        // At its beginning a text may lose a space, so the first token is taken as it is shown.
        reached[0] = tokens
            .filter_map(|id| {
                let (mut text, mut stream) = (String::new(), tokenizer.stream(true));
                // Writing to a string cannot fail.
                let _ = stream.push(id, &mut text);
                let mut bytes = text.bytes().chain(stream.held().iter().copied()).peekable();
                bytes.peek()?;
                let step = |state: u32, byte| Some(self.next[state as usize][usize::from(byte)]).filter(|&s| s != DEAD);
                bytes.try_fold(0, step)
            })
            .collect();
        let mut before = vec![Vec::new(); self.states()];
        for (state, ends) in reached.iter().enumerate() {
            ends.iter().for_each(|&end| before[end as usize].push(state));
        }
        let mut finish = vec![NONE; self.states()];
        let mut edge: Vec<usize> = (0..self.states()).filter(|&state| self.accepting[state]).collect();
        for tokens in 0..NONE {
            edge.retain(|&state| finish[state] == NONE);
            edge.iter().for_each(|&state| finish[state] = tokens);
            edge = edge.iter().flat_map(|&state| before[state].iter().copied()).collect();
            if edge.is_empty() {
                break;
            }
        }
        finish
    }
}

/// What a token adds to a text that has begun.
fn continuation<'t>(tokenizer: &Tokenizer<'t>, id: u32) -> Cow<'t, [u8]> {
    if tokenizer.header().kind != Kind::WordPiece {
        return tokenizer.token_bytes(id).into();
    }
    // Behind any other token, such as itself, a word has a space before it, and what continues a word has lost its mark.
    let (mut text, mut stream) = (String::new(), tokenizer.stream(true));
    for _ in 0..2 {
        text.clear();
        // Writing to a string cannot fail.
        let _ = stream.push(id, &mut text);
    }
    text.into_bytes().into()
}

/// A text that ends in this state matches.
fn accepts(dfa: &dense::DFA<Vec<u32>>, state: StateID) -> bool {
    dfa.is_match_state(dfa.next_eoi_state(state))
}

/// An error and its causes.
fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The tokens' bytes as a tree, so that common beginnings are walked once.
#[derive(Default)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    ends: bool,
    children: Vec<(u8, usize)>,
}

impl Trie {
    fn insert(&mut self, bytes: &[u8]) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for &byte in bytes {
            let child = self.nodes[at].children.iter().find(|child| child.0 == byte).map(|child| child.1);
            at = child.unwrap_or_else(|| {
                let new = self.nodes.len();
                self.nodes[at].children.push((byte, new));
                self.nodes.push(Node::default());
                new
            });
        }
        self.nodes[at].ends |= at > 0;
    }

    /// The states in which tokens end that are said in `state`, each once.
    fn walk(&self, texts: &Texts, state: usize) -> Vec<u32> {
        let mut ends = Vec::new();
        let mut open = vec![(0, state)];
        while let Some((node, state)) = open.pop() {
            let Some(node) = self.nodes.get(node) else { continue };
            if node.ends {
                ends.push(state as u32);
            }
            let next = |&(byte, child): &(u8, usize)| (child, texts.next[state][usize::from(byte)]);
            open.extend(node.children.iter().map(next).filter(|o| o.1 != DEAD).map(|(child, s)| (child, s as usize)));
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}
