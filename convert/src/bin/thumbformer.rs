//! `thumbformer`: runs, measures and shows models.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use thumbformer_convert::cli;

/// Run int8 transformers as a microcontroller runs them
#[derive(Parser)]
#[command(name = "thumbformer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<cli::run::Arguments>),
    Fill(Box<cli::fill::Arguments>),
    Embed(Box<cli::embed::Arguments>),
    Eval(Box<cli::eval::Arguments>),
    Inspect(cli::inspect::Arguments),
    Tokenize(cli::tokenize::Arguments),
    #[cfg(feature = "train")]
    Tokenizer(cli::tokenizer::Arguments),
    #[cfg(feature = "train")]
    Train(Box<cli::train::Arguments>),
}

fn main() -> ExitCode {
    cli::finish(match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
        Command::Fill(arguments) => cli::fill::run(&arguments),
        Command::Embed(arguments) => cli::embed::run(&arguments),
        Command::Eval(arguments) => cli::eval::run(&arguments),
        Command::Inspect(arguments) => cli::inspect::run(&arguments),
        Command::Tokenize(arguments) => cli::tokenize::run(&arguments),
        #[cfg(feature = "train")]
        Command::Tokenizer(arguments) => cli::tokenizer::run(&arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => cli::train::run(&arguments),
    })
}
