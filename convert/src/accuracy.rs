//! What int8 cost a model that was just converted, measured on what it can be shown without any data.
//!
//! A model that continues texts is compared with f32 on tokens that it makes up itself, an encoder-decoder on its own
//! answers to random sources. An encoder makes nothing up: it is shown the text that mean keys were measured on, if the
//! user gave one, else random tokens; some are hidden from it, and what it would put there is compared, or, where it
//! has no head, the vectors of these texts. Numbers for real data are the business of [`crate::evaluate`].

use serde::Serialize;
use thumbformer::blob::header::Pooling;
use thumbformer::{Limits, Model, Plan, Session};

use crate::calibrate::{self, random_tokens};
use crate::encode::{Encoded, Encoder};
use crate::engine::Branches;
use crate::evaluate::{self, Divergence, Record};
use crate::memory::AlignedBytes;
use crate::pipeline::Prepared;
use crate::reference::Reference;
use crate::{Error, Result};

/// Tokens to compare on.
pub const TOKENS: usize = 256;
/// Tokens of a text or source that is made up.
const TEXT: usize = 32;
/// Of an encoder's tokens every so-many-th is hidden: about as many as in training.
const HIDDEN_EVERY: usize = 6;
/// Not the seed that mean keys are measured with: the comparison should see new text.
const SEED: u64 = 1;

/// The int8 model against the f32 reference.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Accuracy {
    /// Of the tokens' probabilities.
    Logits(Divergence),
    /// Of the vectors of an encoder that has no head.
    Vectors(Closeness),
}

/// How alike the vectors of texts are.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Closeness {
    /// Mean cosine.
    pub cosine_mean: f64,
    /// The lowest.
    pub cosine_min: f64,
}

/// Compares a finished blob with the checkpoint it was made from; `None` if the model says nothing to compare.
/// `progress` hears of each piece of [`TOKENS`] tokens.
///
/// # Errors
/// The blob is no good, or the checkpoint has changed.
pub fn measure(prepared: &Prepared, blob: &[u8], progress: impl FnMut(usize)) -> Result<Option<Accuracy>> {
    let damaged = |e| Error::Usage(format!("the blob just made is damaged: {e}"));
    let model = Model::new(blob).map_err(damaged)?;
    let arch = *model.arch();
    // No sequence is longer than all tokens together.
    let context = arch.context.min(TOKENS as u32);
    let mut limits = Limits { logit_rows: 16, ..Limits::new(context, context.min(64)) };
    if arch.is_encoder() {
        limits = Limits::new(context, context);
    }
    let mut plan = Plan::for_header(model.header(), limits)?;
    let encoder = model.source().map(|source| (*source.arch(), *source.header()));
    if let Some((arch, header)) = &encoder {
        plan = plan.with_source(header, arch.context.min(TEXT as u32))?;
    }
    let (mut cache, mut scratch) =
        (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
    let mut session = Session::new(model, &plan, &mut cache, &mut scratch)?;
    let reference = Reference::load(&prepared.recipe, &prepared.source.checkpoint)?;
    if arch.is_encoder() {
        let given = prepared.given_tokens();
        let random;
        let tokens = match given {
            [] => {
                random = random_tokens(&arch, SEED);
                &random
            }
            given => given.get(..TOKENS).unwrap_or(given),
        };
        let texts: Vec<&[u32]> = tokens.chunks(TEXT.min(context as usize)).collect();
        let mut reference = Encoded::new(reference);
        let (session, reference): (&mut dyn Encoder, &mut dyn Encoder) = (&mut session, &mut reference);
        return match arch.headless {
            true => vectors(session, reference, &texts, prepared.pooling, progress).map(Some),
            false => hidden(session, reference, &texts, prepared.special.mask, progress).map(Some),
        };
    }
    let mut reference = Branches::new(reference);
    let report = match &encoder {
        None => {
            let sequences = calibrate::own_words(&mut session, TOKENS, SEED, |_| ())?;
            evaluate::windows(&mut session, Some(&mut reference), sequences.iter().map(Vec::as_slice), progress)?
        }
        Some((encoder, _)) => {
            let mut records = Vec::new();
            let tokens = random_tokens(encoder, SEED);
            let sources = tokens.chunks(TEXT.min(encoder.context as usize));
            let each = TOKENS / sources.len().max(1);
            for (seed, source) in (SEED..).zip(sources) {
                session.encode_source(source)?;
                let answers = calibrate::own_words(&mut session, each, seed, |_| ())?;
                records.extend(answers.into_iter().map(|ids| Record { source: source.to_vec(), ids, given: 1 }));
            }
            evaluate::records(&mut session, Some(&mut reference), &records, progress)?
        }
    };
    Ok(report.divergence.filter(|_| report.model.tokens > 0).map(Accuracy::Logits))
}

/// What both would put in place of hidden tokens. Without a token to hide them by, they are seen.
fn hidden(
    model: &mut dyn Encoder,
    reference: &mut dyn Encoder,
    texts: &[&[u32]],
    mask: Option<u32>,
    mut progress: impl FnMut(usize),
) -> Result<Accuracy> {
    let mut compared = evaluate::Comparison::default();
    for text in texts {
        let positions = (0..text.len()).skip(HIDDEN_EVERY / 2 % text.len()).step_by(HIDDEN_EVERY);
        let mut ids = text.to_vec();
        for (position, id) in ids.iter_mut().enumerate() {
            if positions.clone().any(|hidden| hidden == position) {
                *id = mask.unwrap_or(*id);
            }
        }
        model.encode(&ids, &[])?;
        reference.encode(&ids, &[])?;
        for position in positions {
            let id = text.get(position).copied().unwrap_or(0);
            compared.add(&model.token_logits(position)?, &reference.token_logits(position)?, id);
        }
        progress(text.len());
    }
    Ok(Accuracy::Logits(compared.divergence()))
}

fn vectors(
    model: &mut dyn Encoder,
    reference: &mut dyn Encoder,
    texts: &[&[u32]],
    pooling: Pooling,
    mut progress: impl FnMut(usize),
) -> Result<Accuracy> {
    let mut cosines = Vec::new();
    for text in texts {
        model.encode(text, &[])?;
        reference.encode(text, &[])?;
        let (a, b) = (model.embedding(pooling)?, reference.embedding(pooling)?);
        cosines.push(a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>());
        progress(text.len());
    }
    let cosine_mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    Ok(Accuracy::Vectors(Closeness { cosine_mean, cosine_min: cosines.iter().copied().fold(f64::INFINITY, f64::min) }))
}
