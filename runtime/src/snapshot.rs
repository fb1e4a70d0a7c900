//! Snapshots: what a session holds, as bytes, so that a fixed beginning (a system prompt, examples) is computed once, kept
//! in a file or in flash, and shared.
//!
//! [`Session::snapshot`](crate::Session::snapshot) writes one, [`Snapshot::new`] checks one, and
//! [`Session::restore`](crate::Session::restore) copies its keys and values into the cache, which takes no arithmetic. By
//! the contract of equal bits it does not matter which machine computed them. A snapshot holds the tokens that it stands
//! for and belongs to one file of weights; any session with that file and room for the tokens can take it. Logits are no
//! part of it: whoever restores gives at least the last token again, so a cached beginning may be longer than what is
//! wanted of it.
//!
//! The same tokens always give the same bytes: what the cache holds behind them is not copied.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `thumbsnp` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC-32 of the model's head |
//! | 16 | 4 | CRC-32 of the model's content |
//! | 20 | 4 | number of tokens |
//! | 24 | 4 | CRC-32 of everything from offset 32 |
//! | 28 | 4 | CRC-32 of the first 28 bytes |
//! | 32 | 4·n | the tokens |
//! | | | for each 32 positions, layer and KV head: keys, values, f32 scales of the keys, of the values |
//!
//! All numbers are little-endian; keys and values lie as in the cache.

use crate::blob::Model;
use crate::blob::crc::crc32;
use crate::blob::header::HEADER_BYTES;
use crate::cache::{Cache, HeadShape, TILE};
use crate::packing::QUAD;
use crate::plan::Plan;

/// First bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"thumbsnp";
/// The only version there is.
pub const VERSION: u32 = 1;
/// Bytes before the tokens.
pub(crate) const HEAD: usize = 32;

/// What is wrong with a snapshot, or with taking or restoring one. Nothing has changed when one of these is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes do not begin as a snapshot does.
    Magic,
    /// Another version's.
    Version {
        /// The version found.
        found: u32,
    },
    /// Too few or too many bytes.
    Length {
        /// Bytes that its head calls for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Bytes have changed since it was written.
    Checksum,
    /// It was taken from another model, or from another conversion of it.
    OtherModel,
    /// A token is not in the model's vocabulary.
    Token {
        /// Its index.
        index: usize,
        /// The token.
        id: u32,
    },
    /// A number that no session writes: a scale that is negative or not finite, a key or value of −128.
    Value {
        /// The tile of 32 positions.
        tile: usize,
    },
    /// The ids given are not those of the session.
    Ids {
        /// Positions in use.
        expected: usize,
        /// Ids given.
        found: usize,
    },
    /// The session's model is an encoder, which holds nothing to go on from.
    Encoder,
    /// The session's model is an encoder-decoder, whose source a snapshot does not hold.
    Source,
    /// The output is too small.
    Room {
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The session's context has no room.
    ContextFull {
        /// Tokens to restore.
        tokens: usize,
        /// Positions there are.
        context: usize,
    },
}

impl core::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            SnapshotError::Magic => write!(f, "not a snapshot of a session"),
            SnapshotError::Version { found } => write!(f, "snapshot of version {found}, expected {VERSION}"),
            SnapshotError::Length { expected, found } => {
                write!(f, "snapshot of {found} bytes, expected {expected}: it was cut off or added to")
            }
            SnapshotError::Checksum => write!(f, "the snapshot's checksum does not hold: it is damaged"),
            SnapshotError::OtherModel => write!(f, "the snapshot was taken from another model"),
            SnapshotError::Token { index, id } => {
                write!(f, "snapshot: token {id} at index {index} is not in the model's vocabulary")
            }
            SnapshotError::Value { tile } => write!(f, "snapshot: an impossible number in tile {tile}"),
            SnapshotError::Ids { expected, found } => {
                write!(f, "{found} ids were given for a snapshot of a session that holds {expected} tokens")
            }
            SnapshotError::Source => {
                write!(f, "the model is an encoder-decoder: snapshots do not hold its source")
            }
            SnapshotError::Encoder => write!(f, "the model is an encoder: its sessions have no state to go on from"),
            SnapshotError::Room { expected, found } => {
                write!(f, "the snapshot has {expected} bytes, the buffer only {found}")
            }
            SnapshotError::ContextFull { tokens, context } => {
                write!(f, "{tokens} tokens of a snapshot do not fit into the context of {context}")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}

/// A checked snapshot, in place. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    model: [u32; 2],
    ids: &'a [[u8; 4]],
    tiles: &'a [u8],
}

/// The checksums that tell models apart.
fn identity(model: &Model<'_>) -> [u32; 2] {
    [crc32(model.blob().get(..HEADER_BYTES).unwrap_or(&[])), model.header().content_crc]
}

impl<'a> Snapshot<'a> {
    /// Checks a snapshot for a model: all of it, once.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(bytes: &'a [u8], model: &Model<'_>) -> Result<Self, SnapshotError> {
        let found = bytes.len() as u64;
        if !bytes.starts_with(&MAGIC) {
            return Err(SnapshotError::Magic);
        }
        let (head, content) =
            bytes.split_first_chunk::<HEAD>().ok_or(SnapshotError::Length { expected: HEAD as u64, found })?;
        let words = head.as_chunks::<4>().0;
        let word = |index: usize| words.get(index).map_or(0, |&le| u32::from_le_bytes(le));
        let (version, tokens, content_crc, head_crc) = (word(2), word(5), word(6), word(7));
        if version != VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        if head.get(..HEAD - 4).map(crc32) != Some(head_crc) {
            return Err(SnapshotError::Checksum);
        }
        let snapshot_of = [word(3), word(4)];
        if snapshot_of != identity(model) {
            return Err(SnapshotError::OtherModel);
        }
        let arch = model.arch();
        let shape = HeadShape::new(arch, model.header().packing.layout, TILE as u32);
        let heads = u64::from(arch.layers) * u64::from(arch.kv_heads);
        // No product of a model's sizes and a forged number of tokens wraps.
        let tile = heads.saturating_mul(shape.tile_bytes() as u64);
        let tiles = u64::from(tokens).div_ceil(TILE as u64).saturating_mul(tile);
        let expected = tiles.saturating_add(HEAD as u64 + 4 * u64::from(tokens));
        if found != expected {
            return Err(SnapshotError::Length { expected, found });
        }
        if crc32(content) != content_crc {
            return Err(SnapshotError::Checksum);
        }
        let (ids, tiles) = content.split_at_checked(4 * tokens as usize).unwrap_or_default();
        let snapshot = Self { model: snapshot_of, ids: ids.as_chunks().0, tiles };
        if let Some((index, id)) = snapshot.ids().enumerate().find(|&(_, id)| id >= arch.vocab) {
            return Err(SnapshotError::Token { index, id });
        }
        let possible = |quads: &[u8]| {
            quads.as_chunks::<QUAD>().0.iter().all(|&quad| shape.layout.decode(quad).iter().all(|&q| q != i8::MIN))
        };
        // Not negative and below infinity: as bits, an unsigned comparison.
        let finite =
            |scales: &[u8]| scales.as_chunks().0.iter().all(|&le| u32::from_le_bytes(le) < f32::INFINITY.to_bits());
        for (index, tile) in tiles.chunks_exact(shape.tile_bytes()).enumerate() {
            let good = shape.parts(tile).is_some_and(|parts| {
                possible(parts.keys) && possible(parts.values) && finite(parts.key_scales) && finite(parts.value_scales)
            });
            if !good {
                return Err(SnapshotError::Value { tile: index / heads.max(1) as usize });
            }
        }
        Ok(snapshot)
    }

    /// The tokens that it stands for.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.ids.iter().map(|&le| u32::from_le_bytes(le))
    }

    /// How many they are.
    pub fn position(&self) -> usize {
        self.ids.len()
    }

    /// How many tokens `prompt` begins alike, leaving at least one of them: what [`Session::restore`] should keep, and
    /// where [`Session::prefill`] goes on.
    ///
    /// [`Session::restore`]: crate::Session::restore
    /// [`Session::prefill`]: crate::Session::prefill
    ///
    /// ```
    /// # use thumbformer::{Session, SessionError, Snapshot, SnapshotError};
    /// # #[derive(Debug)] struct Failed;
    /// # impl<T: std::error::Error> From<T> for Failed { fn from(_: T) -> Self { Failed } }
    /// fn answer(session: &mut Session<'_, '_>, flash: &[u8], prompt: &[u32]) -> Result<u32, Failed> {
    ///     let snapshot = Snapshot::new(flash, session.model())?;
    ///     let keep = snapshot.in_common(prompt);
    ///     session.restore(&snapshot, keep)?;
    ///     Ok(thumbformer::decode::argmax(session.prefill(&prompt[keep..])?))
    /// }
    /// ```
    pub fn in_common(&self, prompt: &[u32]) -> usize {
        let most = prompt.len().saturating_sub(1);
        self.ids().zip(prompt).take(most).take_while(|(a, b)| a == *b).count()
    }

    pub(crate) fn check_model(&self, model: &Model<'_>) -> Result<(), SnapshotError> {
        if self.model == identity(model) { Ok(()) } else { Err(SnapshotError::OtherModel) }
    }

    /// Copies the first `keep` positions, in whole tiles, into the cache of a session of the same model.
    pub(crate) fn read(&self, cache: &mut Cache<'_>, keep: usize) {
        let tiles = self.tiles.chunks_exact(cache.tile_bytes()).take(keep.div_ceil(TILE));
        tiles.enumerate().for_each(|(tile, bytes)| cache.load_tile(tile, bytes));
    }
}

/// Writes a snapshot of the selected branch, which holds `ids`.
pub(crate) fn write(
    model: &Model<'_>,
    plan: &Plan,
    cache: &mut Cache<'_>,
    ids: &[u32],
    out: &mut [u8],
) -> Result<usize, SnapshotError> {
    let (expected, found) = (plan.snapshot_bytes(ids.len() as u32), out.len());
    let room = SnapshotError::Room { expected, found };
    let out = out.get_mut(..expected).ok_or(room)?;
    let (head, content) = out.split_first_chunk_mut::<HEAD>().ok_or(room)?;
    let (tokens, tiles) = content.split_at_mut_checked(4 * ids.len()).ok_or(room)?;
    for (le, id) in tokens.as_chunks_mut().0.iter_mut().zip(ids) {
        *le = id.to_le_bytes();
    }
    for (tile, bytes) in tiles.chunks_exact_mut(cache.tile_bytes()).enumerate() {
        cache.save_tile(tile, ids.len() - tile * TILE, bytes);
    }
    let [model_head, model_content] = identity(model);
    let words = [VERSION, model_head, model_content, ids.len() as u32, crc32(content), 0];
    let (magic, rest) = head.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    for (le, word) in rest.as_chunks_mut().0.iter_mut().zip(words) {
        *le = word.to_le_bytes();
    }
    if let Some((checked, crc)) = head.split_last_chunk_mut::<4>() {
        *crc = crc32(checked).to_le_bytes();
    }
    Ok(expected)
}
