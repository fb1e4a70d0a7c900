//! Families' recipes: which stored numbers every tensor of the record gets, and what is refused.
//!
//! Tiny models with values that follow from their place, so that expectations need no reader. Logits are compared with
//! transformers' elsewhere.

use std::fs;

use serde_json::{Value, json};
use thumbformer_convert::source::SpecialTokens;

mod encoders;
mod gpt2;
mod hub;
mod llama;
mod others;
mod relatives;
mod rope;
mod sources;
mod table;
#[path = "../tiny/mod.rs"]
mod tiny;

use tiny::{Tensors, Tiny, fixture, mentions, refused};

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
fn unknown_families_are_named() {
    let tensors = llama_tensors(false);
    let config = |model_type: &str, class: &str| json!({"model_type": model_type, "architectures": [class]});
    for (config, words) in [
        (config("mamba", "MambaForCausalLM"), ["model_type `mamba`", "known: llama, "]),
        (config("llama", "LlamaForSequenceClassification"), ["`LlamaForSequenceClassification`", "known"]),
        (json!({"architectures": ["ReformerModel"]}), ["ReformerModel", "known"]),
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
    assert_eq!(
        tokens().expect("ids"),
        SpecialTokens { bos: Some(1), eos: vec![7], pad: None, ..SpecialTokens::default() }
    );
    // What the vocabulary does not reach cannot be generated.
    write(json!({"eos_token_id": [5, 50256], "pad_token_id": 0}));
    assert_eq!(
        tokens().expect("ids"),
        SpecialTokens { bos: Some(1), eos: vec![5], pad: Some(0), ..SpecialTokens::default() }
    );
    for bad in [json!("</s>"), json!([1, "2"]), json!(-2), json!(1.5), json!([[1]])] {
        write(json!({"eos_token_id": bad}));
        mentions(&tokens().expect_err("no id").to_string(), &["generation_config.json", "eos_token_id", "token id"]);
    }
}
