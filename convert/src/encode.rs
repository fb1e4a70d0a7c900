//! One face for the two ways to run an encoder: int8 by the runtime, f32 by the reference.

use thumbformer::arch::Arch;
use thumbformer::blob::header::Pooling;
use thumbformer::workers::Workers;
use thumbformer::{Session, SessionError};

use crate::Result;
use crate::reference::Reference;

/// A model that takes in a whole text.
pub trait Encoder {
    /// The architecture.
    fn arch(&self) -> &Arch;

    /// Takes in a text, in place of the one before. Without `token_types` all are 0.
    ///
    /// # Errors
    /// As [`Session::encode`].
    fn encode(&mut self, ids: &[u32], token_types: &[u8]) -> Result<()>;

    /// What the model would put at a position of the text: `vocab` logits.
    ///
    /// # Errors
    /// As [`Session::token_logits`].
    fn token_logits(&mut self, position: usize) -> Result<Vec<f32>>;

    /// The text's vector, of length 1.
    ///
    /// # Errors
    /// As [`Session::embedding`].
    fn embedding(&self, pooling: Pooling) -> Result<Vec<f32>>;
}

impl<W: Workers + Sync> Encoder for Session<'_, '_, W> {
    fn arch(&self) -> &Arch {
        self.model().arch()
    }

    fn encode(&mut self, ids: &[u32], token_types: &[u8]) -> Result<()> {
        Ok(Session::encode(self, ids, token_types)?)
    }

    fn token_logits(&mut self, position: usize) -> Result<Vec<f32>> {
        Ok(Session::token_logits(self, position)?.to_vec())
    }

    fn embedding(&self, pooling: Pooling) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.model().arch().dim as usize];
        Session::embedding(self, pooling, &mut out)?;
        Ok(out)
    }
}

/// The reference, and the vectors of the text it has taken in.
#[derive(Debug)]
pub struct Encoded {
    reference: Reference,
    hidden: Vec<f32>,
}

impl Encoded {
    /// No text yet.
    pub fn new(reference: Reference) -> Self {
        Self { reference, hidden: Vec::new() }
    }

    fn dim(&self) -> usize {
        self.reference.arch().dim as usize
    }
}

impl Encoder for Encoded {
    fn arch(&self) -> &Arch {
        self.reference.arch()
    }

    fn encode(&mut self, ids: &[u32], token_types: &[u8]) -> Result<()> {
        self.hidden = self.reference.encode(ids, token_types)?;
        Ok(())
    }

    fn token_logits(&mut self, position: usize) -> Result<Vec<f32>> {
        let tokens = self.hidden.len() / self.dim();
        let hidden = self.hidden.chunks(self.dim()).nth(position);
        self.reference.token_logits(hidden.ok_or(SessionError::Position { found: position, tokens })?)
    }

    fn embedding(&self, pooling: Pooling) -> Result<Vec<f32>> {
        let tokens = match pooling {
            Pooling::Mean => self.hidden.len() / self.dim(),
            Pooling::First => 1,
        };
        let mut sum = vec![0f64; self.dim()];
        if self.hidden.is_empty() {
            return Err(SessionError::Position { found: 0, tokens: 0 }.into());
        }
        for hidden in self.hidden.chunks(self.dim()).take(tokens) {
            sum.iter_mut().zip(hidden).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        Ok(sum.iter().map(|x| if length > 0.0 { (x / length) as f32 } else { 0.0 }).collect())
    }
}
