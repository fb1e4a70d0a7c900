//! LLaMA's relatives: what each reads differently, and what is refused.

use serde_json::{Value, json};
use thumbformer::arch::{Arch, Biases, HeadNorm, Norm, Role};
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source};

use crate::tiny::{Tensors, Tiny, mentions, refused};
use crate::{joined, llama_config, llama_tensors, set};

/// LLaMA's configuration under another name, without fields that only LLaMA has.
fn named(model_type: &str, class: &str) -> Value {
    let mut config = set(set(llama_config(), "model_type", json!(model_type)), "architectures", json!([class]));
    for field in ["attention_bias", "mlp_bias"] {
        config.as_object_mut().expect("fields").remove(field);
    }
    config
}

/// LLaMA's tensors, and biases of queries, keys and values.
fn biased() -> Tensors {
    let all = llama_tensors(true);
    let of_qkv = |name: &str| ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
    Tensors(all.0.into_iter().filter(|(name, _)| !name.ends_with(".bias") || of_qkv(name)).collect())
}

fn with(mut config: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        config[name] = value.clone();
    }
    config
}

fn arch(tensors: &Tensors, config: &Value) -> (Arch, Vec<String>) {
    let recipe = Tiny::new(tensors, Some(config)).recipe().unwrap_or_else(|error| panic!("{error}\n{config}"));
    (recipe.arch, recipe.notes)
}

#[test]
fn qwen2_is_llama_with_biases_of_qkv() {
    let (tensors, config) = (biased(), named("qwen2", "Qwen2ForCausalLM"));
    let llama = Tiny::new(&llama_tensors(false), Some(&llama_config())).recipe().expect("a recipe");
    let tiny = Tiny::new(&tensors, Some(&config));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((recipe.family, recipe.notes.len()), ("qwen2", 0));
    assert_eq!(recipe.arch, Arch { biases: Biases { qkv: true, ..Biases::default() }, ..llama.arch });
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("model.layers.1.self_attn.{name}.bias"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(tiny.read(Role::QkvBias, 1), joined(&tensors, &names));

    refused(&llama_tensors(false), Some(&config), &["q_proj.bias", "nothing"]);
    refused(&llama_tensors(true), Some(&config), &["o_proj.bias", "beyond", "qwen2"]);
    for (field, value, words) in [
        ("attention_bias", json!(true), ["attention_bias", "no such field"]),
        ("use_mrope", json!(true), ["use_mrope", "no such field"]),
        ("partial_rotary_factor", json!(0.5), ["partial_rotary_factor", "expected 1"]),
        ("use_sliding_window", json!("no"), ["use_sliding_window", "true or false"]),
        ("layer_types", json!(["full_attention"]), ["layer_types", "each layer"]),
        ("layer_types", json!(["full_attention", "chunked_attention"]), ["layer_types", "full_attention or sliding"]),
        ("layer_types", json!(["full_attention", "sliding_attention"]), ["layer_types", "without a window"]),
    ] {
        refused(&tensors, Some(&set(config.clone(), field, value)), &words);
    }
}

#[test]
fn qwen2s_window_limits_what_is_seen_where_it_is_used() {
    let tensors = biased();
    let types = |first: &str, second: &str| json!([format!("{first}_attention"), format!("{second}_attention")]);
    let fields = |used: bool, full_layers: u32| json!({"use_sliding_window": used, "sliding_window": 5, "max_window_layers": full_layers});
    for (fields, context, window, windowed) in [
        (fields(false, 0), 16, 0, [false, false]),
        (fields(true, 2), 16, 0, [false, false]),
        (fields(true, 0), 16, 5, [true, true]),
        // The upper layers only.
        (fields(true, 1), 16, 5, [false, true]),
        // 28 layers are spared if nothing else is said.
        (json!({"use_sliding_window": true, "sliding_window": 5}), 16, 0, [false, false]),
        (json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0}), 16, 0, [false, false]),
        (json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1}), 16, 0, [false, false]),
        // 4096 if nothing else is said.
        (json!({"use_sliding_window": true, "max_window_layers": 0}), 16, 0, [false, false]),
        (
            json!({"use_sliding_window": true, "max_window_layers": 0, "max_position_embeddings": 8192}),
            8192,
            4096,
            [true, true],
        ),
        (json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}), 16, 0, [false, false]),
        // The list decides.
        (set(fields(true, 2), "layer_types", types("full", "sliding")), 16, 5, [false, true]),
        (set(fields(true, 2), "layer_types", types("sliding", "full")), 16, 5, [true, false]),
        (set(fields(true, 2), "layer_types", types("sliding", "sliding")), 16, 5, [true, true]),
        (set(fields(true, 0), "layer_types", types("full", "full")), 16, 0, [false, false]),
    ] {
        let (arch, notes) = arch(&tensors, &with(named("qwen2", "Qwen2ForCausalLM"), fields.clone()));
        assert_eq!((arch.context, arch.window, notes.len()), (context, window, 0), "{fields}");
        assert_eq!([0, 1].map(|layer| arch.windowed(layer)), windowed, "{fields}");
    }
    // No pattern: the record lists the layers.
    let mut four = tensors.clone();
    for (name, shape) in &tensors.0 {
        if name.contains("layers.") {
            let of = |layer: u32| {
                name.replace("layers.0", &format!("layers.{layer}"))
                    .replace("layers.1", &format!("layers.{}", layer + 1))
            };
            four = four.with(&of(2), shape);
        }
    }
    let list = json!(["sliding_attention", "full_attention", "full_attention", "sliding_attention"]);
    let config = with(named("qwen2", "Qwen2ForCausalLM"), fields(true, 0));
    let (listed, notes) = arch(&four, &set(set(config, "num_hidden_layers", json!(4)), "layer_types", list));
    assert_eq!((listed.layers, listed.context, listed.window, notes.len()), (4, 16, 5, 0));
    assert_eq!([0, 1, 2, 3].map(|layer| listed.windowed(layer)), [true, false, false, true]);
    // It has room for 64. Beyond: a shorter context, within which all layers see the same.
    let (mut many, mut list) = (tensors.clone(), vec!["full_attention"; 65]);
    for (name, shape) in tensors.0.iter().filter(|(name, _)| name.contains("layers.0")) {
        for layer in 2..65 {
            many = many.with(&name.replace("layers.0", &format!("layers.{layer}")), shape);
        }
    }
    (list[0], list[64]) = ("sliding_attention", "sliding_attention");
    let config = with(named("qwen2", "Qwen2ForCausalLM"), fields(true, 0));
    let (cut, notes) = arch(&many, &set(set(config, "num_hidden_layers", json!(65)), "layer_types", json!(list)));
    assert_eq!((cut.layers, cut.context, cut.window, notes.len()), (65, 5, 0, 1));
    mentions(&notes[0], &["layer_types", "64 layers", "from 16 to the 5", "positions of sliding_window"]);
    let none = json!({"use_sliding_window": true, "sliding_window": 0, "max_window_layers": 0});
    refused(&tensors, Some(&with(named("qwen2", "Qwen2Model"), none)), &["sliding_window", "positive"]);
}

#[test]
fn mistrals_window_is_that_of_all_layers() {
    let tensors = llama_tensors(false);
    let config = named("mistral", "MistralForCausalLM");
    let llama = Tiny::new(&tensors, Some(&llama_config())).recipe().expect("a recipe").arch;
    let long = set(config.clone(), "max_position_embeddings", json!(8192));
    for (config, context, window) in [
        (config.clone(), 16, 0),
        (set(config.clone(), "sliding_window", json!(7)), 16, 7),
        // Windows that hide nothing.
        (set(config.clone(), "sliding_window", json!(16)), 16, 0),
        (set(config.clone(), "sliding_window", json!(17)), 16, 0),
        (
            with(
                config.clone(),
                json!({"sliding_window": 7, "layer_types": ["sliding_attention", "sliding_attention"]}),
            ),
            16,
            7,
        ),
        (
            with(config.clone(), json!({"sliding_window": 7, "layer_types": ["full_attention", "full_attention"]})),
            16,
            0,
        ),
        // Left out, it is 4096; `null` is none.
        (long.clone(), 8192, 4096),
        (set(long, "sliding_window", Value::Null), 8192, 0),
    ] {
        let (arch, notes) = arch(&tensors, &config);
        assert_eq!(arch, Arch { context, window, ..llama });
        assert_eq!(notes.len(), 0);
    }
    for (field, value, words) in [
        ("sliding_window", json!(0), ["sliding_window", "positive"]),
        ("sliding_window", json!("4096"), ["sliding_window", "an integer"]),
        ("attention_bias", json!(true), ["attention_bias", "no such field"]),
        ("layer_types", json!(["full_attention"]), ["layer_types", "each layer"]),
    ] {
        refused(&tensors, Some(&set(config.clone(), field, value)), &words);
    }
}

/// LLaMA's tensors with queries, keys and values in one of that name, and gate and up too if `up` is given.
fn fused(qkv: &str, rows: usize, up: Option<&str>) -> Tensors {
    let mut tensors = llama_tensors(false);
    tensors.0.retain(|(name, _)| ["q_proj", "k_proj", "v_proj"].iter().all(|part| !name.contains(part)));
    for i in 0..2 {
        tensors.0.push((format!("model.layers.{i}.self_attn.{qkv}.weight"), vec![rows, 8]));
        if let Some(up) = up {
            let layer = format!("model.layers.{i}.mlp.");
            tensors.0.retain(|(name, _)| !name.starts_with(&layer) || name.contains("down_proj"));
            tensors.0.push((format!("{layer}{up}.weight"), vec![20, 8]));
        }
    }
    tensors
}

#[test]
fn phi3_is_llama_with_fused_projections() {
    let tensors = fused("qkv_proj", 48, Some("gate_up_proj"));
    let config = named("phi3", "Phi3ForCausalLM");
    let llama = Tiny::new(&llama_tensors(false), Some(&llama_config())).recipe().expect("a recipe").arch;
    let tiny = Tiny::new(&tensors, Some(&config));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((recipe.family, recipe.arch, recipe.notes.len()), ("phi3", llama, 0));
    assert_eq!(tiny.read(Role::Qkv, 1), tensors.all("model.layers.1.self_attn.qkv_proj.weight"));
    assert_eq!(tiny.read(Role::MlpUp, 0), tensors.all("model.layers.0.mlp.gate_up_proj.weight"));
    let mut short = config.clone();
    short.as_object_mut().expect("fields").remove("rms_norm_eps");
    assert_eq!(arch(&tensors, &set(short, "sliding_window", json!(9))).0, Arch { window: 9, ..llama });

    // A part of each head rotates, and that part of the queries is scaled.
    let long = json!({"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
        "attention_factor": 2.0});
    let partial = with(config.clone(), json!({"partial_rotary_factor": 0.7, "rope_scaling": long}));
    let tiny = Tiny::new(&tensors, Some(&partial));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recipe.arch, Arch { rotary_dim: 4, ..llama });
    let mut expected = tensors.all("model.layers.1.self_attn.qkv_proj.weight");
    for (row, values) in expected.chunks_mut(8).take(24).enumerate() {
        if row % 6 < 4 {
            values.iter_mut().for_each(|x| *x *= 4.0);
        }
    }
    assert_eq!(tiny.read(Role::Qkv, 1), expected);

    let name = "model.layers.0.self_attn.qkv_proj.weight";
    refused(&tensors.clone().without(name), Some(&partial), &[name, "nothing", "[48, 8]"]);
    for (field, value, words) in [
        ("num_key_value_heads", json!(4), [name, "[48, 8]", "[72, 8]"]),
        ("attention_bias", json!(true), ["attention_bias", "true", "no such field"]),
        ("sliding_window", json!(0), ["sliding_window", "0", "positive"]),
        ("num_local_experts", json!(16), ["num_local_experts", "16", "no such field"]),
    ] {
        refused(&tensors, Some(&set(config.clone(), field, value)), &words);
    }
}

#[test]
fn stablelm_is_llama_with_layer_norms() {
    let mut tensors = llama_tensors(false);
    for norm in ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"] {
        tensors.0.push((format!("model.{norm}.bias"), vec![8]));
    }
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        tensors.0.push((format!("model.layers.1.{norm}.bias"), vec![8]));
    }
    let mut config =
        with(named("stablelm", "StableLmForCausalLM"), json!({"layer_norm_eps": 1e-4, "rms_norm_eps": null}));
    let llama = Tiny::new(&llama_tensors(false), Some(&llama_config())).recipe().expect("a recipe").arch;
    // A quarter of six dimensions is one: no pair.
    refused(&tensors, Some(&config), &["config.json", "rotary_dim", "even"]);
    config["partial_rotary_factor"] = json!(0.4);
    let tiny = Tiny::new(&tensors, Some(&config));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let biases = Biases { norm: true, ..Biases::default() };
    let expected = Arch { norm: Norm::Layer, norm_eps: 1e-4, rotary_dim: 2, biases, ..llama };
    assert_eq!((recipe.family, recipe.arch, recipe.notes.len()), ("stablelm", expected, 0));
    for (role, name) in [
        (Role::AttentionNormBias, "layers.1.input_layernorm.bias"),
        (Role::MlpNormBias, "layers.1.post_attention_layernorm.bias"),
    ] {
        assert_eq!(tiny.read(role, 1), tensors.all(&format!("model.{name}")));
    }
    assert_eq!(tiny.read(Role::FinalNormBias, 0), tensors.all("model.norm.bias"));
    config["layer_norm_eps"] = Value::Null;
    assert_eq!(arch(&tensors, &config).0.norm_eps, 1e-5);

    for (field, value, words) in [
        // Parallel layers have one norm.
        ("use_parallel_residual", json!(true), ["post_attention_layernorm.bias", "beyond", "stablelm"]),
        ("qk_layernorm", json!(true), ["layers.0.self_attn.q_layernorm.norms.0.weight", "nothing", "[6]"]),
        ("use_qkv_bias", json!(true), ["q_proj.bias", "nothing", "[24]"]),
        ("rms_norm_eps", json!(1e-5), ["rms_norm_eps", "0.00001", "no such field"]),
        ("norm_eps", json!(1e-5), ["norm_eps", "0.00001", "no such field"]),
    ] {
        refused(&tensors, Some(&set(config.clone(), field, value)), &words);
    }

    // Each head has a norm.
    let name = |of: &str, head: usize| format!("model.layers.1.self_attn.{of}_layernorm.norms.{head}.weight");
    for (of, heads) in [("q", 4), ("k", 2)] {
        for norm in (0..heads).map(|head| name(of, head)) {
            tensors = tensors.with(&norm.replace("layers.1", "layers.0"), &[6]).with(&norm, &[6]);
        }
    }
    let tiny = Tiny::new(&tensors, Some(&set(config, "qk_layernorm", json!(true))));
    assert_eq!(tiny.recipe().expect("a recipe").arch.head_norm, HeadNorm::LayerByHead);
    for (role, of, heads) in [(Role::QueryNorm, "q", 4), (Role::KeyNorm, "k", 2)] {
        let all: Vec<f32> = (0..heads).flat_map(|head| tensors.all(&name(of, head))).collect();
        assert_eq!(tiny.read(role, 1), all);
    }
}

#[test]
fn baichuans_head_is_normalised_in_the_second_version() {
    // As many key/value heads as query heads.
    let tensors = fused("W_pack", 72, None);
    let config = |class: &str| {
        let mut config = named("baichuan", class);
        for field in ["num_key_value_heads", "rope_theta"] {
            config.as_object_mut().expect("fields").remove(field);
        }
        config
    };
    let first = config("BaiChuanForCausalLM");
    let tiny = Tiny::new(&tensors, Some(&first));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let llama = Tiny::new(&llama_tensors(false), Some(&llama_config())).recipe().expect("a recipe").arch;
    assert_eq!((recipe.family, recipe.arch), ("baichuan", Arch { kv_heads: 4, ..llama }));
    assert_eq!(recipe.notes.len(), 2);
    mentions(&recipe.notes[0], &["by RoPE", "--alibi yes"]);
    mentions(&recipe.notes[1], &["as it is stored", "class is Baichuan 1's"]);
    assert_eq!(tiny.read(Role::Qkv, 1), tensors.all("model.layers.1.self_attn.W_pack.weight"));
    let stored = tensors.all("lm_head.weight");
    assert_eq!(tiny.read(Role::Head, 0), stored);

    let normalized = Tiny::new(&tensors, Some(&config("BaichuanForCausalLM"))).read(Role::Head, 0);
    for (row, stored) in normalized.chunks(8).zip(stored.chunks(8)) {
        let length = stored.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(row.iter().zip(stored).all(|(x, stored)| (x - stored / length).abs() < 1e-6));
    }
    // Rows that are all zeros stay so.
    let zeros = Tiny::changed(&tensors, Some(&config("BaichuanForCausalLM")), |name, i, value| {
        if name == "lm_head.weight" && i < 8 { 0.0 } else { value }
    });
    let head = zeros.read(Role::Head, 0);
    assert!(head[..8] == [0.0; 8] && head[8..] == normalized[8..]);

    // What the user says decides; what nothing says is asked.
    let with_flag = |tensors: &Tensors, config: &Value, normalize_head: Option<bool>| {
        let tiny = Tiny::new(tensors, Some(config));
        let overrides = Overrides { normalize_head, ..Overrides::default() };
        let source = Source::find(tiny.folder.path(), &overrides).expect("a source");
        family::recognise(&source)
    };
    let no = with_flag(&tensors, &config("BaichuanForCausalLM"), Some(false)).expect("a recipe");
    mentions(&no.notes[1], &["as it is stored", "--normalize-head"]);
    let mut nameless = first.clone();
    nameless["architectures"] = Value::Null;
    let yes = with_flag(&tensors, &nameless, Some(true)).expect("a recipe");
    mentions(&yes.notes[1], &["unit length", "--normalize-head"]);
    let error = with_flag(&tensors, &nameless, None).expect_err("unknown").to_string();
    mentions(&error, &["config.json", "vocab_size 11", "--normalize-head yes"]);
    // ALiBi: the larger models' sizes, their name of the context, or what somebody says.
    let alibi = |config: &Value, alibi: Option<bool>| {
        let tiny = Tiny::new(&tensors, Some(config));
        let overrides = Overrides { alibi, ..Overrides::default() };
        family::recognise(&Source::find(tiny.folder.path(), &overrides).expect("a source")).expect("a recipe")
    };
    let mut longest = first.clone();
    longest["model_max_length"] = json!(12);
    longest.as_object_mut().expect("fields").remove("max_position_embeddings");
    for (config, flag, words) in [
        (&longest, None, ["by ALiBi", "model_max_length"]),
        (&set(first.clone(), "alibi", json!(true)), None, ["by ALiBi", "configuration"]),
        (&first, Some(true), ["by ALiBi", "--alibi"]),
        (&longest, Some(false), ["by RoPE", "--alibi"]),
    ] {
        let recipe = alibi(config, flag);
        mentions(&recipe.notes[0], &words);
        let slopes = recipe.tensors.iter().filter(|tensor| tensor.spec.role == Role::AlibiSlopes).count();
        assert_eq!(slopes, usize::from(words[0] == "by ALiBi"));
        assert_eq!(recipe.arch.context, if config == &longest { 12 } else { 16 });
    }
    let error = with_flag(&llama_tensors(false), &llama_config(), Some(true)).expect_err("LLaMA").to_string();
    mentions(&error, &["--normalize-head", "baichuan only"]);
    // The vocabularies of the published models.
    let vocabulary = |class: &str, vocab: u32| {
        let mut tensors = tensors.clone();
        let rows = vocab as usize;
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            tensors = tensors.with(name, &[rows, 8]);
        }
        with_flag(&tensors, &set(config(class), "vocab_size", json!(vocab)), None)
    };
    let second = vocabulary("BaichuanForCausalLM", 125_696).expect("a recipe");
    mentions(&second.notes[1], &["unit length", "vocabulary is Baichuan 2's"]);
    let error = vocabulary("BaichuanForCausalLM", 64_000).expect_err("a contradiction").to_string();
    mentions(&error, &["vocab_size 64000", "--normalize-head"]);

    for (field, value, words) in [
        ("alibi", json!("yes"), ["alibi", "yes", "true or false"]),
        ("rope_theta", json!(5e5), ["rope_theta", "500000", "10000"]),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), ["rope_scaling", "linear", "10000"]),
        ("max_position_embeddings", Value::Null, ["max_position_embeddings", "nothing", "an integer"]),
    ] {
        refused(&tensors, Some(&set(first.clone(), field, value)), &words);
    }
    let tied = set(config("BaichuanForCausalLM"), "tie_word_embeddings", json!(true));
    refused(&tensors.without("lm_head.weight"), Some(&tied), &["tie_word_embeddings", "true", "unit length"]);
}
