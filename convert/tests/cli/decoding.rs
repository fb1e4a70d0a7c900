//! `thumbformer run`: sampling, beams, grammars, lookup and saved states.

use std::collections::BTreeSet;

use super::common::model;
use super::*;

const REQUEST: &str = "please dim the bedroom lamp to forty percent";
const ANSWER: &str = "light.dim(bedroom,40)";

fn run(options: &[&str]) -> Command {
    let mut command = thumbformer("run");
    command.arg(home_thumb()).arg(REQUEST).args(options);
    command
}

fn text(options: &[&str]) -> String {
    output(&mut run(options)).trim_end_matches('\n').to_owned()
}

#[test]
fn sampling_follows_its_seed() {
    // Without chance, the likeliest answer.
    for options in [&["--temperature", "0"][..], &["--top-k", "1"], &["--min-p", "1"], &["--top-p", "1e-6"]] {
        assert_eq!(text(options), ANSWER, "{options:?}");
    }
    let hot = |seed: &str| text(&["--temperature", "4", "--top-k", "50", "--seed", seed, "-n", "12"]);
    assert_eq!(hot("1"), hot("1"));
    assert_eq!(text(&["--temperature", "4", "--top-k", "50", "-n", "12"]), hot("0"), "the default seed");
    let different: BTreeSet<String> = (0..6).map(|seed| hot(&seed.to_string())).collect();
    assert!(different.len() >= 5, "{different:?}");
    // Threads and kernels do not show.
    let other = text(&[
        "--temperature",
        "4",
        "--top-k",
        "50",
        "--seed",
        "1",
        "-n",
        "12",
        "--threads",
        "3",
        "--kernel",
        "portable",
    ]);
    assert_eq!(other, hot("1"));
    // A penalty alone is greedy, and has an effect.
    assert_eq!(text(&["--presence-penalty", "0"]), ANSWER);
    for penalty in ["--presence-penalty", "--frequency-penalty"] {
        assert_eq!(text(&[penalty, "-1000", "-n", "4"]), "light".repeat(4), "{penalty}: a reward");
    }
}

#[test]
fn beams() {
    let report = json(&mut run(&["--beams", "4", "--n-best", "4"]));
    let hypotheses = report["hypotheses"].as_array().expect("a list");
    assert_eq!(hypotheses.len(), 4);
    assert_eq!((&report["text"], &report["ids"]), (&hypotheses[0]["text"], &hypotheses[0]["ids"]));
    assert_eq!(report["text"], ANSWER);
    let scores: Vec<f64> = hypotheses.iter().map(|h| h["score"].as_f64().expect("a score")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] < 0.0, "{scores:?}");
    assert_eq!(text(&["--beams", "1"]), ANSWER);
    assert_eq!(text(&["--beams", "4", "--early-stopping", "--length-penalty", "0.5"]), ANSWER);
    let best = text(&["--beams", "3", "--n-best", "2", "--early-stopping=never"]);
    let lines: Vec<&str> = best.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with(&format!("\t{ANSWER}")), "{best}");
    // Threads, kernels and layouts do not show; f32 says nearly the same.
    let again = json(&mut run(&["--beams", "4", "--n-best", "4", "--threads", "3", "--kernel", "portable"]));
    assert_eq!(again["hypotheses"], report["hypotheses"]);
    let mut f32 = thumbformer("run");
    let f32 = json(f32.arg(home()).arg(REQUEST).args(["--beams", "4", "--n-best", "4", "--precision", "f32"]));
    let off = f32["hypotheses"][0]["score"].as_f64().expect("a score") - scores[0];
    assert!(f32["text"] == ANSWER && off.abs() < 0.05, "{f32}");
    // More beams than tokens in the vocabulary, and tokens only.
    let mut ids = thumbformer("run");
    ids.arg(model("gpt2")).args(["--ids", "1,2,3", "-n", "2", "--beams", "300", "--n-best", "300"]);
    let report = json(&mut ids);
    let hypotheses = report["hypotheses"].as_array().expect("a list");
    assert_eq!((hypotheses.len(), &report["text"]), (300, &Value::Null));
    let different: BTreeSet<String> = hypotheses.iter().map(|h| h["ids"].to_string()).collect();
    assert_eq!(different.len(), 300);
}

#[test]
fn beams_up_to_the_end_of_the_context() {
    let prompt = vec!["5"; 126].join(",");
    let mut command = thumbformer("run");
    command.arg(home_thumb()).args(["--ids", &prompt, "--beams", "3", "--n-best", "3"]);
    let report = json(&mut command);
    let longest =
        report["hypotheses"].as_array().expect("a list").iter().map(|h| h["ids"].as_array().map_or(0, Vec::len));
    assert!(longest.max() <= Some(3), "{report}");
}

#[test]
fn answers_from_a_list_or_an_expression() {
    let folder = folder();
    let list = write(&folder, "allowed", "fan.on(attic)\n\nlight.off(bedroom)\nnichts, größer als \u{65E5}\n");
    let list = list.to_str().expect("UTF-8");
    assert_eq!(text(&["--allow", list]), "light.off(bedroom)");
    let report = json(&mut run(&["--allow", list, "--temperature", "30", "--seed", "5"]));
    let lines = ["fan.on(attic)", "light.off(bedroom)", "nichts, größer als \u{65E5}"];
    assert!(lines.contains(&report["text"].as_str().expect("text")), "{report}");
    assert_eq!(report["ended"], "end_token");
    assert!(report["grammar"]["states"].as_u64() > Some(10) && report["grammar"]["bytes"].as_u64() > Some(288));

    let regex = r"(light|fan)\.[a-z]{2,3}\([a-z]{3,9},[0-9]{2}\)";
    assert_eq!(text(&["--regex", regex]), ANSWER);
    assert_eq!(
        text(&["--regex", r"fan\.(on|off)\(\)|light\.dim\(kitchen,[5-9]0\)"]).len(),
        "light.dim(kitchen,50)".len()
    );
    let shape = regex::Regex::new(&format!("^(?:{regex})$")).expect("good");
    for seed in ["1", "2", "3"] {
        let found = text(&["--regex", regex, "--temperature", "20", "--seed", seed]);
        assert!(shape.is_match(&found), "{found}");
    }
    // Whatever the budget: a whole text, or a refusal.
    let shortest = json(&mut run(&["--regex", regex]))["grammar"]["shortest"].as_u64().expect("a number") as usize;
    let budget = (shortest + 1).to_string();
    assert!(shape.is_match(&text(&["--regex", regex, "--temperature", "20", "-n", &budget])));
    let budget = shortest.to_string();
    refused(&mut run(&["--regex", regex, "-n", &budget]), 1, &["shortest text", &(shortest + 1).to_string(), &budget]);

    refused(&mut run(&["--regex", regex, "-n", "0"]), 1, &["shortest text", "room for 0"]);

    let empty = write(&folder, "empty", "\n\n");
    refused(&mut run(&["--allow", empty.to_str().expect("UTF-8")]), 1, &["empty", "no text to allow"]);
    refused(&mut run(&["--allow", "no/such/list"]), 1, &["no/such/list"]);
    let broken = write(&folder, "broken", b"\xff");
    refused(&mut run(&["--allow", broken.to_str().expect("UTF-8")]), 1, &["broken", "UTF-8"]);
    refused(&mut run(&["--regex", "(ab"]), 1, &["(ab", "unclosed"]);
    refused(&mut run(&["--regex", "[a&&b]"]), 1, &["allows no text"]);
    let mut no_tokenizer = thumbformer("run");
    no_tokenizer.arg(model("gpt2")).args(["--ids", "1", "--regex", "a"]);
    refused(&mut no_tokenizer, 1, &["--regex", "tokenizer"]);

    let saved = folder.path().join("calls.grammar");
    text(&["--regex", regex, "--save-grammar", saved.to_str().expect("UTF-8")]);
    assert!(std::fs::read(&saved).expect("written").starts_with(b"thumbgrm"));
    refused(&mut run(&["--save-grammar", "x"]), 1, &["--save-grammar", "--regex"]);
}

#[test]
fn lookup_says_the_same() {
    let plain = json(&mut run(&[]));
    let looked = json(&mut run(&["--lookup", "6"]));
    assert_eq!((&looked["ids"], &looked["text"], &looked["ended"]), (&plain["ids"], &plain["text"], &plain["ended"]));
    assert!(plain.get("lookup").is_none() && looked["lookup"]["passes"].as_u64() > Some(0), "{looked}");
    // An answer that repeats itself takes fewer passes; also in f32.
    for precision in ["int8", "f32"] {
        let ids = |options: &[&str]| {
            let mut command = thumbformer("run");
            command.arg(home()).args(["--ids", "1,2,1,2,1,2", "-n", "100", "--precision", precision]).args(options);
            json(&mut command)
        };
        let (plain, looked) = (ids(&[]), ids(&["--lookup", "8"]));
        assert_eq!(plain["ids"], looked["ids"], "{precision}");
    }
    let (_, _, stderr) = all(&mut run(&["--lookup", "4", "--stats"]));
    assert!(stderr.contains("drafted tokens were right"), "{stderr}");
}

#[test]
fn states_are_saved_and_loaded() {
    let folder = folder();
    let path = folder.path().join("prompt.state");
    let state = path.to_str().expect("UTF-8");
    let plain = json(&mut run(&["--logits", "9"]));
    let saved = json(&mut run(&["--logits", "9", "--save-state", state]));
    assert_eq!((&saved["ids"], &saved["logits"]), (&plain["ids"], &plain["logits"]));
    let bytes = std::fs::read(&path).expect("written");
    assert!(bytes.starts_with(b"thumbsnp"));
    // Saving does not depend on what was generated, or how.
    for options in
        [&["-n", "0"][..], &["--beams", "3"], &["--lookup", "4"], &["--kernel", "portable", "--threads", "2"]]
    {
        text(&[options, &["--save-state", state]].concat());
        assert!(std::fs::read(&path).expect("written") == bytes, "{options:?}");
    }
    // All of the prompt but its last token comes from the state.
    let loaded = json(&mut run(&["--logits", "9", "--load-state", state]));
    assert_eq!((&loaded["ids"], &loaded["logits"]), (&plain["ids"], &plain["logits"]));
    assert_eq!(loaded["restored_tokens"], plain["prompt_ids"].as_array().map_or(0, Vec::len) - 1);
    assert_eq!(text(&["--load-state", state, "--beams", "2"]), ANSWER);
    // Another request has only its beginning in common.
    let other = |options: &[&str]| {
        let mut command = thumbformer("run");
        command.arg(home_thumb()).arg("please turn off the fan").args(options);
        json(&mut command)
    };
    let (fresh, resumed) = (other(&["--logits", "9"]), other(&["--logits", "9", "--load-state", state]));
    assert_eq!((&fresh["ids"], &fresh["logits"]), (&resumed["ids"], &resumed["logits"]));
    let restored = resumed["restored_tokens"].as_u64().expect("a number");
    assert!(restored > 0 && restored < loaded["restored_tokens"].as_u64().expect("a number"), "{resumed}");

    for (name, damaged, words) in [
        ("cut", bytes[..bytes.len() - 1].to_vec(), "cut off"),
        ("flipped", bytes.iter().enumerate().map(|(i, b)| if i == 999 { b ^ 1 } else { *b }).collect(), "checksum"),
        ("text", b"once upon a time".to_vec(), "not a snapshot"),
    ] {
        let damaged = write(&folder, name, damaged);
        refused(&mut run(&["--load-state", damaged.to_str().expect("UTF-8")]), 1, &[name, words]);
    }
    refused(&mut run(&["--load-state", "no/such/state"]), 1, &["no/such/state"]);
    let mut other_model = thumbformer("run");
    other_model.arg(home()).args([REQUEST, "--group", "row", "--load-state", state]);
    refused(&mut other_model, 1, &["another model"]);
    for option in ["--load-state", "--save-state"] {
        let mut f32 = thumbformer("run");
        f32.arg(home()).args([REQUEST, "--precision", "f32", option, state]);
        refused(&mut f32, 1, &["int8 only"]);
    }
    // A slip of the hand does not cost the model.
    let thumb = folder.path().join("model.thumb");
    std::fs::copy(home_thumb(), &thumb).expect("copied");
    refused(&mut run(&["--save-state", thumb.to_str().expect("UTF-8")]), 1, &["another kind of file"]);
    assert!(std::fs::read(&thumb).expect("still there") == std::fs::read(home_thumb()).expect("the blob"));
}

/// Windows forget: the memory does not grow with the context, and nothing that goes back goes too far.
#[test]
fn windows_keep_what_decoding_needs() {
    let folder = folder();
    let thumb = folder.path().join("windows.thumb");
    let summary = json(convert().arg(model("mistral-many-windows")).arg("-o").arg(&thumb));
    let ram = summary["ram"].as_array().expect("a list");
    // A window of 21 positions and 32 more: two tiles, in two layers with two heads of eight.
    let cache = 2 * 2 * 64 * (8 + 8 + 4 + 4) + 63;
    assert!(ram.len() > 1 && ram.iter().all(|ram| ram["cache_bytes"] == cache), "{ram:?}");

    let ids: Vec<String> = (0..60).map(|i| (i * i % 96).to_string()).collect();
    let answer = |options: &[&str]| {
        let mut command = thumbformer("run");
        json(command.arg(&thumb).args(["--ids", &ids.join(",")]).args(options))
    };
    let plain = answer(&["-n", "120"]);
    assert_eq!(answer(&["-n", "120", "--lookup", "100"])["ids"], plain["ids"]);
    let path = folder.path().join("prompt.state");
    let state = path.to_str().expect("UTF-8");
    let mut saved = Vec::new();
    for options in [&["-n", "0"][..], &["-n", "120"], &["-n", "50", "--lookup", "40"], &["-n", "90", "--beams", "2"]] {
        answer(&[options, &["--save-state", state]].concat());
        saved.push(std::fs::read(&path).expect("written"));
    }
    assert!(saved.windows(2).all(|pair| pair[0] == pair[1]), "the answer shows in the state");
    let loaded = answer(&["-n", "120", "--load-state", state]);
    assert_eq!((&loaded["ids"], &loaded["restored_tokens"]), (&plain["ids"], &59.into()));
    // With a beginning that is too short for what the state holds, nothing is taken.
    let mut command = thumbformer("run");
    let short = json(command.arg(&thumb).args(["--ids", &ids[..20].join(","), "-n", "3", "--load-state", state]));
    assert_eq!(short["restored_tokens"], 0);
}

#[test]
fn contradictions_and_impossible_numbers() {
    let cases: [(&[&str], i32, &[&str]); 23] = [
        (&["--allow", "x", "--stop", "y"], 2, &["--allow", "--stop"]),
        (&["--temperature", "-1"], 1, &["temperature", "-1", "not negative"]),
        (&["--temperature", "NaN"], 1, &["temperature", "NaN"]),
        (&["--temperature", "hot"], 2, &["--temperature", "hot"]),
        (&["--top-p", "0"], 1, &["top_p", "0", "above 0"]),
        (&["--top-p", "1.5"], 1, &["top_p", "1.5"]),
        (&["--min-p", "-0.1"], 1, &["min_p", "-0.1"]),
        (&["--repetition-penalty", "0"], 1, &["repetition_penalty", "above 0"]),
        (&["--frequency-penalty", "inf"], 1, &["frequency_penalty", "inf"]),
        (&["--seed", "3"], 1, &["--seed", "--temperature"]),
        (&["--temperature", "0", "--seed", "3"], 1, &["--seed", "nothing is random"]),
        (&["--beams", "0"], 2, &["--beams", "0"]),
        (&["--beams", "2", "--n-best", "3"], 1, &["--n-best", "3", "2 beams"]),
        (&["--beams", "2", "-n", "0"], 1, &["--max-tokens 0"]),
        (&["--n-best", "3"], 2, &["--beams"]),
        (&["--length-penalty", "1"], 2, &["--beams"]),
        (&["--beams", "2", "--length-penalty", "inf"], 1, &["length penalty", "inf"]),
        (&["--early-stopping"], 2, &["--beams"]),
        (&["--beams", "2", "--temperature", "1"], 2, &["--beams", "--temperature"]),
        (&["--beams", "2", "--regex", "a"], 2, &["--beams", "--regex"]),
        (&["--lookup", "2", "--top-k", "3"], 2, &["--lookup", "--top-k"]),
        (&["--lookup", "0"], 2, &["--lookup", "0"]),
        (&["--allow", "x", "--regex", "a"], 2, &["--allow", "--regex"]),
    ];
    for (options, status, words) in cases {
        refused(&mut run(options), status, words);
    }
}
