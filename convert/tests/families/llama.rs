//! LLaMA: where its tensors go, and its spellings.

use serde_json::{Value, json};
use thumbformer::arch::{Activation, Biases, Norm, Position, Role};
use thumbformer_convert::source::SpecialTokens;

use crate::tiny::{Tensors, Tiny, mentions, read, refused};
use crate::{joined, llama_config, llama_tensors, set};

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
    assert_eq!(ids, SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None, ..SpecialTokens::default() });
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
