//! `convert MODEL`: a checkpoint to a `.thumb` file, and what it will cost.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Serialize;
use thumbformer::arch::{Activation, Arch, LayerSet, Norm, Position, Role, TensorSpec};
use thumbformer::blob::header::Header;
use thumbformer::tokenizer::{Kind, Tokenizer};
use thumbformer::{Limits, Plan};

use super::model::{Conversion, is_blob};
use super::{Bar, bytes, count, counted, print_json, say};
use crate::accuracy::{self, Accuracy};
use crate::boards::{BOARDS, CHUNK, Fit};
use crate::pipeline::{Outcome, Prepared, Progress};
use crate::writer::TensorReport;
use crate::{Error, Result, mapped};

/// Quantize a trained transformer into one int8 file for the thumbformer runtime
#[derive(Debug, Parser)]
#[command(name = "convert", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// Checkpoint: a .safetensors, .pt or .bin file, one of several shards, or a folder
    pub model: PathBuf,
    /// File to write [default: the checkpoint's name with .thumb, beside it]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to convert
    #[command(flatten)]
    pub conversion: Conversion,
    /// Answer this prompt with the finished file
    #[arg(long = "try", value_name = "PROMPT", conflicts_with = "json")]
    pub prompt: Option<String>,
    /// Replace the output file if it exists and is a .thumb file
    #[arg(long)]
    pub force: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  convert model.safetensors                 writes model.thumb beside it
  convert my-llama/ --target dsp            for a Cortex-M, from a Hugging Face folder
  convert ckpt.pt -o shakespeare.thumb      nanoGPT, with meta.pkl beside it
  convert my-llama/ --try \"Hello\"          and hear the result at once";

/// Runs the command.
///
/// # Errors
/// Whatever the conversion reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    if is_blob(&arguments.model) {
        let path = arguments.model.display();
        return Err(Error::Usage(format!("{path} is a .thumb file already: run it with `thumbformer run {path}`")));
    }
    let prepared = Prepared::open(&arguments.model, arguments.conversion.options())?;
    if prepared.tokenizer.is_none() && arguments.prompt.is_some() {
        return Err(Error::Usage("--try needs a tokenizer: none was found, name one with --tokenizer".into()));
    }
    if !prepared.recipe.arch.causal && arguments.prompt.is_some() {
        // As `fill` would, but before anything is written.
        if prepared.recipe.arch.headless {
            return Err(Error::Usage(
                "--try: the model has no head to fill in tokens with: use `thumbformer embed`".into(),
            ));
        }
        if prepared.special.mask.is_none() {
            return Err(Error::Usage("--try: the model's tokenizer names no mask token to be filled in".into()));
        }
    }
    let output = arguments.output.clone().unwrap_or_else(|| default_output(&prepared));
    // Above all not the checkpoint.
    if arguments.force && output.is_file() && !is_blob(&output) {
        return Err(Error::format(output, "exists and is no .thumb file: --force does not replace it"));
    }
    let silent = arguments.quiet || arguments.json;
    let bar = Bar::new(prepared.recipe.parameters(), "parameters", silent);
    let outcome = prepared.write(&output, arguments.force, &bar)?;
    drop(bar);
    let blob = mapped::open(&output)?;
    let unreadable = |source| Error::Blob { path: output.clone(), source };
    let header = Header::read(&blob).map_err(unreadable)?;
    let encoder = header.read_source(&blob).transpose().map_err(unreadable)?;
    let accuracy = if arguments.quiet && !arguments.json { None } else { measure(&prepared, &output, silent)? };
    let summary = Summary::new(&prepared, &outcome, (&header, encoder.as_ref()), &output, accuracy);
    match (arguments.json, arguments.quiet) {
        (true, _) => print_json(&summary),
        (_, true) => Ok(()),
        _ => summary.print(),
    }?;
    match &arguments.prompt {
        None if silent => Ok(()),
        None => {
            let prompt = if prepared.tokenizer.is_some() { "\"…\"" } else { "--ids …" };
            let arch = &prepared.recipe.arch;
            let command = match (arch.causal || prepared.tokenizer.is_none(), arch.headless) {
                (true, _) => "run",
                (false, false) => "fill",
                (false, true) => "embed",
            };
            say!("\nTry it:  thumbformer {command} {} {prompt}", output.display())
        }
        Some(prompt) => {
            if !silent {
                say!("\n> {prompt}")?;
            }
            if !prepared.recipe.arch.causal {
                return super::fill::run(&super::fill::Arguments::answer(output, prompt.clone()));
            }
            super::run::run(&super::run::Arguments::answer(output, prompt.clone(), !silent))
        }
    }
}

/// `model.safetensors` becomes `model.thumb`, and so do the shards of one model.
fn default_output(prepared: &Prepared) -> PathBuf {
    let path = prepared.source.checkpoint.path();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(name.strip_suffix(".index.json").unwrap_or(&name)).with_extension("thumb")
}

/// Models up to this size are compared with f32 at once; for larger ones, `thumbformer eval --reference` does it when
/// there is memory for all of their weights.
const COMPARED_PARAMETERS: u64 = 50_000_000;

fn measure(prepared: &Prepared, output: &Path, quiet: bool) -> Result<Option<Accuracy>> {
    if prepared.recipe.parameters() > COMPARED_PARAMETERS {
        return Ok(None);
    }
    let bar = Bar::new(accuracy::TOKENS as u64, "tokens", quiet);
    bar.step("comparing with f32");
    accuracy::measure(prepared, &mapped::open(output)?, |n| bar.advance(n as u64))
}

/// What a conversion tells its user.
#[derive(Debug, Serialize)]
struct Summary {
    output: PathBuf,
    family: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoder: Option<String>,
    parameters: u64,
    bytes: u64,
    bits_per_weight: f64,
    layout: &'static str,
    group: u32,
    tokenizer: Option<String>,
    ram: Vec<Ram>,
    boards: Vec<BoardFit>,
    worst_tensors: Vec<TensorError>,
    /// Against f32; absent for large models.
    accuracy: Option<Accuracy>,
    notes: Vec<String>,
}

/// RAM for one context length.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ram {
    /// Positions.
    pub context: u32,
    /// Bytes of keys and values.
    pub cache_bytes: usize,
    /// Bytes of scratch memory, for prompts in chunks of eight tokens.
    pub scratch_bytes: usize,
}

/// Whether a model fits a board.
#[derive(Clone, Debug, Serialize)]
pub struct BoardFit {
    board: &'static str,
    chip: &'static str,
    fits: bool,
    /// Positions that fit.
    context: Option<u32>,
    verdict: String,
}

#[derive(Clone, Debug, Serialize)]
struct TensorError {
    tensor: String,
    sqnr_db: f64,
}

impl Summary {
    fn new(
        prepared: &Prepared,
        outcome: &Outcome,
        (header, encoder): (&Header, Option<&Header>),
        output: &Path,
        accuracy: Option<Accuracy>,
    ) -> Self {
        let arch = &prepared.recipe.arch;
        let weights: u64 = outcome.tensors.iter().map(|t| u64::from(t.spec.rows) * u64::from(t.spec.cols)).sum();
        let mut worst: Vec<&TensorReport> = outcome.tensors.iter().collect();
        worst.sort_by(|a, b| a.error.sqnr_db().total_cmp(&b.error.sqnr_db()));
        let error = |t: &&TensorReport| TensorError { tensor: tensor_name(&t.spec), sqnr_db: t.error.sqnr_db() };
        Self {
            output: output.into(),
            family: prepared.recipe.family.into(),
            architecture: architecture(arch),
            encoder: encoder.map(|encoder| architecture(&encoder.arch)),
            parameters: prepared.recipe.parameters(),
            bytes: outcome.bytes,
            bits_per_weight: outcome.bytes as f64 * 8.0 / weights.max(1) as f64,
            layout: header.packing.layout.name(),
            group: header.packing.group,
            tokenizer: prepared.tokenizer.as_ref().and_then(|t| t.tokenizer().ok()).map(|t| tokenizer(&t)),
            ram: ram(header, encoder),
            boards: boards(header, encoder),
            worst_tensors: worst.iter().take(3).map(error).collect(),
            accuracy,
            notes: prepared.notes.clone(),
        }
    }

    fn print(&self) -> Result<()> {
        say!("{}", self.output.display())?;
        say!("  model       {}: {}", self.family, self.architecture)?;
        if let Some(encoder) = &self.encoder {
            say!("              {encoder}")?;
        }
        say!(
            "  size        {} parameters in {} ({:.2} bits a weight, {}, {})",
            count(self.parameters),
            bytes(self.bytes),
            self.bits_per_weight,
            self.layout,
            group(self.group)
        )?;
        say!("  tokenizer   {}", self.tokenizer.as_deref().unwrap_or("none"))?;
        print_ram(&self.ram)?;
        print_boards(&self.boards)?;
        let worst: Vec<_> = self.worst_tensors.iter().map(|t| format!("{} {:.1} dB", t.tensor, t.sqnr_db)).collect();
        match &self.accuracy {
            Some(Accuracy::Logits(d)) => {
                let (kl, top1) = (d.kl_mean, 100.0 * d.top1_agreement);
                say!(
                    "  accuracy    KL divergence from f32 {kl:.6}, the same likeliest token in {top1:.1} % of positions"
                )?;
            }
            Some(Accuracy::Vectors(c)) => {
                say!("  accuracy    cosine to the vectors of f32 {:.5}, at least {:.5}", c.cosine_mean, c.cosine_min)?;
            }
            None => {}
        }
        say!("  least exact {}", worst.join(", "))?;
        self.notes.iter().try_for_each(|note| say!("  note        {note}"))
    }
}

/// RAM at the model's context, and at lengths below it; of an encoder-decoder with sources as long.
pub fn ram(header: &Header, encoder: Option<&Header>) -> Vec<Ram> {
    let context = header.arch.context;
    let mut lengths: Vec<u32> = [context / 8, context / 4, context / 2].into_iter().filter(|&n| n >= 32).collect();
    lengths.push(context);
    let plan = |context: u32| {
        let plan = Plan::for_header(header, Limits::new(context, CHUNK)).ok()?;
        match encoder {
            Some(encoder) => plan.with_source(encoder, context.min(encoder.arch.context)).ok(),
            None => Some(plan),
        }
    };
    let ram = |context| {
        let plan = plan(context)?;
        Some(Ram { context, cache_bytes: plan.cache_bytes(), scratch_bytes: plan.scratch_bytes() })
    };
    lengths.into_iter().filter_map(ram).collect()
}

pub(super) fn print_ram(ram: &[Ram]) -> Result<()> {
    for (i, ram) in ram.iter().enumerate() {
        say!(
            "  {:<11} {:>9} at context {:<6} ({} cache + {} scratch)",
            if i == 0 { "RAM" } else { "" },
            bytes((ram.cache_bytes + ram.scratch_bytes) as u64),
            ram.context,
            bytes(ram.cache_bytes as u64),
            bytes(ram.scratch_bytes as u64)
        )?;
    }
    Ok(())
}

/// Which boards the model fits, and how. `source` is the head of its encoder, if it has one.
pub fn boards(header: &Header, source: Option<&Header>) -> Vec<BoardFit> {
    let fit = |board: &crate::boards::Board| {
        let fit = board.fit(header, source);
        let verdict = match fit {
            Fit::Context(context) if context == header.arch.context => "fits".into(),
            Fit::Context(context) => format!("fits with a context of {context}"),
            Fit::Flash { missing } => format!("too large: {} of flash are missing", bytes(missing)),
            Fit::Ram { missing } => format!("too large: {} of RAM are missing", bytes(missing)),
        };
        let context = match fit {
            Fit::Context(context) => Some(context),
            _ => None,
        };
        BoardFit { board: board.name, chip: board.chip, fits: context.is_some(), context, verdict }
    };
    BOARDS.iter().map(fit).collect()
}

pub(super) fn print_boards(boards: &[BoardFit]) -> Result<()> {
    for (i, board) in boards.iter().enumerate() {
        let label = if i == 0 { "boards" } else { "" };
        say!("  {label:<11} {:<14} {} ({})", board.board, board.verdict, board.chip)?;
    }
    Ok(())
}

pub(super) fn group(group: u32) -> String {
    if group == 0 { "a scale a row".into() } else { format!("group {group}") }
}

/// The architecture in one line.
pub fn architecture(a: &Arch) -> String {
    let norm = match a.norm {
        Norm::Layer => "LayerNorm",
        Norm::Rms => "RMSNorm",
    };
    let position = match a.position {
        Position::Learned => "learned positions".into(),
        Position::Rope if a.rotary_dim == a.head_dim => "RoPE".into(),
        Position::Rope => format!("RoPE on {} of {}", a.rotary_dim, a.head_dim),
        Position::Alibi => "ALiBi".into(),
        Position::Relative => format!("relative positions up to {}", a.relative_distance),
    };
    let activation = match a.activation {
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::Silu => "SiLU",
        Activation::Relu => "ReLU",
    };
    let heads = if a.heads == a.kv_heads {
        format!("{} of {}", counted(a.heads as usize, "head"), a.head_dim)
    } else {
        format!("{} heads of {} over {}", a.heads, a.head_dim, counted(a.kv_heads as usize, "KV head"))
    };
    let listed: Vec<String> = (0..a.layers)
        .filter(|&layer| a.window_list != LayerSet::NONE && a.windowed(layer))
        .map(|layer| layer.to_string())
        .collect();
    let from = if !listed.is_empty() {
        format!(" in layers {}", listed.join(", "))
    } else if a.window_from > 0 {
        format!(" from layer {} on", a.window_from)
    } else {
        String::new()
    };
    let window = match (a.window, a.global_every) {
        (0, _) => String::new(),
        (window, 0) => format!(" in windows of {window}{from}"),
        (window, every) => format!(" in windows of {window}{from}, in every {every}. layer over all"),
    };
    format!(
        "{}{}{}, dim {}, {heads}{}{window}, {}{activation} MLP {}, {norm}{}, {position}{}, vocabulary {} ({} head), context {}",
        match (a.causal, a.cross) {
            (false, _) => "encoder, ",
            (true, true) => "decoder of a source, ",
            (true, false) => "",
        },
        counted(a.layers as usize, "layer"),
        if a.is_parallel() { " in parallel" } else { "" },
        a.dim,
        if a.head_norm.kind().is_some() { " (normalised)" } else { "" },
        if a.gated { "gated " } else { "" },
        a.hidden,
        match (a.post_norm, a.normed_residual, a.final_norm) {
            (true, ..) => " behind sublayers",
            (_, true, _) => " of the residual stream",
            (_, _, false) => " but none at the end",
            _ => "",
        },
        if a.token_types > 1 { format!(", {} token types", a.token_types) } else { String::new() },
        a.vocab,
        match (a.headless, a.tied_head) {
            (true, _) => "no",
            (_, true) => "tied",
            _ => "own",
        },
        a.context
    )
}

/// The tokenizer in one line.
pub fn tokenizer(t: &Tokenizer<'_>) -> String {
    let header = t.header();
    let kind = header.kind.name();
    // Elsewhere, the merges are only how tokens are found.
    let merges = match header.kind {
        Kind::ByteBpe | Kind::CharBpe => format!(", {} merges", header.merges),
        Kind::Characters | Kind::WordPiece | Kind::Unigram => String::new(),
    };
    let text = |ids: &mut dyn Iterator<Item = u32>| {
        ids.map(|id| String::from_utf8_lossy(t.token_bytes(id)).into_owned()).collect::<String>()
    };
    let prompt = t.prompt_format().map(|(mut before, mut after)| {
        format!(", prompts as {:?}", format!("{}{{prompt}}{}", text(&mut before), text(&mut after)))
    });
    format!("{kind}, {} tokens{merges}{}", t.vocab(), prompt.unwrap_or_default())
}

/// A tensor's name as users read it.
pub fn tensor_name(spec: &TensorSpec) -> String {
    match spec.role {
        Role::TokenEmbedding
        | Role::PositionEmbedding
        | Role::RopeFrequencies
        | Role::WindowRopeFrequencies
        | Role::AlibiSlopes
        | Role::FinalNorm
        | Role::FinalNormBias
        | Role::Head
        | Role::HeadBias
        | Role::TokenTypeEmbedding
        | Role::EmbeddingNorm
        | Role::EmbeddingNormBias
        | Role::RelativeBias
        | Role::HeadTransform
        | Role::HeadTransformBias
        | Role::HeadTransformNorm
        | Role::HeadTransformNormBias => spec.role.name().into(),
        role => format!("layer {} {}", spec.layer, role.name()),
    }
}
