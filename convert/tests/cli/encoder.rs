//! Encoders: `thumbformer fill` and `embed`, and what the other commands do with one.

use super::common::{Expected, Sequence, encoder_with_vocabulary, model, relative_error};
use super::*;

fn list<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// A tiny model's checkpoint with a vocabulary of its size.
pub(super) fn with_tokenizer(name: &str) -> tempfile::TempDir {
    let folder = folder();
    encoder_with_vocabulary(name, folder.path());
    folder
}

/// A tokenizer.json that puts nothing around a text.
fn wordpiece(vocab: &[(&str, u32)], added: &[Value]) -> String {
    let vocab: serde_json::Map<String, Value> = vocab.iter().map(|&(token, id)| (token.into(), id.into())).collect();
    serde_json::json!({
        "added_tokens": added, "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece"},
        "model": {"type": "WordPiece", "unk_token": "u", "vocab": vocab}
    })
    .to_string()
}

/// `[[id, value], …]` of every position, as `run` prints them: all logits in the order of ids.
fn positions(name: &str, sequence: &Sequence, precision: &str) -> Vec<Vec<f32>> {
    let mut command = thumbformer("run");
    command.arg(model(name)).args(["--logits", "96", "--precision", precision, "--ids", &list(&sequence.ids)]);
    if !sequence.token_types.is_empty() {
        command.args(["--token-types", &list(&sequence.token_types)]);
    }
    let report = json(&mut command);
    assert_eq!(report["ids"], serde_json::json!(sequence.ids));
    let logits: Vec<Vec<(usize, f32)>> = serde_json::from_value(report["logits"].clone()).expect("logits");
    let all = |row: &Vec<(usize, f32)>| {
        assert!(row.is_sorted_by(|a, b| a.1 >= b.1) && row.len() == 96);
        let mut all = vec![f32::NAN; 96];
        row.iter().for_each(|&(id, logit)| all[id] = logit);
        all
    };
    logits.iter().map(all).collect()
}

#[test]
fn run_shows_every_positions_logits() {
    for name in ["bert", "bert-hub", "distilbert", "roberta", "roberta-untied"] {
        let expected = Expected::read(name, "expected.json");
        for (i, sequence) in expected.sequences.iter().enumerate() {
            // A sequence for each is enough; each is a program of its own.
            for (precision, tolerance) in [("f32", 1e-5), ("int8", 0.08)].into_iter().skip(i).take(1) {
                let found = positions(name, sequence, precision);
                assert_eq!(found.len(), sequence.ids.len());
                for &position in &sequence.positions {
                    let error = relative_error(&found[position], sequence.at(position).expect("kept"));
                    assert!(error < tolerance, "{name}, {precision}, {position}: {error}");
                }
            }
        }
    }
    let table = output(thumbformer("run").arg(model("bert")).args(["--ids", "1,2,3"]));
    assert_eq!(table.lines().count(), 3);
    assert!(table.starts_with("1\t") && table.lines().all(|line| line.split('\t').count() == 6), "{table}");
}

#[test]
fn run_refuses_what_an_encoder_cannot_take_in() {
    let run = |words: &[&str], args: &[&str]| refused(thumbformer("run").arg(model("bert")).args(args), 1, words);
    run(&["found 1 token types", "3 tokens"], &["--ids", "1,2,3", "--token-types", "0"]);
    run(&["token type 3 at index 1", "below the model's 3"], &["--ids", "1,2", "--token-types", "0,3"]);
    run(&["token 96 at index 1", "vocabulary of 96"], &["--ids", "1,96"]);
    run(&["--ids", "49 tokens", "only 48"], &["--ids", &list(&[1; 49])]);
    run(&["no tokenizer", "--ids"], &["hello"]);
    run(&["token type 3 at index 1"], &["--ids", "1,2", "--token-types", "0,3", "--precision", "f32"]);
    run(&["found 1 token types"], &["--ids", "1,2,3", "--token-types", "0", "--precision", "f32"]);
    refused(thumbformer("run").arg(model("bert")).args(["--ids", "1", "--token-types", "256"]), 2, &["256"]);
    refused(thumbformer("run").arg(model("bert")).args(["--token-types", "1"]), 2, &["--ids"]);
    refused(thumbformer("run").arg(model("bert-headless")).args(["--ids", "1"]), 1, &["no head", "embed"]);
    let decoder = ["--ids", "1", "--token-types", "0"];
    refused(thumbformer("run").arg(model("gpt2")).args(decoder), 1, &["--token-types", "only encoders"]);
    let folder = folder();
    let ids = write(&folder, "ids.json", "[1, 2, 3]");
    refused(thumbformer("eval").arg(model("bert")).arg("--ids").arg(&ids), 1, &["encoder", "at once"]);
}

#[test]
fn masks_are_filled() {
    let folder = with_tokenizer("bert");
    let fill = |args: &[&str]| json(thumbformer("fill").arg(folder.path()).args(args));
    let text = "Paris is the [MASK] of France.";
    let report = &fill(&[text, "--top", "96"])["texts"][0];
    // [CLS] paris is the [MASK] of f ##r ##a ##n ##c ##e . [SEP]
    let ids: Vec<u32> = serde_json::from_value(report["ids"].clone()).expect("ids");
    assert_eq!((ids.len(), &ids[..6], ids[13]), (14, &[2, 7, 8, 9, 4, 11][..], 3));
    let masks = report["masks"].as_array().expect("a list");
    assert_eq!((masks.len(), &masks[0]["position"]), (1, &4.into()));
    let candidates = masks[0]["candidates"].as_array().expect("a list");
    let of = |i: usize, field: &str| candidates[i][field].as_f64().expect("a number");
    let total: f64 = (0..96).map(|i| of(i, "probability")).sum();
    assert!((total - 1.0).abs() < 1e-9 && (1..96).all(|i| of(i - 1, "logit") >= of(i, "logit")), "{total}");
    assert!((of(0, "probability") / of(1, "probability") - (of(0, "logit") - of(1, "logit")).exp()).abs() < 1e-6);
    // The same as the logits of that position.
    let run = json(thumbformer("run").arg(folder.path()).args(["--ids", &list(&ids), "--logits", "3"]));
    for i in 0..3 {
        assert_eq!(run["logits"][4][i], serde_json::json!([candidates[i]["id"], candidates[i]["logit"]]));
    }
    // Each mask has its own; --top says how many.
    let report = &fill(&["[MASK] is [MASK]", "--top", "2"])["texts"][0];
    let positions: Vec<_> = report["masks"].as_array().expect("a list").iter().map(|mask| &mask["position"]).collect();
    assert_eq!(positions, [1, 3]);
    assert!(
        report["masks"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|m| m["candidates"].as_array().is_some_and(|c| c.len() == 2))
    );
    // For people.
    let table = output(thumbformer("fill").arg(folder.path()).arg(text));
    assert!(table.lines().count() == 5 && table.lines().all(|line| line.contains(" %  \"")), "{table}");
    let table = output(thumbformer("fill").arg(folder.path()).args(["[MASK] [MASK]", "--top", "1"]));
    assert!(table.lines().count() == 4 && table.contains("mask 2 of 2"), "{table}");
}

/// A text has the same results alone and among others of any length: each is computed by itself, so that there is no
/// padding for a mask to hide.
#[test]
fn texts_of_different_lengths_do_not_meet() {
    let bert = with_tokenizer("bert");
    let long = "the capital of ".repeat(15) + "[MASK]";
    let texts = ["[MASK]", "paris is the [MASK] of france", &long, "[MASK] is [MASK]"];
    for precision in ["int8", "f32"] {
        let run = |subcommand: &str, texts: &[&str]| {
            json(thumbformer(subcommand).arg(bert.path()).args(["--precision", precision]).args(texts))
        };
        let filled = run("fill", &texts);
        let embedded = embeddings(&run("embed", &texts));
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(run("fill", &[text])["texts"][0], filled["texts"][i], "{precision}: {text}");
            assert_eq!(embeddings(&run("embed", &[text]))[0], embedded[i], "{precision}: {text}");
        }
        // In another order too.
        let backwards: Vec<&str> = texts.iter().rev().copied().collect();
        let mut other = embeddings(&run("embed", &backwards));
        other.reverse();
        assert_eq!(other, embedded);
    }
    // Lines are texts.
    let lines = json(thumbformer("fill").arg(bert.path()).write_stdin(texts.join("\r\n")));
    assert_eq!(lines, json(thumbformer("fill").arg(bert.path()).args(texts)));
    // For people, each below its text.
    let table = output(thumbformer("fill").arg(bert.path()).args(["--top", "1", "[MASK] [MASK]", "of [MASK]"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 7 && lines[0] == "[MASK] [MASK]" && lines[1] == "mask 1 of 2", "{table}");
    assert!(lines[5] == "of [MASK]" && lines[6].contains(" %  \""), "{table}");
}

/// `<mask>` of a byte-level tokenizer takes in the space before it.
#[test]
fn roberta_fills_as_transformers_does() {
    #[derive(serde::Deserialize)]
    struct Text {
        text: String,
        ids: Vec<u32>,
        masks: Vec<Mask>,
    }
    #[derive(serde::Deserialize)]
    struct Mask {
        position: usize,
        candidates: Vec<Candidate>,
    }
    #[derive(serde::Deserialize)]
    struct Candidate {
        id: u32,
        probability: f64,
        #[serde(default)]
        token: String,
    }
    #[derive(serde::Deserialize)]
    struct Filled {
        texts: Vec<Text>,
    }
    let file = std::fs::read_to_string(model("roberta-bpe").join("expected_fill.json")).expect("a fixture");
    let expected: Filled = serde_json::from_str(&file).expect("a fixture");
    assert!(expected.texts.len() >= 6 && expected.texts.iter().any(|text| text.masks.len() > 2));
    let tokenizer = super::common::repository("tests/fixtures/tokenizers/roberta");
    let thumb = folder();
    let thumb = thumb.path().join("roberta.thumb");
    output(convert().arg(model("roberta-bpe")).arg("--tokenizer").arg(&tokenizer).arg("-o").arg(&thumb));
    for (path, precision, tolerance) in [(&model("roberta-bpe"), "f32", 1e-5), (&thumb, "int8", 0.05)] {
        let mut command = thumbformer("fill");
        command.arg(path).args(["--precision", precision]).args(expected.texts.iter().map(|text| &text.text));
        if precision == "f32" {
            command.arg("--tokenizer").arg(&tokenizer);
        }
        let found = json(&mut command);
        let found = found["texts"].as_array().expect("a list");
        assert_eq!(found.len(), expected.texts.len());
        for (found, expected) in found.iter().zip(&expected.texts) {
            assert_eq!(found["ids"], serde_json::json!(expected.ids), "{}", expected.text);
            let masks: Vec<Mask> = serde_json::from_value(found["masks"].clone()).expect("masks");
            assert_eq!(masks.len(), expected.masks.len());
            for (found, expected) in masks.iter().zip(&expected.masks) {
                assert_eq!(found.position, expected.position);
                let best = |mask: &Mask| mask.candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>();
                if precision == "f32" {
                    assert_eq!(best(found), best(expected));
                }
                for found in &found.candidates {
                    assert!(!found.token.is_empty());
                    let same = expected.candidates.iter().find(|candidate| candidate.id == found.id);
                    let difference = same.map_or(0.0, |same| (same.probability - found.probability).abs());
                    assert!(difference < tolerance, "{precision}, {}: off by {difference}", found.id);
                }
            }
        }
    }
}

#[test]
fn conversions_say_how_exact_encoders_are() {
    let thumb = folder();
    let thumb = thumb.path().join("x.thumb");
    let summary = |name: &str, options: &[&str]| {
        json(convert().arg(with_tokenizer(name).path()).args(options).args(["--force", "-o"]).arg(&thumb))
    };
    let number = |summary: &Value, field: &str| summary["accuracy"][field].as_f64().expect(field);
    let masked = summary("bert", &[]);
    assert!((1e-6..0.05).contains(&number(&masked, "kl_mean")) && number(&masked, "top1_agreement") > 0.7, "{masked}");
    // The same number each time, another for other scales.
    assert_eq!(summary("bert", &[])["accuracy"], masked["accuracy"]);
    assert_ne!(summary("bert", &["--group", "row"])["accuracy"], masked["accuracy"]);
    let vectors = summary("bert-headless", &[]);
    let (mean, lowest) = (number(&vectors, "cosine_mean"), number(&vectors, "cosine_min"));
    assert!(0.98 < lowest && lowest < mean && mean < 1.0, "{vectors}");
    // On the user's own text, and without a token that hides others.
    let text = with_tokenizer("bert");
    let text = write(&text, "text.txt", "paris is the capital of france");
    let given = summary("bert", &["--calibrate", text.to_str().expect("text")]);
    assert_ne!(given["accuracy"], masked["accuracy"]);
    let bare = json(convert().arg(model("bert")).args(["--force", "-o"]).arg(&thumb));
    assert!((1e-6..0.05).contains(&number(&bare, "kl_mean")), "{bare}");
    for (name, words) in
        [("bert", "accuracy    KL divergence from f32"), ("bert-headless", "accuracy    cosine to the vectors of f32")]
    {
        let table = output(convert().arg(model(name)).args(["--force", "-o"]).arg(&thumb));
        assert!(table.contains(words), "{table}");
    }
}

#[test]
fn a_finished_file_fills_as_its_checkpoint_does() {
    let folder = with_tokenizer("distilbert");
    let thumb = folder.path().join("x.thumb");
    let summary = output(convert().arg(folder.path()).arg("-o").arg(&thumb));
    for words in
        ["distilbert: encoder, 2 layers", "LayerNorm behind sublayers", "WordPiece, 96 tokens", "thumbformer fill"]
    {
        assert!(summary.contains(words), "{words}: {summary}");
    }
    let text = "the [MASK] of";
    let of = |path: &Path| json(thumbformer("fill").arg(path).arg(text));
    assert_eq!(of(&thumb), of(folder.path()));
    let inspected = json(thumbformer("inspect").arg(&thumb));
    assert_eq!((&inspected["mask_token"], &inspected["architecture"]["causal"]), (&4.into(), &false.into()));
    assert!(output(thumbformer("inspect").arg(&thumb)).contains("mask        4 \"[MASK]\""));
    let tried = output(convert().arg(folder.path()).arg("-o").arg(&thumb).args(["--force", "--quiet", "--try", text]));
    assert_eq!(tried.lines().count(), 5, "{tried}");
    // In f32 nearly the same.
    let exact = json(thumbformer("fill").arg(folder.path()).arg(text).args(["--precision", "f32"]));
    let logit = |report: &Value| report["texts"][0]["masks"][0]["candidates"][0]["logit"].as_f64().expect("a number");
    assert!((logit(&exact) - logit(&of(&thumb))).abs() < 0.3);
}

#[test]
fn texts_that_cannot_be_filled_are_refused() {
    for command in ["fill", "embed"] {
        // Neither takes ids.
        let words = ["no tokenizer", "--tokenizer", "`run` and `eval`"];
        refused(thumbformer(command).arg(model("bert")).arg("a text"), 1, &words);
    }
    let bert = with_tokenizer("bert");
    let refuse = |path: &Path, text: &str, words: &[&str]| refused(thumbformer("fill").arg(path).arg(text), 1, words);
    refuse(bert.path(), "paris is the capital", &["[MASK]"]);
    refuse(bert.path(), "", &["no [MASK]"]);
    refuse(bert.path(), &"[MASK] ".repeat(47), &["the text has 49 tokens", "only 48"]);
    refuse(&model("bert"), "[MASK]", &["no tokenizer"]);
    let headless = with_tokenizer("bert-headless");
    refuse(headless.path(), "[MASK]", &["no head", "embed"]);
    refuse(home_thumb(), "[MASK]", &["encoders", "thumbformer run"]);
    // A vocabulary that names no mask.
    let nameless = with_tokenizer("bert");
    std::fs::remove_file(nameless.path().join("vocab.txt")).expect("removed");
    let tokenizer = wordpiece(&[("u", 0), ("a", 1)], &[]);
    write(&nameless, "tokenizer.json", tokenizer);
    refuse(nameless.path(), "a", &["no mask token"]);
    refused(thumbformer("fill").arg(bert.path()).args(["[MASK]", "--top", "0"]), 2, &["0"]);
    refused(thumbformer("fill").arg(bert.path()).args(["[MASK]", "paris"]), 1, &["no [MASK] in text 2"]);
    refused(thumbformer("fill").arg(bert.path()).write_stdin("[MASK]\n\n"), 1, &["no [MASK] in text 2"]);
    refused(thumbformer("fill").arg(bert.path()).write_stdin(""), 1, &["no text"]);
    refused(thumbformer("fill").arg(bert.path()).write_stdin(b"a\n\xff"), 1, &["standard input", "UTF-8"]);
}

/// The vectors of `--json`.
fn embeddings(report: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(report["embeddings"].clone()).expect("vectors")
}

#[test]
fn texts_become_vectors() {
    let folder = with_tokenizer("bert-headless");
    let embed = |args: &[&str]| json(thumbformer("embed").arg(folder.path()).args(args));
    let report = embed(&["paris is the capital", "the capital is paris", "of"]);
    assert_eq!((&report["pooling"], &report["dimensions"]), (&"cls".into(), &30.into()), "as the files beside it say");
    let vectors = embeddings(&report);
    for (a, row) in vectors.iter().zip(report["cosines"].as_array().expect("a matrix")) {
        for (b, cosine) in vectors.iter().zip(row.as_array().expect("a row")) {
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!((cosine.as_f64().expect("a number") - dot).abs() < 1e-6);
        }
        assert!((a.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6);
    }
    // Alone or among others, by argument or by line, now or from a file: the same bits.
    let alone = embed(&["the capital is paris"]);
    assert_eq!(embeddings(&alone)[0], vectors[1]);
    let lines =
        json(thumbformer("embed").arg(folder.path()).write_stdin("paris is the capital\nthe capital is paris\nof\n"));
    assert_eq!(lines, report);
    let thumb = folder.path().join("x.thumb");
    assert!(output(convert().arg(folder.path()).arg("-o").arg(&thumb)).contains("thumbformer embed"));
    assert_eq!(json(thumbformer("embed").arg(&thumb).arg("the capital is paris")), alone);
    // The pooling can be chosen.
    assert_eq!(embed(&["of", "--pooling", "cls"]), embed(&["of"]));
    let mean = embed(&["of", "--pooling", "mean"]);
    assert_eq!(mean["pooling"], "mean");
    assert_ne!(mean["embeddings"], embed(&["of"])["embeddings"]);
    // f32 is near.
    let exact = embed(&["the capital is paris", "--precision", "f32"]);
    let cosine: f64 = embeddings(&exact)[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.99 && cosine < 1.0, "{cosine}");
    // Without those files, and with a head: the mean.
    let bert = with_tokenizer("bert");
    assert_eq!(json(thumbformer("embed").arg(bert.path()).arg("of"))["pooling"], "mean");
    // For people.
    let numbers = output(thumbformer("embed").arg(folder.path()).arg("of"));
    assert_eq!((numbers.lines().count(), numbers.split_whitespace().count()), (1, 30), "{numbers}");
    let matrix = output(thumbformer("embed").arg(folder.path()).args(["of", "paris"]));
    assert!(matrix.starts_with(" 1.0000 ") && matrix.lines().nth(1).is_some_and(|line| line.ends_with("  paris")));
}

#[test]
fn texts_that_cannot_be_embedded_are_refused() {
    let folder = with_tokenizer("bert-headless");
    let embed = || {
        let mut command = thumbformer("embed");
        command.arg(folder.path());
        command
    };
    // An empty text still has the tokens around it.
    assert_eq!(embeddings(&json(embed().arg(""))).len(), 1);
    refused(embed().write_stdin(""), 1, &["no text"]);
    refused(embed().write_stdin(b"a\n\xff"), 1, &["standard input", "UTF-8"]);
    refused(embed().args(["of", &"of ".repeat(47)]), 1, &["text 2 has 49 tokens", "only 48"]);
    refused(embed().args(["of", "--pooling", "max"]), 2, &["max", "mean, cls"]);
    refused(thumbformer("embed").arg(model("bert-headless")).arg("of"), 1, &["no tokenizer"]);
    refused(thumbformer("embed").arg(home_thumb()).arg("of"), 1, &["encoders", "thumbformer run"]);
    write(&folder, "1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
    refused(embed().arg("of"), 1, &["pooling_mode_max_tokens", "mean or cls"]);
    // A tokenizer that puts nothing around a text.
    std::fs::remove_file(folder.path().join("vocab.txt")).expect("removed");
    write(&folder, "1_Pooling/config.json", "{}");
    let bare = wordpiece(&[("u", 0), ("a", 1)], &[]);
    write(&folder, "tokenizer.json", bare);
    refused(embed().arg(""), 1, &["the text has no tokens"]);
    refused(embed().args(["a", ""]), 1, &["text 2 has no tokens"]);
}

#[test]
fn mask_tokens_are_found_wherever_they_are_named() {
    let load = |folder: &tempfile::TempDir| thumbformer_convert::tokenizer::load(folder.path()).expect("a tokenizer");
    let vocab = [("u", 0), ("<mask>", 1), ("[MASK]", 2), ("m", 3)];
    let token = |id: u32, content: &str, special: bool| serde_json::json!({"id": id, "content": content, "special": special, "normalized": false});
    for (added, config, mask) in [
        (vec![], "{}", None),
        // A usual name means it only where the token is special.
        (vec![token(1, "<mask>", true)], "{}", Some(1)),
        (vec![token(2, "[MASK]", true)], "{}", Some(2)),
        (vec![token(2, "[MASK]", false)], "{}", None),
        (vec![token(2, "[MASK]", true)], r#"{"mask_token": "m"}"#, Some(3)),
        (vec![token(2, "[MASK]", true)], r#"{"mask_token": {"content": "<mask>"}}"#, Some(1)),
        (vec![token(2, "[MASK]", true)], r#"{"mask_token": null}"#, Some(2)),
    ] {
        let folder = folder();
        write(&folder, "tokenizer.json", wordpiece(&vocab, &added));
        write(&folder, "tokenizer_config.json", config);
        assert_eq!(load(&folder).mask, mask, "{added:?} {config}");
    }
}
