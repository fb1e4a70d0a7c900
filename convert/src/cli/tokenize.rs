//! `thumbformer tokenize MODEL < text`: tokens of lines, and back.

use std::path::PathBuf;

use clap::Args;
use thumbformer::Model;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};

use super::model::is_blob;
use crate::tokenizer::{self, CommandOptions};
use crate::{Error, Result, mapped};

/// Show the tokens of each line of standard input
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, a folder, a tokenizer.json, a tokenizer.model, a vocab.txt, or a meta.pkl
    pub tokenizer: PathBuf,
    /// Every input line is a JSON string, every output line the JSON list of its ids; a list of two strings is a pair, its
    /// output an object with `ids` and `segments`
    #[arg(long)]
    pub json_lines: bool,
    /// The other way: ids to text
    #[arg(long)]
    pub decode: bool,
    /// With the tokenizer for the sources of an encoder-decoder, where sources and answers have one each
    #[arg(long)]
    pub source: bool,
    /// Leave out the tokens that the tokenizer puts around every text, such as `<s>`; with --decode, all special tokens
    #[arg(long)]
    pub no_special: bool,
}

/// Runs the command.
///
/// # Errors
/// No tokenizer there, or a line that is not what it should be.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.tokenizer;
    let options = CommandOptions {
        json_lines: arguments.json_lines,
        decode: arguments.decode,
        skip_special: arguments.no_special,
        encode: EncodeOptions { add_special_tokens: !arguments.no_special, ..EncodeOptions::default() },
    };
    let command = |tokenizer: &Tokenizer<'_>| {
        let (input, output) = (std::io::stdin().lock(), std::io::BufWriter::new(std::io::stdout().lock()));
        tokenizer::command(tokenizer, input, output, options)
    };
    let one = || Error::Usage(format!("--source: {} has one tokenizer, for all texts", path.display()));
    if is_blob(path) {
        let blob = mapped::open(path)?;
        let model = Model::new(&blob).map_err(|source| Error::Blob { path: path.clone(), source })?;
        if arguments.source && model.source().is_none() {
            return Err(one());
        }
        let found = if arguments.source { model.source_tokenizer() } else { model.tokenizer() };
        return command(found.ok_or_else(|| Error::format(path, "the model has no tokenizer"))?);
    }
    let pair = if path.is_dir() { tokenizer::marian::load(path)? } else { None };
    let packed = match pair {
        Some([of_source, of_target]) => {
            if arguments.source {
                of_source
            } else {
                of_target
            }
        }
        None if arguments.source => return Err(one()),
        None => tokenizer::load(path)?,
    };
    command(&packed.tokenizer()?)
}
