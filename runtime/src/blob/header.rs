//! The blob's fixed-size head: 192 bytes that say everything but the numbers, readable in a `const fn`.
//!
//! Firmware reads it at compile time to size its buffers; [`crate::Model::new`] reads it at start-up. There is only this
//! one reader, and [`Header::to_bytes`] beside it is the only writer. It checks its own fields; whether the rest of the
//! file agrees is [`crate::Model::new`]'s business.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `thumbfmr` |
//! | 8 | 4 | version, 1 |
//! | 12 | 1 | layout: 0 rows8, 1 dsp |
//! | 13 | 3 | zero |
//! | 16 | 4 | group: 32, 64, or 0 for whole rows |
//! | 20 | 4 | number of tensors |
//! | 24 | 8 | length of the file |
//! | 32 | 8 | length of the tokenizer section, 0 if there is none |
//! | 40 | 4 | CRC-32 of everything from offset 192 |
//! | 44 | 4 | CRC-32 of the first 192 bytes with this field zero |
//! | 48 | 4 | token that follows the start token, plus 1, or 0 |
//! | 52 | 4 | window_from, u32; if byte 61 says so, the lower half of window_list instead |
//! | 56 | 4 | token that stands for a hidden one, plus 1, or 0 |
//! | 60 | 1 | pooling: 0 mean, 1 first token |
//! | 61 | 1 | whether there is a window_list |
//! | 62 | 2 | zero |
//! | 64 | 32 | vocab, dim, layers, heads, kv_heads, head_dim, hidden, context: u32 each |
//! | 96 | 6 | norm, position, activation, gated, biases (bits: norm, qkv, attention_out, mlp, head), tied head |
//! | 102 | 2 | wiring, head_norm |
//! | 104 | 12 | norm_eps f32, rotary_dim u32, attention_scale f32 |
//! | 116 | 4 | embedding_scale f32, 0 for 1 |
//! | 120 | 6 | not causal, post_norm, token_types, embedding_norm, head_transform, headless |
//! | 126 | 2 | no final_norm, normed_residual |
//! | 128 | 4 | token that starts a sequence, or 0xFFFFFFFF |
//! | 132 | 4 | number of tokens that end one, at most 6 |
//! | 136 | 24 | those tokens, unused ones 0 |
//! | 160 | 8 | window, global_every: u32 each; with a window_list its upper half instead of the second |
//! | 168 | 8 | score_cap, logit_cap: f32 each |
//! | 176 | 2 | window_rope, output_norms |
//! | 178 | 2 | cross, shared_embedding |
//! | 180 | 4 | relative_distance, u32 |
//! | 184 | 8 | length of the encoder's blob, with which the file ends; 0 if there is none |
//!
//! All numbers are little-endian.

use super::BlobError;
use crate::arch::{Activation, Arch, Biases, CROSS, ENCODER, HeadNorm, LayerSet, Norm, Position, SHAPING, Wiring};
use crate::feature::Feature;
use crate::packing::{Layout, Packing};

/// First bytes of every blob.
pub const MAGIC: [u8; 8] = *b"thumbfmr";
/// The only format version there is.
pub const VERSION: u32 = 1;
/// Bytes of the head.
pub const HEADER_BYTES: usize = 192;
/// How many end tokens fit.
pub const MAX_END_TOKENS: usize = 6;

const CRC_AT: usize = 44;
const NO_TOKEN: u32 = u32::MAX;

/// Tokens with a role in generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Starts a sequence.
    pub start: Option<u32>,
    /// Follows the start token: the language, or what else an encoder-decoder begins every text with.
    pub second: Option<u32>,
    /// Stands for a token that the model is to fill in.
    pub mask: Option<u32>,
    end: [u32; MAX_END_TOKENS],
    end_count: u32,
}

impl SpecialTokens {
    /// No such tokens.
    pub const NONE: Self = Self { start: None, second: None, mask: None, end: [0; MAX_END_TOKENS], end_count: 0 };

    /// `None` if there are more end tokens than [`MAX_END_TOKENS`].
    pub fn new(start: Option<u32>, end_tokens: &[u32]) -> Option<Self> {
        let mut end = [0; MAX_END_TOKENS];
        end.get_mut(..end_tokens.len())?.copy_from_slice(end_tokens);
        Some(Self { start, second: None, mask: None, end, end_count: end_tokens.len() as u32 })
    }

    /// The tokens after which generation stops.
    pub fn end(&self) -> &[u32] {
        self.end.get(..self.end_count as usize).unwrap_or(&[])
    }
}

/// How one vector is made of a text's, for [`Session::embedding`](crate::Session::embedding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Pooling {
    /// The mean of all tokens'.
    #[default]
    Mean = 0,
    /// The first token's.
    First = 1,
}

/// Everything the head says. See the [module](self) for its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// The architecture record.
    pub arch: Arch,
    /// Layout and group of all matrices.
    pub packing: Packing,
    /// Tokens that start and end sequences.
    pub special: SpecialTokens,
    /// How the model's authors pool a text's vectors.
    pub pooling: Pooling,
    /// Entries of the tensor table.
    pub tensor_count: u32,
    /// Bytes of the tokenizer section.
    pub tokenizer_len: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    /// Bytes of the encoder's blob, with which the file of an encoder-decoder ends; else 0.
    pub source_len: u64,
    /// CRC-32 of everything behind the head.
    pub content_crc: u32,
}

const fn byte(b: &[u8; HEADER_BYTES], at: usize) -> u8 {
    b[at]
}

const fn u32_at(b: &[u8; HEADER_BYTES], at: usize) -> u32 {
    match b.split_at(at).1.first_chunk() {
        Some(&bytes) => u32::from_le_bytes(bytes),
        None => 0,
    }
}

const fn u64_at(b: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u32_at(b, at) as u64 | (u32_at(b, at + 4) as u64) << 32
}

impl Header {
    /// Reads and checks the head of `blob`. A `const fn`, so that firmware can size its memory from the file at compile
    /// time.
    ///
    /// # Errors
    /// Too few bytes, a wrong magic or version, a field out of range. The checksums are not compared here.
    pub const fn read(blob: &[u8]) -> Result<Self, BlobError> {
        let Some(b) = blob.first_chunk::<HEADER_BYTES>() else {
            return Err(BlobError::TooShort { expected: HEADER_BYTES as u64, found: blob.len() as u64 });
        };
        let mut i = 0;
        while i < MAGIC.len() {
            if byte(b, i) != MAGIC[i] {
                return Err(BlobError::Magic);
            }
            i += 1;
        }
        if u32_at(b, 8) != VERSION {
            return Err(BlobError::Version { found: u32_at(b, 8) });
        }
        macro_rules! field {
            ($at:expr, $field:literal, { $($value:pat => $meaning:expr),* $(,)? }) => {
                match byte(b, $at) {
                    $($value => $meaning,)*
                    found => return Err(BlobError::Field { field: $field, found: found as u32 }),
                }
            };
        }
        let layout = field!(12, "layout", { 0 => Layout::Rows8, 1 => Layout::Dsp });
        let group = u32_at(b, 16);
        if !matches!(group, 0 | 32 | 64) {
            return Err(BlobError::Field { field: "group", found: group });
        }
        if !ENCODER && (u32_at(b, 120) != 0 || u32_at(b, 124) != 0) {
            return Err(BlobError::Feature { feature: "encoder" });
        }
        if !SHAPING && (u32_at(b, 52) != 0 || byte(b, 61) != 0) {
            return Err(BlobError::Feature { feature: "shaping" });
        }
        if !CROSS
            && (byte(b, 97) == Position::Relative as u8
                || u32_at(b, 176) > 0xFFFF
                || u32_at(b, 180) != 0
                || u64_at(b, 184) != 0)
        {
            return Err(BlobError::Feature { feature: "cross" });
        }
        let (from, every) = (u32_at(b, 52), u32_at(b, 164));
        let listed = SHAPING && field!(61, "window_listed", { 0 => false, 1 => true });
        let window_list = if listed { from as u64 | (every as u64) << 32 } else { 0 };
        if listed && window_list == 0 {
            return Err(BlobError::Field { field: "window_list", found: 0 });
        }
        let biases = byte(b, 100);
        if biases > 0b1_1111 {
            return Err(BlobError::Field { field: "biases", found: biases as u32 });
        }
        let arch = Arch {
            vocab: u32_at(b, 64),
            dim: u32_at(b, 68),
            layers: u32_at(b, 72),
            heads: u32_at(b, 76),
            kv_heads: u32_at(b, 80),
            head_dim: u32_at(b, 84),
            hidden: u32_at(b, 88),
            context: u32_at(b, 92),
            norm: field!(96, "norm", { 0 => Norm::Layer, 1 => Norm::Rms }),
            position: field!(97, "position", {
                0 => Position::Learned, 1 => Position::Rope, 2 => Position::Alibi, 3 => Position::Relative
            }),
            activation: field!(98, "activation", {
                0 => Activation::Gelu, 1 => Activation::GeluTanh, 2 => Activation::Silu, 3 => Activation::Relu
            }),
            gated: field!(99, "gated", { 0 => false, 1 => true }),
            biases: Biases {
                norm: biases & 1 != 0,
                qkv: biases & 2 != 0,
                attention_out: biases & 4 != 0,
                mlp: biases & 8 != 0,
                head: biases & 16 != 0,
            },
            tied_head: field!(101, "tied_head", { 0 => false, 1 => true }),
            wiring: field!(102, "wiring", {
                0 => Wiring::Sequential, 1 => Wiring::Parallel, 2 => Wiring::ParallelOneNorm
            }),
            head_norm: field!(103, "head_norm", {
                0 => HeadNorm::None, 1 => HeadNorm::Rms, 2 => HeadNorm::Layer, 3 => HeadNorm::LayerByHead
            }),
            norm_eps: f32::from_bits(u32_at(b, 104)),
            rotary_dim: u32_at(b, 108),
            attention_scale: f32::from_bits(u32_at(b, 112)),
            embedding_scale: match u32_at(b, 116) {
                0 => 1.0,
                bits => f32::from_bits(bits),
            },
            window: u32_at(b, 160),
            window_from: if SHAPING && !listed { from } else { 0 },
            global_every: if listed { 0 } else { every },
            window_list: LayerSet::from_bits(window_list),
            score_cap: f32::from_bits(u32_at(b, 168)),
            logit_cap: f32::from_bits(u32_at(b, 172)),
            window_rope: field!(176, "window_rope", { 0 => false, 1 => true }),
            output_norms: field!(177, "output_norms", { 0 => false, 1 => true }),
            cross: CROSS && field!(178, "cross", { 0 => false, 1 => true }),
            shared_embedding: CROSS && field!(179, "shared_embedding", { 0 => false, 1 => true }),
            relative_distance: if CROSS { u32_at(b, 180) } else { 0 },
            causal: !ENCODER || field!(120, "not_causal", { 0 => true, 1 => false }),
            post_norm: ENCODER && field!(121, "post_norm", { 0 => false, 1 => true }),
            token_types: if ENCODER { byte(b, 122) as u32 } else { 0 },
            embedding_norm: ENCODER && field!(123, "embedding_norm", { 0 => false, 1 => true }),
            head_transform: ENCODER && field!(124, "head_transform", { 0 => false, 1 => true }),
            headless: ENCODER && field!(125, "headless", { 0 => false, 1 => true }),
            final_norm: !ENCODER || field!(126, "no_final_norm", { 0 => true, 1 => false }),
            normed_residual: ENCODER && field!(127, "normed_residual", { 0 => false, 1 => true }),
        };
        if let Err(e) = arch.validate() {
            return Err(BlobError::Arch(e));
        }
        let start = u32_at(b, 128);
        if start != NO_TOKEN && start >= arch.vocab {
            return Err(BlobError::Field { field: "start_token", found: start });
        }
        let mask = if ENCODER { u32_at(b, 56) } else { 0 };
        if mask > arch.vocab {
            return Err(BlobError::Field { field: "mask_token", found: mask - 1 });
        }
        let mask = mask.checked_sub(1);
        let second = if CROSS { u32_at(b, 48) } else { 0 };
        if second > arch.vocab {
            return Err(BlobError::Field { field: "second_token", found: second - 1 });
        }
        let source_len = if CROSS { u64_at(b, 184) } else { 0 };
        if (source_len > 0) != arch.cross {
            return Err(BlobError::Field { field: "source_len", found: source_len as u32 });
        }
        let end_count = u32_at(b, 132);
        if end_count as usize > MAX_END_TOKENS {
            return Err(BlobError::Field { field: "end_token_count", found: end_count });
        }
        let mut end = [0; MAX_END_TOKENS];
        let mut i = 0;
        while i < MAX_END_TOKENS {
            end[i] = u32_at(b, 136 + 4 * i);
            let limit = if i < end_count as usize { arch.vocab } else { 1 };
            if end[i] >= limit {
                return Err(BlobError::Field { field: "end_token", found: end[i] });
            }
            i += 1;
        }
        let mut at = 13;
        while at < HEADER_BYTES {
            let reserved = matches!(at, 13..16 | 62..64)
                || !ENCODER && matches!(at, 56..61 | 120..128)
                || !CROSS && matches!(at, 48..52);
            if reserved && byte(b, at) != 0 {
                return Err(BlobError::NotZero { offset: at as u64 });
            }
            at += 1;
        }
        Ok(Self {
            arch,
            packing: Packing { layout, group },
            special: SpecialTokens {
                start: if start == NO_TOKEN { None } else { Some(start) },
                second: second.checked_sub(1),
                mask,
                end,
                end_count,
            },
            pooling: if ENCODER {
                field!(60, "pooling", { 0 => Pooling::Mean, 1 => Pooling::First })
            } else {
                Pooling::Mean
            },
            tensor_count: u32_at(b, 20),
            file_len: u64_at(b, 24),
            tokenizer_len: u64_at(b, 32),
            source_len,
            content_crc: u32_at(b, 40),
        })
    }

    /// Whether a model with this head needs that Cargo feature, on a Cortex-M with the DSP extension. What its tokenizer
    /// needs is not said here.
    pub const fn needs(&self, feature: Feature) -> bool {
        match feature {
            Feature::Portable => !self.suits_assembly(),
            _ => self.arch.needs(feature),
        }
    }

    /// Whether the assembly for Cortex-M takes all sizes of the model; the last rows of a matrix it takes by themselves.
    const fn suits_assembly(&self) -> bool {
        let (arch, group, most) = (&self.arch, self.packing.group, Layout::DSP_COLS as u32);
        matches!(self.packing.layout, Layout::Dsp)
            && arch.dim.is_multiple_of(8)
            && arch.hidden.is_multiple_of(4)
            && arch.head_dim.is_multiple_of(4)
            && arch.head_dim <= most
            && arch.rotary_dim.is_multiple_of(8)
            && (group > 0 || (arch.dim <= most && arch.hidden <= most && arch.q_width() <= most))
    }

    /// Where the encoder's blob begins in the file of an encoder-decoder.
    pub const fn source_offset(&self) -> Option<u64> {
        if self.source_len == 0 { None } else { self.file_len.checked_sub(self.source_len) }
    }

    /// Reads and checks the head of the encoder's blob, which `blob`, whose head this is, ends with. `None` if it has none.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub const fn read_source(&self, blob: &[u8]) -> Option<Result<Self, BlobError>> {
        let Some(offset) = self.source_offset() else { return None };
        if offset > blob.len() as u64 {
            return Some(Err(BlobError::TooShort { expected: self.file_len, found: blob.len() as u64 }));
        }
        Some(Self::read(blob.split_at(offset as usize).1))
    }

    /// The head's bytes, checksum included.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = b.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        let a = &self.arch;
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &[self.packing.layout as u8]);
        put(16, &self.packing.group.to_le_bytes());
        put(20, &self.tensor_count.to_le_bytes());
        put(24, &self.file_len.to_le_bytes());
        put(32, &self.tokenizer_len.to_le_bytes());
        put(40, &self.content_crc.to_le_bytes());
        put(48, &self.special.second.map_or(0, |id| id + 1).to_le_bytes());
        let list = a.window_list.bits();
        let listed = list != 0;
        let [from, every] = if listed { [list as u32, (list >> 32) as u32] } else { [a.window_from, a.global_every] };
        put(52, &from.to_le_bytes());
        put(56, &self.special.mask.map_or(0, |id| id + 1).to_le_bytes());
        put(60, &[self.pooling as u8, u8::from(listed)]);
        for (i, n) in
            [a.vocab, a.dim, a.layers, a.heads, a.kv_heads, a.head_dim, a.hidden, a.context].iter().enumerate()
        {
            put(64 + 4 * i, &n.to_le_bytes());
        }
        let biases = u8::from(a.biases.norm)
            | u8::from(a.biases.qkv) << 1
            | u8::from(a.biases.attention_out) << 2
            | u8::from(a.biases.mlp) << 3
            | u8::from(a.biases.head) << 4;
        put(96, &[a.norm as u8, a.position as u8, a.activation as u8, u8::from(a.gated), biases]);
        put(101, &[u8::from(a.tied_head), a.wiring as u8, a.head_norm as u8]);
        put(104, &a.norm_eps.to_bits().to_le_bytes());
        put(108, &a.rotary_dim.to_le_bytes());
        put(112, &a.attention_scale.to_bits().to_le_bytes());
        if a.embedding_scale != 1.0 {
            put(116, &a.embedding_scale.to_bits().to_le_bytes());
        }
        put(120, &[u8::from(!a.causal), u8::from(a.post_norm), a.token_types as u8]);
        put(123, &[a.embedding_norm, a.head_transform, a.headless, !a.final_norm, a.normed_residual].map(u8::from));
        for (i, n) in [a.window, every, a.score_cap.to_bits(), a.logit_cap.to_bits()].iter().enumerate() {
            put(160 + 4 * i, &n.to_le_bytes());
        }
        put(176, &[a.window_rope, a.output_norms, a.cross, a.shared_embedding].map(u8::from));
        put(180, &a.relative_distance.to_le_bytes());
        put(184, &self.source_len.to_le_bytes());
        put(128, &self.special.start.unwrap_or(NO_TOKEN).to_le_bytes());
        put(132, &self.special.end_count.to_le_bytes());
        for (i, id) in self.special.end.iter().enumerate() {
            put(136 + 4 * i, &id.to_le_bytes());
        }
        let crc = super::crc::crc32(&b);
        if let Some(field) = b.get_mut(CRC_AT..CRC_AT + 4) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        b
    }

    /// Whether the head's own checksum holds.
    pub(super) fn checksum_holds(blob: &[u8]) -> bool {
        let Some(head) = blob.first_chunk::<HEADER_BYTES>() else { return false };
        let mut zeroed = *head;
        zeroed[CRC_AT..CRC_AT + 4].fill(0);
        super::crc::crc32(&zeroed) == u32_at(head, CRC_AT)
    }
}

#[cfg(all(test, not(feature = "encoder")))]
mod tests {
    use super::*;

    #[test]
    fn heads_of_encoders_are_refused() {
        let special = SpecialTokens::new(None, &[]).unwrap();
        let packing = Packing { layout: Layout::Rows8, group: 32 };
        let (tensor_count, tokenizer_len, file_len, content_crc) = (0, 0, 0, 0);
        let pooling = Pooling::Mean;
        let arch = Arch::PLAIN;
        let source_len = 0;
        let head =
            Header { arch, packing, special, pooling, tensor_count, tokenizer_len, file_len, source_len, content_crc };
        let good = head.to_bytes();
        assert_eq!(Header::read(&good), Ok(head));
        for at in 120..128 {
            let mut bad = good;
            bad[at] = 1;
            assert_eq!(Header::read(&bad), Err(BlobError::Feature { feature: "encoder" }), "{at}");
        }
        for at in [178, 179, 180, 184] {
            let mut bad = good;
            bad[at] = 1;
            assert_eq!(Header::read(&bad), Err(BlobError::Feature { feature: "cross" }), "{at}");
        }
        for at in [48, 56, 60] {
            let mut bad = good;
            bad[at] = 1;
            assert_eq!(Header::read(&bad), Err(BlobError::NotZero { offset: at as u64 }));
        }
    }
}
