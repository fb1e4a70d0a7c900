//! `thumbformer embed MODEL TEXT…`: a vector for each text, and how close texts are.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use thumbformer::blob::header::Pooling;

use super::encoder::{all_tokens, require_encoder, texts};
use super::model::{Conversion, Execution, Opened};
use super::{print_json, say};
use crate::Result;

/// How one vector is made of a text's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolingArgument {
    /// The mean of all tokens'.
    Mean,
    /// That of the first token, BERT's `[CLS]`.
    Cls,
}

impl From<PoolingArgument> for Pooling {
    fn from(argument: PoolingArgument) -> Self {
        match argument {
            PoolingArgument::Mean => Pooling::Mean,
            PoolingArgument::Cls => Pooling::First,
        }
    }
}

impl From<Pooling> for PoolingArgument {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => PoolingArgument::Mean,
            Pooling::First => PoolingArgument::Cls,
        }
    }
}

/// Turn texts into vectors of length 1; for several, show their cosines
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, or a checkpoint (file or folder) to convert in memory
    pub model: PathBuf,
    /// The texts; lines of standard input if there are none
    pub texts: Vec<String>,
    /// How a text's vector is made of its tokens' [default: as sentence-transformers' files beside the checkpoint said,
    /// else mean]
    #[arg(long, value_enum)]
    pub pooling: Option<PoolingArgument>,
    /// Print one JSON object, with the vectors
    #[arg(long)]
    pub json: bool,
    /// How to run
    #[command(flatten)]
    pub execution: Execution,
    /// How to convert a checkpoint
    #[command(flatten)]
    pub conversion: Conversion,
}

/// The `--json` object.
#[derive(Serialize)]
struct Output {
    pooling: PoolingArgument,
    dimensions: u32,
    embeddings: Vec<Vec<f32>>,
    /// Of every text with every other.
    cosines: Vec<Vec<f64>>,
}

/// Runs the command.
///
/// # Errors
/// A model that is no encoder or has no tokenizer; no text, or one that is too long.
pub fn run(arguments: &Arguments) -> Result<()> {
    let opened = Opened::open(&arguments.model, &arguments.conversion, arguments.execution.precision, arguments.json)?;
    let loaded = opened.load(&arguments.execution)?;
    let arch = loaded.arch();
    require_encoder(arch, "embed")?;
    let tokenizer = loaded.require_tokenizer()?;
    let texts = texts(&arguments.texts)?;
    let ids = all_tokens(&tokenizer, arch, &texts)?;
    let pooling = arguments.pooling.unwrap_or_else(|| loaded.pooling().into());
    let longest = ids.iter().map(Vec::len).max().unwrap_or(1);
    let embeddings = loaded.with_encoder(longest, |encoder, _| {
        let embed = |ids: &Vec<u32>| {
            encoder.encode(ids, &[])?;
            encoder.embedding(pooling.into())
        };
        ids.iter().map(embed).collect::<Result<Vec<_>>>()
    })?;
    let cosine = |a: &Vec<f32>, b: &Vec<f32>| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let cosines: Vec<Vec<f64>> = embeddings.iter().map(|a| embeddings.iter().map(|b| cosine(a, b)).collect()).collect();
    if arguments.json {
        return print_json(&Output { pooling, dimensions: arch.dim, embeddings, cosines });
    }
    loaded.tell_notes();
    if let [only] = &embeddings[..] {
        let values: Vec<_> = only.iter().map(|x| format!("{x:.6}")).collect();
        return say!("{}", values.join(" "));
    }
    for (row, text) in cosines.iter().zip(&texts) {
        let row: Vec<_> = row.iter().map(|cosine| format!("{cosine:7.4}")).collect();
        say!("{}  {text}", row.join(" "))?;
    }
    Ok(())
}
