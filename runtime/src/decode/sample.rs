//! Sampling: a random token, likelier ones more often, reproducible bit for bit on every target.
//!
//! In the order of transformers: penalties, temperature, top-k, top-p, min-p; then one random number. The row of logits is
//! the only memory besides a list of the tokens seen: the vocabulary is neither sorted nor copied. Probabilities become
//! integers early, eˣ·2³¹ rounded down with the likeliest token at 2³¹, so that all sums are exact and their order is
//! nobody's business; what is less than 2⁻³¹ times as likely as the likeliest is never drawn. Of equal tokens at an edge
//! the lower ids stay.

use super::argmax;
use super::random::Random;
use super::select::{key, threshold};
use crate::math;

/// How to sample. The default changes nothing and draws from the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it: below 1 makes likely tokens likelier. 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that together have this probability (Holtzman et al., 2019, arXiv:1904.09751); 1 for all.
    pub top_p: f32,
    /// Only tokens at least so likely, in proportion to the likeliest (Nguyen et al., 2024, arXiv:2407.01082); 0 for all.
    pub min_p: f32,
    /// Divides positive logits of tokens of the prompt and the answer, multiplies negative ones (Keskar et al., 2019,
    /// arXiv:1909.05858); 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens of the answer, once for each token; 0 for none.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens of the answer as often as they are there; 0 for none.
    pub frequency_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl Sampling {
    /// The default, for constants.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
    };

    /// Some penalty has an effect: the sampler needs room for the tokens seen.
    pub fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<(), SamplingError> {
        let settings = [
            ("temperature", self.temperature >= 0.0, self.temperature, "a number that is not negative"),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0, self.top_p, "a number above 0 and at most 1"),
            ("min_p", self.min_p >= 0.0 && self.min_p <= 1.0, self.min_p, "a number from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0.0, self.repetition_penalty, "a number above 0"),
            ("presence_penalty", true, self.presence_penalty, "a number"),
            ("frequency_penalty", true, self.frequency_penalty, "a number"),
        ];
        match settings.into_iter().find(|(_, good, found, _)| !good || !found.is_finite()) {
            Some((setting, _, found, expected)) => Err(SamplingError::Setting { setting, found, expected }),
            None => Ok(()),
        }
    }
}

/// Why sampling cannot start or go on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting makes no sense.
    Setting {
        /// Which.
        setting: &'static str,
        /// Its value.
        found: f32,
        /// What it must be.
        expected: &'static str,
    },
    /// More different tokens have been seen than there is room for.
    Room {
        /// How many fit.
        room: usize,
    },
    /// No logit is a number above −∞.
    Nothing,
}

impl core::fmt::Display for SamplingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            SamplingError::Setting { setting, found, expected } => {
                write!(f, "{setting}: found {found}, expected {expected}")
            }
            SamplingError::Room { room } => {
                write!(f, "penalties: more than {room} different tokens, and no room to remember them")
            }
            SamplingError::Nothing => write!(f, "there is no token to choose: every logit is minus infinity"),
        }
    }
}

impl core::error::Error for SamplingError {}

/// A token that the penalties know, and how often it is in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    id: u32,
    answered: u32,
}

/// Draws tokens.
///
/// ```
/// use thumbformer::decode::{Sampler, Sampling, Seen};
/// # use thumbformer::Session;
/// # #[derive(Debug)] struct Failed;
/// # impl<T: std::error::Error> From<T> for Failed { fn from(_: T) -> Self { Failed } }
/// fn answer(session: &mut Session<'_, '_>, prompt: &[u32], answer: &mut [u32]) -> Result<(), Failed> {
///     let settings = Sampling { temperature: 0.8, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::default() };
///     let mut seen = [Seen::default(); 129]; // one more than the context has positions is always enough
///     let mut sampler = Sampler::new(settings, 42, &mut seen)?;
///     sampler.prompt(prompt)?;
///     session.prefill(prompt)?;
///     for slot in answer {
///         *slot = sampler.choose(session.logits_mut())?;
///         session.step(*slot)?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Sampler<'b> {
    settings: Sampling,
    random: Random,
    /// The first `len`, ascending by id.
    seen: &'b mut [Seen],
    len: usize,
}

/// The weight of the likeliest token.
const ONE: f32 = (1u32 << 31) as f32;

impl<'b> Sampler<'b> {
    /// A sampler whose choices follow from `seed`. `seen` is room for as many different tokens as penalties shall know,
    /// and may be empty where there are none ([`Sampling::penalizes`]).
    ///
    /// # Errors
    /// A setting that makes no sense.
    pub fn new(settings: Sampling, seed: u64, seen: &'b mut [Seen]) -> Result<Self, SamplingError> {
        settings.check()?;
        Ok(Self { settings, random: Random::new(seed), seen, len: 0 })
    }

    /// Tells of tokens that the answer continues.
    ///
    /// # Errors
    /// No room for them.
    pub fn prompt(&mut self, ids: &[u32]) -> Result<(), SamplingError> {
        ids.iter().try_for_each(|&id| self.see(id, 0))
    }

    /// Chooses a token of the answer. The logits are used up.
    ///
    /// # Errors
    /// No room to remember it; no token to choose.
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<u32, SamplingError> {
        self.penalize(logits);
        let id = if self.settings.temperature == 0.0 {
            let id = argmax(logits);
            // NaN is not above either.
            if !logits.get(id as usize).is_some_and(|&logit| logit > f32::NEG_INFINITY) {
                return Err(SamplingError::Nothing);
            }
            id
        } else {
            let weights = self.weights(logits).ok_or(SamplingError::Nothing)?;
            draw(weights, &mut self.random)
        };
        self.see(id, 1)?;
        Ok(id)
    }

    fn see(&mut self, id: u32, answered: u32) -> Result<(), SamplingError> {
        if !self.settings.penalizes() {
            return Ok(());
        }
        let known = self.seen.get_mut(..self.len).unwrap_or(&mut []);
        match known.binary_search_by_key(&id, |seen| seen.id) {
            Ok(at) => {
                if let Some(seen) = known.get_mut(at) {
                    seen.answered = seen.answered.saturating_add(answered);
                }
            }
            Err(at) => {
                let room = self.seen.len();
                let tail = self.seen.get_mut(at..=self.len).ok_or(SamplingError::Room { room })?;
                tail.rotate_right(1);
                if let Some(first) = tail.first_mut() {
                    *first = Seen { id, answered };
                }
                self.len += 1;
            }
        }
        Ok(())
    }

    fn penalize(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.settings;
        for seen in self.seen.iter().take(self.len) {
            let Some(logit) = logits.get_mut(seen.id as usize) else { continue };
            if *logit < 0.0 {
                *logit *= repetition_penalty;
            } else {
                *logit /= repetition_penalty;
            }
            if seen.answered > 0 {
                *logit -= presence_penalty + frequency_penalty * seen.answered as f32;
            }
        }
    }

    /// Turns logits into integers that are proportional to probabilities, 0 for what is filtered out. `None` if there is
    /// no likeliest token.
    fn weights<'l>(&self, logits: &'l mut [f32]) -> Option<&'l [u32]> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let largest = math::max(logits, f32::NEG_INFINITY, |x| x);
        if largest == f32::NEG_INFINITY {
            return None;
        }
        for logit in logits.iter_mut().filter(|logit| logit.is_nan()) {
            *logit = f32::NEG_INFINITY;
        }
        if (1..logits.len()).contains(&(top_k as usize)) {
            let edge = threshold(logits.iter().map(|&logit| (key(logit), 1)), top_k.into());
            keep(logits, f32::NEG_INFINITY, edge, |&logit| (key(logit), 1));
        }
        let factor = core::f32::consts::LOG2_E / temperature;
        for logit in logits.iter_mut() {
            // The likeliest has the full weight even where the factor is infinite.
            let weight = if *logit == largest { 1.0 } else { math::exp2((*logit - largest) * factor) };
            *logit = f32::from_bits((weight * ONE) as u32);
        }
        let weights: &mut [u32] = bytemuck::cast_slice_mut(logits);
        if top_p < 1.0 {
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            // Exact but for bits of top_p below 2⁻³¹.
            let target = ((u128::from(total) * u128::from((top_p * ONE) as u32)) >> 31) as u64;
            let item = |&weight: &u32| (weight, u64::from(weight));
            let edge = threshold(weights.iter().map(item), target.max(1));
            keep(weights, 0, edge, item);
        }
        let least = (min_p * ONE) as u32;
        weights.iter_mut().filter(|weight| **weight < least).for_each(|weight| *weight = 0);
        Some(weights)
    }
}

/// Keeps what lies above the edge, and of what lies at it the first that complete the target.
fn keep<T: Copy>(items: &mut [T], nothing: T, (edge, mut target): (u32, u64), item: impl Fn(&T) -> (u32, u64)) {
    for slot in items {
        let (key, weight) = item(slot);
        if key < edge || (key == edge && target == 0) {
            *slot = nothing;
        } else if key == edge {
            target = target.saturating_sub(weight);
        }
    }
}

/// An index, as often as its weight is part of the sum.
fn draw(weights: &[u32], random: &mut Random) -> u32 {
    let mut left = random.below(weights.iter().map(|&weight| u64::from(weight)).sum());
    for (id, &weight) in (0u32..).zip(weights) {
        if left < u64::from(weight) {
            return id;
        }
        left -= u64::from(weight);
    }
    // The number is below the sum, so an index was found.
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const PLAIN: Sampling = Sampling::PLAIN;

    /// The tokens that can be drawn.
    fn kept(settings: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut logits = logits.to_vec();
        let sampler = Sampler::new(settings, 0, &mut []).unwrap();
        let weights = sampler.weights(&mut logits).unwrap();
        (0..weights.len()).filter(|&id| weights[id] > 0).collect()
    }

    #[test]
    fn equal_tokens_at_an_edge_stay_by_their_ids() {
        let logits = [1.0, 2.0, 1.0, 1.0, 2.0, 1.0];
        assert_eq!(kept(Sampling { top_k: 1, ..PLAIN }, &logits), [1]);
        assert_eq!(kept(Sampling { top_k: 4, ..PLAIN }, &logits), [0, 1, 2, 4]);
        assert_eq!(kept(Sampling { top_k: 6, ..PLAIN }, &logits), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(Sampling { top_k: 900, ..PLAIN }, &logits), [0, 1, 2, 3, 4, 5]);
        // Four likely ones of which each has a quarter: exactly two make a half, and a little more takes a third.
        let quarters = [0.0, f32::NEG_INFINITY, 0.0, 0.0, 0.0];
        assert_eq!(kept(Sampling { top_p: 0.5, ..PLAIN }, &quarters), [0, 2]);
        assert_eq!(kept(Sampling { top_p: 0.501, ..PLAIN }, &quarters), [0, 2, 3]);
        assert_eq!(kept(Sampling { top_p: f32::MIN_POSITIVE, ..PLAIN }, &quarters), [0]);
        assert_eq!(kept(Sampling { min_p: 1.0, ..PLAIN }, &quarters), [0, 2, 3, 4]);
    }

    #[test]
    fn the_coldest_temperature_is_the_likeliest_token() {
        for temperature in [0.0, f32::MIN_POSITIVE, 1e-45, 1e-6] {
            let mut sampler = Sampler::new(Sampling { temperature, ..PLAIN }, 5, &mut []).unwrap();
            assert_eq!(sampler.choose(&mut [0.5, -3.0, 0.75, 0.74]), Ok(2), "{temperature}");
        }
    }

    #[test]
    fn penalties_by_hand() {
        let settings = Sampling { repetition_penalty: 2.0, presence_penalty: 0.5, frequency_penalty: 0.25, ..PLAIN };
        let mut seen = [Seen::default(); 4];
        let mut sampler = Sampler::new(settings, 0, &mut seen).unwrap();
        sampler.prompt(&[3, 1, 3, 900]).unwrap();
        // Only what is finite can be chosen: token 1, then token 2, twice.
        let only = |id: usize| core::array::from_fn::<f32, 5, _>(|i| if i == id { 1.0 } else { f32::NEG_INFINITY });
        for id in [1, 2, 2] {
            assert_eq!(sampler.choose(&mut only(id)), Ok(id as u32));
        }
        let mut logits = [1.0, 1.0, -1.0, 3.0, -2.0];
        sampler.penalize(&mut logits);
        assert_eq!(logits, [1.0, 0.5 - 0.75, -2.0 - 1.0, 1.5, -2.0]);
        // Four are remembered: 1, 2, 3, 900.
        assert_eq!(sampler.choose(&mut only(4)), Err(SamplingError::Room { room: 4 }));
        assert_eq!(sampler.choose(&mut only(3)), Ok(3));
    }

    #[test]
    fn nothing_to_choose_is_said() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(Sampling { temperature, ..PLAIN }, 5, &mut []).unwrap();
            for mut logits in [[f32::NEG_INFINITY; 3], [f32::NAN; 3]] {
                assert_eq!(sampler.choose(&mut logits), Err(SamplingError::Nothing));
            }
            assert_eq!(sampler.choose(&mut []), Err(SamplingError::Nothing));
            assert_eq!(sampler.choose(&mut [f32::NAN, f32::INFINITY, 5.0]), Ok(1));
        }
    }

    #[test]
    fn impossible_settings_are_named() {
        let error = |settings: Sampling| match Sampler::new(settings, 0, &mut []).map(drop) {
            Err(SamplingError::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(error(Sampling { temperature: bad, ..PLAIN }), "temperature");
            assert_eq!(error(Sampling { top_p: bad, ..PLAIN }), "top_p");
            assert_eq!(error(Sampling { min_p: bad, ..PLAIN }), "min_p");
            assert_eq!(error(Sampling { repetition_penalty: bad, ..PLAIN }), "repetition_penalty");
        }
        assert_eq!(error(Sampling { presence_penalty: f32::NAN, ..PLAIN }), "presence_penalty");
        assert_eq!(error(Sampling { frequency_penalty: f32::INFINITY, ..PLAIN }), "frequency_penalty");
    }

    /// Pins what a seed means, for every later version and target: a token takes one 64-bit number of the published
    /// generator, and the tokens share its range in the order of their ids.
    #[test]
    fn a_seed_gives_these_tokens() {
        // Weights 2³¹, 2³⁰, 2²⁹, 2²⁹: shares of a half, a quarter and two eighths.
        let logits = [0.0, -core::f32::consts::LN_2, -2.0 * core::f32::consts::LN_2, -2.0 * core::f32::consts::LN_2];
        let mut random = Random::new(42);
        let mut sampler = Sampler::new(PLAIN, 42, &mut []).unwrap();
        for draw in 0..1000 {
            let point = random.next_u64();
            let expected = match point >> 60 {
                0..8 => 0,
                8..12 => 1,
                12..14 => 2,
                _ => 3,
            };
            // Away from the borders, so that the last bits of exp do not matter.
            let id = sampler.choose(&mut logits.clone()).unwrap();
            assert!(id == expected || (point >> 40).wrapping_add(2) % (1 << 20) < 4, "draw {draw}: {id}");
        }
    }
}
