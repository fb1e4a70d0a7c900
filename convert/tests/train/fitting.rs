//! `thumbformer train --size`: what it chooses converts into what was asked for.

use std::process::Command;

use serde_json::Value;

use super::command::{fail, succeed, text, thumbformer, write};

/// Trains one step of the largest model that fits; returns the note about it and the converter's summary.
fn fitted(more: &[&str], target: &str) -> (String, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (write(&folder, "text.txt", text()), folder.path().join("out"));
    let mut command = thumbformer(&["train", "--vocab", "280", "--steps", "1", "--batch", "1"]);
    let (_, told) = succeed(command.arg(&data).arg("-o").arg(&out).args(more));
    let mut convert = Command::new(env!("CARGO_BIN_EXE_convert"));
    let thumb = folder.path().join("out.thumb");
    let (summary, _) = succeed(convert.arg(&out).arg("-o").arg(&thumb).args(["--json", "--target", target]));
    let note = told.lines().find(|line| line.starts_with("--size")).expect("what was chosen").to_owned();
    (note, serde_json::from_str(&summary).expect("JSON"))
}

#[test]
fn a_file_of_so_many_bytes() {
    for (preset, budget) in [("llama", 100_000), ("gpt2", 300_000), ("llama", 300_000)] {
        for target in ["simd", "dsp"] {
            let size = budget.to_string();
            let (note, summary) = fitted(&["--preset", preset, "--size", &size, "--context", "32"], target);
            let bytes = summary["bytes"].as_u64().expect("bytes");
            assert!((budget * 3 / 4..=budget).contains(&bytes), "{preset}, {budget}: {bytes}, {note}");
        }
    }
}

#[test]
fn a_board_with_the_whole_context() {
    let (note, summary) = fitted(&["--size", "fits:nRF5340", "--context", "256"], "dsp");
    let boards = summary["boards"].as_array().expect("boards");
    let board = boards.iter().find(|board| board["board"] == "nrf5340-dk").expect("the board");
    assert_eq!(board["verdict"], "fits", "{note}: {board}");
    // Flash decides: a tenth of it more would be too much.
    let bytes = summary["bytes"].as_u64().expect("bytes");
    assert!(bytes + 128 * 1024 > 9 * (1 << 20) / 10, "{bytes} bytes: {note}");
}

#[test]
fn what_the_user_chose_stays() {
    let (note, _) = fitted(&["--size", "200K", "--context", "32", "--layers", "2", "--kv-heads", "1"], "simd");
    assert!(note.contains(": 2 layers of width") && note.contains(" 1 of keys and values"), "{note}");
    // Not every width has five heads, nor three heads of an even number of features.
    for heads in ["5", "3"] {
        let (note, _) = fitted(&["--size", "500K", "--context", "32", "--heads", heads], "simd");
        assert!(note.contains(&format!(", {heads} heads,")), "{note}");
    }
}

#[test]
fn what_cannot_be_had_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (write(&folder, "text.txt", text()), folder.path().join("out"));
    let train = |size: &str| {
        let mut command = thumbformer(&["train", "--vocab", "280", "--size", size, "--context", "100000"]);
        command.arg(&data).arg("-o").arg(&out);
        command
    };
    for (size, lacking) in [("1000", "bytes of file too few"), ("fits:pico2", "bytes of RAM too few")] {
        let error = fail(&mut train(size));
        assert!(error.contains(lacking) && error.contains("take a smaller --vocab or --context"), "{error}");
    }
    let error = fail(train("300K").args(["--heads", "0"]));
    assert!(error.contains("--heads 0: expected a divisor of the width"), "{error}");
    let output = train("fits:toaster").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("no board `toaster` is known: expected fits:nucleo-h743zi (STM32H743)"), "{error}");
    assert!(!out.exists());
}
