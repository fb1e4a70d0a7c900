//! What goes through the model in one pass.

use std::sync::Arc;

use super::ops::Segments;

/// Sequences of tokens, one behind the other. There is no padding, and no attention across their borders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All tokens.
    pub ids: Arc<[u32]>,
    /// Where each sequence begins and ends.
    pub segments: Arc<Segments>,
}

impl Tokens {
    /// Packs sequences.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            lengths.push(sequence.len());
        }
        Self { ids: ids.into(), segments: Arc::new(Segments::of(lengths)) }
    }
}

/// Sequences with what their tokens should predict.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model reads; of an encoder-decoder, the decoder.
    pub text: Tokens,
    /// What the encoder of an encoder-decoder reads: a sequence for each of the decoder's.
    pub source: Option<Tokens>,
    /// Tokens of the text that predict something, where not all do.
    pub chosen: Option<Arc<[u32]>>,
    /// What each of these tokens should predict.
    pub targets: Arc<[u32]>,
    /// How much each prediction counts.
    pub weights: Arc<[f32]>,
}

/// A text with some of its tokens changed, which are to be guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    /// The text as the model sees it.
    pub ids: Vec<u32>,
    /// Positions to guess, and the tokens that belong there.
    pub hidden: Vec<(usize, u32)>,
}

impl Batch {
    /// Sequences of tokens that predict the next one. A sequence has one token more than it has places: the last one is
    /// predicted only. `weights` has a weight for each prediction.
    pub fn next_token<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [f32])>) -> Self {
        let (mut given, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, of_predictions) in sequences {
            let Some((_, all_but_last)) = sequence.split_last() else { continue };
            given.push(all_but_last);
            targets.extend_from_slice(&sequence[1..]);
            weights.extend_from_slice(of_predictions);
        }
        Self { text: Tokens::of(given), source: None, chosen: None, targets: targets.into(), weights: weights.into() }
    }

    /// Texts whose changed tokens are to be guessed.
    pub fn masked(texts: &[Masked]) -> Self {
        let (mut chosen, mut targets, mut begin) = (Vec::new(), Vec::new(), 0);
        for text in texts {
            chosen.extend(text.hidden.iter().map(|&(position, _)| (begin + position) as u32));
            targets.extend(text.hidden.iter().map(|&(_, id)| id));
            begin += text.ids.len();
        }
        Self {
            text: Tokens::of(texts.iter().map(|text| text.ids.as_slice())),
            source: None,
            weights: vec![1.0; targets.len()].into(),
            chosen: Some(chosen.into()),
            targets: targets.into(),
        }
    }

    /// Sources and answers. The decoder is given what it should have said so far: `start`, then the answer but for its
    /// last token (teacher forcing).
    pub fn answers<'a>(pairs: impl IntoIterator<Item = (&'a [u32], &'a [u32])>, start: u32) -> Self {
        let (mut sources, mut given, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (source, answer) in pairs {
            let Some((_, all_but_last)) = answer.split_last() else { continue };
            sources.push(source);
            given.push([&[start], all_but_last].concat());
            targets.extend_from_slice(answer);
        }
        Self {
            text: Tokens::of(given.iter().map(Vec::as_slice)),
            source: Some(Tokens::of(sources)),
            chosen: None,
            weights: vec![1.0; targets.len()].into(),
            targets: targets.into(),
        }
    }

    /// The sum of the weights.
    pub fn weight(&self) -> f32 {
        self.weights.iter().sum()
    }

    /// Tokens that go through the model, those of sources included.
    pub fn tokens(&self) -> usize {
        self.text.ids.len() + self.source.as_ref().map_or(0, |source| source.ids.len())
    }
}
