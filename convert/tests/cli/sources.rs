//! Encoder-decoders on the command line: sources in, answers out, and what is refused.

use super::common::{Expected, model};
use super::*;

fn run(path: impl AsRef<Path>) -> Command {
    let mut command = thumbformer("run");
    command.arg(path.as_ref());
    command
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

/// The largest of the expected logits behind the first token.
fn first(name: &str, sequence: usize) -> (Vec<u32>, u32) {
    let sequence = &Expected::read(name, "expected.json").sequences[sequence];
    let logits = sequence.at(0).expect("kept");
    let largest = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).expect("logits").0;
    (sequence.source.clone(), largest)
}

#[test]
fn sources_are_answered() {
    for name in ["t5", "t5-gated", "marian", "marian-two-vocabularies", "annotated"] {
        for sequence in [0, 2] {
            let (source, expected) = first(name, sequence);
            for precision in ["int8", "f32"] {
                let report =
                    json(run(model(name)).args(["-n", "3", "--precision", precision, "--ids"]).arg(list(&source)));
                assert_eq!(ids(&report["source_ids"]), source);
                assert_eq!(ids(&report["prompt_ids"]).len(), 1);
                if precision == "f32" {
                    assert_eq!(ids(&report["ids"])[0], expected, "{name}");
                }
            }
        }
    }
    // Both of BART's first tokens are given.
    let report = json(run(model("bart")).args(["-n", "2", "--ids", "5,6,7"]));
    assert_eq!(ids(&report["prompt_ids"]), [2, 0]);
}

#[test]
fn a_converted_file_says_what_it_is_and_answers_as_the_checkpoint() {
    let folder = folder();
    let thumb = folder.path().join("t5.thumb");
    let summary = json(convert().arg(model("t5")).arg("--output").arg(&thumb));
    assert_eq!(summary["family"], "t5");
    assert!(summary["encoder"].as_str().expect("an encoder").starts_with("encoder, 2 layers"), "{summary}");
    assert_eq!(summary["parameters"], 70_112);
    // Of its own answers to random sources.
    let accuracy = |field: &str| summary["accuracy"][field].as_f64().expect(field);
    assert!((1e-6..0.1).contains(&accuracy("kl_mean")) && accuracy("top1_agreement") > 0.7, "{summary}");
    let report = json(thumbformer("inspect").arg(&thumb));
    assert_eq!(report["architecture"]["cross"], true);
    assert_eq!(report["encoder"]["shared_embedding"], true);
    assert!(report["ram"][0]["cache_bytes"].as_u64() > Some(0));
    // Every tensor of both, where it lies in the file.
    let rows = |field: &str| report[field].as_array().expect(field).clone();
    let (decoder, encoder) = (rows("tensors"), rows("encoder_tensors"));
    assert_eq!((decoder.len(), encoder.len()), (2 + 3 * 12 + 1, 1 + 2 * 7 + 1));
    assert!(encoder.iter().any(|row| row["role"] == "qkv" && row["layer"] == 1 && row["rows"] == 120), "{report}");
    let mut end = 0;
    for row in decoder.iter().chain(&encoder) {
        let at = row["offset"].as_u64().expect("a number");
        assert!(at >= end, "{row}");
        end = at + row["bytes"].as_u64().expect("a number");
    }
    assert!(end <= std::fs::metadata(&thumb).expect("the file").len());
    let table = output(thumbformer("inspect").arg(&thumb).arg("--tensors"));
    assert_eq!(
        table.lines().filter(|line| line.starts_with("    ") && line.contains("B  at ")).count(),
        39 + 16,
        "{table}"
    );
    let text = output(thumbformer("inspect").arg(&thumb));
    assert!(text.contains("encoder's   16"), "{text}");
    assert!(text.contains("decoder of a source, 3 layers") && text.contains("encoder, 2 layers"), "{text}");
    let greedy = |path: &Path| output(run(path).args(["-n", "6", "--ids", "5,6,7"]));
    assert_eq!(greedy(&thumb), greedy(&model("t5")));
    let beams = ["--beams", "4", "--length-penalty", "0.5", "--n-best", "3", "-n", "6", "--ids", "5,6,7"];
    let report = json(run(&thumb).args(beams));
    assert_eq!(report["hypotheses"].as_array().map(Vec::len), Some(3));
    // The same without the runtime.
    let f32 = json(run(model("t5")).args(beams).args(["--precision", "f32"]));
    assert_eq!(f32["hypotheses"].as_array().map(Vec::len), Some(3));
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let path = model("t5");
    refused(run(&path).arg("a text"), 1, &["no tokenizer", "--ids"]);
    refused(run(&path).args(["--ids", "96"]), 1, &["token 96", "96"]);
    refused(run(&path).args(["--ids", &list(&[1; 65])]), 1, &["65 tokens", "64"]);
    refused(run(&path).args(["--raw", "a text"]), 1, &["--raw"]);
    refused(run(&path).args(["--token-types", "0", "--ids", "1"]), 1, &["--token-types"]);
    refused(thumbformer("embed").arg(&path).arg("a"), 1, &["embed", "encoders"]);
}

#[test]
fn states_are_saved_with_their_source_and_loaded() {
    let folder = folder();
    for (name, given) in [("t5", 1), ("bart", 2)] {
        let path = folder.path().join(name);
        let answer = |ids: &str, options: &[&str]| {
            let mut command = run(model(name));
            command.args(["--ids", ids, "-n", "5"]).args(options);
            command
        };
        let logits = |ids: &str, options: &[&str]| json(answer(ids, options).args(["--logits", "4"]));
        let state = path.to_str().expect("UTF-8");
        let plain = logits("5,6,7", &[]);
        let saved = logits("5,6,7", &["--save-state", state]);
        let bytes = std::fs::read(&path).expect("written");
        // All of the source, and the start of the answer but its last token.
        let loaded = logits("5,6,7", &["--load-state", state]);
        assert_eq!(loaded["restored_tokens"], 3 + given - 1, "{name}");
        // Another source is encoded, whatever was saved.
        let other = logits("5,6,8", &[]);
        let unlike = logits("5,6,8", &["--load-state", state]);
        assert_eq!(unlike["restored_tokens"], 0, "{name}");
        for (found, expected) in [(&saved, &plain), (&loaded, &plain), (&unlike, &other)] {
            assert_eq!((&found["ids"], &found["logits"]), (&expected["ids"], &expected["logits"]), "{name}");
        }
        assert_ne!(plain["logits"], other["logits"]);
        // Nor does it depend on how the answer is sought.
        let beams = ["--ids", "5,6,7", "-n", "5", "--beams", "3"];
        let expected = json(run(model(name)).args(beams));
        let found = json(run(model(name)).args(beams).args(["--save-state", state, "--load-state", state]));
        assert_eq!(found["hypotheses"], expected["hypotheses"], "{name}");
        assert!(std::fs::read(&path).expect("written") == bytes, "{name}: another state");
        let damaged = write(&folder, "damaged", &bytes[..bytes.len() - 1]);
        refused(&mut answer("5,6,7", &["--load-state", damaged.to_str().expect("UTF-8")]), 1, &["damaged", "cut off"]);
        refused(&mut answer("5,6,7", &["--precision", "f32", "--save-state", state]), 1, &["int8 only"]);
    }
    let state = folder.path().join("t5");
    let mut other_model = run(model("bart"));
    refused(other_model.args(["--ids", "5", "--load-state"]).arg(state), 1, &["another model"]);
}

#[test]
fn records_are_scored() {
    let folder = folder();
    let records = Expected::read("t5", "expected.json").sequences;
    let record = |i: usize| serde_json::json!({"source": records[i].source, "target": records[i].ids[1..]});
    let file = write(&folder, "records.json", serde_json::to_string(&[record(0), record(3)]).expect("JSON"));
    let eval = |path: &Path| {
        let mut command = thumbformer("eval");
        command.arg(path).arg("--ids").arg(&file);
        command
    };
    let f32 = json(eval(&model("t5")).args(["--precision", "f32"]));
    assert_eq!(f32["tokens"], records[0].ids.len() + records[3].ids.len() - 2);
    // By hand: of the positions whose logits were kept.
    let nll = |i: usize| -> f64 {
        let sequence = &records[i];
        let at = |&position: &usize| {
            let logits = sequence.at(position).expect("kept");
            let largest = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
            let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
            f64::from(largest - logits[sequence.ids[position + 1] as usize]) + sum.ln()
        };
        sequence.positions.iter().filter(|&&position| position + 1 < sequence.ids.len()).map(at).sum()
    };
    let one = write(
        &folder,
        "one.json",
        serde_json::to_string(&[serde_json::json!(
            {"source": records[6].source, "target": records[6].ids[1..2]}
        )])
        .expect("JSON"),
    );
    let report = json(thumbformer("eval").arg(model("t5")).arg("--ids").arg(&one).args(["--precision", "f32"]));
    // Its last position predicts nothing.
    let expected = nll(6);
    let found = report["nll"].as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-4 * expected, "{found}, not {expected}");

    let compared = json(eval(&model("t5")).arg("--reference").arg(model("t5")));
    assert!(compared["divergence"]["kl_mean"].as_f64().expect("a number") < 0.1, "{compared}");

    let bad = |content: &str, words: &[&str]| {
        let file = write(&folder, "bad.json", content);
        let words = [&["bad.json"], words].concat();
        refused(thumbformer("eval").arg(model("t5")).arg("--ids").arg(file), 1, &words);
    };
    bad("[1, 2]", &["source and target"]);
    bad("[]", &["no records"]);
    bad(r#"[{"source": [1], "target": []}]"#, &["record 0", "target", "no tokens"]);
    bad(r#"[{"source": [96], "target": [1]}]"#, &["record 0", "source", "token 96"]);
    bad(r#"[{"source": [1], "target": [1], "more": 1}]"#, &["more"]);
    let text = write(&folder, "text.txt", "a text");
    refused(thumbformer("eval").arg(model("t5")).arg(text), 1, &["--ids", "--pairs"]);
    refused(eval(&model("t5")).args(["--window", "8"]), 1, &["--window"]);
}
