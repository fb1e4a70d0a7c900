//! Byte pair encoding of one word (Sennrich et al., 2016, arXiv:1508.07909), without a heap.
//!
//! Merging takes the adjacent pair of lowest priority, the leftmost of equals, until none is left. A pair may merge if
//! its bytes are those of a token, and has that token's priority. For a list of merges this is the same as looking pairs
//! up in the list: a token's bytes, surrounded by anything, pass through the same merges as they do alone as long as no
//! merge crosses their borders, so the only two-symbol state that they can reach is the one before the token's own
//! merge. (Tokens that their own bytes do not merge into are unreachable, and kept out of the table by the converter.)
//!
//! The pairs stand in a tournament tree over byte positions, so a word of n bytes takes O(n log n) steps whatever it is.

use super::section::Section;

/// Workspace for each byte of the longest word, in bytes: the word itself and three u32.
const BYTES_PER_BYTE: usize = 1 + 3 * 4;

/// `u32`s of workspace that [`super::Tokenizer::encode`] needs for words of up to `bytes` bytes.
pub const fn workspace_len(bytes: usize) -> usize {
    bytes.saturating_mul(BYTES_PER_BYTE).div_ceil(4)
}

/// Scratch memory, divided.
pub(super) struct Workspace<'w> {
    /// The word.
    pub(super) word: &'w mut [u8],
    pub(super) links: &'w mut [u32],
    pub(super) priorities: &'w mut [u32],
    pub(super) tree: &'w mut [u32],
}

impl<'w> Workspace<'w> {
    pub(super) fn new(memory: &'w mut [u32]) -> Self {
        // Positions are u32, and u32::MAX is no position.
        let capacity = (memory.len().saturating_mul(4) / BYTES_PER_BYTE).min(u32::MAX as usize / 4);
        let split = |memory: &'w mut [u32], len| memory.split_at_mut_checked(len).unwrap_or_default();
        let (links, memory) = split(memory, capacity);
        let (priorities, memory) = split(memory, capacity);
        let (tree, memory) = split(memory, capacity);
        let word = bytemuck::cast_slice_mut::<u32, u8>(memory);
        let (word, _) = word.split_at_mut_checked(capacity).unwrap_or_default();
        Workspace { word, links, priorities, tree }
    }

    /// Moves the symbols that `keep` wants to the front of the word, whose first `len` bytes are used; returns the bytes
    /// that are left.
    pub(super) fn retain(
        &mut self,
        len: usize,
        symbol_len: impl Fn(u8) -> usize,
        keep: impl Fn(&[u8]) -> bool,
    ) -> usize {
        let (mut from, mut to) = (0, 0);
        while let Some(&first) = self.word.get(from).filter(|_| from < len) {
            let end = (from + symbol_len(first).max(1)).min(len);
            if self.word.get(from..end).is_some_and(&keep) {
                // Byte by byte: symbols are short, and firmware does without the long code that moves more.
                for at in from..end {
                    let byte = self.word.get(at).copied().unwrap_or_default();
                    self.word.get_mut(to).into_iter().for_each(|slot| *slot = byte);
                    to += 1;
                }
            }
            from = end;
        }
        to
    }

    /// Merges the first `len` bytes of the word; `symbol_len` gives the length of the symbol that begins with a byte.
    /// Then calls `emit` with the bytes of each symbol that is left.
    pub(super) fn merge<E>(
        &mut self,
        section: &Section<'_>,
        len: usize,
        symbol_len: impl Fn(u8) -> usize,
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut word = Word {
            bytes: self.word.get(..len).unwrap_or_default(),
            links: self.links.get_mut(..len).unwrap_or_default(),
            priorities: self.priorities.get_mut(..len).unwrap_or_default(),
            tree: self.tree.get_mut(..len).unwrap_or_default(),
        };
        word.begin(section, symbol_len);
        while let Some(left) = word.best() {
            word.merge(section, left);
        }
        let mut start = 0;
        while start < len {
            let end = word.end(start);
            emit(word.bytes.get(start..end).unwrap_or_default())?;
            start = end;
        }
        Ok(())
    }
}

/// No pair begins here, or it cannot merge.
const NEVER: u32 = u32::MAX;

/// A word being merged. A symbol is named by the position of its first byte.
struct Word<'w> {
    bytes: &'w [u8],
    /// At a symbol's first byte its end, at its last byte its start; a symbol of one byte has its end there.
    links: &'w mut [u32],
    /// Priority of the pair that begins with the symbol at this position.
    priorities: &'w mut [u32],
    /// Entry n > 0 is the position with the best pair below node n, whose children are 2n and 2n + 1; the leaves, one
    /// for each position, would be the next `tree.len()` entries.
    tree: &'w mut [u32],
}

impl Word<'_> {
    fn begin(&mut self, section: &Section<'_>, symbol_len: impl Fn(u8) -> usize) {
        let mut start = 0;
        while let Some(&byte) = self.bytes.get(start) {
            let end = (start + symbol_len(byte).max(1)).min(self.bytes.len());
            self.link(start, end);
            start = end;
        }
        self.priorities.fill(NEVER);
        start = 0;
        while start < self.bytes.len() {
            self.rate(section, start);
            start = self.end(start);
        }
        for node in (1..self.tree.len()).rev() {
            let winner = self.winner(node);
            set(self.tree, node, winner);
        }
    }

    /// The symbol whose pair merges next.
    fn best(&self) -> Option<usize> {
        let position = self.tree.get(1).map_or(0, |&position| position as usize);
        self.priorities.get(position).filter(|&&priority| priority != NEVER).map(|_| position)
    }

    /// Merges the symbol at `left` with the one after it.
    fn merge(&mut self, section: &Section<'_>, left: usize) {
        let right = self.end(left);
        let end = self.end(right);
        set(self.priorities, right, NEVER);
        self.replay(right);
        self.link(left, end);
        self.rate(section, left);
        self.replay(left);
        if let Some(before) = self.before(left) {
            self.rate(section, before);
            self.replay(before);
        }
    }

    fn link(&mut self, start: usize, end: usize) {
        set(self.links, end - 1, start as u32);
        set(self.links, start, end as u32);
    }

    /// Where the symbol at `start` ends. Always beyond `start`, so that loops end.
    fn end(&self, start: usize) -> usize {
        self.links.get(start).map_or(start + 1, |&end| (end as usize).max(start + 1))
    }

    /// The symbol that ends where `start` begins.
    fn before(&self, start: usize) -> Option<usize> {
        let last = start.checked_sub(1)?;
        self.links.get(last).map(|&link| (link as usize).min(last))
    }

    /// Looks up the priority of the pair that begins at `start`.
    fn rate(&mut self, section: &Section<'_>, start: usize) {
        let right = self.end(start);
        let pair = if right < self.bytes.len() { self.bytes.get(start..self.end(right)) } else { None };
        let priority = pair.and_then(|pair| section.find(pair)).map_or(NEVER, |(_, priority)| priority);
        set(self.priorities, start, priority);
    }

    /// The position under a node of the tree or a leaf.
    fn position(&self, node: usize) -> u32 {
        self.tree.get(node).copied().unwrap_or_else(|| (node - self.tree.len()) as u32)
    }

    /// The better of a node's children.
    fn winner(&self, node: usize) -> u32 {
        let key = |position: u32| (self.priorities.get(position as usize).copied().unwrap_or(NEVER), position);
        key(self.position(2 * node)).min(key(self.position(2 * node + 1))).1
    }

    /// Plays a position's matches again, after its priority changed.
    fn replay(&mut self, position: usize) {
        let mut node = (position + self.tree.len()) / 2;
        while node > 0 {
            let winner = self.winner(node);
            // Where another position won before and wins again, nothing above can change.
            if self.tree.get(node) == Some(&winner) && winner as usize != position {
                break;
            }
            set(self.tree, node, winner);
            node /= 2;
        }
    }
}

fn set(slice: &mut [u32], index: usize, value: u32) {
    if let Some(entry) = slice.get_mut(index) {
        *entry = value;
    }
}
