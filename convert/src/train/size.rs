//! How large a model may be: the sizes that fill a board or a file.
//!
//! The converter itself says what a model of given sizes takes: it is shown a checkpoint that has everything but numbers.
//! So whatever fits here converts into a file of exactly so many bytes, and runs in exactly so much memory.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use thumbformer::packing::{Layout, Packing};

use super::architecture::{Architecture, Preset, Sizes};
use super::family;
use super::folder::TokenizerFile;
use super::vocabulary::Marked;
use crate::boards::{BOARDS, Board};
use crate::pipeline::{Options, Prepared};
use crate::{Error, Result};

/// What a model must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// A board's flash, beside the firmware, and its RAM, with the whole context.
    Board(&'static Board),
    /// A file of so many bytes.
    Bytes(u64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let Some(name) = text.strip_prefix("fits:") else {
            let expected = "expected fits:BOARD, or bytes as in 300000, 300K, 512KiB or 1.5M";
            return match text.parse::<ByteSize>() {
                Ok(bytes) if bytes.as_u64() > 0 => Ok(Budget::Bytes(bytes.as_u64())),
                _ => Err(expected.into()),
            };
        };
        let named =
            |board: &&Board| [board.name, board.chip_name()].iter().any(|known| known.eq_ignore_ascii_case(name));
        BOARDS.iter().find(named).map(Budget::Board).ok_or_else(|| {
            let known = BOARDS.map(|board| format!("fits:{} ({})", board.name, board.chip_name()));
            format!("no board `{name}` is known: expected {}", known.join(", "))
        })
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Board(board) => write!(f, "fits:{}", board.name),
            Budget::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// Widths that are tried, in steps of half a group of columns.
const WIDTHS: std::ops::RangeInclusive<usize> = 2..=128;
const STEP: usize = 16;

/// What a model of some sizes takes.
struct Weighed {
    parameters: u64,
    /// What is too little, if it does not fit.
    lacking: Option<String>,
}

impl Budget {
    /// The most parameters that fit, in a shape between wide (a layer for 64 of width, at least four) and deep (one for
    /// 32, at least six), with heads of 32 features, or of 16 in narrow models and where 32 do not divide the width. What
    /// the user chose stays.
    ///
    /// # Errors
    /// Not even the smallest fits; sizes that do not go together.
    pub fn choose(
        self,
        preset: Preset,
        sizes: Sizes,
        vocab: usize,
        marked: &Marked,
        tokenizer: &[TokenizerFile],
    ) -> Result<Architecture> {
        let folder = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
        for (name, bytes) in tokenizer {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        let mut best: Option<(u64, Architecture)> = None;
        let mut impossible = None;
        let widths: Vec<usize> = sizes.dim.map_or_else(|| WIDTHS.map(|n| STEP * n).collect(), |dim| vec![dim]);
        for dim in widths {
            let usual = dim.div_ceil(64).max(4)..=dim.div_ceil(32).max(6);
            let (mut any, mut possible) = (false, false);
            for layers in sizes.layers.map_or(usual, |layers| layers..=layers) {
                let usual = match dim {
                    64.. if dim.is_multiple_of(32) => Some(dim / 32),
                    _ if dim.is_multiple_of(16) => Some(dim / 16),
                    _ => None,
                };
                let sizes = Sizes { dim: Some(dim), layers: Some(layers), heads: sizes.heads.or(usual), ..sizes };
                let architecture = match Architecture::new(preset, sizes, vocab) {
                    Ok(architecture) => architecture,
                    // What the user chose does not go with this width, but may with another.
                    Err(error) => {
                        impossible.get_or_insert(error);
                        continue;
                    }
                };
                possible = true;
                let Weighed { parameters, lacking } = self.weigh(&architecture, marked, folder.path())?;
                match (lacking, &best) {
                    (None, Some((most, _))) if *most >= parameters => any = true,
                    (None, _) => {
                        any = true;
                        best = Some((parameters, architecture));
                    }
                    (Some(lacking), None) => {
                        return Err(Error::Usage(format!(
                            "--size {self}: {lacking} for a {layers}-layer model of width {dim} with a vocabulary of \
                             {vocab} and a context of {}: take a smaller --vocab or --context",
                            architecture.context
                        )));
                    }
                    (Some(_), Some(_)) => break,
                }
            }
            // Wider ones are larger still.
            if possible && !any {
                break;
            }
        }
        match (best, impossible) {
            (Some((_, architecture)), _) => Ok(architecture),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::Usage(format!("--size {self}: no model fits"))),
        }
    }

    /// Asks the converter about a checkpoint of these sizes in `folder`, where its tokenizer lies.
    fn weigh(self, architecture: &Architecture, marked: &Marked, folder: &Path) -> Result<Weighed> {
        let config = folder.join("config.json");
        std::fs::write(&config, family::config(architecture, marked).to_string()).map_err(Error::io(&config))?;
        hollow(architecture, &folder.join("model.safetensors"))?;
        let prepared = |layout| {
            let usual = Options::default();
            Prepared::open(folder, Options { packing: Packing { layout, ..usual.packing }, ..usual })
        };
        let fewer = |missing: u64, what: &str| (missing > 0).then(|| format!("{missing} bytes of {what} too few"));
        let on_board = prepared(Layout::Dsp)?;
        let lacking = match self {
            Budget::Bytes(bytes) => {
                let largest = on_board.file_len().max(prepared(Layout::Rows8)?.file_len());
                fewer(largest.saturating_sub(bytes), "file")
            }
            Budget::Board(board) => {
                let header = on_board.header();
                let source = on_board.source_header();
                let ram = board.memories.missing_ram(&header, source.as_ref(), header.arch.context);
                fewer(board.memories.missing_flash(&header), "flash").or_else(|| fewer(ram, "RAM"))
            }
        };
        Ok(Weighed { parameters: on_board.recipe.parameters(), lacking })
    }
}

/// Writes a checkpoint that takes no room: names and shapes, and a hole in place of the numbers.
fn hollow(architecture: &Architecture, path: &Path) -> Result<()> {
    let (mut head, mut end) = (Map::new(), 0);
    for (name, shape) in family::layout(architecture).shapes() {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        head.insert(name.to_owned(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] }));
    }
    let head = serde_json::Value::Object(head).to_string();
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(&(head.len() as u64).to_le_bytes())?;
        file.write_all(head.as_bytes())?;
        file.set_len((8 + head.len() + end) as u64)
    };
    write().map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_written() {
        for (text, bytes) in [("300000", 300_000), ("300K", 300_000), ("512KiB", 524_288), ("1.5MB", 1_500_000)] {
            assert_eq!(text.parse(), Ok(Budget::Bytes(bytes)), "{text}");
        }
        for text in ["fits:nucleo-h743zi", "fits:stm32h743", "fits:STM32H743"] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.to_string(), "fits:nucleo-h743zi");
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
        for text in ["", "0", "much", "-5", "fits:", "fits:toaster", "stm32h743"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }
}
