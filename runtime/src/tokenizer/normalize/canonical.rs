//! The canonical order of marks, and canonical composition (UAX 15), for text that is decomposed already.
//!
//! Nothing is buffered: a run of marks is walked over once for each combining class in it, and a composed character once
//! more for the marks that are left.

use super::super::property::{Property, partition, word_at};
use super::{Out, take_word, take_words};

/// The tables in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canonical<'a> {
    classes: Property<'a>,
    /// First character, second character, and what they compose to.
    compositions: &'a [u8],
}

impl<'a> Canonical<'a> {
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (count, rest) = take_word(data)?;
        let (classes, compositions) = take_words(rest, count)?;
        let whole = compositions.len().is_multiple_of(12);
        whole.then_some(Canonical { classes: Property::new(classes), compositions })
    }

    fn len(self) -> usize {
        self.compositions.len() / 12
    }

    fn composition(self, index: usize) -> [u32; 3] {
        [0, 1, 2].map(|part| word_at(self.compositions, 3 * index + part))
    }

    pub(super) fn is_sound(self) -> bool {
        let pair = |index| {
            let [first, second, _] = self.composition(index);
            (first, second)
        };
        self.classes.unsound().is_none()
            && (1..self.len()).all(|index| pair(index - 1) < pair(index))
            && (0..self.len()).all(|index| self.composition(index).into_iter().all(|c| char::from_u32(c).is_some()))
    }

    pub(super) fn apply(self, text: &str, out: &mut Out<'_>) {
        let mut chars = Ordered { classes: self.classes, text, run: None };
        if self.len() == 0 {
            return chars.for_each(|(c, _)| out.push_char(c));
        }
        while let Some((starter, class)) = chars.next() {
            if class != 0 {
                out.push_char(starter); // marks without anything before them
                continue;
            }
            let mut left = Composing { tables: self, composed: starter, last_class: 0 };
            let mut ahead = chars.clone();
            while let Some((c, class)) = ahead.next()
                && left.take(c, class) != Taken::Starter
            {}
            out.push_char(left.composed);
            // Once more, for the marks that were not taken.
            let mut again = Composing { tables: self, composed: starter, last_class: 0 };
            let mut ahead = chars.clone();
            while let Some((c, class)) = ahead.next() {
                match again.take(c, class) {
                    Taken::Starter => break,
                    Taken::Mark => out.push_char(c),
                    Taken::Composed => {}
                }
                chars = ahead.clone();
            }
        }
    }

    fn compose(self, first: char, second: char) -> Option<char> {
        let (a, b) = (first as u32, second as u32);
        // Hangul (The Unicode Standard, section 3.12).
        match (a, b) {
            (0x1100..0x1113, 0x1161..0x1176) => return char::from_u32(0xAC00 + (a - 0x1100) * 588 + (b - 0x1161) * 28),
            (0xAC00..=0xD7A3, 0x11A8..0x11C3) if (a - 0xAC00).is_multiple_of(28) => {
                return char::from_u32(a + b - 0x11A7);
            }
            _ => {}
        }
        let index = partition(self.len(), |index| {
            let [first, second, _] = self.composition(index);
            (first, second) < (a, b)
        });
        match self.composition(index) {
            [first, second, composed] if index < self.len() && (first, second) == (a, b) => char::from_u32(composed),
            _ => None,
        }
    }
}

/// A starter that takes what follows it in.
struct Composing<'a> {
    tables: Canonical<'a>,
    composed: char,
    /// Combining class of the last mark that was left.
    last_class: u8,
}

#[derive(PartialEq, Eq)]
enum Taken {
    /// The character is part of the composed one now.
    Composed,
    /// A mark stays.
    Mark,
    /// The next starter begins.
    Starter,
}

impl Composing<'_> {
    fn take(&mut self, c: char, class: u8) -> Taken {
        let blocked = self.last_class != 0 && self.last_class >= class;
        if !blocked && let Some(composed) = self.tables.compose(self.composed, c) {
            self.composed = composed;
            return Taken::Composed;
        }
        if class == 0 {
            return Taken::Starter;
        }
        self.last_class = class;
        Taken::Mark
    }
}

/// The characters of a text with each run of marks in the order of their combining classes, and these.
#[derive(Clone)]
struct Ordered<'a, 't> {
    classes: Property<'a>,
    /// From the run on, while there is one.
    text: &'t str,
    run: Option<Run>,
}

/// A run of marks at the front of the text.
#[derive(Clone, Copy)]
struct Run {
    len: usize,
    /// The class whose marks are given now, and how far into the run they are.
    class: u8,
    at: usize,
}

impl Iterator for Ordered<'_, '_> {
    type Item = (char, u8);

    fn next(&mut self) -> Option<(char, u8)> {
        loop {
            let Some(run) = &mut self.run else {
                let c = self.text.chars().next()?;
                let class = self.classes.of(c);
                if class == 0 {
                    self.text = self.text.get(c.len_utf8()..).unwrap_or_default();
                    return Some((c, 0));
                }
                let end = self.text.find(|c| self.classes.of(c) == 0);
                self.run = Some(Run { len: end.unwrap_or(self.text.len()), class: 0, at: 0 });
                continue;
            };
            let marks = self.text.get(..run.len).unwrap_or_default();
            let rest = marks.get(run.at..).unwrap_or_default();
            if let Some((at, c)) = rest.char_indices().find(|&(_, c)| self.classes.of(c) == run.class) {
                run.at += at + c.len_utf8();
                return Some((c, run.class));
            }
            match marks.chars().map(|c| self.classes.of(c)).filter(|&class| class > run.class).min() {
                Some(class) => (run.class, run.at) = (class, 0),
                None => {
                    self.text = self.text.get(run.len..).unwrap_or_default();
                    self.run = None;
                }
            }
        }
    }
}
