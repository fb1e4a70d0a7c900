//! Rotary embeddings: transformers' frequencies, and what is refused.

use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};
use thumbformer::arch::Role;
use thumbformer_convert::recipe::{Recipe, Source};

use crate::tiny::{Tensors, Tiny, fixture, mentions, read};

#[derive(Deserialize)]
struct RopeCase {
    head_dim: u32,
    rope_parameters: Value,
    bits: Vec<u32>,
}

/// A LLaMA of one layer and one head of that size, whose configuration has these fields too.
fn one_head(head_dim: u32, fields: &Value) -> Tiny {
    one_head_of("llama", head_dim, fields)
}

fn one_head_of(model_type: &str, head_dim: u32, fields: &Value) -> Tiny {
    let size = head_dim as usize;
    let mut config = json!({
        "model_type": model_type, "vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1,
        "head_dim": head_dim, "intermediate_size": 1, "max_position_embeddings": 64, "tie_word_embeddings": true
    });
    for (name, value) in fields.as_object().expect("fields") {
        config[name] = value.clone();
    }
    let layer = |name: &str| format!("layers.0.{name}.weight");
    let mut tensors = vec![("embed_tokens.weight".into(), vec![1, 1]), ("norm.weight".into(), vec![1])];
    tensors.extend(["q_proj", "k_proj", "v_proj"].map(|n| (layer(&format!("self_attn.{n}")), vec![size, 1])));
    tensors.push((layer("self_attn.o_proj"), vec![1, size]));
    tensors.extend(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"].map(|n| (layer(n), vec![1, 1])));
    tensors.extend(["input_layernorm", "post_attention_layernorm"].map(|n| (layer(n), vec![1])));
    match model_type {
        "qwen2" => {
            tensors.extend(["q_proj", "k_proj", "v_proj"].map(|n| (format!("layers.0.self_attn.{n}.bias"), vec![size])))
        }
        "stablelm" => tensors.extend(
            ["norm.bias", "layers.0.input_layernorm.bias", "layers.0.post_attention_layernorm.bias"]
                .map(|n| (n.into(), vec![1])),
        ),
        "phi3" => {
            tensors.retain(|(name, _)| ["q_proj", "k_proj", "v_proj", "gate", "up"].iter().all(|p| !name.contains(p)));
            tensors.push((layer("self_attn.qkv_proj"), vec![3 * size, 1]));
            tensors.push((layer("mlp.gate_up_proj"), vec![2, 1]));
        }
        _ => {}
    }
    Tiny::new(&Tensors(tensors), Some(&config))
}

#[test]
fn rotary_frequencies_are_transformers() {
    let cases = fs::read(fixture("rope.json")).expect("rope.json");
    let cases: Vec<RopeCase> = serde_json::from_slice(&cases).expect("JSON");
    for case in cases {
        let parameters = &case.rope_parameters;
        let mut scaling = parameters.clone();
        let theta = scaling.as_object_mut().expect("fields").remove("rope_theta").expect("rope_theta");
        let mut oldest = scaling.clone();
        let rope_type = oldest.as_object_mut().expect("fields").remove("rope_type").expect("rope_type");
        oldest["type"] = rope_type.clone();
        let mut spellings = vec![
            json!({"rope_parameters": parameters}),
            json!({"rope_parameters": parameters, "rope_theta": theta}),
            json!({"rope_parameters": parameters, "rope_scaling": parameters}),
            json!({"rope_scaling": scaling, "rope_theta": theta}),
            json!({"rope_scaling": oldest, "rope_theta": theta}),
        ];
        if rope_type == "default" {
            spellings.push(json!({"rope_scaling": null, "rope_theta": theta}));
        }
        for spelling in spellings {
            let tiny = one_head(case.head_dim, &spelling);
            assert!(tiny.recipe().is_ok_and(|recipe| recipe.notes.is_empty()), "{spelling}");
            let found = tiny.read(Role::RopeFrequencies, 0);
            let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
            assert_eq!(found, case.bits, "{spelling}");
        }
    }
}

#[test]
fn rotary_rules_that_are_not_known_are_refused() {
    let scaling = |value: Value| json!({"rope_theta": 10000.0, "rope_scaling": value});
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    for (fields, words) in [
        (
            scaling(json!({"rope_type": "ntk", "factor": 4.0})),
            ["rope_scaling.rope_type", "\"ntk\"", "default, linear, dynamic, llama3"],
        ),
        (scaling(json!({"type": "proportional", "factor": 4.0})), ["rope_scaling.type", "\"proportional\"", "linear"]),
        (scaling(json!({"rope_type": "linear"})), ["rope_scaling.factor", "nothing", "positive"]),
        (scaling(json!({"rope_type": "linear", "factor": 0.0})), ["rope_scaling.factor", "0", "positive"]),
        (scaling(json!({"rope_type": "linear", "factor": "4"})), ["rope_scaling.factor", "\"4\"", "a number"]),
        (
            scaling(json!({"rope_type": "linear", "factor": 2.0, "mscale": 1.0})),
            ["rope_scaling.mscale", "1.0", "no such field"],
        ),
        (scaling(json!({"rope_type": 3})), ["rope_scaling.rope_type", "3", "a string"]),
        (scaling(json!([4.0])), ["rope_scaling", "[4.0]", "an object"]),
        (scaling(llama3.clone()), ["rope_scaling.original_max_position_embeddings", "nothing", "positive"]),
        (
            scaling(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0})),
            ["rope_scaling.high_freq_factor", "4.0", "more than"],
        ),
        (json!({"rope_theta": -1.0}), ["rope_theta", "-1.0", "positive"]),
        (json!({"rope_theta": 1e39}), ["rope_theta", "1e+39", "positive"]),
        (json!({"rope_theta": 1e-60}), ["rope_theta", "1e-60", "positive"]),
        (json!({"rope_theta": true}), ["rope_theta", "true", "a number"]),
        (json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5}), ["partial_rotary_factor", "0.5", "1"]),
        (
            json!({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}),
            ["rope_parameters.rope_theta", "500000", "10000"],
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
            ["rope_scaling", "linear", "same"],
        ),
    ] {
        let error = one_head(8, &fields).recipe().expect_err(&fields.to_string()).to_string();
        mentions(&error, &[&["config.json"], words.as_slice()].concat());
    }
    mentions(&one_head(7, &json!({})).recipe().expect_err("odd").to_string(), &["rotary_dim", "even"]);
}

#[derive(Deserialize)]
struct RuleCase {
    model_type: String,
    head_dim: u32,
    fields: Value,
    bits: Vec<u32>,
    beyond: Option<Vec<u32>>,
    original: Option<u32>,
    attention: f64,
}

#[test]
fn rules_that_scale_the_scores_or_depend_on_the_context_are_transformers() {
    let cases = fs::read(fixture("rope_rules.json")).expect("rope_rules.json");
    let cases: Vec<RuleCase> = serde_json::from_slice(&cases).expect("JSON");
    for case in cases {
        let (tiny, what) = (one_head_of(&case.model_type, case.head_dim, &case.fields), case.fields.to_string());
        let (source, mut recipe) = (tiny.source(), tiny.recipe().unwrap_or_else(|error| panic!("{error}: {what}")));
        // PyTorch's power of many numbers at once is not always the nearest f32.
        let check = |recipe: &Recipe, bits: &[u32]| {
            let found = read(&source, recipe, Role::RopeFrequencies, 0);
            assert_eq!(found.len(), bits.len());
            let apart = found.iter().zip(bits).map(|(x, bits)| x.to_bits().abs_diff(*bits)).max();
            assert!(apart <= Some(2), "{what}: {apart:?} units apart");
        };
        let rotary_dim = recipe.arch.rotary_dim;
        assert_eq!(rotary_dim as usize, 2 * case.bits.len(), "{what}");
        match (&case.beyond, case.original) {
            (Some(beyond), Some(original)) if original < recipe.arch.context => {
                check(&recipe, beyond);
                mentions(&recipe.notes.join("\n"), &["LongRoPE", &format!("--context {original} ")]);
                recipe.limit_context(original + 1).expect("shorter");
                check(&recipe, beyond);
                recipe.limit_context(original).expect("shorter");
            }
            _ => assert!(recipe.notes.is_empty(), "{what}: {:?}", recipe.notes),
        }
        check(&recipe, &case.bits);

        // The factor of sine and cosine is put into the scores, or into what rotates of the queries.
        let size = f64::from(case.head_dim).sqrt();
        let factor = f64::from(recipe.arch.attention_scale) * size;
        let qkv = recipe.tensors.iter().find(|t| t.spec.role == Role::Qkv).expect("qkv");
        let Source::Parts(parts) = &qkv.source else { panic!("computed") };
        let scale = f64::from(parts[0].scale);
        let square = case.attention * case.attention;
        if rotary_dim == case.head_dim {
            assert!((factor / square - 1.0).abs() < 1e-6 && scale == 1.0, "{what}: {factor}");
        } else {
            assert!((scale / square - 1.0).abs() < 1e-6 && (factor - 1.0).abs() < 1e-6, "{what}: {scale}");
            assert!(parts[1..].iter().all(|part| part.scale == 1.0));
            assert!(square == 1.0 || parts[0].rows == rotary_dim as usize);
        }
        assert_eq!(parts.iter().map(|part| part.rows).sum::<usize>(), 3 * case.head_dim as usize);
    }
}

#[test]
fn phi3s_older_names_of_longrope_are_read() {
    let fields = |kind: &str| {
        json!({"rope_theta": 1e4, "max_position_embeddings": 128, "original_max_position_embeddings": 32,
            "rope_scaling": {"type": kind, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}})
    };
    let read = |kind: &str| one_head_of("phi3", 4, &fields(kind)).read(Role::RopeFrequencies, 0);
    assert_eq!(read("longrope"), [0.5, 1.0 / (3.0 * 100.0)]);
    assert!(read("su") == read("longrope") && read("yarn") == read("longrope"));
    let error = one_head(4, &fields("su")).recipe().expect_err("Phi-3's").to_string();
    mentions(&error, &["rope_scaling.type", "\"su\"", "longrope"]);
    // transformers gives Phi-3 an original context of 4096 positions, whatever stands inside.
    let mut inside = fields("longrope");
    inside["rope_scaling"]["original_max_position_embeddings"] = json!(32);
    inside["original_max_position_embeddings"] = Value::Null;
    let tiny = one_head_of("phi3", 4, &inside);
    assert_eq!(tiny.read(Role::RopeFrequencies, 0)[0], 1.0);
}

#[test]
fn rules_with_impossible_values_are_refused() {
    let long = |fields: Value| {
        let mut scaling = json!({"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0],
            "original_max_position_embeddings": 32});
        fields.as_object().expect("fields").iter().for_each(|(name, value)| scaling[name] = value.clone());
        scaling
    };
    let yarn = |fields: Value| {
        let mut scaling = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        fields.as_object().expect("fields").iter().for_each(|(name, value)| scaling[name] = value.clone());
        scaling
    };
    for (scaling, words) in [
        (long(json!({"short_factor": [1.0]})), ["rope_scaling.short_factor", "[1.0]", "a list of 2 positive"]),
        (long(json!({"long_factor": [1.0, 0.0]})), ["rope_scaling.long_factor", "0.0", "a list of 2 positive"]),
        (long(json!({"long_factor": [1.0, "2"]})), ["rope_scaling.long_factor", "\"2\"", "a list of numbers"]),
        (long(json!({"long_factor": null})), ["rope_scaling.long_factor", "nothing", "a list of 2"]),
        (long(json!({"original_max_position_embeddings": 0})), ["rope_scaling.original_max", "0", "positive integer"]),
        (long(json!({"original_max_position_embeddings": 1})), ["rope_scaling.original_max", "1", "more than 1"]),
        (long(json!({"attention_factor": -1})), ["rope_scaling.attention_factor", "-1", "positive"]),
        (long(json!({"long_mscale": 1.2})), ["rope_scaling.long_mscale", "1.2", "no such field"]),
        (yarn(json!({"factor": null})), ["rope_scaling.factor", "nothing", "positive"]),
        (yarn(json!({"attention_factor": 0})), ["rope_scaling.attention_factor", "0", "positive"]),
        (yarn(json!({"beta_fast": -1})), ["rope_scaling.beta_fast", "-1", "positive"]),
        (yarn(json!({"truncate": 1})), ["rope_scaling.truncate", "1", "true or false"]),
        (yarn(json!({"mscale": -9.0, "mscale_all_dim": 1.0})), ["rope_scaling.mscale", "-9.0", "positive"]),
        (yarn(json!({"finetuned": true})), ["rope_scaling.finetuned", "true", "no such field"]),
        (json!({"type": "dynamic"}), ["rope_scaling.factor", "nothing", "positive"]),
    ] {
        let fields = json!({"rope_theta": 1e4, "rope_scaling": scaling});
        let error = one_head(4, &fields).recipe().expect_err(&fields.to_string()).to_string();
        mentions(&error, &[&["config.json"], words.as_slice()].concat());
    }
    // A base of 1 has no wavelengths to choose between.
    let fields = json!({"rope_theta": 1.0, "rope_scaling": yarn(json!({}))});
    mentions(&one_head(4, &fields).recipe().expect_err("no ramp").to_string(), &["rope_theta", "1.0", "more than 1"]);
    // Sizes come before anything of that size.
    let fields = json!({"rope_theta": 1e4, "head_dim": 4_000_000_000u32});
    mentions(&one_head(4, &fields).recipe().expect_err("too wide").to_string(), &["head_dim", "1..=1024"]);
    for (model_type, fields, words) in [
        ("phi3", json!({"partial_rotary_factor": 1.5}), ["partial_rotary_factor", "1.5", "at most 1"]),
        ("phi3", json!({"partial_rotary_factor": 0.1}), ["rotary_dim", "positive", "config.json"]),
        ("phi3", json!({"partial_rotary_factor": 0.9}), ["rotary_dim", "even", "config.json"]),
        (
            "stablelm",
            json!({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}}),
            ["rope_parameters.partial_rotary_factor", "0.25", "0.5, as outside"],
        ),
    ] {
        let error = one_head_of(model_type, 4, &fields).recipe().expect_err(model_type).to_string();
        mentions(&error, &words);
    }
}
