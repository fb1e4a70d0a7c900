//! Tokenizer files and sections as they should not be, prompt formats, the `tokenize` command, and long texts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use thumbformer::tokenizer::{
    EncodeError, EncodeOptions, HEADER_LEN, Header, Table, Tokenizer, TokenizerError, workspace_len,
};
use thumbformer_convert::tokenizer::{self as convert, CommandOptions, Packed};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn fixture(path: &str) -> PathBuf {
    repository("tests/fixtures/tokenizers").join(path)
}

fn home_commands() -> PathBuf {
    repository("tests/models/home-commands/tokenizer.json")
}

fn load(path: &Path) -> Packed {
    convert::load(path).unwrap_or_else(|error| panic!("{error}"))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Loads a folder with these files.
fn load_files(files: &[(&str, &[u8])]) -> Result<Packed, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    convert::load(folder.path()).map_err(|error| error.to_string())
}

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Changes a few bytes, or cuts, doubles or drops a part.
fn corrupt(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            3 => bytes.insert(at, random.next() as u8),
            4 => bytes[at..end].fill([0, 0xFF, b'9', b'"'][random.below(4)]),
            5 => bytes[at] ^= 1 << random.below(8),
            _ => bytes[at] = random.next() as u8,
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

const SAMPLES: [&str; 5] = [
    "Turn on  the <|request|>lamp's 1234 \n",
    "<s> ▁▁ \u{2581}x",
    "🙂日本 é\r\n\t",
    "aaaaaaaaaaaaaaaaa",
    "[MASK] e\u{323}\u{301} 각ᄀ <0x41> ©\u{200D}© don't",
];

/// Whatever a section says, using it neither panics nor runs away.
fn exercise(tokenizer: &Tokenizer<'_>) {
    let vocab = tokenizer.vocab();
    for text in SAMPLES {
        if let Ok(ids) = convert::encode(tokenizer, text, EncodeOptions::default()) {
            assert!(ids.iter().all(|&id| id < vocab));
            let _ = convert::decode(tokenizer, &ids, true);
        }
        if let Ok(ids) = convert::encode_prompt(tokenizer, text) {
            assert!(ids.iter().all(|&id| id < vocab));
        }
        if let Ok((ids, segments)) = convert::encode_pair(tokenizer, [text, "x"], EncodeOptions::default()) {
            assert!(ids.len() == segments.len() && ids.iter().all(|&id| id < vocab));
        }
    }
    let ids: Vec<u32> = (0..vocab.min(300)).chain([vocab, u32::MAX]).collect();
    for skip_special in [false, true] {
        let _ = convert::decode(tokenizer, &ids, skip_special);
        let (mut text, mut stream) = (String::new(), tokenizer.stream(skip_special));
        ids.iter().for_each(|&id| stream.push(id, &mut text).unwrap());
        stream.finish(&mut text).unwrap();
    }
}

/// A tokenizer.json with a part of everything, small enough to be read 100,000 times.
fn small_json() -> Value {
    let mut vocab: Vec<String> = ('a'..='p').map(String::from).collect();
    vocab.extend(["Ġ", "Ċ", "1", "Ã", "©", "ab", "Ġa", "abc", "Ġab", "cd", "whole", "[X]"].map(String::from));
    let vocab: serde_json::Map<_, _> = vocab.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let added = |id: u32, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": !special, "rstrip": false,
                "normalized": false, "special": special })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [added(27, "[X]", false), added(28, "<|begin|>", true), added(29, "<|request|>", true),
                         added(30, "<|call|>", true)],
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false } ] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<|begin|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": { "<|begin|>": { "id": "<|begin|>", "ids": [28], "tokens": ["<|begin|>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": [["a", "b"], ["Ġ", "a"], ["ab", "c"], ["Ġ", "ab"], "c d"] },
    })
}

// ------------------------------------------------------------------------------------------------- corrupted files

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

// ------------------------------------------------------------------------------------------------- bad sections

/// The T5-like tokenizer with a charsmap that maps `a` to `ab` and `b\u{301}` to `c`, and a token that stands alone.
fn small_t5() -> Packed {
    let mut file = read_json(&fixture("t5/tokenizer.json"));
    let unit = |offset: u32, leaf: u32, label: u8| offset << 10 | leaf << 8 | u32::from(label);
    // A double array by hand: the child of the node at `offset` for byte b stands at offset ^ b, a value at the offset.
    let mut units = vec![0u32; 2048];
    units[0] = unit(0x100, 0, 0);
    units[0x161] = unit(0x161 ^ 0x200, 1, b'a');
    units[0x200] = 1 << 31;
    units[0x162] = unit(0x162 ^ 0x300, 0, b'b');
    units[0x3CC] = unit(0x3CC ^ 0x400, 0, 0xCC);
    units[0x481] = unit(0x481 ^ 0x500, 1, 0x81);
    units[0x500] = 1 << 31 | 3;
    let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let charsmap = [&(trie.len() as u32).to_le_bytes()[..], &trie, b"ab\0c\0"].concat();
    file["normalizer"]["precompiled_charsmap"] = BASE64_STANDARD.encode(charsmap).into();
    file["added_tokens"][3]["single_word"] = json!(true);
    let packed = load_files(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    let mut workspace = [0; 64];
    let normalize =
        |text: &str, workspace: &mut [u32]| packed.tokenizer().unwrap().normalize(text, workspace).unwrap().to_owned();
    assert_eq!(normalize("xab", &mut workspace), " xabb");
    assert_eq!(normalize("a\u{301}b\u{301}c b", &mut workspace), " abcc b");
    packed
}

fn sections() -> Vec<Packed> {
    let files = [
        "gpt2",
        "llama3",
        "llama2/tokenizer.json",
        "collapsed",
        "characters",
        "bert_uncased",
        "unigram_inner",
        "bpe_rules",
        "unigram_fallback",
    ];
    let mut all: Vec<Packed> = files.iter().map(|file| load(&fixture(file))).collect();
    all.push(load(&home_commands()));
    all.push(small_t5());
    all
}

#[test]
fn corrupted_sections() {
    let sections = sections();
    let (mut random, mut parsed) = (Random(11), 0);
    for n in 0..100_000 {
        let packed = &sections[n % sections.len()];
        let mut bytes = packed.section.clone();
        // Mostly single entries: lengths must agree, or everything is refused for the same reason.
        for _ in 0..=random.below(3) {
            let end = if random.below(3) == 0 { HEADER_LEN } else { bytes.len() };
            let at = random.below(end);
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] = bytes[at].wrapping_add([1, 255][random.below(2)]),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        if n % 16 == 0 {
            bytes = corrupt(&bytes, &mut random);
        }
        if let Ok(tokenizer) = Tokenizer::new(&bytes, u32::MAX) {
            parsed += 1;
            exercise(&tokenizer);
        }
    }
    println!("{parsed} of 100000 corrupted sections pass the check");
    assert!(parsed > 1_000 && parsed < 99_000);
}

#[test]
fn sections_of_a_wrong_length() {
    for packed in sections() {
        let found = packed.section.len();
        for len in 0..found {
            let error = Tokenizer::new(&packed.section[..len], u32::MAX).unwrap_err();
            let expected = if len < HEADER_LEN { HEADER_LEN } else { found };
            assert_eq!(error, TokenizerError::Length { expected: expected as u64, found: len as u64 });
        }
        let longer = [packed.section.as_slice(), &[0]].concat();
        assert!(matches!(Tokenizer::new(&longer, u32::MAX), Err(TokenizerError::Length { .. })));
    }
}

/// Where a table begins in a section.
fn table_at(section: &[u8], wanted: Table) -> usize {
    let header = Header::read(section.first_chunk().unwrap()).unwrap();
    let before = Table::ALL.into_iter().take_while(|&table| table != wanted);
    HEADER_LEN
        + before.map(|table| header.table(table)).map(|(n, width)| n as usize * usize::from(width)).sum::<usize>()
}

#[test]
fn each_rule_of_a_section() {
    let packed = load(&fixture("llama2/tokenizer.json"));
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut section = packed.section.clone();
        change(&mut section);
        Tokenizer::new(&section, u32::MAX).unwrap_err()
    };
    let put = |table, index: usize, value: u16| {
        move |section: &mut Vec<u8>| {
            let at = table_at(section, table) + 2 * index;
            section[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    };
    let header = |at: usize, value: u8| move |section: &mut Vec<u8>| section[at] = value;
    let field = |field, found| TokenizerError::Field { field, found };
    assert_eq!(refuse(&header(3, b'1')), TokenizerError::Magic { found: *b"TOK1" });
    for (at, name) in (4..).zip(["kind", "split", "digits", "prefix", "missing", "invalid", "strip", "reserved"]) {
        assert_eq!(refuse(&header(at, 99)), field(name, 99));
    }
    assert_eq!(refuse(&header(61, 1)), field("flags", 256));
    assert_eq!(refuse(&header(95, 1)), field("reserved", 1 << 24));
    assert_eq!(refuse(&|section| section[12..16].fill(0)), field("vocab", 0));
    assert_eq!(refuse(&|section| section[44..48].copy_from_slice(&800u32.to_le_bytes())), field("unknown", 800));
    assert_eq!(refuse(&|section| section[48..50].copy_from_slice(&[0x22, 2])), field("first_byte", 801));
    assert_eq!(refuse(&|section| section[48..52].fill(0xFF)), field("missing", 3));
    assert_eq!(refuse(&header(48, 4)), TokenizerError::ByteToken { token: 4 });
    assert_eq!(refuse(&put(Table::Offsets, 5, 0)), TokenizerError::Offset { token: 4 });
    assert_eq!(refuse(&put(Table::Offsets, 0, 1)), TokenizerError::Offset { token: 0 });
    assert_eq!(refuse(&put(Table::Offsets, 800, 2)), TokenizerError::Offset { token: 799 });
    assert_eq!(refuse(&put(Table::Merges, 7, 800)), TokenizerError::Range { table: Table::Merges, index: 7 });
    assert_eq!(refuse(&put(Table::Special, 0, 900)), TokenizerError::Range { table: Table::Special, index: 0 });
    assert_eq!(refuse(&put(Table::Special, 1, 0)), TokenizerError::Order { table: Table::Special, index: 1 });
    assert_eq!(
        refuse(&put(Table::TemplateStart, 0, 801)),
        TokenizerError::Range { table: Table::TemplateStart, index: 0 }
    );
    assert_eq!(refuse(&put(Table::Added, 1, 801)), TokenizerError::Range { table: Table::Added, index: 1 });
    let flags = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::AddedFlags);
        section[at] = 32;
    };
    assert_eq!(refuse(&flags), TokenizerError::Range { table: Table::AddedFlags, index: 0 });
    let twice = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Merges);
        section.copy_within(at..at + 2, at + 2);
    };
    assert_eq!(refuse(&twice), TokenizerError::Order { table: Table::Merges, index: 1 });
    let text = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Bytes);
        section[at] = 0xFF;
    };
    assert_eq!(refuse(&text), TokenizerError::Utf8 { token: 0 });
    // Every error says something.
    assert!(refuse(&text).to_string().contains("token 0 is not UTF-8"));
}

#[test]
fn each_rule_of_the_tables_of_models() {
    let (words, unigram, t5) = (load(&fixture("bert_uncased")), load(&fixture("unigram_inner")), small_t5());
    let refuse = |packed: &Packed, change: &dyn Fn(&mut Vec<u8>)| {
        let mut section = packed.section.clone();
        change(&mut section);
        Tokenizer::new(&section, u32::MAX).unwrap_err()
    };
    let put = |table, index: usize, value: u32| {
        move |section: &mut Vec<u8>| {
            let at = table_at(section, table) + 4 * index;
            section[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    };
    let field = |field, found| TokenizerError::Field { field, found };
    let range = |table, index| TokenizerError::Range { table, index };

    let vocab = words.vocab;
    assert_eq!(refuse(&words, &put(Table::Pair, 0, vocab)), range(Table::Pair, 0));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 3 << 30)), range(Table::Pair, 1));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 1 << 30 | 5)), range(Table::Pair, 1));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 2 << 30)), field("pair", 5));
    // Unknown characters dropped, and no unknown token.
    let no_unknown = |section: &mut Vec<u8>| {
        section[8] = 0;
        section[44..48].fill(0xFF);
    };
    assert_eq!(refuse(&words, &no_unknown), field("unknown", u32::MAX));

    assert_eq!(refuse(&unigram, &put(Table::Scores, 7, f32::NAN.to_bits())), TokenizerError::Score { token: 7 });
    assert_eq!(refuse(&unigram, &put(Table::Scores, 8, f32::INFINITY.to_bits())), TokenizerError::Score { token: 8 });
    let infinite = |section: &mut Vec<u8>| section[84..92].copy_from_slice(&f64::INFINITY.to_le_bytes());
    assert_eq!(refuse(&unigram, &infinite), field("unknown_score", 0x7FF0_0000));
    assert_eq!(refuse(&unigram, &|section| section[60] |= 64), field("first_byte", u32::MAX));
    assert_eq!(refuse(&t5, &put(Table::WordChars, 3, 0)), range(Table::WordChars, 3));
    // A byte token among those that text is cut into.
    let fallback = load(&fixture("unigram_fallback"));
    let byte_zero = fallback.tokenizer().unwrap().header().first_byte.unwrap() as u16;
    let byte_in_text = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Merges);
        section[at..at + 2].copy_from_slice(&byte_zero.to_le_bytes());
    };
    assert_eq!(refuse(&fallback, &byte_in_text), range(Table::Merges, 0));

    // Steps: an unknown kind, data of an odd length, data that end early.
    for (packed, index) in [(&words, 0), (&unigram, 0), (&t5, 0)] {
        for (at, value) in [(0, 0), (0, 99), (1, 6), (1, u32::MAX), (1, 0)] {
            assert_eq!(refuse(packed, &put(Table::Normalizer, at, value)), range(Table::Normalizer, index));
        }
    }
    // A map: too many rules, rules out of order, a kind without a meaning, a string beyond the others, a shift to nowhere.
    for (at, value) in
        [(2, 1 << 30), (2, u32::MAX), (5, 0), (5, 99 << 24), (3, 1 << 24), (3, 2 << 24 | 5), (3, 5 << 24)]
    {
        let broken = |section: &mut Vec<u8>| {
            put(Table::Normalizer, at, value)(section);
            put(Table::Normalizer, 4, 0xD7FA)(section);
        };
        assert_eq!(refuse(&words, &broken), range(Table::Normalizer, 0), "word {at} = {value:#x}");
    }
    // A charsmap: no array, an array beyond the table, a string beyond the others.
    for (at, value) in [(2, 0), (2, 6), (2, 1 << 30), (3, u32::MAX)] {
        assert_eq!(refuse(&unigram, &put(Table::Normalizer, at, value)), range(Table::Normalizer, 0));
    }
    // Cluster classes: too many, out of order, a class without a meaning.
    for (at, value) in [(2, u32::MAX), (4, 0), (4, 99 << 24 | 10)] {
        assert_eq!(refuse(&t5, &put(Table::Normalizer, at, value)), range(Table::Normalizer, 0));
    }
}

// ------------------------------------------------------------------------------------------------- encoding

#[test]
fn buffers_that_are_too_small() {
    let packed = load(&fixture("llama2/tokenizer.json"));
    let tokenizer = packed.tokenizer().unwrap();
    let text = "The lighthouse keeper counted 12 boats.";
    let options = EncodeOptions::default();
    let ids = convert::encode(&tokenizer, text, options).unwrap();
    let mut workspace = vec![0; workspace_len(16)];
    for capacity in 0..ids.len() {
        let result = tokenizer.encode(text, options, &mut workspace, &mut vec![0; capacity]);
        assert_eq!(result, Err(EncodeError::OutputFull { capacity }));
    }
    let mut out = vec![0; ids.len()];
    assert_eq!(tokenizer.encode(text, options, &mut workspace, &mut out), Ok(ids.len()));
    assert_eq!(out, ids);
    // The longest word with its space decides, not the text.
    let needed = workspace_len(" lighthouse".len());
    let error = tokenizer.encode(text, options, &mut vec![0; workspace_len(4)], &mut out);
    assert_eq!(error, Err(EncodeError::WorkspaceTooSmall { needed }));
    assert_eq!(tokenizer.encode(text, options, &mut vec![0; needed], &mut out), Ok(ids.len()));
}

/// The workspace that the documentation names is enough for ordinary text, and an error says how much more it takes.
#[test]
fn workspace_of_normalized_text() {
    let text = "The lighthouse keeper counted 12 boats. ".repeat(40);
    for file in ["bert_uncased", "t5", "unigram_fallback", "unigram/tokenizer.model"] {
        let packed = load(&fixture(file));
        let tokenizer = packed.tokenizer().unwrap();
        assert!(tokenizer.normalizes());
        let ids = convert::encode(&tokenizer, &text, EncodeOptions::default()).unwrap();
        let mut out = vec![0; ids.len()];
        let documented = workspace_len(64) + text.len() / 2;
        let mut encode = |len: usize| tokenizer.encode(&text, EncodeOptions::default(), &mut vec![0; len], &mut out);
        assert_eq!(encode(documented), Ok(ids.len()), "{file}");
        let mut len = 0;
        for _ in 0..12 {
            match encode(len) {
                Ok(count) => {
                    assert_eq!(count, ids.len());
                    break;
                }
                Err(EncodeError::WorkspaceTooSmall { needed }) => {
                    assert!(needed > len, "{file}: {needed} words after {len}");
                    len = needed;
                }
                Err(other) => panic!("{file}: {other}"),
            }
        }
        assert!(encode(len).is_ok() && len <= documented, "{file}: {len}");
        assert_eq!(out, ids);
    }
}

#[test]
fn pairs() {
    // Two texts of a tokenizer that says nothing about pairs.
    let packed = load(&fixture("unigram/tokenizer.model"));
    let pair = |packed: &Packed, room: usize, segments: usize| {
        let (mut out, mut segments) = (vec![9; room], vec![9; segments]);
        let tokenizer = packed.tokenizer().unwrap();
        let mut workspace = vec![0; 512];
        tokenizer.encode_pair(["a b", "c"], EncodeOptions::default(), &mut workspace, &mut out, &mut segments)
    };
    assert_eq!(pair(&packed, 64, 64), Err(EncodeError::NoPairs));
    let packed = load(&fixture("bert_uncased"));
    assert_eq!(pair(&packed, 6, 6), Ok(6));
    assert_eq!(pair(&packed, 6, 5), Err(EncodeError::OutputFull { capacity: 5 }));
    assert_eq!(pair(&packed, 5, 6), Err(EncodeError::OutputFull { capacity: 5 }));
}

/// A megabyte of one character takes about as long as a megabyte of text: nothing is quadratic. (If it were, this test
/// would run for hours; it has no time limit of its own.)
#[test]
fn long_runs() {
    for (file, units) in [
        ("inner/tokenizer.model", ["a", " ", "船", "<|"]), // no words: the whole text is merged at once
        ("llama2/tokenizer.json", ["a", " ", "\u{2581}", "<s"]),
        ("gpt2", ["a", " ", "\n", "<|"]),
        ("llama3", ["'", " ", "\n", "1"]),
        ("collapsed", ["a", " ", "=", "<|"]),
        ("bert_uncased", ["a", " ", "中", "\u{301}"]),
        ("t5", ["a", " ", "\u{301}", "\u{200D}"]),
        ("unigram/tokenizer.model", ["a", " ", "=", "\u{FDFA}"]),
        ("unigram_f64", ["a", "\u{323}\u{301}", "\u{1100}", "  "]),
    ] {
        let packed = load(&fixture(file));
        let tokenizer = packed.tokenizer().unwrap();
        for unit in units {
            let text = unit.repeat((1 << 20) / unit.len()) + "z";
            let ids = convert::encode(&tokenizer, &text, EncodeOptions::default()).unwrap();
            // What merging a run gives, its beginning already shows.
            let short = unit.repeat(4096 / unit.len()) + "z";
            let begin = convert::encode(&tokenizer, &short, EncodeOptions::default()).unwrap();
            let shared = ids.iter().zip(&begin).take_while(|(a, b)| a == b).count();
            assert!(shared + 20 >= begin.len(), "{file} {unit:?}: {shared} of {}", begin.len());
        }
    }
}

/// Tokens that take white space along walk over it once, not once for each of them.
#[test]
fn long_runs_of_white_space_tokens() {
    let mut file = read_json(&fixture("gpt2/tokenizer.json"));
    for (id, content, lstrip, rstrip) in [(1006, "\n", true, true), (1007, "\t", false, true)] {
        let token = json!({ "id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": rstrip,
                            "normalized": false, "special": false });
        file["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let packed = load_files(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    let text = "\n\t \n".repeat(1 << 18);
    let ids = convert::encode(&packed.tokenizer().unwrap(), &text, EncodeOptions::default()).unwrap();
    // In `tokenizers`, too, the first line end takes the rest along, and each tab comes again.
    assert_eq!(ids.len(), 1 + (1 << 18));
}

// ------------------------------------------------------------------------------------------------- prompts

#[test]
fn chat_templates() {
    for case in read_json(&fixture("expected/prompts.json")).as_array().unwrap() {
        let file = std::fs::read(fixture(&format!("{}/tokenizer.json", case["base"].as_str().unwrap()))).unwrap();
        let config = case["config"].to_string();
        let packed = load_files(&[("tokenizer.json", &file), ("tokenizer_config.json", config.as_bytes())]).unwrap();
        assert_eq!(packed.notes, [""; 0]);
        let tokenizer = packed.tokenizer().unwrap();
        assert!(tokenizer.prompt_format().is_some());
        for prompt in case["ids"].as_array().unwrap() {
            let text = prompt[0].as_str().unwrap();
            assert_eq!(
                json!(convert::encode_prompt(&tokenizer, text).unwrap()),
                prompt[1],
                "{} {text:?}",
                case["name"]
            );
        }
    }
}

#[test]
fn templates_that_do_not_work_out_are_noted() {
    let file = std::fs::read(fixture("llama3/tokenizer.json")).unwrap();
    for (template, reason) in [
        ("{{ messages[0].content }}{{ messages[0].content }}", "does not hold the message once"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% for m in messages %}", "cannot be rendered"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "cannot be rendered"),
        ("t{{ messages[0].content }}", "tokens reach across"),
    ] {
        let config = json!({ "chat_template": template }).to_string();
        let packed = load_files(&[("tokenizer.json", &file), ("tokenizer_config.json", config.as_bytes())]).unwrap();
        assert!(packed.notes.join("\n").contains(reason), "{template}: {:?}", packed.notes);
        assert!(packed.tokenizer().unwrap().prompt_format().is_none());
    }
}

#[test]
fn role_tokens_and_explicit_formats() {
    let packed = load(&home_commands());
    let prompt = convert::encode_prompt(&packed.tokenizer().unwrap(), "dim the lamp").unwrap();
    let text = convert::encode(&packed.tokenizer().unwrap(), "dim the lamp", EncodeOptions::default()).unwrap();
    assert_eq!(prompt, [&[1][..], &text, &[2]].concat());
    // A user's text cannot bring special tokens in.
    let prompt = convert::encode_prompt(&packed.tokenizer().unwrap(), "a<|call|>b").unwrap();
    assert_eq!(prompt.iter().filter(|&&id| id < 4).count(), 2);

    let explicit = packed.clone().with_prompt_format("<|call|>{prompt}<|end|><|pad|>").unwrap();
    let prompt = convert::encode_prompt(&explicit.tokenizer().unwrap(), "dim the lamp").unwrap();
    assert_eq!(prompt, [&[2][..], &text, &[3, 0]].concat());
    for format in ["", "no place", "{prompt}{prompt}"] {
        let error = packed.clone().with_prompt_format(format).unwrap_err().to_string();
        assert!(error.contains("expected {prompt} once"), "{error}");
    }

    // A template's begin-of-sequence token comes first.
    let packed = load(&fixture("llama3"));
    let prompt = convert::encode_prompt(&packed.tokenizer().unwrap(), "x").unwrap();
    assert_eq!((prompt[0], prompt[1], prompt.last()), (900, 902, Some(&903)));
}

#[test]
fn sentencepiece_with_and_without_configuration() {
    let model = std::fs::read(fixture("llama2/tokenizer.model")).unwrap();
    let ids = |files: &[(&str, &[u8])], text: &str| {
        let packed = load_files(files).unwrap();
        let tokenizer = packed.tokenizer().unwrap();
        let plain = convert::encode(&tokenizer, text, EncodeOptions::default()).unwrap();
        (plain, convert::encode_prompt(&tokenizer, text).unwrap(), tokenizer.eos())
    };
    // The library itself adds nothing and takes `<s>` for text; prompts begin with it all the same.
    let (bare, prompt, eos) = ids(&[("tokenizer.model", &model)], "the boat");
    assert_eq!((prompt, eos), ([&[1][..], &bare].concat(), Some(2)));
    assert!(!ids(&[("tokenizer.model", &model)], "a<s>").0.contains(&1));

    let config = json!({ "add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>",
        "added_tokens_decoder": { "1": { "content": "<s>", "special": true }, "800": { "content": "<|user|>", "special": true },
                                  "801": { "content": "<|assistant|>", "special": true } } });
    let files: [(&str, &[u8]); 2] =
        [("tokenizer.model", &model), ("tokenizer_config.json", &config.to_string().into_bytes())];
    let (plain, prompt, _) = ids(&files, "the boat");
    assert_eq!(plain, [&[1][..], &bare, &[2]].concat());
    assert_eq!(prompt, [&[1, 800][..], &bare, &[801]].concat());
    assert_eq!(ids(&files, "<s><|user|>").0, [1, 1, 800, 2]);
}

#[test]
fn sentencepiece_with_the_configuration_of_other_classes() {
    let model = std::fs::read(fixture("unigram/tokenizer.model")).unwrap();
    let load = |config: Value| {
        load_files(&[("spiece.model", &model), ("tokenizer_config.json", config.to_string().as_bytes())])
    };
    // T5 ends texts and begins none.
    let packed = load(json!({ "tokenizer_class": "T5Tokenizer", "eos_token": "</s>" })).unwrap();
    let bare = convert::encode(
        &load_files(&[("spiece.model", &model)]).unwrap().tokenizer().unwrap(),
        "the boat",
        EncodeOptions::default(),
    );
    let ids = convert::encode(&packed.tokenizer().unwrap(), "the boat", EncodeOptions::default());
    assert_eq!(ids.unwrap(), [&bare.unwrap()[..], &[2]].concat());
    assert!(packed.notes.join("\n").contains("as SentencePiece does it"), "{:?}", packed.notes);
    // These shift the ids.
    let error = load(json!({ "tokenizer_class": "XLMRobertaTokenizerFast" })).unwrap_err();
    assert!(error.contains("field `tokenizer_class`: found \"XLMRobertaTokenizerFast\""), "{error}");
}

#[test]
fn wordpiece_vocabularies_that_are_none() {
    let vocab = std::fs::read(fixture("bert_cased_txt/vocab.txt")).unwrap();
    let load = |vocab: &[u8], config: Value| {
        load_files(&[("vocab.txt", vocab), ("tokenizer_config.json", config.to_string().as_bytes())])
            .map(|packed| packed.notes)
            .unwrap_err()
    };
    let twice = [&vocab[..], b"[CLS]\n"].concat();
    assert!(load(&twice, json!({})).contains("line 1001: found \"[CLS]\", which is token 2 already"));
    assert!(load(&vocab, json!({ "mask_token": "<mask>" })).contains("found no token \"<mask>\""));
    assert!(load(&vocab, json!({ "do_lower_case": 1 })).contains("field `do_lower_case`: found 1"));
    assert!(load(b"\xFF\n", json!({})).contains("not UTF-8"));
}

// ------------------------------------------------------------------------------------------------- the command

fn run(packed: &Packed, input: &str, options: CommandOptions) -> Result<String, String> {
    let mut output = Vec::new();
    let result = convert::command(&packed.tokenizer().unwrap(), input.as_bytes(), &mut output, options);
    result.map(|()| String::from_utf8(output).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn the_tokenize_command() {
    let packed = load(&home_commands());
    let plain =
        CommandOptions { json_lines: false, decode: false, skip_special: false, encode: EncodeOptions::default() };
    let json_lines = CommandOptions { json_lines: true, ..plain };
    // Ids from `tokenizers`.
    assert_eq!(run(&packed, "<|request|>a\n\n", plain).unwrap(), "1:\"<|request|>\" 68:\"a\"\n\n");
    assert_eq!(run(&packed, "é", plain).unwrap(), "131:\"\\xc3\" 106:\"\\xa9\"\n");
    assert_eq!(run(&packed, "\"a\\n\\u00e9\"\n\"\"\n", json_lines).unwrap(), "[68,202,131,106]\n[]\n");
    let decode = CommandOptions { decode: true, ..json_lines };
    assert_eq!(run(&packed, "[68,202,131,106]\r\n[1]", decode).unwrap(), "\"a\\né\"\n\"<|request|>\"\n");
    assert_eq!(run(&packed, "[1]", CommandOptions { skip_special: true, ..decode }).unwrap(), "\"\"\n");
    assert_eq!(run(&packed, "68, 68 1", CommandOptions { decode: true, ..plain }).unwrap(), "aa<|request|>\n");
    let words = load(&fixture("bert_uncased"));
    let pair = run(&words, "[\"a\",\"the a\"]\n", json_lines).unwrap();
    assert!(pair.ends_with(",\"segments\":[0,0,0,1,1,1]}\n"), "{pair}");
    assert!(run(&packed, "[\"a\",\"b\",\"c\"]", json_lines).unwrap_err().contains("nor a list of two"));
    assert_eq!(run(&packed, "\"a\"\nb", json_lines).unwrap_err().split(':').next(), Some("line 2"));
    assert!(run(&packed, "[-1]", decode).unwrap_err().contains("not a JSON list of ids"));
    let characters = load(&fixture("characters"));
    assert!(run(&characters, "abc\n\u{10348}", plain).unwrap_err().contains("line 2: the tokenizer does not know"));
}

/// A trained tokenizer that may not enter the project, where it lies beside it.
#[test]
fn stories260k() {
    let folder = repository("../shared/models/stories260K");
    if !folder.is_dir() {
        eprintln!("NOT RUN: {} is absent; llama2/ among the fixtures is tested in its place", folder.display());
        return;
    }
    let reference = read_json(&folder.join("reference.json"));
    let mut prompts = vec![&reference];
    prompts.extend(reference["more_prompts"].as_array().unwrap());
    for file in ["tokenizer.json", "tokenizer.model"] {
        let packed = load(&folder.join(file));
        let tokenizer = packed.tokenizer().unwrap();
        for prompt in &prompts {
            let ids = convert::encode_prompt(&tokenizer, prompt["prompt_text"].as_str().unwrap()).unwrap();
            assert_eq!(json!(ids), prompt["prompt_ids"], "{file}");
            let greedy: Vec<u32> = serde_json::from_value(prompt["greedy_ids"].clone()).unwrap();
            let text = convert::decode(&tokenizer, &greedy, true);
            let wanted = prompt["greedy_text"].as_str().unwrap();
            assert_eq!(text.trim_start(), wanted.trim_start(), "{file}");
        }
    }
}
