//! Properties of characters, as tables in the blob.

/// A property: words with a code point and, in the top eight bits, the value of the characters from there up to the next
/// entry's. Characters before the first entry have the value 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Property<'a>(&'a [u8]);

/// A word of a table; 0 beyond its end.
pub(super) fn word_at(bytes: &[u8], index: usize) -> u32 {
    let (words, _) = bytes.as_chunks::<4>();
    words.get(index).map_or(0, |&word| u32::from_le_bytes(word))
}

/// Number of the entries `0..len` that `before` holds for: those come first.
pub(super) fn partition(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

impl<'a> Property<'a> {
    pub(super) fn new(table: &'a [u8]) -> Self {
        Property(table)
    }

    /// The first entry that is no code point or not above the one before it.
    pub(super) fn unsound(self) -> Option<usize> {
        let code = |index| word_at(self.0, index) & 0xFF_FFFF;
        (0..self.0.len() / 4).find(|&index| {
            code(index) > char::MAX as u32 || index.checked_sub(1).is_some_and(|before| code(before) >= code(index))
        })
    }

    /// Every value satisfies `allowed`.
    pub(super) fn values_are(self, allowed: impl Fn(u8) -> bool) -> bool {
        (0..self.0.len() / 4).all(|index| allowed((word_at(self.0, index) >> 24) as u8))
    }

    /// The value of a character.
    pub(super) fn of(self, c: char) -> u8 {
        let after = partition(self.0.len() / 4, |index| word_at(self.0, index) & 0xFF_FFFF <= c as u32);
        after.checked_sub(1).map_or(0, |index| (word_at(self.0, index) >> 24) as u8)
    }
}
