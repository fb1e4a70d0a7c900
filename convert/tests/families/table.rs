//! The table of families in the documentation, from the models that the tests convert.

use std::collections::BTreeMap;
use std::path::Path;

use thumbformer::arch::{Activation, Arch, HeadNorm, LayerSet, Norm, Position, Wiring};
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source};

const TABLE: &str = "src/family/table.md";

#[test]
fn the_table_of_families_is_what_the_models_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    // Each family's models, as far as they differ in the table.
    let mut families: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut models: Vec<_> =
        std::fs::read_dir(folder).expect("models").map(|entry| entry.expect("an entry").path()).collect();
    models.sort();
    for model in models.into_iter().filter(|path| path.is_dir()) {
        let source = Source::find(&model, &Overrides::default()).expect("a source");
        let recipe = family::recognise(&source).unwrap_or_else(|error| panic!("{error}"));
        let encoder = recipe.source.as_ref().map(|source| row(&source.arch));
        let rows = families.entry(recipe.family).or_default();
        for row in [row(&recipe.arch)].into_iter().chain(encoder) {
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    for name in family::names() {
        assert!(families.contains_key(name), "no model of {name} among the fixtures");
    }
    let mut table = String::from(
        "| family | attention | positions | norms | MLP | layer | head | besides |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (family, rows) in &families {
        for row in rows {
            table += &format!("| `{family}` {row}\n");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if std::env::var_os("THUMBFORMER_BLESS").is_some() {
        std::fs::write(&path, &table).expect("a writable folder");
    }
    let written = std::fs::read_to_string(&path).expect("the table");
    for (written, found) in written.lines().zip(table.lines()) {
        assert_eq!(written, found, "{TABLE}: THUMBFORMER_BLESS=1 writes it anew");
    }
    assert_eq!(written.len(), table.len(), "{TABLE}");
}

/// The cells behind the family's name.
fn row(a: &Arch) -> String {
    let attention = match (a.causal, a.kv_heads) {
        (false, _) => "all tokens",
        (true, 1) if a.heads > 1 => "causal, one KV head",
        (true, kv_heads) if kv_heads < a.heads => "causal, grouped",
        _ => "causal",
    };
    let positions = match a.position {
        Position::Learned => "learned",
        Position::Rope if a.rotary_dim < a.head_dim => "RoPE on a part",
        Position::Rope if a.window_rope => "RoPE, two bases",
        Position::Rope => "RoPE",
        Position::Alibi => "ALiBi",
        Position::Relative => "relative",
    };
    let norm = match a.norm {
        Norm::Layer if a.biases.norm => "LayerNorm",
        Norm::Layer => "LayerNorm without bias",
        Norm::Rms => "RMSNorm",
    };
    let norms = match (a.post_norm, a.output_norms) {
        (true, _) => format!("{norm} behind"),
        (false, true) => format!("{norm} before and behind"),
        (false, false) if a.normed_residual => format!("{norm} of the residual stream"),
        (false, false) if !a.final_norm => format!("{norm}, none at the end"),
        (false, false) => norm.to_owned(),
    };
    let activation = match a.activation {
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::Silu => "SiLU",
        Activation::Relu => "ReLU",
    };
    let layer = match a.wiring {
        Wiring::Sequential => "sequential",
        Wiring::Parallel => "parallel, two norms",
        Wiring::ParallelOneNorm => "parallel, one norm",
    };
    let head = match (a.headless, a.tied_head) {
        (true, _) => "none",
        (false, true) => "tied",
        (false, false) => "own",
    };
    let biases =
        [("qkv", a.biases.qkv), ("out", a.biases.attention_out), ("MLP", a.biases.mlp), ("head", a.biases.head)];
    let biases: Vec<&str> = biases.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let norms_of_heads = match a.head_norm {
        HeadNorm::None | HeadNorm::Rms => "norms of heads",
        HeadNorm::Layer => "LayerNorm of heads",
        HeadNorm::LayerByHead => "a LayerNorm for each head",
    };
    let besides = [
        (!biases.is_empty(), format!("biases: {}", biases.join(", "))),
        (a.head_norm != HeadNorm::None, norms_of_heads.into()),
        (a.embedding_scale != 1.0, "scaled embedding".into()),
        (a.embedding_norm, "norm of the embedding".into()),
        (a.token_types > 0, format!("{} token types", a.token_types)),
        (a.head_transform, "transform before the head".into()),
        (a.window > 0 && a.windowed_layers() == a.layers, "window".into()),
        (a.window > 0 && a.global_every > 0, "window in some layers".into()),
        (a.window_list != LayerSet::NONE, "window in any layers".into()),
        (a.window > 0 && a.window_from > 0, "window in the upper layers".into()),
        (a.score_cap > 0.0, "capped scores".into()),
        (a.logit_cap > 0.0, "capped logits".into()),
        (a.cross, "attention to a source".into()),
    ];
    let besides: Vec<&str> = besides.iter().filter(|(has, _)| *has).map(|(_, text)| text.as_str()).collect();
    let gated = if a.gated { "gated " } else { "" };
    format!("| {attention} | {positions} | {norms} | {gated}{activation} | {layer} | {head} | {} |", besides.join("; "))
}
