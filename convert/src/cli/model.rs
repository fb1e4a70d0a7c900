//! How commands name a model and how it is run: a `.thumb` file, or a checkpoint that is converted in memory.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use thumbformer::arch::Arch;
use thumbformer::blob::header::{Pooling, SpecialTokens};
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::tokenizer::Tokenizer;
use thumbformer::{Backend, Limits, Model, Plan, Session};

use super::{Bar, bytes, counted, tell};
use crate::encode::{Encoded, Encoder};
use crate::engine::{Branches, Engine};
use crate::mapped;
use crate::memory::AlignedBytes;
use crate::pipeline::{Calibration, Options, Prepared};
use crate::reference::Reference;
use crate::{Error, Result};

/// Columns that share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// A scale for each 32 columns.
    #[default]
    #[value(name = "32")]
    #[serde(rename = "32")]
    G32,
    /// A scale for each 64 columns.
    #[value(name = "64")]
    #[serde(rename = "64")]
    G64,
    /// One scale for each row.
    Row,
}

impl Group {
    /// Columns that share a scale; 0 for whole rows, as in [`Packing`].
    pub fn columns(self) -> u32 {
        match self {
            Group::G32 => 32,
            Group::G64 => 64,
            Group::Row => 0,
        }
    }
}

/// What the blob is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// AVX2, VNNI, NEON: desktops, servers, phones.
    #[default]
    Simd,
    /// Cortex-M4, M7, M33 with the DSP extension.
    Dsp,
}

/// Which numbers a model computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// The runtime: what a device computes.
    Int8,
    /// The unquantized reference; needs the checkpoint.
    F32,
}

/// How a checkpoint is to be converted.
#[derive(Args, Clone, Debug, Default)]
pub struct Conversion {
    /// Columns that share a scale
    #[arg(long, value_enum, default_value_t)]
    pub group: Group,
    /// Instruction set to lay the weights out for; every target can run every file
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// Positions to keep of the model's context
    #[arg(long, value_name = "N")]
    pub context: Option<u32>,
    /// Tokenizer: tokenizer.json, tokenizer.model, meta.pkl, or a folder with one; looked for beside the weights otherwise
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Configuration in place of the config.json beside the weights
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Baichuan: whether the head's rows are brought to unit length, as in Baichuan 2 [default: as the vocabulary or the
    /// class says]
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    pub normalize_head: Option<bool>,
    /// Baichuan: whether positions enter by ALiBi, as in the models with 13 billion parameters [default: as the sizes say]
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    pub alibi: Option<bool>,
    /// How a request is put to the model, e.g. '<|request|>{prompt}<|call|>'; taken from the tokenizer otherwise
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Text to measure mean keys on; the model's own words otherwise
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
}

/// What to do with a model that has no tokenizer.
const WITHOUT_TOKENIZER: &str =
    "convert its checkpoint with --tokenizer, or give token ids, which `run` and `eval` take with --ids";

impl Conversion {
    /// The first option that was given, as the user spells it.
    fn given(&self) -> Option<&'static str> {
        let options = [
            ("--group", self.group != Group::default()),
            ("--target", self.target != Target::default()),
            ("--context", self.context.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--config", self.config.is_some()),
            ("--normalize-head", self.normalize_head.is_some()),
            ("--alibi", self.alibi.is_some()),
            ("--format", self.format.is_some()),
            ("--calibrate", self.calibrate.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// The same without what only int8 weights can tell.
    pub fn unquantized(&self) -> Self {
        let Self { group, target, calibrate, .. } = Self::default();
        Self { group, target, calibrate, ..self.clone() }
    }

    /// The first option that was given and only int8 weights can tell.
    fn quantizing(&self) -> Option<&'static str> {
        let options = [
            ("--group", self.group != Group::default()),
            ("--target", self.target != Target::default()),
            ("--calibrate", self.calibrate.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// The library's options.
    pub fn options(&self) -> Options {
        let layout = match self.target {
            Target::Simd => Layout::Rows8,
            Target::Dsp => Layout::Dsp,
        };
        Options {
            packing: Packing { layout, group: self.group.columns() },
            context: self.context,
            tokenizer: self.tokenizer.clone(),
            config: self.config.clone(),
            normalize_head: self.normalize_head,
            alibi: self.alibi,
            prompt_format: self.format.clone(),
            calibration: self.calibrate.clone().map_or(Calibration::Generated, Calibration::File),
        }
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".into()),
    }
}

/// How a model is to be run.
#[derive(Args, Clone, Copy, Debug)]
pub struct Execution {
    /// Threads to compute with [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: Option<u32>,
    /// int8 as a device computes it, or the unquantized reference
    #[arg(long, value_enum, default_value = "int8")]
    pub precision: Precision,
    /// Inner loops to use [default: the fastest of this processor]; the result does not depend on it
    #[arg(long, value_parser = backend, value_name = "NAME")]
    pub kernel: Option<Backend>,
}

fn backend(name: &str) -> Result<Backend, String> {
    let names: Vec<_> = Backend::available().map(Backend::name).collect();
    Backend::available().find(|b| b.name() == name).ok_or_else(|| format!("this processor has: {}", names.join(", ")))
}

impl Execution {
    /// Threads to use.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(num_cpus::get_physical, |n| n as usize)
    }
}

/// A model's bytes, not checked yet.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Finished(Mmap),
    Converted(AlignedBytes, Prepared),
    /// Only the f32 reference will be used.
    Checkpoint(Prepared),
}

/// Whether a path names a finished blob: by its first bytes, whatever its name.
pub fn is_blob(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    let named = path.extension().is_some_and(|e| e == "thumb") && path.is_file();
    (read.is_ok() && magic == thumbformer::blob::header::MAGIC) || named
}

impl Opened {
    /// Maps a `.thumb` file, or converts a checkpoint in memory.
    ///
    /// # Errors
    /// The runtime refuses the file, or the converter the checkpoint; an option that has no effect on a `.thumb` file,
    /// or on weights that are not quantized.
    pub fn open(path: &Path, conversion: &Conversion, precision: Precision, quiet: bool) -> Result<Self> {
        if is_blob(path) {
            if precision == Precision::F32 {
                return Err(Error::Usage(format!(
                    "{} holds int8 weights only: --precision f32 needs the checkpoint it was made from",
                    path.display()
                )));
            }
            if let Some(option) = conversion.given() {
                let path = path.display();
                return Err(Error::Usage(format!("{path} is converted already: {option} is for checkpoints")));
            }
            return Ok(Self { path: path.into(), content: Content::Finished(mapped::open(path)?) });
        }
        if let Some(option) = conversion.quantizing().filter(|_| precision == Precision::F32) {
            return Err(Error::Usage(format!("{option}: nothing is quantized in f32")));
        }
        let prepared = Prepared::open(path, conversion.options())?;
        let content = match precision {
            Precision::F32 => Content::Checkpoint(prepared),
            Precision::Int8 => {
                let bar = Bar::new(prepared.recipe.parameters(), "parameters", quiet);
                Content::Converted(prepared.to_memory(&bar)?.0, prepared)
            }
        };
        Ok(Self { path: path.into(), content })
    }

    /// Checks the model, with as many threads as it is to run on. Only here: it takes longer than anything else before the
    /// first token.
    ///
    /// # Errors
    /// The runtime refuses the file; inner loops were named, and the f32 reference has none to choose from.
    pub fn load(&self, execution: &Execution) -> Result<Loaded<'_>> {
        let threads = execution.threads();
        let (bytes, notes) = match &self.content {
            Content::Finished(bytes) => (&bytes[..], &[][..]),
            Content::Converted(bytes, prepared) => (&bytes[..], &prepared.notes[..]),
            Content::Checkpoint(_) if execution.kernel.is_some() => {
                return Err(Error::Usage("--kernel: in f32 there is only one way to compute".into()));
            }
            Content::Checkpoint(prepared) => {
                let (engines, notes) = (Engines::F32(prepared), &prepared.notes);
                return Ok(Loaded { path: &self.path, engines, notes, threads, backend: None });
            }
        };
        let pool = Pool::new(threads);
        let model = Model::with_workers(bytes, &pool);
        let model = model.map_err(|source| Error::Blob { path: self.path.clone(), source })?;
        let engines = Engines::Int8(Box::new(model), pool);
        Ok(Loaded { path: &self.path, engines, notes, threads, backend: execution.kernel })
    }
}

/// A model, ready to run.
#[derive(Debug)]
pub struct Loaded<'a> {
    path: &'a Path,
    engines: Engines<'a>,
    notes: &'a [String],
    threads: usize,
    backend: Option<Backend>,
}

/// What a model can run on.
#[derive(Debug)]
enum Engines<'a> {
    Int8(Box<Model<'a>>, Pool),
    F32(&'a Prepared),
}

impl<'a> Loaded<'a> {
    /// The tokenizer, if the model has one.
    ///
    /// # Errors
    /// The packed tokenizer is damaged.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer<'a>>> {
        match &self.engines {
            Engines::Int8(model, _) => Ok(model.tokenizer().copied()),
            Engines::F32(prepared) => prepared.tokenizer.as_ref().map(|t| t.tokenizer()).transpose(),
        }
    }

    /// The tokenizer, or an error that says what to do without.
    ///
    /// # Errors
    /// There is none.
    pub fn require_tokenizer(&self) -> Result<Tokenizer<'a>> {
        self.tokenizer()?
            .ok_or_else(|| Error::Usage(format!("{} has no tokenizer: {WITHOUT_TOKENIZER}", self.path.display())))
    }

    /// The tokenizer for the sources of an encoder-decoder, or an error that says what to do without.
    ///
    /// # Errors
    /// There is none.
    pub fn require_source_tokenizer(&self) -> Result<Tokenizer<'a>> {
        let found = match &self.engines {
            Engines::Int8(model, _) => model.source_tokenizer().copied(),
            Engines::F32(prepared) => match &prepared.source_tokenizer {
                Some(tokenizer) => Some(tokenizer.tokenizer()?),
                None => return self.require_tokenizer(),
            },
        };
        found.map_or_else(|| self.require_tokenizer(), Ok)
    }

    /// What every answer of an encoder-decoder starts with.
    pub fn answer_start(&self) -> Vec<u32> {
        let special = self.special();
        special.start.into_iter().chain(special.second).collect()
    }

    /// Number of tokens that the encoder of an encoder-decoder knows.
    pub fn source_vocab(&self) -> u32 {
        let vocab = match &self.engines {
            Engines::Int8(model, _) => model.source().map(|source| source.arch().vocab),
            Engines::F32(prepared) => prepared.recipe.source.as_ref().map(|source| source.arch.vocab),
        };
        vocab.unwrap_or(0)
    }

    /// The most tokens of a source.
    pub fn source_context(&self) -> usize {
        let context = match &self.engines {
            Engines::Int8(model, _) => model.source().map(|source| source.arch().context),
            Engines::F32(prepared) => prepared.recipe.source.as_ref().map(|source| source.arch.context),
        };
        context.unwrap_or(0) as usize
    }

    /// Tokens that start and end sequences.
    pub fn special(&self) -> &SpecialTokens {
        match &self.engines {
            Engines::Int8(model, _) => model.special(),
            Engines::F32(prepared) => &prepared.special,
        }
    }

    /// The architecture.
    pub fn arch(&self) -> &Arch {
        match &self.engines {
            Engines::Int8(model, _) => model.arch(),
            Engines::F32(prepared) => &prepared.recipe.arch,
        }
    }

    /// Number of tokens that the model knows.
    pub fn vocab(&self) -> u32 {
        self.arch().vocab
    }

    /// How a text's vectors are pooled.
    pub fn pooling(&self) -> Pooling {
        match &self.engines {
            Engines::Int8(model, _) => model.header().pooling,
            Engines::F32(prepared) => prepared.pooling,
        }
    }

    /// Says what the conversion assumed or left out.
    pub fn tell_notes(&self) {
        self.notes.iter().for_each(|note| tell!("note: {note}"));
    }

    /// The bytes of the tokenizer's section; none without a tokenizer.
    pub fn tokenizer_section(&self) -> &'a [u8] {
        match &self.engines {
            Engines::Int8(model, _) => model.tokenizer_section(),
            Engines::F32(prepared) => prepared.tokenizer.as_ref().map_or(&[], |tokenizer| &tokenizer.section),
        }
    }

    /// Runs `f` with an engine of the kind asked for, that can do what is needed.
    ///
    /// # Errors
    /// What `f` returns; a model that does not fit this machine.
    pub fn with_engine<T>(&self, needs: Needs, f: impl FnOnce(&mut dyn Engine, &Running) -> Result<T>) -> Result<T> {
        let threads = self.threads;
        let (model, workers) = match &self.engines {
            Engines::Int8(model, workers) => (model, workers),
            Engines::F32(prepared) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))?;
                let branches = Branches::new(Reference::load(&prepared.recipe, &prepared.source.checkpoint)?);
                let running = Running { kernel: "f32 reference", threads, cache_bytes: None, scratch_bytes: None };
                return f(&mut InPool { branches, pool }, &running);
            }
        };
        let backend = self.backend.unwrap_or_else(Backend::detect);
        let context = model.arch().context;
        let plan = Plan::for_model(model, Limits { context, chunk: CHUNK, logit_rows: needs.logit_rows })?
            .with_branches(needs.branches, needs.tail)?
            .with_rewind(needs.rewind)?;
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::with(**model, &plan, &mut cache, &mut scratch, backend, workers)?;
        let running = Running {
            kernel: backend.name(),
            threads,
            cache_bytes: Some(plan.cache_bytes()),
            scratch_bytes: Some(plan.scratch_bytes()),
        };
        f(&mut session, &running)
    }
}

impl Loaded<'_> {
    /// Runs `f` with an encoder that has room for texts of so many tokens.
    ///
    /// # Errors
    /// What `f` returns; a model that does not fit this machine.
    pub fn with_encoder<T: Send>(
        &self,
        tokens: usize,
        f: impl FnOnce(&mut dyn Encoder, &Running) -> Result<T> + Send,
    ) -> Result<T> {
        let threads = self.threads;
        let (model, workers) = match &self.engines {
            Engines::Int8(model, workers) => (model, workers),
            Engines::F32(prepared) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))?;
                let mut encoder = Encoded::new(Reference::load(&prepared.recipe, &prepared.source.checkpoint)?);
                let running = Running { kernel: "f32 reference", threads, cache_bytes: None, scratch_bytes: None };
                return pool.install(|| f(&mut encoder, &running));
            }
        };
        let backend = self.backend.unwrap_or_else(Backend::detect);
        let context = u32::try_from(tokens).unwrap_or(u32::MAX).clamp(1, model.arch().context);
        let plan = Plan::for_header(model.header(), Limits::new(context, context))?;
        let (mut cache, mut scratch) =
            (AlignedBytes::zeroed(plan.cache_bytes()), AlignedBytes::zeroed(plan.scratch_bytes()));
        let mut session = Session::with(**model, &plan, &mut cache, &mut scratch, backend, workers)?;
        let (cache_bytes, scratch_bytes) = (Some(plan.cache_bytes()), Some(plan.scratch_bytes()));
        f(&mut session, &Running { kernel: backend.name(), threads, cache_bytes, scratch_bytes })
    }
}

/// Tokens of a prompt that hosts process at a time.
pub const CHUNK: u32 = 128;

/// What an engine must be able to do.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Positions whose logits it computes at a time.
    pub logit_rows: u32,
    /// Sequences that go on side by side.
    pub branches: u32,
    /// Positions that they go on for.
    pub tail: u32,
    /// Positions that it goes back by.
    pub rewind: u32,
}

impl Needs {
    /// One sequence, and the logits of so many positions at a time.
    pub fn rows(logit_rows: u32) -> Self {
        Self { logit_rows, branches: 1, tail: 1, rewind: 0 }
    }
}

/// How a model is being run, for statistics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Running {
    /// Inner loops.
    pub kernel: &'static str,
    /// Threads.
    pub threads: usize,
    /// Bytes of the KV cache, if it is the runtime's.
    pub cache_bytes: Option<usize>,
    /// Bytes of scratch memory.
    pub scratch_bytes: Option<usize>,
}

impl Running {
    /// Says it on standard error.
    pub fn print(&self) {
        if let (Some(cache), Some(scratch)) = (self.cache_bytes, self.scratch_bytes) {
            tell!("memory: {} cache + {} scratch", bytes(cache as u64), bytes(scratch as u64));
        }
        tell!("kernel: {}, {}", self.kernel, counted(self.threads, "thread"));
    }
}

/// The reference with its own number of threads.
struct InPool {
    branches: Branches,
    pool: rayon::ThreadPool,
}

impl InPool {
    /// Runs `f` on the pool. What it shows, with an index, is shown to `visit` on this thread, afterwards.
    fn show(
        &mut self,
        f: impl FnOnce(&mut Branches, &mut dyn FnMut(usize, &[f32])) -> Result<()> + Send,
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let vocab = self.arch().vocab as usize;
        let (mut rows, branches) = (Vec::new(), &mut self.branches);
        self.pool.install(|| f(branches, &mut |_, logits| rows.extend_from_slice(logits)))?;
        rows.chunks(vocab).enumerate().for_each(|(i, logits)| visit(i, logits));
        Ok(())
    }
}

impl Engine for InPool {
    fn arch(&self) -> &thumbformer::arch::Arch {
        self.branches.arch()
    }

    fn context(&self) -> usize {
        self.branches.context()
    }

    fn position(&self) -> usize {
        self.branches.position()
    }

    fn reset(&mut self) {
        self.branches.reset();
    }

    fn encode_source(&mut self, ids: &[u32]) -> Result<()> {
        self.pool.install(|| self.branches.encode_source(ids))
    }

    fn rewind_room(&self) -> usize {
        self.branches.rewind_room()
    }

    fn rewind(&mut self, position: usize) -> Result<()> {
        self.branches.rewind(position)
    }

    fn prefill(&mut self, ids: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        self.pool.install(|| self.branches.prefill(ids, logits))
    }

    fn score(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.show(|branches, visit| branches.score(ids, visit), visit)
    }

    fn branch(&mut self, parents: &[u32]) -> Result<()> {
        self.branches.branch(parents)
    }

    fn step_branches(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.show(|branches, visit| branches.step_branches(ids, visit), visit)
    }

    fn snapshot(&mut self, source: &[u32], ids: &[u32]) -> Result<Vec<u8>> {
        self.branches.snapshot(source, ids)
    }

    fn restore(&mut self, snapshot: &[u8], source: &[u32], prompt: &[u32]) -> Result<usize> {
        self.branches.restore(snapshot, source, prompt)
    }
}
