//! A 64-bit digest of logits: how two machines tell that they computed the same bits.

/// FNV-1a (Fowler, Noll, Vo) over the bytes of the values' bits.
///
/// ```
/// use thumbformer::Digest;
/// let (mut a, mut b) = (Digest::new(), Digest::new());
/// a.update(&[1.0, 2.0]);
/// b.update(&[1.0]);
/// b.update(&[2.0]);
/// assert_eq!(a, b);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

impl Digest {
    /// The digest of nothing.
    pub const fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    /// Takes in values, in order. All NaNs count as the same one: their bits differ between processors.
    pub fn update(&mut self, values: &[f32]) {
        for value in values {
            let bits = if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
            for byte in bits.to_le_bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
        }
    }

    /// The digest so far.
    pub const fn value(self) -> u64 {
        self.0
    }
}
