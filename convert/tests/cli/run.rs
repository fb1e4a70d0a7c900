//! `thumbformer run`: text for people, `--json` for scripts.

use std::process::Stdio;

use serde::Deserialize;
use thumbformer::Backend;

use super::common::{Expected, model, models, open, relative_error};
use super::*;

const REQUEST: &str = "please dim the bedroom lamp to forty percent";
const ANSWER: &str = "light.dim(bedroom,40)";

fn run(model: impl AsRef<Path>) -> Command {
    let mut command = thumbformer("run");
    command.arg(model.as_ref());
    command
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

/// `[[id, value], …]` for each generated position.
fn logits(report: &Value) -> Vec<Vec<(u32, f32)>> {
    serde_json::from_value(report["logits"].clone()).unwrap_or_else(|e| panic!("{e}: {report}"))
}

#[test]
fn a_request_is_answered() {
    let answer = format!("{ANSWER}\n");
    assert_eq!(output(run(home_thumb()).arg(REQUEST)), answer);
    // A checkpoint is converted in memory, whatever names it.
    for path in [home(), home().join(""), home().join("model.safetensors")] {
        assert_eq!(output(run(&path).arg(REQUEST)), answer, "{}", path.display());
        assert_eq!(output(run(&path).arg(REQUEST).args(["--precision", "f32"])), answer, "{}", path.display());
    }
    let (_, _, stderr) = all(run(home_thumb()).arg(REQUEST));
    assert_eq!(stderr, "");
    let (_, stdout, stderr) = all(run(home_thumb()).arg(REQUEST).arg("--stats"));
    assert_eq!(stdout, answer);
    assert!(stderr.contains("prompt: 13 tokens") && stderr.contains("answer: 10 tokens"), "{stderr}");
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    for end in ["", "\n", "\r\n"] {
        let input = format!("{REQUEST}{end}");
        assert_eq!(output(run(home_thumb()).write_stdin(input)), format!("{ANSWER}\n"), "{end:?}");
    }
    // Only the last line's end is not part of it.
    let report = json(run(home_thumb()).arg("--raw").write_stdin("a\nb\n\n"));
    assert_eq!(ids(&report["prompt_ids"]), [68, 202, 69, 202]);
    refused(run(home_thumb()).write_stdin(b"hi \xff"), 1, &["standard input", "byte 3", "UTF-8"]);
}

#[test]
fn f32_is_what_pytorch_computes() {
    #[derive(Deserialize)]
    struct Case {
        request: String,
        prompt_ids: Vec<u32>,
        answer_ids: Vec<u32>,
        answer: String,
        top5_logits_per_step: Vec<Vec<(u32, f32)>>,
    }
    let text = std::fs::read_to_string(home().join("reference_f32.json")).expect("the reference");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("the reference");
    assert!(cases.len() >= 4);
    for case in cases {
        let mut from_ids = run(home());
        from_ids.args(["--ids", &list(&case.prompt_ids), "--max-tokens", "64", "--logits", "5", "--precision", "f32"]);
        let mut from_text = run(home());
        from_text.args([&case.request, "--logits", "5", "--precision", "f32"]);
        for command in [&mut from_ids, &mut from_text] {
            let report = json(command);
            assert_eq!(ids(&report["prompt_ids"]), case.prompt_ids);
            assert_eq!(ids(&report["ids"]), case.answer_ids);
            assert_eq!(report["text"], case.answer);
            assert_eq!(report["ended"], "end_token");
            assert_eq!(report["stats"]["prompt_tokens"], case.prompt_ids.len());
            assert_eq!(report["stats"]["generated_tokens"], case.answer_ids.len());
            let found = logits(&report);
            assert_eq!(found.len(), case.top5_logits_per_step.len());
            for (found, expected) in found.iter().flatten().zip(case.top5_logits_per_step.iter().flatten()) {
                assert_eq!(found.0, expected.0);
                // The reference has five decimals.
                assert!((found.1 - expected.1).abs() < 1e-4 * expected.1.abs().max(1.0), "{found:?}, not {expected:?}");
            }
        }
    }
}

#[test]
fn all_logits_of_every_decoder() {
    // Those that answer a source are another test's.
    let alone = |name: &String| {
        let arch = open(&model(name), None).1.arch;
        arch.causal && !arch.cross
    };
    for name in models().into_iter().filter(alone) {
        let expected = Expected::read(&name, "expected.json");
        let sequence = expected.sequences.iter().min_by_key(|s| s.ids.len().abs_diff(17)).expect("a sequence");
        let position = *sequence.positions.last().expect("a position");
        let prompt = list(&sequence.ids[..=position]);
        let k = expected.vocab.to_string();
        let options = ["--ids", &prompt, "--max-tokens", "1", "--logits", &k, "--precision", "f32"];
        let report = json(run(model(&name)).args(options));
        assert_eq!(report["text"], Value::Null);
        let [found] = &logits(&report)[..] else { panic!("one position: {report}") };
        assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "{name}");
        let mut by_id = vec![f32::NAN; expected.vocab];
        found.iter().for_each(|&(id, value)| by_id[id as usize] = value);
        let error = relative_error(&by_id, sequence.at(position).expect("kept"));
        // As the reference's own tests.
        assert!(error < 1e-4, "{name}: {error}");
        assert_eq!(ids(&report["ids"]), [found[0].0], "{name}");
    }
}

#[test]
fn one_result() {
    // Threads, kernels, layouts, a file or memory: the same ids and the same bits.
    let (dsp, home) = (folder(), home());
    let thumb = dsp.path().join("dsp.thumb");
    output(convert().arg(&home).args(["--target", "dsp", "-q", "-o"]).arg(&thumb));
    let mut results = Vec::new();
    let mut add = |path: &Path, options: &[&str]| {
        let report = json(run(path).args([REQUEST, "--logits", "512"]).args(options));
        results.push((format!("{options:?} {}", path.display()), report["ids"].clone(), report["logits"].clone()));
    };
    add(home_thumb(), &[]);
    add(&home, &[]);
    add(&home, &["--target", "dsp"]);
    for threads in ["1", "2", "3", "64"] {
        add(home_thumb(), &["--threads", threads]);
    }
    let kernels: Vec<_> = Backend::available().map(Backend::name).collect();
    assert!(kernels.contains(&"portable"));
    for kernel in kernels {
        add(home_thumb(), &["--kernel", kernel]);
        add(&thumb, &["--kernel", kernel]);
    }
    let (_, ids, logits) = &results[0];
    assert_eq!(logits[0].as_array().map(Vec::len), Some(512));
    for (what, other_ids, other_logits) in &results {
        assert_eq!(ids, other_ids, "{what}");
        assert!(logits == other_logits, "{what}: other logits");
    }
    // Another group is another model.
    let row = json(run(&home).args([REQUEST, "--logits", "512", "--group", "row"]));
    assert_eq!(&row["ids"], ids);
    assert!(&row["logits"] != logits);
}

#[test]
fn token_ids_in_and_out() {
    let folder = folder();
    let thumb = folder.path().join("gpt2.thumb");
    output(convert().arg(model("gpt2")).arg("-q").arg("-o").arg(&thumb));
    let plain = output(run(&thumb).args(["--ids", "1,2,3", "--max-tokens", "5"]));
    let report = json(run(&thumb).args(["--ids", " 1, 2 ,3", "--max-tokens", "5"]));
    assert_eq!(plain, format!("{}\n", list(&ids(&report["ids"]))));
    assert_eq!((ids(&report["prompt_ids"]), ids(&report["ids"]).len()), (vec![1, 2, 3], 5));
    assert_eq!((&report["ended"], &report["text"]), (&"max_tokens".into(), &Value::Null));
    assert!(report.get("logits").is_none(), "not asked for: {report}");

    refused(run(&thumb).arg("hi"), 1, &["gpt2.thumb", "no tokenizer", "--ids"]);
    refused(run(model("gpt2")).arg("hi"), 1, &["gpt2", "no tokenizer", "--ids"]);
    refused(run(&thumb).args(["--ids", "1", "--stop", "x"]), 1, &["--stop", "tokenizer"]);
    refused(run(&thumb).args(["--ids", "1,95,96"]), 1, &["token 96", "index 2", "96"]);
    for wrong in ["", "1,,2", "1,x", "1.5", "4294967296"] {
        refused(run(&thumb).args(["--ids", wrong]), 2, &["--ids", "separated by commas"]);
    }
    refused(run(&thumb).args(["--ids", "1", "--logits", "3"]), 2, &["--json"]);
    refused(run(&thumb).args(["hi", "--ids", "1"]), 2, &["--ids", "PROMPT"]);
}

#[test]
fn where_generation_ends() {
    let report = json(run(home_thumb()).args([REQUEST, "--max-tokens", "0", "--logits", "4"]));
    assert_eq!((ids(&report["ids"]), &report["text"]), (vec![], &"".into()));
    assert_eq!((&report["ended"], logits(&report).len()), (&"max_tokens".into(), 0));
    // More logits than tokens are all of them.
    let report = json(run(home_thumb()).args([REQUEST, "--max-tokens", "1", "--logits", "100000"]));
    assert_eq!(logits(&report)[0].len(), 512);

    // A prompt as long as the context leaves its own logits, and so one token.
    let full = list(&[5; 128]);
    let report = json(run(home_thumb()).args(["--ids", &full]));
    assert_eq!((&report["ended"], ids(&report["ids"]).len()), (&"context_full".into(), 1));
    let (code, _, stderr) = all(run(home_thumb()).args(["--ids", &full]));
    assert!(code == 0 && stderr.contains("context of 128 tokens is full"), "{stderr}");
    for precision in ["int8", "f32"] {
        let mut command = run(home());
        command.args(["--ids", &format!("{full},5"), "--precision", precision]);
        refused(&mut command, 1, &["129 tokens", "128"]);
    }
    refused(run(home_thumb()).write_stdin("turn on ".repeat(5000)), 1, &["tokens", "128"]);
}

#[test]
fn stop_strings_across_tokens() {
    // ANSWER's tokens are `light` `.` `dim` `(` `bedroom` `,` `4` `0` `)`.
    let cases = [
        ("room", "light.dim(bed"),
        ("room,4", "light.dim(bed"),
        ("t.d", "ligh"),
        ("l", ""),
        ("40)", "light.dim(bedroom,"),
        ("rooms", ANSWER),
        (")x", ANSWER),
    ];
    for (stop, expected) in cases {
        assert_eq!(output(run(home_thumb()).args([REQUEST, "--stop", stop])), format!("{expected}\n"), "{stop:?}");
        let report = json(run(home_thumb()).args([REQUEST, "--stop", stop]));
        assert_eq!(report["text"], expected, "{stop:?}");
        let ended = if expected == ANSWER { "end_token" } else { "stop_string" };
        assert_eq!(report["ended"], ended, "{stop:?}");
    }
    let two = output(run(home_thumb()).args([REQUEST, "--stop", "40", "--stop", "bed"]));
    assert_eq!(two, "light.dim(\n");
    refused(run(home_thumb()).args([REQUEST, "--stop", ""]), 2, &["--stop"]);
    refused(run(home_thumb()).args([REQUEST, "--stop", &"x".repeat(300)]), 1, &["--stop", "256 bytes"]);
}

#[test]
fn empty_prompts() {
    // With a prompt format there is something to answer; without, the model's start token.
    assert_eq!(ids(&json(run(home_thumb()).arg(""))["prompt_ids"]), [1, 2]);
    refused(run(home_thumb()).arg("").arg("--raw"), 1, &["prompt is empty", "no token to start with"]);
    let starting = folder();
    copy(&starting, &["model.safetensors", "tokenizer.json"]);
    let config = std::fs::read_to_string(home().join("config.json")).expect("a configuration");
    let config = config.replace("\"bos_token_id\": null", "\"bos_token_id\": 1");
    write(&starting, "config.json", config);
    assert_eq!(ids(&json(run(starting.path()).arg("").arg("--raw"))["prompt_ids"]), [1]);
    let folder = folder();
    let nanogpt = common::repository("tests/fixtures/checkpoints");
    std::fs::copy(nanogpt.join("ckpt.pt"), folder.path().join("ckpt.pt")).expect("copied");
    std::fs::copy(nanogpt.join("meta4.pkl"), folder.path().join("meta.pkl")).expect("copied");
    refused(run(folder.path()).arg(""), 1, &["prompt is empty", "no token to start with"]);
    refused(run(folder.path()).arg("\u{2603}"), 1, &["\u{2603}"]);
}

#[test]
fn options_that_cannot_be_met() {
    refused(run(home_thumb()).args([REQUEST, "--precision", "f32"]), 1, &["int8 weights only", "checkpoint"]);
    refused(run(home_thumb()).args([REQUEST, "--kernel", "abacus"]), 2, &["abacus", "portable"]);
    refused(run(home_thumb()).args([REQUEST, "--threads", "0"]), 2, &["--threads", "1..=64"]);
    let conversions = [
        "--group=row",
        "--target=dsp",
        "--context=9",
        "--tokenizer=x",
        "--config=x",
        "--normalize-head=no",
        "--format=x",
    ];
    for option in conversions {
        let name = option.split('=').next().expect("a name");
        refused(run(home_thumb()).arg(REQUEST).arg(option), 1, &["converted already", name]);
    }
    let report = json(run(home()).args(["--ids", &list(&[5; 9]), "--context", "9"]));
    assert_eq!(report["ended"], "context_full");
}

#[cfg(unix)]
#[test]
fn readers_that_go_away() {
    let program = |output: Stdio, error: Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_thumbformer"));
        command.arg("run").arg(home_thumb()).args([REQUEST, "--stats"]).stdout(output).stderr(error);
        command
    };
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let done = program(closed().into(), Stdio::piped()).output().expect("started");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
    let done = program(Stdio::piped(), closed().into()).output().expect("started");
    assert_eq!((done.status.code(), done.stdout), (Some(0), format!("{ANSWER}\n").into_bytes()));
    // A full disk is another matter.
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let done = program(full.into(), Stdio::piped()).output().expect("started");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(1) && stderr.contains("standard output"), "{stderr}");
    }
}
