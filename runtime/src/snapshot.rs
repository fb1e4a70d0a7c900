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
//! Of an encoder-decoder it also holds the source: its tokens, and the keys and values that the decoder attends to. Layers
//! with a window ([`Arch::window`]) are saved as far as they show: the window behind the last token, and 32 positions more,
//! so that a little less than all of the snapshot can be restored, too.
//!
//! The same tokens always give the same bytes: what the cache holds behind them is not copied. Only a session that was
//! rewound may have fewer than those 32 positions left, see [`Plan::with_rewind`](crate::Plan).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `thumbsnp` |
//! | 8 | 4 | version, 2 |
//! | 12 | 4 | CRC-32 of the model's head |
//! | 16 | 4 | CRC-32 of the model's content |
//! | 20 | 4 | number of tokens, n |
//! | 24 | 4 | the first position that layers with a window hold |
//! | 28 | 4 | number of tokens of the source, s; 0 unless the model is an encoder-decoder |
//! | 32 | 4 | CRC-32 of everything from offset 40 |
//! | 36 | 4 | CRC-32 of the first 36 bytes |
//! | 40 | 4·s | the source's tokens |
//! | | 4·n | the tokens |
//! | | | for each 32 positions of the source, layer and KV head: keys, values, f32 scales of the keys, of the values |
//! | | | the same for the tokens; layers with a window begin with the 32 positions of their first |
//!
//! All numbers are little-endian; keys and values lie as in the cache.

use crate::arch::Arch;
use crate::blob::Model;
use crate::blob::crc::crc32;
use crate::blob::header::HEADER_BYTES;
use crate::cache::{Cache, HeadShape, TILE};
use crate::packing::{Packing, QUAD};
use crate::ring;

/// First bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"thumbsnp";
/// The only version there is.
pub const VERSION: u32 = 2;
/// Bytes before the tokens.
const HEAD: usize = 40;

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
    /// A token of the source is not in the encoder's vocabulary.
    SourceToken {
        /// Its index.
        index: usize,
        /// The token.
        id: u32,
    },
    /// It is of a source that the model cannot have, or of none although the model answers one.
    Source {
        /// Its tokens.
        found: u32,
        /// Tokens that the model's encoder takes; 0 without an encoder.
        most: u32,
    },
    /// Layers with a window begin behind what the next token sees.
    Window {
        /// Where they begin.
        found: u32,
        /// Where they begin at the latest.
        latest: u32,
    },
    /// A number that no session writes: a scale that is negative or not finite, a key or value of −128.
    Value {
        /// The tile of 32 positions, of the source or of the tokens.
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
    /// The ids given for the source are not those of the session's.
    SourceIds {
        /// Tokens of the session's source.
        expected: usize,
        /// Ids given.
        found: usize,
    },
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
    /// The session has no room for the source.
    SourceFull {
        /// Its tokens.
        tokens: usize,
        /// Tokens there is room for.
        room: usize,
    },
    /// So few tokens cannot be kept: layers with a window do not hold what the next one would see.
    Forgotten {
        /// Tokens to keep.
        keep: usize,
        /// The fewest that can be.
        fewest: usize,
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
            SnapshotError::SourceToken { index, id } => {
                write!(f, "snapshot: token {id} at index {index} of the source is not in the encoder's vocabulary")
            }
            SnapshotError::Source { found: 0, .. } => {
                write!(f, "snapshot without a source, but the model is an encoder-decoder")
            }
            SnapshotError::Source { found, most } => {
                write!(f, "snapshot of a source of {found} tokens, expected at most the {most} of the model's encoder")
            }
            SnapshotError::Window { found, latest } => {
                write!(f, "snapshot: layers with a window begin at position {found}, expected at most {latest}")
            }
            SnapshotError::Value { tile } => write!(f, "snapshot: an impossible number in tile {tile}"),
            SnapshotError::Ids { expected, found } => {
                write!(f, "{found} ids were given for a snapshot of a session that holds {expected} tokens")
            }
            SnapshotError::SourceIds { expected, found } => {
                write!(f, "{found} ids were given for a source of {expected} tokens")
            }
            SnapshotError::Encoder => write!(f, "the model is an encoder: its sessions have no state to go on from"),
            SnapshotError::Room { expected, found } => {
                write!(f, "the snapshot has {expected} bytes, the buffer only {found}")
            }
            SnapshotError::ContextFull { tokens, context } => {
                write!(f, "{tokens} tokens of a snapshot do not fit into the context of {context}")
            }
            SnapshotError::SourceFull { tokens, room } => {
                write!(f, "the snapshot's source has {tokens} tokens, the plan has room for {room}")
            }
            SnapshotError::Forgotten { keep, fewest } => {
                write!(f, "{keep} tokens of a snapshot cannot be kept: its layers with a window go back to {fewest}")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}

/// What a snapshot consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    layers: u32,
    windowed: u32,
    window: u32,
    /// Bytes of a layer's tile: of all KV heads.
    layer_bytes: u64,
    tokens: u32,
    /// The first position of layers with a window.
    first: u32,
    /// Tokens of the source.
    source: u32,
}

impl Extent {
    /// Of a session that holds `tokens` tokens and was never rewound.
    pub(crate) const fn new(arch: &Arch, packing: Packing, tokens: u32) -> Self {
        let shape = HeadShape::new(arch, packing.layout, TILE as u32);
        let windowed = arch.windowed_layers();
        Self {
            layers: arch.cached_layers(),
            windowed,
            window: arch.window,
            layer_bytes: (arch.kv_heads as u64).saturating_mul(shape.tile_bytes() as u64),
            tokens,
            first: if windowed == 0 {
                0
            } else {
                tokens.saturating_add(1).saturating_sub(arch.window.saturating_add(ring::SLACK))
            },
            source: 0,
        }
    }

    /// With a source of so many tokens.
    pub(crate) const fn with_source(self, tokens: u32) -> Self {
        Self { source: tokens, ..self }
    }

    /// Of a session whose layers with a window hold the positions from `oldest` on.
    fn behind(self, oldest: usize) -> Self {
        Self { first: self.first.max(oldest as u32), ..self }
    }

    /// Where layers with a window must begin at the latest.
    const fn latest_first(&self) -> u32 {
        if self.windowed == 0 { 0 } else { self.tokens.saturating_add(1).saturating_sub(self.window) }
    }

    /// The fewest tokens, other than none, that can be restored.
    const fn fewest(&self) -> usize {
        ring::shortest(self.window as usize, self.first as usize)
    }

    /// Layers' tiles of the source.
    const fn source_tiles(&self) -> u64 {
        self.layers as u64 * self.source.div_ceil(TILE as u32) as u64
    }

    const fn source_bytes(&self) -> u64 {
        // No product of a model's sizes and a forged number of tokens wraps.
        self.source_tiles().saturating_mul(self.layer_bytes)
    }

    /// All its bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        let (tiles, missing) = (self.tokens.div_ceil(TILE as u32) as u64, self.first as u64 / TILE as u64);
        let tiles = self.layers as u64 * tiles - self.windowed as u64 * missing;
        let ids = 4 * (self.tokens as u64 + self.source as u64);
        tiles.saturating_mul(self.layer_bytes).saturating_add(self.source_bytes()).saturating_add(HEAD as u64 + ids)
    }

    /// The layers' tiles of the source, as layer and tile, in their order.
    fn of_source(self) -> impl Iterator<Item = (usize, usize)> {
        let tiles = self.source.div_ceil(TILE as u32) as usize;
        (0..tiles).flat_map(move |tile| (0..self.layers as usize).map(move |layer| (layer, tile)))
    }

    /// The same of the tokens.
    fn of_tokens(self, arch: &Arch) -> impl Iterator<Item = (usize, usize)> {
        let tiles = self.tokens.div_ceil(TILE as u32) as usize;
        let first = self.first as usize / TILE;
        let layers = move |tile| (0..self.layers).filter(move |&layer| tile >= first || !arch.windowed(layer));
        (0..tiles).flat_map(move |tile| layers(tile).map(move |layer| (layer as usize, tile)))
    }
}

/// A checked snapshot, in place. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    model: [u32; 2],
    extent: Extent,
    source_ids: &'a [[u8; 4]],
    ids: &'a [[u8; 4]],
    source_tiles: &'a [u8],
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
        let (version, tokens, first, source) = (word(2), word(5), word(6), word(7));
        if version != VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        if head.get(..HEAD - 4).map(crc32) != Some(word(9)) {
            return Err(SnapshotError::Checksum);
        }
        let snapshot_of = [word(3), word(4)];
        if snapshot_of != identity(model) {
            return Err(SnapshotError::OtherModel);
        }
        let arch = model.arch();
        let (most, encoder_vocab) = encoder(model);
        if source > most || (source == 0) != (most == 0) {
            return Err(SnapshotError::Source { found: source, most });
        }
        let packing = model.header().packing;
        let extent = Extent { first, ..Extent::new(arch, packing, tokens).with_source(source) };
        let latest = extent.latest_first();
        if first > latest {
            return Err(SnapshotError::Window { found: first, latest });
        }
        let expected = extent.bytes();
        if found != expected {
            return Err(SnapshotError::Length { expected, found });
        }
        if crc32(content) != word(8) {
            return Err(SnapshotError::Checksum);
        }
        // The length is right, so all of them fit.
        let (source_ids, content) = content.split_at_checked(4 * source as usize).unwrap_or_default();
        let (ids, content) = content.split_at_checked(4 * tokens as usize).unwrap_or_default();
        let (source_tiles, tiles) = content.split_at_checked(extent.source_bytes() as usize).unwrap_or_default();
        let (source_ids, ids) = (source_ids.as_chunks().0, ids.as_chunks().0);
        let snapshot = Self { model: snapshot_of, extent, source_ids, ids, source_tiles, tiles };
        if let Some((index, id)) = snapshot.source_ids().enumerate().find(|&(_, id)| id >= encoder_vocab) {
            return Err(SnapshotError::SourceToken { index, id });
        }
        if let Some((index, id)) = snapshot.ids().enumerate().find(|&(_, id)| id >= arch.vocab) {
            return Err(SnapshotError::Token { index, id });
        }
        let shape = HeadShape::new(arch, packing.layout, TILE as u32);
        let possible = |quads: &[u8]| {
            quads.as_chunks::<QUAD>().0.iter().all(|&quad| shape.layout.decode(quad).iter().all(|&q| q != i8::MIN))
        };
        // Not negative and below infinity: as bits, an unsigned comparison.
        let finite =
            |scales: &[u8]| scales.as_chunks().0.iter().all(|&le| u32::from_le_bytes(le) < f32::INFINITY.to_bits());
        let good = |tile: &[u8]| {
            shape.parts(tile).is_some_and(|parts| {
                possible(parts.keys) && possible(parts.values) && finite(parts.key_scales) && finite(parts.value_scales)
            })
        };
        let all_good = |bytes: &[u8]| bytes.chunks_exact(shape.tile_bytes()).all(good);
        let source = extent.of_source().zip(snapshot.layers(snapshot.source_tiles));
        let mut tiles = source.chain(extent.of_tokens(arch).zip(snapshot.layers(snapshot.tiles)));
        if let Some(((_, tile), _)) = tiles.find(|(_, bytes)| !all_good(bytes)) {
            return Err(SnapshotError::Value { tile });
        }
        Ok(snapshot)
    }

    /// Layers' tiles, one behind the other.
    fn layers(&self, tiles: &'a [u8]) -> core::slice::ChunksExact<'a, u8> {
        // A layer's tile is no larger than the bytes that there are.
        tiles.chunks_exact((self.extent.layer_bytes as usize).max(1))
    }

    /// The tokens that it stands for.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.ids.iter().map(|&le| u32::from_le_bytes(le))
    }

    /// The source's tokens that they answer; none unless the model is an encoder-decoder.
    pub fn source_ids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.source_ids.iter().map(|&le| u32::from_le_bytes(le))
    }

    /// How many tokens there are.
    pub fn position(&self) -> usize {
        self.ids.len()
    }

    /// How many tokens `prompt` begins alike, leaving at least one of them: what [`Session::restore`] should keep, and
    /// where [`Session::prefill`] goes on. 0 if layers with a window do not hold what would be seen from there.
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
        let keep = self.ids().zip(prompt).take(most).take_while(|(a, b)| a == *b).count();
        if keep < self.extent.fewest() { 0 } else { keep }
    }

    /// Whether so many tokens can be restored.
    pub(crate) fn check_keep(&self, keep: usize) -> Result<(), SnapshotError> {
        let fewest = self.extent.fewest();
        if keep > 0 && keep < fewest { Err(SnapshotError::Forgotten { keep, fewest }) } else { Ok(()) }
    }

    pub(crate) fn check_model(&self, model: &Model<'_>) -> Result<(), SnapshotError> {
        if self.model == identity(model) { Ok(()) } else { Err(SnapshotError::OtherModel) }
    }

    /// Copies the first `keep` positions, in whole tiles, into the cache of a session of the same model.
    pub(crate) fn read(&self, arch: &Arch, cache: &mut Cache<'_>, keep: usize) {
        let tiles = self.extent.of_tokens(arch).zip(self.layers(self.tiles));
        for ((layer, tile), bytes) in tiles.take_while(|((_, tile), _)| *tile < keep.div_ceil(TILE)) {
            cache.load_tile(layer, tile, bytes);
        }
        if keep > 0 {
            cache.rings.restart(self.extent.first as usize);
            // A ring's first tile can lie where its last one does.
            cache.rings.advance(keep.next_multiple_of(TILE));
        }
    }

    /// Copies the source's keys and values.
    #[cfg(feature = "cross")]
    pub(crate) fn read_source(&self, cache: &mut Cache<'_>) {
        for ((layer, tile), bytes) in self.extent.of_source().zip(self.layers(self.source_tiles)) {
            cache.load_tile(layer, tile, bytes);
        }
    }
}

/// Tokens that the model's encoder takes at a time, and its vocabulary; zeros without an encoder.
fn encoder(model: &Model<'_>) -> (u32, u32) {
    #[cfg(feature = "cross")]
    if let Some(encoder) = model.source() {
        return (encoder.arch().context, encoder.arch().vocab);
    }
    let _ = model;
    (0, 0)
}

/// Writes a snapshot of the selected branch, which holds `ids`, and of the source, of which `source` has the cache.
pub(crate) fn write(
    model: &Model<'_>,
    cache: &mut Cache<'_>,
    ids: &[u32],
    source: Option<&mut Cache<'_>>,
    source_ids: &[u32],
    out: &mut [u8],
) -> Result<usize, SnapshotError> {
    let (arch, packing) = (model.arch(), model.header().packing);
    let extent = Extent::new(arch, packing, ids.len() as u32).behind(cache.rings.oldest());
    let extent = extent.with_source(source_ids.len() as u32);
    let (expected, found) = (extent.bytes() as usize, out.len());
    let room = SnapshotError::Room { expected, found };
    let out = out.get_mut(..expected).ok_or(room)?;
    let (head, content) = out.split_first_chunk_mut::<HEAD>().ok_or(room)?;
    let (tokens, tiles) = content.split_at_mut_checked(4 * (source_ids.len() + ids.len())).ok_or(room)?;
    for (le, id) in tokens.as_chunks_mut().0.iter_mut().zip(source_ids.iter().chain(ids)) {
        *le = id.to_le_bytes();
    }
    let mut tiles = tiles.chunks_exact_mut((extent.layer_bytes as usize).max(1));
    if let Some(source) = source {
        for ((layer, tile), bytes) in extent.of_source().zip(&mut tiles) {
            source.save_tile(layer, tile, &(0..source_ids.len()), bytes);
        }
    }
    for ((layer, tile), bytes) in extent.of_tokens(arch).zip(tiles) {
        let start = if arch.windowed(layer as u32) { extent.first as usize } else { 0 };
        cache.save_tile(layer, tile, &(start..ids.len()), bytes);
    }
    let [model_head, model_content] = identity(model);
    let Extent { tokens, first, source, .. } = extent;
    let words = [VERSION, model_head, model_content, tokens, first, source, crc32(content), 0];
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
