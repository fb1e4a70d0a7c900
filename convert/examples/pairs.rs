//! Pairs for first experiments with an encoder-decoder: words to copy, words to reverse, dates to write as ISO 8601 has
//! them.
//!
//! ```sh
//! cargo run --release --example pairs -- dates 20000 > dates.tsv
//! cargo run --release --example pairs -- dates 1000 --held-out > held_out.tsv    # none of which is among the others
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};

use clap::{Parser, ValueEnum};
use thumbformer_convert::random::SplitMix64;

/// Print `source<TAB>answer` lines to train an encoder-decoder on
#[derive(Parser)]
struct Arguments {
    /// What to learn
    task: Task,
    /// How many
    count: usize,
    /// Of those that are never printed without this option
    #[arg(long)]
    held_out: bool,
    /// What they are drawn with
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// Letters as they are
    Copy,
    /// Letters from the last to the first
    Reverse,
    /// `march 3rd, 2021` as `2021-03-03`
    Dates,
}

const MONTHS: [(&str, u32); 12] = [
    ("january", 31),
    ("february", 28),
    ("march", 31),
    ("april", 30),
    ("may", 31),
    ("june", 30),
    ("july", 31),
    ("august", 31),
    ("september", 30),
    ("october", 31),
    ("november", 30),
    ("december", 31),
];

fn below(random: &mut SplitMix64, count: u64) -> u64 {
    random.next_u64() % count
}

fn word(random: &mut SplitMix64) -> String {
    let length = 3 + below(random, 10);
    (0..length).map(|_| char::from(b'a' + below(random, 26) as u8)).collect()
}

fn ordinal(day: u32) -> String {
    let ending = match (day / 10, day % 10) {
        (1, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{day}{ending}")
}

/// A date as people write it, and as ISO 8601 does.
fn date(random: &mut SplitMix64) -> (String, String) {
    let (year, month) = (1950 + below(random, 100), below(random, 12) as usize);
    let (name, days) = MONTHS[month];
    let leap = year.is_multiple_of(4) && month == 1;
    let day = 1 + below(random, u64::from(days) + u64::from(leap)) as u32;
    let (short, nth, month) = (&name[..3], ordinal(day), month + 1);
    let written = match below(random, 7) {
        0 => format!("{name} {day}, {year}"),
        1 => format!("{name} {nth}, {year}"),
        2 => format!("the {nth} of {name}, {year}"),
        3 => format!("{day} {name} {year}"),
        4 => format!("{short} {day} {year}"),
        5 => format!("{day}.{month}.{year}"),
        _ => format!("{month}/{day}/{year}"),
    };
    (written, format!("{year}-{month:02}-{day:02}"))
}

fn main() -> std::io::Result<()> {
    let Arguments { task, count, held_out, seed } = Arguments::parse();
    let mut random = SplitMix64(seed);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    while printed < count {
        let (source, answer) = match task {
            Task::Copy => {
                let word = word(&mut random);
                (word.clone(), word)
            }
            Task::Reverse => {
                let word = word(&mut random);
                let reversed = word.chars().rev().collect();
                (word, reversed)
            }
            Task::Dates => date(&mut random),
        };
        // One meaning in ten is held out, however it is written.
        let mut hasher = DefaultHasher::new();
        answer.hash(&mut hasher);
        if hasher.finish().is_multiple_of(10) == held_out {
            writeln!(out, "{source}\t{answer}")?;
            printed += 1;
        }
    }
    out.flush()
}
