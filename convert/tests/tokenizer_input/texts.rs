//! Small buffers, long texts, pairs, prompt formats, and the command.

use super::*;

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
