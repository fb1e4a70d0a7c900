//! CRC-32 (IEEE 802.3, reflected, as in zip): the blob's checksum.
//!
//! With `std` it is `crc32fast`, which uses the carry-less multiply of the host. On devices it is a table of sixteen
//! words: 64 bytes of flash, two look-ups a byte. Checksums of neighbouring parts can be found apart and [combined](combine).

/// The generator polynomial, the power 0 in the highest bit.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    extend(0, bytes)
}

/// The checksum of what has the checksum `crc`, followed by `bytes`.
#[cfg(feature = "std")]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// The checksum of what has the checksum `crc`, followed by `bytes`.
#[cfg(not(feature = "std"))]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    small(crc, bytes)
}

/// The checksum of what has the checksum `first`, followed by `len` bytes that have the checksum `second` alone.
///
/// ```
/// use thumbformer::blob::crc::{combine, crc32};
/// assert_eq!(combine(crc32(b"thumb"), crc32(b"former"), 6), crc32(b"thumbformer"));
/// ```
pub fn combine(first: u32, second: u32, len: u64) -> u32 {
    // A checksum is a remainder by the polynomial: `len` bytes behind `first` multiply it by x to the power 8·len.
    let (mut power, mut square, mut left) = (1 << 31, 1 << 23, len);
    while left > 0 {
        if left & 1 != 0 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        left >>= 1;
    }
    multiply(first, power) ^ second
}

/// The product of two remainders.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if a >> bit & 1 != 0 {
            product ^= b;
        }
        b = shift(b);
    }
    product
}

/// A remainder times x.
const fn shift(c: u32) -> u32 {
    if c & 1 != 0 { (c >> 1) ^ POLYNOMIAL } else { c >> 1 }
}

#[cfg(any(test, not(feature = "std")))]
fn small(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut i = 0;
        while i < 16 {
            table[i] = shift(shift(shift(shift(i as u32))));
            i += 1;
        }
        table
    };
    let mut crc = !crc;
    for &byte in bytes {
        crc ^= u32::from(byte);
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_crc_catalogue() {
        assert_eq!(small(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn parts_give_the_checksum_of_the_whole() {
        let bytes: std::vec::Vec<u8> = (0..3000u32).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 11) as u8).collect();
        let whole = crc32fast::hash(&bytes);
        for at in [0, 1, 2, 63, 64, 1000, 2999, 3000] {
            let (first, second) = bytes.split_at(at);
            assert_eq!(extend(crc32(first), second), whole);
            assert_eq!(small(small(0, first), second), whole);
            assert_eq!(combine(crc32(first), crc32(second), second.len() as u64), whole);
        }
    }
}
