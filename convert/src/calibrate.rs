//! Measures the mean key of every layer and KV head.
//!
//! Keys of one head point much the same way, and softmax cannot see what they share. Subtracting the mean before keys are
//! rounded to eight bits removes most of their error. The mean is taken over keys of text that the user gives, or of
//! tokens that the model generates itself, read back from the cache of the very blob that is being made. An encoder
//! generates nothing: it is shown random tokens, whose keys share what all keys of a head share.

use thumbformer::arch::Arch;
use thumbformer::decode::argmax;
use thumbformer::kernel::pool::Pool;
use thumbformer::session::Keys;
use thumbformer::workers::Workers;
use thumbformer::{Backend, Limits, Model, Plan, Session, SessionError, math};

use crate::memory::AlignedBytes;
use crate::random::SplitMix64;
use crate::{Error, Result};

/// Tokens worth measuring on. For a large model fewer are generated, because each costs a pass over all weights.
const TOKENS: usize = 256;
const FEWEST_TOKENS: usize = 48;
/// Tokens that an encoder is shown at a time.
const ENCODED: usize = 128;
/// Weights that may be read to generate them.
const BUDGET: u64 = 20_000_000_000;

/// Where the keys come from.
#[derive(Clone, Debug)]
pub enum Text {
    /// The model talks to itself, from the seed.
    Generated {
        /// Another seed, another text.
        seed: u64,
    },
    /// These tokens, in windows as long as the context.
    Given(Vec<u32>),
}

/// The mean keys of each layer: `kv_heads · head_dim` values.
#[derive(Clone, Debug, Default)]
pub struct MeanKeys {
    /// Of a sequence's own tokens.
    pub own: Vec<Vec<f32>>,
    /// Of a source's tokens, as the decoder of an encoder-decoder sees them.
    pub cross: Vec<Vec<f32>>,
    /// Of a source's tokens in the encoder of an encoder-decoder.
    pub source: Vec<Vec<f32>>,
}

/// The mean keys of each layer, to be added to those the model already subtracts. An encoder-decoder is shown random
/// sources, or the text given, and answers them in its own words.
///
/// # Errors
/// A token outside the vocabulary, or a model too large for this machine's memory.
pub fn mean_keys(model: Model<'_>, text: &Text) -> Result<MeanKeys> {
    let arch = *model.arch();
    let context = arch.context.min(1024);
    let usage = |e: &dyn std::error::Error| Error::Usage(format!("measuring mean keys: {e}"));
    let mut plan = Plan::for_header(model.header(), Limits::new(context, 64)).map_err(|e| usage(&e))?;
    // All keys are read when a text is at its end.
    plan = plan.with_rewind(context).map_err(|e| usage(&e))?;
    let encoder = model.source();
    if let Some(encoder) = &encoder {
        let positions = encoder.arch().context.min(ENCODED as u32);
        plan = plan.with_source(encoder.header(), positions).map_err(|e| usage(&e))?;
    }
    let (mut cache, mut scratch) =
        (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
    let pool = Pool::new(rayon::current_num_threads());
    let session = Session::with(model, &plan, &mut cache, &mut scratch, Backend::detect(), pool);
    let mut session = session.map_err(|e| usage(&e))?;
    let mut sum = Sum::new(&arch);
    if let Some(encoder) = &encoder {
        return answers(&mut session, encoder.arch(), text, sum).map_err(|e| usage(&e));
    }
    let own = |sum: Sum| MeanKeys { own: sum.means(), ..MeanKeys::default() };
    if arch.is_encoder() {
        let random;
        let ids = match text {
            Text::Given(ids) => ids,
            Text::Generated { seed } => {
                random = random_tokens(&arch, *seed);
                &random
            }
        };
        for window in ids.chunks(ENCODED.min(context as usize)) {
            session
                .encode_with(window, &[], |layer, keys| sum.add_layer(layer, window.len(), keys))
                .map_err(|e| usage(&e))?;
            sum.positions += window.len();
        }
        return Ok(own(sum));
    }
    match text {
        Text::Given(ids) => {
            for window in ids.chunks(context as usize) {
                session.reset();
                session.prefill(window).map_err(|e| usage(&e))?;
                sum.add(&mut session);
            }
        }
        Text::Generated { seed } => {
            let affordable = (BUDGET / arch.parameters().max(1)) as usize;
            let tokens = TOKENS.min(affordable).max(FEWEST_TOKENS);
            own_words(&mut session, tokens, *seed, |session| sum.add(session)).map_err(|e| usage(&e))?;
        }
    }
    Ok(own(sum))
}

/// An encoder-decoder's.
fn answers<W: Workers + Sync>(
    session: &mut Session<'_, '_, W>,
    encoder: &Arch,
    text: &Text,
    mut own: Sum,
) -> Result<MeanKeys, SessionError> {
    let arch = *session.model().arch();
    let (mut cross, mut source) = (Sum::new(&arch), Sum::new(encoder));
    let (ids, seed) = match text {
        Text::Given(ids) => (ids.clone(), 0),
        Text::Generated { seed } => (random_tokens(encoder, *seed), *seed),
    };
    let affordable = (BUDGET / arch.parameters().max(1)) as usize;
    let tokens = TOKENS.min(affordable).max(FEWEST_TOKENS);
    let room = session.source_context().max(1);
    let windows = ids.len().div_ceil(room).max(1);
    for (turn, window) in (0..).zip(ids.chunks(room)) {
        session.encode_source_with(window, |layer, keys| source.add_layer(layer, window.len(), keys))?;
        source.positions += window.len();
        let mut key = vec![0f32; cross.head_dim];
        cross.add_keys(window.len(), |layer, head, position| {
            session.cached_source_key(layer, head, position, &mut key);
            key.clone()
        });
        own_words(session, (tokens / windows).max(1), seed + turn, |session| own.add(session))?;
    }
    Ok(MeanKeys { own: own.means(), cross: cross.means(), source: source.means() })
}

/// Tokens of any kind.
pub(crate) fn random_tokens(arch: &Arch, seed: u64) -> Vec<u32> {
    let mut random = SplitMix64(seed);
    let largest = arch.vocab - 1;
    (0..TOKENS).map(|_| ((random.next_f32() * arch.vocab as f32) as u32).min(largest)).collect()
}

/// Lets a model talk to itself for `tokens` tokens: sequences from its start token to an end token or a full context, each
/// token drawn with the model's own probability. `ended` sees the session at the end of each sequence, before it is reset.
/// Returns the sequences.
///
/// # Errors
/// None but the session's.
pub fn own_words<W: Workers + Sync>(
    session: &mut Session<'_, '_, W>,
    tokens: usize,
    seed: u64,
    mut ended: impl FnMut(&mut Session<'_, '_, W>),
) -> Result<Vec<Vec<u32>>, SessionError> {
    let special = *session.model().special();
    let start = special.start.or(special.end().first().copied()).unwrap_or(0);
    let mut random = SplitMix64(seed);
    let mut sequences = Vec::new();
    let mut left = tokens;
    while left > 0 {
        session.reset();
        let mut sequence = vec![start];
        loop {
            let id = sequence.last().copied().unwrap_or(start);
            let next = sample(session.step(id)?, &mut random);
            left -= 1;
            if left == 0 || special.end().contains(&next) || session.position() == session.context() {
                break;
            }
            sequence.push(next);
        }
        ended(session);
        sequences.push(sequence);
    }
    Ok(sequences)
}

/// A token with the model's own probability.
fn sample(logits: &[f32], random: &mut SplitMix64) -> u32 {
    let likeliest = argmax(logits);
    let largest = logits.get(likeliest as usize).copied().unwrap_or(0.0);
    // The runtime's exp, so that a conversion gives the same file on every machine.
    let total = math::sum(logits, |x| math::exp(x - largest));
    let mut left = random.next_f32() * total;
    for (id, &logit) in (0u32..).zip(logits) {
        left -= math::exp(logit - largest);
        if left < 0.0 {
            return id;
        }
    }
    likeliest
}

struct Sum {
    /// For each layer and head.
    keys: Vec<Vec<f64>>,
    layers: usize,
    positions: usize,
    head_dim: usize,
}

impl Sum {
    fn new(arch: &Arch) -> Self {
        let heads = (arch.layers * arch.kv_heads) as usize;
        Self {
            keys: vec![vec![0.0; arch.head_dim as usize]; heads],
            layers: arch.layers as usize,
            positions: 0,
            head_dim: arch.head_dim as usize,
        }
    }

    fn add<W: Workers + Sync>(&mut self, session: &mut Session<'_, '_, W>) {
        let mut key = vec![0f32; self.head_dim];
        self.add_keys(session.position(), |layer, head, position| {
            session.cached_key(layer, head, position, &mut key);
            key.clone()
        });
    }

    /// Adds what `key` gives for each layer, head and position.
    fn add_keys(&mut self, positions: usize, mut key: impl FnMut(u32, u32, usize) -> Vec<f32>) {
        let heads = (self.keys.len() / self.layers) as u32;
        for (i, sum) in (0u32..).zip(&mut self.keys) {
            for position in 0..positions {
                let key = key(i / heads, i % heads, position);
                sum.iter_mut().zip(&key).for_each(|(sum, key)| *sum += f64::from(*key));
            }
        }
        self.positions += positions;
    }

    /// Adds the keys of one layer of an encoder.
    fn add_layer(&mut self, layer: u32, tokens: usize, mut keys: Keys<'_, '_>) {
        let heads = self.keys.len() / self.layers;
        let mut key = vec![0f32; self.head_dim];
        for (head, sum) in (0u32..).zip(self.keys.iter_mut().skip(layer as usize * heads).take(heads)) {
            for position in 0..tokens {
                keys.read(head, position, &mut key);
                sum.iter_mut().zip(&key).for_each(|(sum, key)| *sum += f64::from(*key));
            }
        }
    }

    fn means(self) -> Vec<Vec<f32>> {
        let count = self.positions.max(1) as f64;
        let heads = self.keys.len() / self.layers;
        let layers = self.keys.chunks(heads.max(1));
        layers.map(|heads| heads.concat().iter().map(|sum| (sum / count) as f32).collect()).collect()
    }
}
