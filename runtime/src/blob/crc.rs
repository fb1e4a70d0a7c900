//! CRC-32 (IEEE 802.3, reflected, as in zip): the blob's checksum.
//!
//! With `std` it is `crc32fast`, which uses the carry-less multiply of the host. On devices it is a table of sixteen
//! words: 64 bytes of flash, two look-ups a byte.

/// The checksum of `bytes`.
#[cfg(feature = "std")]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of `bytes`.
#[cfg(not(feature = "std"))]
pub fn crc32(bytes: &[u8]) -> u32 {
    small(bytes)
}

#[cfg(any(test, not(feature = "std")))]
fn small(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut i = 0;
        while i < 16 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 4 {
                c = if c & 1 != 0 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_crc_catalogue() {
        assert_eq!(super::small(b"123456789"), 0xCBF4_3926);
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
