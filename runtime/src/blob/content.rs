//! The checks of everything behind the head: checksum, table, padding, numbers.
//!
//! Every byte comes from memory once: numbers are looked at while the checksum's pass still has them in a cache. That
//! pass is what takes the time, so it is what workers share.

use core::ops::Range;

use heapless::Vec;

use super::header::HEADER_BYTES;
use super::{ALIGN, BlobError, ENTRY_BYTES, Entry, MAX_EXPONENT, Model, crc, exponent, placement, tokenizer_offset};
use crate::arch::Kind;
use crate::packing::round_up;
use crate::workers::{self, MAX_WORKERS, Workers};

/// Bytes for which another worker is worth waking.
const LEAST_SHARE: usize = 1 << 20;

/// What a stretch of the file looks like.
struct Checked {
    /// Its checksum.
    crc: u32,
    /// Whether the scales and vectors in it are what they must be.
    numbers: Result<(), BlobError>,
}

/// Checks a file whose head is right and whose length is what the head calls for.
pub(super) fn check<W: Workers>(model: &Model<'_>, workers: &W) -> Result<(), BlobError> {
    let whole = HEADER_BYTES as u64..model.blob.len() as u64;
    let Checked { crc, numbers } = if W::SERIAL { pass(model, whole) } else { shared_pass(model, whole, workers) };
    // What is damaged can be wrong in any way; that it is damaged is what to say.
    if crc != model.header.content_crc {
        return Err(BlobError::ContentChecksum);
    }
    check_table(model)?;
    numbers
}

fn shared_pass<W: Workers>(model: &Model<'_>, whole: Range<u64>, workers: &W) -> Checked {
    let share = workers::share(workers, model.blob.len()).max(LEAST_SHARE);
    let share = round_up(share, ALIGN);
    // As many as there are workers, at most.
    let mut parts: Vec<(Range<u64>, Checked), MAX_WORKERS> = whole
        .clone()
        .step_by(share)
        .map(|start| (start..whole.end.min(start + share as u64), Checked { crc: 0, numbers: Ok(()) }))
        .collect();
    workers::for_each(workers, parts.iter_mut(), |(range, checked)| *checked = pass(model, range.clone()));
    parts.into_iter().fold(Checked { crc: 0, numbers: Ok(()) }, |before, (range, after)| Checked {
        crc: crc::combine(before.crc, after.crc, range.end - range.start),
        numbers: before.numbers.and(after.numbers),
    })
}

/// One pass over a stretch of the file that starts at a multiple of [`ALIGN`], as every tensor does.
fn pass(model: &Model<'_>, range: Range<u64>) -> Checked {
    let header = &model.header;
    let (mut crc, mut position, mut numbers) = (0, range.start, Ok(()));
    let mut extend = |end: u64| {
        crc = crc::extend(crc, model.bytes(position, end - position));
        position = end;
    };
    for (index, placed) in (0u32..).zip(placement(&header.arch, header.packing, header.tokenizer_len)) {
        let (from, to) = match placed.spec.kind {
            Kind::Matrix => (placed.scales, placed.end()),
            Kind::Vector => (placed.offset, placed.end()),
        };
        let (from, to) = (from.max(range.start), to.min(range.end));
        if from >= to {
            continue;
        }
        extend(to);
        // Without `any`, which stops early and therefore cannot be vectorised.
        let bad = match placed.spec.kind {
            // Negative, infinite or not a number: the sign bit set or the exponent all ones.
            Kind::Matrix => model.cast::<u16>(from, to - from).iter().fold(false, |bad, &bits| bad | (bits >= 0x7C00)),
            Kind::Vector => {
                // An infinity is above it, and what is no number is not at most anything.
                let most = placed.spec.role.largest();
                !model.cast::<f32>(from, to - from).iter().fold(true, |good, v| good & (v.abs() <= most))
            }
        };
        if bad && numbers.is_ok() {
            numbers = Err(match placed.spec.kind {
                Kind::Matrix => BlobError::Scale { index },
                Kind::Vector => BlobError::Value { index },
            });
        }
    }
    extend(range.end);
    Checked { crc, numbers }
}

/// Checks that the table says what the architecture calls for, and that there are zeros between sections.
fn check_table(model: &Model<'_>) -> Result<(), BlobError> {
    let header = &model.header;
    let tokenizer = tokenizer_offset(header.tensor_count);
    let mut end = HEADER_BYTES as u64 + u64::from(header.tensor_count) * ENTRY_BYTES as u64;
    check_padding(model, end, tokenizer)?;
    end = tokenizer + header.tokenizer_len;
    for (index, placed) in (0u32..).zip(placement(&header.arch, header.packing, header.tokenizer_len)) {
        let entry = model.entry(index).ok_or(BlobError::Tensor { index, field: "role" })?;
        let exponent = exponent(entry);
        let limit = if placed.spec.kind == Kind::Matrix { MAX_EXPONENT } else { 0 };
        if exponent.checked_abs().is_none_or(|e| e > limit) {
            return Err(BlobError::Tensor { index, field: "exponent" });
        }
        let expected = Entry { spec: placed.spec, exponent, offset: placed.offset }.to_bytes();
        if *entry != expected {
            let differs = expected.iter().zip(entry).position(|(a, b)| a != b).unwrap_or(0);
            let field = match differs {
                0..2 => "role",
                2 => "kind",
                4..8 => "layer",
                8..12 => "rows",
                12..16 => "cols",
                24.. => "offset",
                _ => "reserved",
            };
            return Err(BlobError::Tensor { index, field });
        }
        check_padding(model, end, placed.offset)?;
        check_padding(model, placed.offset + placed.len, placed.scales)?;
        end = placed.end();
    }
    check_padding(model, end, header.source_offset().unwrap_or(end))
}

fn check_padding(model: &Model<'_>, from: u64, to: u64) -> Result<(), BlobError> {
    match model.bytes(from, to - from).iter().position(|&b| b != 0) {
        Some(at) => Err(BlobError::NotZero { offset: from + at as u64 }),
        None => Ok(()),
    }
}
