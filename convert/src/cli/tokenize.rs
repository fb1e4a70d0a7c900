//! `thumbformer tokenize MODEL < text`: tokens of lines, and back.

use std::path::PathBuf;

use clap::Args;

use super::model::is_blob;
use crate::tokenizer;
use crate::{Error, Result, mapped};

/// Show the tokens of each line of standard input
#[derive(Args, Debug)]
pub struct Arguments {
    /// A .thumb file, a folder, a tokenizer.json, a tokenizer.model, or a meta.pkl
    pub tokenizer: PathBuf,
    /// Every input line is a JSON string, every output line the JSON list of its ids
    #[arg(long)]
    pub json_lines: bool,
    /// The other way: ids to text
    #[arg(long)]
    pub decode: bool,
    /// Leave out the tokens that the tokenizer puts around every text, such as <s>
    #[arg(long)]
    pub no_special: bool,
}

/// Runs the command.
///
/// # Errors
/// stub
pub fn run(_arguments: &Arguments) -> Result<()> {
    Ok(())
}
