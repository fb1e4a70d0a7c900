//! Every tokenizer's ids and texts against `tokenizers` and `sentencepiece` (see tests/fixtures/tokenizers/make.py).

use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;
use thumbformer::tokenizer::{EncodeError, EncodeOptions, Invalid, TextStream, Tokenizer};
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
            // Bytes that are not UTF-8: `decode` takes their whole run for that, a stream does not.
            let broken = tokenizer.header().invalid == Invalid::Run
                && decoded.contains('\u{FFFD}')
                && !text.contains('\u{FFFD}');
            if !broken {
                compare("stream", &wanted, &streamed(&tokenizer, &wanted, skip_special), &decoded);
            }
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
    for case in expected.get("pairs").and_then(Value::as_array).into_iter().flatten() {
        let pair = [&case[0], &case[1]].map(|text| text.as_str().unwrap());
        for (add_special_tokens, at) in [(true, 2), (false, 4)] {
            let options = EncodeOptions { add_special_tokens, ..EncodeOptions::default() };
            let (found, segments) = convert::encode_pair(&tokenizer, pair, options).unwrap();
            let segments: Vec<u32> = segments.into_iter().map(u32::from).collect();
            compare("pair", &pair, &(found, segments), &(ids(&case[at]), ids(&case[at + 1])));
        }
    }
    assert_eq!(wrong, 0, "{name}: differences");
}

/// As `check_file`, with the strings that are hard for normalizers too.
fn check_normalizing(path: &str, name: &str) {
    let (texts, more) = (read_gz("strings.json.gz"), read_gz("normalization.json.gz"));
    let texts = [strings(&texts), strings(&more)].concat();
    assert!(texts.len() >= 3000);
    check(name, &load(&fixture(path)), &texts, &read_gz(&format!("expected/{name}.json.gz")));
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
fn wordpiece() {
    for name in ["bert_uncased", "bert_cased", "bert_uncased_txt", "bert_cased_txt"] {
        check_normalizing(name, name);
    }
}

#[test]
fn byte_level_as_roberta() {
    check_normalizing("roberta", "roberta");
}

#[test]
fn unigram_as_t5() {
    check_normalizing("t5", "t5");
}

#[test]
fn unigram_models_of_hugging_face() {
    for name in ["unigram_f64", "unigram_fallback"] {
        check_normalizing(name, name);
    }
}

#[test]
fn sentencepiece_models_that_normalize() {
    for name in ["unigram", "unigram_bytes", "unigram_inner", "bpe_rules"] {
        check_normalizing(&format!("{name}/tokenizer.model"), &format!("{name}_model"));
    }
}

#[test]
fn other_configurations() {
    check_variants("variants");
}

#[test]
fn normalizing_configurations() {
    check_variants("normalizing");
}

/// A tokenizer.json with this normalizer, which is all that matters of it.
fn with_normalizer(normalizer: &Value) -> Packed {
    let file = File::open(fixture("gpt2/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_reader(file).unwrap();
    file["normalizer"] = normalizer.clone();
    fill_charsmap(&mut file["normalizer"]);
    file["added_tokens"] = serde_json::json!([]);
    convert::load_bytes(Path::new("tokenizer.json"), file.to_string().as_bytes()).unwrap()
}

/// Puts the charsmap of the T5-like tokenizer where a fixture leaves it out.
fn fill_charsmap(normalizer: &mut Value) {
    for part in normalizer.get_mut("normalizers").and_then(Value::as_array_mut).into_iter().flatten() {
        fill_charsmap(part);
    }
    if normalizer.get("precompiled_charsmap").is_some_and(Value::is_null) {
        let file = File::open(fixture("t5/tokenizer.json")).unwrap();
        let t5: Value = serde_json::from_reader(file).unwrap();
        normalizer["precompiled_charsmap"] = t5["normalizer"]["precompiled_charsmap"].clone();
        assert!(normalizer["precompiled_charsmap"].is_string());
    }
}

/// Runs of characters that become a text, in which U+FFFF stands for the character; all others must stay.
struct Changes<'v>(Vec<(u32, u32, &'v str)>);

impl<'v> Changes<'v> {
    fn new(value: &'v Value) -> Self {
        let code = |value: &Value| value.as_u64().unwrap() as u32;
        let runs = value.as_array().unwrap().iter();
        Changes(runs.map(|run| (code(&run[0]), code(&run[1]), run[2].as_str().unwrap())).collect())
    }

    fn of(&self, c: char) -> Option<String> {
        let at = self.0.partition_point(|&(_, last, _)| last < c as u32);
        let run = self.0.get(at).filter(|&&(first, ..)| first <= c as u32);
        run.map(|&(.., text)| text.replace('\u{FFFF}', &c.to_string()))
    }
}

/// Every character there is, and strings, through every normalizer.
#[test]
fn normalizers() {
    let all = read_gz("expected/normalizers.json.gz");
    let mut workspace = vec![0; 1 << 16];
    for (name, case) in all.as_object().unwrap() {
        let Some(normalizer) = case.get("normalizer") else { continue };
        let packed = with_normalizer(normalizer);
        let tokenizer = packed.tokenizer().unwrap();
        let mut normalize = |text: &str| tokenizer.normalize(text, &mut workspace).unwrap().to_owned();
        if let Some(joins) = case.get("joins") {
            let joins = Changes::new(joins);
            for c in '\0'..=char::MAX {
                let found = normalize(&format!("a{c}")) == "X";
                assert_eq!(found, joins.of(c).is_some(), "{name}: U+{:04X}", c as u32);
            }
            assert!(joins.0.len() > 300);
            continue;
        }
        let changes = Changes::new(&case["characters"]);
        for c in '\0'..=char::MAX {
            let wanted = changes.of(c).unwrap_or_else(|| c.to_string());
            assert_eq!(normalize(&c.to_string()), wanted, "{name}: U+{:04X}", c as u32);
        }
        let strings = case["strings"].as_array().unwrap();
        assert!(strings.len() >= 900);
        for string in strings {
            let (text, wanted) = (string[0].as_str().unwrap(), string[1].as_str().unwrap());
            assert_eq!(normalize(text), wanted, "{name}: {text:?}");
        }
    }
}

/// Every character that cuts a word in BERT's pre-tokenizer, and every one that does not.
#[test]
fn punctuation() {
    let all = read_gz("expected/normalizers.json.gz");
    let punctuation = Changes::new(&all["punctuation"]);
    let file = File::open(fixture("bert_cased/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_reader(file).unwrap();
    file["normalizer"] = Value::Null;
    let packed = convert::load_bytes(Path::new("tokenizer.json"), file.to_string().as_bytes()).unwrap();
    let (tokenizer, mut workspace) = (packed.tokenizer().unwrap(), [0; 64]);
    for c in ('\0'..=char::MAX).filter(|c| !c.is_whitespace()) {
        let found = tokenizer.normalize(&format!("a{c}a"), &mut workspace).unwrap().contains(' ');
        assert_eq!(found, punctuation.of(c).is_some(), "U+{:04X}", c as u32);
    }
}

fn check_variants(name: &str) {
    let all = read_gz(&format!("expected/{name}.json.gz"));
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
        fill_charsmap(&mut file["normalizer"]);
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
