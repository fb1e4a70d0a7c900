//! Puts together what a build is made of: the board, the model, and whether the one has room for the other.
//!
//! The board is a cargo feature, and `boards.tsv` and `memory/BOARD.x` are what is known of it. `THUMBFORMER_MODEL` names
//! the model, the bundled one if unset, which is converted here; `THUMBFORMER_CONTEXT` cuts its context. A model that does
//! not fit is an error here, because only here can the message count; the compiler and the linker check it again. A model
//! that is damaged, or needs features that are off, is one too, before the chip refuses it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use thumbformer::blob::header::Header;
use thumbformer::packing::{Layout, Packing};
use thumbformer::{Feature, Model};
use thumbformer_convert::boards::{BOARDS, CHUNK, Memories};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Options, Prepared, Silent};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The runtime's features that this firmware has too, for models that need them.
const FEATURES: [&str; 8] =
    ["portable", "classic", "shaping", "encoder", "cross", "normalizers", "unigram", "wordpiece"];
/// The board of a build that names none.
const DEFAULT_BOARD: &str = "mps2-an500";
/// The checkpoint of a build that names no model.
const BUNDLED: &str = "../tests/models/home-commands";

fn main() {
    if let Err(error) = build() {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let board = Board::chosen()?;
    board.check_target()?;
    let memories = board.write_linker_script(&out)?;

    let context = context()?;
    // Without a model in the image its size is known only to the chip.
    let alloc = feature("ALLOC");
    let mut built_in = context.unwrap_or(0);
    if !feature("MODEL_IN_FLASH") {
        let model = model(&out)?;
        println!("cargo::rerun-if-changed={}", model.display());
        println!("cargo::rustc-env=THUMBFORMER_MODEL={}", model.display());
        let bytes = fs::read(&model).map_err(|e| format!("{}: {e}", model.display()))?;
        let bytes = AlignedBytes::from(&bytes[..]);
        let checked = Model::new(&bytes).map_err(|e| format!("{}: {e}", model.display()))?;
        let (header, source) = (checked.header(), checked.source());
        let source = source.as_ref().map(Model::header);
        built_in = context.unwrap_or(header.arch.context);
        let fits = check_fit(board.name, memories, (header, source), built_in, alloc);
        fits.map_err(|e| format!("{}: {e}", model.display()))?;
        check_features(&board, &checked).map_err(|e| format!("{} {e}", model.display()))?;
    }
    println!("cargo::rustc-env=THUMBFORMER_CONTEXT={built_in}");
    println!("cargo::rustc-env=THUMBFORMER_CHUNK={CHUNK}");
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|e| format!("{name}: {e}").into())
}

fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// A row of boards.tsv.
struct Board<'t> {
    name: &'t str,
    target: &'t str,
    processor: &'t str,
    runner: &'t str,
}

impl Board<'static> {
    /// The board whose feature is on.
    fn chosen() -> Result<Self> {
        println!("cargo::rerun-if-changed=boards.tsv");
        let table = include_str!("boards.tsv").lines().filter(|line| !line.starts_with('#'));
        let boards: Vec<_> = table
            .map(|row| match row.split('\t').collect::<Vec<_>>()[..] {
                [name, target, processor, runner, _] => Ok(Board { name, target, processor, runner }),
                _ => Err(format!("boards.tsv: expected five columns, found {row:?}")),
            })
            .collect::<std::result::Result<_, _>>()?;

        let names: Vec<_> = boards.iter().map(|b| format!("{:?}", b.name)).collect();
        println!("cargo::rustc-check-cfg=cfg(board, values({}))", names.join(", "));
        println!("cargo::rustc-check-cfg=cfg(emulated)");
        let is_on = |b: &Board<'_>| feature(&b.name.replace('-', "_").to_uppercase());
        let mut chosen = boards.iter().filter(|b| is_on(b));
        let board = match (chosen.next(), chosen.next()) {
            (Some(one), Some(other)) => {
                return Err(format!("the features of two boards are on: {} and {}", one.name, other.name).into());
            }
            (Some(board), None) => board,
            (None, _) => boards.iter().find(|b| b.name == DEFAULT_BOARD).ok_or("boards.tsv has no default board")?,
        };
        println!("cargo::rustc-cfg=board={:?}", board.name);
        if board.runner == "qemu" {
            println!("cargo::rustc-cfg=emulated");
        }
        Ok(Board { ..*board })
    }

    /// Fails if cargo compiles for another processor: features cannot choose the target.
    fn check_target(&self) -> Result<()> {
        let Board { name, target, processor, .. } = self;
        let found = variable("TARGET")?;
        if found != *target {
            return Err(format!(
                "{name} needs another target than {found}:\n\
                cargo run --release --features {name} --target {target}\n\
                or, which does it all: ./run --board {name}"
            )
            .into());
        }
        let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
        let cpu = flags.split('\x1f').filter_map(|flag| flag.split_once("target-cpu=")).next_back();
        let found = cpu.map_or("nothing", |(_, cpu)| cpu);
        if found != *processor {
            return Err(format!(
                "{name} has a {processor}, but the rustflags' target-cpu says {found}\n\
                they are those of .cargo/config.toml, unless RUSTFLAGS in the environment replaces them"
            )
            .into());
        }
        Ok(())
    }

    /// Writes the `memory.x` that cortex-m-rt includes, and reads the sizes that the board's own file states.
    fn write_linker_script(&self, out: &Path) -> Result<Memories> {
        let file = format!("memory/{}.x", self.name);
        println!("cargo::rerun-if-changed={file}");
        println!("cargo::rerun-if-changed=memory/common.x");
        let memory = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        let size = |region| length(&memory, region).ok_or(format!("{file}: no LENGTH of {region} in K or M"));
        let memories = Memories { flash: size("FLASH")?, ram: size("RAM")? };
        if let Some(known) = BOARDS.iter().find(|b| b.name == self.name)
            && known.memories != memories
        {
            return Err(format!("{file} says {memories:?}, the converter says {:?}", known.memories).into());
        }
        let mut script = memory + &fs::read_to_string("memory/common.x")?;
        // `runner` reads in the ELF file which board it is for.
        script += &format!("\n_firmware_for_{} = 0;\n", self.name.replace('-', "_"));
        if feature("MODEL_IN_FLASH") {
            script += "ASSERT(__veneer_limit <= _model_start, \"the firmware reaches into the model's flash\");\n";
        }
        fs::write(out.join("memory.x"), script)?;
        println!("cargo::rustc-link-search={}", out.display());
        for script in ["link.x", "defmt.x"] {
            println!("cargo::rustc-link-arg=-T{script}");
        }
        Ok(memories)
    }
}

/// The length of a region of a linker script, such as `RAM : ORIGIN = 0x20000000, LENGTH = 496K`.
fn length(script: &str, region: &str) -> Option<u64> {
    let line = script.lines().find(|line| line.trim_start().split([' ', ':']).next() == Some(region))?;
    let (_, length) = line.split_once("LENGTH = ")?;
    let digits = length.trim_end();
    let (digits, unit) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `THUMBFORMER_CONTEXT`.
fn context() -> Result<Option<u32>> {
    println!("cargo::rerun-if-env-changed=THUMBFORMER_CONTEXT");
    let Some(context) = env::var_os("THUMBFORMER_CONTEXT") else { return Ok(None) };
    match context.to_str().map(str::parse) {
        Some(Ok(context @ 1..)) => Ok(Some(context)),
        _ => Err(format!("THUMBFORMER_CONTEXT={context:?} is no number of positions").into()),
    }
}

/// The file to embed.
fn model(out: &Path) -> Result<PathBuf> {
    println!("cargo::rerun-if-env-changed=THUMBFORMER_MODEL");
    let Some(model) = env::var_os("THUMBFORMER_MODEL") else { return convert_bundled(out) };
    let model = PathBuf::from(model);
    if model.is_absolute() {
        return if model.is_file() { Ok(model) } else { Err(format!("there is no file {}", model.display()).into()) };
    }
    // Cargo runs this script in the package's folder; the user's own is where the shell was.
    println!("cargo::rerun-if-env-changed=PWD");
    let bases = [env::var_os("PWD").map(PathBuf::from), env::current_dir().ok()];
    let mut tried: Vec<_> = bases.into_iter().flatten().map(|base| base.join(&model)).collect();
    tried.dedup();
    let found = tried.iter().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        let tried: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
        format!("THUMBFORMER_MODEL={}: there is no file {}", model.display(), tried.join(" nor ")).into()
    })
}

/// Converts the bundled checkpoint. Cargo runs this again whenever it or the converter changes.
fn convert_bundled(out: &Path) -> Result<PathBuf> {
    println!("cargo::rerun-if-changed={BUNDLED}");
    let model = out.join("home-commands.thumb");
    let packing = Packing { layout: Layout::Dsp, ..Options::default().packing };
    let prepared = Prepared::open(Path::new(BUNDLED), Options { packing, ..Options::default() });
    prepared.and_then(|prepared| prepared.write(&model, true, &Silent)).map_err(|e| format!("{BUNDLED}: {e}"))?;
    Ok(model)
}

/// Fails, with what to do, if the model needs features that are off.
fn check_features(board: &Board<'_>, model: &Model<'_>) -> Result<()> {
    let is_on = |name: &str| feature(&name.to_uppercase());
    let needed: Vec<_> = Feature::ALL.into_iter().filter(|&f| model.needs(f)).map(Feature::name).collect();
    let missing: Vec<_> = needed.iter().copied().filter(|name| !is_on(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(unknown) = missing.iter().find(|name| !FEATURES.contains(name)) {
        return Err(format!("needs the runtime's feature `{unknown}`, which this firmware has no use for").into());
    }
    let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let features = if missing.len() == 1 { "feature" } else { "features" };
    let is_default = board.name == DEFAULT_BOARD;
    // All that are on, so that the command can be pasted.
    let all: Vec<_> =
        (!is_default).then_some(board.name).into_iter().chain(is_on("alloc").then_some("alloc")).collect();
    let all = [all, FEATURES.into_iter().filter(|name| is_on(name) || missing.contains(name)).collect()].concat();
    let target = if is_default { String::new() } else { format!(" --target {}", board.target) };
    Err(format!("needs the {features} {names}: cargo run --release --features {}{target}", all.join(",")).into())
}

/// Fails, with numbers, if the board is too small for a model of this head, and its encoder's, if it has one. Where the
/// session is sized at run time, so is its RAM checked.
fn check_fit(
    board: &str,
    memories: Memories,
    (header, source): (&Header, Option<&Header>),
    context: u32,
    alloc: bool,
) -> Result<()> {
    if context > header.arch.context {
        let model = header.arch.context;
        return Err(format!("THUMBFORMER_CONTEXT={context} exceeds the model's context of {model}").into());
    }
    let missing = memories.missing_flash(header);
    if missing > 0 {
        return Err(format!(
            "the model does not fit the flash of {board}: {missing} bytes are missing\n\
            the model has {} bytes, kept for the firmware are {}, the flash has {}",
            header.file_len,
            Memories::FIRMWARE_FLASH,
            memories.flash
        )
        .into());
    }
    let missing = memories.missing_ram(header, source, context);
    if missing > 0 && !alloc {
        let advice = match memories.longest_context(header, source) {
            0 => "no context would fit".to_owned(),
            fits => format!("a context of {fits} would fit: THUMBFORMER_CONTEXT={fits}"),
        };
        return Err(format!(
            "a context of {context} does not fit the RAM of {board}: {missing} bytes are missing\n{advice}"
        )
        .into());
    }
    Ok(())
}
