//! `thumbformer eval`: likelihoods against PyTorch's, and how much int8 costs.

use serde::Deserialize;

use super::common::outside;
use super::*;

fn eval(model: impl AsRef<Path>) -> Command {
    let mut command = thumbformer("eval");
    command.arg(model.as_ref());
    command
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {pointer}: {report}"))
}

/// tests/fixtures/likelihood.json, by PyTorch.
#[derive(Deserialize)]
struct Reference {
    text: String,
    ids: Vec<u32>,
    windows: Vec<Window>,
}

#[derive(Deserialize)]
struct Window {
    window: usize,
    tokens: u64,
    nll: f64,
}

impl Reference {
    fn read() -> Self {
        let path = common::repository("tests/fixtures/likelihood.json");
        serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("the fixture")
    }

    fn files(&self, folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        let ids = serde_json::to_string_pretty(&self.ids).expect("JSON");
        (write(folder, "text.txt", &self.text), write(folder, "ids.json", ids))
    }
}

#[test]
fn likelihood_as_in_pytorch() {
    let (folder, reference) = (folder(), Reference::read());
    let (text, ids) = reference.files(&folder);
    for Window { window, tokens, nll } in &reference.windows {
        let size = window.to_string();
        let f32 = json(eval(home()).args(["--window", &size, "--precision", "f32", "--ids"]).arg(&ids));
        assert_eq!(f32["tokens"], *tokens, "window {window}");
        assert!((number(&f32, "/nll") - nll).abs() < 1e-5 * nll, "window {window}: {}, not {nll}", f32["nll"]);
        assert!((number(&f32, "/perplexity") - nll.exp()).abs() < 1e-4 * nll.exp());
        assert!(f32.get("top1_agreement").is_none(), "no reference: {f32}");
        let int8 = json(eval(home_thumb()).args(["--window", &size, "--ids"]).arg(&ids));
        assert_eq!(int8["tokens"], *tokens);
        // Found: 0.1 %.
        assert!((number(&int8, "/nll") - nll).abs() < 0.01 * nll, "window {window}: {}, not {nll}", int8["nll"]);
    }
    // The context is the window unless told otherwise; text is its ids; a checkpoint is converted on the way.
    let whole = json(eval(home_thumb()).arg("--ids").arg(&ids));
    assert_eq!(whole, json(eval(home_thumb()).args(["--window", "128", "--ids"]).arg(&ids)));
    assert_eq!(whole, json(eval(home_thumb()).arg(&text)));
    assert_eq!(whole, json(eval(home()).arg(&text)));
    assert_eq!(whole, json(eval(home()).args(["--target", "dsp", "--threads", "1"]).arg(&text)));
    let short = json(eval(home()).args(["--context", "50"]).arg(&text));
    assert_eq!(short["tokens"], 1149);
}

#[test]
fn against_f32() {
    let (folder, reference) = (folder(), Reference::read());
    let (text, ids) = reference.files(&folder);
    let report = json(eval(home_thumb()).arg("--reference").arg(home()).arg("--ids").arg(&ids));
    let nll = reference.windows[0].nll;
    assert!((number(&report, "/reference/nll") - nll).abs() < 1e-5 * nll);
    assert_eq!(report["top1_agreement"], report["divergence"]["top1_agreement"]);
    // Found 0.0019 over the first 300 pairs with group 32; group 64 has 0.0023, whole rows 0.0031.
    assert!(number(&report, "/divergence/kl_mean") < 0.0021, "{report}");
    assert!(number(&report, "/divergence/kl_mean") > 0.0, "{report}");
    assert!(number(&report, "/divergence/kl_p999") <= number(&report, "/divergence/kl_max"));
    assert!(number(&report, "/top1_agreement") > 0.975, "{report}");
    // f32 against itself.
    let same = json(eval(home()).args(["--precision", "f32", "--reference"]).arg(home()).arg("--ids").arg(&ids));
    assert_eq!((number(&same, "/divergence/kl_max"), number(&same, "/top1_agreement")), (0.0, 1.0));

    let table = output(eval(home_thumb()).arg("--reference").arg(home()).arg(&text));
    for words in ["int8", "f32", "perplexity", "KL divergence", "top-1 agreement", "1163"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    // The window is what both can do; the options of a conversion are the reference's.
    let half = json(eval(home_thumb()).args(["--context", "50", "--reference"]).arg(home()).arg("--ids").arg(&ids));
    assert_eq!(half["tokens"], 1149);
    refused(eval(home_thumb()).args(["--context", "50", "--ids"]).arg(&ids), 1, &["--context", "converted already"]);
    let gpt2 = common::model("gpt2");
    refused(eval(home_thumb()).arg("--reference").arg(&gpt2).arg("--ids").arg(&ids), 1, &["96", "512"]);
    refused(eval(home_thumb()).arg("--reference").arg(home_thumb()).arg("--ids").arg(&ids), 1, &["int8 weights only"]);
    refused(eval(home_thumb()).args(["--reference", "absent", "--ids"]).arg(&ids), 1, &["absent", "No such file"]);
}

#[test]
fn all_held_out_pairs() {
    // PyTorch in f32: 1,990 of 2,000, a mean NLL of 0.001324 over 23,129 tokens.
    let report = json(eval(home_thumb()).arg("--pairs").arg(home().join("held_out.tsv")));
    assert_eq!((&report["pairs"], &report["answers"]["tokens"]), (&2000.into(), &23_129.into()));
    let (exact, nll) = (number(&report, "/exact"), number(&report, "/answers/nll"));
    assert!((exact - 1990.0).abs() <= 0.003 * 2000.0, "{report}");
    assert_eq!(number(&report, "/exact_rate"), exact / 2000.0);
    assert!((nll - 0.001324).abs() <= 5e-5, "{report}");
}

#[test]
fn f32_answers_as_in_pytorch() {
    // Some of the pairs, one that the f32 model gets wrong among them.
    let read = |name: &str| std::fs::read_to_string(home().join(name)).expect("a fixture");
    let (pairs, greedy) = (read("held_out.tsv"), read("held_out_f32_greedy.txt"));
    let cases: Vec<_> = pairs.lines().zip(greedy.lines()).skip(100).take(90).collect();
    let wrong: Vec<_> = cases
        .iter()
        .enumerate()
        .filter_map(|(i, (pair, answer))| {
            let expected = pair.split_once('\t')?.1;
            (expected != *answer).then(|| format!("line {}: expected {expected:?}, got {answer:?}\n", i + 1))
        })
        .collect();
    assert!(!wrong.is_empty());
    let folder = folder();
    let file = write(&folder, "pairs.tsv", cases.iter().map(|(pair, _)| format!("{pair}\r\n")).collect::<String>());
    let (code, table, stderr) = all(eval(home()).args(["--precision", "f32", "--show-wrong", "--pairs"]).arg(&file));
    assert_eq!((code, stderr), (0, wrong.concat()));
    assert!(table.contains(&format!("{} / {}", cases.len() - wrong.len(), cases.len())), "{table}");
    let both = json(eval(home_thumb()).arg("--reference").arg(home()).arg("--pairs").arg(&file));
    assert_eq!(number(&both, "/reference/exact") as usize, cases.len() - wrong.len());
}

#[test]
fn stories260k() {
    #[derive(Deserialize)]
    struct Stories {
        nll: Nll,
        prompt_ids: Vec<u32>,
        greedy_ids: Vec<u32>,
        greedy_text: String,
    }
    #[derive(Deserialize)]
    struct Nll {
        ids: Vec<u32>,
        scored: u64,
    }
    let Some(model) = outside("stories260K") else { return };
    let text = std::fs::read_to_string(model.join("reference.json")).expect("reference.json");
    let stories: Stories = serde_json::from_str(&text).expect("reference.json");
    let folder = folder();
    let ids = write(&folder, "ids.json", serde_json::to_string(&stories.nll.ids).expect("JSON"));
    let report = json(eval(&model).args(["--window", "512", "--reference"]).arg(&model).arg("--ids").arg(&ids));
    assert_eq!(report["tokens"], stories.nll.scored);
    assert!((number(&report, "/reference/nll") - 1.2629).abs() < 0.0005, "{report}");
    assert!(number(&report, "/divergence/kl_mean") <= 0.0016, "{report}");

    let prompt: Vec<_> = stories.prompt_ids.iter().map(u32::to_string).collect();
    let count = stories.greedy_ids.len().to_string();
    let options = ["--precision", "f32", "--max-tokens", &count, "--ids", &prompt.join(",")];
    let story = json(thumbformer("run").arg(&model).args(options));
    assert_eq!(story["ids"], serde_json::json!(stories.greedy_ids));
    assert_eq!(story["text"], stories.greedy_text);

    // Both spellings of the configuration are the same model.
    let (new, old) = (folder.path().join("new.thumb"), folder.path().join("old.thumb"));
    output(convert().arg(&model).arg("-q").arg("-o").arg(&new));
    output(convert().arg(&model).arg("--config").arg(model.join("config.v4.json")).arg("-q").arg("-o").arg(&old));
    assert!(std::fs::read(new).expect("written") == std::fs::read(old).expect("written"));
}

#[test]
fn what_cannot_be_scored() {
    let folder = folder();
    let lists: [(&str, &[u8], &[&str]); 9] = [
        ("empty.json", b"[]", &["0 tokens", "at least 2"]),
        ("one.json", b"[1]", &["1 token,", "at least 2"]),
        ("outside.json", b"[1, 2, 511, 512]", &["token 512", "index 3", "512"]),
        ("object.json", b"{\"ids\": [1]}", &["JSON list of token ids"]),
        ("fraction.json", b"[1, 2.5]", &["JSON list of token ids", "2.5"]),
        ("negative.json", b"[1, -1]", &["JSON list of token ids", "-1"]),
        ("nothing.json", b"", &["JSON list of token ids"]),
        ("cut.json", b"[1, 2", &["JSON list of token ids"]),
        ("binary.json", b"[1, \xff]", &["byte 4", "UTF-8"]),
    ];
    for (name, content, words) in lists {
        let path = write(&folder, name, content);
        refused(eval(home_thumb()).arg("--json").arg("--ids").arg(path), 1, &[words, &[name]].concat());
    }
    let ids = write(&folder, "ids.json", "[1, 2, 3]");
    for window in ["0", "1", "129"] {
        refused(eval(home_thumb()).args(["--window", window, "--ids"]).arg(&ids), 1, &[window, "2 to 128"]);
    }
    let text = write(&folder, "text.txt", "");
    refused(eval(home_thumb()).arg(&text), 1, &["text.txt", "0 tokens"]);
    refused(eval(home_thumb()).arg("absent.txt"), 1, &["absent.txt", "No such file"]);
    refused(eval(common::model("gpt2")).arg(&text), 1, &["gpt2", "no tokenizer", "--ids"]);
    refused(&mut eval(home_thumb()), 2, &["TEXT", "--ids", "--pairs"]);
    refused(eval(home_thumb()).arg(&text).arg("--ids").arg(&ids), 2, &["cannot be used with"]);
    refused(eval(home_thumb()).arg("--pairs").arg(&ids).args(["--window", "9"]), 2, &["--window"]);
    refused(eval(home_thumb()).arg(&text).arg("--show-wrong"), 2, &["--show-wrong"]);
}

#[test]
fn files_of_pairs() {
    let folder = folder();
    let long = format!("ok\tok\n{}\tx\n", "turn on ".repeat(100));
    let wrong: [(&str, &[u8], &[&str]); 4] = [
        ("tabless.tsv", b"a\tb\n\nno tab\n", &["line 3", "request<TAB>answer"]),
        ("blank.tsv", b"\n\n", &["no pairs"]),
        ("binary.tsv", b"a\t\xff\n", &["byte 2", "UTF-8"]),
        ("long.tsv", long.as_bytes(), &["line 2", "128"]),
    ];
    for (name, content, words) in wrong {
        let path = write(&folder, name, content);
        refused(eval(home_thumb()).arg("--pairs").arg(path), 1, &[words, &[name]].concat());
    }
    refused(eval(home_thumb()).args(["--pairs", "absent.tsv"]), 1, &["absent.tsv", "No such file"]);
    refused(eval(common::model("gpt2")).args(["--pairs", "absent.tsv"]), 1, &["gpt2", "no tokenizer"]);
    // Odd but answerable: an empty request, an empty answer, a tab in the answer, no end of the last line.
    let odd = write(&folder, "odd.tsv", "\tx\nhi\t\na\tb\tc\nturn on the kitchen light\tlight.on(kitchen)");
    let report = json(eval(home_thumb()).arg("--pairs").arg(odd));
    assert_eq!((&report["exact"], &report["pairs"]), (&1.into(), &4.into()));
}

/// What `tests/fixtures/ragged.py` wrote.
#[derive(Deserialize)]
struct Ragged {
    sources: Vec<RaggedSources>,
    pairs: RaggedPairs,
}

#[derive(Deserialize)]
struct RaggedSources {
    model: String,
    records: Vec<Value>,
    nll: Vec<f64>,
}

#[derive(Deserialize)]
struct RaggedPairs {
    lines: Vec<String>,
    tokens: Vec<u64>,
    nll: Vec<f64>,
}

/// Sequences of different lengths: each as if it were alone, and as transformers computes them in one batch whose
/// padding is masked.
#[test]
fn sequences_of_different_lengths_do_not_meet() {
    let text = std::fs::read_to_string(common::repository("tests/fixtures/ragged.json")).expect("a fixture");
    let ragged: Ragged = serde_json::from_str(&text).expect("a fixture");
    let folder = folder();
    let total =
        |report: &Value, at: &str| number(report, &format!("{at}/nll")) * number(report, &format!("{at}/tokens"));
    let close = |found: f64, expected: f64| (found - expected).abs() < 1e-5 * expected;
    let f32 = ["--precision", "f32"];
    for RaggedSources { model, records, nll } in ragged.sources {
        let of = |records: &[Value], options: &[&str]| {
            let file = write(&folder, "records.json", serde_json::to_string(records).expect("JSON"));
            json(eval(common::model(&model)).args(options).arg("--ids").arg(file))
        };
        let (mut f32_sum, mut int8_sum) = (0.0, 0.0);
        for (record, nll) in records.chunks(1).zip(&nll) {
            let alone = total(&of(record, &f32), "");
            assert!(close(alone, *nll), "{model}: {record:?}: {alone}, not {nll}");
            f32_sum += alone;
            int8_sum += total(&of(record, &[]), "");
        }
        assert!(close(total(&of(&records, &f32), ""), f32_sum), "{model}");
        let int8 = total(&of(&records, &[]), "");
        assert!((int8 - int8_sum).abs() < 1e-9 * int8, "{model}: {int8}, {int8_sum} one by one");
    }
    let RaggedPairs { lines, tokens, nll } = ragged.pairs;
    let of = |lines: &[String], options: &[&str]| {
        let file = write(&folder, "pairs.tsv", lines.join("\n"));
        json(eval(home()).args(options).arg("--pairs").arg(file))
    };
    let (mut f32_sum, mut int8_sum) = (0.0, 0.0);
    for ((line, nll), tokens) in lines.chunks(1).zip(&nll).zip(&tokens) {
        let report = of(line, &f32);
        let alone = total(&report, "/answers");
        assert_eq!(number(&report, "/answers/tokens"), *tokens as f64);
        // Some answers are all but certain.
        assert!((alone - nll).abs() < 1e-4 * nll + 1e-6, "{line:?}: {alone}, not {nll}");
        f32_sum += alone;
        int8_sum += total(&of(line, &[]), "/answers");
    }
    assert!(close(total(&of(&lines, &f32), "/answers"), f32_sum));
    let int8 = total(&of(&lines, &[]), "/answers");
    assert!((int8 - int8_sum).abs() < 1e-9 * int8, "{int8}, {int8_sum} one by one");
}
