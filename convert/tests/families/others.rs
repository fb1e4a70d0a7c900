//! OPT and GPTBigCode: where their tensors go, and what is refused.

use serde_json::{Value, json};
use thumbformer::arch::{Activation, Biases, Norm, Position, Role};

use crate::tiny::{Tensors, Tiny, refused};
use crate::{gpt2_config, gpt2_tensors, joined, set};

/// Two layers of 6 = 2 × 3, an MLP of 10, 11 tokens, 5 positions.
pub(crate) fn opt_tensors(prefix: &str, biases: bool) -> Tensors {
    let mut tensors = vec![
        (format!("{prefix}embed_tokens.weight"), vec![11, 6]),
        (format!("{prefix}embed_positions.weight"), vec![7, 6]),
        (format!("{prefix}final_layer_norm.weight"), vec![6]),
        (format!("{prefix}final_layer_norm.bias"), vec![6]),
    ];
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("{prefix}layers.{i}.{name}"), shape.into()));
        for (name, rows, cols) in [
            ("self_attn.k_proj", 6, 6),
            ("self_attn.v_proj", 6, 6),
            ("self_attn.q_proj", 6, 6),
            ("self_attn.out_proj", 6, 6),
            ("fc1", 10, 6),
            ("fc2", 6, 10),
        ] {
            add(&format!("{name}.weight"), &[rows, cols]);
            if biases {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        for name in ["self_attn_layer_norm", "final_layer_norm"] {
            add(&format!("{name}.weight"), &[6]);
            add(&format!("{name}.bias"), &[6]);
        }
    }
    Tensors(tensors)
}

fn opt_config() -> Value {
    json!({
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 11, "hidden_size": 6, "ffn_dim": 10,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 5
    })
}

#[test]
fn opts_positions_begin_at_the_third_row() {
    for prefix in ["model.decoder.", "decoder.", ""] {
        let tensors = opt_tensors(prefix, true);
        let tiny = Tiny::new(&tensors, Some(&opt_config()));
        let mut recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        let arch = recipe.arch;
        assert_eq!((recipe.family, recipe.notes.len()), ("opt", 0));
        assert_eq!((arch.vocab, arch.dim, arch.layers, arch.hidden, arch.context), (11, 6, 2, 10, 5));
        assert_eq!((arch.heads, arch.kv_heads, arch.head_dim, arch.rotary_dim), (2, 2, 3, 0));
        assert_eq!((arch.norm, arch.norm_eps, arch.position), (Norm::Layer, 1e-5, Position::Learned));
        assert_eq!((arch.activation, arch.gated, arch.tied_head), (Activation::Relu, false, true));
        assert_eq!(arch.biases, Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false });
        let table = tensors.all(&format!("{prefix}embed_positions.weight"));
        assert_eq!(tiny.read(Role::PositionEmbedding, 0), table[2 * 6..]);
        recipe.limit_context(3).expect("shorter");
        assert_eq!(crate::tiny::read(&tiny.source(), &recipe, Role::PositionEmbedding, 0), table[2 * 6..5 * 6]);

        let name = |name: &str| format!("{prefix}layers.1.{name}");
        for what in ["weight", "bias"] {
            let qkv = ["q_proj", "k_proj", "v_proj"].map(|part| name(&format!("self_attn.{part}.{what}")));
            let role = if what == "bias" { Role::QkvBias } else { Role::Qkv };
            assert_eq!(tiny.read(role, 1), joined(&tensors, &qkv.each_ref().map(String::as_str)));
        }
        for (role, name) in [
            (Role::AttentionNorm, name("self_attn_layer_norm.weight")),
            (Role::AttentionNormBias, name("self_attn_layer_norm.bias")),
            (Role::AttentionOut, name("self_attn.out_proj.weight")),
            (Role::AttentionOutBias, name("self_attn.out_proj.bias")),
            (Role::MlpNorm, name("final_layer_norm.weight")),
            (Role::MlpNormBias, name("final_layer_norm.bias")),
            (Role::MlpUp, name("fc1.weight")),
            (Role::MlpUpBias, name("fc1.bias")),
            (Role::MlpDown, name("fc2.weight")),
            (Role::MlpDownBias, name("fc2.bias")),
        ] {
            assert_eq!(tiny.read(role, 1), tensors.all(&name), "{name}");
        }
        assert_eq!(tiny.read(Role::FinalNorm, 0), tensors.all(&format!("{prefix}final_layer_norm.weight")));
        assert_eq!(tiny.read(Role::FinalNormBias, 0), tensors.all(&format!("{prefix}final_layer_norm.bias")));
    }
}

#[test]
fn opts_switches_change_the_record_or_are_refused() {
    let tensors = opt_tensors("model.decoder.", true);
    let bare = opt_tensors("model.decoder.", false);
    let recipe = Tiny::new(&bare, Some(&set(opt_config(), "enable_bias", json!(false)))).recipe().expect("a recipe");
    assert_eq!(recipe.arch.biases, Biases { norm: true, ..Biases::default() });
    let gelu = Tiny::new(&tensors, Some(&set(opt_config(), "activation_function", json!("gelu")))).recipe();
    assert_eq!(gelu.expect("a recipe").arch.activation, Activation::Gelu);
    let own = tensors.clone().with("lm_head.weight", &[11, 6]);
    let untied = Tiny::new(&own, Some(&set(opt_config(), "tie_word_embeddings", json!(false))));
    assert_eq!(untied.read(Role::Head, 0), own.all("lm_head.weight"));

    for (field, value, words) in [
        ("do_layer_norm_before", json!(false), ["model.decoder.final_layer_norm", "beyond", "opt"]),
        ("_remove_final_layer_norm", json!(true), ["model.decoder.final_layer_norm", "beyond", "opt"]),
        ("layer_norm_elementwise_affine", json!(false), ["layer_norm", "beyond", "opt"]),
        ("layer_norm_elementwise_affine", json!("no"), ["layer_norm_elementwise_affine", "\"no\"", "true or false"]),
        ("word_embed_proj_dim", json!(3), ["embed_tokens.weight", "[11, 6]", "[11, 3]"]),
        ("word_embed_proj_dim", json!("3"), ["word_embed_proj_dim", "\"3\"", "an integer"]),
        ("enable_bias", json!(false), ["q_proj.bias", "beyond", "opt"]),
        ("num_attention_heads", json!(4), ["num_attention_heads", "4", "divisor of hidden_size, 6"]),
        ("max_position_embeddings", json!(7), ["embed_positions.weight", "[7, 6]", "[9, 6]"]),
        ("max_position_embeddings", json!(u32::MAX), ["config.json", "context", "1..=1048576"]),
        ("embed_scale", json!(2.0), ["embed_scale", "2.0", "no such field"]),
    ] {
        refused(&tensors, Some(&set(opt_config(), field, value)), &words);
    }
}

#[test]
fn opt_350ms_norms_stand_behind_and_its_embedding_is_projected() {
    let base = |prefix: &str| {
        let tensors = opt_tensors(prefix, true);
        let tensors = tensors.without(&format!("{prefix}final_layer_norm.weight"));
        let tensors = tensors.without(&format!("{prefix}final_layer_norm.bias"));
        let tensors = tensors
            .without(&format!("{prefix}embed_tokens.weight"))
            .with(&format!("{prefix}embed_tokens.weight"), &[11, 4]);
        tensors
            .with(&format!("{prefix}project_in.weight"), &[6, 4])
            .with(&format!("{prefix}project_out.weight"), &[4, 6])
    };
    let config = set(set(opt_config(), "do_layer_norm_before", json!(false)), "word_embed_proj_dim", json!(4));
    // rows · matrixᵀ
    let times = |rows: &[f32], column: &dyn Fn(usize) -> Vec<f32>| -> Vec<f32> {
        let dot = |row: &[f32], column: &[f32]| {
            row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
        };
        rows.chunks(4).flat_map(|row| (0..6).map(|c| dot(row, &column(c))).collect::<Vec<_>>()).collect()
    };
    for prefix in ["model.decoder.", "decoder.", ""] {
        let tensors = base(prefix);
        let tiny = Tiny::new(&tensors, Some(&config));
        let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        assert!(recipe.arch.post_norm && recipe.arch.final_norm && !recipe.arch.tied_head);
        assert!(
            recipe.notes.len() == 1 && recipe.notes[0].contains("4 wide") && recipe.notes[0].contains("in place of 4")
        );
        let embedding = tensors.all(&format!("{prefix}embed_tokens.weight"));
        let input = tensors.all(&format!("{prefix}project_in.weight"));
        let output = tensors.all(&format!("{prefix}project_out.weight"));
        assert_eq!(tiny.read(Role::TokenEmbedding, 0), times(&embedding, &|c| input[c * 4..][..4].to_vec()));
        let column = |c: usize| (0..4).map(|k| output[k * 6 + c]).collect::<Vec<f32>>();
        assert_eq!(tiny.read(Role::Head, 0), times(&embedding, &column));
        // Any rows are what they are among all.
        let head = recipe.tensors.iter().find(|tensor| tensor.spec.role == Role::Head).expect("a head");
        let mut some = [0.0; 3 * 6];
        recipe.read_rows(&tiny.source().checkpoint, head, 5..8, &mut some).expect("rows");
        assert_eq!(some[..], tiny.read(Role::Head, 0)[5 * 6..8 * 6]);
        // A head of its own is projected alike.
        let own = tensors.clone().with("lm_head.weight", &[11, 4]);
        let untied = Tiny::new(&own, Some(&set(config.clone(), "tie_word_embeddings", json!(false))));
        assert_eq!(untied.read(Role::Head, 0), times(&own.all("lm_head.weight"), &column));
    }
    let tensors = base("decoder.");
    for name in ["decoder.project_in.weight", "decoder.project_out.weight"] {
        refused(&tensors.clone().without(name), Some(&config), &[name, "nothing"]);
    }
    let wrong = tensors.clone().without("decoder.project_in.weight").with("decoder.project_in.weight", &[4, 6]);
    refused(&wrong, Some(&config), &["decoder.project_in.weight", "[4, 6]", "[6, 4]"]);
    let wrong = tensors.clone().without("decoder.project_out.weight").with("decoder.project_out.weight", &[6, 4]);
    refused(&wrong, Some(&config), &["decoder.project_out.weight", "[6, 4]", "[4, 6]"]);
    refused(&tensors, Some(&set(config.clone(), "word_embed_proj_dim", json!(6))), &["embed_tokens.weight", "[11, 4]"]);
}

#[test]
fn opts_norms_can_lack_what_others_have() {
    let without = |tensors: Tensors, words: &str| {
        Tensors(tensors.0.into_iter().filter(|(name, _)| !name.contains(words)).collect())
    };
    let bare = without(opt_tensors("decoder.", true), "layer_norm");
    let config = set(opt_config(), "layer_norm_elementwise_affine", json!(false));
    let tiny = Tiny::new(&bare, Some(&config));
    let arch = tiny.recipe().unwrap_or_else(|error| panic!("{error}")).arch;
    assert!(!arch.biases.norm && arch.final_norm);
    for role in [Role::AttentionNorm, Role::MlpNorm, Role::FinalNorm] {
        assert_eq!(tiny.read(role, 0), [1.0; 6], "{role:?}");
    }
    let open = without(opt_tensors("decoder.", true), "decoder.final_layer_norm");
    let config = set(opt_config(), "_remove_final_layer_norm", json!(true));
    let arch = Tiny::new(&open, Some(&config)).recipe().unwrap_or_else(|error| panic!("{error}")).arch;
    assert!(!arch.final_norm && !arch.post_norm);
}

/// As GPT-2's, `[out, in]`; 12 rows of queries, keys and values if `multi_query`.
pub(crate) fn bigcode_tensors(multi_query: bool) -> Tensors {
    let mut tensors = gpt2_tensors("transformer.", false, true);
    if multi_query {
        for (name, shape) in &mut tensors.0 {
            if name.contains("attn.c_attn") {
                shape[0] = 12;
            }
        }
    }
    tensors
}

fn bigcode_config() -> Value {
    set(set(gpt2_config(), "model_type", json!("gpt_bigcode")), "architectures", json!(["GPTBigCodeForCausalLM"]))
}

#[test]
fn gpt_bigcodes_queries_share_a_head_or_have_their_own() {
    let tensors = bigcode_tensors(true);
    let tiny = Tiny::new(&tensors, Some(&bigcode_config()));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let arch = recipe.arch;
    assert_eq!((recipe.family, arch.heads, arch.kv_heads, arch.head_dim), ("gpt_bigcode", 2, 1, 3));
    assert_eq!((arch.activation, arch.tied_head), (Activation::GeluTanh, true));
    assert_eq!(tiny.read(Role::Qkv, 1), tensors.all("transformer.h.1.attn.c_attn.weight"));
    assert_eq!(tiny.read(Role::MlpUp, 1), tensors.all("transformer.h.1.mlp.c_fc.weight"));

    // Each head's three blocks are neighbours.
    let tensors = bigcode_tensors(false);
    let tiny = Tiny::new(&tensors, Some(&set(bigcode_config(), "multi_query", json!(false))));
    assert_eq!(tiny.recipe().unwrap_or_else(|error| panic!("{error}")).arch.kv_heads, 2);
    let rows = [0, 1, 2, 9, 10, 11, 3, 4, 5, 12, 13, 14, 6, 7, 8, 15, 16, 17];
    for (role, what) in [(Role::Qkv, "weight"), (Role::QkvBias, "bias")] {
        let name = format!("transformer.h.1.attn.c_attn.{what}");
        let expected: Vec<f32> = rows.iter().flat_map(|&row| tensors.row(&name, row)).collect();
        assert_eq!(tiny.read(role, 1), expected, "{what}");
    }
    let unscaled = set(bigcode_config(), "scale_attn_weights", json!(false));
    let recipe = Tiny::new(&bigcode_tensors(true), Some(&unscaled)).recipe().expect("a recipe");
    assert_eq!(recipe.arch.attention_scale, 1.0);

    let name = "transformer.h.0.attn.c_attn.weight";
    for (field, value, words) in [
        ("multi_query", json!(true), [name, "[18, 6]", "[12, 6]"]),
        ("multi_query", json!(1), ["multi_query", "1", "true or false"]),
        ("num_key_value_heads", json!(2), ["num_key_value_heads", "2", "1, by multi_query"]),
        ("add_cross_attention", json!(true), ["add_cross_attention", "true", "no such field"]),
        ("scale_attn_by_inverse_layer_idx", json!(true), ["scale_attn_by_inverse", "true", "no such field"]),
        ("n_head", json!(4), ["n_head", "4", "divisor"]),
    ] {
        refused(&bigcode_tensors(false), Some(&set(bigcode_config(), field, value)), &words);
    }
    let missing = bigcode_tensors(false).without(name);
    refused(&missing, Some(&set(bigcode_config(), "multi_query", json!(false))), &[name, "nothing", "[18, 6]"]);
}
