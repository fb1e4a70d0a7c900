//! From files to examples: what each objective makes of a text or of pairs, and what the user is told about them.

use std::path::Path;

use thumbformer::tokenizer::Tokenizer;

use super::batch::Batch;
use super::corpus::{self, Counting};
use super::examples::{Examples, Pair, Sequence};
use super::masking::Masking;
use super::pairs;
use super::run::Observer;
use super::settings::{Objective, Settings};
use super::tokenizers::Tokenizers;
use super::vocabulary::Marked;
use crate::cli::counted;
use crate::tokenizer::Packed;
use crate::{Error, Result};

/// Tokens that a validation reads at most.
const VALIDATION: usize = 1 << 16;

/// What a run works on, ready to train on.
#[derive(Debug)]
pub struct Prepared {
    /// To train on.
    pub train: Examples,
    /// To validate with.
    pub valid: Vec<Batch>,
    /// CRC-32 of all tokens.
    pub fingerprint: u32,
}

/// Reads `data`, and what it is validated with, for sequences of at most `context` tokens.
///
/// # Errors
/// Data that cannot be read, or are too few.
pub fn prepare(
    settings: &Settings,
    data: &Path,
    context: usize,
    tokenizers: &Tokenizers,
    marked: &Marked,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let Tokenizers { packed, source } = tokenizers;
    let tokenizer = packed.tokenizer()?;
    let of_sources = source.as_ref().map_or(Ok(tokenizer), Packed::tokenizer)?;
    let fingerprint = crc32fast::Hasher::new();
    let mut reader =
        Reader { settings, context, packed, tokenizer, of_sources, marked, observer, fingerprint, files: None };
    let (train, valid) = match &settings.valid {
        Some(path) => (reader.examples(data, "")?, reader.examples(path, "validation ")?),
        None => reader.examples(data, "")?.split(settings.valid_share),
    };
    reader.check(data, &train, &valid)?;
    let (examples, tokens) = (train.count(), train.tokens());
    observer.note(&match (&train, &valid) {
        (Examples::Stream { .. }, valid) => format!(
            "{}: {tokens} tokens to train on, {examples} blocks of {context} in an epoch; {} to validate with",
            counted(reader.files.unwrap_or(0), "file"),
            valid.tokens()
        ),
        (_, valid) => {
            format!("{} to train on, {tokens} tokens; {} to validate with", counted(examples, "example"), valid.count())
        }
    });
    let valid = valid.validation(settings.batch, VALIDATION);
    Ok(Prepared { train, valid, fingerprint: reader.fingerprint.finalize() })
}

/// What reading depends on.
struct Reader<'r> {
    settings: &'r Settings,
    context: usize,
    packed: &'r Packed,
    tokenizer: Tokenizer<'r>,
    of_sources: Tokenizer<'r>,
    marked: &'r Marked,
    observer: &'r dyn Observer,
    fingerprint: crc32fast::Hasher,
    /// Text files to train on.
    files: Option<usize>,
}

impl<'r> Reader<'r> {
    /// The examples of a file or folder; `part` says in notes what they are for.
    fn examples(&mut self, path: &Path, part: &str) -> Result<Examples> {
        let mut counting = Counting::new(self.tokenizer);
        let (examples, what) = match self.settings.objective {
            Objective::Lm => (self.stream(path, &mut counting)?, "text"),
            Objective::Sft => (self.conversations(path, &mut counting)?, "pairs"),
            Objective::Mlm => (self.texts(path, &mut counting)?, "text"),
            Objective::Seq2seq => (self.sources(path, &mut counting)?, "pairs"),
        };
        if let Some(note) = counting.note(&format!("{part}{what}")) {
            self.observer.note(&note);
        }
        Ok(examples)
    }

    /// Remembers tokens, so that a run is resumed with the same.
    fn sign(&mut self, ids: &[u32]) {
        self.fingerprint.update(bytemuck::cast_slice(ids));
    }

    /// Documents packed into one stream of tokens; where the vocabulary has one, a token ends each.
    fn stream(&mut self, path: &Path, counting: &mut Counting<'_>) -> Result<Examples> {
        let documents = corpus::read(path)?;
        let mut ids = Vec::new();
        for document in &documents {
            ids.extend(counting.encode(&document.text, false)?);
            ids.extend(self.marked.end);
        }
        self.sign(&ids);
        self.files.get_or_insert(documents.len());
        Ok(Examples::Stream { ids, length: self.context })
    }

    fn conversations(&mut self, path: &Path, counting: &mut Counting<'_>) -> Result<Examples> {
        if self.marked.end.is_none() {
            let note = "the vocabulary has no token that ends an answer: the model will not learn where to stop";
            self.observer.note(note);
        }
        let (tokenizer, end) = (self.tokenizer, self.marked.end);
        let read = |conversation: &pairs::Conversation| -> Result<Sequence> {
            pairs::sequence(conversation, &tokenizer, counting, end, self.settings.prompt_weight)
        };
        let sequences = pairs::read(path)?.iter().map(read).collect::<Result<Vec<_>>>()?;
        sequences.iter().for_each(|sequence| self.sign(&sequence.ids));
        let fitting = self.fitting(path, sequences, |sequence| sequence.weights.len())?;
        Ok(Examples::Sequences(fitting))
    }

    /// A text a line; what is longer than the context is cut.
    fn texts(&mut self, path: &Path, counting: &mut Counting<'_>) -> Result<Examples> {
        let mask = self.packed.mask.ok_or_else(|| {
            Error::format(&self.packed.path, "the tokenizer names no mask token, expected one such as [MASK]")
        })?;
        let ordinary = (0..self.packed.vocab).filter(|&id| !self.tokenizer.is_special(id)).collect();
        let masking = Masking { mask, ordinary, share: self.settings.mask_share };
        let (before, after) = self.tokenizer.template();
        let (before, after): (Vec<u32>, Vec<u32>) = (before.collect(), after.collect());
        let room = self.context.saturating_sub(before.len() + after.len());
        if room == 0 {
            let expected = before.len() + after.len() + 1;
            return Err(Error::Usage(format!("--context {}: expected at least {expected}", self.context)));
        }
        let documents = corpus::read(path)?;
        let (mut texts, mut cut, mut pieces, mut blank) = (Vec::new(), 0, 0, 0);
        let lines = documents.iter().flat_map(|document| document.text.lines()).filter(|line| !line.trim().is_empty());
        for line in lines {
            let bare = counting.encode(line, false)?;
            if bare.len() > room {
                cut += 1;
                pieces += bare.len().div_ceil(room);
            }
            let whole = texts.len();
            let around = |part: &[u32]| [&before, part, &after].concat();
            texts.extend(bare.chunks(room).map(around).filter(|ids| masking.can_mask(ids)));
            blank += usize::from(texts.len() == whole);
        }
        let context = self.context;
        if cut > 0 {
            let cut = counted(cut, "line");
            self.observer.note(&format!("{cut} longer than the context of {context} tokens: cut into {pieces} texts"));
        }
        if blank > 0 {
            self.observer.note(&format!("{} with nothing to hide: left out", counted(blank, "line")));
        }
        if texts.is_empty() {
            return Err(Error::format(path, "no text with a token to hide, expected a text a line"));
        }
        texts.iter().for_each(|ids| self.sign(ids));
        Ok(Examples::Masked { texts, masking })
    }

    fn sources(&mut self, path: &Path, counting: &mut Counting<'_>) -> Result<Examples> {
        let missing = |what: &str| {
            let problem = format!("the tokenizer has no token that {what} an answer, expected one such as </s>");
            Error::format(&self.packed.path, problem)
        };
        let end = self.marked.end.ok_or_else(|| missing("ends"))?;
        let start = self.marked.start.ok_or_else(|| missing("begins"))?;
        let mut found = Vec::new();
        let mut counting_sources = Counting::new(self.of_sources);
        for conversation in pairs::read(path)? {
            let line = conversation.line;
            let [(source, answer)] = conversation.turns.as_slice() else {
                let problem =
                    format!("line {line}: {} turns, expected a source and its answer", conversation.turns.len());
                return Err(Error::format(path, problem));
            };
            let source = counting_sources.encode(source, true)?;
            if source.is_empty() {
                return Err(Error::format(path, format!("line {line}: no token of the source is in the vocabulary")));
            }
            let mut answer = counting.encode(answer, false)?;
            answer.push(end);
            self.sign(&source);
            self.sign(&answer);
            found.push(Pair { source, answer });
        }
        counting.add(&counting_sources);
        let pairs = self.fitting(path, found, |pair| pair.source.len().max(pair.answer.len()))?;
        Ok(Examples::Pairs { pairs, start })
    }

    /// The examples whose length fits the context; the others are counted.
    fn fitting<T>(&self, path: &Path, examples: Vec<T>, length: impl Fn(&T) -> usize) -> Result<Vec<T>> {
        let (all, context) = (examples.len(), self.context);
        let fitting: Vec<T> = examples.into_iter().filter(|example| length(example) <= context).collect();
        if fitting.is_empty() {
            let problem =
                format!("none of {all} examples fits the context of {context} tokens: give a larger --context");
            return Err(Error::format(path, problem));
        }
        let skipped = all - fitting.len();
        if skipped > 0 {
            let path = path.display();
            self.observer.note(&format!(
                "{path}: {skipped} of {all} examples are longer than the context of {context} tokens and were skipped"
            ));
        }
        Ok(fitting)
    }

    /// Refuses too few examples.
    fn check(&self, data: &Path, train: &Examples, valid: &Examples) -> Result<()> {
        let validates = self.settings.valid.is_some() || self.settings.valid_share > 0.0;
        if let Examples::Stream { ids, .. } = train {
            let (least, found) = (self.context + 1, ids.len());
            if found < least {
                return Err(Error::format(
                    data,
                    format!(
                        "{found} tokens to train on, expected at least {least}, the context and one more: give more \
                         text or a smaller --context"
                    ),
                ));
            }
            if valid.tokens() < 2 && validates {
                let path = self.settings.valid.as_deref().unwrap_or(data);
                let found = valid.tokens();
                return Err(Error::format(path, format!("{found} tokens to validate with, expected at least 2")));
            }
        } else if valid.count() == 0 && validates {
            let problem = "1 example, expected at least 2: one to train on and one to validate with; \
                           --valid-share 0 validates with none";
            return Err(Error::format(data, problem));
        }
        Ok(())
    }
}
