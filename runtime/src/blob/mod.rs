//! The `.thumb` file: one architecture record, one tokenizer, all weights, executed in place.
//!
//! [`Model::new`] is the only parser there is, for host and device. It trusts nothing and checks everything once: sizes
//! with overflow-checked arithmetic, every offset against the one place where the format puts each tensor, alignment,
//! padding, checksums, that scales and vectors are finite. After it, every accessor is infallible and nothing panics,
//! allocates or reads out of bounds. It copies nothing: weights stay where the file lies, in flash or in a memory map.
//!
//! Behind the [head](header) of 192 bytes follow, each starting at a multiple of 64 bytes with zeros before it: the
//! tensor table, the tokenizer section, and the tensors in the order of [`Arch::tensors`]. A matrix is its weights and,
//! at the next multiple of 64, its f16 scales (see [`crate::packing`]); a vector is its f32 values. Behind the last tensor
//! of an encoder-decoder, whose file is the decoder's, stands at the next multiple of 64 the encoder's: a whole blob, with a
//! tokenizer of its own where it reads another vocabulary. Nothing follows. A table entry is 32 bytes:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | [`Role`] |
//! | 2 | 1 | kind: 0 matrix, 1 vector |
//! | 3 | 1 | zero |
//! | 4 | 12 | layer, rows, cols: u32 each |
//! | 16 | 4 | exponent e: the scales are to be multiplied by 2^e; i32, 0 for vectors |
//! | 20 | 4 | zero |
//! | 24 | 8 | offset in the file |

mod content;
pub mod crc;
pub mod header;
#[cfg(feature = "cross")]
mod source;

use core::cmp::Ordering;

use crate::arch::{Arch, ArchError, Kind, Order, Role, SHAPING, TensorSpec};
use crate::feature::Feature;
use crate::matrix::Matrix;
use crate::packing::{Packing, round_up};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::workers::{Serial, Workers};
use header::{HEADER_BYTES, Header, SpecialTokens};

/// Every section and tensor starts at a multiple of this.
pub const ALIGN: usize = 64;
/// Bytes of a table entry.
pub const ENTRY_BYTES: usize = 32;
/// Exponents of tensors lie within plus or minus this, so that scales and their products stay finite.
pub const MAX_EXPONENT: i32 = 100;

/// Why a blob was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BlobError {
    /// The bytes end before the file does.
    TooShort {
        /// Bytes the file must have.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The bytes go on after the file's end.
    TooLong {
        /// Bytes the file must have.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The bytes do not start at a multiple of 64.
    Misaligned,
    /// The first bytes are not a blob's.
    Magic,
    /// A version this runtime does not know.
    Version {
        /// The file's version.
        found: u32,
    },
    /// A field of the head has a value the format does not define.
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u32,
    },
    /// The architecture record contradicts itself.
    Arch(ArchError),
    /// The model needs what this runtime was built without.
    Feature {
        /// The Cargo feature that is missing.
        feature: &'static str,
    },
    /// A byte that must be zero is not.
    NotZero {
        /// Where.
        offset: u64,
    },
    /// The head's checksum is wrong: the file was damaged.
    HeaderChecksum,
    /// The content's checksum is wrong: the file was damaged.
    ContentChecksum,
    /// The table has another number of tensors than the architecture calls for.
    TensorCount {
        /// By the architecture.
        expected: u32,
        /// By the head.
        found: u32,
    },
    /// A table entry is not the one that the architecture calls for at its place.
    Tensor {
        /// Index in the table.
        index: u32,
        /// The field that differs.
        field: &'static str,
    },
    /// A scale is negative, infinite or not a number.
    Scale {
        /// The tensor's index in the table.
        index: u32,
    },
    /// A vector holds an infinity or something that is not a number, or a frequency above
    /// [`MAX_FREQUENCY`](crate::arch::MAX_FREQUENCY).
    Value {
        /// The tensor's index in the table.
        index: u32,
    },
    /// The tokenizer section is damaged.
    Tokenizer(TokenizerError),
    /// The encoder's blob of an encoder-decoder does not go with the decoder.
    Source {
        /// What differs from what the decoder calls for.
        field: &'static str,
    },
}

impl core::fmt::Display for BlobError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            BlobError::TooShort { expected, found } => write!(f, "cut off: {found} bytes of {expected}"),
            BlobError::TooLong { expected, found } => write!(f, "{found} bytes where the file has only {expected}"),
            BlobError::Feature { feature } => write!(f, "this model needs the runtime's feature `{feature}`"),
            BlobError::Misaligned => write!(f, "the blob must start at a multiple of {ALIGN} bytes"),
            BlobError::Magic => write!(f, "not a .thumb file: it does not start with `thumbfmr`"),
            BlobError::Version { found } => {
                write!(f, "format version {found}; this runtime knows version {}: convert again", header::VERSION)
            }
            BlobError::Field { field, found } => write!(f, "head field `{field}` has the undefined value {found}"),
            BlobError::Arch(e) => e.fmt(f),
            BlobError::NotZero { offset } => write!(f, "byte {offset} must be zero"),
            BlobError::HeaderChecksum => write!(f, "the head's checksum is wrong: the file is damaged"),
            BlobError::ContentChecksum => write!(f, "the content's checksum is wrong: the file is damaged"),
            BlobError::TensorCount { expected, found } => {
                write!(f, "{found} tensors where the architecture has {expected}")
            }
            BlobError::Tensor { index, field } => {
                write!(f, "tensor {index}: `{field}` differs from what the architecture calls for")
            }
            BlobError::Scale { index } => write!(f, "tensor {index}: a scale is negative or not finite"),
            BlobError::Value { index } => write!(f, "tensor {index}: a value is not finite, or too large a frequency"),
            BlobError::Tokenizer(e) => write!(f, "tokenizer: {e}"),
            BlobError::Source { field } => write!(f, "the encoder's `{field}` does not go with the decoder"),
        }
    }
}

impl core::error::Error for BlobError {}

/// Where the format puts a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The tensor.
    pub spec: TensorSpec,
    /// Offset of its values.
    pub offset: u64,
    /// Bytes of its values.
    pub len: u64,
    /// Offset of its scales; where it ends, if it has none.
    pub scales: u64,
    /// Bytes of its scales.
    pub scales_len: u64,
}

impl Placed {
    /// Offset of the first byte behind it.
    pub const fn end(&self) -> u64 {
        self.scales + self.scales_len
    }
}

/// The next multiple of [`ALIGN`].
pub const fn align(offset: u64) -> u64 {
    offset.div_ceil(ALIGN as u64) * ALIGN as u64
}

/// Offset of the tokenizer section for that many tensors.
pub const fn tokenizer_offset(tensors: u32) -> u64 {
    align(HEADER_BYTES as u64 + tensors as u64 * ENTRY_BYTES as u64)
}

/// Where every tensor lies in a blob: the writer puts them there and the parser accepts no other place. `arch` must be
/// valid ([`Arch::validate`]) and `tokenizer_len` below 2⁶², or the sums may overflow.
pub fn placement(arch: &Arch, packing: Packing, tokenizer_len: u64) -> impl Iterator<Item = Placed> + '_ {
    let mut cursor = tokenizer_offset(arch.tensors().count() as u32) + tokenizer_len;
    arch.tensors().map(move |spec| {
        let offset = align(cursor);
        let (rows, cols) = (u64::from(spec.rows), u64::from(spec.cols));
        let block = packing.layout.block_rows() as u64;
        let (len, scales_len) = match spec.kind {
            Kind::Matrix => {
                let rows = rows.div_ceil(block) * block;
                (rows * (cols.div_ceil(4) * 4), rows * packing.groups(spec.cols as usize) as u64 * 2)
            }
            Kind::Vector => (rows * cols * 4, 0),
        };
        let scales = if scales_len > 0 { align(offset + len) } else { offset + len };
        cursor = scales + scales_len;
        Placed { spec, offset, len, scales, scales_len }
    })
}

/// One table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tensor.
    pub spec: TensorSpec,
    /// Its scales are to be multiplied by two to this power.
    pub exponent: i32,
    /// Offset of its values.
    pub offset: u64,
}

impl Entry {
    /// The entry's bytes.
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let [r0, r1] = (self.spec.role as u16).to_le_bytes();
        let mut b = [0; ENTRY_BYTES];
        b[..4].copy_from_slice(&[r0, r1, self.spec.kind as u8, 0]);
        b[4..8].copy_from_slice(&self.spec.layer.to_le_bytes());
        b[8..12].copy_from_slice(&self.spec.rows.to_le_bytes());
        b[12..16].copy_from_slice(&self.spec.cols.to_le_bytes());
        b[16..20].copy_from_slice(&self.exponent.to_le_bytes());
        b[24..32].copy_from_slice(&self.offset.to_le_bytes());
        b
    }
}

/// A blob that has been checked: the architecture, and every tensor where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    blob: &'a [u8],
    header: Header,
    order: Order,
    tokenizer: Option<Tokenizer<'a>>,
    /// The encoder's tokenizer.
    #[cfg(feature = "cross")]
    source_tokenizer: Option<Tokenizer<'a>>,
    /// The decoder's token embedding, where an encoder shares it.
    #[cfg(feature = "cross")]
    shared_embedding: Option<Matrix<'a>>,
}

/// What a layer attends to its source with. Optional tensors are absent where the architecture has no such bias.
#[cfg(feature = "cross")]
#[derive(Clone, Copy, Debug)]
pub struct CrossLayer<'a> {
    /// `dim` weights of the norm before attention to the source.
    pub norm: &'a [f32],
    /// Its shift.
    pub norm_bias: Option<&'a [f32]>,
    /// Query projection.
    pub query: Matrix<'a>,
    /// Its bias.
    pub query_bias: Option<&'a [f32]>,
    /// Key and value projection of the encoder's output.
    pub key_value: Matrix<'a>,
    /// Its bias.
    pub key_value_bias: Option<&'a [f32]>,
    /// Subtracted from keys before they are cached.
    pub key_mean: &'a [f32],
    /// Output projection.
    pub out: Matrix<'a>,
    /// Its bias.
    pub out_bias: Option<&'a [f32]>,
}

/// One layer's tensors. Optional ones are absent where the architecture has no such bias or norm.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `dim` weights of the norm before attention.
    pub attention_norm: &'a [f32],
    /// Its shift.
    pub attention_norm_bias: Option<&'a [f32]>,
    /// Query, key and value projection.
    pub qkv: Matrix<'a>,
    /// Its bias.
    pub qkv_bias: Option<&'a [f32]>,
    /// `head_dim` weights of the norm of every query head, or as many for each.
    pub query_norm: Option<&'a [f32]>,
    /// The same for key heads.
    pub key_norm: Option<&'a [f32]>,
    /// Subtracted from keys before they are cached.
    pub key_mean: &'a [f32],
    /// The attention's output projection.
    pub attention_out: Matrix<'a>,
    /// Its bias.
    pub attention_out_bias: Option<&'a [f32]>,
    /// `dim` weights of the norm of attention's output.
    pub attention_out_norm: Option<&'a [f32]>,
    /// `dim` weights of the norm before the MLP, if it is not attention's.
    pub mlp_norm: Option<&'a [f32]>,
    /// Its shift.
    pub mlp_norm_bias: Option<&'a [f32]>,
    /// First MLP projection: gate and up, or up alone.
    pub mlp_up: Matrix<'a>,
    /// Its bias.
    pub mlp_up_bias: Option<&'a [f32]>,
    /// Second MLP projection.
    pub mlp_down: Matrix<'a>,
    /// Its bias.
    pub mlp_down_bias: Option<&'a [f32]>,
    /// `dim` weights of the norm of the MLP's output.
    pub mlp_out_norm: Option<&'a [f32]>,
    /// The shift of the norm of every query head.
    pub query_norm_bias: Option<&'a [f32]>,
    /// The same for key heads.
    pub key_norm_bias: Option<&'a [f32]>,
    /// Attention to the source, in an encoder-decoder.
    #[cfg(feature = "cross")]
    pub cross: Option<CrossLayer<'a>>,
}

impl<'a> Model<'a> {
    /// Checks the whole file. `blob` must start at a multiple of 64 bytes and end where the file ends.
    ///
    /// # Errors
    /// The first thing found wrong; see [`BlobError`].
    // Compiled as this crate is, not as the one that calls it.
    #[inline(never)]
    pub fn new(blob: &'a [u8]) -> Result<Self, BlobError> {
        Self::with_workers(blob, &Serial)
    }

    /// [`Model::new`] by several workers, who share the content: the same checks, and the same error.
    ///
    /// # Errors
    /// The first thing found wrong; see [`BlobError`].
    pub fn with_workers<W: Workers>(blob: &'a [u8], workers: &W) -> Result<Self, BlobError> {
        let model = Self::one(blob, workers)?;
        #[cfg(feature = "cross")]
        let model = source::check(model, workers)?;
        Ok(model)
    }

    /// Checks a blob without the one it may end with.
    fn one<W: Workers>(blob: &'a [u8], workers: &W) -> Result<Self, BlobError> {
        // Made at once and changed in place: copies of something so large take code.
        let mut model = Self {
            blob,
            header: Header::read(blob)?,
            order: Order::default(),
            tokenizer: None,
            #[cfg(feature = "cross")]
            source_tokenizer: None,
            #[cfg(feature = "cross")]
            shared_embedding: None,
        };
        let header = &model.header;
        if let Some(missing) = Feature::ALL.into_iter().find(|&feature| header.needs(feature) && !feature.is_on()) {
            return Err(BlobError::Feature { feature: missing.name() });
        }
        if !Header::checksum_holds(blob) {
            return Err(BlobError::HeaderChecksum);
        }
        if !(blob.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(BlobError::Misaligned);
        }
        let found = blob.len() as u64;
        check_length(header.file_len, found)?;
        let expected = header.arch.tensors().count() as u32;
        if header.tensor_count != expected {
            return Err(BlobError::TensorCount { expected, found: header.tensor_count });
        }
        if header.tokenizer_len > found {
            return Err(BlobError::TooShort { expected: header.tokenizer_len, found });
        }
        let end = placement(&header.arch, header.packing, header.tokenizer_len).last().map_or(0, |p| p.end());
        let end = match header.source_len {
            0 => end,
            len => align(end).saturating_add(len),
        };
        check_length(end, found)?;
        model.order = Order::new(&model.header.arch);
        content::check(&model, workers)?;
        let tokenizer = model.tokenizer_section();
        if !tokenizer.is_empty() {
            model.tokenizer = Some(Tokenizer::new(tokenizer, model.header.arch.vocab).map_err(BlobError::Tokenizer)?);
        }
        Ok(model)
    }

    /// Whether it needs a Cargo feature of this crate, on a Cortex-M with the DSP extension: which is what firmware asks for
    /// before it leaves one out.
    ///
    /// ```
    /// # fn needed(model: &thumbformer::Model<'_>) -> impl Iterator<Item = &'static str> {
    /// use thumbformer::Feature;
    /// Feature::ALL.into_iter().filter(|&feature| model.needs(feature)).map(Feature::name)
    /// # }
    /// ```
    pub fn needs(&self, feature: Feature) -> bool {
        let by_tokenizer = self.tokenizer.is_some_and(|tokenizer| tokenizer.needs(feature));
        #[cfg(feature = "cross")]
        let by_source = self.source().is_some_and(|source| source.needs(feature));
        #[cfg(not(feature = "cross"))]
        let by_source = false;
        self.header.needs(feature) || by_tokenizer || by_source
    }

    /// The head.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The architecture record.
    pub fn arch(&self) -> &Arch {
        &self.header.arch
    }

    /// Tokens that start and end sequences.
    pub fn special(&self) -> &SpecialTokens {
        &self.header.special
    }

    /// The tokenizer, if the file has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer<'a>> {
        self.tokenizer.as_ref()
    }

    /// The file's bytes.
    pub fn blob(&self) -> &'a [u8] {
        self.blob
    }

    /// The tokenizer section's bytes; empty if there is none.
    pub fn tokenizer_section(&self) -> &'a [u8] {
        self.bytes(tokenizer_offset(self.header.tensor_count), self.header.tokenizer_len)
    }

    /// A matrix by its role, `None` if the architecture has none of that role or it is a vector.
    pub fn matrix(&self, role: Role, layer: u32) -> Option<Matrix<'a>> {
        let found = self.find(role, layer).and_then(|entry| self.matrix_of(entry));
        #[cfg(feature = "cross")]
        let found = found.or(self.shared_embedding.filter(|_| role == Role::TokenEmbedding));
        found
    }

    /// A vector by its role, `None` if the architecture has none of that role or it is a matrix.
    pub fn vector(&self, role: Role, layer: u32) -> Option<&'a [f32]> {
        self.find(role, layer).and_then(|entry| self.vector_of(entry))
    }

    /// The entry of that role, if there is one.
    fn find(&self, role: Role, layer: u32) -> Option<&'a [u8; ENTRY_BYTES]> {
        let range = self.order.range(&self.header.arch, role, layer);
        let entries = self.entries(range.start).iter().take(range.len());
        entries.into_iter().find(|entry| is(entry, role, layer))
    }

    /// All tensors of layer `layer`, `None` beyond the last.
    // Inlined, so that nothing so large is copied.
    #[inline(always)]
    pub fn layer(&self, layer: u32) -> Option<Layer<'a>> {
        let arch = &self.header.arch;
        if layer >= arch.layers {
            return None;
        }
        // Entries are in the architecture's order, so a cursor finds them without searching.
        let mut entries = self.entries(self.order.first_index(layer));
        macro_rules! vector {
            ($role:ident) => {
                next(&mut entries, Role::$role).and_then(|entry| self.vector_of(entry))
            };
        }
        macro_rules! matrix {
            ($role:ident) => {
                next(&mut entries, Role::$role).and_then(|entry| self.matrix_of(entry))?
            };
        }
        Some(Layer {
            attention_norm: vector!(AttentionNorm)?,
            attention_norm_bias: vector!(AttentionNormBias),
            qkv: matrix!(Qkv),
            qkv_bias: vector!(QkvBias),
            query_norm: vector!(QueryNorm),
            key_norm: vector!(KeyNorm),
            key_mean: vector!(KeyMean)?,
            attention_out: matrix!(AttentionOut),
            attention_out_bias: vector!(AttentionOutBias),
            attention_out_norm: vector!(AttentionOutNorm),
            mlp_norm: vector!(MlpNorm),
            mlp_norm_bias: vector!(MlpNormBias),
            mlp_up: matrix!(MlpUp),
            mlp_up_bias: vector!(MlpUpBias),
            mlp_down: matrix!(MlpDown),
            mlp_down_bias: vector!(MlpDownBias),
            mlp_out_norm: vector!(MlpOutNorm),
            query_norm_bias: if SHAPING { vector!(QueryNormBias) } else { None },
            key_norm_bias: if SHAPING { vector!(KeyNormBias) } else { None },
            #[cfg(feature = "cross")]
            cross: if arch.cross {
                Some(CrossLayer {
                    norm: vector!(CrossNorm)?,
                    norm_bias: vector!(CrossNormBias),
                    query: matrix!(CrossQuery),
                    query_bias: vector!(CrossQueryBias),
                    key_value: matrix!(CrossKeyValue),
                    key_value_bias: vector!(CrossKeyValueBias),
                    key_mean: vector!(CrossKeyMean)?,
                    out: matrix!(CrossOut),
                    out_bias: vector!(CrossOutBias),
                })
            } else {
                None
            },
        })
    }

    /// The matrix of an entry, whose numbers have been checked.
    #[inline(never)]
    fn matrix_of(&self, entry: &[u8; ENTRY_BYTES]) -> Option<Matrix<'a>> {
        if entry[2] != Kind::Matrix as u8 {
            return None;
        }
        let bytes = self.blob.get(usize::try_from(offset(entry)).ok()?..)?;
        let (rows, cols) = (u32_at(entry, 8) as usize, u32_at(entry, 12) as usize);
        Matrix::at_start_of(bytes, rows, cols, self.header.packing, power_of_two(exponent(entry)))
    }

    /// The vector of an entry, whose numbers have been checked.
    #[inline(never)]
    fn vector_of(&self, entry: &[u8; ENTRY_BYTES]) -> Option<&'a [f32]> {
        if entry[2] != Kind::Vector as u8 {
            return None;
        }
        let bytes = self.blob.get(usize::try_from(offset(entry)).ok()?..)?;
        bytemuck::try_cast_slice(bytes.get(..(u32_at(entry, 12) as usize).checked_mul(size_of::<f32>())?)?).ok()
    }

    /// The table from an entry on.
    #[inline(always)]
    fn entries(&self, first: u32) -> &'a [[u8; ENTRY_BYTES]] {
        let all = self.blob.get(HEADER_BYTES..).unwrap_or(&[]).as_chunks().0;
        all.get(first as usize..self.header.tensor_count as usize).unwrap_or(&[])
    }

    fn entry(&self, index: u32) -> Option<&'a [u8; ENTRY_BYTES]> {
        self.entries(index).first()
    }

    /// Bytes of the file; none if the range is not within it.
    fn bytes(&self, offset: u64, len: u64) -> &'a [u8] {
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        range.and_then(|(at, len)| self.blob.get(at..at.checked_add(len)?)).unwrap_or(&[])
    }

    fn cast<T: bytemuck::AnyBitPattern>(&self, offset: u64, len: u64) -> &'a [T] {
        bytemuck::try_cast_slice(self.bytes(offset, len)).unwrap_or(&[])
    }
}

/// Whether there are as many bytes as there must be.
fn check_length(expected: u64, found: u64) -> Result<(), BlobError> {
    match found.cmp(&expected) {
        Ordering::Less => Err(BlobError::TooShort { expected, found }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(BlobError::TooLong { expected, found }),
    }
}

/// A number in a table entry; 0 beyond its end.
#[inline(always)]
fn u32_at(entry: &[u8; ENTRY_BYTES], at: usize) -> u32 {
    entry.as_chunks().0.get(at / 4).map_or(0, |&bytes| u32::from_le_bytes(bytes))
}

/// Whether a table entry is that tensor's.
#[inline(always)]
fn is(entry: &[u8; ENTRY_BYTES], role: Role, layer: u32) -> bool {
    u16::from_le_bytes([entry[0], entry[1]]) == role as u16 && u32_at(entry, 4) == layer
}

/// The first of these entries, taken from them, if it has that role.
#[inline(always)]
fn next<'a>(entries: &mut &'a [[u8; ENTRY_BYTES]], role: Role) -> Option<&'a [u8; ENTRY_BYTES]> {
    let (first, rest) = entries.split_first()?;
    (u16::from_le_bytes([first[0], first[1]]) == role as u16).then(|| {
        *entries = rest;
        first
    })
}

/// The exponent in a table entry.
fn exponent(entry: &[u8; ENTRY_BYTES]) -> i32 {
    u32_at(entry, 16) as i32
}

/// The offset in a table entry.
#[inline(always)]
fn offset(entry: &[u8; ENTRY_BYTES]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *entry;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// 2^e for e within ±126, exact.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e.clamp(-126, 127) + 127) as u32) << 23)
}

/// Bytes with a blob's alignment, for `static`s and for files read into memory.
///
/// ```
/// static MODEL: &thumbformer::Aligned<[u8; 4]> = &thumbformer::Aligned(*b"abcd");
/// assert_eq!(MODEL.0.as_ptr() as usize % 64, 0);
/// ```
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Aligned<T: ?Sized>(pub T);

// The constant and the attribute above must agree.
const _: () = assert!(core::mem::align_of::<Aligned<u8>>() == ALIGN && round_up(HEADER_BYTES, ALIGN) == HEADER_BYTES);

#[cfg(target_endian = "big")]
compile_error!("blobs are little-endian and executed in place: big-endian targets are not supported");
