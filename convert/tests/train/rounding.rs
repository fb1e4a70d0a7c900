//! `thumbformer train --qat`: the forward pass of training is the runtime's.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use thumbformer_convert::train::architecture::Architecture;
use thumbformer_convert::train::batch::Batch;
use thumbformer_convert::train::model::{Model, Regularization, Rounding};
use thumbformer_convert::train::parameters::Parameters;

use super::command::{fail, succeed, text, thumbformer, train, write};

/// The mean loss over windows of 32 tokens by the trainer's forward pass, rounded or not.
fn loss(folder: &Path, ids: &[u32], rounding: Option<Rounding>) -> f64 {
    let architecture = Architecture::read(folder).expect("a configuration");
    let parameters = Parameters::read(&architecture, folder).expect("weights");
    let mut model = Model::new(architecture, parameters);
    model.rounding = rounding;
    let weights = [1.0; 32];
    let windows = ids.chunks(32).map(|window| (window, &weights[..window.len() - 1]));
    let batch = Batch::next_token(windows);
    let loss = model.loss(&batch, batch.weight(), Regularization::default()).expect("a loss");
    f64::from(loss.to_scalar::<f32>().expect("a number"))
}

fn nll(model: &Path, list: &Path) -> f64 {
    let mut eval = thumbformer(&["eval", "--json", "--window", "32", "--ids"]);
    let (report, _) = succeed(eval.arg(list).arg(model));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    report["nll"].as_f64().expect("a likelihood")
}

#[test]
fn the_rounded_forward_pass_is_the_runtimes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    for (preset, group, columns) in [("llama", "32", 32), ("gpt2", "64", 64), ("llama", "row", 0)] {
        let out = folder.path().join(format!("{preset}-{group}"));
        let more = ["--preset", preset, "--tokenizer", "chars", "--steps", "60", "--qat", "--group", group];
        succeed(train(&data, &out, &more).args(["--learning-rate", "1e-2"]));
        let ids: Vec<u32> = (0..192).map(|i| (i * i % 19) as u32).collect();
        let list = write(&folder, "ids.json", serde_json::to_string(&ids).expect("JSON"));
        let thumb = out.with_extension("thumb");
        let mut convert = Command::new(env!("CARGO_BIN_EXE_convert"));
        succeed(convert.arg(&out).arg("-o").arg(&thumb).args(["--quiet", "--group", group]));

        let (f32, int8) = (loss(&out, &ids, None), nll(&thumb, &list));
        let rounded = loss(&out, &ids, Some(Rounding { group: columns }));
        let (apart, lost) = ((rounded - int8).abs(), (f32 - int8).abs());
        println!("{preset}, {group}: f32 {f32:.6}, int8 {int8:.6}, rounded {rounded:.6}");
        // Mean keys are another text's: what they change is all that is left.
        assert!(apart < 0.3 * lost, "{preset}, {group}: f32 {f32}, int8 {int8}, rounded {rounded}");
    }
}

#[test]
fn rounding_is_trained_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let losses = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        succeed(train(&data, &out, &["--tokenizer", "chars", "--steps", "60", "--learning-rate", "1e-2"]).args(more));
        let csv = std::fs::read_to_string(out.join("log.csv")).expect("a log");
        let loss = |line: &str| line.split(',').nth(2).and_then(|x| x.parse::<f32>().ok()).expect("a loss");
        csv.lines().skip(1).map(loss).collect::<Vec<f32>>()
    };
    let (plain, rounded) = (losses("plain", &[]), losses("rounded", &["--qat"]));
    assert_ne!(plain, rounded);
    // Gradients that pass straight through teach as much.
    assert!(rounded[59] < 1.1 * plain[59] && rounded[59] < 0.6 * rounded[0], "{plain:?}, {rounded:?}");

    let (out, group) = (folder.path().join("out"), ["--group", "64"]);
    let output = train(&data, &out, &group).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "--group without --qat");
    let error = fail(&mut train(&data, &out, &["--qat", "--steps", "0"]));
    assert!(error.contains("--steps 0") && !out.exists(), "{error}");
}
