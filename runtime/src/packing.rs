//! How int8 weights lie in memory: the interleavings, their sizes, and single elements of them.
//!
//! A matrix of `rows × cols` is cut into blocks of [`Layout::block_rows`] rows; a block stores, for one *quad* of four
//! columns after the other, that quad of each of its rows. A kernel thus loads one vector of weights, broadcasts four
//! activations, and never sums horizontally. Missing rows and columns of the last block and quad are zero. Scales are
//! f16, `[block][group][row of block]`. Weights lie in −127…127; a byte of −128, which no converter writes, still gives a
//! defined product in every kernel for SIMD registers, but is outside the contract of equal bits. The key and value
//! caches use the same interleavings.
//!
//! - [`Layout::Rows8`]: 8 rows × 4 columns, a byte each: one AVX2 register, two NEON ones.
//! - [`Layout::Dsp`]: 4 rows × 4 columns as 4 little-endian words, *borrow-adjusted*: of weights `w0…w3` the word is
//!   `((256·w3 + w2) << 16) | (256·w1 + w0)`, each half a signed 16-bit sum. Cortex-M's `SMLAD` and `SXTB16` turn it
//!   into four multiply-adds with three instructions.
//!
//! A layout also says how the vector lies that such a matrix is multiplied by ([`Layout::expand`]).

/// The interleaving of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// For SIMD registers of 32 or 16 bytes.
    Rows8 = 0,
    /// For the DSP extension of Cortex-M4, M7 and M33.
    Dsp = 1,
}

/// Columns that lie side by side in every layout.
pub const QUAD: usize = 4;

impl Layout {
    /// Columns of a group, or of a head, whose products fit 32 bits in assembly for [`Layout::Dsp`]: its sums are 256 times as
    /// large.
    pub(crate) const DSP_COLS: usize = 512;

    /// Rows that are interleaved.
    pub const fn block_rows(self) -> usize {
        match self {
            Layout::Rows8 => 8,
            Layout::Dsp => 4,
        }
    }

    /// Rows of as many whole blocks as it takes; `None` if this machine cannot count them.
    const fn whole_blocks(self, rows: usize) -> Option<usize> {
        // A power of two, which the compiler cannot know.
        let last = self.block_rows() - 1;
        match rows.checked_add(last) {
            Some(rows) => Some(rows & !last),
            None => None,
        }
    }

    /// Bytes between one quad of a block and the next.
    pub const fn quad_bytes(self) -> usize {
        self.block_rows() * QUAD
    }

    /// The layout's name, as `convert --target` and `inspect` spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::Rows8 => "rows8",
            Layout::Dsp => "dsp",
        }
    }

    /// Byte offset of the quad which holds (`row`, `col`) of a block matrix with `cols` columns.
    #[inline(always)]
    pub const fn quad_offset(self, row: usize, col: usize, cols: usize) -> usize {
        let rows = self.block_rows();
        let block = row / rows * rows * round_up(cols, QUAD);
        block + col / QUAD * self.quad_bytes() + row % rows * QUAD
    }

    /// Stores four weights as the layout encodes a quad.
    #[inline(always)]
    pub const fn encode(self, w: [i8; QUAD]) -> [u8; QUAD] {
        match self {
            Layout::Rows8 => [w[0] as u8, w[1] as u8, w[2] as u8, w[3] as u8],
            Layout::Dsp => {
                let low = (w[1] as i16).wrapping_mul(256).wrapping_add(w[0] as i16).to_le_bytes();
                let high = (w[3] as i16).wrapping_mul(256).wrapping_add(w[2] as i16).to_le_bytes();
                [low[0], low[1], high[0], high[1]]
            }
        }
    }

    /// Replaces the weight of column `col` in its stored quad.
    #[inline(always)]
    pub const fn replace(self, bytes: &mut [u8; QUAD], col: usize, w: i8) {
        match self {
            Layout::Rows8 => bytes[col % QUAD] = w as u8,
            Layout::Dsp => {
                let pair = &mut bytes.as_chunks_mut::<2>().0[col / 2 % 2];
                let sum = i16::from_le_bytes(*pair);
                let even = sum as i8 as i16;
                let sum = if col.is_multiple_of(2) {
                    sum.wrapping_sub(even).wrapping_add(w as i16)
                } else {
                    even.wrapping_add(w as i16 * 256)
                };
                *pair = sum.to_le_bytes();
            }
        }
    }

    /// Bytes of a quad of the vectors that matrices of this layout are multiplied by.
    pub const fn input_bytes(self) -> usize {
        match self {
            Layout::Rows8 => QUAD,
            Layout::Dsp => 2 * QUAD,
        }
    }

    /// Bytes of such a vector of `n` values.
    pub const fn vector_bytes(self, n: usize) -> usize {
        n.div_ceil(QUAD) * self.input_bytes()
    }

    /// Four activations as [`Layout::Dsp`]'s products take them: the words `(x3 << 16) | x1` and
    /// `((256·x2 − x3) << 16) | (256·x0 − x1)`, each half a signed 16-bit number.
    ///
    /// With a word `w` of weights, `SMLAD` of `w` and the first, plus `SMLAD` of `SXTB16(w)` and the second, is 256 times
    /// the sum of the four products: `SXTB16` gives `(w2, w0)`, and what the first product has too much cancels.
    #[inline(always)]
    pub const fn expand(x: [i8; QUAD]) -> [i8; 2 * QUAD] {
        let (x1, x3) = ((x[1] as i16).to_le_bytes(), (x[3] as i16).to_le_bytes());
        let low = (x[0] as i16).wrapping_mul(256).wrapping_sub(x[1] as i16).to_le_bytes();
        let high = (x[2] as i16).wrapping_mul(256).wrapping_sub(x[3] as i16).to_le_bytes();
        let bytes = [x1[0], x1[1], x3[0], x3[1], low[0], low[1], high[0], high[1]];
        let mut expanded = [0; 2 * QUAD];
        let mut i = 0;
        while i < bytes.len() {
            expanded[i] = bytes[i] as i8;
            i += 1;
        }
        expanded
    }

    /// The four weights of a stored quad. Inverse of [`Layout::encode`] for weights in −127…127.
    #[inline(always)]
    pub const fn decode(self, bytes: [u8; QUAD]) -> [i8; QUAD] {
        match self {
            Layout::Rows8 => [bytes[0] as i8, bytes[1] as i8, bytes[2] as i8, bytes[3] as i8],
            Layout::Dsp => {
                // A negative even weight has borrowed one from the odd weight above it.
                let (w0, w2) = (bytes[0] as i8, bytes[2] as i8);
                let w1 = (bytes[1] as i8).wrapping_add((w0 < 0) as i8);
                let w3 = (bytes[3] as i8).wrapping_add((w2 < 0) as i8);
                [w0, w1, w2, w3]
            }
        }
    }
}

/// Layout and group size: what a blob's header says about all of its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Interleaving.
    pub layout: Layout,
    /// Columns that share a scale: 32 or 64; 0 for whole rows.
    pub group: u32,
}

impl Packing {
    /// Columns of every group but perhaps the last.
    #[inline(always)]
    pub const fn group_cols(self, cols: usize) -> usize {
        if self.group == 0 || self.group as usize > cols { cols } else { self.group as usize }
    }

    /// Groups of a row; the last one may be short.
    #[inline(always)]
    pub const fn groups(self, cols: usize) -> usize {
        if cols == 0 { 0 } else { cols.div_ceil(self.group_cols(cols)) }
    }

    /// Bytes of a matrix's weights; `None` if this machine cannot address them.
    pub const fn weight_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match (self.layout.whole_blocks(rows), cols.checked_next_multiple_of(QUAD)) {
            (Some(rows), Some(cols)) => rows.checked_mul(cols),
            _ => None,
        }
    }

    /// Number of a matrix's f16 scales; `None` if this machine cannot address them.
    pub const fn scale_count(self, rows: usize, cols: usize) -> Option<usize> {
        match self.layout.whole_blocks(rows) {
            Some(rows) => rows.checked_mul(self.groups(cols)),
            None => None,
        }
    }

    /// Index of the scale of (`row`, `group`).
    #[inline(always)]
    pub const fn scale_index(self, row: usize, group: usize, cols: usize) -> usize {
        let rows = self.layout.block_rows();
        (row / rows * self.groups(cols) + group) * rows + row % rows
    }
}

/// The next multiple of `unit` at or above `n`; for sizes the format caps, so that it cannot overflow.
#[inline(always)]
pub const fn round_up(n: usize, unit: usize) -> usize {
    n.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_weights_survives_the_dsp_encoding() {
        for a in -127i8..=127 {
            for b in -127i8..=127 {
                for quad in [[a, b, b, a], [b, a, a, a], [0, b, a, 0]] {
                    assert_eq!(Layout::Dsp.decode(Layout::Dsp.encode(quad)), quad);
                }
            }
        }
    }

    #[test]
    fn a_dsp_word_is_the_sum_that_the_design_states() {
        let w = [-3i8, 127, -127, -1];
        let word = i32::from_le_bytes(Layout::Dsp.encode(w));
        let half = |even: i8, odd: i8| i32::from(odd) * 256 + i32::from(even);
        assert_eq!(i32::from(word as i16), half(w[0], w[1]));
        assert_eq!(word >> 16, half(w[2], w[3]));
    }

    #[test]
    fn group_tails_are_short_not_dropped() {
        let p = Packing { layout: Layout::Rows8, group: 64 };
        assert_eq!((p.groups(172), p.group_cols(172)), (3, 64));
        assert_eq!(Packing { group: 0, ..p }.groups(172), 1);
        assert_eq!(p.groups(20), 1);
    }

    #[test]
    fn sizes_that_no_machine_has_are_none() {
        let p = Packing { layout: Layout::Rows8, group: 32 };
        assert_eq!((p.groups(0), p.weight_bytes(8, 0), p.scale_count(8, 0)), (0, Some(0), Some(0)));
        for (rows, cols) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX / 8, 16)] {
            assert_eq!(p.weight_bytes(rows, cols), None);
        }
        assert_eq!(p.scale_count(usize::MAX, 1), None);
    }
}
