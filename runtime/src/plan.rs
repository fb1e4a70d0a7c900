//! The memory plan: how many bytes a session needs, known before anything runs.
//!
//! [`Plan::new`] is a `const fn` of the blob's head and the caller's [`Limits`]. Firmware evaluates it at compile time to
//! size its buffers, so that a model which does not fit does not build; hosts evaluate it at run time. The plan is also
//! the only place that knows how the buffers are cut.

use crate::arch::{Arch, ArchError, ENCODER};
use crate::blob::header::Header;
use crate::blob::{ALIGN, Model};
use crate::branch;
use crate::cache::{HeadShape, TILE};
use crate::packing::Packing;
#[cfg(feature = "shaping")]
use crate::ring;
use crate::snapshot;

/// What the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions a session can hold: prompt and answer together; at most the model's context.
    pub context: u32,
    /// Tokens of a prompt that are processed at a time. More cost scratch memory and make prompts faster, because each
    /// weight is loaded once for all of them. No result depends on it. Above 32, layers with a window hold as many more
    /// positions.
    pub chunk: u32,
    /// Positions whose logits are computed at a time where a caller wants those of every position. 1 is enough to
    /// generate.
    pub logit_rows: u32,
}

impl Limits {
    /// Limits for generation: logits of one position at a time.
    pub const fn new(context: u32, chunk: u32) -> Self {
        Self { context, chunk, logit_rows: 1 }
    }
}

/// Why no plan can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PlanError {
    /// The architecture record contradicts itself.
    Arch(ArchError),
    /// A limit is zero.
    Zero {
        /// Which.
        limit: &'static str,
    },
    /// More positions than the model can attend to.
    Context {
        /// Asked for.
        context: u32,
        /// The model's.
        model: u32,
    },
    /// More branches than their table has numbers for.
    Branches {
        /// Asked for.
        branches: u32,
    },
    /// The buffers would exceed this machine's address space.
    TooLarge {
        /// Bytes of cache and scratch together.
        bytes: u64,
    },
}

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            PlanError::Arch(e) => e.fmt(f),
            PlanError::Zero { limit } => write!(f, "`{limit}` must be at least 1"),
            PlanError::Context { context, model } => {
                write!(f, "a context of {context} was asked for, the model has {model}")
            }
            PlanError::Branches { branches } => {
                write!(f, "{branches} branches of this context are too many: their cache would have over 65,535 tiles")
            }
            PlanError::TooLarge { bytes } => write!(f, "{bytes} bytes exceed this machine's address space"),
        }
    }
}

impl core::error::Error for PlanError {}

/// The sizes of a session's two buffers.
///
/// ```
/// # use thumbformer::arch::*;
/// # use thumbformer::packing::*;
/// # const ARCH: Arch = Arch { vocab: 512, dim: 96, layers: 4, heads: 6, kv_heads: 3, head_dim: 16, hidden: 256,
/// #   context: 128, norm: Norm::Rms, position: Position::Rope, rotary_dim: 16, activation: Activation::Silu,
/// #   gated: true, attention_scale: 0.25, ..Arch::PLAIN };
/// use thumbformer::plan::{Limits, Plan};
/// const PACKING: Packing = Packing { layout: Layout::Dsp, group: 32 };
/// const PLAN: Plan = match Plan::new(&ARCH, PACKING, Limits::new(128, 8)) {
///     Ok(plan) => plan,
///     Err(_) => panic!("the model does not fit"),
/// };
/// static mut CACHE: [u8; PLAN.cache_bytes()] = [0; PLAN.cache_bytes()];
/// // Layers × KV heads × positions × (key + value + two scales), and room to align the buffer.
/// assert_eq!(PLAN.cache_bytes(), 4 * 3 * 128 * (16 + 16 + 4 + 4) + 63);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    arch: Arch,
    packing: Packing,
    limits: Limits,
    branches: u32,
    tail: u32,
    /// Positions to go back by, beside those that always can be.
    #[cfg(feature = "shaping")]
    rewind: u32,
    /// The encoder of an encoder-decoder, and how many tokens of a source it takes.
    #[cfg(feature = "cross")]
    source: Option<SourcePlan>,
    cache_bytes: usize,
    scratch_bytes: usize,
}

/// The encoder of an encoder-decoder in a plan.
#[cfg(feature = "cross")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SourcePlan {
    pub(crate) arch: Arch,
    /// Tokens of a source text, at most.
    pub(crate) positions: u32,
}

/// Sizes of the scratch buffers, in elements of each.
#[derive(Clone, Copy)]
struct Sizes {
    residual: u64,
    input: u64,
    wide: u64,
    rope: u64,
    quantized: u64,
    groups: u64,
}

impl Sizes {
    const fn new(widths: &Widths, tokens: u32) -> Self {
        let tokens = tokens as u64;
        Self {
            residual: tokens * widths.residual as u64,
            input: tokens * widths.input as u64,
            wide: tokens * widths.wide as u64,
            rope: tokens * widths.rope as u64,
            quantized: tokens * widths.quantized as u64,
            groups: tokens * widths.groups as u64,
        }
    }

    /// Room for either.
    #[cfg(feature = "cross")]
    const fn or(self, other: Self) -> Self {
        Self {
            residual: larger(self.residual, other.residual),
            input: larger(self.input, other.input),
            wide: larger(self.wide, other.wide),
            rope: larger(self.rope, other.rope),
            quantized: larger(self.quantized, other.quantized),
            groups: larger(self.groups, other.groups),
        }
    }

    const fn bytes(&self) -> u64 {
        4 * (self.residual + self.input + self.wide + self.rope) + self.quantized + 8 * self.groups
    }
}

/// Widths of the scratch buffers: elements for each token of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// Residual stream, f32.
    pub(crate) residual: usize,
    /// A parallel layer's input, f32.
    pub(crate) input: usize,
    /// Whatever is between two matrix products, f32.
    pub(crate) wide: usize,
    /// Cosines and sines, f32.
    pub(crate) rope: usize,
    /// Quantized activations, bytes.
    pub(crate) quantized: usize,
    /// Their groups: an f32 scale and an i32 start each.
    pub(crate) groups: usize,
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

#[cfg(feature = "cross")]
const fn larger(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

impl Widths {
    pub(crate) const fn new(arch: &Arch, packing: Packing) -> Self {
        let (dim, q, hidden) = (arch.dim as usize, arch.q_width() as usize, arch.hidden as usize);
        let heads = arch.heads as usize;
        Self {
            residual: dim,
            input: if arch.is_parallel() { dim } else { 0 },
            // The head's transform is normalised beside itself.
            wide: max(
                if ENCODER && arch.head_transform { 2 * dim } else { dim },
                max(arch.qkv_width() as usize, arch.up_width() as usize),
            ),
            rope: arch.rotary_dim as usize * if arch.window_rope { 2 } else { 1 },
            quantized: max(
                packing.layout.vector_bytes(max(dim, max(q, hidden))),
                heads * packing.layout.vector_bytes(arch.head_dim as usize),
            ),
            groups: max(max(packing.groups(dim), packing.groups(q)), max(packing.groups(hidden), heads)),
        }
    }
}

impl Plan {
    /// Plans a session for a model of `arch` in `packing`. A chunk or number of logit rows above the context is cut to it.
    /// An encoder's chunk is the context, whatever the limits say: it takes in a whole text at once.
    ///
    /// # Errors
    /// An invalid record, a limit of zero, a context above the model's, or more bytes than this machine can address.
    pub const fn new(arch: &Arch, packing: Packing, limits: Limits) -> Result<Self, PlanError> {
        if let Err(e) = arch.validate() {
            return Err(PlanError::Arch(e));
        }
        macro_rules! at_least_one {
            ($($limit:ident),*) => {
                $(if limits.$limit == 0 {
                    return Err(PlanError::Zero { limit: stringify!($limit) });
                })*
            };
        }
        at_least_one!(context, chunk, logit_rows);
        if limits.context > arch.context {
            return Err(PlanError::Context { context: limits.context, model: arch.context });
        }
        let limits = Limits {
            context: limits.context,
            // Each token of an encoder sees all others.
            chunk: if limits.chunk < limits.context && !arch.is_encoder() { limits.chunk } else { limits.context },
            logit_rows: if limits.logit_rows < limits.context { limits.logit_rows } else { limits.context },
        };
        Self {
            arch: *arch,
            packing,
            limits,
            branches: 1,
            tail: 0,
            #[cfg(feature = "shaping")]
            rewind: 0,
            #[cfg(feature = "cross")]
            source: None,
            cache_bytes: 0,
            scratch_bytes: 0,
        }
        .sized()
    }

    /// The same with room for `branches` sequences that part at any position and then go on for `tail` positions at most
    /// (cut to the context), as beam search needs it. Whole tiles of 32 positions before that are shared, so a branch
    /// costs the cache of its tail only.
    ///
    /// # Errors
    /// No branch or no tail at all; more than 65,535 tiles or than this machine can address.
    ///
    /// ```
    /// # use thumbformer::{Limits, Plan, plan::PlanError, blob::header::Header};
    /// # fn plan(header: &Header) -> Result<Plan, PlanError> {
    /// Plan::for_header(header, Limits::new(128, 8))?.with_branches(4, 32) // four beams, answers of up to 32 tokens
    /// # }
    /// ```
    #[cfg(feature = "branches")]
    pub const fn with_branches(self, branches: u32, tail: u32) -> Result<Self, PlanError> {
        if branches == 0 || tail == 0 {
            return Err(PlanError::Zero { limit: if branches == 0 { "branches" } else { "tail" } });
        }
        let tail = if tail < self.limits.context { tail } else { self.limits.context };
        if branches > 1 && branch::pool(self.limits.context, branches, tail) > u16::MAX as u64 {
            return Err(PlanError::Branches { branches });
        }
        Self { branches, tail, ..self }.sized()
    }

    /// The same for an encoder-decoder whose encoder has the head `source` ([`Header::read_source`]), with room for source
    /// texts of `positions` tokens at most.
    ///
    /// # Errors
    /// No position, or more than the encoder has; a model that is not such a decoder, or an encoder that does not go with
    /// it; more bytes than this machine can address.
    #[cfg(feature = "cross")]
    pub const fn with_source(self, source: &Header, positions: u32) -> Result<Self, PlanError> {
        if positions == 0 {
            return Err(PlanError::Zero { limit: "source" });
        }
        if positions > source.arch.context {
            return Err(PlanError::Context { context: positions, model: source.arch.context });
        }
        if !self.arch.cross || source.arch.causal || source.arch.dim != self.arch.dim {
            return Err(PlanError::Arch(ArchError {
                field: "cross",
                rule: "set in a decoder whose encoder is as wide",
            }));
        }
        Self { source: Some(SourcePlan { arch: source.arch, positions }), ..self }.sized()
    }

    /// The same with room to go back by `positions` positions more than [`Plan::rewind_room`] says without it, at any time.
    /// Layers with a window keep so many positions more; if that makes them all positions of the context, no rewind is
    /// ever too far. Costs nothing where no layer has a window.
    ///
    /// # Errors
    /// More bytes than this machine can address.
    ///
    /// ```
    /// # use thumbformer::{Limits, Plan, plan::PlanError, blob::header::Header};
    /// # fn plan(header: &Header) -> Result<Plan, PlanError> {
    /// Plan::for_header(header, Limits::new(4096, 8))?.with_rewind(300) // answers of 300 tokens, asked for again
    /// # }
    /// ```
    #[cfg(feature = "shaping")]
    pub const fn with_rewind(self, positions: u32) -> Result<Self, PlanError> {
        Self { rewind: positions, ..self }.sized()
    }

    /// Positions by which a session can go back at any time: the whole context, unless layers with a window keep their last
    /// positions only ([`Session::rewind`](crate::Session::rewind)); then 32, and what [`Plan::with_rewind`] adds.
    pub const fn rewind_room(&self) -> usize {
        let context = self.limits.context as usize;
        #[cfg(feature = "shaping")]
        if self.ring() < self.head_shape().positions {
            return ring::SLACK as usize + self.rewind as usize;
        }
        context
    }

    /// [`Plan::for_header`] for a checked model, with room for sources as long as its encoder allows, if it has one.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn for_model(model: &Model<'_>, limits: Limits) -> Result<Self, PlanError> {
        let plan = Self::for_header(model.header(), limits)?;
        #[cfg(feature = "cross")]
        if let Some(source) = model.source() {
            return plan.with_source(source.header(), source.arch().context);
        }
        Ok(plan)
    }

    /// Heads of the source's cache, and the shape of each: of the decoder's layers, of which the encoder borrows some.
    #[cfg(feature = "cross")]
    pub(crate) const fn source_cache(&self) -> Option<(u64, HeadShape, u64, HeadShape)> {
        let Some(source) = self.source else { return None };
        let own = HeadShape::new(&self.arch, self.packing.layout, source.positions);
        let encoder = HeadShape::new(&source.arch, self.packing.layout, source.positions);
        Some((self.arch.layers as u64 * self.arch.kv_heads as u64, own, source.arch.kv_heads as u64, encoder))
    }

    /// The encoder planned for.
    #[cfg(feature = "cross")]
    pub(crate) const fn source(&self) -> Option<&SourcePlan> {
        self.source.as_ref()
    }

    /// Bytes of the source's cache.
    const fn source_bytes(&self) -> u64 {
        #[cfg(feature = "cross")]
        if let Some((heads, own, borrowed, encoder)) = self.source_cache() {
            let positions = own.positions as u64;
            // Each of the cache's parts has room for either.
            return larger(heads * own.keys() as u64, borrowed * encoder.keys() as u64)
                + larger(heads * own.values() as u64, borrowed * encoder.values() as u64)
                + 8 * larger(heads, borrowed) * positions;
        }
        0
    }

    const fn sizes(&self) -> Sizes {
        let sizes = Sizes::new(&Widths::new(&self.arch, self.packing), self.limits.chunk);
        #[cfg(feature = "cross")]
        if let Some(source) = &self.source {
            return sizes.or(Sizes::new(&Widths::new(&source.arch, self.packing), source.positions));
        }
        sizes
    }

    const fn sized(self) -> Result<Self, PlanError> {
        let Self { arch, packing, limits, .. } = self;
        let shape = HeadShape::new(&arch, packing.layout, limits.context);
        let tiles = branch::pool(limits.context, self.branches, self.tail);
        let windowed = arch.windowed_layers() as u64;
        let tiles = (arch.cached_layers() as u64 - windowed) * tiles + windowed * self.ring_tiles();
        let slack = ALIGN as u64 - 1;
        let cache = arch.kv_heads as u64 * tiles * shape.tile_bytes() as u64
            + branch::table_bytes(limits.context, self.branches)
            + self.source_bytes()
            + slack;
        let logits = 4 * limits.logit_rows as u64 * arch.logits() as u64;
        let scratch = self.sizes().bytes() + logits + slack;
        if cache > isize::MAX as u64 || scratch > isize::MAX as u64 {
            return Err(PlanError::TooLarge { bytes: cache + scratch });
        }
        Ok(Self { cache_bytes: cache as usize, scratch_bytes: scratch as usize, ..self })
    }

    /// [`Plan::new`] for the model of a head read by [`Header::read`].
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub const fn for_header(header: &Header, limits: Limits) -> Result<Self, PlanError> {
        Self::new(&header.arch, header.packing, limits)
    }

    /// Bytes of the KV cache, wherever the buffer starts.
    pub const fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Bytes of scratch memory, wherever the buffer starts.
    pub const fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// The limits, cut to the context.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The architecture planned for.
    pub const fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The packing planned for.
    pub const fn packing(&self) -> Packing {
        self.packing
    }

    /// Sequences that a session can hold at a time; 1 unless `with_branches` says otherwise.
    pub const fn branches(&self) -> u32 {
        self.branches
    }

    /// Positions that branches can go on for after they part.
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// Bytes of a [`snapshot`] of `tokens` tokens (at most the context's); a session that was rewound may write fewer.
    pub const fn snapshot_bytes(&self, tokens: u32) -> usize {
        let tokens = if tokens < self.limits.context { tokens } else { self.limits.context };
        snapshot::Extent::new(&self.arch, self.packing, tokens).bytes() as usize
    }

    /// The same of an encoder-decoder, with a source of `source` tokens (at most as many as planned).
    #[cfg(feature = "cross")]
    pub const fn snapshot_bytes_with_source(&self, source: u32, tokens: u32) -> usize {
        let most = match &self.source {
            Some(source) => source.positions,
            None => 0,
        };
        let tokens = if tokens < self.limits.context { tokens } else { self.limits.context };
        let extent = snapshot::Extent::new(&self.arch, self.packing, tokens);
        extent.with_source(if source < most { source } else { most }).bytes() as usize
    }

    pub(crate) const fn head_shape(&self) -> HeadShape {
        let tiles = branch::pool(self.limits.context, self.branches, self.tail) as usize;
        HeadShape { positions: tiles * TILE, ..HeadShape::new(&self.arch, self.packing.layout, self.limits.context) }
    }

    /// Tiles of layers with a window.
    const fn ring_tiles(&self) -> u64 {
        let all = branch::pool(self.limits.context, self.branches, self.tail);
        #[cfg(feature = "shaping")]
        if self.branches == 1 && self.arch.windowed_layers() > 0 {
            // Branches share tiles, and each would need another window's.
            let tiles = ring::tiles(&self.arch, self.limits, self.rewind);
            return if tiles < all { tiles } else { all };
        }
        all
    }

    /// Positions of layers with a window; as many as of the others, unless a ring is shorter.
    pub(crate) const fn ring(&self) -> usize {
        self.ring_tiles() as usize * TILE
    }

    /// Positions of one KV head in all layers together.
    pub(crate) const fn cached_positions(&self) -> usize {
        let windowed = self.arch.windowed_layers() as usize;
        (self.arch.cached_layers() as usize - windowed) * self.head_shape().positions + windowed * self.ring()
    }

    pub(crate) const fn widths(&self) -> Widths {
        Widths::new(&self.arch, self.packing)
    }
}

/// The part of a buffer that starts at a multiple of 64: what vector loads like, and more than f32 needs. Plans have room
/// for it.
pub(crate) fn aligned(buffer: &mut [u8]) -> Option<&mut [u8]> {
    let skip = buffer.as_ptr().align_offset(ALIGN);
    buffer.get_mut(skip..)
}

/// The scratch buffer, cut.
#[derive(Debug)]
pub(crate) struct Scratch<'b> {
    pub(crate) residual: &'b mut [f32],
    pub(crate) input: &'b mut [f32],
    pub(crate) wide: &'b mut [f32],
    pub(crate) rope: &'b mut [f32],
    pub(crate) logits: &'b mut [f32],
    pub(crate) scales: &'b mut [f32],
    pub(crate) starts: &'b mut [i32],
    pub(crate) quantized: &'b mut [i8],
}

impl<'b> Scratch<'b> {
    /// Cuts a buffer of at least [`Plan::scratch_bytes`] bytes; `None` if it is smaller.
    pub(crate) fn carve(plan: &Plan, buffer: &'b mut [u8]) -> Option<Self> {
        fn take<'b, T: bytemuck::Pod>(buffer: &mut &'b mut [u8], count: usize) -> Option<&'b mut [T]> {
            let (head, rest) = core::mem::take(buffer).split_at_mut_checked(count * size_of::<T>())?;
            *buffer = rest;
            bytemuck::try_cast_slice_mut(head).ok()
        }
        let sizes = plan.sizes();
        let mut buffer = aligned(buffer.get_mut(..plan.scratch_bytes)?)?;
        Some(Self {
            residual: take(&mut buffer, sizes.residual as usize)?,
            input: take(&mut buffer, sizes.input as usize)?,
            wide: take(&mut buffer, sizes.wide as usize)?,
            rope: take(&mut buffer, sizes.rope as usize)?,
            logits: take(&mut buffer, plan.limits.logit_rows as usize * plan.arch.logits() as usize)?,
            scales: take(&mut buffer, sizes.groups as usize)?,
            starts: take(&mut buffer, sizes.groups as usize)?,
            quantized: take(&mut buffer, sizes.quantized as usize)?,
        })
    }
}
