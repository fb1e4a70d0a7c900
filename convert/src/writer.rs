//! Writes a blob: head, tensor table, tokenizer, and every tensor quantized as it streams by.
//!
//! The place of every byte is known beforehand ([`thumbformer::blob::placement`]), so the file is written front to back
//! and never held in memory. The head comes last: until [`Plan::seal`] has written it, the file is no blob.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;

use thumbformer::arch::{Arch, Kind, Role, TensorSpec};
use thumbformer::blob::header::{HEADER_BYTES, Header, Pooling, SpecialTokens};
use thumbformer::blob::{ALIGN, Entry, align, crc::crc32, placement, tokenizer_offset};
use thumbformer::packing::Packing;

use crate::quantize::{self, quantize_rows};
use crate::{Error, Result};

/// Where a blob's numbers come from.
pub trait Weights: Sync {
    /// The architecture they are for.
    fn arch(&self) -> &Arch;

    /// Writes rows `rows` of the tensor into `out`, row-major.
    ///
    /// # Errors
    /// The numbers cannot be had, or are not finite.
    fn read_rows(&self, tensor: &TensorSpec, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Those of the encoder, of an encoder-decoder.
    fn source(&self) -> Option<&dyn Weights> {
        None
    }
}

/// What quantization did to one matrix.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// The tensor.
    pub spec: TensorSpec,
    /// Signal and noise.
    pub error: quantize::Error,
}

/// Everything in a blob but the numbers.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The architecture record.
    pub arch: Arch,
    /// Layout and group.
    pub packing: Packing,
    /// Tokens that start and end sequences.
    pub special: SpecialTokens,
    /// How a text's vectors are pooled.
    pub pooling: Pooling,
    /// The tokenizer section; empty if there is none.
    pub tokenizer: &'a [u8],
    /// The encoder's blob, which the file of an encoder-decoder ends with.
    pub source: Option<Box<Plan<'a>>>,
}

impl Plan<'_> {
    fn tokenizer_len(&self) -> u64 {
        self.tokenizer.len() as u64
    }

    /// Bytes of the finished file.
    pub fn file_len(&self) -> u64 {
        match &self.source {
            Some(source) => self.source_offset() + source.file_len(),
            None => self.tensors_end(),
        }
    }

    fn tensors_end(&self) -> u64 {
        placement(&self.arch, self.packing, self.tokenizer_len()).last().map_or(0, |p| p.end())
    }

    /// Where the encoder's blob begins, if there is one.
    pub fn source_offset(&self) -> u64 {
        align(self.tensors_end())
    }

    /// Where the values of one tensor lie in the file.
    pub fn range(&self, role: Role, layer: u32) -> Option<Range<u64>> {
        let mut placed = placement(&self.arch, self.packing, self.tokenizer_len());
        placed.find(|p| p.spec.role == role && p.spec.layer == layer).map(|p| p.offset..p.offset + p.len)
    }

    /// Quantizes and writes everything but the head. `progress` is called with the number of parameters done.
    ///
    /// # Errors
    /// What reading the weights or writing to `out` returns; a record that breaks its own rules.
    pub fn write_content(
        &self,
        weights: &dyn Weights,
        out: &mut (impl Write + Seek),
        progress: &dyn Fn(u64),
    ) -> Result<Vec<TensorReport>> {
        let mut reports = self.write_stack(weights, out, 0, progress)?;
        if let Some(plan) = &self.source {
            let done = self.arch.tensors().map(|spec| u64::from(spec.rows) * u64::from(spec.cols)).sum::<u64>();
            let missing = || Error::Usage("an encoder-decoder without an encoder's weights".into());
            let source = weights.source().ok_or_else(missing)?;
            let progress = |more| progress(done + more);
            let position = self.tensors_end();
            out.seek(SeekFrom::Start(position)).map_err(Error::Write)?;
            Padded { out: &mut *out, position }.pad_to(self.source_offset()).map_err(Error::Write)?;
            reports.extend(plan.write_stack(source, out, self.source_offset(), &progress)?);
        }
        Ok(reports)
    }

    /// One blob's content, `base` bytes into the file, where `out` is.
    fn write_stack(
        &self,
        weights: &dyn Weights,
        out: &mut (impl Write + Seek),
        base: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Vec<TensorReport>> {
        self.arch.validate().map_err(|e| Error::Usage(e.to_string()))?;
        let mut out = Padded { out, position: 0 };
        let mut reports = Vec::new();
        let mut entries = Vec::new();
        out.pad_to(tokenizer_offset(self.arch.tensors().count() as u32)).map_err(Error::Write)?;
        out.write(self.tokenizer).map_err(Error::Write)?;
        let mut done = 0;
        for placed in placement(&self.arch, self.packing, self.tokenizer_len()) {
            let spec = placed.spec;
            let (rows, cols) = (spec.rows as usize, spec.cols as usize);
            out.pad_to(placed.offset).map_err(Error::Write)?;
            let exponent = match spec.kind {
                Kind::Matrix => {
                    let packed = quantize_rows(rows, cols, self.packing, |r, o| weights.read_rows(&spec, r, o))?;
                    out.write(&packed.weights).map_err(Error::Write)?;
                    out.pad_to(placed.scales).map_err(Error::Write)?;
                    out.write(bytemuck::cast_slice(&packed.scales)).map_err(Error::Write)?;
                    reports.push(TensorReport { spec, error: packed.error });
                    packed.exponent
                }
                Kind::Vector => {
                    let mut values = vec![0f32; cols];
                    weights.read_rows(&spec, 0..1, &mut values)?;
                    out.write(bytemuck::cast_slice(&values)).map_err(Error::Write)?;
                    0
                }
            };
            entries.extend_from_slice(&Entry { spec, exponent, offset: placed.offset }.to_bytes());
            done += rows as u64 * cols as u64;
            progress(done);
        }
        out.out.seek(SeekFrom::Start(base + HEADER_BYTES as u64)).map_err(Error::Write)?;
        out.out.write_all(&entries).map_err(Error::Write)?;
        Ok(reports)
    }

    /// The head for the content that follows it in `file`, the encoder's included, whose head must be there.
    pub fn seal(&self, file: &[u8]) -> [u8; HEADER_BYTES] {
        self.header(crc32(file.get(HEADER_BYTES..).unwrap_or(&[]))).to_bytes()
    }

    /// The head of content with this CRC-32.
    pub fn header(&self, content_crc: u32) -> Header {
        Header {
            arch: self.arch,
            packing: self.packing,
            special: self.special,
            pooling: self.pooling,
            tensor_count: self.arch.tensors().count() as u32,
            tokenizer_len: self.tokenizer_len(),
            file_len: self.file_len(),
            source_len: self.source.as_ref().map_or(0, |source| source.file_len()),
            content_crc,
        }
    }
}

/// A writer that knows where it is and fills gaps with zeros.
struct Padded<'w, W> {
    out: &'w mut W,
    position: u64,
}

impl<W: Write> Padded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, offset: u64) -> std::io::Result<()> {
        while self.position < offset {
            let zeros = [0; ALIGN];
            let missing = (offset - self.position).min(ALIGN as u64) as usize;
            self.write(&zeros[..missing])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{self, Synthetic};
    use thumbformer::packing::Layout;

    #[test]
    fn a_full_disk_is_an_error_of_writing() {
        let weights = Synthetic { arch: synthetic::llama(64, 32, 1, 2, 1, 48, 16), seed: 1 };
        let packing = Packing { layout: Layout::Rows8, group: 32 };
        let special = SpecialTokens::new(None, &[]).unwrap();
        let plan = Plan { arch: weights.arch, packing, special, pooling: Pooling::Mean, tokenizer: &[], source: None };
        for room in [0, 100, 1000, plan.file_len() as usize - 1] {
            let mut disk = vec![0; room];
            let error = plan.write_content(&weights, &mut std::io::Cursor::new(&mut disk[..]), &|_| ()).unwrap_err();
            assert!(matches!(error, Error::Write(_)), "{room}: {error}");
        }
    }
}
