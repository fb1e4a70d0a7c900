//! The smallest blob, written byte by byte from the format's tables.
//!
//! It shares no code with the runtime's reader or the converter's writer, so it pins what they agree on.

use thumbformer_convert::memory::AlignedBytes;

/// Bytes of the whole file.
pub const LEN: usize = 1416;
/// Number of tensors.
pub const TENSORS: usize = 10;
/// Offset of the tensor table.
pub const TABLE: usize = 192;
/// Bytes of a table entry.
pub const ENTRY: usize = 32;
/// Offset of the tokenizer section, which is empty here.
pub const TOKENIZER: usize = 512;

/// What the format says of one tensor of this file.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The role's number.
    pub role: u16,
    /// A matrix, or a vector.
    pub matrix: bool,
    /// Outputs; 1 for a vector.
    pub rows: u32,
    /// Inputs, or values of a vector.
    pub cols: u32,
    /// Where its values lie.
    pub offset: usize,
    /// Bytes of them.
    pub len: usize,
    /// Where its scales lie.
    pub scales: usize,
    /// Bytes of them: none for a vector.
    pub scales_len: usize,
}

/// A matrix of one block of eight rows and one quad of four columns.
const fn matrix(role: u16, rows: u32, cols: u32, offset: usize) -> Place {
    Place { role, matrix: true, rows, cols, offset, len: 32, scales: offset + 64, scales_len: 16 }
}

const fn vector(role: u16, cols: u32, offset: usize) -> Place {
    let len = 4 * cols as usize;
    Place { role, matrix: false, rows: 1, cols, offset, len, scales: offset + len, scales_len: 0 }
}

/// All tensors, in the file's order.
pub const PLACES: [Place; TENSORS] = [
    matrix(0, 3, 2, 512),   // token embedding: vocab × dim
    vector(2, 1, 640),      // RoPE frequencies: rotary_dim / 2
    vector(16, 2, 704),     // attention norm: dim
    matrix(18, 6, 2, 768),  // query, key, value: 3·head_dim × dim
    vector(20, 2, 896),     // key mean: head_dim
    matrix(21, 2, 2, 960),  // attention output: dim × head_dim
    vector(23, 2, 1088),    // MLP norm: dim
    matrix(25, 2, 2, 1152), // gate, up: 2·hidden × dim
    matrix(27, 2, 1, 1280), // down: dim × hidden
    vector(48, 2, 1408),    // final norm: dim
];

/// The head without its two checksums; a `const fn`, as firmware reads heads at compile time.
pub const fn head() -> [u8; 192] {
    const fn put(b: &mut [u8; 192], at: usize, value: u32) {
        let bytes = value.to_le_bytes();
        let mut i = 0;
        while i < 4 {
            b[at + i] = bytes[i];
            i += 1;
        }
    }
    let mut b = [0; 192];
    let magic = b"thumbfmr";
    let mut i = 0;
    while i < 8 {
        b[i] = magic[i];
        i += 1;
    }
    put(&mut b, 8, 1); // version
    put(&mut b, 16, 32); // group
    put(&mut b, 20, TENSORS as u32);
    put(&mut b, 24, LEN as u32);
    put(&mut b, 64, 3); // vocab
    put(&mut b, 68, 2); // dim
    put(&mut b, 72, 1); // layers
    put(&mut b, 76, 1); // heads
    put(&mut b, 80, 1); // kv_heads
    put(&mut b, 84, 2); // head_dim
    put(&mut b, 88, 1); // hidden
    put(&mut b, 92, 40); // context
    b[96] = 1; // RMSNorm
    b[97] = 1; // RoPE
    b[98] = 2; // SiLU
    b[99] = 1; // gated
    b[101] = 1; // tied head
    put(&mut b, 104, 1e-5f32.to_bits());
    put(&mut b, 108, 2); // rotary_dim
    put(&mut b, 112, 0.707f32.to_bits());
    put(&mut b, 128, 1); // start token
    put(&mut b, 132, 2); // end tokens
    put(&mut b, 136, 0);
    put(&mut b, 140, 2);
    b
}

/// The file. The weight at (row, col) is `5·row − 3·col + 7`; scales are 2⁻⁵ in f16, times two to the tensor's index − 4.
pub fn blob() -> AlignedBytes {
    let mut b = AlignedBytes::zeroed(LEN);
    b[..192].copy_from_slice(&head());
    for (index, place) in PLACES.iter().enumerate() {
        let entry = &mut b[TABLE + index * ENTRY..][..ENTRY];
        entry[0..2].copy_from_slice(&place.role.to_le_bytes());
        entry[2] = u8::from(!place.matrix);
        entry[8..12].copy_from_slice(&place.rows.to_le_bytes());
        entry[12..16].copy_from_slice(&place.cols.to_le_bytes());
        let exponent = if place.matrix { index as i32 - 4 } else { 0 };
        entry[16..20].copy_from_slice(&exponent.to_le_bytes());
        entry[24..32].copy_from_slice(&(place.offset as u64).to_le_bytes());
        let values = &mut b[place.offset..place.offset + place.len];
        if place.matrix {
            for (row, quad) in values.chunks_exact_mut(4).enumerate().take(place.rows as usize) {
                for (col, weight) in quad.iter_mut().enumerate().take(place.cols as usize) {
                    *weight = (5 * row as i8 - 3 * col as i8 + 7) as u8;
                }
            }
            let scales = b[place.scales..place.scales + place.scales_len].chunks_exact_mut(2);
            scales.take(place.rows as usize).for_each(|scale| scale.copy_from_slice(&0x2800u16.to_le_bytes()));
        } else {
            for (i, value) in values.chunks_exact_mut(4).enumerate() {
                value.copy_from_slice(&(1.0 + 0.25 * i as f32).to_le_bytes());
            }
        }
    }
    seal(&mut b);
    b
}

/// Makes both checksums right again: CRC-32 of the content at 40, then of the head, with the field zero, at 44. Leaves
/// alone what is too short to have them.
pub fn seal(blob: &mut [u8]) {
    let Some((head, content)) = blob.split_first_chunk_mut::<192>() else { return };
    head[40..44].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
    head[44..48].fill(0);
    let crc = crc32fast::hash(head);
    head[44..48].copy_from_slice(&crc.to_le_bytes());
}
