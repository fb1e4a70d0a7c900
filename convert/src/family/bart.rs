//! BART, and Marian, which the OPUS-MT models are: an encoder and a decoder with norms behind sublayers and biases
//! everywhere. BART has trained positions, of which the first two rows are not used, and a norm of the embeddings; Marian
//! sines and cosines, and sometimes a vocabulary for each side.

use thumbformer::arch::{Activation, Arch, Biases, Role, TensorSpec};

use super::sinusoidal::{self, Order};
use super::{Family, Head, Names, Piece, Plan, activation, fixed, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Recipe, Source};
use crate::source::Overrides;

pub(super) const BART_FAMILY: Family = Family {
    name: "bart",
    classes: &["BartForConditionalGeneration"],
    recipe: |names, config, _: &Overrides| recipe(names, config, &BART),
};
pub(super) const MARIAN_FAMILY: Family = Family {
    name: "marian",
    classes: &["MarianMTModel"],
    recipe: |names, config, _: &Overrides| recipe(names, config, &MARIAN),
};

/// What the two differ in.
struct Kind {
    family: &'static str,
    /// Positions are trained, from this row of their table on; else computed.
    first_position: Option<u32>,
    embedding_norm: bool,
}

const BART: Kind = Kind { family: "bart", first_position: Some(2), embedding_norm: true };
const MARIAN: Kind = Kind { family: "marian", first_position: None, embedding_norm: false };

/// Fields that are read, or say nothing.
const FIELDS: [&str; 30] = [
    "activation_function",
    "add_bias_logits",
    "add_final_layer_norm",
    "d_model",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    // Of training.
    "decoder_layerdrop",
    "decoder_layers",
    "decoder_vocab_size",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layerdrop",
    "encoder_layers",
    // Of positions that are trained, as BART's always are.
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "init_std",
    "is_encoder_decoder",
    "max_position_embeddings",
    "normalize_before",
    "normalize_embedding",
    // The encoder's once more.
    "num_hidden_layers",
    "output_past",
    "save_step",
    "scale_embedding",
    "share_encoder_decoder_embeddings",
    "static_position_embeddings",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "vocab_size",
];

const SHARED: &str = "model.shared.weight";
const HEAD: &str = "lm_head.weight";
const BIAS: &str = "final_logits_bias";

fn recipe(names: &Names<'_>, config: &Config, kind: &Kind) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    fixed(config, "is_encoder_decoder", true)?;
    for field in ["normalize_before", "add_final_layer_norm", "add_bias_logits", "tie_encoder_decoder"] {
        fixed(config, field, false)?;
    }
    fixed(config, "normalize_embedding", kind.embedding_norm)?;
    fixed(config, "static_position_embeddings", kind.first_position.is_none())?;
    let shares = config.boolean("share_encoder_decoder_embeddings")?.unwrap_or(true);
    if kind.first_position.is_some() {
        fixed(config, "share_encoder_decoder_embeddings", true)?;
        if config.integer("extra_pos_embeddings")?.is_some_and(|rows| Some(rows) != kind.first_position) {
            return Err(config.error("extra_pos_embeddings", "2"));
        }
    }
    let mut notes = Vec::new();
    let dim = config.required("d_model")?;
    let vocab = config.required("vocab_size")?;
    let decoder_vocab = config.integer("decoder_vocab_size")?.unwrap_or(vocab);
    if shares && decoder_vocab != vocab {
        return Err(config.error("decoder_vocab_size", format!("vocab_size, {vocab}, where both sides share it")));
    }
    let own = |stack: &str| format!("model.{stack}.embed_tokens.weight");
    // Files without the shared name have the copies only.
    let embedding = match shares {
        true if names.has(SHARED) => SHARED.to_owned(),
        true => own("encoder"),
        false => own("decoder"),
    };
    if shares {
        names.refuse_other_copy(&embedding, &own("encoder"))?;
        names.refuse_other_copy(&embedding, &own("decoder"))?;
    }
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let head = names.head(&embedding, HEAD, tie, &mut notes);
    let scale = if config.boolean("scale_embedding")?.unwrap_or(false) { f64::from(dim).sqrt() as f32 } else { 1.0 };
    let plain = Arch {
        vocab,
        dim,
        context: config.required("max_position_embeddings")?,
        embedding_scale: scale,
        post_norm: true,
        embedding_norm: kind.embedding_norm,
        activation: activation(config, "activation_function", Activation::Gelu)?,
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false },
        ..Arch::PLAIN
    };
    let sized = |arch: Arch, stack: &str| -> Result<Arch> {
        let field = format!("{stack}_attention_heads");
        let (_, heads, head_dim) = super::heads_of(config, "d_model", &field)?;
        let (layers, hidden) = (format!("{stack}_layers"), format!("{stack}_ffn_dim"));
        let (layers, hidden) = (config.required(&layers)?, config.required(&hidden)?);
        let attention_scale = inverse_sqrt(head_dim);
        validated(Arch { layers, heads, kv_heads: heads, head_dim, hidden, attention_scale, ..arch }, config.path())
    };
    let encoder = Arch { causal: false, headless: true, shared_embedding: shares, ..plain };
    let encoder = sized(encoder, "encoder")?;
    let biases = Biases { head: names.has(BIAS), ..plain.biases };
    let decoder = Arch {
        vocab: if shares { vocab } else { decoder_vocab },
        cross: true,
        tied_head: head.is_tied(),
        biases,
        ..plain
    };
    let decoder = sized(decoder, "decoder")?;

    let stack = |arch: Arch, stack: &'static str, notes| {
        let pieces = |spec: TensorSpec| {
            let of = |name: &str| format!("model.{stack}.{name}");
            match spec.role {
                Role::TokenEmbedding if arch.causal && head == Head::Only => vec![Piece::whole(HEAD, arch.vocab)],
                Role::TokenEmbedding if arch.causal => vec![Piece::whole(&embedding, arch.vocab)],
                Role::TokenEmbedding => vec![Piece::whole(of("embed_tokens.weight"), arch.vocab)],
                Role::PositionEmbedding => match kind.first_position {
                    Some(first) => {
                        let table = Piece::whole(of("embed_positions.weight"), arch.context + first);
                        vec![table.rows(first, arch.context)]
                    }
                    None => Vec::new(),
                },
                Role::EmbeddingNorm => vec![Piece::whole(of("layernorm_embedding.weight"), dim)],
                Role::EmbeddingNormBias => vec![Piece::whole(of("layernorm_embedding.bias"), dim)],
                Role::Head => vec![Piece::whole(HEAD, arch.vocab)],
                Role::HeadBias => vec![Piece { row: true, ..Piece::whole(BIAS, arch.vocab) }],
                _ => in_layer(&arch, stack, spec),
            }
        };
        let ignorable = |tensor: &str| {
            let is_encoders = tensor.starts_with("model.encoder.");
            is_encoders == arch.causal
                || (shares && (tensor == SHARED || tensor == own(stack)))
                || head.repeats(tensor, HEAD)
                || (kind.first_position.is_none() && tensor.ends_with("embed_positions.weight"))
        };
        let mut computed = Vec::new();
        if kind.first_position.is_none() {
            let table = sinusoidal::table(arch.context, dim, Order::Halves);
            computed.push((Role::PositionEmbedding, Source::Values(table)));
        }
        Plan { family: kind.family, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
    };
    let source = stack(encoder, "encoder", Vec::new())?;
    Ok(Recipe { source: Some(Box::new(source)), ..stack(decoder, "decoder", notes)? })
}

/// Where a layer's tensors come from.
fn in_layer(arch: &Arch, stack: &str, spec: TensorSpec) -> Vec<Piece> {
    let (dim, hidden) = (arch.dim, arch.hidden);
    let of = |name: &str| format!("model.{stack}.layers.{}.{name}", spec.layer);
    let one = |name: &str, rows: u32| vec![Piece::whole(of(name), rows)];
    let several = |attention: &str, names: &[&str], what: &str| {
        names.iter().map(|name| Piece::whole(of(&format!("{attention}.{name}_proj.{what}")), dim)).collect()
    };
    let (own, cross) = ("self_attn", "encoder_attn");
    match spec.role {
        Role::AttentionNorm => one("self_attn_layer_norm.weight", dim),
        Role::AttentionNormBias => one("self_attn_layer_norm.bias", dim),
        Role::Qkv => several(own, &["q", "k", "v"], "weight"),
        Role::QkvBias => several(own, &["q", "k", "v"], "bias"),
        Role::AttentionOut => several(own, &["out"], "weight"),
        Role::AttentionOutBias => several(own, &["out"], "bias"),
        Role::CrossNorm => one("encoder_attn_layer_norm.weight", dim),
        Role::CrossNormBias => one("encoder_attn_layer_norm.bias", dim),
        Role::CrossQuery => several(cross, &["q"], "weight"),
        Role::CrossQueryBias => several(cross, &["q"], "bias"),
        Role::CrossKeyValue => several(cross, &["k", "v"], "weight"),
        Role::CrossKeyValueBias => several(cross, &["k", "v"], "bias"),
        Role::CrossOut => several(cross, &["out"], "weight"),
        Role::CrossOutBias => several(cross, &["out"], "bias"),
        Role::MlpNorm => one("final_layer_norm.weight", dim),
        Role::MlpNormBias => one("final_layer_norm.bias", dim),
        Role::MlpUp => one("fc1.weight", hidden),
        Role::MlpUpBias => one("fc1.bias", hidden),
        Role::MlpDown => one("fc2.weight", dim),
        Role::MlpDownBias => one("fc2.bias", dim),
        // Not of these families.
        _ => Vec::new(),
    }
}
