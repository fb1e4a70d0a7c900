//! Tokenizer files and sections as they should not be, prompt formats, the `tokenize` command, and long texts.

mod files;
mod sections;
mod texts;

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
