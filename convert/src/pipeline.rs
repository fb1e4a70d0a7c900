//! The conversion from end to end: find the files, understand them, quantize, measure the mean keys, check, and give the
//! result its name.
//!
//! [`Prepared::open`] reads configuration and names only; every reason to refuse a checkpoint but a bad number shows there,
//! before anything is written. [`Prepared::write`] streams the weights into a file, [`Prepared::to_memory`] into memory.

use std::collections::HashMap;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thumbformer::Model;
use thumbformer::arch::{Arch, Role, TensorSpec};
use thumbformer::blob::header::{HEADER_BYTES, Header, MAX_END_TOKENS, Pooling, SpecialTokens};
use thumbformer::packing::{Layout, Packing};
use thumbformer::tokenizer::EncodeOptions;

use crate::calibrate::{self, MeanKeys, Text};
use crate::checkpoint::Checkpoint;
use crate::memory::AlignedBytes;
use crate::output::Output;
use crate::recipe::Recipe;
use crate::source::{Overrides, Source};
use crate::tokenizer::{self, Packed};
use crate::writer::{Plan, TensorReport, Weights};
use crate::{Error, Result, family, mapped, sentence};

/// What the user can choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Layout and group.
    pub packing: Packing,
    /// Positions to keep of the model's context; all of them if `None`.
    pub context: Option<u32>,
    /// A tokenizer file or folder; looked for beside the weights if `None`.
    pub tokenizer: Option<PathBuf>,
    /// A configuration file in place of the one beside the weights.
    pub config: Option<PathBuf>,
    /// `--normalize-head`: see [`Overrides::normalize_head`].
    pub normalize_head: Option<bool>,
    /// `--alibi`: see [`Overrides::alibi`].
    pub alibi: Option<bool>,
    /// How a request is put to the model, `{prompt}` standing for the user's text; what the tokenizer says if `None`.
    pub prompt_format: Option<String>,
    /// What mean keys are measured on.
    pub calibration: Calibration,
}

/// What mean keys are measured on.
#[derive(Clone, Debug, Default)]
pub enum Calibration {
    /// Text that the model generates itself.
    #[default]
    Generated,
    /// A text file.
    File(PathBuf),
    /// Nothing: keys are not centred.
    None,
    /// Already measured, or made up: for each layer `kv_heads · head_dim` values. Of an encoder-decoder those of the
    /// decoder's own keys; others are not centred.
    Means(Vec<Vec<f32>>),
}

impl Options {
    fn overrides(&self) -> Overrides {
        Overrides { config: self.config.clone(), normalize_head: self.normalize_head, alibi: self.alibi }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            packing: Packing { layout: Layout::Rows8, group: 32 },
            context: None,
            tokenizer: None,
            config: None,
            normalize_head: None,
            alibi: None,
            prompt_format: None,
            calibration: Calibration::default(),
        }
    }
}

/// A checkpoint that has been understood; nothing is written yet.
#[derive(Debug)]
pub struct Prepared {
    /// The files.
    pub source: Source,
    /// The architecture and where its tensors come from.
    pub recipe: Recipe,
    /// The packed tokenizer.
    pub tokenizer: Option<Packed>,
    /// The encoder's packed tokenizer, of an encoder-decoder; `None` if it is the same.
    pub source_tokenizer: Option<Packed>,
    /// Tokens that start and end sequences.
    pub special: SpecialTokens,
    /// How one vector is made of a text's: an encoder's, as sentence-transformers' files beside it say.
    pub pooling: Pooling,
    /// Things the user should know, one line each.
    pub notes: Vec<String>,
    options: Options,
    /// Tokens of the text to measure mean keys on, if the user gave one.
    calibration: Vec<u32>,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every matrix, in the blob's order.
    pub tensors: Vec<TensorReport>,
    /// Bytes of the blob.
    pub bytes: u64,
}

/// Hears how far a conversion has come.
pub trait Progress: Sync {
    /// `done` of all parameters are quantized.
    fn parameters(&self, done: u64);
    /// A step without a measure begins.
    fn step(&self, what: &str);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn parameters(&self, _done: u64) {}
    fn step(&self, _what: &str) {}
}

impl Prepared {
    /// Finds and reads everything but the weights' numbers.
    ///
    /// # Errors
    /// Whatever is missing, unknown or contradictory.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let source = Source::find(path, &options.overrides())?;
        let mut recipe = family::recognise(&source)?;
        if options.prompt_format.is_some() && (recipe.arch.cross || !recipe.arch.causal) {
            let kind = if recipe.arch.cross { "an encoder-decoder" } else { "an encoder" };
            return Err(Error::Usage(format!("a prompt format is for models that continue texts, and this is {kind}")));
        }
        if let Some(context) = options.context {
            recipe.limit_context(context)?;
        }
        let mut notes = recipe.notes.clone();
        if recipe.source.is_some() {
            suppress(&source, &mut recipe, &mut notes)?;
        }
        let (tokenizer, source_tokenizer) = match &recipe.source {
            Some(encoder) => open_tokenizers(&source, &options, &recipe.arch, &encoder.arch, &mut notes)?,
            None => (open_tokenizer(&source, &options, &recipe.arch, &mut notes)?, None),
        };
        let special = special_tokens(&source, &recipe.arch, tokenizer.as_ref(), &mut notes)?;
        let calibration = match &options.calibration {
            // An encoder-decoder is shown sources.
            Calibration::File(path) => read_calibration(path, source_tokenizer.as_ref().or(tokenizer.as_ref()))?,
            _ => Vec::new(),
        };
        let pooling = if recipe.arch.causal { None } else { sentence::pooling(&source.folder)? };
        let pooling = pooling.unwrap_or_default();
        Ok(Self { source, recipe, tokenizer, source_tokenizer, special, pooling, notes, options, calibration })
    }

    /// Tokens of the text that mean keys are measured on, if the user gave one.
    pub fn given_tokens(&self) -> &[u32] {
        &self.calibration
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            arch: self.recipe.arch,
            packing: self.options.packing,
            special: self.special,
            pooling: self.pooling,
            tokenizer: self.tokenizer.as_ref().map_or(&[], |t| &t.section),
            source: self.recipe.source.as_ref().map(|recipe| {
                Box::new(Plan {
                    arch: recipe.arch,
                    packing: self.options.packing,
                    special: SpecialTokens::NONE,
                    pooling: Pooling::default(),
                    tokenizer: self.source_tokenizer.as_ref().map_or(&[], |t| &t.section),
                    source: None,
                })
            }),
        }
    }

    /// The head that the blob will have, but for its checksum.
    pub fn header(&self) -> Header {
        self.plan().header(0)
    }

    /// The same of its encoder, if it has one.
    pub fn source_header(&self) -> Option<Header> {
        self.plan().source.map(|source| source.header(0))
    }

    /// Bytes that the blob will have.
    pub fn file_len(&self) -> u64 {
        self.plan().file_len()
    }

    /// Converts into the file `path`. It appears there only when it is complete and has been checked.
    ///
    /// # Errors
    /// A number that is not finite, or what the system says of the file.
    pub fn write(&self, path: &Path, replace: bool, progress: &dyn Progress) -> Result<Outcome> {
        let plan = self.plan();
        let failed = |e| Error::io(path)(e);
        let mut output = Output::create(path, replace)?;
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, output.file());
        let tensors = self.content(&plan, &mut buffered, progress).map_err(|error| match error {
            Error::Write(error) => failed(error),
            other => other,
        })?;
        buffered.flush().map_err(failed)?;
        drop(buffered);
        let seal = |output: &mut Output| -> Result<()> {
            if let Some(source) = &plan.source {
                let offset = plan.source_offset();
                let map = mapped::map(output.file(), path)?;
                let head = source.seal(map.get(offset as usize..).unwrap_or(&[]));
                output.file().seek(SeekFrom::Start(offset)).map_err(failed)?;
                output.file().write_all(&head).map_err(failed)?;
            }
            let head = plan.seal(&mapped::map(output.file(), path)?);
            output.file().seek(SeekFrom::Start(0)).map_err(failed)?;
            output.file().write_all(&head).map_err(failed)
        };
        seal(&mut output)?;
        let means = self.mean_keys(&mapped::map(output.file(), path)?, progress)?;
        for (range, means) in mean_ranges(&plan, &means) {
            output.file().seek(SeekFrom::Start(range.start)).map_err(failed)?;
            output.file().write_all(bytemuck::cast_slice(means)).map_err(failed)?;
        }
        progress.step("checking the file");
        seal(&mut output)?;
        check(&mapped::map(output.file(), path)?)?;
        output.commit()?;
        Ok(Outcome { tensors, bytes: plan.file_len() })
    }

    /// Converts into memory.
    ///
    /// # Errors
    /// A number that is not finite.
    pub fn to_memory(&self, progress: &dyn Progress) -> Result<(AlignedBytes, Outcome)> {
        let plan = self.plan();
        let mut blob = AlignedBytes::zeroed(plan.file_len() as usize);
        let tensors = self.content(&plan, &mut Cursor::new(&mut blob[..]), progress)?;
        seal_in_memory(&plan, &mut blob);
        let means = self.mean_keys(&blob, progress)?;
        for (range, means) in mean_ranges(&plan, &means) {
            if let Some(bytes) = blob.get_mut(range.start as usize..range.end as usize) {
                bytes.copy_from_slice(bytemuck::cast_slice(means));
            }
        }
        seal_in_memory(&plan, &mut blob);
        check(&blob)?;
        Ok((blob, Outcome { tensors, bytes: plan.file_len() }))
    }

    fn content(
        &self,
        plan: &Plan<'_>,
        out: &mut (impl Write + Seek),
        progress: &dyn Progress,
    ) -> Result<Vec<TensorReport>> {
        progress.step("quantizing");
        plan.write_content(&Streamed::new(&self.recipe, &self.source.checkpoint), out, &|done| {
            progress.parameters(done)
        })
    }

    fn mean_keys(&self, blob: &[u8], progress: &dyn Progress) -> Result<MeanKeys> {
        let text = match &self.options.calibration {
            Calibration::None => return Ok(MeanKeys::default()),
            Calibration::Means(means) => {
                let arch = &self.recipe.arch;
                let width = arch.kv_width() as usize;
                if means.len() != arch.layers as usize || means.iter().any(|m| m.len() != width) {
                    let layers = arch.layers;
                    return Err(Error::Usage(format!("mean keys: expected {layers} layers of {width} values")));
                }
                return Ok(MeanKeys { own: means.clone(), ..MeanKeys::default() });
            }
            Calibration::Generated => Text::Generated { seed: 0 },
            Calibration::File(_) => Text::Given(self.calibration.clone()),
        };
        progress.step("measuring mean keys");
        let model = Model::new(blob).map_err(|e| Error::Usage(format!("the blob just made is damaged: {e}")))?;
        calibrate::mean_keys(model, &text)
    }
}

/// Makes a blob in memory, without mean keys.
///
/// # Errors
/// As [`Plan::write_content`].
pub fn in_memory(plan: &Plan<'_>, weights: &dyn Weights) -> Result<(AlignedBytes, Vec<TensorReport>)> {
    let mut blob = AlignedBytes::zeroed(plan.file_len() as usize);
    let reports = plan.write_content(weights, &mut Cursor::new(&mut blob[..]), &|_| ())?;
    seal_in_memory(plan, &mut blob);
    Ok((blob, reports))
}

fn seal_in_memory(plan: &Plan<'_>, blob: &mut [u8]) {
    if let Some(source) = &plan.source {
        // The outer head covers the inner one.
        seal_in_memory(source, &mut blob[plan.source_offset() as usize..]);
    }
    let head = plan.seal(blob);
    blob[..HEADER_BYTES].copy_from_slice(&head);
}

/// The runtime must accept what is about to get a name.
fn check(blob: &[u8]) -> Result<()> {
    Model::new(blob).map(drop).map_err(|e| Error::Usage(format!("the blob just made is damaged: {e}")))
}

/// Where the mean keys go in the file.
fn mean_ranges<'p>(plan: &'p Plan<'_>, means: &'p MeanKeys) -> impl Iterator<Item = (Range<u64>, &'p [f32])> + 'p {
    let of = |plan: &Plan<'_>, role, base: u64, means: &'p [Vec<f32>]| -> Vec<(Range<u64>, &'p [f32])> {
        let range = |layer| plan.range(role, layer).map(|range| range.start + base..range.end + base);
        (0..plan.arch.layers).filter_map(range).zip(means.iter().map(Vec::as_slice)).collect()
    };
    let mut all = of(plan, Role::KeyMean, 0, &means.own);
    all.extend(of(plan, Role::CrossKeyMean, 0, &means.cross));
    if let Some(source) = &plan.source {
        all.extend(of(source, Role::KeyMean, plan.source_offset(), &means.source));
    }
    all.into_iter()
}

/// A recipe and its checkpoint as the writer wants them.
struct Streamed<'a> {
    recipe: &'a Recipe,
    checkpoint: &'a Checkpoint,
    index: HashMap<(Role, u32), usize>,
    /// The encoder's.
    source: Option<Box<Streamed<'a>>>,
}

impl<'a> Streamed<'a> {
    fn new(recipe: &'a Recipe, checkpoint: &'a Checkpoint) -> Self {
        let index = recipe.tensors.iter().enumerate().map(|(i, t)| ((t.spec.role, t.spec.layer), i)).collect();
        let source = recipe.source.as_ref().map(|source| Box::new(Self::new(source, checkpoint)));
        Self { recipe, checkpoint, index, source }
    }
}

impl Weights for Streamed<'_> {
    fn source(&self) -> Option<&dyn Weights> {
        self.source.as_deref().map(|source| source as &dyn Weights)
    }

    fn arch(&self) -> &Arch {
        &self.recipe.arch
    }

    fn read_rows(&self, tensor: &TensorSpec, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let index = self.index.get(&(tensor.role, tensor.layer));
        match index.and_then(|&i| self.recipe.tensors.get(i)) {
            Some(tensor) => self.recipe.read_rows(self.checkpoint, tensor, rows, out),
            None => {
                Err(Error::Usage(format!("recipe: no source for {} of layer {}", tensor.role.name(), tensor.layer)))
            }
        }
    }
}

/// Keeps tokens from being generated that the configuration bans alone: a Marian's padding, which it also starts with.
fn suppress(source: &Source, recipe: &mut Recipe, notes: &mut Vec<String>) -> Result<()> {
    let banned = source.banned_tokens(recipe.arch.vocab)?;
    if !banned.is_empty() && !recipe.suppress(&banned) {
        notes.push(format!("tokens {banned:?} are banned (bad_words_ids), but the logits have no bias to do it with"));
    }
    Ok(())
}

fn read_calibration(path: &Path, tokenizer: Option<&Packed>) -> Result<Vec<u32>> {
    let Some(tokenizer) = tokenizer else {
        return Err(Error::Usage("a calibration text needs a tokenizer: none was found".into()));
    };
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let ids = tokenizer::encode(&tokenizer.tokenizer()?, &text, EncodeOptions::default())?;
    if ids.is_empty() {
        return Err(Error::format(path, "an empty file, expected text to measure mean keys on"));
    }
    Ok(ids)
}

fn open_tokenizer(source: &Source, options: &Options, arch: &Arch, notes: &mut Vec<String>) -> Result<Option<Packed>> {
    let found = match &options.tokenizer {
        Some(path) => Some(tokenizer::load(path)?),
        None => tokenizer::find(&source.folder).map(|file| tokenizer::load(&file)).transpose()?,
    };
    let Some(mut packed) = found else {
        if options.prompt_format.is_some() {
            return Err(Error::Usage("a prompt format needs a tokenizer: none was found".into()));
        }
        notes.push("no tokenizer beside the weights: the model takes and gives token ids only".into());
        return Ok(None);
    };
    packed.check_vocab(arch.vocab)?;
    if let Some(format) = &options.prompt_format {
        packed = packed.with_prompt_format(format)?;
    }
    notes.extend(packed.notes.iter().cloned());
    Ok(Some(packed))
}

/// An encoder-decoder's tokenizers, the source's only if it is another. Where both sides have a vocabulary of their own, one
/// tokenizer is neither's.
fn open_tokenizers(
    source: &Source,
    options: &Options,
    arch: &Arch,
    encoder: &Arch,
    notes: &mut Vec<String>,
) -> Result<(Option<Packed>, Option<Packed>)> {
    let pair = if options.tokenizer.is_none() { tokenizer::marian::load(&source.folder)? } else { None };
    let Some([of_source, of_target]) = pair else {
        if !encoder.shared_embedding {
            if options.tokenizer.is_some() {
                return Err(Error::Usage("--tokenizer: source and answer have a vocabulary each".into()));
            }
            notes.push("a vocabulary for each side: the model takes and gives token ids only".into());
            return Ok((None, None));
        }
        return Ok((open_tokenizer(source, options, arch, notes)?, None));
    };
    of_source.check_vocab(encoder.vocab)?;
    of_target.check_vocab(arch.vocab)?;
    notes.extend(of_source.notes.iter().chain(&of_target.notes).cloned());
    Ok((Some(of_target), Some(of_source)))
}

/// Start and end tokens: what the configuration says, else what the tokenizer says.
fn special_tokens(
    source: &Source,
    arch: &Arch,
    tokenizer: Option<&Packed>,
    notes: &mut Vec<String>,
) -> Result<SpecialTokens> {
    let named = source.special_tokens(arch.vocab)?;
    let mask = tokenizer.and_then(|packed| packed.mask).filter(|_| !arch.causal);
    let tokenizer = tokenizer.map(Packed::tokenizer).transpose()?;
    let start = named.bos.or(tokenizer.and_then(|t| t.bos()));
    let start = if arch.cross { named.decoder_start.or(start).or(named.pad) } else { start };
    let mut end = if named.eos.is_empty() { tokenizer.and_then(|t| t.eos()).into_iter().collect() } else { named.eos };
    if end.is_empty() && arch.causal {
        notes
            .push("no end token is named: generation stops at the token limit, a stop string or a full context".into());
    }
    if end.len() > MAX_END_TOKENS {
        notes.push(format!("{} end tokens are named, the first {MAX_END_TOKENS} are kept", end.len()));
        end.truncate(MAX_END_TOKENS);
    }
    let mut special = SpecialTokens::new(start, &end).ok_or_else(|| Error::Usage("too many end tokens".into()))?;
    special.mask = mask;
    special.second = named.forced_bos.filter(|_| arch.cross);
    Ok(special)
}
