//! The annotated transformer (Rush, 2018; Huang et al., 2022): the encoder-decoder of "Attention is all you need" as that
//! tutorial writes it, with norms before sublayers and one behind each stack, ReLU, and biases everywhere but in the
//! embeddings.
//!
//! A state dict says all but the number of heads, which `config.json` must name by the tutorial's argument, `h`. Its norm
//! divides by `s + 1e-6`, where s is the standard deviation with `dim − 1` in the denominator. The record's divides by
//! `√(variance + eps)`: with a tiny epsilon and weights times `√((dim−1)/dim)` that is the same to about 1e-6/s.

use thumbformer::arch::{Activation, Arch, Biases, Role, TensorSpec};

use super::sinusoidal::{self, Order};
use super::{Head, Names, Piece, Plan, inverse_sqrt, validated};
use crate::config::Config;
use crate::recipe::{Recipe, Source};
use crate::{Error, Result};

pub(super) const NAME: &str = "annotated";

/// Fields that are read: the arguments of the tutorial's `make_model`, and of `PositionalEncoding`.
const FIELDS: [&str; 7] = ["h", "N", "d_model", "d_ff", "src_vocab", "tgt_vocab", "max_len"];

const SOURCE: &str = "src_embed.0.lut.weight";
const TARGET: &str = "tgt_embed.0.lut.weight";
const HEAD: &str = "generator.proj.weight";
const UP: &str = "encoder.layers.0.feed_forward.w_1.weight";

/// Positions that the tutorial computes sines for.
const POSITIONS: u32 = 5000;

/// Whether these are the tutorial's tensors.
pub(super) fn recognise(names: &Names<'_>) -> bool {
    names.has(SOURCE) && names.has(TARGET) && names.has("encoder.layers.0.self_attn.linears.0.weight")
}

pub(super) fn recipe(names: &Names<'_>, config: Option<&Config>) -> Result<Recipe> {
    let nothing = Config::new(names.checkpoint.path(), "", serde_json::Map::new());
    let config = config.unwrap_or(&nothing);
    config.refuse_unknown(&FIELDS)?;
    // What the configuration leaves out is seen in the shapes, which are checked again in any case.
    let size = |tensor: &str, dimension: usize| {
        names.shape(tensor).and_then(|shape| shape.get(dimension)).and_then(|&size| u32::try_from(size).ok())
    };
    let field = |name: &str, seen: Option<u32>| match config.integer(name)?.or(seen) {
        Some(value) => Ok::<u32, Error>(value),
        None => Err(config.error(name, "an integer")),
    };
    let heads = config.integer("h")?.ok_or_else(|| {
        config.error("h", "the number of attention heads: shapes do not show it, so write it into config.json")
    })?;
    let dim = field("d_model", size(SOURCE, 1))?;
    if heads == 0 || dim % heads != 0 {
        return Err(config.error("h", format!("a divisor of d_model, {dim}")));
    }
    let stored = |stack: &str| {
        let name = |i: u32| format!("{stack}.layers.{i}.self_attn.linears.0.weight");
        (0..).take_while(|&i| names.has(&name(i))).count() as u32
    };
    let same = |a: &str, b: &str| match (names.stored.get(a), names.stored.get(b)) {
        (Some(a), Some(b)) => names.checkpoint.same_values(a, b),
        _ => false,
    };
    let head = if same(TARGET, HEAD) { Head::Tied } else { Head::Own };
    let shares = same(SOURCE, TARGET);
    let context = config.integer("max_len")?.or(size("src_embed.1.pe", 1)).unwrap_or(POSITIONS);
    let plain = Arch {
        dim,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        hidden: field("d_ff", size(UP, 0))?,
        context,
        norm_eps: 1e-12,
        embedding_scale: f64::from(dim).sqrt() as f32,
        activation: Activation::Relu,
        biases: Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false },
        attention_scale: inverse_sqrt(dim / heads),
        ..Arch::PLAIN
    };
    let encoder = Arch {
        vocab: field("src_vocab", size(SOURCE, 0))?,
        layers: field("N", Some(stored("encoder")))?,
        causal: false,
        headless: true,
        shared_embedding: shares,
        ..plain
    };
    let decoder = Arch {
        vocab: field("tgt_vocab", size(TARGET, 0))?,
        layers: field("N", Some(stored("decoder")))?,
        cross: true,
        tied_head: head.is_tied(),
        biases: Biases { head: true, ..plain.biases },
        ..plain
    };
    let stack = |arch: Arch, name: &'static str| -> Result<Recipe> {
        let arch = validated(arch, config.path())?;
        let pieces = |spec: TensorSpec| pieces(&arch, name, spec);
        let ignorable = |tensor: &str| {
            let of_encoder = tensor.starts_with("encoder.") || tensor.starts_with("src_embed.");
            of_encoder == arch.causal
                || tensor.ends_with("_embed.1.pe")
                || (!arch.causal && shares && tensor == SOURCE)
                || head.repeats(tensor, HEAD)
        };
        let table = sinusoidal::table(arch.context, dim, Order::Interleaved);
        let computed = vec![(Role::PositionEmbedding, Source::Values(table))];
        Plan { family: NAME, arch, computed, pieces: &pieces, ignorable: &ignorable, notes: Vec::new() }.assemble(names)
    };
    Ok(Recipe { source: Some(Box::new(stack(encoder, "encoder")?)), ..stack(decoder, "decoder")? })
}

/// Where each tensor of a stack comes from.
fn pieces(arch: &Arch, stack: &str, spec: TensorSpec) -> Vec<Piece> {
    let (dim, hidden) = (arch.dim, arch.hidden);
    let of = |name: &str| format!("{stack}.layers.{}.{name}", spec.layer);
    let one = |name: &str, rows: u32| vec![Piece::whole(of(name), rows)];
    let linears = |attention: &str, numbers: &[u32], what: &str| {
        numbers.iter().map(|number| Piece::whole(of(&format!("{attention}.linears.{number}.{what}")), dim)).collect()
    };
    // From the standard deviation of a sample to that of the values.
    let factor = (f64::from(dim.max(2) - 1) / f64::from(dim.max(2))).sqrt() as f32;
    let weight = |name: String| vec![Piece { scale: factor, ..Piece::whole(format!("{name}.a_2"), dim) }];
    let bias = |name: String| vec![Piece::whole(format!("{name}.b_2"), dim)];
    let norm = |number: u32| of(&format!("sublayer.{number}.norm"));
    let mlp = if arch.cross { 2 } else { 1 };
    match spec.role {
        Role::TokenEmbedding => vec![Piece::whole(if arch.causal { TARGET } else { SOURCE }, arch.vocab)],
        Role::AttentionNorm => weight(norm(0)),
        Role::AttentionNormBias => bias(norm(0)),
        Role::Qkv => linears("self_attn", &[0, 1, 2], "weight"),
        Role::QkvBias => linears("self_attn", &[0, 1, 2], "bias"),
        Role::AttentionOut => linears("self_attn", &[3], "weight"),
        Role::AttentionOutBias => linears("self_attn", &[3], "bias"),
        Role::CrossNorm => weight(norm(1)),
        Role::CrossNormBias => bias(norm(1)),
        Role::CrossQuery => linears("src_attn", &[0], "weight"),
        Role::CrossQueryBias => linears("src_attn", &[0], "bias"),
        Role::CrossKeyValue => linears("src_attn", &[1, 2], "weight"),
        Role::CrossKeyValueBias => linears("src_attn", &[1, 2], "bias"),
        Role::CrossOut => linears("src_attn", &[3], "weight"),
        Role::CrossOutBias => linears("src_attn", &[3], "bias"),
        Role::MlpNorm => weight(norm(mlp)),
        Role::MlpNormBias => bias(norm(mlp)),
        Role::MlpUp => one("feed_forward.w_1.weight", hidden),
        Role::MlpUpBias => one("feed_forward.w_1.bias", hidden),
        Role::MlpDown => one("feed_forward.w_2.weight", dim),
        Role::MlpDownBias => one("feed_forward.w_2.bias", dim),
        Role::FinalNorm => weight(format!("{stack}.norm")),
        Role::FinalNormBias => bias(format!("{stack}.norm")),
        Role::Head => vec![Piece::whole(HEAD, arch.vocab)],
        Role::HeadBias => vec![Piece::whole("generator.proj.bias", arch.vocab)],
        // Computed, or not of this family.
        _ => Vec::new(),
    }
}
