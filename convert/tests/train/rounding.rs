//! `thumbformer train --qat`: the forward pass of training is the runtime's.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use thumbformer_convert::train::architecture::Architecture;
use thumbformer_convert::train::batch::Batch;
use thumbformer_convert::train::model::{Model, Regularization, Rounding};
use thumbformer_convert::train::parameters::Parameters;

use super::command::{fail, succeed, text, thumbformer, train, write};

/// Logits behind each token by the trainer's forward pass, rounded or not.
fn trained(folder: &Path, prompt: &[u32], rounding: Option<Rounding>) -> Vec<Vec<f32>> {
    let architecture = Architecture::read(folder).expect("a configuration");
    let parameters = Parameters::read(&architecture, folder).expect("weights");
    let mut model = Model::new(architecture, parameters);
    model.rounding = rounding;
    let ids: Vec<u32> = prompt.iter().copied().chain([0]).collect();
    let batch = Batch::next_token([(ids.as_slice(), vec![1.0; prompt.len()].as_slice())]);
    let logits = model.logits(&batch, Regularization::default()).expect("logits");
    logits.to_vec2().expect("rows")
}

/// Logits behind a prompt by the runtime.
fn run(thumb: &Path, prompt: &[u32]) -> Vec<f32> {
    let ids = prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut run = thumbformer(&["run", "--json", "--logits", "1000", "--max-tokens", "1", "--ids", &ids]);
    let (report, _) = succeed(run.arg(thumb));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let mut logits: Vec<(u64, f64)> = serde_json::from_value(report["logits"][0].clone()).expect("logits");
    logits.sort_by_key(|&(id, _)| id);
    logits.into_iter().map(|(_, logit)| logit as f32).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / a.len() as f32).sqrt()
}

#[test]
fn the_rounded_forward_pass_is_the_runtimes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let sample = "the cat likes a mouse.\nmy bird ";
    let calibrate = write(&folder, "sample.txt", sample);
    for (preset, group, columns) in [("llama", "32", 32), ("gpt2", "64", 64), ("llama", "row", 0)] {
        let out = folder.path().join(format!("{preset}-{group}"));
        let more = ["--preset", preset, "--tokenizer", "chars", "--steps", "60", "--qat", "--group", group];
        succeed(train(&data, &out, &more).args(["--learning-rate", "1e-2"]));
        let line = write(&folder, "line.json", serde_json::to_string(sample).expect("JSON"));
        let mut tokenize = thumbformer(&["tokenize", "--json-lines"]);
        let (ids, _) = succeed(tokenize.arg(&out).stdin(std::fs::File::open(line).expect("a file")));
        let ids: Vec<u32> = serde_json::from_str(&ids).expect("ids");
        let thumb = out.with_extension("thumb");
        let mut convert = Command::new(env!("CARGO_BIN_EXE_convert"));
        convert.arg(&out).arg("-o").arg(&thumb).args(["--quiet", "--group", group, "--calibrate"]);
        succeed(convert.arg(&calibrate));
        let rounding = Some(Rounding { group: columns });
        let (plain, rounded) = (trained(&out, &ids, None), trained(&out, &ids, rounding));
        // A first token sees itself whatever its key is. The mean key that the converter finds is not to the last bit
        // the batch's: of many keys, a few are rounded the other way.
        let (mut lost, mut left, mut exact) = (0.0, 0.0, 0);
        for tokens in [1, 2, 5, 9, 14, 20, 26, ids.len()] {
            let int8 = run(&thumb, &ids[..tokens]);
            let (before, after) = (apart(&plain[tokens - 1], &int8), apart(&rounded[tokens - 1], &int8));
            println!("{preset}, {group}, {tokens} tokens: {after:.7} of {before:.7}");
            assert!(tokens > 1 || after < 1e-3 * before, "{preset}, {group}: {after} of {before}");
            exact += u32::from(after < 1e-2 * before);
            (lost, left) = (lost + before, left + after);
        }
        assert!(left < 0.6 * lost && exact >= 3, "{preset}, {group}: {left} of {lost}, {exact} exact");
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
