//! The generator of sampling's random numbers: the same on every target, for ever.

/// PCG32 (XSH-RR; O'Neill, 2014, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random
/// Number Generation"): 64 bits of state, integer arithmetic only, a period of 2⁶⁴. Not for secrets.
///
/// ```
/// use thumbformer::decode::Random;
/// let (mut a, mut b) = (Random::new(7), Random::new(7));
/// assert_eq!(a.next_u64(), b.next_u64());
/// assert_ne!(a.next_u64(), Random::new(8).next_u64());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
    increment: u64,
}

impl Random {
    /// The numbers of a seed.
    pub const fn new(seed: u64) -> Self {
        // The stream that the author's own demonstration uses.
        Self::stream(seed, 54)
    }

    const fn stream(seed: u64, stream: u64) -> Self {
        let mut random = Self { state: 0, increment: (stream << 1) | 1 };
        random.advance();
        random.state = random.state.wrapping_add(seed);
        random.advance();
        random
    }

    const fn advance(&mut self) {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(self.increment);
    }

    /// 32 random bits.
    pub const fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.advance();
        ((((old >> 18) ^ old) >> 27) as u32).rotate_right((old >> 59) as u32)
    }

    /// 64 random bits: the first number is the upper half.
    pub const fn next_u64(&mut self) -> u64 {
        let high = self.next_u32() as u64;
        (high << 32) | self.next_u32() as u64
    }

    /// A number below `limit`; 0 if that is 0. Even within `limit`·2⁻⁶⁴.
    pub const fn below(&mut self, limit: u64) -> u64 {
        ((self.next_u64() as u128 * limit as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_published_demonstration() {
        let mut random = Random::stream(42, 54);
        let found: [u32; 6] = core::array::from_fn(|_| random.next_u32());
        assert_eq!(found, [0xa15c_02b7, 0x7b47_f409, 0xba1d_3330, 0x83d2_f293, 0xbfa4_784b, 0xcbed_606e]);
    }

    #[test]
    fn numbers_below_a_limit_are_even() {
        let mut random = Random::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
        }
        // Five standard deviations of 95.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 475), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }
}
