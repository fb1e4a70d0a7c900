//! BERT, RoBERTa and XLM-RoBERTa as transformers stores them: one network, with the head under another name and RoBERTa's
//! positions counted from behind the padding token's id.
//!
//! RoBERTa gives padding tokens inside a text no position; here they have one like any other. Texts hold none.

use thumbformer::arch::Activation;

use super::encoder::{self, Fields, Sizes, Spelling};
use super::{Family, Names, activation};
use crate::Result;
use crate::config::Config;
use crate::recipe::Recipe;

/// transformers' classes that compute this, and sentence-transformers' bare models.
const CLASSES: [&str; 3] = ["BertForMaskedLM", "BertForPreTraining", "BertModel"];
const ROBERTA_CLASSES: [&str; 2] = ["RobertaForMaskedLM", "RobertaModel"];
const XLM_ROBERTA_CLASSES: [&str; 2] = ["XLMRobertaForMaskedLM", "XLMRobertaModel"];

pub(super) const BERT_FAMILY: Family =
    Family { name: "bert", classes: &CLASSES, recipe: |names, config, _| bert(names, config) };
pub(super) const ROBERTA_FAMILY: Family =
    Family { name: "roberta", classes: &ROBERTA_CLASSES, recipe: |names, config, _| roberta(names, config, "roberta") };
pub(super) const XLM_ROBERTA_FAMILY: Family = Family {
    name: "xlm-roberta",
    classes: &XLM_ROBERTA_CLASSES,
    recipe: |names, config, _| roberta(names, config, "xlm-roberta"),
};

/// Fields that are read, or say nothing.
const FIELDS: [&str; 22] = [
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "position_embedding_type",
    "tie_word_embeddings",
    "type_vocab_size",
    "vocab_size",
    // Of the pooler, which is not computed, and of training.
    "directionality",
    "output_past",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "cell",
    "model_max_length",
];

const BERT: Spelling = Spelling {
    family: "bert",
    prefix: "bert.",
    layers: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    mlp_up: "intermediate.dense",
    mlp_down: "output.dense",
    mlp_norm: "output.LayerNorm",
    transform: "cls.predictions.transform.dense",
    transform_norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder",
    head_bias: "cls.predictions.bias",
    unused: &["cls.seq_relationship."],
};

const ROBERTA: Spelling = Spelling {
    family: "roberta",
    prefix: "roberta.",
    transform: "lm_head.dense",
    transform_norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    head_bias: "lm_head.bias",
    unused: &[],
    ..BERT
};

fn bert(names: &Names<'_>, config: &Config) -> Result<Recipe> {
    let sizes = sizes(config, 0)?;
    recipe(names, config, &BERT, &sizes)
}

fn roberta(names: &Names<'_>, config: &Config, family: &'static str) -> Result<Recipe> {
    let padding = config.token_ids("pad_token_id")?.and_then(|ids| ids.first().copied()).unwrap_or(1);
    let first = padding.checked_add(1).ok_or_else(|| config.error("pad_token_id", "a token of the vocabulary"))?;
    let sizes = sizes(config, first)?;
    let spelling = Spelling { family, ..ROBERTA };
    let recipe = recipe(names, config, &spelling, &sizes)?;
    // The head has its own, whatever the layers use.
    if recipe.arch.head_transform && sizes.activation != Activation::Gelu {
        return Err(config.error("hidden_act", "gelu, which the head computes in any case"));
    }
    Ok(recipe)
}

fn recipe(names: &Names<'_>, config: &Config, spelling: &Spelling, sizes: &Sizes) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    if config.boolean("is_decoder")? == Some(true) {
        return Err(config.error("is_decoder", "false: only encoders are computed"));
    }
    if config.string("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(config.error("position_embedding_type", "absolute"));
    }
    encoder::recipe(names, config, spelling, &Fields { dim: "hidden_size", heads: "num_attention_heads" }, sizes)
}

fn sizes(config: &Config, first_position: u32) -> Result<Sizes> {
    let positions = config.required("max_position_embeddings")?;
    if positions <= first_position {
        let expected = format!("more than {first_position}, the positions that padding takes");
        return Err(config.error("max_position_embeddings", expected));
    }
    Ok(Sizes {
        vocab: config.required("vocab_size")?,
        dim: config.required("hidden_size")?,
        layers: config.required("num_hidden_layers")?,
        heads: config.required("num_attention_heads")?,
        hidden: config.required("intermediate_size")?,
        norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        activation: activation(config, "hidden_act", Activation::Gelu)?,
        positions,
        first_position,
        token_types: config.integer("type_vocab_size")?.unwrap_or(2),
    })
}
