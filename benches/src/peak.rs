//! How fast a kernel's int8 instructions can go: its peak, if nothing else cost any time.
//!
//! For each instruction set, the instructions that its kernel spends on multiply-adds, and no others, run on operands in
//! the first-level cache, with enough independent sums to hide their latency. What a matrix product needs beside them
//! (group scales, storing, more loads) is not here: that is what percentages of the peak are to show. Where there is no
//! mix for a backend, [`crate::product::Product`] stands in.

/// A kernel's instructions, ready to be timed.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Their names.
    pub instructions: &'static str,
    /// Multiply-adds of a pass.
    pub macs: usize,
    run: fn(u32) -> Option<i32>,
}

impl Peak {
    /// The mix of the backend of that name, if there is one and this processor has it.
    pub fn of(backend: &str) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let (instructions, macs, run): (_, _, fn(u32) -> Option<i32>) = match backend {
                "avx2" => ("xor, maddubs, madd, add", x86::AVX2_MACS, x86::avx2),
                "avx-vnni" => ("dpbusd, 256 bits", x86::VNNI256_MACS, x86::vnni256),
                "avx512-vnni" => ("dpbusd, 512 bits", x86::VNNI512_MACS, x86::vnni512),
                _ => return None,
            };
            // No passes: only whether it can run.
            run(0).map(|_| Self { instructions, macs, run })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = backend;
            None
        }
    }

    /// Runs them that often. The sum of all products keeps the compiler from leaving any out.
    pub fn run(&self, passes: u32) -> i32 {
        (self.run)(passes).unwrap_or_default()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::hint::black_box;

    use archmage::{SimdToken, X64V3Token, X64V4xToken, arcane};

    /// Quads of columns in a pass: all operands together are a few KiB.
    const QUADS: usize = 16;
    /// Tokens, each with a sum of its own.
    const TOKENS: usize = 12;
    /// What AVX2's sixteen registers hold for 16 rows, beside the temporaries.
    const AVX2_TOKENS: usize = 4;

    pub(super) const AVX2_MACS: usize = QUADS * AVX2_TOKENS * 64;
    pub(super) const VNNI256_MACS: usize = QUADS * TOKENS * 32;
    pub(super) const VNNI512_MACS: usize = QUADS * TOKENS * 64;

    /// Weights of every quad: `R` rows × 4 columns.
    pub(super) const fn weights<const BYTES: usize>() -> [[i8; BYTES]; QUADS] {
        let mut w = [[0; BYTES]; QUADS];
        let mut i = 0;
        while i < QUADS * BYTES {
            w[i / BYTES][i % BYTES] = (i * 37 % 255) as i8;
            i += 1;
        }
        w
    }

    /// Activations of every quad and token, four in a word.
    pub(super) const fn activations() -> [[i32; TOKENS]; QUADS] {
        let mut x = [[0; TOKENS]; QUADS];
        let mut i = 0;
        while i < QUADS * TOKENS {
            let mut bytes = [0; 4];
            let mut column = 0;
            while column < 4 {
                bytes[column] = (((i * 4 + column) * 61 % 255) as i32 - 127) as i8 as u8;
                column += 1;
            }
            x[i / TOKENS][i % TOKENS] = i32::from_le_bytes(bytes);
            i += 1;
        }
        x
    }

    pub(super) fn avx2(passes: u32) -> Option<i32> {
        X64V3Token::summon().map(|token| avx2_mix(token, passes))
    }

    pub(super) fn vnni256(passes: u32) -> Option<i32> {
        X64V4xToken::summon().map(|token| vnni256_mix(token, passes))
    }

    pub(super) fn vnni512(passes: u32) -> Option<i32> {
        X64V4xToken::summon().map(|token| vnni512_mix(token, passes))
    }

    /// Magnitudes and signs of weights, as the kernel makes them ready once for many tokens.
    const fn ready() -> [[[[u8; 32]; 2]; 2]; QUADS] {
        let w = weights::<64>();
        let mut ready = [[[[0; 32]; 2]; 2]; QUADS];
        let mut i = 0;
        while i < QUADS * 64 {
            let (quad, half, byte) = (i / 64, i % 64 / 32, i % 32);
            let w = w[quad][i % 64];
            ready[quad][half][0][byte] = w.unsigned_abs();
            ready[quad][half][1][byte] = if w < 0 { 0xFF } else { 0 };
            i += 1;
        }
        ready
    }

    /// Without what the sums start with for negative weights.
    #[arcane(import_intrinsics)]
    fn avx2_mix(_: X64V3Token, passes: u32) -> i32 {
        let (w, x) = (ready(), activations());
        let mut sums = [[_mm256_setzero_si256(); 2]; AVX2_TOKENS];
        for _ in 0..passes {
            let (w, x) = black_box((&w, &x));
            for (w, x) in w.iter().zip(x) {
                for t in 0..AVX2_TOKENS {
                    let x = _mm256_set1_epi32(x[t]);
                    for half in 0..2 {
                        let [magnitudes, signs] = &w[half];
                        let signed = _mm256_xor_si256(x, _mm256_loadu_si256(signs));
                        let pairs = _mm256_maddubs_epi16(_mm256_loadu_si256(magnitudes), signed);
                        sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                }
            }
        }
        let mut lanes = [0i32; 8];
        let mut total = 0i32;
        for sum in sums.as_flattened() {
            _mm256_storeu_si256(&mut lanes, *sum);
            total = lanes.iter().fold(total, |total, &lane| total.wrapping_add(lane));
        }
        total
    }

    /// Both widths of VNNI: they differ in names alone.
    macro_rules! vnni_mix {
        ($name:ident, $bytes:literal, $zero:ident, $load:ident, $set1:ident, $dpbusd:ident, $store:ident) => {
            #[arcane(import_intrinsics)]
            fn $name(_: X64V4xToken, passes: u32) -> i32 {
                let (w, x) = (weights::<$bytes>(), activations());
                let mut sums = [$zero(); TOKENS];
                for _ in 0..passes {
                    let (w, x) = black_box((&w, &x));
                    for (w, x) in w.iter().zip(x) {
                        let w = $load(w);
                        for t in 0..TOKENS {
                            sums[t] = $dpbusd(sums[t], w, $set1(x[t]));
                        }
                    }
                }
                let mut lanes = [0i32; $bytes / 4];
                let mut total = 0i32;
                for sum in sums {
                    $store(&mut lanes, sum);
                    total = lanes.iter().fold(total, |total, &lane| total.wrapping_add(lane));
                }
                total
            }
        };
    }
    vnni_mix!(
        vnni256_mix,
        32,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_set1_epi32,
        _mm256_dpbusd_epi32,
        _mm256_storeu_si256
    );
    vnni_mix!(
        vnni512_mix,
        64,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_set1_epi32,
        _mm512_dpbusd_epi32,
        _mm512_storeu_si512
    );

    #[cfg(test)]
    mod tests {
        use super::*;

        /// How an instruction set has a weight and an activation, of which it adds the product.
        fn masked(w: i8, x: i8) -> i32 {
            // A negative weight's magnitude times −x − 1.
            i32::from(w) * i32::from(x) + i32::from(w.min(0))
        }

        fn biased(w: i8, x: i8) -> i32 {
            i32::from(w as u8) * i32::from(x)
        }

        /// The sum of products over rows, columns and tokens.
        fn expected<const BYTES: usize>(tokens: usize, product: fn(i8, i8) -> i32) -> i32 {
            let mut sum = 0;
            for (w, x) in weights::<BYTES>().iter().zip(&activations()) {
                for x in &x[..tokens] {
                    for (i, &w) in w.iter().enumerate() {
                        sum += product(w, x.to_le_bytes()[i % 4] as i8);
                    }
                }
            }
            sum
        }

        #[test]
        fn what_is_timed_are_all_the_products() {
            for (found, once) in [
                (avx2(3), expected::<64>(AVX2_TOKENS, masked)),
                (vnni256(3), expected::<32>(TOKENS, biased)),
                (vnni512(3), expected::<64>(TOKENS, biased)),
            ] {
                assert!(once != 0);
                match found {
                    Some(found) => assert_eq!(found, 3 * once),
                    None => eprintln!("SKIPPED: this processor does not have the instructions"),
                }
            }
        }
    }
}
