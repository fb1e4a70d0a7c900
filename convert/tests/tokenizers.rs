//! Every tokenizer's ids and texts against `tokenizers` and `sentencepiece` (see tests/fixtures/tokenizers/make.py).

use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;
use thumbformer::tokenizer::{EncodeError, EncodeOptions, TextStream, Tokenizer};
use thumbformer_convert::tokenizer::{self as convert, Packed};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn fixture(path: &str) -> PathBuf {
    repository("tests/fixtures/tokenizers").join(path)
}

fn read_gz(path: &str) -> Value {
    let file = File::open(fixture(path)).expect(path);
    serde_json::from_reader(GzDecoder::new(file)).expect(path)
}

fn load(path: &Path) -> Packed {
    convert::load(path).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Ids as a stream shows them, one by one.
fn streamed(tokenizer: &Tokenizer<'_>, ids: &[u32], skip_special: bool) -> String {
    let mut text = String::new();
    let mut stream: TextStream<'_> = tokenizer.stream(skip_special);
    for &id in ids {
        stream.push(id, &mut text).unwrap();
    }
    stream.finish(&mut text).unwrap();
    text
}

/// Compares everything in an `expected` object. A stream may differ from `decode` only in runs of broken byte tokens.
fn check(name: &str, packed: &Packed, texts: &[&str], expected: &Value) {
    let tokenizer = packed.tokenizer().unwrap();
    let all = expected["ids"].as_array().unwrap();
    assert_eq!(all.len(), texts.len(), "{name}");
    let mut wrong = 0;
    let mut compare =
        |what: &str, input: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            if format!("{found:?}") != format!("{wanted:?}") {
                wrong += 1;
                if wrong < 8 {
                    eprintln!("{name}: {what} {input:?}\n   found {found:?}\n  wanted {wanted:?}");
                }
            }
        };
    for (n, (text, wanted)) in texts.iter().zip(all).enumerate() {
        let wanted = ids(wanted);
        let found = convert::encode(&tokenizer, text, EncodeOptions::default()).unwrap();
        compare("encode", text, &found, &wanted);
        for (field, skip_special) in [("decoded", true), ("decoded_with_special", false)] {
            let Some(decoded) = expected.get(field) else { continue };
            let decoded = decoded[n].as_str().unwrap_or(text);
            compare(field, &wanted, &convert::decode(&tokenizer, &wanted, skip_special), &decoded);
            compare("stream", &wanted, &streamed(&tokenizer, &wanted, skip_special), &decoded);
        }
    }
    for case in expected.get("unparsed").and_then(Value::as_array).into_iter().flatten() {
        let text = case[0].as_str().unwrap();
        let options = EncodeOptions { add_special_tokens: false, parse_special_tokens: false, continues: false };
        compare("unparsed", &text, &convert::encode(&tokenizer, text, options).unwrap(), &ids(&case[1]));
    }
    for case in expected["odd"].as_array().unwrap() {
        let (ids, case) = (ids(&case[0]), case.as_array().unwrap());
        compare("odd", &ids, &convert::decode(&tokenizer, &ids, true), &case[1].as_str().unwrap());
        if let Some(with_special) = case.get(2) {
            compare(
                "odd, with special",
                &ids,
                &convert::decode(&tokenizer, &ids, false),
                &with_special.as_str().unwrap(),
            );
        }
    }
    assert_eq!(wrong, 0, "{name}: differences");
}

fn check_file(path: &Path, name: &str) {
    let texts = read_gz("strings.json.gz");
    let texts = strings(&texts);
    assert!(texts.len() >= 2000);
    check(name, &load(path), &texts, &read_gz(&format!("expected/{name}.json.gz")));
}

#[test]
fn byte_level_as_gpt2() {
    check_file(&fixture("gpt2/tokenizer.json"), "gpt2");
}

#[test]
fn byte_level_as_llama3() {
    check_file(&fixture("llama3"), "llama3");
}

#[test]
fn byte_fallback_as_llama2() {
    check_file(&fixture("llama2/tokenizer.json"), "llama2");
}

#[test]
fn vocab_json_and_merges_txt() {
    check_file(&fixture("pair"), "pair");
}

#[test]
fn home_commands() {
    check_file(&repository("tests/models/home-commands/tokenizer.json"), "home-commands");
}

#[test]
fn sentencepiece_models() {
    for name in ["llama2", "collapsed", "inner"] {
        check_file(&fixture(&format!("{name}/tokenizer.model")), &format!("{name}_model"));
    }
}

#[test]
fn other_configurations() {
    let all = read_gz("expected/variants.json.gz");
    let texts = strings(&all["strings"]);
    for (name, variant) in all["variants"].as_object().unwrap() {
        let base = fixture(&format!("{}/tokenizer.json", variant["base"].as_str().unwrap()));
        let mut file: Value = serde_json::from_reader(File::open(base).unwrap()).unwrap();
        let merge = |target: &mut Value, fields: &Value| {
            for (field, value) in fields.as_object().into_iter().flatten() {
                target[field] = value.clone();
            }
        };
        merge(&mut file, &variant["fields"]);
        merge(&mut file["model"], &variant["model_fields"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        check(name, &load(&path), &texts, &variant["expected"]);
    }
}

#[test]
fn characters() {
    let packed = load(&fixture("characters"));
    let tokenizer = packed.tokenizer().unwrap();
    let expected = read_gz("expected/characters.json.gz");
    assert!(strings(&expected["strings"]).len() >= 2_000);
    for (text, wanted) in strings(&expected["strings"]).into_iter().zip(expected["ids"].as_array().unwrap()) {
        let mut out = vec![0; text.len()];
        let len = tokenizer.encode(text, EncodeOptions::default(), &mut [], &mut out).unwrap();
        assert_eq!(out[..len], ids(wanted), "{text:?}");
        assert_eq!(convert::decode(&tokenizer, &out[..len], true), text);
    }
    for text in strings(&expected["unknown"]) {
        let error = convert::encode(&tokenizer, text, EncodeOptions::default()).unwrap_err();
        let EncodeError::UnknownCharacter { character } = error else { panic!("{text:?}: {error}") };
        assert!(text.contains(character));
    }
}
