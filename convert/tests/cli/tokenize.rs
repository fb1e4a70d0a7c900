//! `thumbformer tokenize`. That the ids are right is the tokenizers' own tests' business.

use thumbformer_convert::pipeline::{Calibration, Options, Prepared};

use super::*;

/// By Hugging Face's `tokenizers`.
const TEXT: &str = "please dim the bedroom lamp to forty percent";
const IDS: &str = "[482,297,76,80,264,460,332,289,319,442,406]";

fn tokenize(options: &[&str], input: impl Into<Vec<u8>>) -> Command {
    let mut command = thumbformer("tokenize");
    command.arg(home_thumb()).args(options).write_stdin(input);
    command
}

#[test]
fn every_place_where_a_tokenizer_lies() {
    for path in [home_thumb().to_owned(), home(), home().join("tokenizer.json")] {
        let mut command = thumbformer("tokenize");
        command.arg(&path).arg("--json-lines").write_stdin(format!("{TEXT:?}\n"));
        assert_eq!(output(&mut command), format!("{IDS}\n"), "{}", path.display());
    }
}

#[test]
fn lines_of_json() {
    // The last line may lack its end, and lines may end as on Windows.
    let lines = "\"\"\r\n\"a\\nb\"\n\"<|end|>\"\n\"\\u00e9\"";
    assert_eq!(output(&mut tokenize(&["--json-lines"], lines)), "[]\n[68,202,69]\n[3]\n[131,106]\n");
    let ids = format!("[1]\n[]\n{IDS}\n[131,106]\n[131]\n");
    let texts = format!("\"<|request|>\"\n\"\"\n{TEXT:?}\n\"é\"\n\"\u{fffd}\"\n");
    assert_eq!(output(&mut tokenize(&["--json-lines", "--decode"], ids)), texts);
    assert_eq!(output(&mut tokenize(&["--json-lines", "--decode", "--no-special"], "[1,68,3]")), "\"a\"\n");
    assert_eq!(output(&mut tokenize(&["--json-lines"], "")), "");
}

#[test]
fn lines_of_text() {
    let shown = output(&mut tokenize(&[], "turn on\r\n\né"));
    assert_eq!(shown, "87:\"t\" 381:\"urn\" 348:\" on\"\n\n131:\"\\xc3\" 106:\"\\xa9\"\n");
    assert_eq!(output(&mut tokenize(&["--decode"], "87 381,348\n131, 106")), "turn on\né\n");
}

#[test]
fn the_line_in_the_way_is_named() {
    let cases: [(&[&str], &[u8], &[&str]); 9] = [
        (&["--json-lines"], b"\"a\"\nb\n", &["line 2", "not a JSON string"]),
        (&["--json-lines"], b"\"a\"\n\n\"b\"", &["line 2", "not a JSON string"]),
        (&["--json-lines"], b"[1]", &["line 1", "expected a string"]),
        (&["--json-lines"], b"\"\\ud83d\"", &["line 1"]),
        (&["--json-lines", "--decode"], b"[1]\n[-1]", &["line 2", "-1"]),
        (&["--json-lines", "--decode"], b"[511]\n[512]", &["line 2", "512"]),
        (&["--decode"], b"1 x", &["line 1", "1 x"]),
        (&["--decode"], b"4294967295", &["line 1", "4294967295", "below 512"]),
        (&[], b"a\n\xff", &["line 2", "not UTF-8"]),
    ];
    for (options, input, words) in cases {
        let (code, _, stderr) = all(&mut tokenize(options, input));
        assert_eq!(code, 1, "{options:?}");
        for word in words {
            assert!(stderr.contains(word), "{options:?}: no {word:?} in: {stderr}");
        }
    }
}

#[test]
fn what_holds_no_tokenizer() {
    let gpt2 = common::model("gpt2");
    let cases: [(PathBuf, &[&str]); 4] = [
        (home().join("config.json"), &["config.json", "not a tokenizer.json"]),
        (home().join("held_out.tsv"), &["held_out.tsv", "expected tokenizer.json"]),
        (gpt2.clone(), &["gpt2", "no tokenizer.json"]),
        (home().join("absent.json"), &["absent.json", "No such file"]),
    ];
    for (path, words) in cases {
        refused(thumbformer("tokenize").arg(path).write_stdin("hi"), 1, words);
    }
    let folder = folder();
    let thumb = folder.path().join("gpt2.thumb");
    output(convert().arg(gpt2).arg("-q").arg("-o").arg(&thumb));
    refused(thumbformer("tokenize").arg(thumb).write_stdin("hi"), 1, &["gpt2.thumb", "no tokenizer"]);
}

#[test]
fn a_character_that_the_tokenizer_lacks() {
    let meta = common::repository("tests/fixtures/checkpoints/meta4.pkl");
    refused(thumbformer("tokenize").arg(meta).write_stdin("\u{2603}"), 1, &["line 1", "\u{2603}"]);
}

#[test]
fn sources_have_a_tokenizer_of_their_own() {
    let folder = folder();
    common::marian_of_two_vocabularies(folder.path(), "the lamp");
    let thumb = folder.path().join("marian.thumb");
    output(convert().arg(folder.path()).arg("-q").arg("-o").arg(&thumb));
    let ids = |path: &Path, options: &[&str]| {
        let mut command = thumbformer("tokenize");
        command.arg(path).arg("--json-lines").args(options).write_stdin("\"the lamp\"\n");
        serde_json::from_str::<Vec<u32>>(&output(&mut command)).expect("ids")
    };
    for path in [folder.path(), &thumb] {
        let (of_source, of_target) = (ids(path, &["--source"]), ids(path, &[]));
        assert_eq!(of_source.first(), Some(&20), "{}", path.display());
        assert_eq!(of_target.first(), Some(&70), "{}", path.display());
        assert_eq!(of_source.len(), of_target.len());
    }
    for path in [home_thumb().to_owned(), home(), home().join("tokenizer.json")] {
        refused(thumbformer("tokenize").arg(path).arg("--source"), 1, &["--source", "one tokenizer"]);
    }
}

#[test]
fn keys_of_sources_are_measured_on_sources() {
    let folder = folder();
    common::marian_of_two_vocabularies(folder.path(), "the lamp");
    let text = write(&folder, "text.txt", "the lamp");
    let given = |calibration| {
        let options = Options { calibration, ..Options::default() };
        Prepared::open(folder.path(), options).expect("good").given_tokens().to_vec()
    };
    let ids = given(Calibration::File(text.clone()));
    assert!(ids.starts_with(&[20]) && ids.ends_with(&[0]), "{ids:?}");
    output(
        convert().arg(folder.path()).args(["-q", "-o"]).arg(folder.path().join("a.thumb")).arg("--calibrate").arg(text),
    );
}
