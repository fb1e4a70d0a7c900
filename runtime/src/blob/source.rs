//! The encoder of an encoder-decoder: a blob inside the decoder's.

use super::header::Header;
use super::{BlobError, Model};
use crate::arch::{Order, Role};
use crate::tokenizer::Tokenizer;
use crate::workers::Workers;

/// Checks the encoder's blob of a model whose own is right, if it has one.
pub(super) fn check<'a, W: Workers>(mut model: Model<'a>, workers: &W) -> Result<Model<'a>, BlobError> {
    let (outer, arch) = (model.header, model.header.arch);
    if arch.shared_embedding {
        return Err(BlobError::Source { field: "shared_embedding" });
    }
    let Some(offset) = outer.source_offset() else { return Ok(model) };
    let source = Model::one(model.bytes(offset, outer.source_len), workers)?;
    let (inner, of_source) = (source.header, source.header.arch);
    let field = if of_source.causal {
        "not_causal"
    } else if !of_source.headless {
        "headless"
    } else if of_source.dim != arch.dim {
        "dim"
    } else if inner.packing != outer.packing {
        "packing"
    } else if of_source.shared_embedding && of_source.vocab != arch.vocab {
        "vocab"
    } else {
        model.source_tokenizer =
            if inner.tokenizer_len == 0 && of_source.shared_embedding { model.tokenizer } else { source.tokenizer };
        return Ok(model);
    };
    Err(BlobError::Source { field })
}

impl<'a> Model<'a> {
    /// The encoder of an encoder-decoder, whose tokenizer is the one for source texts. [`Session`](crate::Session) runs it.
    pub fn source(&self) -> Option<Model<'a>> {
        let blob = self.bytes(self.header.source_offset()?, self.header.source_len);
        let header = Header::read(blob).ok()?;
        let shared = header.arch.shared_embedding;
        Some(Model {
            blob,
            header,
            order: Order::new(&header.arch),
            tokenizer: self.source_tokenizer,
            source_tokenizer: None,
            shared_embedding: if shared { self.matrix(Role::TokenEmbedding, 0) } else { None },
        })
    }

    /// The tokenizer for source texts, if the model is an encoder-decoder and has one.
    pub fn source_tokenizer(&self) -> Option<&Tokenizer<'a>> {
        self.source_tokenizer.as_ref()
    }
}
