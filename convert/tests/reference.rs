//! The f32 oracle against what PyTorch and transformers computed (tests/fixtures/models/make.py, and the reference
//! files of two trained models).

mod common;

use std::path::Path;

use common::{Expected, Sequence, model, models, open, outside, relative_error, repository};
use serde::Deserialize;
use thumbformer::arch::{Activation, HeadNorm, LayerSet, Norm, Role, Wiring};
use thumbformer_convert::Error;
use thumbformer_convert::recipe::{Part, Recipe, Source as Values};
use thumbformer_convert::reference::Reference;
use thumbformer_convert::source::Source;

/// Measured on x86-64: 1.5e-6 at most. PyTorch adds up in another order, and other machines have another `exp`.
const TOLERANCE: f32 = 1e-5;

fn load((source, recipe): &(Source, Recipe)) -> Reference {
    Reference::load(recipe, &source.checkpoint).expect("a good recipe")
}

fn reference(path: &Path) -> Reference {
    load(&open(path, None))
}

fn logits(reference: &mut Reference, ids: &[u32]) -> Vec<Vec<f32>> {
    let (first, mut all) = (reference.position(), Vec::new());
    let mut visit = |position, logits: &[f32]| {
        assert_eq!(position, first + all.len());
        all.push(logits.to_vec());
    };
    reference.forward(ids, &mut visit).expect("ids and positions in range");
    assert_eq!(all.len(), ids.len());
    all
}

/// An encoder's logits; its vectors, if it has no head.
fn encoded(reference: &mut Reference, sequence: &Sequence) -> Vec<Vec<f32>> {
    let hidden = reference.encode(&sequence.ids, &sequence.token_types).expect("in range");
    let all = if reference.arch().headless { hidden } else { reference.token_logits(&hidden).expect("a head") };
    all.chunks(all.len() / sequence.ids.len()).map(<[f32]>::to_vec).collect()
}

/// The largest error over all sequences.
fn error(reference: &mut Reference, expected: &Expected) -> f32 {
    let mut worst = 0f32;
    for sequence in &expected.sequences {
        reference.reset();
        if reference.arch().cross {
            reference.encode_source(&sequence.source).expect("in range");
        }
        let all = if reference.arch().causal { logits(reference, &sequence.ids) } else { encoded(reference, sequence) };
        for (position, logits) in all.iter().enumerate() {
            if let Some(expected) = sequence.at(position) {
                worst = worst.max(relative_error(logits, expected));
            }
        }
    }
    worst
}

fn argmax(logits: &[f32]) -> u32 {
    (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).expect("logits").0
}

#[test]
fn every_tiny_model_has_transformers_logits() {
    for name in models() {
        let expected = Expected::read(&name, "expected.json");
        let opened = open(&model(&name), None);
        assert_eq!(opened.1.parameters(), expected.parameters, "{name}");
        assert_eq!(opened.1.arch.context as usize, expected.context, "{name}");
        let error = error(&mut load(&opened), &expected);
        println!("{name:20} {error:.1e}");
        assert!(error < TOLERANCE, "{name}: {error:.1e}");
    }
}

#[test]
fn the_oldest_spelling_of_rope_scaling_is_read() {
    let folder = model("llama-rope-linear");
    let mut reference = load(&open(&folder, Some(folder.join("config.v4.json"))));
    let error = error(&mut reference, &Expected::read("llama-rope-linear", "expected.json"));
    assert!(error < TOLERANCE, "{error:.1e}");
}

/// LongRoPE: transformers chooses by a text's length, a converted model by its context.
#[test]
fn a_short_context_has_the_short_factors_of_longrope() {
    let mut opened = open(&model("phi3-long"), None);
    let expected = Expected::read("phi3-long", "expected_short.json");
    let long = error(&mut load(&opened), &expected);
    assert!(long > 5.0 * TOLERANCE, "the two differ by {long:.1e} only");
    opened.1.limit_context(expected.context as u32).expect("shorter");
    let short = error(&mut load(&opened), &expected);
    assert!(short < TOLERANCE, "{short:.1e}");
}

/// What the comparison is for: each mistake a converter could make must show far above the tolerance.
#[test]
fn mistakes_show() {
    let mistake = |name: &str, change: &dyn Fn(&mut Recipe)| {
        let mut opened = open(&model(name), None);
        change(&mut opened.1);
        error(&mut load(&opened), &Expected::read(name, "expected.json"))
    };
    let values = |recipe: &mut Recipe, role: Role, change: &dyn Fn(&mut f32)| {
        for tensor in recipe.tensors.iter_mut().filter(|tensor| tensor.spec.role == role) {
            let Values::Values(values) = &mut tensor.source else { panic!("{role:?} is not computed") };
            values.iter_mut().for_each(change);
        }
    };
    let parts = |recipe: &mut Recipe, role: Role, change: &dyn Fn(&mut Part)| {
        for tensor in recipe.tensors.iter_mut().filter(|tensor| tensor.spec.role == role) {
            let Values::Parts(parts) = &mut tensor.source else { panic!("{role:?} is not stored") };
            parts.iter_mut().for_each(change);
        }
    };
    // Both transposed, or neither: the shapes do not tell.
    let swap_projections = |recipe: &mut Recipe| {
        let factor = |recipe: &mut Recipe, role: Role, new: Option<Box<Part>>| {
            let tensor = recipe.tensors.iter_mut().find(|tensor| tensor.spec.role == role).expect("an embedding");
            let Values::Parts(parts) = &mut tensor.source else { panic!("{role:?} is not stored") };
            std::mem::replace(&mut parts[0].factor, new)
        };
        let head = factor(recipe, Role::Head, None);
        let embedding = factor(recipe, Role::TokenEmbedding, head);
        factor(recipe, Role::Head, embedding);
    };
    let first_heads_norm = |recipe: &mut Recipe| {
        for tensor in recipe.tensors.iter_mut().filter(|tensor| tensor.spec.role == Role::QueryNorm) {
            let Values::Parts(parts) = &mut tensor.source else { panic!("{:?} is not stored", tensor.spec) };
            parts.iter_mut().for_each(|part| part.tensor = part.tensor.replace("norms.1", "norms.0"));
        }
    };
    let errors = [
        ("tanh GELU for erf", mistake("gpt2-erf", &|r| r.arch.activation = Activation::GeluTanh)),
        ("erf GELU for tanh", mistake("gpt2", &|r| r.arch.activation = Activation::Gelu)),
        ("tanh GELU for erf, nanoGPT", mistake("nanogpt", &|r| r.arch.activation = Activation::GeluTanh)),
        ("epsilon 1e-5 for 1e-4", mistake("gpt2-erf", &|r| r.arch.norm_eps = 1e-5)),
        ("epsilon 1e-4 for 1e-5", mistake("llama-bias", &|r| r.arch.norm_eps = 1e-4)),
        ("RMS for layer norm", mistake("nanogpt", &|r| r.arch.norm = Norm::Rms)),
        ("scale by dim / heads", mistake("llama-headdim", &|r| r.arch.attention_scale = 8f32.powf(-0.5))),
        ("RoPE unscaled", mistake("llama-rope-linear", &|r| values(r, Role::RopeFrequencies, &|f| *f *= 4.0))),
        ("YaRN's scores unscaled", mistake("qwen2-yarn", &|r| r.arch.attention_scale = 8f32.powf(-0.5))),
        ("part of a head unscaled", mistake("phi3-long", &|r| parts(r, Role::Qkv, &|p| p.scale = 1.0))),
        ("head's rows as stored", mistake("baichuan2", &|r| parts(r, Role::Head, &|p| p.unit_rows = false))),
        ("positions from the first row", mistake("opt", &|r| parts(r, Role::PositionEmbedding, &|p| p.first_row = 0))),
        ("scores scaled", mistake("gpt_bigcode-mha", &|r| r.arch.attention_scale = 8f32.powf(-0.5))),
        ("sequential layers", mistake("gpt_neox", &|r| r.arch.wiring = Wiring::Sequential)),
        ("pairs as neighbours", mistake("gptj", &|r| parts(r, Role::Qkv, &|p| p.interleaved = None))),
        ("heads not normalised", mistake("qwen3", &|r| parts(r, Role::QueryNorm, &|p| p.scale = 0.5))),
        ("norms' weights as stored", mistake("gemma", &|r| parts(r, Role::FinalNorm, &|p| p.offset = 0.0))),
        ("embedding not scaled", mistake("gemma", &|r| r.arch.embedding_scale = 1.0)),
        ("scores not capped", mistake("gemma2", &|r| r.arch.score_cap = 0.0)),
        ("logits not capped", mistake("gemma2", &|r| r.arch.logit_cap = 0.0)),
        ("a window one longer", mistake("gemma2", &|r| r.arch.window += 1)),
        ("other layers with the window", mistake("gemma2", &|r| r.arch.global_every = 3)),
        ("other layers of a list", mistake("ministral", &|r| r.arch.window_list = LayerSet::from_bits(0b0110))),
        ("RMSNorm of heads", mistake("phi-head-norms", &|r| r.arch.head_norm = HeadNorm::Rms)),
        ("the first head's norm", mistake("stablelm-head-norms", &first_heads_norm)),
        ("one base", mistake("gemma3", &|r| values(r, Role::WindowRopeFrequencies, &|f| *f *= 0.5))),
        ("other slopes", mistake("bloom", &|r| values(r, Role::AlibiSlopes, &|s| *s *= 0.5))),
        ("the window in all layers", mistake("qwen2-windowed", &|r| r.arch.window_from = 0)),
        ("residual stream as it was", mistake("bloom-residual", &|r| r.arch.normed_residual = false)),
        ("biases not scaled", mistake("falcon-alibi", &|r| values(r, Role::AlibiSlopes, &|s| *s *= 6f32.sqrt()))),
        ("slopes not rounded", mistake("falcon-alibi-grouped", &|r| values(r, Role::AlibiSlopes, &|s| *s *= 1.002))),
        ("projections swapped", mistake("opt-350m", &swap_projections)),
        ("RoPE backwards", mistake("llama-ragged", &|r| values(r, Role::RopeFrequencies, &|f| *f = -*f))),
    ];
    for (what, error) in errors {
        println!("{what:30} {error:.1e}");
        assert!(error > 5.0 * TOLERANCE, "{what} moves the logits by {error:.1e} only");
    }
}

#[test]
fn blocks_rewinding_and_clones_change_nothing() {
    for name in ["llama-gqa-tied", "nanogpt"] {
        let ids = &Expected::read(name, "expected.json").sequences[0].ids;
        let mut reference = reference(&model(name));
        let whole = logits(&mut reference, ids);

        reference.reset();
        assert_eq!(reference.position(), 0);
        let mut pieces = Vec::new();
        for (piece, length) in [1, 2, 30, 1, 7].into_iter().enumerate() {
            let ids = &ids[pieces.len()..][..length];
            if piece % 2 == 0 {
                pieces.extend(logits(&mut reference, ids));
            } else {
                let last = reference.forward_last(ids).expect("in range");
                pieces.extend(whole[pieces.len()..][..length - 1].to_vec());
                pieces.push(last);
            }
        }
        assert!(pieces == whole[..pieces.len()]);

        reference.rewind(20).expect("seen");
        let mut clone = reference.clone();
        logits(&mut clone, &[5, 6, 7]);
        assert_eq!((reference.position(), clone.position()), (20, 23));
        assert!(logits(&mut reference, &ids[20..]) == whole[20..]);
    }
}

#[test]
fn mean_keys_are_those_of_numpy() {
    for name in ["llama-gqa-tied", "gpt2"] {
        let expected = Expected::read(name, "expected_int8_g32_centred.json");
        let mut reference = reference(&model(name));
        assert!(reference.mean_keys().concat().iter().all(|k| *k == 0.0));
        reference.forward_last(&expected.sequences[0].ids).expect("in range");
        let error = relative_error(&reference.mean_keys().concat(), &expected.key_mean);
        assert!(error < TOLERANCE, "{name}: {error:.1e}");
    }
}

fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("bad input").to_string()
}

#[test]
fn bad_ids_and_positions_are_refused_and_leave_no_trace() {
    let mut reference = reference(&model("llama-untied"));
    let mut never = |_: usize, _: &[f32]| panic!("no logits of bad input");
    let before = logits(&mut reference, &[3, 4]);

    let found = message(reference.forward(&[1, 96], &mut never));
    assert!(found.contains("token id 96 (number 1 of those given)") && found.contains("size of 96"), "{found}");
    let found = message(reference.forward_last(&[u32::MAX]));
    assert!(found.contains("token id 4294967295"), "{found}");
    let found = message(reference.forward(&[0; 63], &mut never));
    assert_eq!(found, "63 tokens after 2 do not fit into the context of 64");
    let found = message(reference.forward_last(&[]));
    assert!(found.contains("no token"), "{found}");
    let found = message(reference.rewind(3));
    assert!(found.contains("position 3") && found.contains("only 2"), "{found}");

    assert_eq!(reference.position(), 2);
    reference.forward(&[], &mut never).expect("nothing to do");
    reference.forward_last(&[0; 62]).expect("exactly the context");
    assert!(reference.forward_last(&[0]).is_err());
    reference.reset();
    assert!(logits(&mut reference, &[3, 4]) == before);
}

#[test]
fn an_incomplete_recipe_is_refused() {
    let (source, recipe) = open(&model("gpt2"), None);
    for spec in recipe.arch.tensors().filter(|spec| spec.role != Role::KeyMean) {
        let mut tensors = recipe.tensors.clone();
        tensors.retain(|tensor| tensor.spec != spec);
        let broken = Recipe { tensors, notes: Vec::new(), source: None, ..recipe };
        let found = message(Reference::load(&broken, &source.checkpoint));
        assert!(found.contains(spec.role.name()) && found.contains(&format!("layer {}", spec.layer)), "{found}");
    }
    let mut broken = Recipe { tensors: recipe.tensors.clone(), notes: Vec::new(), source: None, ..recipe };
    broken.arch.kv_heads = 3;
    assert!(message(Reference::load(&broken, &source.checkpoint)).contains("kv_heads"));
    broken.arch.kv_heads = 2;
    let found = message(Reference::load(&broken, &source.checkpoint));
    assert!(found.contains("qkv") && found.contains("expected"), "{found}");
}

/// `[id, logit]` of the five largest, for each step.
type TopFive = Vec<Vec<(u32, f32)>>;

/// Decodes greedily and compares the first steps' largest logits and all ids.
fn check_greedy(reference: &mut Reference, prompt: &[u32], answer: &[u32], top: &TopFive) {
    reference.reset();
    let mut logits = reference.forward_last(prompt).expect("in range");
    for (step, &id) in answer.iter().enumerate() {
        for &(id, expected) in top.get(step).into_iter().flatten() {
            let found = logits[id as usize];
            assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "step {step}: {found}, not {expected}");
        }
        assert_eq!(argmax(&logits), id, "step {step}");
        logits = reference.forward_last(&[id]).expect("in range");
    }
}

#[test]
fn home_commands_answers_as_in_pytorch() {
    #[derive(Deserialize)]
    struct Case {
        prompt_ids: Vec<u32>,
        answer_ids: Vec<u32>,
        top5_logits_per_step: TopFive,
    }
    let folder = repository("tests/models/home-commands");
    let text = std::fs::read_to_string(folder.join("reference_f32.json")).expect("fixture");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("fixture");
    let mut reference = reference(&folder);
    assert!(cases.len() >= 4);
    for case in cases {
        assert_eq!(case.top5_logits_per_step.len(), case.answer_ids.len());
        check_greedy(&mut reference, &case.prompt_ids, &case.answer_ids, &case.top5_logits_per_step);
    }
}

#[test]
fn stories260k_tells_the_same_story() {
    #[derive(Deserialize)]
    struct Prompt {
        prompt_ids: Vec<u32>,
        greedy_ids: Vec<u32>,
        top5_first8_steps: TopFive,
    }
    #[derive(Deserialize)]
    struct Nll {
        window: usize,
        scored: usize,
        mean_nll: f64,
        ids: Vec<u32>,
    }
    #[derive(Deserialize)]
    struct Stories {
        #[serde(flatten)]
        first: Prompt,
        more_prompts: Vec<Prompt>,
        nll: Nll,
    }
    let Some(folder) = outside("stories260K") else { return };
    let text = std::fs::read_to_string(folder.join("reference.json")).expect("reference.json");
    let stories: Stories = serde_json::from_str(&text).expect("reference.json");
    let mut reference = reference(&folder);
    for prompt in [stories.first].iter().chain(&stories.more_prompts) {
        check_greedy(&mut reference, &prompt.prompt_ids, &prompt.greedy_ids, &prompt.top5_first8_steps);
    }

    let (mut sum, mut scored) = (0f64, 0);
    for window in stories.nll.ids.chunks(stories.nll.window) {
        reference.reset();
        for (logits, &next) in logits(&mut reference, window).iter().zip(&window[1..]) {
            let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
            let partition: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
            sum += partition.ln() + max - f64::from(logits[next as usize]);
            scored += 1;
        }
    }
    let nll = sum / f64::from(scored);
    println!("stories260K NLL {nll:.7}, PyTorch {:.7}", stories.nll.mean_nll);
    assert_eq!(scored as usize, stories.nll.scored);
    assert!((nll - stories.nll.mean_nll).abs() < 1e-5, "{nll}");
    assert!((nll - 1.2629).abs() < 0.0005, "{nll}");
}
