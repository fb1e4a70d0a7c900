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

/// A tensor's entry and place: role, 0 for a matrix or 1 for a vector, layer, rows, cols, offset of its values and bytes
/// of them, offset of its scales (0 if it has none) and bytes of them.
pub const PLACES: [(u16, u8, u32, u32, u32, usize, usize, usize, usize); TENSORS] = [
    (0, 0, 0, 3, 2, 512, 32, 576, 16),    // token embedding: vocab × dim
    (2, 1, 0, 1, 1, 640, 4, 0, 0),        // RoPE frequencies: rotary_dim / 2
    (16, 1, 0, 1, 2, 704, 8, 0, 0),       // attention norm: dim
    (18, 0, 0, 6, 2, 768, 32, 832, 16),   // query, key, value: 3·head_dim × dim
    (20, 1, 0, 1, 2, 896, 8, 0, 0),       // key mean: head_dim
    (21, 0, 0, 2, 2, 960, 32, 1024, 16),  // attention output: dim × head_dim
    (23, 1, 0, 1, 2, 1088, 8, 0, 0),      // MLP norm: dim
    (25, 0, 0, 2, 2, 1152, 32, 1216, 16), // gate, up: 2·hidden × dim
    (27, 0, 0, 2, 1, 1280, 32, 1344, 16), // down: dim × hidden
    (48, 1, 0, 1, 2, 1408, 8, 0, 0),      // final norm: dim
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
    for (index, &(role, kind, layer, rows, cols, offset, len, scales, scales_len)) in PLACES.iter().enumerate() {
        let entry = &mut b[TABLE + index * ENTRY..][..ENTRY];
        entry[0..2].copy_from_slice(&role.to_le_bytes());
        entry[2] = kind;
        entry[4..8].copy_from_slice(&layer.to_le_bytes());
        entry[8..12].copy_from_slice(&rows.to_le_bytes());
        entry[12..16].copy_from_slice(&cols.to_le_bytes());
        let exponent = if kind == 0 { index as i32 - 4 } else { 0 };
        entry[16..20].copy_from_slice(&exponent.to_le_bytes());
        entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        let values = &mut b[offset..offset + len];
        if kind == 0 {
            // One block of eight rows, one quad of four columns.
            for (row, quad) in values.chunks_exact_mut(4).enumerate().take(rows as usize) {
                for (col, weight) in quad.iter_mut().enumerate().take(cols as usize) {
                    *weight = (5 * row as i8 - 3 * col as i8 + 7) as u8;
                }
            }
            let scales = b[scales..scales + scales_len].chunks_exact_mut(2);
            scales.take(rows as usize).for_each(|scale| scale.copy_from_slice(&0x2800u16.to_le_bytes()));
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
