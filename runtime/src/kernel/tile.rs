//! A rectangle of a row-major buffer that can be cut between workers by columns.

use core::marker::PhantomData;

/// `rows × cols` elements, `stride` apart, of one mutable buffer.
///
/// Safe Rust splits slices by rows only; the outputs of a matrix product for several tokens are split by columns. Tiles
/// from one buffer never overlap, so each can go to its own thread.
#[derive(Debug)]
pub struct TileMut<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a tile is the only access to its elements, like the `&mut [T]` it was made from.
unsafe impl<T: Send> Send for TileMut<'_, T> {}

impl<'a, T> TileMut<'a, T> {
    /// The first `cols` columns of every complete row of `stride` elements. No rows if `cols > stride` or `stride` is 0.
    pub fn new(buffer: &'a mut [T], cols: usize, stride: usize) -> Self {
        let rows = if cols > stride { 0 } else { buffer.len().checked_div(stride).unwrap_or(0) };
        Self { start: buffer.as_mut_ptr(), rows, cols, stride, buffer: PhantomData }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Where row `row` starts, for code that goes on to later rows, and the elements from a row's start to the next one's.
    #[cfg(dsp)]
    pub(super) fn start(&mut self, row: usize) -> (*mut T, usize) {
        (self.start.wrapping_add(row * self.stride), self.stride)
    }

    /// Row `row`; empty beyond the last.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        if row >= self.rows {
            return &mut [];
        }
        // SAFETY: `new` holds rows·stride elements and cols ≤ stride; `split_at` keeps every tile inside its parent, and
        // no other tile reaches these columns. The borrow of `self` keeps rows of one tile apart.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.cols) }
    }

    /// The rows one after another, each cut into pieces of `width` columns; what remains of a row is left out.
    #[inline(always)]
    pub fn pieces(&mut self, width: usize) -> Pieces<'_, T> {
        let per_row = self.cols.checked_div(width).unwrap_or(0);
        let rows = if per_row == 0 { 0 } else { self.rows };
        Pieces { row: self.start, piece: 0, rows, per_row, width, stride: self.stride, tile: PhantomData }
    }

    /// Cuts before column `at` (at most all columns).
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.cols);
        // SAFETY: at ≤ cols ≤ stride, so the offset stays in the buffer, or one past its end if it has no rows.
        let right = unsafe { self.start.add(if self.rows == 0 { 0 } else { at }) };
        (
            Self { cols: at, ..self },
            Self { start: right, rows: self.rows, cols: self.cols - at, stride: self.stride, buffer: PhantomData },
        )
    }

    /// Strips of `width` columns, the last one perhaps narrower.
    pub fn strips(self, width: usize) -> impl Iterator<Item = TileMut<'a, T>> {
        (0..self.cols).step_by(width.max(1)).map(move |at| TileMut {
            // at < cols ≤ stride, so the strip lies in the tile, unless that has no rows and is never read.
            start: self.start.wrapping_add(at),
            rows: self.rows,
            cols: width.min(self.cols - at),
            stride: self.stride,
            buffer: PhantomData,
        })
    }

    /// The whole tile again, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> TileMut<'_, T> {
        TileMut { start: self.start, rows: self.rows, cols: self.cols, stride: self.stride, buffer: PhantomData }
    }
}

/// What [`TileMut::pieces`] gives.
#[derive(Debug)]
pub struct Pieces<'a, T> {
    row: *mut T,
    /// The next piece of that row.
    piece: usize,
    /// Rows left, this one included.
    rows: usize,
    per_row: usize,
    width: usize,
    stride: usize,
    tile: PhantomData<&'a mut T>,
}

impl<'a, T> Iterator for Pieces<'a, T> {
    type Item = &'a mut [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a mut [T]> {
        if self.rows == 0 {
            return None;
        }
        // SAFETY: rows are the tile's; piece < per_row, so the piece lies in its row (see `TileMut::row`). Every piece is
        // given once, and the iterator borrows the tile.
        let piece = unsafe { core::slice::from_raw_parts_mut(self.row.add(self.piece * self.width), self.width) };
        self.piece += 1;
        if self.piece == self.per_row {
            self.piece = 0;
            self.rows -= 1;
            self.row = self.row.wrapping_add(self.stride);
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cut_by_columns_cover_the_buffer_once() {
        let mut buffer = [0u8; 15];
        let (mut left, rest) = TileMut::new(&mut buffer, 5, 5).split_at(2);
        let (mut middle, mut right) = rest.split_at(1);
        for row in 0..3 {
            left.row(row).fill(1);
            middle.row(row).fill(2);
            right.row(row).fill(3);
        }
        assert!(left.row(3).is_empty());
        assert_eq!(buffer, [1, 1, 2, 3, 3, 1, 1, 2, 3, 3, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn strips_cover_a_tile_once() {
        let mut buffer = [0u8; 16];
        for (i, mut strip) in TileMut::new(&mut buffer, 7, 8).strips(3).enumerate() {
            for row in 0..2 {
                strip.row(row).iter_mut().for_each(|x| *x += 1 + i as u8);
            }
        }
        assert_eq!(buffer, [1, 1, 1, 2, 2, 2, 3, 0, 1, 1, 1, 2, 2, 2, 3, 0]);
        assert_eq!(TileMut::new(&mut buffer, 7, 8).strips(0).count(), 7);
    }

    #[test]
    fn a_tile_wider_than_its_stride_has_no_rows() {
        let mut buffer = [0u8; 15];
        assert_eq!(TileMut::new(&mut buffer, 6, 5).rows(), 0);
        assert_eq!(TileMut::new(&mut buffer, 0, 0).rows(), 0);
    }
}
