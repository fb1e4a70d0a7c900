//! Options that mean nothing to a kind of model are refused, and those that mean something are not.

use super::common::model;
use super::*;

/// Options of `run`, and whether they mean something to an encoder, a decoder, an encoder-decoder.
const RUN: [(&[&str], [bool; 3]); 25] = [
    (&["--token-types", "0,0"], [true, false, false]),
    (&["--max-tokens", "3"], [false, true, true]),
    (&["-n", "3"], [false, true, true]),
    (&["--stats"], [true; 3]),
    (&["--threads", "1"], [true; 3]),
    (&["--kernel", "portable"], [true; 3]),
    (&["--precision", "f32"], [true; 3]),
    (&["--json"], [true; 3]),
    (&["--temperature", "0.5"], [false, true, true]),
    (&["--top-k", "5"], [false, true, true]),
    (&["--top-p", "0.5"], [false, true, true]),
    (&["--min-p", "0.5"], [false, true, true]),
    (&["--repetition-penalty", "1.5"], [false, true, true]),
    (&["--presence-penalty", "1.5"], [false, true, true]),
    (&["--frequency-penalty", "1.5"], [false, true, true]),
    (&["--top-k", "5", "--seed", "7"], [false, true, true]),
    (&["--beams", "3"], [false, true, true]),
    (&["--beams", "3", "--length-penalty", "0.5"], [false, true, true]),
    (&["--beams", "3", "--early-stopping"], [false, true, true]),
    (&["--beams", "3", "--n-best", "2"], [false, true, true]),
    (&["--lookup", "4"], [false, true, true]),
    (&["--save-state", "STATE"], [false, true, true]),
    (&["--load-state", "STATE"], [false, true, true]),
    (&["--json", "--logits", "2"], [true; 3]),
    (&["--context", "16"], [true; 3]),
];

#[test]
fn run_takes_what_the_kind_of_model_has() {
    let folder = folder();
    let state = |name: &str| folder.path().join(name);
    // States to load, before the models are asked to.
    for name in ["llama-untied", "t5"] {
        let saved = ["--ids", "5,6", "-n", "1", "--save-state"];
        output(thumbformer("run").arg(model(name)).args(saved).arg(state(name)));
    }
    for (kind, name) in ["bert", "llama-untied", "t5"].into_iter().enumerate() {
        let state = state(name);
        for (options, meaningful) in RUN {
            let options =
                options.iter().map(|&option| if option == "STATE" { state.as_os_str() } else { option.as_ref() });
            let mut command = thumbformer("run");
            command.arg(model(name)).args(["--ids", "5,6"]).args(options.clone());
            if kind > 0 && !options.clone().any(|option| option == "-n" || option == "--max-tokens") {
                command.args(["-n", "4"]);
            }
            if meaningful[kind] {
                output(&mut command);
            } else {
                let first = options.clone().next().expect("an option").to_str().expect("text").to_owned();
                let first = if first == "-n" { "--max-tokens".into() } else { first };
                refused(&mut command, 1, &[first.as_str()]);
            }
        }
    }
}

#[test]
fn what_needs_a_tokenizer_is_refused_by_kind_first() {
    let list = folder();
    let list = write(&list, "list.txt", "a\nb\n");
    let list = list.to_str().expect("text");
    for options in [&["--stop", "x"][..], &["--allow", list], &["--regex", "a|b"], &["--save-grammar", "x"]] {
        let run = |name: &str| {
            let mut command = thumbformer("run");
            command.arg(model(name)).args(["--ids", "5,6"]).args(options);
            command
        };
        refused(&mut run("bert"), 1, &[options[0], "encoder"]);
        for name in ["llama-untied", "t5"] {
            refused(&mut run(name), 1, &[options[0]]);
        }
    }
    refused(thumbformer("run").arg(model("bert")).args(["--raw", "x"]), 1, &["--raw", "encoder"]);
    refused(thumbformer("run").arg(model("t5")).args(["--raw", "x"]), 1, &["--raw", "encoder-decoder"]);
    refused(thumbformer("run").arg(home_thumb()).args(["--raw", "--ids", "1"]), 2, &["--raw", "--ids"]);
    for name in ["bert", "t5"] {
        let format = ["--format", "{prompt}"];
        refused(
            thumbformer("run").arg(model(name)).args(format).args(["--ids", "5"]),
            1,
            &["prompt format", "encoder"],
        );
        refused(convert().arg(model(name)).args(format).args(["-o", "never.thumb"]), 1, &["prompt format", "encoder"]);
    }
}

#[test]
fn f32_has_neither_scales_nor_kernels() {
    let f32 = |subcommand: &str, name: &str| {
        let mut command = thumbformer(subcommand);
        command.arg(model(name)).args(["--precision", "f32"]);
        command
    };
    let folder = folder();
    let ids = write(&folder, "ids.json", "[1, 2, 3]");
    let text = write(&folder, "text.txt", "a text");
    for (options, words) in [
        (&["--kernel", "portable"][..], "--kernel"),
        (&["--group", "64"], "--group"),
        (&["--target", "dsp"], "--target"),
        (&["--calibrate", text.to_str().expect("text")], "--calibrate"),
    ] {
        refused(f32("run", "bert").args(["--ids", "5"]).args(options), 1, &[words]);
        refused(f32("run", "gpt2").args(["--ids", "5"]).args(options), 1, &[words]);
        refused(f32("run", "t5").args(["--ids", "5"]).args(options), 1, &[words]);
        refused(f32("fill", "bert").arg("x").args(options), 1, &[words]);
        refused(f32("embed", "bert").arg("x").args(options), 1, &[words]);
        refused(f32("eval", "gpt2").arg("--ids").arg(&ids).args(options), 1, &[words]);
    }
    // Beside a reference they are the model's, and of a finished one nobody's.
    let eval = |model: &Path, reference: &Path| {
        let mut command = thumbformer("eval");
        command.arg(model).arg("--reference").arg(reference).arg("--ids").arg(&ids);
        command
    };
    let both = ["--group", "64", "--kernel", "portable"];
    output(eval(&model("gpt2"), &model("gpt2")).args(both));
    refused(eval(home_thumb(), &home()).args(both), 1, &["--group"]);
    output(eval(home_thumb(), &home()).args(["--kernel", "portable"]));
}

#[test]
fn commands_say_which_kinds_they_are_for() {
    let folder = folder();
    let ids = write(&folder, "ids.json", "[1, 2, 3]");
    let pairs = write(&folder, "pairs.tsv", "a\tb\n");
    let records = write(&folder, "records.json", r#"[{"source": [1], "target": [2]}]"#);
    let eval = |name: &str| {
        let mut command = thumbformer("eval");
        command.arg(model(name));
        command
    };
    for (option, file) in [("--ids", &ids), ("--pairs", &pairs)] {
        refused(eval("bert").arg(option).arg(file), 1, &["encoder", "fill", "embed"]);
    }
    refused(eval("bert").arg(&pairs), 1, &["encoder", "fill", "embed"]);
    refused(eval("t5").arg("--ids").arg(&ids), 1, &["records with source and target"]);
    refused(eval("gpt2").arg("--ids").arg(&records), 1, &["list of token ids"]);
    for (name, reference, words) in [
        ("t5", "gpt2", ["the reference is a decoder", "the model an encoder-decoder"]),
        ("gpt2", "t5", ["the reference is an encoder-decoder", "the model a decoder"]),
        ("gpt2", "bert", ["the reference is an encoder", "the model a decoder"]),
    ] {
        let file = if name == "t5" { &records } else { &ids };
        refused(eval(name).arg("--reference").arg(model(reference)).arg("--ids").arg(file), 1, &words);
    }
    for subcommand in ["fill", "embed"] {
        refused(thumbformer(subcommand).arg(model("gpt2")).arg("x"), 1, &["encoders", "continues texts"]);
        refused(thumbformer(subcommand).arg(model("t5")).arg("x"), 1, &["encoders", "answers sources"]);
    }
}

#[test]
fn nothing_is_written_that_could_not_be_tried() {
    let thumb = folder().path().join("x.thumb");
    let attempt = |name: &str| {
        let mut command = convert();
        command.arg(model(name)).args(["--try", "[MASK]"]).arg("-o").arg(&thumb);
        command
    };
    refused(&mut attempt("bert"), 1, &["--try", "tokenizer"]);
    let headless = super::encoder::with_tokenizer("bert-headless");
    refused(convert().arg(headless.path()).args(["--try", "x", "-o"]).arg(&thumb), 1, &["--try", "no head", "embed"]);
    assert!(!thumb.exists());
}
