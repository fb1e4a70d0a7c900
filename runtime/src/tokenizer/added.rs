//! Added tokens: fixed strings that are cut out of the text before anything else happens to it.
//!
//! As in Hugging Face's library, the longest of the leftmost matches wins, tokens may take white space beside them
//! along, and normalized tokens are looked for in what the others leave.

use super::encode::fold_space;
use super::kinds::{AddedFlags, Prefix};
use super::section::{Added, Section};
use super::unicode::is_space;

/// A piece of text, perhaps with a space before it that is not in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'t> {
    pub(super) space: bool,
    pub(super) text: &'t str,
}

/// What a text consists of as far as added tokens are concerned.
pub(super) enum Part<'t> {
    /// Text between added tokens, not empty.
    Piece(Piece<'t>),
    /// An added token.
    Token(u32),
}

/// Cuts the added tokens of one class out of a piece.
pub(super) struct Parts<'e, 'a, 't> {
    section: &'e Section<'a>,
    added: &'e Added<'a>,
    /// Special tokens are text.
    skip_special: bool,
    /// The tokens are looked for after the leading space and folded spaces came about.
    normalized: bool,
    /// The rest of the piece begins with the space before it.
    space: bool,
    text: &'t str,
    /// Where the part to be returned next begins.
    start: usize,
    /// Where the search goes on: before `start` if a token took white space along.
    from: usize,
    /// Where the white space ends that was last taken along to the right, so that it is walked over once.
    space_end: usize,
    /// The token after the piece that was returned last.
    pending: Option<u32>,
}

impl<'e, 'a, 't> Parts<'e, 'a, 't> {
    pub(super) fn new(section: &'e Section<'a>, added: &'e Added<'a>, piece: Piece<'t>, parse_special: bool) -> Self {
        Parts {
            section,
            added,
            skip_special: !parse_special,
            normalized: core::ptr::eq(added, &section.added[1]),
            space: piece.space,
            text: piece.text,
            start: 0,
            from: 0,
            space_end: 0,
            pending: None,
        }
    }

    /// A normalized token was itself normalized: where every piece gets a space, it begins with one.
    fn spaced(&self) -> bool {
        self.normalized && self.section.header.prefix == Prefix::Always
    }

    /// The tokens are looked for in text whose U+2581 are spaces.
    fn folds(&self) -> bool {
        self.normalized && self.section.header.folds()
    }

    /// The next token and the part of the text that it takes.
    fn find(&mut self) -> Option<(u32, usize, usize)> {
        if self.added.ids.len() == 0 {
            return None;
        }
        let spaced = self.spaced();
        if spaced
            && self.space
            && self.from == 0
            && let Some((index, len)) = self.section.longest_added(self.added, self.text, self.folds())
        {
            self.from = len;
            if let Some(found) = self.accept(index, 0, len) {
                self.space = false;
                return Some(found);
            }
        }
        let fold = self.folds();
        while let Some(rest) = self.text.get(self.from..) {
            let c = rest.chars().next()?;
            let at = self.from;
            self.from += c.len_utf8();
            let body = if !spaced {
                rest
            } else if fold_space(fold, c) == ' ' {
                rest.get(c.len_utf8()..).unwrap_or_default()
            } else {
                continue;
            };
            if let Some((index, len)) = self.section.longest_added(self.added, body, fold) {
                let end = at + (rest.len() - body.len()) + len;
                self.from = end;
                if let Some(found) = self.accept(index, at, end) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Applies the token's flags to a match at `start..end`; `None` if it is to be left as text.
    fn accept(&mut self, index: usize, start: usize, end: usize) -> Option<(u32, usize, usize)> {
        let id = self.added.ids.get(index)?;
        if self.skip_special && self.section.is_special(id) {
            return None;
        }
        let flags = AddedFlags(self.added.flags.get(index).copied().unwrap_or_default());
        if flags.has(AddedFlags::VERBATIM) || flags.has(AddedFlags::SINGLE_WORD) && !self.is_apart(start, end) {
            return None;
        }
        let (mut start, mut end) = (start, end);
        if flags.has(AddedFlags::LSTRIP) {
            let before = self.text.get(self.start..start).unwrap_or_default();
            start = self.start + before.trim_end_matches(is_space).len();
        }
        if flags.has(AddedFlags::RSTRIP) {
            if end > self.space_end {
                let after = self.text.get(end..).unwrap_or_default();
                self.space_end = self.text.len() - after.trim_start_matches(is_space).len();
            }
            end = self.space_end;
        }
        // Another token may have taken all of it along.
        (start < end).then_some((id, start, end))
    }

    /// No word character stands beside `start..end`.
    fn is_apart(&self, start: usize, end: usize) -> bool {
        let before = self.text.get(..start).and_then(|text| text.chars().next_back());
        let after = self.text.get(end..).and_then(|text| text.chars().next());
        [before, after].into_iter().flatten().all(|c| self.section.word_chars().of(c) == 0)
    }
}

impl<'t> Iterator for Parts<'_, '_, 't> {
    type Item = Part<'t>;

    fn next(&mut self) -> Option<Part<'t>> {
        if let Some(id) = self.pending.take() {
            return Some(Part::Token(id));
        }
        let (token, start, end) = match self.find() {
            Some((id, start, end)) => (Some(id), start, end),
            None => (None, self.text.len(), self.text.len()),
        };
        let text = self.text.get(self.start..start).unwrap_or_default();
        let space = core::mem::take(&mut self.space);
        self.start = end;
        if space || !text.is_empty() {
            self.pending = token;
            return Some(Part::Piece(Piece { space, text }));
        }
        token.map(Part::Token)
    }
}
