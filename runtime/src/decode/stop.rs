//! Stop strings in streamed text: an answer ends before the first of them, wherever token boundaries fall.

/// What a piece of text did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped(pub bool);

/// Watches streamed text for stop strings and holds back what may be the start of one.
///
/// `N` is the room for held-back text in bytes; it must be at least twice the longest stop string.
///
/// ```
/// use thumbformer::decode::{StopStrings, Stopped};
/// let mut watch = StopStrings::<32>::new(&["\nUser:"]).unwrap();
/// let mut shown = String::new();
/// assert_eq!(watch.push("Hello.\nUs", |text| shown += text), Stopped(false));
/// assert_eq!(shown, "Hello.");
/// assert_eq!(watch.push("er: Bye", |text| shown += text), Stopped(true));
/// assert_eq!(shown, "Hello.");
/// ```
#[derive(Clone, Debug)]
pub struct StopStrings<'s, const N: usize> {
    stops: &'s [&'s str],
    held: heapless::String<N>,
}

impl<'s, const N: usize> StopStrings<'s, N> {
    /// Watches for `stops`; empty ones are ignored. `None` if one is longer than half of `N`, or `N`
    /// is below 8.
    pub fn new(stops: &'s [&'s str]) -> Option<Self> {
        (N >= 8 && stops.iter().all(|s| s.len() <= N / 2)).then_some(Self { stops, held: heapless::String::new() })
    }

    /// Takes a piece of text and calls `show` with what is certain not to belong to a stop string. After `Stopped(true)`
    /// the answer has ended: the stop string and what follows are dropped.
    pub fn push(&mut self, text: &str, mut show: impl FnMut(&str)) -> Stopped {
        for c in text.chars() {
            if self.held.push(c).is_err() {
                self.show_certain(&mut show);
                // Fits now: less than the longest stop string is left, and `N` is twice as long.
                let _ = self.held.push(c);
            }
            // Of several that end here the longest begins first.
            let ended = self.stops.iter().filter(|s| self.held.ends_with(**s)).map(|s| s.len()).max();
            if let Some(len @ 1..) = ended {
                let keep = self.held.len() - len;
                show(self.held.get(..keep).unwrap_or(""));
                self.held.clear();
                return Stopped(true);
            }
        }
        self.show_certain(&mut show);
        Stopped(false)
    }

    fn show_certain(&mut self, show: &mut impl FnMut(&str)) {
        let certain = self.held.len() - self.undecided();
        if certain > 0 {
            show(self.held.get(..certain).unwrap_or(""));
            // What is left starts at a character boundary: it is a suffix found by `undecided`, or empty.
            self.held = self.held.get(certain..).unwrap_or("").try_into().unwrap_or_default();
        }
    }

    /// Shows what is still held back: the text has ended.
    pub fn finish(&mut self, mut show: impl FnMut(&str)) {
        if !self.held.is_empty() {
            show(&self.held);
            self.held.clear();
        }
    }

    /// Bytes at the end that a stop string may start with.
    fn undecided(&self) -> usize {
        let starts = |suffix: &str| self.stops.iter().any(|stop| stop.starts_with(suffix));
        let mut suffixes = self.held.char_indices().map(|(at, _)| self.held.get(at..).unwrap_or(""));
        suffixes.find(|suffix| starts(suffix)).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    /// What is shown of `text`, given in pieces of `step` bytes, and whether a stop string ended it.
    fn shown(stops: &[&str], text: &str, step: usize) -> (String, bool) {
        let mut watch = StopStrings::<32>::new(stops).unwrap();
        let mut out = String::new();
        for piece in text.as_bytes().chunks(step) {
            if watch.push(core::str::from_utf8(piece).unwrap(), |text| out += text) == Stopped(true) {
                return (out, true);
            }
        }
        watch.finish(|text| out += text);
        (out, false)
    }

    #[test]
    fn the_stop_string_that_begins_first_ends_the_text() {
        for step in [1, 2, 3, 100] {
            assert_eq!(shown(&["b", "ab"], "xxab", step), ("xx".into(), true));
            assert_eq!(shown(&["ab", "b"], "xxab", step), ("xx".into(), true));
            assert_eq!(shown(&["", "abc"], "ababx", step), ("ababx".into(), false));
            assert_eq!(shown(&["aab"], "aaab", step), ("a".into(), true));
            assert!(!shown(&[], "a text longer than the room that there is", step).1);
        }
    }
}
