//! DistilBERT as transformers stores it: BERT without token types, under other names.

use thumbformer::arch::Activation;

use super::encoder::{self, Fields, Sizes, Spelling};
use super::{Family, Names, activation};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;

pub(super) const FAMILY: Family = Family {
    name: "distilbert",
    classes: &["DistilBertForMaskedLM", "DistilBertModel"],
    recipe: |names, config, _| recipe(names, config),
};

/// Fields that are read, or say nothing.
const FIELDS: [&str; 10] = [
    "activation",
    "dim",
    "hidden_dim",
    "max_position_embeddings",
    "n_heads",
    "n_layers",
    // How positions were drawn before training. They are stored in any case.
    "sinusoidal_pos_embds",
    "tie_weights_",
    "tie_word_embeddings",
    "vocab_size",
];

const SPELLING: Spelling = Spelling {
    family: "distilbert",
    prefix: "distilbert.",
    layers: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    mlp_up: "ffn.lin1",
    mlp_down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    transform: "vocab_transform",
    transform_norm: "vocab_layer_norm",
    decoder: "vocab_projector",
    head_bias: "vocab_projector.bias",
    unused: &[],
};

fn recipe(names: &Names<'_>, config: &Config) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    let sizes = Sizes {
        vocab: config.required("vocab_size")?,
        dim: config.required("dim")?,
        layers: config.required("n_layers")?,
        heads: config.required("n_heads")?,
        hidden: config.required("hidden_dim")?,
        norm_eps: 1e-12,
        activation: activation(config, "activation", Activation::Gelu)?,
        positions: config.required("max_position_embeddings")?,
        first_position: 0,
        token_types: 0,
    };
    encoder::recipe(names, config, &SPELLING, &Fields { dim: "dim", heads: "n_heads" }, &sizes)
}
