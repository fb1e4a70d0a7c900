//! Encoders: BERT, RoBERTa, XLM-RoBERTa, DistilBERT.

use serde_json::{Value, json};
use thumbformer::arch::{Activation, Biases, Norm, Position, Role};

use super::tiny::{self, Tensors, Tiny, mentions, refused};

fn bert_config(model_type: &str, class: &str) -> Value {
    json!({
        "architectures": [class], "model_type": model_type, "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 10, "max_position_embeddings": 7, "type_vocab_size": 3,
        "layer_norm_eps": 1e-5, "hidden_act": "gelu", "position_embedding_type": "absolute", "pad_token_id": 1,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": null,
        "initializer_range": 0.02, "is_decoder": false, "add_cross_attention": false, "use_cache": true,
        "torch_dtype": "float32", "transformers_version": "4.40.0", "gradient_checkpointing": false
    })
}

/// BERT's tensors without its head.
fn body(prefix: &str) -> Tensors {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| tensors.push((format!("{prefix}{name}"), shape.into()));
    for (name, rows) in [("word", 11), ("position", 7), ("token_type", 3)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, 6]);
    }
    let mut norm = |name: String| ["weight", "bias"].map(|kind| add(format!("{name}.{kind}"), &[6]));
    norm("embeddings.LayerNorm".into());
    for i in 0..2 {
        norm(format!("encoder.layer.{i}.attention.output.LayerNorm"));
        norm(format!("encoder.layer.{i}.output.LayerNorm"));
    }
    for i in 0..2 {
        for (name, rows, cols) in [
            ("attention.self.query", 6, 6),
            ("attention.self.key", 6, 6),
            ("attention.self.value", 6, 6),
            ("attention.output.dense", 6, 6),
            ("intermediate.dense", 10, 6),
            ("output.dense", 6, 10),
        ] {
            add(format!("encoder.layer.{i}.{name}.weight"), &[rows, cols]);
            add(format!("encoder.layer.{i}.{name}.bias"), &[rows]);
        }
    }
    Tensors(tensors)
}

fn bert() -> Tensors {
    ["dense", "LayerNorm"]
        .iter()
        .fold(body("bert."), |tensors, name| {
            let weight: &[usize] = if *name == "dense" { &[6, 6] } else { &[6] };
            let at = format!("cls.predictions.transform.{name}");
            tensors.with(&format!("{at}.weight"), weight).with(&format!("{at}.bias"), &[6])
        })
        .with("cls.predictions.bias", &[11])
}

fn roberta() -> Tensors {
    bert().renamed(|name| {
        let head = [
            ("cls.predictions.transform.dense", "lm_head.dense"),
            ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm"),
            ("cls.predictions", "lm_head"),
            ("bert.", "roberta."),
        ];
        head.iter().find(|(old, _)| name.starts_with(old)).map_or(name.into(), |(old, new)| name.replacen(old, new, 1))
    })
}

fn set(mut config: Value, field: &str, value: Value) -> Value {
    config[field] = value;
    config
}

fn masked() -> Value {
    bert_config("bert", "BertForMaskedLM")
}

#[test]
fn berts_tensors_go_where_they_belong() {
    let tensors = bert();
    let tiny = Tiny::new(&tensors, Some(&masked()));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let arch = recipe.arch;
    assert_eq!((recipe.family, recipe.notes.len()), ("bert", 0));
    assert_eq!((arch.vocab, arch.dim, arch.layers, arch.hidden, arch.context), (11, 6, 2, 10, 7));
    assert_eq!((arch.heads, arch.kv_heads, arch.head_dim, arch.token_types), (2, 2, 3, 3));
    assert_eq!((arch.norm, arch.norm_eps, arch.position), (Norm::Layer, 1e-5, Position::Learned));
    assert_eq!((arch.causal, arch.post_norm, arch.embedding_norm), (false, true, true));
    assert_eq!((arch.head_transform, arch.headless, arch.tied_head), (true, false, true));
    assert_eq!((arch.activation, arch.gated), (Activation::Gelu, false));
    assert_eq!(arch.biases, Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: true });
    assert_eq!(arch.attention_scale, 3f64.powf(-0.5) as f32);
    assert!(recipe.tensors.iter().map(|t| t.spec).eq(arch.tensors()));

    for layer in 0..2 {
        let of = |name: &str, kind: &str| tensors.all(&format!("bert.encoder.layer.{layer}.{name}.{kind}"));
        for (weight, bias, names) in [
            (Role::Qkv, Role::QkvBias, &["attention.self.query", "attention.self.key", "attention.self.value"][..]),
            (Role::AttentionOut, Role::AttentionOutBias, &["attention.output.dense"]),
            (Role::AttentionNorm, Role::AttentionNormBias, &["attention.output.LayerNorm"]),
            (Role::MlpUp, Role::MlpUpBias, &["intermediate.dense"]),
            (Role::MlpDown, Role::MlpDownBias, &["output.dense"]),
            (Role::MlpNorm, Role::MlpNormBias, &["output.LayerNorm"]),
        ] {
            for (role, kind) in [(weight, "weight"), (bias, "bias")] {
                let expected: Vec<f32> = names.iter().flat_map(|name| of(name, kind)).collect();
                assert_eq!(tiny.read(role, layer), expected, "{}", role.name());
            }
        }
    }
    for (role, name) in [
        (Role::TokenEmbedding, "bert.embeddings.word_embeddings.weight"),
        (Role::PositionEmbedding, "bert.embeddings.position_embeddings.weight"),
        (Role::TokenTypeEmbedding, "bert.embeddings.token_type_embeddings.weight"),
        (Role::EmbeddingNorm, "bert.embeddings.LayerNorm.weight"),
        (Role::EmbeddingNormBias, "bert.embeddings.LayerNorm.bias"),
        (Role::HeadTransform, "cls.predictions.transform.dense.weight"),
        (Role::HeadTransformBias, "cls.predictions.transform.dense.bias"),
        (Role::HeadTransformNorm, "cls.predictions.transform.LayerNorm.weight"),
        (Role::HeadTransformNormBias, "cls.predictions.transform.LayerNorm.bias"),
        (Role::HeadBias, "cls.predictions.bias"),
    ] {
        assert_eq!(tiny.read(role, 0), tensors.all(name), "{}", role.name());
    }
}

#[test]
fn berts_spellings_are_equal() {
    let expected = Tiny::new(&bert(), Some(&masked())).recipe().expect("a recipe").arch;
    let old =
        |name: &str| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let more = bert()
        .with("bert.pooler.dense.weight", &[6, 6])
        .with("bert.pooler.dense.bias", &[6])
        .with("cls.seq_relationship.weight", &[2, 6])
        .with("cls.seq_relationship.bias", &[2])
        .with("bert.embeddings.position_ids", &[1, 7])
        .with("cls.predictions.decoder.bias", &[11]);
    let bias = bert().renamed(|name| name.replace("cls.predictions.bias", "cls.predictions.decoder.bias"));
    for tensors in [bert().renamed(old), more.clone(), bias, bert().renamed(|name| format!("module.{name}"))] {
        let recipe = Tiny::new(&tensors, Some(&masked())).recipe().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((recipe.arch, recipe.notes.len()), (expected, 0));
    }
    // The class may be another's, or unnamed: the file shows the head.
    for class in ["BertForPreTraining", "BertModel"] {
        let recipe = Tiny::new(&more, Some(&bert_config("bert", class))).recipe();
        assert_eq!(recipe.unwrap_or_else(|error| panic!("{error}")).arch, expected);
    }
    let mut unnamed = masked();
    for field in ["architectures", "layer_norm_eps", "hidden_act", "type_vocab_size", "position_embedding_type"] {
        unnamed.as_object_mut().expect("fields").remove(field);
    }
    let two = bert().with("bert.embeddings.token_type_embeddings.weight", &[2, 6]);
    let recipe = Tiny::new(&two, Some(&unnamed)).recipe().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recipe.arch, thumbformer::arch::Arch { norm_eps: 1e-12, token_types: 2, ..expected });
    let by_class = set(masked(), "model_type", Value::Null);
    assert_eq!(Tiny::new(&bert(), Some(&by_class)).recipe().expect("a recipe").arch, expected);
}

#[test]
fn bare_models_have_no_head() {
    for prefix in ["", "bert."] {
        let tensors = body(prefix);
        let config = bert_config("bert", "BertModel");
        let recipe = Tiny::new(&tensors, Some(&config)).recipe().unwrap_or_else(|error| panic!("{error}"));
        assert!(recipe.arch.headless && !recipe.arch.head_transform && !recipe.arch.biases.head);
        assert!(recipe.notes.is_empty());
        let pooler = tensors
            .with(&format!("{prefix}pooler.dense.weight"), &[6, 6])
            .with(&format!("{prefix}pooler.dense.bias"), &[6]);
        let recipe = Tiny::new(&pooler, Some(&config)).recipe().unwrap_or_else(|error| panic!("{error}"));
        mentions(&recipe.notes.join("\n"), &["pooler", "left out"]);
        // Who asks for a head must have one.
        refused(&pooler, Some(&masked()), &["cls.predictions", "nothing"]);
    }
}

#[test]
fn heads_may_be_their_own() {
    let own = bert().with("cls.predictions.decoder.weight", &[11, 6]).with("cls.predictions.decoder.bias", &[11]);
    let untied = set(masked(), "tie_word_embeddings", json!(false));
    let tiny = Tiny::new(&own, Some(&untied));
    assert!(!tiny.recipe().unwrap_or_else(|error| panic!("{error}")).arch.tied_head);
    assert_eq!(tiny.read(Role::Head, 0), own.all("cls.predictions.decoder.weight"));
    assert_eq!(tiny.read(Role::HeadBias, 0), own.all("cls.predictions.decoder.bias"), "the decoder's own");
    // Tied, says the configuration, but they differ.
    let recipe = Tiny::new(&own, Some(&masked())).recipe().unwrap_or_else(|error| panic!("{error}"));
    assert!(!recipe.arch.tied_head);
    mentions(&recipe.notes.join("\n"), &["cls.predictions.decoder.weight", "differs", "kept"]);
    refused(&bert(), Some(&untied), &["cls.predictions.decoder.weight", "nothing"]);
    let only = own.without("bert.embeddings.word_embeddings.weight");
    let tiny = Tiny::new(&only, Some(&masked()));
    assert!(tiny.recipe().unwrap_or_else(|error| panic!("{error}")).arch.tied_head);
    assert_eq!(tiny.read(Role::TokenEmbedding, 0), only.all("cls.predictions.decoder.weight"));
}

#[test]
fn robertas_positions_begin_behind_padding() {
    for (model_type, class) in [("roberta", "RobertaForMaskedLM"), ("xlm-roberta", "XLMRobertaForMaskedLM")] {
        let tensors = roberta();
        let config = bert_config(model_type, class);
        let tiny = Tiny::new(&tensors, Some(&config));
        let mut recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((recipe.family, recipe.arch.context, recipe.arch.head_transform), (model_type, 5, true));
        let all = tensors.all("roberta.embeddings.position_embeddings.weight");
        assert_eq!(tiny.read(Role::PositionEmbedding, 0), all[2 * 6..]);
        recipe.limit_context(3).expect("fewer");
        let source = tiny.source();
        assert_eq!(tiny::read(&source, &recipe, Role::PositionEmbedding, 0), all[2 * 6..5 * 6]);
        assert_eq!(tiny.read(Role::HeadTransformNorm, 0), tensors.all("lm_head.layer_norm.weight"));
        assert_eq!(tiny.read(Role::HeadBias, 0), tensors.all("lm_head.bias"));
        let padded = set(config.clone(), "pad_token_id", json!(4));
        assert_eq!(Tiny::new(&tensors, Some(&padded)).recipe().expect("a recipe").arch.context, 2);
        // Not named: 1.
        let unnamed = set(config.clone(), "pad_token_id", Value::Null);
        assert_eq!(Tiny::new(&tensors, Some(&unnamed)).recipe().expect("a recipe").arch.context, 5);
        refused(
            &tensors,
            Some(&set(config.clone(), "pad_token_id", json!(6))),
            &["max_position_embeddings", "more than 7"],
        );
        refused(&tensors, Some(&set(config.clone(), "pad_token_id", json!("x"))), &["pad_token_id", "\"x\""]);
        refused(&tensors, Some(&set(config, "hidden_act", json!("relu"))), &["hidden_act", "\"relu\"", "gelu"]);
    }
    // Without a head, any activation.
    let bare = body("");
    let config = set(bert_config("roberta", "RobertaModel"), "hidden_act", json!("relu"));
    assert_eq!(Tiny::new(&bare, Some(&config)).recipe().expect("a recipe").arch.activation, Activation::Relu);
}

#[test]
fn distilberts_tensors_go_where_they_belong() {
    let names = [
        ("cls.predictions.transform.dense", "vocab_transform"),
        ("cls.predictions.transform.LayerNorm", "vocab_layer_norm"),
        ("cls.predictions", "vocab_projector"),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
        ("bert.encoder", "bert.transformer"),
    ];
    let rename = |name: &str| {
        let name = names.iter().fold(name.to_owned(), |name, (old, new)| name.replacen(old, new, 1));
        name.replacen("bert.", "distilbert.", 1)
    };
    let tensors = bert().without("bert.embeddings.token_type_embeddings.weight").renamed(rename);
    let config = json!({
        "architectures": ["DistilBertForMaskedLM"], "model_type": "distilbert", "vocab_size": 11, "dim": 6, "n_layers": 2,
        "n_heads": 2, "hidden_dim": 10, "max_position_embeddings": 7, "activation": "gelu", "attention_dropout": 0.1,
        "dropout": 0.1, "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": true, "tie_weights_": true,
        "initializer_range": 0.02, "pad_token_id": 0, "transformers_version": "4.10.0"
    });
    let tiny = Tiny::new(&tensors, Some(&config));
    let recipe = tiny.recipe().unwrap_or_else(|error| panic!("{error}"));
    let arch = recipe.arch;
    assert_eq!((recipe.family, arch.token_types, arch.norm_eps, arch.context), ("distilbert", 0, 1e-12, 7));
    assert_eq!((arch.causal, arch.post_norm, arch.head_transform, arch.tied_head), (false, true, true, true));
    for (role, name) in [
        (Role::AttentionNorm, "distilbert.transformer.layer.1.sa_layer_norm.weight"),
        (Role::MlpNormBias, "distilbert.transformer.layer.1.output_layer_norm.bias"),
        (Role::MlpUp, "distilbert.transformer.layer.1.ffn.lin1.weight"),
        (Role::MlpDown, "distilbert.transformer.layer.1.ffn.lin2.weight"),
        (Role::AttentionOut, "distilbert.transformer.layer.1.attention.out_lin.weight"),
    ] {
        assert_eq!(tiny.read(role, 1), tensors.all(name), "{name}");
    }
    assert_eq!(tiny.read(Role::HeadBias, 0), tensors.all("vocab_projector.bias"));
    assert_eq!(tiny.read(Role::HeadTransform, 0), tensors.all("vocab_transform.weight"));
    refused(&tensors, Some(&set(config.clone(), "n_heads", json!(4))), &["n_heads", "divisor of dim, 6"]);
    refused(&tensors, Some(&set(config.clone(), "hidden_size", json!(6))), &["hidden_size", "no such field"]);
    refused(&tensors, Some(&set(config, "activation", json!("mish"))), &["activation", "\"mish\""]);
}

#[test]
fn what_would_change_the_result_is_refused() {
    for (field, value, words) in [
        ("is_decoder", json!(true), ["is_decoder", "true", "only encoders"]),
        ("add_cross_attention", json!(true), ["add_cross_attention", "true", "no such field"]),
        ("position_embedding_type", json!("relative_key"), ["position_embedding_type", "relative_key", "absolute"]),
        ("position_embedding_type", json!(3), ["position_embedding_type", "3", "a string"]),
        ("hidden_act", json!("gelu_10"), ["hidden_act", "gelu_10", "one of"]),
        ("num_attention_heads", json!(4), ["num_attention_heads", "4", "divisor of hidden_size, 6"]),
        ("num_attention_heads", json!(0), ["num_attention_heads", "0", "divisor"]),
        ("type_vocab_size", json!(256), ["token_types", "at most", "255"]),
        ("type_vocab_size", json!(2), ["token_type_embeddings", "[3, 6]", "[2, 6]"]),
        ("max_position_embeddings", json!(0), ["max_position_embeddings", "0", "more than 0"]),
        ("max_position_embeddings", json!(8), ["position_embeddings", "[7, 6]", "[8, 6]"]),
        ("layer_norm_eps", json!(-1.0), ["norm_eps", "not negative", "config.json"]),
        ("tie_word_embeddings", json!("yes"), ["tie_word_embeddings", "\"yes\"", "true or false"]),
        ("vocab_size", Value::Null, ["vocab_size", "nothing", "an integer"]),
        ("embedding_size", json!(128), ["embedding_size", "128", "no such field"]),
        (
            "architectures",
            json!(["BertForSequenceClassification"]),
            ["BertForSequenceClassification", "config.json", "bert"],
        ),
    ] {
        refused(&bert(), Some(&set(masked(), field, value)), &words);
    }
    refused(
        &bert().with("classifier.weight", &[2, 6]),
        Some(&masked()),
        &["classifier.weight", "only the tensors of a bert"],
    );
    refused(
        &bert().without("bert.encoder.layer.1.output.dense.bias"),
        Some(&masked()),
        &["layer.1.output.dense.bias", "nothing"],
    );
}
