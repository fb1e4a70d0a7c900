//! GPT-2 and nanoGPT.

use std::fs;

use serde_json::json;
use thumbformer::arch::{Activation, Biases, Norm, Position, Role};
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source, SpecialTokens};

use crate::tiny::{Tiny, fixture, mentions, read, refused};
use crate::{gpt2_config, gpt2_tensors, set};

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
    let overrides = Overrides { config: Some(config), ..Overrides::default() };
    mentions(&recognise(&overrides).expect_err("transposed").to_string(), &["c_attn", "[18, 6]", "[6, 18]"]);
    let overrides = Overrides { config: Some(folder.path().join("missing.json")), ..Overrides::default() };
    mentions(&recognise(&overrides).expect_err("no file").to_string(), &["missing.json", "No such file"]);
}
