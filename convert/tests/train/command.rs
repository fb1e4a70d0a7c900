//! `thumbformer train`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thumbformer::tokenizer::EncodeOptions;
use thumbformer_convert::tokenizer::{encode, load};
use thumbformer_convert::train::architecture::Architecture;
use thumbformer_convert::train::batch::{Batch, Masked};
use thumbformer_convert::train::model::{Model, Regularization};
use thumbformer_convert::train::parameters::Parameters;

/// Sentences of few words: something to learn within seconds.
pub(super) fn text() -> String {
    let (who, does, what) =
        (["the cat", "a dog", "my bird"], ["sees", "likes", "follows"], ["the moon", "a mouse", "its tail"]);
    let mut random = 1usize;
    let mut pick = |words: [&'static str; 3]| {
        random = random.wrapping_mul(1103515245).wrapping_add(12345) & 0x7fff_ffff;
        words[(random >> 16) % 3]
    };
    (0..400).map(|_| format!("{} {} {}.\n", pick(who), pick(does), pick(what))).collect()
}

/// Words of a few letters, and the same turned around.
fn letters(count: usize) -> String {
    let mut random = 7usize;
    let mut pick = |n: usize| {
        random = random.wrapping_mul(1103515245).wrapping_add(12345) & 0x7fff_ffff;
        (random >> 16) % n
    };
    let mut pair = || {
        let word: String = (0..1 + pick(6)).map(|_| ["a", "b", "c", "d", "e", "f"][pick(6)]).collect();
        let turned: String = word.chars().rev().collect();
        format!("{word}\t{turned}\n")
    };
    (0..count).map(|_| pair()).collect()
}

pub(super) fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("written");
    path
}

pub(super) fn thumbformer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thumbformer"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A small model that trains in a second or two.
const SMALL: [&str; 12] =
    ["--dim", "16", "--layers", "1", "--heads", "2", "--context", "32", "--batch", "8", "--every", "10"];

pub(super) fn train(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = thumbformer(&["train"]);
    command.arg(data).arg("-o").arg(out).args(SMALL).args(more).args(["--dropout", "0.1", "--warmup", "5"]);
    command
}

/// Runs to success; returns standard output and standard error.
pub(super) fn succeed(command: &mut Command) -> (String, String) {
    let output = command.output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    (out.into_owned(), err.into_owned())
}

/// Runs to failure; returns standard error.
pub(super) fn fail(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{command:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).expect(name)
}

fn model(folder: &Path) -> Model {
    let architecture = Architecture::read(folder).expect("a configuration");
    let parameters = Parameters::read(&architecture, folder).expect("weights");
    Model::new(architecture, parameters)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// The mean loss of a trained folder's model over windows of `window` tokens, by the trainer's forward pass.
fn loss(folder: &Path, ids: &[u32], window: usize) -> f32 {
    let model = model(folder);
    let weights = vec![1.0; window];
    let windows = ids.chunks(window).filter(|window| window.len() > 1);
    let batch = Batch::next_token(windows.map(|window| (window, &weights[..window.len() - 1])));
    let loss = model.loss(&batch, batch.weight(), Regularization::default()).expect("a loss");
    loss.to_scalar().expect("a number")
}

#[test]
fn a_text_becomes_a_model_that_converts_and_scores_as_it_was_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    for (preset, tokenizer) in [("llama", "bpe"), ("gpt2", "chars")] {
        let out = folder.path().join(preset);
        let more = ["--preset", preset, "--tokenizer", tokenizer, "--vocab", "280", "--steps", "60"];
        let (said, told) = succeed(train(&data, &out, &more).args(["--learning-rate", "1e-2"]));
        assert!(said.contains("60 steps, validation loss"), "{said}");
        assert!(told.contains("1 file: ") && told.contains("to validate with"), "{told}");

        let csv = String::from_utf8(bytes(&out, "log.csv")).expect("text");
        assert_eq!(csv.lines().count(), 61);
        let field = |line: &str, i: usize| line.split(',').nth(i).map(str::to_owned).unwrap_or_default();
        let lines: Vec<&str> = csv.lines().skip(1).collect();
        let (first, last) = (field(lines[0], 2), field(lines[59], 3));
        let number = |text: &str| text.parse::<f32>().expect("a loss");
        assert!(number(&last) < 0.6 * number(&first), "{first} to {last}");
        assert!(String::from_utf8_lossy(&bytes(&out, "loss.svg")).contains("<polyline"));

        // The converter's own reference finds the loss that the trainer's forward pass finds.
        let ids: Vec<u32> = (0..200).map(|i| (i * 7 % 20) as u32).collect();
        let list = write(&folder, "ids.json", serde_json::to_string(&ids).expect("JSON"));
        let mut eval = thumbformer(&["eval", "--json", "--precision", "f32", "--window", "32", "--ids"]);
        let (report, _) = succeed(eval.arg(&list).arg(&out));
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let (found, expected) = (report["nll"].as_f64().expect("a likelihood"), f64::from(loss(&out, &ids, 32)));
        assert!((found - expected).abs() < 1e-4 * expected, "{preset}: {found}, trained as {expected}");

        let thumb = out.with_extension("thumb");
        let mut convert = Command::new(env!("CARGO_BIN_EXE_convert"));
        succeed(convert.arg(&out).arg("-o").arg(&thumb).arg("--quiet"));
        let (answer, _) = succeed(thumbformer(&["run"]).arg(&thumb).arg("the cat ").args(["--max-tokens", "12"]));
        assert!(answer.chars().count() > 4, "{answer:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_gives_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let run = |name: &str, seed: &str| {
        let out = folder.path().join(name);
        succeed(&mut train(&data, &out, &["--tokenizer", "chars", "--steps", "12", "--seed", seed]));
        (bytes(&out, "model.safetensors"), bytes(&out, "log.csv"))
    };
    let (one, again, other) = (run("one", "1"), run("again", "1"), run("other", "2"));
    assert!(one == again, "the same seed gave two models");
    assert!(one.0 != other.0, "two seeds gave one model");
}

/// Waits until the run in `out` has written a checkpoint.
pub(super) fn first_checkpoint(child: &mut Child, out: &Path) {
    for _ in 0..6000 {
        if out.join("training.safetensors").exists() {
            return;
        }
        assert!(child.try_wait().expect("a child").is_none(), "the run has ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no checkpoint within a minute");
}

pub(super) fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs")
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_resumes_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = write(&folder, "text.txt", text());
    let sources = write(&folder, "sources.tsv", letters(200));
    for (objective, data, more) in [
        ("lm", &text, ["--tokenizer", "chars", "--accumulate", "2"]),
        ("mlm", &text, ["--vocab", "80", "--mask-share", "0.3"]),
        ("seq2seq", &sources, ["--tokenizer", "chars", "--label-smoothing", "0.1"]),
    ] {
        let more = [&["--objective", objective, "--steps", "400"], more.as_slice()].concat();
        let whole = folder.path().join(format!("{objective}-whole"));
        succeed(&mut train(data, &whole, &more));

        let broken = folder.path().join(format!("{objective}-broken"));
        let mut child = spawn(&mut train(data, &broken, &more));
        first_checkpoint(&mut child, &broken);
        succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
        assert!(child.wait().expect("a status").success(), "{objective}: an interrupt is no failure");
        assert_ne!(bytes(&broken, "model.safetensors"), bytes(&whole, "model.safetensors"), "{objective}");

        succeed(thumbformer(&["train", "--resume"]).arg(&broken));
        for name in ["model.safetensors", "training.safetensors", "tokenizer.json", "log.csv", "loss.svg"] {
            assert!(bytes(&broken, name) == bytes(&whole, name), "{objective}: {name} differs after resuming");
        }

        // Other data would be another run.
        let mut changed = std::fs::read(data).expect("read");
        changed.extend_from_slice(b"abc\tcba\n");
        std::fs::write(data, changed).expect("written");
        let error = fail(thumbformer(&["train", "--resume"]).arg(&broken));
        assert!(error.contains("the data have changed since training began"), "{objective}: {error}");
    }
}

#[test]
fn a_killed_run_leaves_a_folder_that_loads_and_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let more = ["--tokenizer", "chars", "--steps", "60"];
    let whole = folder.path().join("whole");
    let small = |out: &Path| {
        let mut command = train(&data, out, &[]);
        command.args(more);
        command
    };
    succeed(&mut small(&whole));
    let mut killed = 0;
    for wait in [0, 3, 10, 30, 90, 200, 400] {
        let out = folder.path().join(format!("killed-{wait}"));
        let mut child = spawn(&mut small(&out));
        std::thread::sleep(Duration::from_millis(wait));
        killed += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("killed");
        child.wait().expect("a status");
        if !out.exists() {
            continue;
        }
        loss(&out, &[0, 1, 2, 3], 4);
        let thumb = out.with_extension("thumb");
        succeed(Command::new(env!("CARGO_BIN_EXE_convert")).arg(&out).arg("-o").arg(&thumb).arg("--quiet"));
        succeed(thumbformer(&["train", "--resume"]).arg(&out));
        assert!(bytes(&out, "model.safetensors") == bytes(&whole, "model.safetensors"), "killed after {wait} ms");
    }
    assert!(killed > 0, "every run had ended before it was killed");
}

/// Requests with their words turned around as answers.
fn pairs() -> String {
    text().lines().map(|line| line.trim_end_matches('.')).fold(String::new(), |pairs, line| {
        let turned: Vec<&str> = line.split(' ').rev().collect();
        pairs + &format!("{line}\t{}\n", turned.join(" "))
    })
}

#[test]
fn pairs_teach_answers_and_a_trained_model_learns_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "pairs.tsv", pairs());
    let out = folder.path().join("answers");
    let more = ["--objective", "sft", "--vocab", "290", "--steps", "600", "--learning-rate", "5e-3", "--dim", "32"];
    let mut command = thumbformer(&["train"]);
    command.arg(&data).arg("-o").arg(&out).args(["--layers", "2", "--context", "48", "--batch", "16"]).args(more);
    let (_, told) = succeed(&mut command);
    assert!(told.contains("360 examples to train on") && told.contains("40 to validate with"), "{told}");
    let held_out: String = pairs().lines().take(30).map(|line| format!("{line}\n")).collect();
    let held_out = write(&folder, "held_out.tsv", held_out);
    let exact = |model: &Path| {
        let (report, _) = succeed(thumbformer(&["eval", "--json", "--pairs"]).arg(&held_out).arg(model));
        let report: Value = serde_json::from_str(&report).expect("JSON");
        report["exact"].as_u64().expect("a number")
    };
    let learned = exact(&out);
    assert!(learned >= 25, "{learned} of 30 answered");

    // Conversations, from where the model is: what it knew is not lost in a step of rate 0.
    let chat = pairs().lines().take(40).fold(String::new(), |lines, line| {
        let (request, answer) = line.split_once('\t').expect("a pair");
        let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
        lines
            + &serde_json::json!({ "messages": [message("user", request), message("assistant", answer)] }).to_string()
            + "\n"
    });
    let chat = write(&folder, "chat.jsonl", chat);
    let on = folder.path().join("on");
    let mut command = thumbformer(&["train", "--objective", "sft", "--steps", "1", "--learning-rate", "0", "--init"]);
    succeed(command.arg(&out).arg(&chat).arg("-o").arg(&on));
    assert_eq!(exact(&on), learned);
    assert!(bytes(&on, "model.safetensors") == bytes(&out, "model.safetensors"), "a step of rate 0 changed weights");
}

#[test]
fn characters_have_tokens_around_requests_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "pairs.tsv", letters(200));
    let out = folder.path().join("out");
    let mut command =
        thumbformer(&["train", "--objective", "sft", "--tokenizer", "chars", "--steps", "150", "--dim", "32"]);
    succeed(command.args(["--context", "24", "--learning-rate", "1e-2"]).arg(&data).arg("-o").arg(&out));
    // It ends by itself behind the answer, whatever that is.
    let (report, _) = succeed(thumbformer(&["run", "--json"]).arg(&out).arg("abc"));
    let report = json(&report);
    assert_eq!(report["prompt_ids"], serde_json::json!([1, 3, 4, 5, 2]));
    assert_eq!(report["ended"], "end_token", "{report}");
    // What the characters are not is counted, in requests and in answers.
    let strange = write(&folder, "strange.tsv", "axb\tbya\nz\ta\n");
    let out = folder.path().join("strange");
    let mut command = thumbformer(&["train", "--objective", "sft", "--tokenizer", "chars", "--steps", "1", "--valid"]);
    let (_, told) = succeed(command.arg(&strange).arg(&data).arg("-o").arg(&out));
    assert!(told.contains("3 characters of the validation pairs are not in the vocabulary"), "{told}");
}

#[test]
fn pairs_that_cannot_be_trained_on_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    for (name, line, expected) in [
        ("a.tsv", "no answer here", "line 401: no tab, expected request<TAB>answer"),
        ("b.tsv", "nothing\t", "line 401: no answer: found \"nothing\""),
        ("c.jsonl", r#"{"prompt": "x"}"#, "line 1: expected an object with `prompt` and `completion`"),
        (
            "d.jsonl",
            r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            "line 1: the last message, of \"user\", has no answer",
        ),
    ] {
        let before = if name.ends_with("tsv") { pairs() } else { String::new() };
        let data = write(&folder, name, before + line + "\n");
        let mut command = thumbformer(&["train", "--objective", "sft", "--vocab", "280"]);
        let error = fail(command.arg(&data).arg("-o").arg(&out));
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!out.exists());
    }
    // What does not fit is counted, and not cut.
    let data = write(&folder, "long.tsv", pairs() + &"very ".repeat(60) + "long\tyes\n");
    let mut command = thumbformer(&["train", "--objective", "sft", "--vocab", "280", "--steps", "1", "--dim", "16"]);
    let (_, told) = succeed(command.args(["--context", "48"]).arg(&data).arg("-o").arg(&out));
    assert!(told.contains("1 of 401 examples are longer than the context of 48 tokens and were skipped"), "{told}");
}

#[test]
fn texts_that_cannot_be_trained_on_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let good = write(&folder, "good.txt", text());
    for (data, more, expected) in [
        (write(&folder, "empty.txt", ""), &[][..], "empty, expected text"),
        (empty, &[], "no files in this folder"),
        (write(&folder, "latin1.txt", b"caf\xe9 caf\xe9"), &[], "byte 3 is not UTF-8"),
        (write(&folder, "line.txt", "one line\n"), &["--tokenizer", "chars"], "expected at least 33, the context"),
        (good.clone(), &["--vocab", "5000"], "the text supports"),
        (good.clone(), &["--vocab", "100"], "at least 257, for the 256 bytes"),
        (good.clone(), &["--tokenizer", "nowhere"], "expected bpe, wordpiece, chars, or a tokenizer's file"),
        (good.clone(), &["--tokenizer", "chars", "--heads", "3"], "--heads 3"),
        (good.clone(), &["--dropout", "1.5"], "--dropout 1.5: expected"),
        (folder.path().join("none.txt"), &[], "none.txt: "),
    ] {
        let mut command = thumbformer(&["train"]);
        command.arg(&data).arg("-o").arg(&out).args(["--dim", "16", "--context", "32"]).args(more);
        let error = fail(&mut command);
        assert!(error.starts_with("error: ") && error.contains(expected), "{expected}: {error}");
        assert!(!out.exists(), "{expected}: something was written");
    }
    // What the vocabulary does not know is counted.
    let strange = write(&folder, "strange.txt", format!("{}ä ö ä\n", text()));
    let more = ["--tokenizer", "chars", "--steps", "1"];
    let (_, told) = succeed(train(&good, &out, &more).arg("--valid").arg(&strange));
    assert!(told.contains("3 characters of the validation text are not in the vocabulary"), "{told}");
    let error = fail(&mut train(&good, &out, &more));
    assert!(error.contains("is not empty: use --resume"), "{error}");
}

#[test]
fn checkpoints_of_others_are_fine_tuned_from_where_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", "abc cab bac cba acb bca abc cab\n".repeat(40));
    for name in ["nanogpt", "gpt2", "gpt2-erf", "gpt2-noprefix", "llama-gqa-tied", "llama-untied", "llama-f16"] {
        let init = super::common::model(name);
        let window = 16;
        let ids: Vec<u32> = (0..window as u32).map(|i| i * 5 % 11).collect();
        let list = write(&folder, "ids.json", serde_json::to_string(&ids).expect("JSON"));
        let nll = |model: &Path| {
            let mut eval = thumbformer(&["eval", "--json", "--precision", "f32", "--window", "16", "--ids"]);
            let (report, _) = succeed(eval.arg(&list).arg(model));
            let report: Value = serde_json::from_str(&report).expect("JSON");
            report["nll"].as_f64().expect("a likelihood")
        };
        let train = |rate: &str| {
            let out = folder.path().join(format!("{name}-{rate}"));
            let mut command = thumbformer(&["train", "--tokenizer", "chars", "--steps", "3", "--warmup", "0"]);
            succeed(command.args(["--learning-rate", rate, "--init"]).arg(&init).arg(&data).arg("-o").arg(&out));
            out
        };
        let (found, expected) = (nll(&train("0")), nll(&init));
        assert!((found - expected).abs() < 2e-5 * expected, "{name}: {found}, before training {expected}");
        let log = String::from_utf8(bytes(&train("0.01"), "log.csv")).expect("text");
        let loss = |line: usize| log.lines().nth(line).and_then(|line| line.split(',').nth(2)?.parse::<f32>().ok());
        assert!(loss(3) < loss(1), "{name}: {log}");
    }
    let out = folder.path().join("out");
    let mut command = thumbformer(&["train", "--tokenizer", "chars", "--init"]);
    let error = fail(command.arg(super::common::model("llama-bias")).arg(&data).arg("-o").arg(&out));
    assert!(error.contains("field `attention_bias`") || error.contains("field `mlp_bias`"), "{error}");
    let mut command = thumbformer(&["train", "--tokenizer", "chars", "--init"]);
    let error = fail(command.arg(super::common::model("gptj")).arg(&data).arg("-o").arg(&out));
    assert!(error.contains("field `model_type`: found \"gptj\", expected llama, gpt2, bert or marian"), "{error}");
}

/// Asserts that the converter's reference computes the logits that the trainer's forward pass computes.
fn assert_logits_of_encoder(folder: &Path, ids: &[u32]) {
    let model = model(folder);
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut run = thumbformer(&["run", "--json", "--precision", "f32", "--logits", "1000", "--ids", &list]);
    let (report, _) = succeed(run.arg(folder));
    let everything = Masked { ids: ids.to_vec(), hidden: (0..ids.len()).map(|position| (position, 0)).collect() };
    let logits = model.logits(&Batch::masked(&[everything]), Regularization::default()).expect("logits");
    let expected: Vec<Vec<f32>> = logits.to_vec2().expect("rows");
    let found = json(&report);
    let rows = found["logits"].as_array().expect("positions");
    assert_eq!(rows.len(), ids.len());
    for (row, expected) in rows.iter().zip(&expected) {
        let row: Vec<(usize, f32)> = serde_json::from_value(row.clone()).expect("ids and logits");
        assert_eq!(row.len(), model.architecture.vocab);
        for (id, logit) in row {
            assert!((logit - expected[id]).abs() < 1e-4, "token {id}: {logit}, trained as {}", expected[id]);
        }
    }
}

#[test]
fn hidden_words_are_learned_and_filled_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let train = |tokenizer: &str, vocab: &str, out: &Path| {
        let mut command =
            thumbformer(&["train", "--objective", "mlm", "--dim", "32", "--layers", "1", "--context", "24"]);
        command.args(["--tokenizer", tokenizer, "--vocab", vocab, "--steps", "300", "--learning-rate", "5e-3", "-o"]);
        succeed(command.arg(out).arg(&data)).1
    };
    for (tokenizer, vocab) in [("wordpiece", "80"), ("bpe", "290")] {
        let out = folder.path().join(tokenizer);
        let told = train(tokenizer, vocab, &out);
        assert!(told.contains("360 examples to train on") && told.contains("40 to validate with"), "{told}");
        assert_logits_of_encoder(&out, &[2, 7, 4, 9, 4, 3]);

        let thumb = out.with_extension("thumb");
        succeed(Command::new(env!("CARGO_BIN_EXE_convert")).arg(&out).arg("-o").arg(&thumb).arg("--quiet"));
        let mut fill = thumbformer(&["fill", "--json", "--top", "3"]);
        let (filled, _) = succeed(fill.arg(&thumb).args(["the [MASK] sees a mouse.", "a dog likes [MASK] tail."]));
        let filled = json(&filled);
        let best = |text: usize| filled["texts"][text]["masks"][0]["candidates"][0]["token"].as_str().map(str::trim);
        if tokenizer == "wordpiece" {
            assert_eq!((best(0), best(1)), (Some("cat"), Some("its")), "{filled}");
        } else {
            // The mask has taken the space before it, token 225, and stands for a word with one.
            let (ids, position) = (&filled["texts"][0]["ids"], filled["texts"][0]["masks"][0]["position"].as_u64());
            let before = position.map(|position| &ids[position as usize - 1]);
            assert!(best(0).is_some() && before != Some(&225.into()), "{filled}");
        }
    }
    // Once more, with everything that is drawn by chance.
    let again = folder.path().join("again");
    train("wordpiece", "80", &again);
    for name in ["tokenizer.json", "model.safetensors", "log.csv"] {
        assert!(bytes(&again, name) == bytes(&folder.path().join("wordpiece"), name), "the same seed: another {name}");
    }
}

#[test]
fn sources_are_answered_and_scored_as_they_were_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "pairs.tsv", letters(2000));
    let out = folder.path().join("turned");
    let more = ["--objective", "seq2seq", "--tokenizer", "chars", "--steps", "500", "--learning-rate", "5e-3"];
    let sizes = ["--dim", "32", "--layers", "2", "--decoder-layers", "1", "--context", "12", "--batch", "32"];
    let mut command = thumbformer(&["train", "--label-smoothing", "0.1"]);
    let (_, told) = succeed(command.arg(&data).arg("-o").arg(&out).args(more).args(sizes));
    assert!(told.contains("1800 examples to train on") && told.contains("200 to validate with"), "{told}");

    let thumb = out.with_extension("thumb");
    succeed(Command::new(env!("CARGO_BIN_EXE_convert")).arg(&out).arg("-o").arg(&thumb).arg("--quiet"));
    let held_out: String = letters(2100).lines().skip(2000).map(|line| format!("{line}\n")).collect();
    let held_out = write(&folder, "held_out.tsv", held_out);
    let (report, _) = succeed(thumbformer(&["eval", "--json", "--pairs"]).arg(&held_out).arg(&thumb));
    let exact = json(&report)["exact"].as_u64().expect("a number");
    assert!(exact >= 90, "{exact} of 100 answered");
    let (answer, _) = succeed(thumbformer(&["run", "--beams", "4"]).arg(&thumb).arg("abcde"));
    assert_eq!(answer, "edcba\n");

    // The converter's own reference finds the loss that the trainer's forward pass finds.
    let records = [(vec![3u32, 4, 5, 2], vec![5u32, 4, 3, 2]), (vec![6, 2], vec![7, 8, 2])];
    let list: Vec<Value> =
        records.iter().map(|(source, target)| serde_json::json!({ "source": source, "target": target })).collect();
    let list = write(&folder, "records.json", serde_json::to_string(&list).expect("JSON"));
    let (report, _) = succeed(thumbformer(&["eval", "--json", "--precision", "f32", "--ids"]).arg(&list).arg(&out));
    let found = json(&report)["nll"].as_f64().expect("a likelihood");
    let batch = Batch::answers(records.iter().map(|(source, answer)| (source.as_slice(), answer.as_slice())), 1);
    let loss = model(&out).loss(&batch, batch.weight(), Regularization::default()).expect("a loss");
    let expected = f64::from(loss.to_scalar::<f32>().expect("a number"));
    assert!((found - expected).abs() < 1e-4 * expected, "{found}, trained as {expected}");

    // From where the model is, on records: what it knew is not lost in a step of rate 0.
    let records = letters(20).lines().fold(String::new(), |lines, line| {
        let (prompt, completion) = line.split_once('\t').expect("a pair");
        lines + &serde_json::json!({ "prompt": prompt, "completion": completion }).to_string() + "\n"
    });
    let records = write(&folder, "records.jsonl", records);
    let on = folder.path().join("on");
    let mut command = thumbformer(&["train", "--objective", "seq2seq", "--steps", "1", "--learning-rate", "0"]);
    succeed(command.arg("--init").arg(&out).arg(&records).arg("-o").arg(&on));
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(bytes(&on, name) == bytes(&out, name), "a step of rate 0 changed {name}");
    }
}

#[test]
fn encoders_and_encoder_decoders_of_others_are_fine_tuned_from_where_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = write(&folder, "text.txt", "abc cab bac cba\n".repeat(40));
    let pairs = write(&folder, "pairs.tsv", letters(60));
    let trained = super::common::repository("tests/fixtures/train/marian");
    for (name, init, objective, data) in [
        ("bert", super::common::model("bert"), "mlm", &text),
        ("bert-hub", super::common::model("bert-hub"), "mlm", &text),
        ("marian", trained, "seq2seq", &pairs),
    ] {
        let train = |rate: &str| {
            let out = folder.path().join(format!("{name}-{rate}"));
            let more = ["--tokenizer", "chars", "--steps", "8", "--warmup", "0", "--objective", objective];
            let mut command = thumbformer(&["train", "--learning-rate", rate, "--init"]);
            succeed(command.arg(&init).args(more).arg(data).arg("-o").arg(&out));
            out
        };
        let unchanged = train("0");
        let config = json(&String::from_utf8(bytes(&unchanged, "config.json")).expect("text"));
        if objective == "mlm" {
            assert_logits_of_encoder(&unchanged, &[2, 7, 4, 9, 3]);
            assert_eq!(config["architectures"][0], "BertForMaskedLM");
            // What was there before, in the same order.
            let logits = |folder: &Path| {
                let mut run = thumbformer(&["run", "--json", "--precision", "f32", "--ids", "2,7,4,9,3"]);
                let (report, _) = succeed(run.arg(folder));
                json(&report)["logits"].clone()
            };
            assert_eq!(logits(&unchanged), logits(&init), "{name}");
        } else {
            // Tokens of the new vocabulary, not of the old one.
            assert_eq!((&config["decoder_start_token_id"], &config["eos_token_id"]), (&1.into(), &2.into()));
            let expected: Vec<u8> = bytes(&init, "model.safetensors");
            let (found, expected) = (bytes(&unchanged, "model.safetensors").len(), expected.len());
            assert!(found.abs_diff(expected) < 200, "{name}: {found} bytes, before training {expected}");
        }
        let log = String::from_utf8(bytes(&train("0.01"), "log.csv")).expect("text");
        let loss = |line: usize| log.lines().nth(line).and_then(|line| line.split(',').nth(2)?.parse::<f32>().ok());
        assert!(loss(8) < loss(1), "{name}: {log}");
    }
    // Of a checkpoint with other heads, the one for masked tokens is kept.
    let init = folder.path().join("pretraining");
    std::fs::create_dir(&init).expect("a folder");
    std::fs::copy(super::common::model("bert").join("model.safetensors"), init.join("model.safetensors"))
        .expect("copied");
    let config = String::from_utf8(bytes(&super::common::model("bert"), "config.json")).expect("text");
    std::fs::write(init.join("config.json"), config.replace("BertForMaskedLM", "BertForPreTraining")).expect("written");
    let out = folder.path().join("masked");
    let mut command = thumbformer(&["train", "--tokenizer", "chars", "--objective", "mlm", "--steps", "1", "--init"]);
    let (_, told) = succeed(command.arg(&init).arg(&text).arg("-o").arg(&out));
    assert!(told.contains("made for [\"BertForPreTraining\"], what comes out for [\"BertForMaskedLM\"]"), "{told}");
    assert!(bytes(&out, "config.json").windows(15).any(|window| window == b"BertForMaskedLM"));

    let out = folder.path().join("out");
    for (name, objective, data, expected) in [
        ("marian", "seq2seq", &pairs, "field `decoder_attention_heads`: found 2, expected 4, as in the encoder"),
        ("bert-headless", "mlm", &text, "cls.predictions"),
        ("gpt2", "mlm", &text, "--objective mlm with a gpt2: expected bert, or --objective lm"),
        ("bert", "lm", &text, "--objective lm with a bert: expected llama or gpt2, or --objective mlm"),
    ] {
        let mut command = thumbformer(&["train", "--tokenizer", "chars", "--objective", objective, "--init"]);
        let error = fail(command.arg(super::common::model(name)).arg(data).arg("-o").arg(&out));
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_marian_keeps_the_tokenizers_of_its_two_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = folder.path().join("marian");
    std::fs::create_dir(&init).expect("a folder");
    let copy = |from: &str, to: &str| {
        std::fs::copy(super::common::repository("tests/fixtures").join(from), init.join(to)).expect("copied");
    };
    copy("train/marian/model.safetensors", "model.safetensors");
    copy("train/marian/config.json", "config.json");
    copy("tokenizers/unigram/tokenizer.model", "source.spm");
    copy("tokenizers/unigram/tokenizer.model", "target.spm");
    // Pieces have the ids of vocab.json: those of the words here, and the special tokens.
    let library =
        load(&super::common::repository("tests/fixtures/tokenizers/unigram/tokenizer.model")).expect("a model");
    let library = library.tokenizer().expect("a tokenizer");
    let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let mut ids = serde_json::Map::new();
    for (name, id) in [("<pad>", 0), ("<unk>", 1), ("</s>", 2)] {
        ids.insert(name.into(), id.into());
    }
    for id in encode(&library, "the lamp in the room", bare).expect("a text") {
        let name = String::from_utf8_lossy(library.token_bytes(id)).replace(' ', "\u{2581}");
        let next = ids.len();
        ids.entry(name).or_insert(next.into());
    }
    std::fs::write(init.join("vocab.json"), Value::from(ids).to_string()).expect("written");

    let data = write(&folder, "pairs.tsv", "the lamp\tthe room\nthe room\tthe lamp\n".repeat(20));
    let out = folder.path().join("out");
    let mut command = thumbformer(&["train", "--objective", "seq2seq", "--steps", "60", "--learning-rate", "1e-2"]);
    succeed(command.arg("--init").arg(&init).arg(&data).arg("-o").arg(&out));
    for name in ["source.spm", "target.spm", "vocab.json", "config.json"] {
        assert!(bytes(&out, name) == bytes(&init, name), "{name} has changed");
    }
    let before = bytes(&out, "model.safetensors");
    succeed(thumbformer(&["train", "--resume"]).arg(&out));
    assert!(bytes(&out, "model.safetensors") == before);
    let thumb = folder.path().join("model.thumb");
    succeed(Command::new(env!("CARGO_BIN_EXE_convert")).arg(&out).arg("-o").arg(&thumb).arg("--quiet"));
    for (source, answer) in [("the lamp", "the room\n"), ("the room", "the lamp\n")] {
        assert_eq!(succeed(thumbformer(&["run"]).arg(&thumb).arg(source)).0, answer);
    }
}

#[test]
fn masked_texts_and_sources_that_cannot_be_trained_on_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let good = write(&folder, "good.txt", text());
    let bytes_only = write(&folder, "bytes.txt", b"a caf\xe9");
    let one = write(&folder, "one.txt", "one line only, one line only\n");
    let empty = write(&folder, "empty.txt", "\n \n");
    let pairs = write(&folder, "good.tsv", letters(20));
    let turns = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#;
    let turns = write(&folder, "turns.jsonl", turns.replace('\n', "") + "\n");
    let no_answer = write(&folder, "none.tsv", letters(3) + "abc\t\n");
    let one_pair = write(&folder, "one.tsv", "abc\tcba\n");
    let words = write(&folder, "words.tsv", "abcd\tdcba\n".repeat(20));
    let no_mask = folder.path().join("tokenizer.json");
    succeed(thumbformer(&["tokenizer", "train", "--vocab", "257", "-o"]).arg(&no_mask).arg(&good));
    let no_mask = no_mask.to_str().expect("a path");
    let chars = ["--tokenizer", "chars"];
    for (objective, data, more, expected) in [
        ("mlm", &good, &["--vocab", "5000"][..], "--vocab 5000: the text supports"),
        ("mlm", &good, &["--vocab", "30"], "for 5 special tokens and 21 characters in two places each"),
        ("mlm", &good, &["--tokenizer", no_mask], "the tokenizer names no mask token"),
        ("mlm", &good, &["--vocab", "80", "--mask-share", "0"], "--mask-share 0: expected above 0"),
        ("mlm", &good, &["--vocab", "80", "--context", "2"], "--context 2: expected at least 3"),
        ("mlm", &good, &["--preset", "llama", "--vocab", "80"], "--objective mlm with a llama: expected bert"),
        ("mlm", &bytes_only, &[], "byte 5 is not UTF-8"),
        ("mlm", &empty, &[], "empty, expected text"),
        ("mlm", &one, &["--vocab", "26"], "1 example, expected at least 2"),
        ("lm", &good, &["--tokenizer", "wordpiece"], "--tokenizer wordpiece writes no text"),
        ("lm", &good, &["--preset", "bert", "--vocab", "280"], "or --objective mlm"),
        ("lm", &good, &["--decoder-layers", "2", "--vocab", "280"], "--decoder-layers 2: expected an encoder-decoder"),
        ("seq2seq", &turns, &chars, "line 1: 2 turns, expected a source and its answer"),
        ("seq2seq", &no_answer, &chars, "line 4: no answer: found \"abc\""),
        ("seq2seq", &one_pair, &chars, "1 example, expected at least 2"),
        ("seq2seq", &good, &chars, "line 1: no tab"),
        ("seq2seq", &pairs, &["--vocab", "5000"], "--vocab 5000: the text supports"),
        ("seq2seq", &words, &["--tokenizer", "chars", "--context", "2"], "none of 20 examples fits the context of 2"),
        ("seq2seq", &pairs, &["--tokenizer", "chars", "--kv-heads", "1"], "--kv-heads 1: expected as many"),
        (
            "seq2seq",
            &pairs,
            &["--tokenizer", "chars", "--decoder-layers", "0"],
            "--decoder-layers 0: expected at least",
        ),
    ] {
        let mut command = thumbformer(&["train", "--dim", "16", "--objective", objective]);
        let error = fail(command.arg(data).arg("-o").arg(&out).args(more));
        assert!(error.contains("error: ") && error.contains(expected), "{expected}: {error}");
        assert!(!out.exists(), "{expected}: something was written");
    }
    // What does not fit or is not known is counted.
    let long = write(&folder, "long.txt", format!("{}the cat sees a dog sees my bird sees the moon.\n", text()));
    let strange = write(&folder, "strange.txt", "the cat sees ☃.\na dog sees a ☃.\n☃\n");
    let mut command = thumbformer(&["train", "--objective", "mlm", "--vocab", "80", "--steps", "1", "--dim", "16"]);
    let (_, told) = succeed(command.args(["--context", "9", "--valid"]).arg(&strange).arg(&long).arg("-o").arg(&out));
    assert!(told.contains("1 line longer than the context of 9 tokens: cut into 2 texts"), "{told}");
    assert!(told.contains("3 words of the validation text are not in the vocabulary"), "{told}");
    assert!(told.contains("1 line with nothing to hide: left out"), "{told}");
    let pairs = write(&folder, "long.tsv", letters(20) + "abcdefabcdef\tfedcbafedcba\n");
    let strange = write(&folder, "strange.tsv", "abxyc\tcba\n");
    let out = folder.path().join("pairs");
    let mut command =
        thumbformer(&["train", "--objective", "seq2seq", "--steps", "1", "--dim", "16", "--context", "8"]);
    let (_, told) = succeed(command.args(chars).arg("--valid").arg(&strange).arg(&pairs).arg("-o").arg(&out));
    assert!(told.contains("1 of 21 examples are longer than the context of 8 tokens and were skipped"), "{told}");
    assert!(told.contains("2 characters of the validation pairs are not in the vocabulary"), "{told}");
}

#[test]
fn a_tokenizer_is_learned_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let data =
        write(&folder, "text.txt", "low low low lower lower newest newest newest newest widest widest\n".repeat(5));
    let file = folder.path().join("tokenizer.json");
    let mut command = thumbformer(&["tokenizer", "train", "--vocab", "265", "-o"]);
    let (said, _) = succeed(command.arg(&file).arg(&data));
    assert!(said.contains("265 tokens, 8 merges"), "{said}");
    let (merges, told) = succeed(thumbformer(&["tokenizer", "show", "--merges", "2"]).arg(&file));
    // "es" and "st" come 30 times each, the first before the second.
    let lines: Vec<&str> = merges.lines().collect();
    assert_eq!((lines.len(), lines[0].trim()), (2, "1  \"e\" + \"s\" = \"es\" (257)"), "{merges}");
    assert!(lines[1].contains("\"es\" + \"t\" = \"est\" (258)"), "{merges}");
    assert!(told.contains("2 merges of 8"), "{told}");
    let (shown, told) = succeed(thumbformer(&["tokenizer", "show"]).arg(&file).arg("est\n"));
    assert_eq!((shown.as_str(), told.trim()), ("est|\\n\n", "2 tokens for 4 characters"));
    let error = fail(thumbformer(&["tokenizer", "train", "--vocab", "265", "-o"]).arg(&file).arg(&data));
    assert!(error.contains("exists: use --force"), "{error}");

    for (kind, tokens, cut) in [("wordpiece", "32 tokens;", "low\n"), ("chars", "12 tokens;", "l|o|w\n")] {
        let file = folder.path().join(format!("{kind}.json"));
        let mut command = thumbformer(&["tokenizer", "train", "--vocab", "32", "--kind", kind, "-o"]);
        let (said, _) = succeed(command.arg(&file).arg(&data));
        assert!(said.contains(tokens), "{said}");
        let (shown, _) = succeed(thumbformer(&["tokenizer", "show"]).arg(&file).arg("low"));
        assert_eq!(shown, cut);
    }
    let more = ["tokenizer", "train", "--kind", "chars", "--special", "<s>", "-o"];
    let error = fail(thumbformer(&more).arg(folder.path().join("none.json")).arg(&data));
    assert!(error.contains("--special: expected --kind bpe"), "{error}");
}
