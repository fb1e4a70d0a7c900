//! VNNI: `vpdpbusd` multiplies four unsigned by four signed bytes and adds them to 32 bits, in one instruction.
//!
//! Weights become unsigned in registers by adding 128 (xor 0x80). The dot product is then too large by 128·Σx, so each
//! sum starts at −128·Σx of its group: the exact product, whatever the sign. AVX-VNNI has it on 32-byte registers;
//! AVX-512 VNNI joins two blocks of eight rows in one register of 64 bytes.

use core::arch::x86_64::*;

use super::drive::{Block, Kernel, Online, Step, Token, Tokens};
use super::{Query, avx2, cpu, operations};
use crate::cache::{TILE, Tile};

/// The processor has AVX2, F16C and AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AvxVnni(());

impl AvxVnni {
    pub(super) fn new() -> Option<Self> {
        cpu::features().avx_vnni.then_some(Self(()))
    }
}

operations!(AvxVnni, "avx2,f16c,avxvnni");

/// The processor has AVX2, F16C, FMA and AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512Vnni(());

impl Avx512Vnni {
    pub(super) fn new() -> Option<Self> {
        cpu::features().avx512_vnni.then_some(Self(()))
    }
}

operations!(Avx512Vnni, "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni");

/// Bytes of a quad of eight rows.
const WORD: usize = 32;

/// The 256-bit kernel; the two instruction sets spell `vpdpbusd` differently.
macro_rules! kernel256 {
    ($dpbusd:ident) => {
        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            avx2::prefetch_line(at);
        }

        #[inline(always)]
        fn rows8<const T: usize>(self, block: Block<'_>, x: [Token<'_>; T]) -> [[f32; 8]; T] {
            let quads = block.quads(8, &x);
            // SAFETY: the processor has the instructions (`new`). `quads` counts only what all slices hold: words are
            // read below quads·32 bytes, activations below quads·4, scales and starts below ⌈quads/group_quads⌉ entries.
            unsafe {
                let mut acc = [_mm256_setzero_ps(); T];
                let (mut quad, mut group) = (0, 0);
                while quad < quads {
                    let end = quads.min(quad + block.group_quads);
                    let mut sums = [_mm256_setzero_si256(); T];
                    for t in 0..T {
                        sums[t] = _mm256_set1_epi32(*x[t].starts.as_ptr().add(group));
                    }
                    while quad < end {
                        let w = _mm256_loadu_si256(block.words.as_ptr().add(quad * WORD).cast());
                        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                        if T == 1 {
                            avx2::prefetch(block.words, quad * WORD);
                        }
                        for t in 0..T {
                            let x = x[t].values.as_ptr().add(quad * 4).cast::<i32>().read_unaligned();
                            sums[t] = $dpbusd(sums[t], w, _mm256_set1_epi32(x));
                        }
                        quad += 1;
                    }
                    let w_scale = _mm256_cvtph_ps(_mm_loadu_si128(block.scales.as_ptr().add(group * 8).cast()));
                    for t in 0..T {
                        let scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(*x[t].scales.as_ptr().add(group)));
                        acc[t] = _mm256_add_ps(acc[t], _mm256_mul_ps(_mm256_cvtepi32_ps(sums[t]), scale));
                    }
                    group += 1;
                }
                acc.map(|acc| {
                    let mut out = [0f32; 8];
                    _mm256_storeu_ps(out.as_mut_ptr(), acc);
                    out
                })
            }
        }

        #[inline(always)]
        fn scores(self, keys: &[u8], query: &[i8], start: i32, first: bool, dots: &mut [i32; TILE]) {
            let (quads, words) = super::drive::key_blocks(keys, query);
            // SAFETY: the processor has the instructions (`new`); `key_blocks` says that query and blocks hold as many
            // quads.
            unsafe {
                let mut sums = [_mm256_set1_epi32(start); TILE / 8];
                for quad in 0..quads {
                    let x = _mm256_set1_epi32(query.as_ptr().add(quad * 4).cast::<i32>().read_unaligned());
                    if first && quad % 2 == 0 {
                        for words in words {
                            avx2::prefetch_cached(words, quad * WORD);
                        }
                    }
                    for (sum, words) in sums.iter_mut().zip(words) {
                        let w = _mm256_loadu_si256(words.as_ptr().add(quad * WORD).cast());
                        *sum = $dpbusd(*sum, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x);
                    }
                }
                for (dots, sum) in dots.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                    _mm256_storeu_si256(dots.as_mut_ptr().cast(), sum);
                }
            }
        }

        #[inline(always)]
        fn scores_of<const N: usize>(
            self,
            keys: &[u8],
            queries: [&Query<'_>; N],
            first: bool,
            dots: &mut [[i32; TILE]; N],
        ) {
            if N == 1 {
                for (query, dots) in queries.into_iter().zip(dots) {
                    self.scores(keys, query.values, query.start, first, dots);
                }
                return;
            }
            let shortest = queries.iter().map(|query| query.values.len()).min().unwrap_or(0);
            let (quads, words) = super::drive::key_blocks(keys, queries[0].values.get(..shortest).unwrap_or(&[]));
            // SAFETY: the processor has the instructions (`new`); `key_blocks` says that the blocks and the shortest query
            // hold as many quads. `dots` are arrays of TILE.
            unsafe {
                // Two blocks of eight keys: sums for four queries fit the registers.
                for (i, words) in words.as_chunks::<2>().0.iter().enumerate() {
                    let mut sums = [[_mm256_setzero_si256(); 2]; N];
                    for n in 0..N {
                        sums[n] = [_mm256_set1_epi32(queries[n].start); 2];
                    }
                    for quad in 0..quads {
                        let mut w = [_mm256_setzero_si256(); 2];
                        for j in 0..2 {
                            if first && quad % 2 == 0 {
                                avx2::prefetch_cached(words[j], quad * WORD);
                            }
                            w[j] = _mm256_loadu_si256(words[j].as_ptr().add(quad * WORD).cast());
                            w[j] = _mm256_xor_si256(w[j], _mm256_set1_epi8(-128));
                        }
                        for n in 0..N {
                            let x = queries[n].values.as_ptr().add(quad * 4).cast::<i32>().read_unaligned();
                            for j in 0..2 {
                                sums[n][j] = $dpbusd(sums[n][j], w[j], _mm256_set1_epi32(x));
                            }
                        }
                    }
                    for n in 0..N {
                        for j in 0..2 {
                            let to = dots[n].as_mut_ptr().add(16 * i + 8 * j);
                            _mm256_storeu_si256(to.cast(), sums[n][j]);
                        }
                    }
                }
            }
        }

        #[inline(always)]
        fn mix<const N: usize>(
            self,
            values: &[u8],
            weights: &[[i8; TILE]; N],
            steps: &[Step; N],
            first: bool,
            out: &mut [&mut [f32]; N],
        ) {
            for i in 0..N {
                // SAFETY: the processor has the instructions (`new`); weights and values are read below the ends of arrays.
                unsafe {
                    // The same weights for all rows, in registers.
                    let mut w = [_mm256_setzero_si256(); TILE / 4];
                    for quad in 0..TILE / 4 {
                        let x = weights[i].as_ptr().add(quad * 4).cast::<i32>().read_unaligned();
                        w[quad] = _mm256_set1_epi32(x);
                    }
                    let blocks = values.as_chunks::<{ TILE / 4 * WORD }>().0;
                    for (words, out) in blocks.iter().zip(out[i].as_chunks_mut::<8>().0) {
                        let mut sums = _mm256_setzero_si256();
                        for quad in 0..TILE / 4 {
                            if first && i == 0 && quad % 2 == 0 {
                                avx2::prefetch_cached(words, quad * WORD);
                            }
                            let v = _mm256_loadu_si256(words.as_ptr().add(quad * WORD).cast());
                            sums = $dpbusd(sums, w[quad], v);
                        }
                        avx2::apply(steps[i], sums, out);
                    }
                }
            }
        }

        #[inline(always)]
        fn mix8(self, values: &[u8], weights: &[i8; TILE], step: Step, first: bool, out: &mut [f32; 8]) {
            let Some(words) = values.first_chunk::<{ TILE / 4 * WORD }>() else { return };
            // SAFETY: the processor has the instructions (`new`); both arrays have TILE / 4 quads.
            unsafe {
                let mut sums = _mm256_setzero_si256();
                for quad in 0..TILE / 4 {
                    if first && quad % 2 == 0 {
                        avx2::prefetch_cached(words, quad * WORD);
                    }
                    let w = _mm256_loadu_si256(words.as_ptr().add(quad * WORD).cast());
                    let x = _mm256_set1_epi32(weights.as_ptr().add(quad * 4).cast::<i32>().read_unaligned());
                    sums = $dpbusd(sums, x, w);
                }
                avx2::apply(step, sums, out);
            }
        }

        #[inline(always)]
        fn softmax<const N: usize>(
            self,
            dots: &[[i32; TILE]; N],
            tile: &Tile<'_>,
            scales: [f32; N],
            visible: [usize; N],
            online: &mut [Online; N],
            weights: &mut [[i8; TILE]; N],
        ) -> [Step; N] {
            // SAFETY: the processor has AVX2 beside VNNI (`new`).
            unsafe { avx2::softmax(dots, tile, scales, visible, online, weights) }
        }

        #[inline(always)]
        fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, i32) {
            // SAFETY: the processor has AVX2 beside VNNI (`new`).
            unsafe { avx2::quantize(x, q) }
        }

        #[inline(always)]
        fn quantize_groups(
            self,
            x: &[f32],
            group: usize,
            q: &mut [i8],
            scales: &mut [f32],
            starts: &mut [i32],
        ) -> usize {
            // SAFETY: the processor has AVX2 beside VNNI (`new`).
            unsafe { avx2::quantize_groups(x, group, q, scales, starts) }
        }
    };
}

impl Kernel for AvxVnni {
    type Scratch = ();
    kernel256!(_mm256_dpbusd_avx_epi32);
}

impl Kernel for Avx512Vnni {
    type Scratch = ();
    const EIGHT_TOKENS: bool = true;
    kernel256!(_mm256_dpbusd_epi32);

    #[inline(always)]
    fn rows16<const T: usize>(self, blocks: [Block<'_>; 2], x: Tokens<'_>) -> [[f32; 16]; T] {
        let [low, high] = blocks;
        let tokens = x.split::<T>();
        let quads = low.quads(8, &tokens).min(high.quads(8, &tokens));
        let mut out = [[0f32; 16]; T];
        // Two pointers for up to eight tokens: more would not stay in registers.
        let values = |t: usize| x.values.as_ptr().wrapping_add(t / 4 * 4 * x.stride).wrapping_add(t % 4 * x.stride);
        // SAFETY: as above, for both blocks.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); T];
            let (mut quad, mut group) = (0, 0);
            while quad < quads {
                let end = quads.min(quad + low.group_quads);
                let mut sums = [_mm512_setzero_si512(); T];
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_set1_epi32(*x.starts.as_ptr().add(t * x.groups + group));
                }
                while quad < end {
                    let w_low = _mm256_loadu_si256(low.words.as_ptr().add(quad * WORD).cast());
                    let w_high = _mm256_loadu_si256(high.words.as_ptr().add(quad * WORD).cast());
                    let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(w_low), w_high);
                    let w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let x = values(t).add(quad * 4).cast::<i32>().read_unaligned();
                        *sum = _mm512_dpbusd_epi32(*sum, w, _mm512_set1_epi32(x));
                    }
                    quad += 1;
                }
                let s_low = _mm_loadu_si128(low.scales.as_ptr().add(group * 8).cast());
                let s_high = _mm_loadu_si128(high.scales.as_ptr().add(group * 8).cast());
                let w_scale = _mm512_cvtph_ps(_mm256_set_m128i(s_high, s_low));
                for t in 0..T {
                    let x_scale = *x.scales.as_ptr().add(t * x.groups + group);
                    let scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale));
                    acc[t] = _mm512_add_ps(acc[t], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[t]), scale));
                }
                group += 1;
            }
            for t in 0..T {
                _mm512_storeu_ps(out[t].as_mut_ptr(), acc[t]);
            }
        }
        out
    }
}
