//! The runtime's decoding against transformers (tests/fixtures/decoding.py), on the f32 oracle's logits, and grammars
//! against the regex crate and real tokenizers.

mod common;

use common::{model, open, repository};
use serde::Deserialize;
use thumbformer::blob::crc::crc32;
use thumbformer::decode::{BeamSettings, Constraint, ConstraintError, EarlyStopping, Grammar, GrammarError};
use thumbformer::decode::{PromptLookup, Sampler, Sampling, Seen};
use thumbformer_convert::engine::{Branches, Engine};
use thumbformer_convert::generate::{Choice, Ended, Settings, generate, generate_with, search};
use thumbformer_convert::grammar::Texts;
use thumbformer_convert::reference::Reference;
use thumbformer_convert::tokenizer::{self, Packed};

#[derive(Deserialize)]
struct Fixture {
    model: String,
    beams: Vec<Beams>,
    warpers: Vec<Warper>,
}

#[derive(Debug, Deserialize)]
struct Beams {
    prompt: Vec<u32>,
    end: Vec<u32>,
    beams: usize,
    length_penalty: f32,
    early_stopping: serde_json::Value,
    max_tokens: usize,
    hypotheses: Vec<Hypothesis>,
}

#[derive(Debug, Deserialize)]
struct Hypothesis {
    ids: Vec<u32>,
    score: f32,
}

#[derive(Debug, Deserialize)]
struct Warper {
    settings: Warped,
    history: Vec<u32>,
    logits: Vec<f32>,
    probabilities: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Warped {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
}

fn fixture() -> Fixture {
    let text = std::fs::read_to_string(repository("tests/fixtures/decoding.json")).expect("the fixture");
    serde_json::from_str(&text).expect("the fixture")
}

fn engine(name: &str) -> Branches {
    let (source, recipe) = open(&model(name), None);
    Branches::new(Reference::load(&recipe, &source.checkpoint).expect("a good recipe"))
}

#[test]
fn beam_search_is_that_of_transformers() {
    let fixture = fixture();
    let mut engine = engine(&fixture.model);
    let mut lengths = std::collections::BTreeSet::new();
    for case in &fixture.beams {
        let settings = BeamSettings {
            beams: case.beams,
            max_tokens: case.max_tokens,
            length_penalty: case.length_penalty,
            early_stopping: match &case.early_stopping {
                serde_json::Value::Bool(false) => EarlyStopping::Heuristic,
                serde_json::Value::Bool(true) => EarlyStopping::Always,
                _ => EarlyStopping::Never,
            },
            end: &case.end,
        };
        engine.reset();
        let found = search(&mut engine, &case.prompt, settings).expect("a search");
        assert_eq!(found.hypotheses.len(), case.hypotheses.len(), "{case:?}");
        for ((ids, score), expected) in found.hypotheses.iter().zip(&case.hypotheses) {
            assert_eq!(*ids, expected.ids, "{settings:?}: {:?}", found.hypotheses);
            let error = (score - expected.score).abs() / expected.score.abs().max(1.0);
            assert!(error < 1e-5, "{settings:?}: {score}, not {}", expected.score);
            lengths.insert(ids.len());
        }
    }
    assert!(fixture.beams.len() >= 100 && lengths.len() >= 12, "the cases are too much alike: {lengths:?}");
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<Answer>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    model: String,
    source: Vec<u32>,
    #[serde(flatten)]
    case: Beams,
}

/// The same for encoder-decoders (tests/fixtures/models/encoder_decoders.py), greedy where there is one beam.
#[test]
fn sources_are_answered_as_by_transformers() {
    let text = std::fs::read_to_string(repository("tests/fixtures/decoding_sources.json")).expect("the fixture");
    let Answers { answers } = serde_json::from_str(&text).expect("the fixture");
    assert!(answers.len() >= 28);
    for Answer { model, source, case } in &answers {
        let mut engine = engine(model);
        engine.encode_source(source).expect("a source that fits");
        if case.beams == 1 {
            let settings = Settings { max_tokens: case.max_tokens, end: &case.end, logits: 0 };
            let found = generate(&mut engine, &case.prompt, settings, |_| Ok(true)).expect("room");
            assert_eq!(found.ids, case.hypotheses[0].ids, "{model}");
            continue;
        }
        let early_stopping = match case.early_stopping {
            serde_json::Value::Bool(true) => EarlyStopping::Always,
            _ => EarlyStopping::Heuristic,
        };
        let (beams, max_tokens, length_penalty) = (case.beams, case.max_tokens, case.length_penalty);
        let settings = BeamSettings { beams, max_tokens, length_penalty, early_stopping, end: &case.end };
        let found = search(&mut engine, &case.prompt, settings).expect("a search");
        let ids: Vec<_> = found.hypotheses.iter().map(|(ids, _)| ids).collect();
        assert_eq!(ids, case.hypotheses.iter().map(|found| &found.ids).collect::<Vec<_>>(), "{model}: {settings:?}");
        for ((_, score), expected) in found.hypotheses.iter().zip(&case.hypotheses) {
            let error = (score - expected.score).abs() / expected.score.abs().max(1.0);
            assert!(error < 1e-5, "{model}: {settings:?}: {score}, not {}", expected.score);
        }
    }
}

/// Probabilities of a sampler, by drawing: within five standard deviations, and what is filtered out never comes.
#[test]
fn sampling_has_the_probabilities_of_transformers() {
    const DRAWS: u32 = 20_000;
    for (seed, case) in fixture().warpers.iter().enumerate() {
        let Warped { temperature, top_k, top_p, min_p, repetition_penalty } = case.settings;
        let plain = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, ..Sampling::default() };
        let mut counts = vec![0u32; case.logits.len()];
        let mut seen = [Seen::default(); 64];
        for draw in 0..DRAWS {
            let seed = u64::from(draw) << 8 | seed as u64;
            let mut sampler = Sampler::new(plain, seed, &mut seen).expect("good settings");
            sampler.prompt(&case.history).expect("room");
            counts[sampler.choose(&mut case.logits.clone()).expect("a token") as usize] += 1;
        }
        for (id, (&count, &p)) in counts.iter().zip(&case.probabilities).enumerate() {
            let (expected, deviation) = (p * f64::from(DRAWS), (p * (1.0 - p) * f64::from(DRAWS)).sqrt());
            let off = (f64::from(count) - expected).abs();
            assert!(off <= 5.0 * deviation + 1e-6, "token {id}: {count}, not {expected}: {:?}", case.settings);
        }
    }
}

#[test]
fn lookup_changes_no_token() {
    let mut accepted = 0;
    for name in ["llama-gqa-tied", "nanogpt"] {
        let mut engine = engine(name);
        let vocab = engine.arch().vocab;
        for (prompt, max_tokens) in [(1, 200), (20, 200), (50, 9), (64, 1), (127, 5)] {
            let context = engine.context();
            let prompt: Vec<u32> = (0..prompt.min(context as u32)).map(|i| i * 7 % 11 % vocab).collect();
            let settings = Settings { max_tokens, end: &[], logits: 0 };
            engine.reset();
            let plain = generate(&mut engine, &prompt, settings, |_| Ok(true)).expect("generated");
            for draft in [1, 4, 30] {
                let mut choice = Choice { lookup: Some(PromptLookup::new(3, draft)), ..Choice::default() };
                engine.reset();
                let found =
                    generate_with(&mut engine, &prompt, settings, &mut choice, |_| Ok(true)).expect("generated");
                assert_eq!((&found.ids, found.ended), (&plain.ids, plain.ended), "{name}, draft {draft}");
                let lookup = choice.lookup.expect("still there");
                assert!(lookup.accepted() <= lookup.drafted());
                assert_eq!(lookup.passes() + lookup.accepted(), plain.ids.len() as u64 - 1, "{name}, draft {draft}");
                accepted += lookup.accepted();
            }
        }
    }
    assert!(accepted > 50, "nothing was tested: {accepted}");
}

#[test]
fn automata_accept_what_the_expression_matches() {
    let patterns = [
        r"light\.(on|off)\((bedroom|kitchen)(,\d{1,3})?\)",
        "a|ab|abc",
        "(ab)*",
        "",
        r"\p{Greek}+!?",
        "^x$",
        "[^a]",
        r"(?i)straße",
        "a*b*?c?",
        "(a{2}){2,3}",
        ".*needle.*",
    ];
    let texts = [
        "",
        "a",
        "ab",
        "abc",
        "abcd",
        "abab",
        "aba",
        "x",
        "xx",
        "light.on(bedroom)",
        "light.on(bedroom,40)",
        "light.on(bedroom,4000)",
        "light.off(kitchen,)",
        "αβγ",
        "αβγ!",
        "!",
        "STRASSE",
        "STRAßE",
        "b",
        "aabbc",
        "aaaa",
        "aaaaaa",
        "aaaaa",
        "hay needle hay",
        "hay",
        "ä",
        "\n",
        "needle\n",
    ];
    for pattern in patterns {
        let automaton = Texts::regex(pattern).expect("a good expression");
        let regex = regex::Regex::new(&format!(r"\A(?:{pattern})\z")).expect("a good expression");
        for text in texts {
            assert_eq!(automaton.accepts(text), regex.is_match(text), "{pattern:?} {text:?}");
        }
    }
    // Minimal: a|ab|abc takes a start and one state for each length.
    assert_eq!(Texts::regex("a|ab|abc").expect("good").states(), 4);
    assert_eq!(Texts::list(["abc", "a", "ab", "a"]).expect("a list").states(), 4);
    assert_eq!(Texts::list(["one cat", "two cat"]).expect("a list").states(), 10);
}

#[test]
fn bad_expressions_are_refused() {
    for (pattern, words) in
        [("(", "unclosed"), (r"a\b", "word boundar"), (r"(a)\1", "backreference"), ("(?:x{1000}){1000}", "")]
    {
        let error = Texts::regex(pattern).expect_err(pattern).to_string();
        assert!(error.contains("regular expression") && error.to_lowercase().contains(words), "{error}");
    }
}

fn tokenizer(path: &str) -> Packed {
    tokenizer::load(&repository(path)).expect("a good tokenizer")
}

/// Draws texts from a grammar with logits that are all alike, for every budget: each is one of the grammar's, none is cut
/// short, and too small a budget is refused at once.
#[test]
fn random_walks_stay_in_the_grammar() {
    let commands = [
        Texts::regex(r"light\.(on|off|dim)\((bedroom|kitchen)(,[0-9]{1,3})?\)").expect("good"),
        Texts::regex(r"[\p{Greek}\p{Han}]{1,4}|x").expect("good"),
        Texts::regex(r"(ab|cde)+").expect("good"),
        Texts::list(["on", "off", "only", " on", "größer", "日本"]).expect("a list"),
        Texts::regex("|a").expect("good"),
    ];
    stay_in("tests/models/home-commands/tokenizer.json", &commands);
    // Where words get their spaces when they are shown.
    let words = [
        Texts::regex(r"[a-z]{1,5}( [a-z]{1,5}){0,2}").expect("good"),
        Texts::regex(r"the (boat|harbour)s?(, the boat){1,2}[.!]").expect("good"),
        Texts::list(["a lighthouse", "a light house", "the sea, and the boat"]).expect("a list"),
    ];
    for name in ["bert_uncased", "t5", "unigram/tokenizer.model", "llama2/tokenizer.json"] {
        stay_in(&format!("tests/fixtures/tokenizers/{name}"), &words);
    }
}

fn stay_in(path: &str, grammars: &[Texts]) {
    let packed = tokenizer(path);
    let tokenizer = packed.tokenizer().expect("a good section");
    let vocab = tokenizer.vocab() as usize;
    let endings: [&[u32]; 2] = [&[2], &[]];
    for texts in grammars {
        for end in endings {
            let bytes = texts.grammar(&tokenizer, &packed.section, end).expect("made");
            let grammar = Grammar::new(&bytes, &packed.section).expect("a good grammar");
            let least = grammar.shortest() + usize::from(!end.is_empty());
            for (seed, budget) in (0..400).zip((0..12).cycle()) {
                let mut constraint = Constraint::new(grammar, tokenizer, end);
                let mut sampler = Sampler::new(Sampling::default(), seed, &mut []).expect("good settings");
                let (mut ids, mut done) = (Vec::new(), false);
                for left in (1..=budget).rev() {
                    // More than the tokenizer knows: a padded head.
                    let mut logits = vec![0.0; vocab + 3];
                    match constraint.apply(&mut logits, left) {
                        Ok(true) => {}
                        Ok(false) => {
                            done = true;
                            break;
                        }
                        Err(ConstraintError::Room { needed, left }) => {
                            assert!(ids.is_empty() && needed > left, "stuck at {ids:?}");
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    let id = sampler.choose(&mut logits).expect("a token is allowed");
                    if end.contains(&id) {
                        done = true;
                        break;
                    }
                    constraint.push(id);
                    ids.push(id);
                }
                let text = tokenizer::decode(&tokenizer, &ids, true);
                let whole = done || (end.is_empty() && constraint.is_accepting());
                assert_eq!(whole, budget >= least, "{text:?} of {budget}, at least {least}");
                assert!(!whole || texts.accepts(&text), "{text:?}");
            }
        }
    }
}

#[test]
fn sentencepiece_texts_lose_their_leading_space() {
    let folder = repository("tests/fixtures/tokenizers");
    let mut tried = 0;
    for entry in folder.read_dir().expect("fixtures") {
        let path = entry.expect("an entry").path();
        let Some(Ok(packed)) = tokenizer::find(&path).map(|path| tokenizer::load(&path)) else { continue };
        let Ok(tokenizer) = packed.tokenizer() else { continue };
        // A text that the tokenizer itself gives back: whatever its rules, the grammar must allow it.
        let text = "the same";
        let Ok(ids) = tokenizer::encode(
            &tokenizer,
            text,
            thumbformer::tokenizer::EncodeOptions { add_special_tokens: false, ..Default::default() },
        ) else {
            continue;
        };
        if tokenizer::decode(&tokenizer, &ids, true) != text {
            continue;
        }
        tried += 1;
        let texts = Texts::list([text]).expect("a list");
        let end = [tokenizer.vocab() - 1];
        let bytes = texts.grammar(&tokenizer, &packed.section, &end).expect("made");
        let grammar = Grammar::new(&bytes, &packed.section).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut constraint = Constraint::new(grammar, tokenizer, &end);
        for &id in &ids {
            let mut logits = vec![0.0; tokenizer.vocab() as usize];
            assert_eq!(constraint.apply(&mut logits, 20), Ok(true), "{}", path.display());
            assert_eq!(logits[id as usize], 0.0, "{}: {:?}", path.display(), tokenizer::piece(&tokenizer, id));
            assert!(!constraint.is_accepting());
            constraint.push(id);
        }
        assert!(constraint.is_accepting(), "{}", path.display());
    }
    assert!(tried >= 3, "only {tried} tokenizers");
}

#[test]
fn grammars_that_allow_nothing_or_are_damaged_are_refused() {
    let packed = tokenizer("tests/models/home-commands/tokenizer.json");
    let tokenizer = packed.tokenizer().expect("a good section");
    let make = |texts: Texts| texts.grammar(&tokenizer, &packed.section, &[2]).expect("made");
    let nothing = make(Texts::regex("[a&&b]").expect("a good expression"));
    assert_eq!(Grammar::new(&nothing, &packed.section).err(), Some(GrammarError::Nothing));
    assert_eq!(
        Grammar::new(&make(Texts::list([]).expect("empty")), &packed.section).err(),
        Some(GrammarError::Nothing)
    );

    let good = make(Texts::list(["on", "off"]).expect("a list"));
    assert!(Grammar::new(&good, &packed.section).is_ok());
    assert_eq!(Grammar::new(&good, b"other").err(), Some(GrammarError::OtherTokenizer));
    assert_eq!(Grammar::new(b"", b"").err(), Some(GrammarError::Magic));
    for len in 0..good.len() {
        assert!(Grammar::new(&good[..len], &packed.section).is_err(), "{len} bytes");
    }
    assert!(Grammar::new(&[&good[..], &[0]].concat(), &packed.section).is_err());
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        let error = Grammar::new(&flipped, &packed.section).err();
        let expected = match at {
            0..8 => matches!(error, Some(GrammarError::Magic)),
            8..12 => matches!(error, Some(GrammarError::Version { .. })),
            _ => matches!(error, Some(GrammarError::Checksum)),
        };
        assert!(expected, "byte {at}: {error:?}");
    }
    // With checksums that hold, the numbers themselves.
    let reseal = |mut bytes: Vec<u8>| {
        let crc = crc32(&bytes[32..]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        Grammar::new(&reseal(bytes), &packed.section).err()
    };
    assert!(matches!(changed(12, &0u32.to_le_bytes()), Some(GrammarError::Size { states: 0, .. })));
    assert!(matches!(changed(12, &u32::MAX.to_le_bytes()), Some(GrammarError::Size { .. })));
    assert!(matches!(changed(16, &257u32.to_le_bytes()), Some(GrammarError::Size { classes: 257, .. })));
    assert!(matches!(changed(16, &1u32.to_le_bytes()), Some(GrammarError::Length { .. })));
    assert_eq!(changed(32 + 7, &[200]), Some(GrammarError::Range { offset: 39 }));
    let last = good.len() - 2;
    for state in [200u16, 0] {
        assert_eq!(changed(last, &state.to_le_bytes()), Some(GrammarError::Range { offset: last }));
    }
}

/// Any damage, with checksums that hold: what is not refused can be used.
#[test]
fn forged_grammars_are_refused_or_harmless() {
    let packed = tokenizer("tests/models/home-commands/tokenizer.json");
    let tokenizer = packed.tokenizer().expect("a good section");
    let texts = Texts::regex(r"(on|off)\([a-z]{1,4}\)").expect("good");
    let good = texts.grammar(&tokenizer, &packed.section, &[2]).expect("made");
    let mut random = thumbformer::decode::Random::new(3);
    let mut below = |limit: usize| random.below(limit as u64) as usize;
    let mut used = 0;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..1 + below(6) {
            let at = 12 + below(bytes.len() - 12);
            bytes[at] = [0, 1, 0x7F, 0xFF, below(256) as u8][below(5)];
        }
        bytes.truncate(bytes.len() - if below(10) == 0 { below(100) } else { 0 });
        if below(2) == 0 {
            bytes[12..24].copy_from_slice(&good[12..24]);
        }
        for (at, from, to) in [(24, 32, bytes.len()), (28, 0, 28)] {
            let crc = crc32(&bytes[from..to]);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        let Ok(grammar) = Grammar::new(&bytes, &packed.section) else { continue };
        used += 1;
        let mut constraint = Constraint::new(grammar, tokenizer, &[2]);
        for left in (0..8).rev() {
            let mut logits = vec![0.0; tokenizer.vocab() as usize];
            let _ = constraint.apply(&mut logits, left);
            constraint.push(below(600) as u32);
        }
    }
    assert!(used > 100, "only {used} were used");
}

#[test]
fn a_grammar_ends_generation_where_the_model_has_no_end() {
    let packed = tokenizer("tests/models/home-commands/tokenizer.json");
    let tokenizer = packed.tokenizer().expect("a good section");
    let (source, recipe) = open(&repository("tests/models/home-commands"), None);
    let mut engine = Branches::new(Reference::load(&recipe, &source.checkpoint).expect("a good recipe"));
    let bytes = Texts::list(["off", "dim"]).expect("a list").grammar(&tokenizer, &packed.section, &[]).expect("made");
    let grammar = Grammar::new(&bytes, &packed.section).expect("a good grammar");
    let constraint = Some(Constraint::new(grammar, tokenizer, &[]));
    let settings = Settings { max_tokens: 50, end: &[], logits: 1 };
    let mut choice = Choice { constraint, ..Choice::default() };
    let found = generate_with(&mut engine, &[1, 2], settings, &mut choice, |_| Ok(true)).expect("generated");
    assert_eq!((found.ended, found.logits.len()), (Ended::Complete, found.ids.len()));
    assert!(["off", "dim"].contains(&&tokenizer::decode(&tokenizer, &found.ids, true)[..]));
}
