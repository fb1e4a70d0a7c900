//! The layers: each a few lines that read like the equation they compute.
//!
//! Every layer works on a chunk of tokens. Between layers lives the residual stream, f32, `dim` wide. Inside a layer,
//! `prepare` makes a row of floats and quantizes it, and `linear` multiplies the quantized rows by a matrix. Which tokens
//! form a chunk, and which worker computes what, never shows in a result.

pub mod attention;
#[cfg(feature = "cross")]
mod cross;
pub mod embedding;
mod linear;
mod mlp;

use crate::arch::Arch;
use crate::blob::Model;
use crate::cache::Cache;
use crate::kernel::Backend;
use crate::plan::{Scratch, Widths};
use crate::workers::Workers;

/// What the layers need to know while they process one chunk of tokens.
pub(crate) struct Chunk<'c, 'm, 'b, W> {
    pub(crate) model: &'c Model<'m>,
    pub(crate) backend: Backend,
    pub(crate) workers: &'c W,
    pub(crate) widths: Widths,
    pub(crate) cache: &'c mut Cache<'b>,
    pub(crate) scratch: &'c mut Scratch<'b>,
    /// What layers attend to beside the tokens: a source's cache, and its tokens.
    #[cfg(feature = "cross")]
    pub(crate) source: Option<(&'c mut Cache<'b>, usize)>,
    /// Tokens of this chunk.
    pub(crate) count: usize,
    /// Position of the first one.
    pub(crate) position: usize,
}

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    pub(crate) fn arch(&self) -> &Arch {
        self.model.arch()
    }

    /// Keeps the residual stream for the MLP of a parallel layer.
    fn keep_input(&mut self) {
        let residual = self.scratch.residual.iter();
        self.scratch.input.iter_mut().zip(residual).take(self.count * self.widths.input).for_each(|(x, r)| *x = *r);
    }

    /// Runs the tokens `ids` through all layers; the residual stream then holds the last layer's output. `token_types` are
    /// an encoder's, and `done` sees the cache behind each layer.
    pub(crate) fn forward(&mut self, ids: &[u32], token_types: &[u8], mut done: impl FnMut(u32, &mut Cache<'_>)) {
        self.embed(ids, token_types);
        for index in 0..self.arch().layers {
            let Some(layer) = self.model.layer(index) else { return };
            if self.arch().is_parallel() {
                self.keep_input();
            }
            self.attention(index, &layer);
            #[cfg(feature = "cross")]
            if let Some(cross) = &layer.cross {
                self.cross_attention(index, cross);
            }
            self.mlp(&layer);
            done(index, self.cache);
        }
    }
}
