//! Configurations as their authors publish them, with tiny sizes in place of theirs: every field is known.

use serde_json::{Value, json};
use thumbformer::arch::{Activation, Arch, HeadNorm, Position, Role, Wiring};
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source};

use crate::tiny::{Tensors, Tiny, mentions};

/// Two layers of 24 = 4 × 6 with 2 key/value heads, an MLP of 10, 11 tokens.
fn decoder(own_head: bool, qkv_biases: bool, norm_biases: bool) -> Tensors {
    let mut tensors: Vec<(String, Vec<usize>)> = vec![("model.embed_tokens.weight".into(), vec![11, 24])];
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{i}.{name}"), shape.into()));
        for (name, rows) in [("q_proj", 24), ("k_proj", 12), ("v_proj", 12)] {
            add(&format!("self_attn.{name}.weight"), &[rows, 24]);
            if qkv_biases {
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
        }
        add("self_attn.o_proj.weight", &[24, 24]);
        add("mlp.gate_proj.weight", &[10, 24]);
        add("mlp.up_proj.weight", &[10, 24]);
        add("mlp.down_proj.weight", &[24, 10]);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("{name}.weight"), &[24]);
            if norm_biases {
                add(&format!("{name}.bias"), &[24]);
            }
        }
    }
    tensors.push(("model.norm.weight".into(), vec![24]));
    if norm_biases {
        tensors.push(("model.norm.bias".into(), vec![24]));
    }
    if own_head {
        tensors.push(("lm_head.weight".into(), vec![11, 24]));
    }
    Tensors(tensors)
}

/// The same with queries, keys and values in one tensor of that name, and as many key/value heads as query heads.
fn fused(qkv: &str, up: Option<&str>) -> Tensors {
    let mut tensors = decoder(true, false, false);
    tensors.0.retain(|(name, _)| !name.contains("_proj") || name.contains("o_proj") || name.contains("mlp"));
    for i in 0..2 {
        tensors.0.push((format!("model.layers.{i}.self_attn.{qkv}.weight"), vec![72, 24]));
        if let Some(up) = up {
            let layer = format!("model.layers.{i}.mlp.");
            tensors.0.retain(|(name, _)| !name.starts_with(&layer) || name.contains("down"));
            tensors.0.push((format!("{layer}{up}.weight"), vec![20, 24]));
        }
    }
    tensors
}

/// Reads the configuration with tiny sizes.
fn accepted(tensors: &Tensors, mut config: Value, kv_heads: u32) -> (Arch, Vec<String>) {
    for (field, size) in [
        ("hidden_size", 24),
        ("intermediate_size", 10),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 2),
        ("vocab_size", 11),
    ] {
        config[field] = json!(size);
    }
    if config.get("num_key_value_heads").is_some() {
        config["num_key_value_heads"] = json!(kv_heads);
    }
    let recipe = Tiny::new(tensors, Some(&config)).recipe().unwrap_or_else(|error| panic!("{error}\n{config}"));
    assert_eq!(recipe.family, config["model_type"]);
    (recipe.arch, recipe.notes)
}

#[test]
fn smollm_and_tinyllama_are_llama() {
    let smollm2 = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
        "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152
    });
    let (arch, notes) = accepted(&decoder(false, false, false), smollm2, 2);
    assert_eq!((arch.tied_head, arch.context, arch.norm_eps, notes.len()), (true, 8192, 1e-5, 0));
    let tinyllama = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": null,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0", "use_cache": true, "vocab_size": 32000
    });
    let (arch, notes) = accepted(&decoder(true, false, false), tinyllama, 2);
    assert_eq!((arch.tied_head, arch.context, notes.len()), (false, 2048, 0));
}

#[test]
fn qwen2_5_is_accepted() {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
    });
    let tensors = decoder(false, true, false);
    let (arch, notes) = accepted(&tensors, config.clone(), 2);
    assert_eq!((arch.context, arch.biases.qkv, arch.biases.attention_out, notes.len()), (32768, true, false, 0));
    // As its authors advise for long texts.
    let mut yarn = config;
    yarn["rope_scaling"] = json!({"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"});
    let (scaled, _) = accepted(&tensors, yarn, 2);
    let factor = 0.1 * 4f32.ln() + 1.0;
    assert!((scaled.attention_scale / arch.attention_scale / factor.powi(2) - 1.0).abs() < 1e-6);
}

#[test]
fn mistral_7b_is_accepted() {
    let third = json!({
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.0.dev0", "use_cache": true, "vocab_size": 32768
    });
    let tensors = decoder(true, false, false);
    let (arch, notes) = accepted(&tensors, third.clone(), 2);
    assert_eq!((arch.context, notes.len()), (32768, 0));
    let mut first = third;
    first["sliding_window"] = json!(4096);
    let (arch, notes) = accepted(&tensors, first, 2);
    assert_eq!((arch.context, arch.window, notes.len()), (32768, 4096, 0));
}

#[test]
fn phi_3_mini_is_accepted() {
    let short = json!({
        "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
        "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5,
        "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": true, "attention_bias": false,
        "vocab_size": 32064
    });
    let tensors = fused("qkv_proj", Some("gate_up_proj"));
    let (arch, notes) = accepted(&tensors, short.clone(), 4);
    assert_eq!((arch.context, arch.window, arch.rotary_dim, notes.len()), (4096, 2047, 6, 0));
    let mut long = short;
    long["max_position_embeddings"] = json!(131072);
    long["sliding_window"] = json!(262144);
    let factors = json!({"type": "longrope", "short_factor": [1.0, 1.1, 1.2], "long_factor": [1.0, 4.0, 60.0]});
    long["rope_scaling"] = factors;
    let (arch, notes) = accepted(&tensors, long, 4);
    assert_eq!((arch.context, notes.len()), (131072, 1));
    mentions(&notes[0], &["LongRoPE", "--context 4096"]);
    let m = 1.0 + (32f64.ln() / 4096f64.ln());
    assert!((f64::from(arch.attention_scale) * 6f64.sqrt() / m - 1.0).abs() < 1e-6);
}

#[test]
fn stablelm_2_is_accepted() {
    let config = json!({
        "architectures": ["StableLmForCausalLM"], "bos_token_id": 100257, "eos_token_id": 100257,
        "attention_dropout": 0.0, "hidden_act": "silu", "hidden_dropout": 0.0, "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 5632, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "model_type": "stablelm", "num_attention_heads": 32,
        "num_hidden_layers": 24, "num_key_value_heads": 32, "partial_rotary_factor": 0.34, "rope_scaling": null,
        "rope_theta": 10000, "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.38.0",
        "use_cache": true, "use_parallel_residual": false, "qk_layernorm": false, "use_qkv_bias": true,
        "vocab_size": 100352
    });
    let (arch, notes) = accepted(&decoder(true, true, true), config, 2);
    assert_eq!((arch.rotary_dim, arch.biases.norm, arch.biases.qkv, notes.len()), (2, true, true, 0));
}

#[test]
fn baichuan_7b_is_accepted() {
    let second = json!({
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig", "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "tokenizer_class": "BaichuanTokenizer", "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
        "model_max_length": 4096, "model_type": "baichuan", "num_attention_heads": 32, "num_hidden_layers": 32,
        "pad_token_id": 0, "rms_norm_eps": 1e-6, "_from_model_config": true, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.29.2", "use_cache": true, "vocab_size": 125696
    });
    let tensors = fused("W_pack", None);
    let (arch, notes) = accepted(&tensors, second.clone(), 4);
    assert_eq!((arch.kv_heads, arch.context, notes.len()), (4, 4096, 2));
    mentions(&notes[1], &["unit length", "class is Baichuan 2's"]);
    let mut first = second;
    first["architectures"] = json!(["BaiChuanForCausalLM"]);
    first.as_object_mut().expect("fields").remove("model_max_length");
    mentions(&accepted(&tensors, first, 4).1[1], &["as it is stored", "class is Baichuan 1's"]);
}

#[test]
fn opt_125m_is_accepted() {
    let config = json!({
        "_name_or_path": "facebook/opt-125m", "_remove_final_layer_norm": false, "activation_dropout": 0.0,
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 2, "do_layer_norm_before": true, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 10,
        "hidden_size": 6, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 5, "model_type": "opt",
        "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 1, "prefix": "</s>",
        "torch_dtype": "float16", "transformers_version": "4.21.0.dev0", "use_cache": true, "vocab_size": 11,
        "word_embed_proj_dim": 6
    });
    let recipe = Tiny::new(&crate::others::opt_tensors("decoder.", true), Some(&config)).recipe();
    let recipe = recipe.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((recipe.family, recipe.arch.tied_head, recipe.notes.len()), ("opt", true, 0));
}

#[test]
fn opt_350m_is_accepted() {
    let config = json!({
        "_name_or_path": "opt-350m", "_remove_final_layer_norm": false, "activation_dropout": 0.0,
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 2, "do_layer_norm_before": false, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096,
        "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048, "model_type": "opt",
        "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1, "prefix": "</s>",
        "torch_dtype": "float16", "transformers_version": "4.20.0.dev0", "use_cache": true, "vocab_size": 50272,
        "word_embed_proj_dim": 512
    });
    let (arch, notes) = published("opt-350m", config);
    assert!(arch.post_norm && !arch.tied_head && notes.len() == 1, "{notes:?}");
}

#[test]
fn starcoder_is_accepted() {
    let config = json!({
        "_name_or_path": "/conversions/starcoder", "activation_function": "gelu",
        "architectures": ["GPTBigCodeForCausalLM"], "attention_softmax_in_fp32": true, "multi_query": true,
        "attn_pdrop": 0.1, "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0, "inference_runner": 0,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "max_batch_size": null, "max_sequence_length": null,
        "model_type": "gpt_bigcode", "n_embd": 6, "n_head": 2, "n_inner": 24, "n_layer": 2, "n_positions": 5,
        "pad_key_length": true, "pre_allocate_kv_cache": false, "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": true, "scale_attn_weights": true, "summary_activation": null,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index",
        "summary_use_proj": true, "torch_dtype": "float32", "transformers_version": "4.28.1", "use_cache": true,
        "validate_runner_input": true, "vocab_size": 11
    });
    let tiny = Tiny::new(&crate::others::bigcode_tensors(true), Some(&config));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((recipe.family, recipe.arch.kv_heads, recipe.notes.len()), ("gpt_bigcode", 1, 0));
    assert_eq!(tiny.read(Role::Qkv, 0).len(), 12 * 6);
}

/// The recipe of a fixture's tensors with a configuration as it is published, but for sizes, which are the fixture's.
fn published(fixture: &str, mut config: Value) -> (Arch, Vec<String>) {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    let read = |name: &str| std::fs::read(models.join(fixture).join(name)).expect(name);
    let own: Value = serde_json::from_slice(&read("config.json")).expect("JSON");
    for (field, value) in own.as_object().expect("fields") {
        if value.is_u64() && config.get(field).is_some() {
            config[field] = value.clone();
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.safetensors"), read("model.safetensors")).expect("written");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let source = Source::find(folder.path(), &Overrides::default()).expect("a source");
    let recipe = family::recognise(&source).unwrap_or_else(|error| panic!("{error}"));
    (recipe.arch, recipe.notes)
}

#[test]
fn pythia_is_accepted() {
    let config = json!({
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
        "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 12,
        "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
        "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": true,
        "use_parallel_residual": true, "vocab_size": 50304
    });
    let (arch, notes) = published("gpt_neox", config);
    assert_eq!((arch.rotary_dim, arch.wiring, notes.len()), (2, Wiring::Parallel, 0));
}

#[test]
fn gpt_j_is_accepted() {
    let config = json!({
        "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0,
        "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": false,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "gptj", "n_embd": 4096, "n_head": 16,
        "n_inner": null, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": true, "rotary_dim": 64,
        "scale_attn_weights": true, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": {"text-generation": {"do_sample": true}}, "tie_word_embeddings": false,
        "tokenizer_class": "GPT2Tokenizer", "transformers_version": "4.18.0.dev0", "use_cache": true,
        "vocab_size": 50400
    });
    let (arch, notes) = published("gptj", config);
    assert_eq!((arch.rotary_dim, arch.biases.head, notes.len()), (4, true, 0));
}

/// Fields that transformers does not read change nothing, and a note says so.
#[test]
fn what_transformers_does_not_read_is_noted() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    for (name, field, value) in [
        ("gptj", "rotary", json!(false)),
        ("gptj", "scale_attn_weights", json!(false)),
        ("bloom", "n_inner", json!(100)),
    ] {
        let read = std::fs::read_to_string(models.join(name).join("config.json")).expect("read");
        let mut config: Value = serde_json::from_str(&read).expect("JSON");
        let (as_it_is, _) = published(name, config.clone());
        config[field] = value;
        let (arch, notes) = published(name, config);
        assert_eq!(arch, as_it_is, "{field}");
        mentions(&notes[0], &[field]);
    }
}

#[test]
fn phi_2_is_accepted() {
    let config = json!({
        "_name_or_path": "microsoft/phi-2", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "hidden_act": "gelu_new",
        "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 10240, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "qk_layernorm": false, "resid_pdrop": 0.1,
        "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float16",
        "transformers_version": "4.37.0", "use_cache": true, "vocab_size": 51200
    });
    let (arch, notes) = published("phi", config);
    assert_eq!((arch.rotary_dim, arch.wiring, notes.len()), (2, Wiring::ParallelOneNorm, 0));
}

#[test]
fn falcon_7b_and_bloom_are_accepted() {
    let falcon = json!({
        "alibi": false, "apply_residual_connection_post_layernorm": false, "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "bias": false,
        "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "falcon", "multi_query": true,
        "new_decoder_architecture": false, "num_attention_heads": 71, "num_hidden_layers": 32,
        "parallel_attn": true, "torch_dtype": "bfloat16", "transformers_version": "4.27.4", "use_cache": true,
        "vocab_size": 65024
    });
    let (arch, notes) = published("falcon", falcon);
    assert_eq!((arch.kv_heads, arch.context, arch.tied_head), (1, 2048, true));
    mentions(&notes.join("\n"), &["rope_theta"]);
    let falcon_rw = json!({
        "alibi": true, "apply_residual_connection_post_layernorm": false, "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0, "bias": true, "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0,
        "hidden_size": 2048, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "falcon",
        "multi_query": false, "new_decoder_architecture": false, "num_attention_heads": 32, "num_hidden_layers": 24,
        "parallel_attn": false, "torch_dtype": "bfloat16", "transformers_version": "4.27.4", "vocab_size": 50304
    });
    let (arch, notes) = published("falcon-alibi", falcon_rw);
    assert_eq!((arch.position, arch.kv_heads, arch.context, arch.rotary_dim), (Position::Alibi, 8, 2048, 0));
    assert_eq!(notes.len(), 0, "{notes:?}");
    let bloom = json!({
        "apply_residual_connection_post_layernorm": false, "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0, "attention_softmax_in_fp32": true, "bias_dropout_fusion": true,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5, "masked_softmax_fusion": true, "model_type": "bloom", "n_embed": 48,
        "n_inner": null, "n_layer": 24, "num_attention_heads": 6, "offset_alibi": 100, "pad_token_id": 3,
        "pretraining_tp": 1, "skip_bias_add": true, "skip_bias_add_qkv": false, "slow_but_exact": false,
        "transformers_version": "4.20.0", "unk_token_id": 0, "use_cache": true, "vocab_size": 250880
    });
    let (arch, notes) = published("bloom", bloom);
    assert_eq!((arch.heads, arch.context, arch.position), (6, 2048, Position::Alibi));
    mentions(&notes[0], &["seq_length", "2048"]);
}

#[test]
fn qwen3_and_gemmas_are_accepted() {
    let qwen3 = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
    });
    let (arch, notes) = published("qwen3", qwen3);
    assert!(arch.head_norm == HeadNorm::Rms && arch.window == 0 && notes.is_empty(), "{notes:?}");

    let gemma = json!({
        "architectures": ["GemmaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 2,
        "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": null, "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 16384, "max_position_embeddings": 8192,
        "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
        "pad_token_id": 0, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": true, "vocab_size": 256000
    });
    let (arch, notes) = published("gemma", gemma.clone());
    assert_eq!((arch.activation, arch.tied_head, notes.len()), (Activation::GeluTanh, true, 0));

    let mut second = gemma.clone();
    second["model_type"] = json!("gemma2");
    second["architectures"] = json!(["Gemma2ForCausalLM"]);
    second["hidden_act"] = json!("gelu_pytorch_tanh");
    second["hidden_activation"] = json!("gelu_pytorch_tanh");
    for (field, value) in [
        ("attn_logit_softcapping", json!(50.0)),
        ("cache_implementation", json!("hybrid")),
        ("final_logit_softcapping", json!(30.0)),
        ("query_pre_attn_scalar", json!(256)),
        ("sliding_window", json!(4096)),
    ] {
        second[field] = value;
    }
    let (arch, notes) = published("gemma2", second);
    assert_eq!((arch.score_cap, arch.logit_cap, notes.len()), (50.0, 30.0, 0));
    assert_eq!((arch.window, arch.global_every, arch.window_rope), (37, 2, false));

    let kinds = ["sliding_attention", "sliding_attention", "sliding_attention"];
    let third = json!({
        "_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attn_logit_softcapping": null, "bos_token_id": 2, "eos_token_id": 1,
        "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 640, "initializer_range": 0.02, "intermediate_size": 2048, "layer_types": kinds,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000.0, "rope_scaling": null, "rope_theta": 1000000.0,
        "sliding_window": 512, "torch_dtype": "bfloat16", "transformers_version": "4.55.0.dev0",
        "use_bidirectional_attention": false, "use_cache": true, "vocab_size": 262144
    });
    let (arch, notes) = published("gemma3", third);
    assert_eq!((arch.window, arch.global_every, arch.window_rope, notes.len()), (33, 0, true, 0));
}

/// Layers with a window rotate in their own way, also where it hides nothing.
#[test]
fn a_gemma_3_whose_layers_all_have_a_long_window_keeps_its_second_base() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/gemma3");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(models.join("config.json")).expect("read")).expect("JSON");
    config["layer_types"] = json!(["sliding_attention", "sliding_attention", "sliding_attention"]);
    config["sliding_window"] = json!(4096);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(models.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let source = Source::find(folder.path(), &Overrides::default()).expect("a source");
    let arch = family::recognise(&source).unwrap_or_else(|error| panic!("{error}")).arch;
    assert_eq!((arch.window, arch.windowed_layers(), arch.window_rope), (arch.context, 3, true));

    config["use_bidirectional_attention"] = json!(true);
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let source = Source::find(folder.path(), &Overrides::default()).expect("a source");
    let error = family::recognise(&source).map(drop).expect_err("an encoder").to_string();
    mentions(&error, &["use_bidirectional_attention", "encoder", "EmbeddingGemma"]);
}

#[test]
fn baichuan_2_13b_is_accepted() {
    let config = json!({
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"}, "tokenizer_class": "BaichuanTokenizer",
        "bos_token_id": 1, "eos_token_id": 2, "gradient_checkpointing": false, "hidden_act": "silu",
        "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 13696, "model_max_length": 4096,
        "model_type": "baichuan", "num_attention_heads": 40, "num_hidden_layers": 40, "pad_token_id": 0,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.29.2", "use_cache": true, "vocab_size": 125696, "z_loss_weight": 0
    });
    let (arch, notes) = published("baichuan2-alibi", config);
    assert_eq!((arch.position, arch.context, notes.len()), (Position::Alibi, 64, 2));
    mentions(&notes[0], &["ALiBi", "model_max_length"]);
}
