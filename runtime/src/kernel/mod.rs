//! The inner loops, one set for each instruction set: the only code with `unsafe`.
//!
//! The portable backend defines every result. An instruction set replaces the int8 dot products, which are exact in i32
//! whatever the order, and compiles the float half ([`crate::math`]) again with its own vector width, which changes no
//! rounding; so every backend gives the same bits. [`Backend`] is a proof that the processor has what it needs: it can
//! only be had from [`Backend::detect`], [`Backend::available`] or [`Backend::PORTABLE`], and its methods are safe.
//!
//! What is not here: sizes, threads and the order of operations ([`crate::layer`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod cpu;
#[cfg_attr(not(portable), allow(dead_code, reason = "some operations are assembly alone"))]
mod drive;
#[cfg(dsp)]
mod dsp;
#[cfg_attr(not(portable), allow(dead_code, reason = "some operations are assembly alone"))]
mod narrow;
#[cfg(neon)]
mod neon;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(feature = "std")]
pub mod pool;
#[cfg_attr(not(portable), allow(dead_code, reason = "some operations are assembly alone"))]
mod portable;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use tile::TileMut;

use crate::arch::{Activation, Norm};
pub use crate::cache::HeadCache;
use crate::matrix::Matrix;
use crate::packing::Layout;

/// Quantized vectors of several tokens, as [`Backend::quantize`] makes them.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Row-major, `stride` bytes a token: its quads as the matrix's layout takes them, the last one filled up with zeros.
    pub values: &'a [i8],
    /// Bytes between tokens.
    pub stride: usize,
    /// One scale for each token and group.
    pub scales: &'a [f32],
    /// −128 times the sum of the int8 values of each token and group: where kernels start to sum that have to add 128 to
    /// the weights, because their instructions want them unsigned. Unused in [`Layout::Dsp`].
    pub starts: &'a [i32],
    /// Groups of a token.
    pub groups: usize,
}

impl<'a> Activations<'a> {
    /// The tokens `first..first + count` alone.
    pub fn tokens(&self, first: usize, count: usize) -> Activations<'a> {
        let end = first.saturating_add(count);
        let values = first.saturating_mul(self.stride)..end.saturating_mul(self.stride);
        let groups = first.saturating_mul(self.groups)..end.saturating_mul(self.groups);
        Activations {
            values: self.values.get(values).unwrap_or(&[]),
            scales: self.scales.get(groups.clone()).unwrap_or(&[]),
            starts: self.starts.get(groups).unwrap_or(&[]),
            ..*self
        }
    }
}

/// What a linear layer does with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replaces the output.
    Store,
    /// Adds to the output: a residual connection.
    Add,
}

/// One of [`Queries`], and its entries there.
#[derive(Clone, Copy, Debug)]
struct Query<'a> {
    values: &'a [i8],
    start: i32,
    scale: f32,
    /// It attends to positions `first..visible`.
    first: usize,
    visible: usize,
    /// Entries of [`Shaping`] for its head, times log₂e.
    cap: f32,
    slope: f32,
    /// Its head's entries of [`Shaping::biases`], and its own position.
    biases: &'a [f32],
    own: usize,
    distance: usize,
}

impl Query<'_> {
    /// Whether there is more to its scores than a scale.
    #[inline(always)]
    fn shaped(&self) -> bool {
        crate::arch::SHAPING && (self.first > 0 || self.cap != 0.0 || self.slope != 0.0 || !self.biases.is_empty())
    }
}

/// What happens to scores between the product and softmax, beside their scale; by default nothing. Kernels of their own
/// leave it to the portable code, in this order: cap, slope, bias, window. Without the feature `shaping` there is nothing in
/// it, and nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shaping<'a> {
    #[cfg(feature = "shaping")]
    rules: Rules<'a>,
    #[cfg(not(feature = "shaping"))]
    rules: core::marker::PhantomData<Rules<'a>>,
}

/// What is in a [`Shaping`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// A score `s` becomes `cap · tanh(s / cap)`; 0 for none.
    pub cap: f32,
    /// For each head, what is added for every position from the query back to the key, negated: a positive slope favours
    /// near keys. Empty for none.
    pub slopes: &'a [f32],
    /// For each head as many values: of a key so many positions before the query, up to the query's own, and if not
    /// causal on to as many behind it; a key that is further away has the nearest value. It is added. Empty for none.
    pub biases: &'a [f32],
    /// The largest of these distances.
    pub distance: usize,
    /// A query sees so many positions, its own included; 0 for all.
    pub window: usize,
}

impl<'a> Shaping<'a> {
    /// Scores that go through `rules`.
    #[inline(always)]
    pub fn new(rules: Rules<'a>) -> Self {
        #[cfg(not(feature = "shaping"))]
        let rules = {
            let _ = rules;
            core::marker::PhantomData
        };
        Self { rules }
    }

    /// What they go through.
    #[inline(always)]
    pub(crate) fn rules(&self) -> Rules<'a> {
        #[cfg(feature = "shaping")]
        return self.rules;
        #[cfg(not(feature = "shaping"))]
        Rules::default()
    }
}

/// The queries of one KV head: for consecutive tokens, those of the heads that share it.
#[derive(Debug)]
pub struct Queries<'t, 'b> {
    /// A row for each token: its heads' quantized queries one behind the other, [`Layout::vector_bytes`] of `head_dim`
    /// bytes each, as the cache's layout takes them; the last quad of each is filled up with zeros.
    pub values: &'t mut TileMut<'b, i8>,
    /// For each token and head the query's scale, times the attention scale, times log₂e: scores are exponents of 2. It has
    /// as many columns as there are heads.
    pub scales: &'t mut TileMut<'b, f32>,
    /// For each token and head −128 times the sum of the query's values; unused in [`Layout::Dsp`].
    pub starts: &'t mut TileMut<'b, i32>,
    /// Position of the first token; if not `causal`, how many positions every token attends to, and the first token's own
    /// is 0.
    pub position: usize,
    /// Each token attends to all positions up to its own, or to those in its window; else to the first `position`, whatever
    /// its own: in encoders, and to sources.
    pub causal: bool,
    /// What else scores go through.
    pub shaping: Shaping<'t>,
}

impl Queries<'_, '_> {
    /// How many positions the first token attends to, and how many more each later one.
    #[inline(always)]
    fn visible(&self) -> (usize, usize) {
        if cfg!(feature = "encoder") && !self.causal { (self.position, 0) } else { (self.position + 1, 1) }
    }
}

/// Whether there are portable kernels for what assembly cannot take.
pub(crate) const PORTABLE: bool = cfg!(portable);

/// A set of inner loops that this processor can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(portable)]
    Portable,
    /// What a small target has as the portable one, so that it is tested here.
    #[cfg(test)]
    Narrow(tests::Narrow),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(vnni::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(vnni::Avx512Vnni),
    #[cfg(dsp)]
    Dsp(dsp::Dsp),
    #[cfg(neon)]
    NeonDotprod(neon::NeonDotprod),
    #[cfg(neon)]
    Neon(neon::Neon),
}

/// Compiles the operations for one instruction set: `$kernel` supplies the int8 products, `$feature` the vector width.
/// Without a feature they are compiled for the target as it is.
macro_rules! operations {
    ($kernel:ty) => {
        crate::kernel::operations!(@ $kernel, inline(never));
    };
    ($kernel:ty, $feature:literal) => {
        crate::kernel::operations!(@ $kernel, target_feature(enable = $feature));
    };
    (@ $kernel:ty, $attribute:meta) => {
        crate::kernel::operations!(@ $kernel, $attribute,
            linear(m: &crate::matrix::Matrix<'_>, first_row: usize, x: &crate::kernel::Activations<'_>, bias: Option<&[f32]>,
                write: crate::kernel::Write, out: crate::kernel::TileMut<'_, f32>) -> (),
            attend(cache: &crate::cache::HeadCache<'_>, queries: crate::kernel::Queries<'_, '_>, out: &mut crate::kernel::TileMut<'_, f32>) -> (),
            quantize(layout: crate::packing::Layout, x: &[f32], group: usize, q: &mut [i8], scales: &mut [f32], starts: &mut [i32]) -> (),
            norm(kind: crate::arch::Norm, eps: f32, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> (),
            norm_heads(kind: crate::arch::Norm, eps: f32, heads: &mut [f32], head_dim: usize, weight: &[f32],
                bias: Option<&[f32]>) -> (),
            activate(kind: crate::arch::Activation, gated: bool, hidden: usize, row: &mut [f32]) -> (),
            rotate(heads: &mut [f32], head_dim: usize, cos_sin: &[f32]) -> ()
        );
    };
    (@ $kernel:ty, $attribute:meta, $($name:ident($($arg:ident: $type:ty),*) -> $result:ty),*) => {
        impl $kernel {
            $(
                #[allow(clippy::too_many_arguments)]
                pub(super) fn $name(self, $($arg: $type),*) -> $result {
                    #[$attribute]
                    #[allow(clippy::too_many_arguments)]
                    fn compiled(kernel: $kernel, $($arg: $type),*) -> $result {
                        crate::kernel::drive::$name(kernel, $($arg),*)
                    }
                    // SAFETY: `new` makes a value of this type only where the processor has these features.
                    #[allow(unused_unsafe, reason = "there may be no feature")]
                    unsafe {
                        compiled(self, $($arg),*)
                    }
                }
            )*
        }
    };
}
pub(crate) use operations;

/// Calls the operation of the instruction set at hand.
macro_rules! dispatch {
    ($self:ident, $name:ident($($arg:expr),*)) => {
        match $self.0 {
            #[cfg(portable)]
            Set::Portable => portable::Portable.$name($($arg),*),
            #[cfg(test)]
            Set::Narrow(kernel) => kernel.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(kernel) => kernel.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(kernel) => kernel.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni(kernel) => kernel.$name($($arg),*),
            #[cfg(dsp)]
            Set::Dsp(kernel) => kernel.$name($($arg),*),
            #[cfg(neon)]
            Set::NeonDotprod(kernel) => kernel.$name($($arg),*),
            #[cfg(neon)]
            Set::Neon(kernel) => kernel.$name($($arg),*),
        }
    };
}

// What is `inline` here and in what it calls, firmware compiles like the session that calls it, and the rest for size.
impl Backend {
    /// The code that defines every result, compiled for the target's base instruction set. On a Cortex-M with the DSP
    /// extension it needs the feature `portable`.
    #[cfg(portable)]
    pub const PORTABLE: Backend = Backend(Set::Portable);

    /// All backends of this processor, the fastest first.
    ///
    /// ```
    /// use thumbformer::Backend;
    /// assert!(Backend::available().any(|b| b == Backend::PORTABLE));
    /// assert_eq!(Backend::available().next(), Some(Backend::detect()));
    /// ```
    pub fn available() -> impl Iterator<Item = Backend> {
        #[cfg(target_arch = "x86_64")]
        let fast = [
            vnni::Avx512Vnni::new().map(Set::Avx512Vnni),
            vnni::AvxVnni::new().map(Set::AvxVnni),
            avx2::Avx2::new().map(Set::Avx2),
        ];
        #[cfg(dsp)]
        let fast = [Some(Set::Dsp(dsp::Dsp::new()))];
        #[cfg(neon)]
        let fast = [neon::NeonDotprod::new().map(Set::NeonDotprod), neon::Neon::new().map(Set::Neon)];
        #[cfg(not(any(target_arch = "x86_64", neon, dsp)))]
        let fast: [Option<Set>; 0] = [];
        #[cfg(test)]
        let fast = fast.into_iter().chain([Some(Set::Narrow(tests::Narrow))]);
        #[cfg(portable)]
        let last = [Set::Portable];
        #[cfg(not(portable))]
        let last: [Set; 0] = [];
        fast.into_iter().flatten().chain(last).map(Backend)
    }

    /// The fastest backend of this processor.
    pub fn detect() -> Backend {
        #[cfg(dsp)]
        return Backend(Set::Dsp(dsp::Dsp::new()));
        #[cfg(not(dsp))]
        Self::available().next().unwrap_or(Self::PORTABLE)
    }

    /// The backend's name: `portable`, `avx2`, `avx-vnni`, `avx512-vnni`, `neon`, `neon-dotprod`, `dsp`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(portable)]
            Set::Portable => "portable",
            #[cfg(test)]
            Set::Narrow(_) => "narrow",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(neon)]
            Set::NeonDotprod(_) => "neon-dotprod",
            #[cfg(neon)]
            Set::Neon(_) => "neon",
            #[cfg(dsp)]
            Set::Dsp(_) => "dsp",
        }
    }

    /// `out[t][i] = Σ_g dot(W[first_row + i], x[t])_g · (w_scale · x_scale) · factor + bias`, groups in ascending order,
    /// for every row of the tile `out` and as many outputs as it has columns.
    ///
    /// `first_row` must be a multiple of the layout's block; `bias`, if any, is the whole matrix's. Rows beyond the
    /// matrix and tokens beyond `x` are left as they are.
    #[inline]
    pub fn linear(
        self,
        m: &Matrix<'_>,
        first_row: usize,
        x: &Activations<'_>,
        bias: Option<&[f32]>,
        write: Write,
        out: TileMut<'_, f32>,
    ) {
        dispatch!(self, linear(m, first_row, x, bias, write, out));
    }

    /// One KV head's attention: `out = Σ_p softmax(q·k_p)_p · v_p` for every query, exact and in one pass over the cache.
    ///
    /// A row of `out` holds a token's outputs, `head_dim` values for each of its heads; it has as many rows as there are
    /// tokens, at most as many as fit the cache behind `position`. See [`crate::layer::attention`] for the method.
    #[inline]
    pub fn attend(self, cache: &HeadCache<'_>, queries: Queries<'_, '_>, out: &mut TileMut<'_, f32>) {
        dispatch!(self, attend(cache, queries, out));
    }

    /// Quantizes `x` in groups of `group` elements, the last one perhaps short: int8 values as `layout` multiplies them,
    /// and for each group its scale and −128 times the sum of its values (not in [`Layout::Dsp`], which needs none).
    ///
    /// `q` has [`Layout::vector_bytes`] bytes; what is beyond `x` is zeroed. Of several groups all but the last are a
    /// multiple of four long. `starts` may be shorter if nobody needs them.
    #[inline(never)]
    pub fn quantize(
        self,
        layout: Layout,
        x: &[f32],
        group: usize,
        q: &mut [i8],
        scales: &mut [f32],
        starts: &mut [i32],
    ) {
        dispatch!(self, quantize(layout, x, group, q, scales, starts));
    }

    /// LayerNorm or RMSNorm of one token.
    #[inline]
    pub fn norm(self, kind: Norm, eps: f32, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        dispatch!(self, norm(kind, eps, x, weight, bias, out));
    }

    /// LayerNorm or RMSNorm of heads that lie one behind the other, in place. `weight` is `head_dim` long, or as long
    /// as all heads if each has its own; `bias` is for every head.
    pub fn norm_heads(
        self,
        kind: Norm,
        eps: f32,
        heads: &mut [f32],
        head_dim: usize,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) {
        dispatch!(self, norm_heads(kind, eps, heads, head_dim, weight, bias));
    }

    /// The MLP's middle for one token, in place: see [`crate::math::activate_row`].
    #[inline]
    pub fn activate(self, kind: Activation, gated: bool, hidden: usize, row: &mut [f32]) {
        dispatch!(self, activate(kind, gated, hidden, row));
    }

    /// RoPE for heads that lie one behind the other: see [`crate::math::rotate`].
    #[inline]
    pub fn rotate(self, heads: &mut [f32], head_dim: usize, cos_sin: &[f32]) {
        dispatch!(self, rotate(heads, head_dim, cos_sin));
    }
}
