//! The two programs as users and scripts meet them: what they print, where, and with which exit status.

#[path = "../common/mod.rs"]
mod common;

mod convert;
mod decoding;
mod encoder;
mod eval;
mod inspect;
mod kinds;
mod run;
mod sources;
mod tokenize;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;

/// The bundled model's checkpoint.
fn home() -> PathBuf {
    common::repository("tests/models/home-commands")
}

/// The bundled model, converted.
fn home_thumb() -> &'static Path {
    static CONVERTED: OnceLock<PathBuf> = OnceLock::new();
    CONVERTED.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("home-commands.thumb");
        output(convert().arg(home()).arg("-o").arg(&path).args(["--force", "--quiet"]));
        path
    })
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a file of a test; returns its path.
fn write(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("written");
    path
}

/// Copies files of the bundled model into a folder.
fn copy(folder: &tempfile::TempDir, files: &[&str]) {
    for file in files {
        std::fs::copy(home().join(file), folder.path().join(file)).expect("copied");
    }
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn convert() -> Command {
    program(env!("CARGO_BIN_EXE_convert"))
}

fn thumbformer(subcommand: &str) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_thumbformer"));
    command.arg(subcommand);
    command
}

fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    // Against hanging; the longest takes a few seconds.
    command.timeout(Duration::from_secs(300));
    command
}

/// Exit status, standard output and standard error.
fn all(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
    (output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status)), stdout, stderr)
}

/// Standard output of a run that succeeds.
fn output(command: &mut Command) -> String {
    let (code, stdout, stderr) = all(command);
    assert_eq!(code, 0, "{command:?}: {stderr}");
    stdout
}

/// The object that `--json` prints, and nothing else.
fn json(command: &mut Command) -> Value {
    let (code, stdout, stderr) = all(command.arg("--json"));
    assert_eq!((code, stderr.as_str()), (0, ""), "{command:?}");
    assert!(stdout.ends_with('\n') && stdout.lines().count() == 1, "{command:?}: {stdout}");
    let value: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{command:?}: {e}: {stdout}"));
    assert!(value.is_object());
    value
}

/// A run that fails with this status; its message has all the words, and nothing went to standard output.
fn refused(command: &mut Command, status: i32, words: &[&str]) {
    let (code, stdout, stderr) = all(command);
    assert_eq!((code, stdout.as_str()), (status, ""), "{command:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{command:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{command:?}: no {word:?} in: {stderr}");
    }
}

#[test]
fn help_and_version() {
    assert!(output(convert().arg("--version")).starts_with("convert "));
    assert!(output(program(env!("CARGO_BIN_EXE_thumbformer")).arg("--version")).starts_with("thumbformer "));
    assert!(output(convert().arg("--help")).contains("Examples:"));
    for subcommand in ["run", "fill", "embed", "eval", "inspect", "tokenize"] {
        assert!(output(thumbformer(subcommand).arg("--help")).contains("Usage: thumbformer"), "{subcommand}");
    }
    refused(&mut convert(), 2, &["<MODEL>", "--help"]);
    refused(&mut thumbformer("walk"), 2, &["walk", "--help"]);
    refused(convert().args(["x", "--group", "16"]), 2, &["16", "32, 64, row"]);
    refused(convert().args(["x", "--target", "avr"]), 2, &["avr", "simd, dsp"]);
}

#[test]
fn files_that_are_no_models_are_named() {
    let folder = folder();
    let good = std::fs::read(home_thumb()).expect("the blob");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let length = good.len().to_string();
    let cases: [(&str, &[u8], &[&str]); 5] = [
        ("empty.thumb", b"", &["empty file"]),
        ("cut.thumb", &good[..1000], &["cut off", "1000", &length]),
        ("cut_head.thumb", &good[..20], &["20"]),
        ("flipped.thumb", &flipped, &["checksum"]),
        ("text.thumb", &[b' '; 500], &["not a .thumb file"]),
    ];
    let ids = write(&folder, "ids.json", "[1, 2, 3]");
    for (name, content, words) in cases {
        let path = write(&folder, name, content);
        let words = [words, &[name]].concat();
        refused(thumbformer("run").arg(&path).arg("hi"), 1, &words);
        refused(thumbformer("inspect").arg(&path), 1, &words);
        refused(thumbformer("eval").arg(&path).arg("--ids").arg(&ids), 1, &words);
        refused(thumbformer("tokenize").arg(&path).write_stdin("hi"), 1, &words);
    }
    for subcommand in ["run", "inspect", "tokenize"] {
        refused(thumbformer(subcommand).arg("no/such.thumb"), 1, &["no/such.thumb", "No such file"]);
    }
    refused(convert().arg("no/such/folder"), 1, &["no/such/folder", "No such file"]);
}
