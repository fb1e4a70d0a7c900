//! SentencePiece's tokenizer.model: a protocol buffer of pieces with scores, and how text is prepared for them.
//!
//! BPE and unigram models are carried to the device exactly, with the normalization table that they bring along. Models of
//! words or characters are refused, and so is what else would change ids.

use std::path::Path;

use thumbformer::tokenizer::{AddedFlags, Invalid, Kind, Missing, Prefix, Strip};

use super::draft::{Draft, Merges, Prompt, Scores, Token, TokenTable, UNKNOWN_PENALTY};
use super::normalizer::Step;
use crate::{Error, Result};

/// Reads a tokenizer.model.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Draft> {
    Model::parse(bytes)
        .map_err(|problem| Error::format(path, format!("not a SentencePiece model: {problem}")))?
        .draft(path)
}

/// `SentencePiece.Type`.
mod piece_type {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const UNKNOWN: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER_DEFINED: u64 = 4;
    pub(super) const UNUSED: u64 = 5;
    pub(super) const BYTE: u64 = 6;
}

/// `TrainerSpec.ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: u64,
}

/// What is needed of a `ModelProto`; the defaults are those of its definition.
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    model_type: u64,
    space_is_suffix: bool,
    byte_fallback: bool,
    unknown_text: &'a str,
    bos: &'a str,
    eos: &'a str,
    /// Name and `precompiled_charsmap` of the normalizer, and the latter of the denormalizer.
    normalizer: &'a str,
    charsmap: &'a [u8],
    denormalizer_charsmap: &'a [u8],
    add_prefix: bool,
    collapse: bool,
    escape_spaces: bool,
}

impl<'a> Model<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut model = Model {
            pieces: Vec::new(),
            model_type: UNIGRAM,
            space_is_suffix: false,
            byte_fallback: false,
            unknown_text: " \u{2047} ",
            bos: "<s>",
            eos: "</s>",
            normalizer: "",
            charsmap: &[],
            denormalizer_charsmap: &[],
            add_prefix: true,
            collapse: true,
            escape_spaces: true,
        };
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Field::Bytes(trainer)) => model.parse_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.parse_normalizer(normalizer)?,
                (5, Field::Bytes(denormalizer)) => {
                    for field in fields(denormalizer) {
                        if let (2, Field::Bytes(charsmap)) = field? {
                            model.denormalizer_charsmap = charsmap;
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() { Err("it has no pieces".into()) } else { Ok(model) }
    }

    fn parse_trainer(&mut self, trainer: &'a [u8]) -> Result<(), String> {
        for field in fields(trainer) {
            match field? {
                (3, Field::Varint(value)) => self.model_type = value,
                (24, Field::Varint(value)) => self.space_is_suffix = value != 0,
                (35, Field::Varint(value)) => self.byte_fallback = value != 0,
                (44, Field::Bytes(value)) => self.unknown_text = text(value)?,
                (46, Field::Bytes(value)) => self.bos = text(value)?,
                (47, Field::Bytes(value)) => self.eos = text(value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn parse_normalizer(&mut self, normalizer: &'a [u8]) -> Result<(), String> {
        for field in fields(normalizer) {
            match field? {
                (1, Field::Bytes(value)) => self.normalizer = text(value)?,
                (2, Field::Bytes(value)) => self.charsmap = value,
                (3, Field::Varint(value)) => self.add_prefix = value != 0,
                (4, Field::Varint(value)) => self.collapse = value != 0,
                (5, Field::Varint(value)) => self.escape_spaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn draft(&self, path: &Path) -> Result<Draft> {
        let refuse = |field: &str, found: String, expected: &str| {
            Err(Error::Field { path: path.into(), field: field.into(), found, expected: expected.into() })
        };
        if ![UNIGRAM, BPE].contains(&self.model_type) {
            let name = match self.model_type {
                3 => "word".into(),
                4 => "char".into(),
                other => other.to_string(),
            };
            return refuse("trainer_spec.model_type", name, "unigram or bpe");
        }
        if !self.denormalizer_charsmap.is_empty() {
            let found = format!("a table of {} bytes", self.denormalizer_charsmap.len());
            return refuse("denormalizer_spec.precompiled_charsmap", found, "none");
        }
        // The device takes away spaces after spaces wherever they come from, the library not within a replacement.
        if self.collapse && self.charsmap.windows(2).any(|pair| pair == b"  ") {
            let found = format!("{:?} with several spaces in a replacement", self.normalizer);
            return refuse("normalizer_spec.precompiled_charsmap", found, "single spaces");
        }
        if self.space_is_suffix {
            return refuse("trainer_spec.treat_whitespace_as_suffix", "true".into(), "false");
        }
        if !self.escape_spaces {
            return refuse("normalizer_spec.escape_whitespaces", "false".into(), "true");
        }
        let mut table = TokenTable::default();
        for (id, piece) in (0..).zip(&self.pieces) {
            let field = || format!("pieces[{id}]");
            let token = match piece.kind {
                piece_type::NORMAL => Token { bytes: fold(piece.text), plain: true },
                piece_type::UNKNOWN => Token { bytes: self.unknown_text.into(), plain: false },
                // A unigram model prefers these to other pieces; a BPE model gets to see only what is between them.
                piece_type::USER_DEFINED if self.model_type == UNIGRAM => {
                    Token { bytes: piece.text.into(), plain: true }
                }
                piece_type::CONTROL | piece_type::USER_DEFINED => Token { bytes: piece.text.into(), plain: false },
                piece_type::BYTE => Token { bytes: vec![byte_of(piece.text, path, &field())?], plain: false },
                piece_type::UNUSED if self.model_type == UNIGRAM => Token { bytes: fold(piece.text), plain: false },
                piece_type::UNUSED => {
                    return refuse(&field(), format!("unused piece {:?}", piece.text), "no unused pieces");
                }
                other => return refuse(&field(), format!("type {other}"), "a type from 1 to 6"),
            };
            table.insert(path, field, id, token)?;
        }
        let kind = if self.model_type == UNIGRAM { Kind::Unigram } else { Kind::CharBpe };
        let mut draft = Draft::new(kind, table.finish());
        draft.names = (0..).zip(&self.pieces).map(|(id, piece)| (piece.text.to_owned(), id)).collect();
        match kind {
            Kind::Unigram => draft.scores = Some(self.scores()),
            _ => draft.merges = Merges::Scores(self.pieces.iter().map(|piece| piece.score).collect()),
        }
        if !self.charsmap.is_empty() {
            draft.normalizer.push(Step::Charsmap(self.charsmap.to_vec()));
        }
        // The normalizer leaves user-defined pieces alone, so they are looked for in what it makes of a text.
        let user_defined = AddedFlags(match (kind, self.charsmap.is_empty()) {
            (Kind::Unigram, _) => AddedFlags::NORMALIZED | AddedFlags::VERBATIM,
            (_, false) => AddedFlags::NORMALIZED,
            (_, true) => 0,
        });
        draft.collapse = self.collapse;
        draft.prefix = if self.add_prefix { Prefix::Text } else { Prefix::Never };
        draft.strip = if self.add_prefix || self.collapse { Strip::Piece } else { Strip::None };
        draft.invalid = Invalid::Byte;
        for (id, piece) in (0..).zip(&self.pieces) {
            match piece.kind {
                piece_type::CONTROL => {
                    draft.special.insert(id);
                }
                piece_type::USER_DEFINED if piece.text.contains([' ', '\u{2581}']) => {
                    return refuse(
                        &format!("pieces[{id}]"),
                        format!("{:?}", piece.text),
                        "no spaces in user-defined pieces",
                    );
                }
                piece_type::USER_DEFINED if !piece.text.is_empty() => draft.added.push((id, user_defined)),
                piece_type::UNKNOWN if draft.unknown.replace(id).is_some() => {
                    return refuse(&format!("pieces[{id}]"), "another unknown piece".into(), "one");
                }
                _ => {}
            }
        }
        draft.first_byte = self.first_byte(path)?;
        draft.missing = match (self.byte_fallback, draft.first_byte) {
            (true, Some(_)) => Missing::Bytes,
            (true, None) => {
                return refuse("trainer_spec.byte_fallback", "true".into(), "false: there are no byte pieces");
            }
            (false, _) => Missing::FusedUnknown,
        };
        if draft.unknown.is_none() {
            return refuse("pieces", "no unknown piece".into(), "one");
        }
        let control = |name: &str| {
            let id = draft.names.get(name).copied();
            id.filter(|id| self.pieces.get(*id as usize).is_some_and(|piece| piece.kind == piece_type::CONTROL))
        };
        (draft.bos, draft.eos) = (control(self.bos), control(self.eos));
        // The library itself adds nothing to a text, but models are trained on texts that begin so.
        draft.begin = draft.bos.into_iter().collect();
        draft.prompt = draft.bos.map(|_| Prompt::default().after(&draft.begin));
        Ok(draft)
    }

    /// Scores as the library's unigram model computes with them.
    fn scores(&self) -> Scores {
        let normal = || self.pieces.iter().filter(|piece| piece.kind == piece_type::NORMAL).map(|piece| piece.score);
        // The library starts from the smallest positive number.
        let highest = normal().fold(f32::MIN_POSITIVE, f32::max);
        let lowest = normal().fold(f32::MAX, f32::min);
        let score = |piece: &Piece<'_>| match piece.kind {
            piece_type::USER_DEFINED => piece.text.len() as f32 * highest - 0.1,
            _ => piece.score,
        };
        Scores {
            scores: self.pieces.iter().map(score).map(f64::from).collect(),
            unknown: f64::from(lowest - UNKNOWN_PENALTY as f32),
            single_sums: true,
            named_bytes: false,
        }
    }

    /// The piece of byte 0, if there are byte pieces: 256 in a row.
    fn first_byte(&self, path: &Path) -> Result<Option<u32>> {
        let is_byte = |piece: &Piece<'_>| piece.kind == piece_type::BYTE;
        let Some(first) = self.pieces.iter().position(is_byte) else { return Ok(None) };
        let count = self.pieces.iter().filter(|piece| is_byte(piece)).count();
        let in_row = self.pieces.iter().skip(first).zip(0..=255u32);
        let in_order = in_row.filter(|(piece, byte)| is_byte(piece) && piece.text == format!("<0x{byte:02X}>")).count();
        if count == 256 && in_order == 256 {
            return Ok(u32::try_from(first).ok());
        }
        Err(Error::Field {
            path: path.into(),
            field: "pieces".into(),
            found: format!("{count} byte pieces, {in_order} of them in order after the first"),
            expected: "none, or <0x00> to <0xFF> in a row".into(),
        })
    }
}

impl<'a> Piece<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut piece = Piece { text: "", score: 0.0, kind: piece_type::NORMAL };
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(value)) => piece.text = text(value)?,
                (2, Field::Fixed32(value)) => piece.score = f32::from_bits(value),
                (3, Field::Varint(value)) => piece.kind = value,
                _ => {}
            }
        }
        if piece.score.is_nan() { Err(format!("the score of {:?} is not a number", piece.text)) } else { Ok(piece) }
    }
}

/// Spaces for what SentencePiece writes for them.
fn fold(piece: &str) -> Vec<u8> {
    piece.replace('\u{2581}', " ").into()
}

/// The byte that `<0x41>` names.
fn byte_of(name: &str, path: &Path, field: &str) -> Result<u8> {
    let hex = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(|| Error::Field {
        path: path.into(),
        field: field.into(),
        found: format!("byte piece {name:?}"),
        expected: "<0x00> to <0xFF>".into(),
    })
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{:?} is not UTF-8", String::from_utf8_lossy(bytes)))
}

/// A field's value on the wire.
enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// 64 bits wide; no field that is read here is.
    Fixed64,
}

/// The fields of a protocol buffer message: their numbers and values. Ends after an error.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Field<'a>), String> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Field::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Field::Fixed64)?,
        2 => {
            let len = varint(rest)?;
            Field::Bytes(take(rest, len)?)
        }
        5 => {
            let (chunks, _) = take(rest, 4)?.as_chunks();
            Field::Fixed32(chunks.first().map_or(0, |&le| u32::from_le_bytes(le)))
        }
        wire_type => return Err(format!("wire type {wire_type}, expected 0, 1, 2 or 5")),
    };
    Ok((key >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?.first().copied().unwrap_or_default();
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".into())
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8], String> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, tail) = split.ok_or_else(|| format!("{} bytes left, expected {len}", rest.len()))?;
    *rest = tail;
    Ok(taken)
}
