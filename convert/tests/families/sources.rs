//! Encoder-decoders: where tensors go, and what is refused, of the fixtures whose logits are compared elsewhere.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use thumbformer::Model;
use thumbformer::arch::{Activation, Arch, Kind, Norm, Position, Role};
use thumbformer::tokenizer::EncodeOptions;
use thumbformer_convert::Result;
use thumbformer_convert::family::recognise;
use thumbformer_convert::pipeline::{Options, Prepared, Silent};
use thumbformer_convert::recipe::{Recipe, Source as Values};
use thumbformer_convert::source::{Overrides, Source};
use thumbformer_convert::tokenizer::{decode, encode, load};

use crate::tiny::mentions;

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models").join(name)
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(name).join("config.json")).expect("a fixture")).expect("a fixture")
}

/// The recipe of a fixture with fields set, or left out where `null`.
fn recipe(name: &str, fields: &[(&str, Value)]) -> Result<Recipe> {
    let mut config = config(name);
    for (field, value) in fields {
        match value {
            Value::Null => drop(config.as_object_mut().expect("an object").remove(*field)),
            value => config[field] = value.clone(),
        }
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let file = place.path().join("config.json");
    fs::write(&file, config.to_string()).expect("written");
    recognise(&Source::find(&folder(name), &Overrides { config: Some(file), ..Overrides::default() })?)
}

fn good(name: &str, fields: &[(&str, Value)]) -> (Arch, Arch, Vec<String>) {
    let recipe = recipe(name, fields).unwrap_or_else(|error| panic!("{name}, {fields:?}: {error}"));
    (recipe.arch, recipe.source.expect("an encoder").arch, recipe.notes)
}

fn refused(name: &str, field: &str, value: Value) {
    let error = recipe(name, &[(field, value)]).expect_err(field).to_string();
    mentions(&error, &["config.json", field]);
}

/// Tensors of a role, by their stored names.
fn names(recipe: &Recipe, role: Role, layer: u32) -> Vec<String> {
    let tensor = recipe.tensors.iter().find(|t| t.spec.role == role && t.spec.layer == layer).expect("the tensor");
    match &tensor.source {
        Values::Parts(parts) => parts.iter().map(|part| part.tensor.clone()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn t5s_stacks_are_understood() {
    let (decoder, encoder, notes) = good("t5", &[]);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!((decoder.layers, encoder.layers, decoder.context, encoder.context), (3, 2, 64, 64));
    assert!(decoder.cross && decoder.causal && decoder.tied_head && !decoder.gated);
    assert!(encoder.headless && encoder.shared_embedding && !encoder.causal && !encoder.cross);
    assert_eq!((decoder.norm, decoder.position, decoder.relative_distance), (Norm::Rms, Position::Relative, 20));
    assert_eq!((decoder.attention_scale, decoder.activation, decoder.head_dim), (1.0, Activation::Relu, 10));
    let whole = recipe("t5", &[]).expect("good");
    let cross = ["k", "v"].map(|name| format!("decoder.block.2.layer.1.EncDecAttention.{name}.weight"));
    assert_eq!(names(&whole, Role::CrossKeyValue, 2), cross);
    let source = whole.source.as_ref().expect("an encoder");
    assert_eq!(names(source, Role::MlpUp, 1), ["encoder.block.1.layer.1.DenseReluDense.wi.weight"]);
    assert!(source.tensors.iter().all(|tensor| tensor.spec.role != Role::TokenEmbedding), "it is the decoder's");

    let (decoder, _, notes) = good("t5-gated", &[]);
    assert!(notes.is_empty(), "{notes:?}");
    assert!(decoder.gated && !decoder.tied_head && decoder.activation == Activation::GeluTanh);
    // Defaults of the configuration's class.
    let (decoder, ..) = good("t5", &[("n_positions", Value::Null), ("dense_act_fn", Value::Null)]);
    assert_eq!(decoder.context, 512);
    let (decoder, ..) = good("t5", &[("relative_attention_max_distance", Value::Null)]);
    assert_eq!(decoder.relative_distance, 128);
}

#[test]
fn t5s_of_another_kind_are_refused() {
    for (field, value) in [
        ("feed_forward_proj", json!("gated-tanh")),
        ("feed_forward_proj", json!(3)),
        ("dense_act_fn", json!("gelu")),
        ("is_gated_act", json!(true)),
        ("is_encoder_decoder", json!(false)),
        ("relative_attention_num_buckets", json!(6)),
        ("relative_attention_max_distance", json!(8)),
        ("relative_attention_max_distance", json!(16_385)),
        ("d_kv", json!("ten")),
        ("num_heads", Value::Null),
        ("rope_theta", json!(1e4)),
    ] {
        refused("t5", field, value);
    }
    // Buckets that the file does not have.
    let error = recipe("t5", &[("relative_attention_num_buckets", json!(12))]).expect_err("12 of 8").to_string();
    mentions(&error, &["relative_attention_bias.weight", "found shape [8, 4]", "expected shape [12, 4]"]);
    let error = recipe("t5", &[("num_decoder_layers", json!(4))]).expect_err("a layer more").to_string();
    mentions(&error, &["decoder.block.3.layer.0", "nothing"]);
    let error = recipe("t5", &[("num_layers", json!(1))]).expect_err("a layer less").to_string();
    mentions(&error, &["encoder.block.1", "beyond"]);
}

#[test]
fn marians_vocabularies_are_one_or_two() {
    let (decoder, encoder, _) = good("marian", &[]);
    assert!(encoder.shared_embedding && decoder.post_norm && encoder.post_norm && !decoder.embedding_norm);
    assert_eq!((decoder.heads, encoder.heads, decoder.hidden, encoder.hidden), (2, 4, 48, 80));
    assert_eq!((decoder.embedding_scale, decoder.activation), (32f32.sqrt(), Activation::Silu));
    assert!(decoder.biases.head && !encoder.biases.head);
    let (decoder, encoder, _) = good("marian-two-vocabularies", &[]);
    assert_eq!((decoder.vocab, encoder.vocab, encoder.shared_embedding), (80, 96, false));
    let two = recipe("marian-two-vocabularies", &[]).expect("good");
    assert_eq!(names(&two, Role::TokenEmbedding, 0), ["model.decoder.embed_tokens.weight"]);
    let source = two.source.as_ref().expect("an encoder");
    assert_eq!(names(source, Role::TokenEmbedding, 0), ["model.encoder.embed_tokens.weight"]);

    for (field, value) in [
        ("normalize_before", json!(true)),
        ("normalize_embedding", json!(true)),
        ("add_final_layer_norm", json!(true)),
        ("add_bias_logits", json!(true)),
        ("static_position_embeddings", json!(false)),
        ("tie_encoder_decoder", json!(true)),
        ("decoder_vocab_size", json!(95)),
        ("activation_function", json!("tanh")),
        ("encoder_attention_heads", json!(5)),
        ("decoder_layers", Value::Null),
        ("sliding_window", json!(7)),
    ] {
        refused("marian", field, value);
    }
    // A scale that is not applied shows in the record.
    assert_eq!(good("marian", &[("scale_embedding", json!(false))]).0.embedding_scale, 1.0);
}

#[test]
fn tokens_that_are_banned_never_win() {
    let place = tempfile::tempdir().expect("a temporary folder");
    fs::copy(folder("marian").join("model.safetensors"), place.path().join("model.safetensors")).expect("copied");
    let write = |words: Value| {
        let mut config = config("marian");
        config["bad_words_ids"] = words;
        fs::write(place.path().join("config.json"), config.to_string()).expect("written");
        Prepared::open(place.path(), Options::default())
    };
    let prepared = write(json!([[95], [3, 4], [0], [500]])).expect("good");
    let recipe = &prepared.recipe;
    let bias = recipe.tensors.iter().find(|tensor| tensor.spec.role == Role::HeadBias).expect("a bias");
    assert_eq!((bias.spec.kind, bias.spec.cols), (Kind::Vector, 96));
    let mut values = vec![0f32; 96];
    recipe.read_rows(&prepared.source.checkpoint, bias, 0..1, &mut values).expect("finite");
    let banned: Vec<_> = (0..96).filter(|&i| values[i] < -1e8).collect();
    assert_eq!(banned, [0, 95]);
    assert!(values[1..95].iter().all(|bias| bias.abs() < 5.0));
    assert_eq!(prepared.special.start, Some(95));
    mentions(&write(json!([95])).expect_err("no list of lists").to_string(), &["bad_words_ids", "a list of lists"]);
}

#[test]
fn barts_positions_begin_at_the_third_row() {
    let (decoder, encoder, _) = good("bart", &[]);
    assert!(decoder.embedding_norm && encoder.embedding_norm && decoder.post_norm);
    assert_eq!((decoder.position, decoder.context), (Position::Learned, 64));
    let whole = recipe("bart", &[]).expect("good");
    for stack in [&whole, whole.source.as_ref().expect("an encoder")] {
        let table = stack.tensors.iter().find(|tensor| tensor.spec.role == Role::PositionEmbedding).expect("positions");
        let Values::Parts(parts) = &table.source else { panic!("not stored") };
        assert_eq!((parts[0].first_row, parts[0].rows), (2, 64));
    }
    let special = Prepared::open(&folder("bart"), Options::default()).expect("good").special;
    assert_eq!((special.start, special.second, special.end()), (Some(2), Some(0), &[2][..]));
    for (field, value) in [
        ("normalize_before", json!(true)),
        ("normalize_embedding", json!(false)),
        ("static_position_embeddings", json!(true)),
        ("extra_pos_embeddings", json!(3)),
        ("share_encoder_decoder_embeddings", json!(false)),
        ("d_model", json!(33)),
    ] {
        refused("bart", field, value);
    }
}

#[test]
fn the_annotated_transformer_needs_its_heads() {
    let (decoder, encoder, _) = good("annotated", &[]);
    assert_eq!((decoder.heads, decoder.vocab, encoder.vocab), (4, 96, 101));
    assert!(!decoder.post_norm && !encoder.shared_embedding && !decoder.tied_head && decoder.biases.head);
    assert_eq!(decoder.embedding_scale, 32f32.sqrt());
    let whole = recipe("annotated", &[]).expect("good");
    let linears = [1, 2].map(|i| format!("decoder.layers.1.src_attn.linears.{i}.weight"));
    assert_eq!(names(&whole, Role::CrossKeyValue, 1), linears);
    let agrees = [("N", json!(2)), ("d_model", json!(32)), ("d_ff", json!(80)), ("src_vocab", json!(101))];
    good("annotated", &agrees);
    for (field, value) in [("h", json!(5)), ("h", Value::Null), ("h", json!(0)), ("layer_norm", json!("post"))] {
        refused("annotated", field, value);
    }
    let error = recipe("annotated", &[("N", json!(3))]).expect_err("a layer more").to_string();
    mentions(&error, &["encoder.layers.2", "nothing"]);
    let error = recipe("annotated", &[("N", json!(1))]).expect_err("a layer less").to_string();
    mentions(&error, &["layers.1", "beyond"]);
}

#[test]
fn contexts_are_cut_on_both_sides() {
    for name in ["t5", "marian", "bart", "annotated"] {
        let options = Options { context: Some(9), ..Options::default() };
        let recipe = Prepared::open(&folder(name), options).expect("good").recipe;
        assert_eq!((recipe.arch.context, recipe.source.expect("an encoder").arch.context), (9, 9), "{name}");
    }
}

/// A SentencePiece model for both sides, and a vocab.json that gives other ids, to fewer pieces.
#[test]
fn marians_pieces_have_the_ids_of_vocab_json() {
    let spm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers/unigram/tokenizer.model");
    let library = load(&spm).expect("a good model");
    let library = library.tokenizer().expect("a good section");
    let bare = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let texts = ["the lamp in the room", "a  lamp", ""];
    let of_texts: Vec<Vec<u32>> = texts.iter().map(|text| encode(&library, text, bare).expect("a text")).collect();
    let mut ids = serde_json::Map::new();
    for (name, id) in [("</s>", 0), ("<unk>", 1), (">>fra<<", 2), ("\u{2581}Bonjour", 3), ("<pad>", 95)] {
        ids.insert(name.into(), json!(id));
    }
    let name = |id: u32| String::from_utf8_lossy(library.token_bytes(id)).replace(' ', "\u{2581}");
    let mut next = 60;
    for &id in of_texts.iter().flatten() {
        if !ids.contains_key(&name(id)) {
            ids.insert(name(id), json!(next));
            next -= 1;
        }
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    for side in ["source.spm", "target.spm"] {
        fs::copy(&spm, place.path().join(side)).expect("copied");
    }
    for file in ["model.safetensors", "config.json"] {
        fs::copy(folder("marian").join(file), place.path().join(file)).expect("copied");
    }
    fs::write(place.path().join("vocab.json"), Value::from(ids.clone()).to_string()).expect("written");
    let prepared = Prepared::open(place.path(), Options::default()).expect("good");
    assert!(prepared.notes.iter().any(|note| note.contains("pieces have no id")), "{:?}", prepared.notes);
    let source = prepared.source_tokenizer.as_ref().expect("a tokenizer").tokenizer().expect("a good section");
    let mapped = |id: &u32| ids[&name(*id)].as_u64().expect("an id") as u32;
    for (text, expected) in texts.iter().zip(&of_texts) {
        let expected: Vec<u32> = expected.iter().map(mapped).chain([0]).collect();
        assert_eq!(encode(&source, text, EncodeOptions::default()).expect("a text"), expected, "{text:?}");
    }
    let target = prepared.tokenizer.as_ref().expect("a tokenizer").tokenizer().expect("a good section");
    let ids = encode(&target, "the lamp", EncodeOptions::default()).expect("a text");
    assert_eq!(decode(&target, &ids, true), "the lamp");
    assert_eq!(decode(&target, &[3, 0, 95], true), "Bonjour", "a piece of the other side's model");
    let coded = encode(&source, ">>fra<< the lamp", EncodeOptions::default()).expect("a text");
    assert_eq!(coded, [&[2], &ids[..]].concat());
    // The file carries both.
    let (blob, _) = prepared.to_memory(&Silent).expect("a blob");
    let model = Model::new(&blob).expect("a good blob");
    assert!(model.tokenizer().is_some() && model.source_tokenizer().is_some());

    fs::write(place.path().join("vocab.json"), r#"{"<unk>": 1}"#).expect("written");
    let error = Prepared::open(place.path(), Options::default()).expect_err("no end token").to_string();
    mentions(&error, &["vocab.json", "</s>"]);
}
