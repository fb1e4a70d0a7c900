//! T5: an encoder and a decoder with RMSNorm before sublayers, no biases, and relative positions instead of any that are
//! added to embeddings. The first version has ReLU and one embedding for everything, 1.1 (and mT5, Flan-T5) a gated GELU
//! and a head of its own.
//!
//! Distances share values in buckets, wider ones farther away; the record wants a value for each distance, so they are
//! written out here, up to the distance from which on there is one bucket. Scores are not scaled. A tied head multiplies
//! by `dim^-½`, which goes into the last norm's weights.

use thumbformer::arch::{Activation, Arch, MAX_RELATIVE_DISTANCE, Norm, Position, Role, TensorSpec};

use super::{Family, Names, Piece, Plan, inverse_sqrt, validated};
use crate::Result;
use crate::config::Config;
use crate::recipe::{Recipe, Source};
use crate::source::Overrides;

pub(super) const T5_FAMILY: Family = Family {
    name: "t5",
    classes: &["T5ForConditionalGeneration", "T5WithLMHeadModel"],
    recipe: |names, config, _: &Overrides| recipe("t5", names, config),
};
pub(super) const MT5_FAMILY: Family = Family {
    name: "mt5",
    classes: &["MT5ForConditionalGeneration"],
    recipe: |names, config, _: &Overrides| recipe("mt5", names, config),
};

/// Fields that are read, or say nothing.
const FIELDS: [&str; 21] = [
    "d_ff",
    "d_kv",
    "d_model",
    "dense_act_fn",
    // Of training.
    "dropout_rate",
    "feed_forward_proj",
    "initializer_factor",
    "is_encoder_decoder",
    "is_gated_act",
    "layer_norm_epsilon",
    "n_positions",
    "num_decoder_layers",
    "num_heads",
    "num_layers",
    "output_past",
    "relative_attention_max_distance",
    "relative_attention_num_buckets",
    "scale_decoder_outputs",
    "tie_word_embeddings",
    "vocab_size",
    // mT5's, of its tokenizer.
    "tokenizer_class",
];

/// Positions of texts that the models were trained with, where the configuration does not say.
const POSITIONS: u32 = 512;

const SHARED: &str = "shared.weight";
const HEAD: &str = "lm_head.weight";

/// The MLP's non-linearity, and whether it is gated.
fn mlp(config: &Config) -> Result<(Activation, bool)> {
    let field = "feed_forward_proj";
    let (activation, gated) = match config.string(field)?.unwrap_or("relu") {
        "relu" => (Activation::Relu, false),
        "gelu" => (Activation::Gelu, false),
        "gelu_new" => (Activation::GeluTanh, false),
        "silu" => (Activation::Silu, false),
        // transformers means the approximation by this name.
        "gated-gelu" | "gated-gelu_new" => (Activation::GeluTanh, true),
        "gated-silu" => (Activation::Silu, true),
        "gated-relu" => (Activation::Relu, true),
        _ => return Err(config.error(field, "one of relu, gelu, gelu_new, silu, each alone or after `gated-`")),
    };
    let repeated = match config.string("dense_act_fn")? {
        None => true,
        Some("relu") => activation == Activation::Relu,
        Some("gelu") => activation == Activation::Gelu,
        Some("gelu_new") => activation == Activation::GeluTanh,
        Some("silu") => activation == Activation::Silu,
        Some(_) => false,
    };
    if !repeated {
        return Err(config.error("dense_act_fn", "what feed_forward_proj says"));
    }
    if config.boolean("is_gated_act")?.is_some_and(|found| found != gated) {
        return Err(config.error("is_gated_act", "what feed_forward_proj says"));
    }
    Ok((activation, gated))
}

/// How distances share values.
struct Buckets {
    count: u32,
    /// From here on there is one bucket.
    distance: u32,
}

impl Buckets {
    fn of(config: &Config) -> Result<Self> {
        let (count, distance) = ("relative_attention_num_buckets", "relative_attention_max_distance");
        let buckets =
            Self { count: config.integer(count)?.unwrap_or(32), distance: config.integer(distance)?.unwrap_or(128) };
        if buckets.count < 4 || !buckets.count.is_multiple_of(4) || buckets.count > 4096 {
            return Err(config.error(count, "a multiple of 4, at most 4096"));
        }
        if buckets.distance <= buckets.count || buckets.distance > MAX_RELATIVE_DISTANCE {
            let expected = format!("more than {count}, {}, and at most {MAX_RELATIVE_DISTANCE}", buckets.count);
            return Err(config.error(distance, expected));
        }
        Ok(buckets)
    }

    /// The bucket of a key `distance` positions behind the query, or before it if negative: a half of the buckets for each
    /// distance of its own, the others on a logarithmic scale. Rounded to f32 where PyTorch rounds.
    fn bucket(&self, distance: i64, both_sides: bool) -> u32 {
        let (count, first) = match both_sides {
            true => (self.count / 2, if distance > 0 { self.count / 2 } else { 0 }),
            false => (self.count, 0),
        };
        let exact = count / 2;
        let distance = if both_sides { distance.unsigned_abs() as u32 } else { (-distance).max(0) as u32 };
        if distance < exact {
            return first + distance;
        }
        let octaves = libm::log(f64::from(self.distance) / f64::from(exact)) as f32;
        let far = libm::logf(distance as f32 / exact as f32) / octaves * (count - exact) as f32;
        first + (exact + far as u32).min(count - 1)
    }

    /// A value for each head and distance, of the checkpoint's for each bucket and head.
    fn spread(&self, values: &[f32], heads: u32, both_sides: bool) -> Vec<f32> {
        let (before, behind) = (i64::from(self.distance), if both_sides { i64::from(self.distance) } else { 0 });
        let value = |head: u32, distance: i64| {
            values.get((self.bucket(distance, both_sides) * heads + head) as usize).copied().unwrap_or(0.0)
        };
        (0..heads).flat_map(|head| (-before..=behind).map(move |distance| value(head, distance))).collect()
    }
}

fn recipe(family: &'static str, names: &Names<'_>, config: &Config) -> Result<Recipe> {
    config.refuse_unknown(&FIELDS)?;
    super::fixed(config, "is_encoder_decoder", true)?;
    let mut notes = Vec::new();
    let (dim, heads) = (config.required("d_model")?, config.required("num_heads")?);
    let (activation, gated) = mlp(config)?;
    let buckets = Buckets::of(config)?;
    let tie = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    // mT5 began with 1.1.
    let scaled = family == T5_FAMILY.name && config.boolean("scale_decoder_outputs")?.unwrap_or(tie);
    for stack in ["encoder", "decoder"] {
        names.refuse_other_copy(SHARED, &format!("{stack}.embed_tokens.weight"))?;
    }
    // Version 1.1 says that it is not tied, which is nothing to note.
    let head = names.head(SHARED, HEAD, true, &mut notes);
    notes.retain(|_| tie);
    let layers = config.required("num_layers")?;
    let plain = Arch {
        vocab: config.required("vocab_size")?,
        dim,
        layers,
        heads,
        kv_heads: heads,
        head_dim: config.required("d_kv")?,
        hidden: config.required("d_ff")?,
        context: config.integer("n_positions")?.unwrap_or(POSITIONS),
        norm: Norm::Rms,
        norm_eps: config.number("layer_norm_epsilon")?.unwrap_or(1e-6) as f32,
        position: Position::Relative,
        relative_distance: buckets.distance,
        activation,
        gated,
        attention_scale: 1.0,
        ..Arch::PLAIN
    };
    let encoder = Arch { causal: false, headless: true, shared_embedding: true, ..plain };
    let decoder = Arch {
        layers: config.integer("num_decoder_layers")?.unwrap_or(layers),
        cross: true,
        tied_head: head.is_tied(),
        ..plain
    };
    let stack = |arch: Arch, name: &'static str, notes| -> Result<Recipe> {
        let arch = validated(arch, config.path())?;
        let table = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let values = buckets.spread(&names.read(&table, buckets.count, heads)?, heads, !arch.causal);
        let pieces = |spec: TensorSpec| pieces(name, head, scaled, &arch, spec);
        // The oldest files have distances for attention to the source too, which nothing reads.
        let unused = format!("{name}.block.0.layer.1.EncDecAttention.relative_attention_bias.weight");
        let ignorable = |tensor: &str| {
            let other = if arch.causal { tensor.starts_with("encoder.") } else { !tensor.starts_with("encoder.") };
            other
                || tensor == table
                || tensor == unused
                || tensor == format!("{name}.embed_tokens.weight")
                || head.repeats(tensor, HEAD)
        };
        let computed = vec![(Role::RelativeBias, Source::Values(values))];
        Plan { family, arch, computed, pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
    };
    let source = stack(encoder, "encoder", Vec::new())?;
    Ok(Recipe { source: Some(Box::new(source)), ..stack(decoder, "decoder", notes)? })
}

/// Where each tensor of a stack comes from.
fn pieces(stack: &str, head: super::Head, scaled: bool, arch: &Arch, spec: TensorSpec) -> Vec<Piece> {
    let of = |sublayer: u32, name: &str| format!("{stack}.block.{}.layer.{sublayer}.{name}.weight", spec.layer);
    let one = |sublayer: u32, name: &str, rows: u32| vec![Piece::whole(of(sublayer, name), rows)];
    let (dim, q_width, kv_width) = (arch.dim, arch.q_width(), arch.kv_width());
    let mlp = if arch.cross { 2 } else { 1 };
    match spec.role {
        Role::TokenEmbedding if head == super::Head::Only => vec![Piece::whole(HEAD, arch.vocab)],
        Role::TokenEmbedding => vec![Piece::whole(SHARED, arch.vocab)],
        Role::AttentionNorm => one(0, "layer_norm", dim),
        Role::Qkv => {
            let piece = |(name, rows)| Piece::whole(of(0, &format!("SelfAttention.{name}")), rows);
            [("q", q_width), ("k", kv_width), ("v", kv_width)].map(piece).into()
        }
        Role::AttentionOut => one(0, "SelfAttention.o", dim),
        Role::CrossNorm => one(1, "layer_norm", dim),
        Role::CrossQuery => one(1, "EncDecAttention.q", q_width),
        Role::CrossKeyValue => {
            ["k", "v"].map(|name| Piece::whole(of(1, &format!("EncDecAttention.{name}")), kv_width)).into()
        }
        Role::CrossOut => one(1, "EncDecAttention.o", dim),
        Role::MlpNorm => one(mlp, "layer_norm", dim),
        Role::MlpUp if arch.gated => {
            ["wi_0", "wi_1"].map(|name| Piece::whole(of(mlp, &format!("DenseReluDense.{name}")), arch.hidden)).into()
        }
        Role::MlpUp => one(mlp, "DenseReluDense.wi", arch.hidden),
        Role::MlpDown => one(mlp, "DenseReluDense.wo", dim),
        Role::FinalNorm => {
            let scale = if arch.causal && scaled { inverse_sqrt(dim) } else { 1.0 };
            vec![Piece { scale, ..Piece::whole(format!("{stack}.final_layer_norm.weight"), dim) }]
        }
        Role::Head => vec![Piece::whole(HEAD, arch.vocab)],
        // Computed, or not of these families.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Buckets;

    /// Where transformers' `_relative_position_bucket` goes over to the next one.
    #[test]
    fn buckets_are_those_of_transformers() {
        let behind = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        let before = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87,
            99, 113,
        ];
        let buckets = Buckets { count: 32, distance: 128 };
        for distance in 0..300i64 {
            let passed = |starts: &[i64]| starts.iter().filter(|&&start| start <= distance).count() as u32;
            let side = if distance > 0 { 16 } else { 0 };
            assert_eq!(buckets.bucket(distance, true), side + passed(&behind), "{distance}");
            assert_eq!(buckets.bucket(-distance, true), passed(&behind), "-{distance}");
            assert_eq!(buckets.bucket(-distance, false), passed(&before), "-{distance}");
        }
        // Beyond the largest distance nothing changes, so that the record may stop there.
        for both in [true, false] {
            assert_eq!(buckets.bucket(-128, both), buckets.bucket(-5000, both));
        }
    }
}
