//! Families' recipes: which stored numbers every tensor of the record gets, and what is refused.
//!
//! Tiny models with values that follow from their place, so that expectations need no reader. Logits are compared with
//! transformers' elsewhere.

use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};
use thumbformer::arch::{Activation, Biases, Norm, Position, Role};
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source, SpecialTokens};

mod tiny;
use tiny::{Tensors, Tiny, fixture, mentions, read, refused};

fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 11, "hidden_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "intermediate_size": 10, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
        "eos_token_id": [2, 3], "bos_token_id": 1, "pad_token_id": -1, "torch_dtype": "float32", "use_cache": true,
        "pretraining_tp": 1, "rope_scaling": null, "attention_dropout": 0.0, "transformers_version": "4.40.0"
    })
}

fn llama_tensors(biases: bool) -> Tensors {
    let mut tensors = vec![("model.embed_tokens.weight".into(), vec![11, 8])];
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{i}.{name}"), shape.into()));
        for (name, rows, cols) in [
            ("self_attn.q_proj", 24, 8),
            ("self_attn.k_proj", 12, 8),
            ("self_attn.v_proj", 12, 8),
            ("self_attn.o_proj", 8, 24),
            ("mlp.gate_proj", 10, 8),
            ("mlp.up_proj", 10, 8),
            ("mlp.down_proj", 8, 10),
        ] {
            add(&format!("{name}.weight"), &[rows, cols]);
            if biases {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        add("input_layernorm.weight", &[8]);
        add("post_attention_layernorm.weight", &[8]);
    }
    tensors.push(("model.norm.weight".into(), vec![8]));
    tensors.push(("lm_head.weight".into(), vec![11, 8]));
    Tensors(tensors)
}

/// GPT-2's tensors, matrices `[in, out]` if `conv1d`.
fn gpt2_tensors(prefix: &str, conv1d: bool, biases: bool) -> Tensors {
    let mut tensors = vec![(format!("{prefix}wte.weight"), vec![11, 6]), (format!("{prefix}wpe.weight"), vec![5, 6])];
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("{prefix}h.{i}.{name}"), shape.into()));
        for (name, rows, cols) in
            [("attn.c_attn", 18, 6), ("attn.c_proj", 6, 6), ("mlp.c_fc", 24, 6), ("mlp.c_proj", 6, 24)]
        {
            add(&format!("{name}.weight"), &if conv1d { [cols, rows] } else { [rows, cols] });
            if biases {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        for name in ["ln_1", "ln_2"] {
            add(&format!("{name}.weight"), &[6]);
            if biases {
                add(&format!("{name}.bias"), &[6]);
            }
        }
    }
    tensors.push((format!("{prefix}ln_f.weight"), vec![6]));
    if biases {
        tensors.push((format!("{prefix}ln_f.bias"), vec![6]));
    }
    Tensors(tensors)
}

fn gpt2_config() -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 11, "n_embd": 6, "n_layer": 2,
        "n_head": 2, "n_positions": 5, "n_ctx": 5, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
        "attn_pdrop": 0.1, "summary_type": "cls_index", "task_specific_params": {"text-generation": {"max_length": 50}}
    })
}

/// The configuration with a field set.
fn set(mut config: Value, field: &str, value: Value) -> Value {
    config[field] = value;
    config
}

/// Whole tensors one after another.
fn joined(tensors: &Tensors, names: &[&str]) -> Vec<f32> {
    names.iter().flat_map(|name| tensors.all(name)).collect()
}

#[test]
fn llama_tensors_go_where_they_belong() {
    let tensors = llama_tensors(false);
    let tiny = Tiny::new(&tensors, Some(&llama_config()));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let arch = recipe.arch;
    assert_eq!((recipe.family, recipe.notes.len()), ("llama", 0));
    assert_eq!((arch.vocab, arch.dim, arch.layers, arch.hidden, arch.context), (11, 8, 2, 10, 16));
    assert_eq!((arch.heads, arch.kv_heads, arch.head_dim, arch.rotary_dim), (4, 2, 6, 6));
    assert_eq!((arch.norm, arch.norm_eps, arch.position), (Norm::Rms, 1e-5, Position::Rope));
    assert_eq!((arch.activation, arch.gated, arch.biases), (Activation::Silu, true, Biases::default()));
    assert_eq!((arch.tied_head, arch.attention_scale), (false, (6.0f64.powf(-0.5)) as f32));
    assert!(recipe.tensors.iter().map(|t| t.spec).eq(arch.tensors()));

    for layer in 0..2 {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| format!("model.layers.{layer}.{name}.weight")).collect();
            joined(&tensors, &names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        for (role, expected) in [
            (Role::Qkv, of(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])),
            (Role::AttentionOut, of(&["self_attn.o_proj"])),
            (Role::MlpUp, of(&["mlp.gate_proj", "mlp.up_proj"])),
            (Role::MlpDown, of(&["mlp.down_proj"])),
            (Role::AttentionNorm, of(&["input_layernorm"])),
            (Role::MlpNorm, of(&["post_attention_layernorm"])),
            (Role::KeyMean, vec![0.0; 12]),
        ] {
            assert_eq!(tiny.read(role, layer), expected, "{}", role.name());
        }
    }
    assert_eq!(tiny.read(Role::TokenEmbedding, 0), tensors.all("model.embed_tokens.weight"));
    assert_eq!(tiny.read(Role::FinalNorm, 0), tensors.all("model.norm.weight"));
    assert_eq!(tiny.read(Role::Head, 0), tensors.all("lm_head.weight"));
    let ids = tiny.source().special_tokens(11).expect("ids");
    assert_eq!(ids, SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None });
}

#[test]
fn rows_cross_the_borders_of_parts() {
    let tensors = llama_tensors(true);
    let config = set(set(llama_config(), "attention_bias", json!(true)), "mlp_bias", json!(true));
    let tiny = Tiny::new(&tensors, Some(&config));
    let (source, recipe) = (tiny.source(), tiny.recipe().unwrap_or_else(|error| panic!("{error}")));
    let qkv = recipe.tensors.iter().find(|t| t.spec.role == Role::Qkv && t.spec.layer == 1).expect("qkv");
    let all = read(&source, &recipe, Role::Qkv, 1);
    for start in 0..48 {
        for end in start..=48 {
            let mut out = vec![f32::NAN; (end - start) * 8];
            recipe.read_rows(&source.checkpoint, qkv, start..end, &mut out).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(out, all[start * 8..end * 8]);
        }
    }
    for (rows, len) in [(0..1, 7), (0..1, 9), (47..49, 16), (48..49, 8), (usize::MAX - 1..usize::MAX, 8)] {
        assert!(recipe.read_rows(&source.checkpoint, qkv, rows, &mut vec![0.0; len]).is_err());
    }
    // Biases: vectors of several parts.
    let names =
        |layer: &str, of: &[&str]| of.iter().map(|n| format!("model.layers.{layer}.{n}.bias")).collect::<Vec<_>>();
    let expected = |names: Vec<String>| joined(&tensors, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let of = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    assert_eq!(tiny.read(Role::QkvBias, 1), expected(names("1", &of)));
    assert_eq!(tiny.read(Role::MlpUpBias, 0), expected(names("0", &["mlp.gate_proj", "mlp.up_proj"])));
    assert_eq!(tiny.read(Role::MlpDownBias, 0), expected(names("0", &["mlp.down_proj"])));
    assert_eq!(tiny.read(Role::AttentionOutBias, 1), expected(names("1", &["self_attn.o_proj"])));
}

#[test]
fn llama_spellings_are_equal() {
    let tensors = llama_tensors(false);
    let expected = Tiny::new(&tensors, Some(&llama_config())).recipe().expect("a recipe");
    // A bare model's names, buffers of old versions, wrappers.
    let bare = tensors.clone().renamed(|name| name.trim_start_matches("model.").into());
    let buffers = tensors.clone().with("model.layers.0.self_attn.rotary_emb.inv_freq", &[3]);
    let wrapped = tensors.clone().renamed(|name| format!("module._orig_mod.{name}"));
    for tensors in [bare, buffers, wrapped] {
        let tiny = Tiny::new(&tensors, Some(&llama_config()));
        let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(recipe.arch, expected.arch);
        assert_eq!(tiny.read(Role::Head, 0).len(), 88);
    }
    let compiled =
        |name: &str| if name.contains("layers") { name.replace(".mlp.", "._orig_mod.mlp.") } else { name.into() };
    assert!(Tiny::new(&tensors.clone().renamed(compiled), Some(&llama_config())).recipe().is_ok());
    let mut twice = tensors.clone();
    twice.0.push(("_orig_mod.model.norm.weight".into(), vec![8]));
    refused(&twice, Some(&llama_config()), &["model.norm.weight", "wrapper's prefix"]);

    // What a configuration may leave out or say differently.
    let mut config = llama_config();
    for field in ["architectures", "rms_norm_eps", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings"] {
        config.as_object_mut().expect("fields").remove(field);
    }
    let recipe = Tiny::new(&tensors, Some(&config)).recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recipe.arch, thumbformer::arch::Arch { norm_eps: 1e-6, ..expected.arch });
    let config = set(set(llama_config(), "model_type", Value::Null), "hidden_size", json!(8.0));
    assert_eq!(Tiny::new(&tensors, Some(&config)).recipe().expect("a recipe").arch, expected.arch);
    let square = json!({
        "model_type": "llama", "vocab_size": 3, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 2, "max_position_embeddings": 7, "tie_word_embeddings": true
    });
    let layer = |name: &str| format!("layers.0.{name}.weight");
    let mut small = vec![("embed_tokens.weight".into(), vec![3, 4]), ("norm.weight".into(), vec![4])];
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        small.push((layer(&format!("self_attn.{name}")), vec![4, 4]));
    }
    small.extend(
        [("mlp.gate_proj", [2, 4]), ("mlp.up_proj", [2, 4]), ("mlp.down_proj", [4, 2])]
            .map(|(n, s)| (layer(n), s.into())),
    );
    small.extend(["input_layernorm", "post_attention_layernorm"].map(|n| (layer(n), vec![4])));
    let recipe = Tiny::new(&Tensors(small), Some(&square)).recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((recipe.arch.kv_heads, recipe.arch.head_dim, recipe.arch.tied_head), (2, 2, true));
    assert_eq!(recipe.notes.len(), 1, "{:?}", recipe.notes);
    mentions(&recipe.notes[0], &["rope_theta", "10000"]);
}

#[test]
fn tied_heads_follow_the_stored_values() {
    let tensors = llama_tensors(false);
    let tied = set(llama_config(), "tie_word_embeddings", json!(true));
    let embedding = tensors.all("model.embed_tokens.weight");

    let missing = Tiny::new(&tensors.clone().without("lm_head.weight"), Some(&tied));
    assert!(missing.recipe().expect("a recipe").arch.tied_head);

    let copied = Tiny::changed(
        &tensors,
        Some(&tied),
        |name, i, value| if name == "lm_head.weight" { embedding[i] } else { value },
    );
    let recipe = copied.recipe().expect("a recipe");
    assert!(recipe.arch.tied_head && recipe.notes.is_empty());

    let differing = Tiny::new(&tensors, Some(&tied));
    let recipe = differing.recipe().expect("a recipe");
    assert!(!recipe.arch.tied_head);
    mentions(&recipe.notes.join("\n"), &["lm_head.weight", "differs", "kept"]);
    assert_eq!(differing.read(Role::Head, 0), tensors.all("lm_head.weight"));

    let only = tensors.clone().without("model.embed_tokens.weight");
    let only_head = Tiny::new(&only, Some(&tied));
    assert!(only_head.recipe().expect("a recipe").arch.tied_head);
    assert_eq!(only_head.read(Role::TokenEmbedding, 0), only.all("lm_head.weight"));

    let untied = tensors.without("lm_head.weight");
    refused(&untied, Some(&llama_config()), &["`lm_head.weight`", "nothing", "[11, 8]", "ties it"]);
}

#[derive(Deserialize)]
struct RopeCase {
    head_dim: u32,
    rope_parameters: Value,
    bits: Vec<u32>,
}

/// A LLaMA of one layer and one head of that size, whose configuration has these fields too.
fn one_head(head_dim: u32, fields: &Value) -> Tiny {
    let size = head_dim as usize;
    let mut config = json!({
        "model_type": "llama", "vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1,
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
            scaling(json!({"rope_type": "yarn", "factor": 4.0})),
            ["rope_scaling.rope_type", "\"yarn\"", "default, linear, llama3"],
        ),
        (scaling(json!({"type": "dynamic", "factor": 4.0})), ["rope_scaling.type", "\"dynamic\"", "linear"]),
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

#[test]
fn gpt2_is_read_transposed() {
    for prefix in ["transformer.", ""] {
        // As published: masks among the weights, and no head.
        let tensors = gpt2_tensors(prefix, true, true);
        let stored = tensors
            .clone()
            .with(&format!("{prefix}h.0.attn.bias"), &[1, 1, 5, 5])
            .with(&format!("{prefix}h.1.attn.masked_bias"), &[]);
        let tiny = Tiny::new(&stored, Some(&gpt2_config()));
        let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        let arch = recipe.arch;
        assert_eq!((recipe.family, recipe.notes.len()), ("gpt2", 0));
        assert_eq!((arch.vocab, arch.dim, arch.layers, arch.hidden, arch.context), (11, 6, 2, 24, 5));
        assert_eq!((arch.heads, arch.kv_heads, arch.head_dim, arch.rotary_dim), (2, 2, 3, 0));
        assert_eq!((arch.norm, arch.norm_eps, arch.position), (Norm::Layer, 1e-5, Position::Learned));
        assert_eq!((arch.activation, arch.gated, arch.tied_head), (Activation::GeluTanh, false, true));
        assert_eq!(arch.biases, Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false });
        assert_eq!(arch.attention_scale, (3.0f64.powf(-0.5)) as f32);
        for layer in 0..2 {
            let name = |name: &str| format!("{prefix}h.{layer}.{name}");
            for (role, matrix) in [
                (Role::Qkv, "attn.c_attn.weight"),
                (Role::AttentionOut, "attn.c_proj.weight"),
                (Role::MlpUp, "mlp.c_fc.weight"),
                (Role::MlpDown, "mlp.c_proj.weight"),
            ] {
                assert_eq!(tiny.read(role, layer), stored.transposed(&name(matrix)), "{matrix}");
            }
            for (role, vector) in [
                (Role::AttentionNorm, "ln_1.weight"),
                (Role::AttentionNormBias, "ln_1.bias"),
                (Role::QkvBias, "attn.c_attn.bias"),
                (Role::AttentionOutBias, "attn.c_proj.bias"),
                (Role::MlpNorm, "ln_2.weight"),
                (Role::MlpNormBias, "ln_2.bias"),
                (Role::MlpUpBias, "mlp.c_fc.bias"),
                (Role::MlpDownBias, "mlp.c_proj.bias"),
            ] {
                assert_eq!(tiny.read(role, layer), stored.all(&name(vector)), "{vector}");
            }
        }
        for (role, name) in [
            (Role::TokenEmbedding, "wte.weight"),
            (Role::PositionEmbedding, "wpe.weight"),
            (Role::FinalNorm, "ln_f.weight"),
            (Role::FinalNormBias, "ln_f.bias"),
        ] {
            assert_eq!(tiny.read(role, 0), stored.all(&format!("{prefix}{name}")), "{name}");
        }
    }
}

#[test]
fn gpt2_options_change_the_record() {
    let tensors = gpt2_tensors("transformer.", true, true);
    let recipe = |field, value| Tiny::new(&tensors, Some(&set(gpt2_config(), field, value))).recipe();
    let arch = |field, value| recipe(field, value).unwrap_or_else(|error| panic!("{error}")).arch;
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
    ] {
        assert_eq!(arch("activation_function", json!(name)).activation, activation);
    }
    assert_eq!(arch("layer_norm_epsilon", json!(1e-6)).norm_eps, 1e-6);
    assert_eq!(arch("scale_attn_weights", json!(false)).attention_scale, 1.0);
    assert_eq!(arch("n_inner", json!(24)).hidden, 24);
    mentions(&recipe("n_inner", json!(20)).expect_err("hidden").to_string(), &["c_fc", "[6, 24]", "[6, 20]"]);
    let own = tensors.clone().with("lm_head.weight", &[11, 6]);
    let untied = Tiny::new(&own, Some(&set(gpt2_config(), "tie_word_embeddings", json!(false))));
    assert_eq!(untied.read(Role::Head, 0), own.all("lm_head.weight"));

    // Scores of layer i divided by i + 1: the queries of layer 1 are halved, and nothing else.
    let scaled = Tiny::new(&tensors, Some(&set(gpt2_config(), "scale_attn_by_inverse_layer_idx", json!(true))));
    for layer in 0..2 {
        let halved = |mut values: Vec<f32>, queries: usize| {
            values[..queries].iter_mut().for_each(|x| *x /= (layer + 1) as f32);
            values
        };
        let name = |what: &str| format!("transformer.h.{layer}.attn.c_attn.{what}");
        assert_eq!(scaled.read(Role::Qkv, layer), halved(tensors.transposed(&name("weight")), 6 * 6));
        assert_eq!(scaled.read(Role::QkvBias, layer), halved(tensors.all(&name("bias")), 6));
    }
}

#[test]
fn nanogpt_is_recognised_with_and_without_configuration() {
    // Its own checkpoint: a compiled model, no biases, both copies of the tied head.
    let source = Source::find(&fixture("ckpt.pt"), &Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    let recipe = family::recognise(&source).unwrap_or_else(|error| panic!("{error}"));
    let arch = recipe.arch;
    assert_eq!((recipe.family, recipe.notes.len()), ("nanogpt", 0));
    assert_eq!((arch.vocab, arch.dim, arch.layers, arch.hidden, arch.context), (10, 6, 2, 24, 5));
    assert_eq!((arch.heads, arch.kv_heads, arch.head_dim), (2, 2, 3));
    assert_eq!((arch.norm, arch.norm_eps, arch.position), (Norm::Layer, 1e-5, Position::Learned));
    assert_eq!((arch.activation, arch.gated, arch.tied_head), (Activation::Gelu, false, true));
    assert_eq!(arch.biases, Biases::default());
    assert_eq!(source.special_tokens(10).expect("none"), SpecialTokens::default());
    assert!(read(&source, &recipe, Role::Qkv, 1).iter().all(|x| x.is_finite()));

    // A bare state dict with biases, stored [out, in].
    let tensors = gpt2_tensors("transformer.", false, true);
    let full = json!({"n_layer": 2, "n_head": 3, "n_embd": 6, "block_size": 5, "bias": true, "vocab_size": 11, "dropout": 0.1});
    for config in [full.clone(), json!({"n_head": 3}), json!({"n_head": 3, "vocab_size": null, "batch_size": 12})] {
        let tiny = Tiny::new(&tensors, Some(&config));
        let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((recipe.family, recipe.arch.heads, recipe.arch.layers, recipe.arch.context), ("nanogpt", 3, 2, 5));
        assert_eq!(recipe.arch.biases, Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false });
        assert_eq!(tiny.read(Role::Qkv, 1), tensors.all("transformer.h.1.attn.c_attn.weight"));
        assert_eq!(tiny.read(Role::MlpDown, 0), tensors.all("transformer.h.0.mlp.c_proj.weight"));
        assert_eq!(tiny.read(Role::FinalNormBias, 0), tensors.all("transformer.ln_f.bias"));
    }
    refused(&tensors, None, &["n_head", "number of attention heads", "config.json"]);
    for (field, value, words) in [
        ("n_head", json!(4), ["n_head", "divisor of n_embd, 6"]),
        ("n_head", json!(0), ["n_head", "divisor"]),
        ("bias", json!(false), ["beyond those of this architecture", "attn.c_proj.bias"]),
        ("bias", json!("yes"), ["bias", "true or false"]),
        ("block_size", json!(6), ["wpe.weight", "[6, 6]"]),
        ("n_layer", json!(3), ["transformer.h.2.ln_1.weight", "nothing"]),
        ("n_layer", json!(1), ["transformer.h.1.", "beyond"]),
        ("vocab_size", json!(50304), ["wte.weight", "[50304, 6]"]),
        ("rotary", json!(true), ["rotary", "may change what the model computes"]),
    ] {
        refused(&tensors, Some(&set(full.clone(), field, value)), &words);
    }
}

#[test]
fn a_checkpoints_own_arguments_come_before_config_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ckpt.pt");
    fs::copy(fixture("ckpt.pt"), &path).expect("copied");
    let config = folder.path().join("config.json");
    fs::write(&config, set(gpt2_config(), "vocab_size", json!(10)).to_string()).expect("written");
    let recognise =
        |overrides: &Overrides| Source::find(&path, overrides).and_then(|source| family::recognise(&source));
    assert_eq!(recognise(&Overrides::default()).expect("a recipe").family, "nanogpt");
    let overrides = Overrides { config: Some(config) };
    mentions(&recognise(&overrides).expect_err("transposed").to_string(), &["c_attn", "[18, 6]", "[6, 18]"]);
    let overrides = Overrides { config: Some(folder.path().join("missing.json")) };
    mentions(&recognise(&overrides).expect_err("no file").to_string(), &["missing.json", "No such file"]);
}

#[test]
fn unknown_families_are_named() {
    let tensors = llama_tensors(false);
    let config = |model_type: &str, class: &str| json!({"model_type": model_type, "architectures": [class]});
    for (config, words) in [
        (config("mistral", "MistralForCausalLM"), ["model_type `mistral`", "known: llama, gpt2, nanoGPT"]),
        (config("llama", "LlamaForSequenceClassification"), ["`LlamaForSequenceClassification`", "known"]),
        (json!({"architectures": ["BertModel"]}), ["BertModel", "known"]),
        (json!({"dim": 4}), ["without model_type", "`lm_head.weight`"]),
        (json!({"model_type": 3}), ["model_type", "a string"]),
        (json!({"architectures": "LlamaForCausalLM"}), ["architectures", "a list of names"]),
    ] {
        refused(&tensors, Some(&config), &[["config.json"].as_slice(), &words].concat());
    }
    refused(&tensors, None, &["model.safetensors", "no config.json in", "--config"]);
    refused(&gpt2_tensors("transformer.", true, true), None, &["no config.json in"]);
    // transformers' GPT-2 that lost its model_type is not nanoGPT.
    let config = json!({"n_head": 2, "n_layer": 2, "n_embd": 6});
    refused(&gpt2_tensors("transformer.", true, true), Some(&config), &["unknown model family"]);
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let tensors = llama_tensors(false);
    let config = llama_config();
    let k = "model.layers.1.self_attn.k_proj.weight";
    for (tensors, words) in [
        (tensors.clone().without(k), [k, "found nothing", "shape [12, 8]"]),
        (tensors.clone().without(k).without("model.norm.weight"), [k, "missing: ", "`model.norm.weight`"]),
        (tensors.clone().with(k, &[8, 12]), [k, "found shape [8, 12]", "expected shape [12, 8]"]),
        (tensors.clone().with(k, &[96]), [k, "found shape [96]", "expected shape [12, 8]"]),
        (
            tensors.clone().with("model.layers.0.self_attn.q_proj.bias", &[24]),
            ["q_proj.bias", "tensors beyond", "llama"],
        ),
        (
            tensors.clone().with("model.layers.2.mlp.up_proj.weight", &[10, 8]),
            ["model.layers.2", "beyond", "as configured"],
        ),
        (tensors.clone().with("model.layers.0.self_attn.q_norm.weight", &[6]), ["q_norm", "beyond", "as configured"]),
    ] {
        refused(&tensors, Some(&config), &[["model.safetensors"].as_slice(), &words].concat());
    }
    // Many missing names are cut short.
    let many = set(llama_config(), "num_hidden_layers", json!(4000));
    refused(&tensors, Some(&many), &["model.layers.2.input_layernorm.weight", "and 35976 more"]);
    // Weights of a type that is not read: the types' fixture holds integers and booleans.
    let names = Tensors(vec![("ids".into(), vec![2, 3])]);
    let folder = Tiny::new(&names, Some(&config));
    fs::copy(fixture("types.safetensors"), folder.folder.path().join("model.safetensors")).expect("copied");
    mentions(&folder.recipe().expect_err("other tensors").to_string(), &["missing"]);
}

#[test]
fn integer_weights_are_refused_by_type() {
    let tensors = llama_tensors(false);
    let tiny = Tiny::new(&tensors, Some(&llama_config()));
    let path = tiny.folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the model");
    let field = br#""model.norm.weight":{"dtype":"F32""#;
    let at = bytes.windows(field.len()).position(|w| w == field).expect("the field") + field.len() - 4;
    bytes[at..at + 3].copy_from_slice(b"I32");
    fs::write(&path, bytes).expect("written");
    mentions(
        &tiny.recipe().expect_err("integers").to_string(),
        &["`model.norm.weight`", "type I32", "f32, f16, bf16 or f64"],
    );
}

#[test]
fn configurations_that_cannot_be_right_name_the_field() {
    let tensors = llama_tensors(false);
    for (field, value, words) in [
        ("hidden_size", Value::Null, ["hidden_size", "nothing", "an integer"]),
        ("hidden_size", json!("8"), ["hidden_size", "\"8\"", "an integer"]),
        ("hidden_size", json!(8.5), ["hidden_size", "8.5", "an integer"]),
        ("hidden_size", json!(-8), ["hidden_size", "-8", "an integer"]),
        ("hidden_size", json!(1u64 << 40), ["hidden_size", "1099511627776", "4294967295"]),
        ("hidden_size", json!(65537), ["dim", "1..=65536", "config.json"]),
        ("vocab_size", json!(0), ["vocab", "1..=4194304", "config.json"]),
        ("num_hidden_layers", json!(5000), ["layers", "1..=4096", "config.json"]),
        ("num_attention_heads", json!(0), ["heads", "1..=65536", "config.json"]),
        ("num_attention_heads", json!(u32::MAX), ["heads", "1..=65536", "config.json"]),
        ("num_key_value_heads", json!(3), ["kv_heads", "a divisor of heads", "config.json"]),
        ("num_key_value_heads", json!(0), ["kv_heads", "a divisor of heads", "config.json"]),
        ("head_dim", json!(0), ["head_dim", "1..=1024", "config.json"]),
        ("max_position_embeddings", json!(1u32 << 21), ["context", "1..=1048576", "config.json"]),
        ("rms_norm_eps", json!(-1.0), ["norm_eps", "not negative", "config.json"]),
        ("rms_norm_eps", json!(1e300), ["norm_eps", "finite", "config.json"]),
        ("hidden_act", json!("mish"), ["hidden_act", "\"mish\"", "silu"]),
        ("attention_bias", json!(1), ["attention_bias", "1", "true or false"]),
        ("layer_types", json!(["full_attention", "sliding_attention"]), ["layer_types", "sliding", "full_attention"]),
        // Fields of other models, which change what is computed.
        ("sliding_window", json!(4096), ["sliding_window", "4096", "may change what the model computes"]),
        ("attention_multiplier", json!(0.5), ["attention_multiplier", "0.5", "--config"]),
        ("logits_scaling", json!(8), ["logits_scaling", "8", "--config"]),
        ("quantization_config", json!({"quant_method": "gptq"}), ["quantization_config", "gptq", "--config"]),
        ("add_cross_attention", json!(true), ["add_cross_attention", "true", "--config"]),
    ] {
        refused(&tensors, Some(&set(llama_config(), field, value)), &words);
    }
    // Switched off, or of no consequence.
    for (field, value) in [
        ("sliding_window", Value::Null),
        ("rope_interleaved", json!(false)),
        ("is_llama_config", json!(true)),
        ("quantization_config", json!({})),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("unsloth_version", json!("2025.1")),
        ("_name_or_path", json!("somewhere")),
    ] {
        let recipe = Tiny::new(&tensors, Some(&set(llama_config(), field, value))).recipe();
        assert!(recipe.is_ok(), "{field}: {}", recipe.expect_err("refused"));
    }
    let undivided = set(set(llama_config(), "head_dim", Value::Null), "num_attention_heads", json!(3));
    refused(&tensors, Some(&undivided), &["num_attention_heads", "3", "divisor of hidden_size, 8"]);
    refused(
        &gpt2_tensors("", true, true),
        Some(&set(gpt2_config(), "n_head", json!(4))),
        &["n_head", "4", "divisor of n_embd"],
    );
    refused(&gpt2_tensors("", true, true), Some(&set(gpt2_config(), "n_embd", json!(4_000_000_000u32))), &["dim"]);

    let tiny = Tiny::new(&tensors, None);
    for (text, words) in [
        ("[1]", ["config.json", "a JSON object"]),
        ("{\"model_type\": ", ["config.json", "not JSON"]),
        (&"[".repeat(100_000), ["config.json", "not JSON"]),
    ] {
        fs::write(tiny.folder.path().join("config.json"), text).expect("written");
        mentions(&tiny.recipe().expect_err(text).to_string(), &words);
    }
}

#[test]
fn special_tokens_come_from_generation_config_first() {
    let tensors = llama_tensors(false);
    let tiny = Tiny::new(&tensors, Some(&llama_config()));
    let write = |value: Value| {
        fs::write(tiny.folder.path().join("generation_config.json"), value.to_string()).expect("written")
    };
    let tokens = || tiny.source().special_tokens(11);
    write(json!({"eos_token_id": 7, "bos_token_id": null}));
    assert_eq!(tokens().expect("ids"), SpecialTokens { bos: Some(1), eos: vec![7], pad: None });
    // What the vocabulary does not reach cannot be generated.
    write(json!({"eos_token_id": [5, 50256], "pad_token_id": 0}));
    assert_eq!(tokens().expect("ids"), SpecialTokens { bos: Some(1), eos: vec![5], pad: Some(0) });
    for bad in [json!("</s>"), json!([1, "2"]), json!(-2), json!(1.5), json!([[1]])] {
        write(json!({"eos_token_id": bad}));
        mentions(&tokens().expect_err("no id").to_string(), &["generation_config.json", "eos_token_id", "token id"]);
    }
}
