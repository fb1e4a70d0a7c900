//! Files that are damaged, and fields that cannot be carried.

use super::*;

/// Loads `count` corruptions of a file; those that still load are used.
fn corrupt_file(file: &str, content: &[u8], count: usize, change: impl Fn(&mut Random) -> Vec<u8>) {
    let file = Path::new(file);
    convert::load_bytes(file, content).unwrap(); // it is the corruption that is refused below
    let (mut random, mut loaded, mut slowest) = (Random(7), 0, Duration::ZERO);
    for _ in 0..count {
        let bytes = change(&mut random);
        let start = Instant::now();
        if let Ok(packed) = convert::load_bytes(file, &bytes) {
            assert!(packed.section.len() < 1 << 20);
            exercise(&packed.tokenizer().unwrap());
            loaded += 1;
        }
        slowest = slowest.max(start.elapsed());
    }
    assert!(loaded < count, "no corruption was noticed");
    println!("{}: {loaded} of {count} still load, slowest {slowest:?}", file.display());
}

#[test]
fn corrupted_tokenizer_json() {
    let small = small_json();
    let text = small.to_string().into_bytes();
    corrupt_file("tokenizer.json", &text, 60_000, |random| corrupt(&text, random));

    // Valid JSON with a value somewhere replaced by one from somewhere else.
    let mut paths = Vec::new();
    collect_paths(&small, String::new(), &mut paths);
    corrupt_file("tokenizer.json", &text, 40_000, |random| {
        let mut file = small.clone();
        for _ in 0..=random.below(2) {
            let odd = [json!(null), json!(-1), json!(4_294_967_295u64), json!(1e300), json!(""), json!([]), json!({})];
            let value = match random.below(3) {
                0 => odd[random.below(odd.len())].clone(),
                _ => small.pointer(&paths[random.below(paths.len())]).unwrap().clone(),
            };
            if let Some(place) = file.pointer_mut(&paths[random.below(paths.len())]) {
                *place = value;
            }
        }
        file.to_string().into_bytes()
    });

    for file in [home_commands(), fixture("bert_uncased/tokenizer.json"), fixture("unigram_fallback/tokenizer.json")] {
        let whole = std::fs::read(file).unwrap();
        corrupt_file("tokenizer.json", &whole, 1_000, |random| corrupt(&whole, random));
    }
}

fn collect_paths(value: &Value, at: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect_paths(value, format!("{at}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| collect_paths(value, format!("{at}/{n}"), paths));
        }
        _ => {}
    }
    paths.push(at);
}

#[test]
fn truncated_files() {
    let json = small_json().to_string().into_bytes();
    let model = std::fs::read(fixture("collapsed/tokenizer.model")).unwrap();
    let pickle = std::fs::read(fixture("characters/meta.pkl")).unwrap();
    for (name, content, may_load) in
        [("tokenizer.json", json, false), ("tokenizer.model", model, true), ("meta.pkl", pickle, false)]
    {
        for len in 0..content.len() {
            let loaded = convert::load_bytes(Path::new(name), &content[..len]);
            // A protocol buffer that ends between two fields is whole; this model is then a unigram one.
            assert!(loaded.is_err() || may_load, "{name} cut at {len} of {}", content.len());
        }
    }
}

#[test]
fn corrupted_models_and_pickles() {
    for (path, count) in [
        ("collapsed/tokenizer.model", 8_000),
        ("llama2/tokenizer.model", 4_000),
        ("characters/meta.pkl", 8_000),
        ("unigram_inner/tokenizer.model", 8_000),
        ("bpe_rules/tokenizer.model", 4_000),
        ("bert_cased_txt/vocab.txt", 4_000),
    ] {
        let content = std::fs::read(fixture(path)).unwrap();
        corrupt_file(path, &content, count, |random| corrupt(&content, random));
    }
}

// ------------------------------------------------------------------------------------------------- bad fields

#[test]
fn what_cannot_be_carried_is_refused_by_name() {
    let byte_level = read_json(&fixture("gpt2/tokenizer.json"));
    let spaces = read_json(&fixture("llama2/tokenizer.json"));
    let words = read_json(&fixture("bert_uncased/tokenizer.json"));
    let unigram = read_json(&fixture("t5/tokenizer.json"));
    let mut normalized = words["added_tokens"][4].clone();
    normalized["normalized"] = json!(true);
    let cases: [(&Value, &str, Value, &str); 43] = [
        (&byte_level, "/model/type", json!("WordLevel"), "field `model.type`: found \"WordLevel\", expected BPE"),
        (&byte_level, "/model/type", json!("WordPiece"), "expected WordPiece, for a WordPiece model"),
        (&byte_level, "/model/dropout", json!(0.1), "field `model.dropout`: found 0.1, expected none"),
        (&byte_level, "/model/end_of_word_suffix", json!("</w>"), "field `model.end_of_word_suffix`"),
        (&byte_level, "/model/unk_token", json!("<what>"), "field `model.unk_token`: found \"<what>\""),
        (&byte_level, "/model/vocab/the", json!(-1), "field `model.vocab.the`: found -1, expected an id"),
        (&byte_level, "/model/vocab/the", json!(0), "expected an id of its own"),
        (&byte_level, "/model/vocab/the", json!(3_000_000), "expected ids near the number of tokens"),
        (&byte_level, "/model/merges/3", json!("one"), "field `model.merges[3]`: found \"one\", expected two tokens"),
        (&byte_level, "/model/merges/3", json!(["q", "\u{3a9}"]), "expected tokens of the vocabulary"),
        (&byte_level, "/normalizer", json!({ "type": "Nmt" }), "field `normalizer.type`: found \"Nmt\""),
        (
            &byte_level,
            "/normalizer",
            json!({ "type": "NFC", "x": 1 }),
            "field `normalizer.x`: found 1, expected no such field",
        ),
        (
            &byte_level,
            "/normalizer",
            json!({ "type": "Replace", "pattern": { "Regex": "a+" }, "content": "" }),
            "field `normalizer.pattern.Regex`",
        ),
        (
            &byte_level,
            "/normalizer",
            json!({ "type": "Precompiled", "precompiled_charsmap": "?" }),
            "expected a table in base64",
        ),
        (
            &byte_level,
            "/normalizer",
            json!({ "type": "Prepend", "prepend": "a" }),
            "expected \"aharbour!\", which it is looked for as",
        ),
        (&byte_level, "/pre_tokenizer", json!({ "type": "Whitespace" }), "field `pre_tokenizer.type`"),
        (&byte_level, "/pre_tokenizer/what", json!(1), "field `pre_tokenizer.what`: found 1, expected no such field"),
        (&byte_level, "/decoder", Value::Null, "field `decoder`: found nothing"),
        (&byte_level, "/decoder/type", json!("WordPiece"), "field `decoder.add_prefix_space`"),
        (&byte_level, "/added_tokens/1/single_word", json!(3), "field `added_tokens[1].single_word`"),
        (&byte_level, "/added_tokens/1/id", json!(3), "field `added_tokens[1].id`: found id 3"),
        (&byte_level, "/added_tokens/1/content", json!("é"), "field `added_tokens[1].content`"),
        (&byte_level, "/post_processor", json!({ "type": "Other" }), "field `post_processor.type`"),
        (&byte_level, "/surprise", json!(true), "field `surprise`: found true, expected no such field"),
        (&spaces, "/model/ignore_merges", json!(true), "field `model.ignore_merges`"),
        (&spaces, "/model/vocab/<0x41>", json!(5000), "field `model.vocab.<0x41>`"),
        (&spaces, "/normalizer/normalizers/0/prepend", json!("_"), "field `normalizer.normalizers[0].prepend`"),
        (&spaces, "/decoder/decoders/3/start", json!(2), "field `decoder.decoders[3].start`: found 2, expected 0 or 1"),
        (&spaces, "/post_processor/single/0/SpecialToken/id", json!("<no>"), "expected one of special_tokens"),
        (&spaces, "/post_processor/single/0/SpecialToken/type_id", json!(1), "expected 0 for a single text"),
        (&spaces, "/post_processor/pair/3/Sequence/id", json!("A"), "expected the sequences A and B, each once"),
        (&words, "/model/unk_token", json!("[WHAT]"), "field `model.unk_token`: found \"[WHAT]\""),
        (&words, "/model/merges", json!([]), "field `model.merges`: found [], expected no such field"),
        (&words, "/decoder/prefix", json!("@@"), "field `decoder.prefix`: found \"@@\", expected \"##\""),
        (&words, "/pre_tokenizer", Value::Null, "field `pre_tokenizer`: found nothing, expected BertPreTokenizer"),
        (&words, "/pre_tokenizer/type", json!("Whitespace"), "field `pre_tokenizer.type`: found \"Whitespace\""),
        (&words, "/added_tokens/4", normalized, "expected \"[mask]\", which it is looked for as"),
        (&unigram, "/model/unk_id", Value::Null, "field `model.unk_id`: found nothing"),
        (
            &unigram,
            "/model/vocab/5",
            json!(["a"]),
            "field `model.vocab[5]`: found [\"a\"], expected a token and its score",
        ),
        (&unigram, "/model/vocab/5/0", json!("</s>"), "expected a token of its own"),
        (
            &unigram,
            "/pre_tokenizer/pretokenizers/1/prepend_scheme",
            json!("first"),
            "expected always, after WhitespaceSplit",
        ),
        (&unigram, "/pre_tokenizer/pretokenizers/0", json!({ "type": "Whitespace" }), "expected one Metaspace"),
        (&unigram, "/normalizer/precompiled_charsmap", json!("AAAA"), "entry 0 of table `normalizer`"),
    ];
    for (base, path, value, wanted) in cases {
        let mut file = base.clone();
        let (parent, field) = path.rsplit_once('/').unwrap();
        match file.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
            parent => parent[field] = value,
        }
        let error = load_files(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap_err();
        assert!(error.contains(wanted) && error.contains("tokenizer.json"), "{path}: {error}");
    }
}

#[test]
fn what_is_left_out_is_noted() {
    let mut file = read_json(&fixture("gpt2/tokenizer.json"));
    file["truncation"] = json!({ "max_length": 128 });
    let packed = load_files(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    let notes = packed.notes.join("\n");
    assert!(notes.contains("truncation"), "{notes}");
}

#[test]
fn models_of_other_kinds_are_refused() {
    let model = std::fs::read(fixture("collapsed/tokenizer.model")).unwrap();
    let refused = |extra: &[u8]| load_files(&[("tokenizer.model", &[&model, extra].concat())]).unwrap_err();
    // Later fields of a protocol buffer win: trainer_spec.model_type = 3, then a normalization table of one byte, the same
    // for the denormalizer, and one with two spaces.
    assert!(
        refused(&[0x12, 2, 0x18, 3]).contains("field `trainer_spec.model_type`: found word, expected unigram or bpe")
    );
    assert!(refused(&[0x1A, 3, 0x12, 1, 0]).contains("entry 0 of table `normalizer`"));
    assert!(refused(&[0x2A, 3, 0x12, 1, 0]).contains("field `denormalizer_spec.precompiled_charsmap`"));
    assert!(refused(&[0x1A, 4, 0x12, 2, b' ', b' ']).contains("expected single spaces"));
    assert!(refused(&[0x0A, 4, 0x0A, 2, 0xFF, 0xFE]).contains("is not UTF-8"));
    assert!(refused(&[0x0A, 0x7F]).contains("expected 127"));
    assert!(load_files(&[("tokenizer.model", b"")]).unwrap_err().contains("it has no pieces"));
}

#[test]
fn a_folder_without_a_tokenizer() {
    let error = load_files(&[("config.json", b"{}")]).unwrap_err();
    assert!(
        error.contains("tokenizer.json, tokenizer.model, spiece.model, vocab.json, vocab.txt, meta.pkl"),
        "{error}"
    );
    // vocab.json alone is none either.
    assert!(load_files(&[("vocab.json", b"{}")]).is_err());
}

#[test]
fn more_tokens_than_the_model_has() {
    let packed = load(&home_commands());
    assert_eq!(packed.vocab, 512);
    packed.check_vocab(512).unwrap();
    packed.check_vocab(50_304).unwrap();
    let error = packed.check_vocab(511).unwrap_err().to_string();
    assert!(error.contains("found 512 tokens, expected at most the model's 511"), "{error}");
    let refused = Tokenizer::new(&packed.section, 511).unwrap_err();
    assert_eq!(refused, TokenizerError::Vocabulary { tokenizer: 512, model: 511 });
}
