//! Models with random weights in shapes that leave remainders everywhere.

use std::path::Path;

use thumbformer::arch::{Activation, Arch, Biases, HeadNorm, LayerSet, Norm, Position, Wiring};
use thumbformer::blob::header::{Pooling, SpecialTokens};
use thumbformer::packing::{Layout, Packing};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::in_memory;
use thumbformer_convert::synthetic::{Synthetic, SyntheticPair, gpt2, llama};
use thumbformer_convert::writer::Plan;

/// Both interleavings.
pub const LAYOUTS: [Layout; 2] = [Layout::Rows8, Layout::Dsp];
/// Every group size there is: 32 and 64 columns, whole rows.
pub const GROUPS: [u32; 3] = [32, 64, 0];

/// The shapes by name. Contexts hold at least 70 positions: three tiles of the cache, the last one in part.
pub fn shapes() -> Vec<(&'static str, Arch)> {
    let scaled = |arch: Arch| Arch { attention_scale: 1.0 / (arch.head_dim as f32).sqrt(), ..arch };
    let all = Biases { norm: true, qkv: true, attention_out: true, mlp: true, head: false };
    vec![
        ("llama", llama(128, 32, 2, 4, 2, 64, 96)),
        ("llama, untied", Arch { tied_head: false, ..llama(96, 48, 3, 6, 6, 80, 80) }),
        ("ragged", scaled(Arch { head_dim: 6, rotary_dim: 6, ..llama(101, 45, 1, 3, 1, 92, 75) })),
        (
            "odd",
            scaled(Arch {
                head_dim: 7,
                rotary_dim: 4,
                norm: Norm::Layer,
                activation: Activation::Gelu,
                biases: all,
                tied_head: false,
                ..llama(67, 33, 2, 5, 5, 31, 71)
            }),
        ),
        ("smallest", scaled(Arch { head_dim: 2, rotary_dim: 2, ..llama(1, 1, 1, 1, 1, 1, 70) })),
        ("wide head", scaled(Arch { head_dim: 130, rotary_dim: 130, ..llama(77, 100, 1, 2, 1, 200, 70) })),
        ("gpt2", gpt2(101, 36, 2, 4, 75)),
        (
            "parallel",
            scaled(Arch {
                head_dim: 10,
                rotary_dim: 4,
                norm: Norm::Layer,
                wiring: Wiring::Parallel,
                activation: Activation::Gelu,
                gated: false,
                biases: Biases { attention_out: false, head: true, ..all },
                tied_head: false,
                ..llama(101, 30, 2, 3, 1, 92, 75)
            }),
        ),
        (
            "head norm",
            scaled(Arch {
                head_dim: 10,
                rotary_dim: 10,
                head_norm: HeadNorm::Rms,
                embedding_scale: 45f32.sqrt(),
                activation: Activation::GeluTanh,
                ..llama(101, 45, 2, 4, 2, 92, 75)
            }),
        ),
        (
            "alibi",
            scaled(Arch {
                position: Position::Alibi,
                rotary_dim: 0,
                wiring: Wiring::ParallelOneNorm,
                ..llama(101, 48, 2, 4, 2, 92, 75)
            }),
        ),
        (
            "windows",
            scaled(Arch {
                head_dim: 6,
                rotary_dim: 6,
                score_cap: 5.0,
                logit_cap: 3.0,
                window: 37,
                global_every: 2,
                window_rope: true,
                output_norms: true,
                head_norm: HeadNorm::Rms,
                ..llama(101, 45, 3, 4, 2, 92, 110)
            }),
        ),
        (
            "upper windows",
            scaled(Arch {
                head_dim: 6,
                rotary_dim: 6,
                window: 37,
                window_from: 1,
                final_norm: false,
                ..llama(101, 45, 3, 4, 2, 92, 75)
            }),
        ),
        (
            "norms of each head",
            scaled(Arch {
                head_dim: 6,
                rotary_dim: 2,
                norm: Norm::Layer,
                head_norm: HeadNorm::LayerByHead,
                wiring: Wiring::ParallelOneNorm,
                biases: Biases { norm: true, ..Biases::default() },
                ..llama(101, 45, 2, 4, 2, 92, 75)
            }),
        ),
        (
            "listed windows",
            scaled(Arch {
                head_dim: 10,
                rotary_dim: 6,
                head_norm: HeadNorm::Layer,
                window: 37,
                window_list: LayerSet::from_bits(0b1001),
                window_rope: true,
                ..llama(101, 45, 4, 4, 2, 92, 110)
            }),
        ),
        (
            "norms of the stream",
            scaled(Arch {
                head_dim: 6,
                norm: Norm::Layer,
                normed_residual: true,
                embedding_norm: true,
                position: Position::Alibi,
                rotary_dim: 0,
                gated: false,
                biases: all,
                ..llama(101, 45, 2, 4, 2, 50, 75)
            }),
        ),
        (
            "norms behind",
            scaled(Arch {
                head_dim: 6,
                norm: Norm::Layer,
                post_norm: true,
                embedding_norm: true,
                head_transform: true,
                position: Position::Learned,
                rotary_dim: 0,
                activation: Activation::Gelu,
                gated: false,
                biases: all,
                ..llama(101, 45, 2, 4, 2, 50, 75)
            }),
        ),
        (
            "plain",
            scaled(Arch {
                head_dim: 6,
                position: Position::Learned,
                rotary_dim: 0,
                activation: Activation::Relu,
                gated: false,
                ..llama(101, 30, 2, 6, 3, 92, 75)
            }),
        ),
    ]
}

/// Encoders by name, of the same contexts.
pub fn encoders() -> Vec<(&'static str, Arch)> {
    let shapes = shapes();
    let shape = |wanted| shapes.iter().find(|(name, _)| *name == wanted).map_or(Arch::PLAIN, |shape| shape.1);
    let bert = Arch { causal: false, token_types: 2, ..shape("norms behind") };
    let bare = Biases { head: false, ..bert.biases };
    vec![
        ("bert", bert),
        ("bert, headless", Arch { head_transform: false, headless: true, biases: bare, ..bert }),
        ("bert, narrow", Arch { heads: 1, kv_heads: 1, head_dim: 3, hidden: 7, token_types: 255, ..bert }),
        ("norms before", Arch { causal: false, ..shape("llama, untied") }),
        ("norms before, headless", Arch { causal: false, headless: true, ..shape("llama") }),
        ("plain", Arch { causal: false, token_types: 1, ..shape("plain") }),
        ("wide head", Arch { causal: false, ..shape("wide head") }),
        ("smallest", Arch { causal: false, ..shape("smallest") }),
    ]
}

/// Encoder-decoders by name: the decoder, and the encoder, whose context holds 70 positions too.
pub fn pairs() -> Vec<(&'static str, Arch, Arch)> {
    let shapes = shapes();
    let shape = |wanted| shapes.iter().find(|(name, _)| *name == wanted).map_or(Arch::PLAIN, |shape| shape.1);
    let cross = |decoder: Arch| Arch { cross: true, ..decoder };
    let encoder = |arch: Arch| Arch {
        causal: false,
        headless: true,
        tied_head: true,
        head_transform: false,
        biases: Biases { head: false, ..arch.biases },
        ..arch
    };
    let t5 = Arch {
        position: Position::Relative,
        rotary_dim: 0,
        relative_distance: 20,
        head_dim: 6,
        activation: Activation::Relu,
        gated: false,
        attention_scale: 1.0,
        ..shape("ragged")
    };
    let marian = Arch { head_transform: false, ..shape("norms behind") };
    let other = Arch { vocab: 67, layers: 3, heads: 5, kv_heads: 5, head_dim: 9, hidden: 70, context: 81, ..marian };
    vec![
        ("t5", cross(t5), Arch { shared_embedding: true, layers: 2, ..encoder(t5) }),
        ("marian", cross(marian), Arch { shared_embedding: true, ..encoder(marian) }),
        ("two vocabularies", cross(marian), encoder(other)),
        ("plain", cross(shape("plain")), encoder(shape("plain"))),
        ("smallest", cross(shape("smallest")), encoder(shape("smallest"))),
    ]
}

/// An encoder-decoder's blob with random weights.
pub fn pair(decoder: Arch, encoder: Arch, packing: Packing) -> AlignedBytes {
    let pair =
        SyntheticPair { decoder: Synthetic { arch: decoder, seed: 1 }, encoder: Synthetic { arch: encoder, seed: 2 } };
    pair.blob(packing).expect("valid shapes")
}

/// Every shape in every group size and, if `both`, in both layouts, else in the first.
pub fn blobs(both: bool) -> impl Iterator<Item = (String, AlignedBytes)> {
    let layouts = if both { &LAYOUTS[..] } else { &LAYOUTS[..1] };
    shapes().into_iter().flat_map(move |(name, arch)| {
        GROUPS.into_iter().flat_map(move |group| {
            layouts.iter().map(move |&layout| {
                (format!("{name}, group {group}, {}", layout.name()), blob(arch, Packing { layout, group }))
            })
        })
    })
}

/// A blob with random weights.
pub fn blob(arch: Arch, packing: Packing) -> AlignedBytes {
    Synthetic { arch, seed: 1 }.blob(packing).expect("a valid shape")
}

/// A blob with random weights and a tokenizer: a file or folder below tests/.
pub fn blob_with_tokenizer(arch: Arch, packing: Packing, tokenizer: &str) -> AlignedBytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(tokenizer);
    let tokenizer = thumbformer_convert::tokenizer::load(&path).expect("a good tokenizer");
    let arch = Arch { vocab: tokenizer.vocab + 3, ..arch };
    let special = SpecialTokens::new(Some(1), &[0, 2]).expect("few end tokens");
    let plan = Plan { arch, packing, special, pooling: Pooling::Mean, tokenizer: &tokenizer.section, source: None };
    in_memory(&plan, &Synthetic { arch, seed: 1 }).expect("a valid shape").0
}

/// The first `count` token ids of the script ([`digests::id`]).
pub fn ids(vocab: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| digests::id(i, vocab)).collect()
}
