//! Tensors' bytes to f32: any rows of a matrix, plain or transposed, each value checked to be finite.
//!
//! Rows that lie in one piece are converted in one pass, chunk by chunk, so that the check finds the chunk in the first
//! cache. Transposed matrices go through square tiles, so that both sides are read and written by whole cache lines.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Checkpoint, Dtype, Entry};
use crate::recipe::{Interleaved, Part};
use crate::{Error, Result};

/// A tensor seen as a matrix, in elements.
#[derive(Clone, Copy)]
struct Matrix {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl Matrix {
    /// A vector is a matrix of one column; tensors of more than two dimensions are none.
    fn of(entry: &Entry, transposed: bool) -> Option<Self> {
        let matrix = match (entry.shape.as_slice(), entry.strides.as_slice()) {
            ([], []) => Matrix { rows: 1, cols: 1, row_stride: 1, col_stride: 1 },
            (&[rows], &[row_stride]) => Matrix { rows, cols: 1, row_stride, col_stride: 1 },
            (&[rows, cols], &[row_stride, col_stride]) => Matrix { rows, cols, row_stride, col_stride },
            _ => return None,
        };
        let Matrix { rows, cols, row_stride, col_stride } = matrix;
        Some(if transposed {
            Matrix { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
        } else {
            matrix
        })
    }
}

/// Where a value is not finite, in the coordinates of the [`Matrix`].
struct NotFinite {
    row: usize,
    col: usize,
    value: f64,
}

/// A tensor's elements.
struct Elements<'a> {
    bytes: &'a [u8],
    dtype: &'a Dtype,
    size: usize,
}

impl Checkpoint {
    /// Reads rows `rows` of a part (relative to the part) as f32 into `out`: `cols` values a row, row-major. A 1-D tensor
    /// is a column: as many rows as elements, `cols = 1`.
    ///
    /// # Errors
    /// No such tensor, a type that is not a float, a shape that does not give these rows and columns, a NaN or an
    /// infinity (also an f64 beyond f32's range): file, tensor and index are named.
    pub fn read_part(&self, part: &Part, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        let Some(factor) = &part.factor else { return self.read_stored(part, rows, cols, out) };
        let inner = self.tensors.get(&part.tensor).and_then(|entry| Matrix::of(entry, part.transposed));
        let inner = inner.map_or(0, |matrix| matrix.cols);
        let (mut left, mut right) = (vec![0.0; rows.len() * inner], vec![0.0; cols * inner]);
        self.read_stored(part, rows, inner, &mut left)?;
        self.read_stored(factor, 0..cols, inner, &mut right)?;
        multiply(&left, &right, inner, out);
        Ok(())
    }

    /// The same before any multiplication.
    fn read_stored(&self, part: &Part, rows: Range<usize>, cols: usize, out: &mut [f32]) -> Result<()> {
        let problem = |found: String, expected: String| Error::Tensor {
            path: self.file_of(&part.tensor).into(),
            tensor: part.tensor.clone(),
            found,
            expected,
        };
        let Some((entry, file)) = self.tensors.get(&part.tensor).and_then(|e| Some((e, self.files.get(e.file)?)))
        else {
            return Err(problem("nothing".into(), "a tensor".into()));
        };
        let Some(size) = entry.dtype.size() else {
            return Err(problem(format!("type {}", entry.dtype), "f32, f16, bf16 or f64".into()));
        };
        let end = part.first_row.checked_add(part.rows);
        let matrix = Matrix::of(entry, part.transposed)
            .filter(|m| m.cols == cols && end.is_some_and(|end| end <= m.rows) && rows.end <= part.rows);
        let Some(matrix) = matrix else {
            let (first, rows) = (part.first_row, part.rows);
            let transposed = if part.transposed { ", transposed" } else { "" };
            return Err(problem(
                format!("shape {:?}{transposed}", entry.shape),
                format!("{cols} columns and {rows} rows from row {first}"),
            ));
        };
        if rows.len().checked_mul(cols) != Some(out.len()) {
            return Err(Error::Usage(format!("{} rows of {cols} values do not fill {}", rows.len(), out.len())));
        }
        let bytes = file.bytes(entry)?;
        let elements = Elements { bytes: &bytes, dtype: &entry.dtype, size };

        let read = match part.interleaved {
            None => elements.read(matrix, part.first_row + rows.start, out),
            Some(pairs) if !pairs.fit(part.rows) => {
                return Err(Error::Usage(format!("{pairs:?} in {} rows", part.rows)));
            }
            Some(pairs) => rows
                .clone()
                .zip(out.chunks_exact_mut(cols.max(1)))
                .try_for_each(|(row, out)| elements.read(matrix, part.first_row + pairs.source_row(row), out)),
        };
        read.map_err(|NotFinite { row, col, value }| {
            let index = match (entry.shape.len(), part.transposed) {
                (0, _) => "[]".into(),
                (1, false) => format!("[{row}]"),
                (1, true) => format!("[{col}]"),
                (_, false) => format!("[{row}, {col}]"),
                (_, true) => format!("[{col}, {row}]"),
            };
            problem(format!("{value:?} at {index}"), "finite f32 values".into())
        })?;
        if part.unit_rows {
            out.chunks_exact_mut(cols.max(1)).for_each(to_unit_length);
        }
        if part.scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= part.scale);
        }
        if part.offset != 0.0 {
            out.iter_mut().for_each(|x| *x += part.offset);
        }
        Ok(())
    }

    /// Whether two tensors hold the same values in the same shape. A tensor that cannot be read equals none.
    pub fn same_values(&self, a: &str, b: &str) -> bool {
        let (Some(entry_a), Some(entry_b)) = (self.tensors.get(a), self.tensors.get(b)) else { return false };
        if entry_a.shape != entry_b.shape || !entry_a.dtype.is_float() || !entry_b.dtype.is_float() {
            return false;
        }
        let place = |entry: &Entry| (entry.file, entry.offset, entry.dtype.clone(), entry.strides.clone());
        if place(entry_a) == place(entry_b) {
            return true;
        }
        let Some(matrix) = Matrix::of(entry_a, false) else { return false };
        if matrix.cols == 0 {
            return true;
        }
        let (part_a, part_b) = (Part::whole(a, matrix.rows), Part::whole(b, matrix.rows));
        let step = (65_536 / matrix.cols).max(1);
        let (mut values_a, mut values_b) = (Vec::new(), Vec::new());
        (0..matrix.rows).step_by(step).all(|start| {
            let rows = start..matrix.rows.min(start + step);
            values_a.resize(rows.len() * matrix.cols, 0.0);
            values_b.resize(rows.len() * matrix.cols, 0.0);
            self.read_part(&part_a, rows.clone(), matrix.cols, &mut values_a).is_ok()
                && self.read_part(&part_b, rows, matrix.cols, &mut values_b).is_ok()
                && values_a == values_b
        })
    }
}

impl Interleaved {
    /// Whether `rows` rows are whole heads whose rotating part consists of pairs.
    fn fit(self, rows: usize) -> bool {
        let whole_heads = rows.checked_rem(self.head_dim) == Some(0);
        whole_heads && self.rotary_dim <= self.head_dim && self.rotary_dim.is_multiple_of(2)
    }

    /// The stored row of row `row` of heads whose halves are to lie `rotary_dim/2` apart.
    fn source_row(self, row: usize) -> usize {
        let (head, at) = (row - row % self.head_dim, row % self.head_dim);
        let half = self.rotary_dim / 2;
        head + match at {
            _ if at < half => 2 * at,
            _ if at < self.rotary_dim => 2 * (at - half) + 1,
            _ => at,
        }
    }
}

/// Rows and columns of a tile: two tiles of f32 fit the first cache.
const TILE: usize = 64;

impl Elements<'_> {
    /// Reads whole rows from `first_row` on.
    fn read(&self, matrix: Matrix, first_row: usize, out: &mut [f32]) -> Result<(), NotFinite> {
        let cols = matrix.cols;
        if out.is_empty() || cols == 0 {
            return Ok(());
        }
        if matrix.col_stride == 1 && matrix.row_stride == cols {
            // One run; `i` may go beyond a row.
            return self.run(first_row * cols, out).map_err(|(i, value)| {
                let index = first_row * cols + i;
                NotFinite { row: index / cols, col: index % cols, value }
            });
        }
        if matrix.col_stride == 1 || cols == 1 {
            return out.chunks_exact_mut(cols).zip(first_row..).try_for_each(|(out, row)| {
                self.run(row * matrix.row_stride, out).map_err(|(col, value)| NotFinite { row, col, value })
            });
        }
        self.read_tiles(matrix, first_row, out)
    }

    /// Reads rows that do not lie in one piece: column by column into a tile, from there row by row.
    fn read_tiles(&self, matrix: Matrix, first_row: usize, out: &mut [f32]) -> Result<(), NotFinite> {
        let cols = matrix.cols;
        // tile[c][r]
        let mut tile = [[0.0; TILE]; TILE];
        for (block, out) in out.chunks_mut(TILE * cols).enumerate() {
            let row = first_row + block * TILE;
            let rows = out.len() / cols;
            for col in (0..cols).step_by(TILE) {
                let width = TILE.min(cols - col);
                for (c, column) in tile.iter_mut().take(width).enumerate() {
                    let start = row * matrix.row_stride + (col + c) * matrix.col_stride;
                    let column = column.get_mut(..rows).unwrap_or_default();
                    let at = |(i, value)| NotFinite { row: row + i, col: col + c, value };
                    if matrix.row_stride == 1 {
                        self.run(start, column).map_err(at)?;
                    } else {
                        for (r, value) in column.iter_mut().enumerate() {
                            let one = std::slice::from_mut(value);
                            self.run(start + r * matrix.row_stride, one).map_err(|(_, v)| at((r, v)))?;
                        }
                    }
                }
                for (r, row) in out.chunks_exact_mut(cols).enumerate() {
                    let row = row.iter_mut().skip(col);
                    for (value, column) in row.zip(tile.iter().take(width)) {
                        *value = column[r % TILE];
                    }
                }
            }
        }
        Ok(())
    }

    /// Converts the elements from `start` on; the error is the place in `out` and the value.
    fn run(&self, start: usize, out: &mut [f32]) -> Result<(), (usize, f64)> {
        // Tensors were checked to lie inside the file, so the bytes are there.
        let bytes = self.bytes.get(start * self.size..).and_then(|bytes| bytes.get(..out.len() * self.size));
        let bytes = bytes.unwrap_or_default();
        for (chunk, (out, bytes)) in out.chunks_mut(CHUNK).zip(bytes.chunks(CHUNK * self.size)).enumerate() {
            self.convert(bytes, out);
            // Without `any`, which stops early and therefore cannot be vectorised.
            if out.iter().fold(false, |bad, x| bad | !x.is_finite()) {
                let i = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
                return Err((chunk * CHUNK + i, self.value(bytes, i)));
            }
        }
        Ok(())
    }

    fn convert(&self, bytes: &[u8], out: &mut [f32]) {
        match self.dtype {
            Dtype::F32 => {
                for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::F64 => {
                for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f64::from_le_bytes(*bytes) as f32;
                }
            }
            Dtype::Bf16 => {
                for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Dtype::F16 => {
                // The crate converts slices with F16C where the processor has it; they must be aligned.
                let mut halves = [f16::ZERO; CHUNK];
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                if let Some(halves) = halves.get(..out.len()) {
                    halves.convert_to_f32_slice(out);
                }
            }
            // Refused before.
            Dtype::Other(_) => {}
        }
    }

    /// The element as it is stored, for the error message.
    fn value(&self, bytes: &[u8], i: usize) -> f64 {
        let mut out = [0.0];
        let element = bytes.chunks_exact(self.size).nth(i).unwrap_or_default();
        match (self.dtype, element.try_into()) {
            (Dtype::F64, Ok(bytes)) => f64::from_le_bytes(bytes),
            _ => {
                self.convert(element, &mut out);
                f64::from(out[0])
            }
        }
    }
}

/// Elements that are converted, then checked, while they are in the first cache.
const CHUNK: usize = 1024;

/// `out = left · rightᵀ`, rows of both `inner` wide; sums in f64, each rounded once.
fn multiply(left: &[f32], right: &[f32], inner: usize, out: &mut [f32]) {
    let (inner, cols) = (inner.max(1), (right.len() / inner.max(1)).max(1));
    for (block, columns) in right.chunks(RIGHT_ROWS * inner).enumerate() {
        for (out, a) in out.chunks_exact_mut(cols).zip(left.chunks_exact(inner)) {
            for (x, b) in out.iter_mut().skip(block * RIGHT_ROWS).zip(columns.chunks_exact(inner)) {
                *x = dot(a, b) as f32;
            }
        }
    }
}

/// Rows that stay in the first cache while all others are multiplied by them.
const RIGHT_ROWS: usize = 16;

/// Eight sums side by side, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let (a, a_tail) = a.as_chunks::<8>();
    let (b, b_tail) = b.as_chunks::<8>();
    let mut sums = [0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + tail
}

/// Divides a row by its length; PyTorch's `normalize` takes lengths below 1e-12 for that.
fn to_unit_length(row: &mut [f32]) {
    let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}
