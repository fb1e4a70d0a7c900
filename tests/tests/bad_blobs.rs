//! Bad blobs: every reason to refuse one, every place to cut one off, and random damage.

use std::collections::BTreeMap;

use fastrand::Rng;
use thumbformer::arch::{Activation, Arch, HeadNorm, Kind, LayerSet, MAX_FREQUENCY, Norm, Position, Role, Wiring};
use thumbformer::blob::header::{Header, Pooling};
use thumbformer::blob::placement;
use thumbformer::kernel::pool::Pool;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::Workers;
use thumbformer::{BlobError, Model};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::synthetic::{Synthetic, llama};
use thumbformer_tests::damage::{damage, exercise, exercise_copy, plan_everything};
use thumbformer_tests::shapes;
use thumbformer_tests::tiny::{self, ENTRY, LEN, PLACES, Place, TABLE, TENSORS, seal};

/// The error of the tiny blob after `change`, with both checksums made right again.
fn refused(change: impl FnOnce(&mut [u8])) -> BlobError {
    let mut blob = tiny::blob();
    change(&mut blob);
    seal(&mut blob);
    Model::new(&blob).map(drop).expect_err("a bad blob")
}

fn put(blob: &mut [u8], at: usize, value: u32) {
    blob[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn the_hand_made_blob_is_read_as_the_tables_say() {
    let blob = tiny::blob();
    let model = Model::new(&blob).expect("a good blob");
    let header = model.header();
    assert_eq!(header.to_bytes(), blob[..192], "the writer of heads agrees");
    assert_eq!((header.file_len, header.tensor_count, header.tokenizer_len), (LEN as u64, TENSORS as u32, 0));
    assert_eq!(header.packing, Packing { layout: Layout::Rows8, group: 32 });
    let a = model.arch();
    assert_eq!((a.vocab, a.dim, a.layers, a.heads, a.kv_heads), (3, 2, 1, 1, 1));
    assert_eq!((a.head_dim, a.hidden, a.context, a.rotary_dim), (2, 1, 40, 2));
    assert_eq!((a.norm, a.position, a.activation), (Norm::Rms, Position::Rope, Activation::Silu));
    assert_eq!((a.gated, a.tied_head, a.norm_eps, a.attention_scale), (true, true, 1e-5, 0.707));
    assert!(!(a.biases.norm || a.biases.qkv || a.biases.attention_out || a.biases.mlp || a.biases.head));
    assert!(a.wiring == Wiring::Sequential && a.head_norm == HeadNorm::None && a.embedding_scale == 1.0);
    assert!(a.final_norm && !a.normed_residual && (a.window, a.window_from) == (0, 0));
    assert!(a.causal && !(a.post_norm || a.embedding_norm || a.head_transform || a.headless) && a.token_types == 0);
    assert_eq!((model.special().mask, header.pooling), (None, Pooling::Mean));
    assert_eq!((model.special().start, model.special().end()), (Some(1), &[0, 2][..]));
    assert!(model.tokenizer().is_none());
    for (index, (spec, place)) in a.tensors().zip(PLACES).enumerate() {
        assert_eq!((spec.role as u16, spec.layer), (place.role, 0));
        assert_eq!((spec.rows, spec.cols), (place.rows, place.cols));
        if let Some(matrix) = model.matrix(spec.role, 0) {
            let mut row = vec![0f32; matrix.cols()];
            for r in 0..matrix.rows() {
                matrix.dequantize_row(r, &mut row);
                for (c, w) in row.iter().enumerate() {
                    let q = 5.0 * r as f32 - 3.0 * c as f32 + 7.0;
                    assert_eq!(*w, q / 32.0 * 2f32.powi(index as i32 - 4));
                }
            }
        } else {
            let values = model.vector(spec.role, 0).expect("a matrix or a vector");
            assert_eq!(values, &[1.0, 1.25][..spec.cols as usize]);
        }
    }
    assert!(exercise(&blob).is_ok());
}

#[test]
fn heads_with_bad_fields_are_refused() {
    let field = |field, found| BlobError::Field { field, found };
    assert_eq!(refused(|b| b[7] = b'R'), BlobError::Magic);
    assert_eq!(refused(|b| b[0] = 0), BlobError::Magic);
    assert_eq!(refused(|b| b[8] = 2), BlobError::Version { found: 2 });
    assert_eq!(refused(|b| b[8] = 0), BlobError::Version { found: 0 });
    assert_eq!(refused(|b| put(b, 8, 0x0100_0001)), BlobError::Version { found: 0x0100_0001 });
    assert_eq!(refused(|b| b[12] = 2), field("layout", 2));
    assert_eq!(refused(|b| put(b, 16, 16)), field("group", 16));
    assert_eq!(refused(|b| put(b, 16, 33)), field("group", 33));
    assert_eq!(refused(|b| put(b, 16, u32::MAX)), field("group", u32::MAX));
    assert_eq!(refused(|b| b[96] = 2), field("norm", 2));
    assert_eq!(refused(|b| b[97] = 4), field("position", 4));
    assert_eq!(refused(|b| b[98] = 4), field("activation", 4));
    assert_eq!(refused(|b| b[99] = 2), field("gated", 2));
    assert_eq!(refused(|b| b[100] = 32), field("biases", 32));
    assert_eq!(refused(|b| b[101] = 255), field("tied_head", 255));
    assert_eq!(refused(|b| b[102] = 3), field("wiring", 3));
    assert_eq!(refused(|b| b[103] = 4), field("head_norm", 4));
    assert_eq!(refused(|b| b[176] = 2), field("window_rope", 2));
    assert_eq!(refused(|b| b[177] = 2), field("output_norms", 2));
    assert_eq!(refused(|b| put(b, 128, 3)), field("start_token", 3));
    assert_eq!(refused(|b| put(b, 132, 7)), field("end_token_count", 7));
    assert_eq!(refused(|b| put(b, 140, 3)), field("end_token", 3));
    assert_eq!(refused(|b| put(b, 144, 1)), field("end_token", 1), "beyond the count");
    assert_eq!(refused(|b| b[120] = 2), field("not_causal", 2));
    assert_eq!(refused(|b| b[121] = 2), field("post_norm", 2));
    assert_eq!(refused(|b| b[123] = 2), field("embedding_norm", 2));
    assert_eq!(refused(|b| b[124] = 2), field("head_transform", 2));
    assert_eq!(refused(|b| b[125] = 2), field("headless", 2));
    assert_eq!(refused(|b| b[126] = 2), field("no_final_norm", 2));
    assert_eq!(refused(|b| b[127] = 2), field("normed_residual", 2));
    assert_eq!(refused(|b| put(b, 56, 4)), field("mask_token", 3));
    assert_eq!(refused(|b| put(b, 56, u32::MAX)), field("mask_token", u32::MAX - 1));
    assert_eq!(refused(|b| b[60] = 2), field("pooling", 2));
    assert_eq!(refused(|b| put(b, 48, 4)), field("second_token", 3));
    assert_eq!(refused(|b| b[178] = 2), field("cross", 2));
    assert_eq!(refused(|b| b[178] = 1), field("source_len", 0), "no encoder");
    assert_eq!(refused(|b| b[179] = 2), field("shared_embedding", 2));
    assert_eq!(refused(|b| b[184] = 64), field("source_len", 64), "nothing that attends to it");
    assert_eq!(refused(|b| b[61] = 2), field("window_listed", 2));
    assert_eq!(refused(|b| b[61] = 1), field("window_list", 0), "no list");
    for at in [13, 14, 15, 62, 63] {
        assert_eq!(refused(|b| b[at] = 1), BlobError::NotZero { offset: at as u64 });
    }
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let nan = f32::NAN.to_bits();
    for (at, value, field) in [
        (64, 0, "vocab"),
        (64, (1 << 22) + 1, "vocab"),
        (68, 0, "dim"),
        (68, (1 << 16) + 1, "dim"),
        (72, 0, "layers"),
        (72, u32::MAX, "layers"),
        (76, 0, "heads"),
        (76, 1 << 16, "heads"),
        (80, 0, "kv_heads"),
        (80, 2, "kv_heads"),
        (84, 0, "head_dim"),
        (84, 1025, "head_dim"),
        (88, 0, "hidden"),
        (88, u32::MAX, "hidden"),
        (92, 0, "context"),
        (92, (1 << 20) + 1, "context"),
        (104, nan, "norm_eps"),
        (104, (-1f32).to_bits(), "norm_eps"),
        (104, f32::INFINITY.to_bits(), "norm_eps"),
        (108, 1, "rotary_dim"),
        (108, 4, "rotary_dim"),
        (108, 0, "rotary_dim"),
        (112, nan, "attention_scale"),
        (112, 0, "attention_scale"),
        (112, f32::INFINITY.to_bits(), "attention_scale"),
        (116, nan, "embedding_scale"),
        (160, (1 << 20) + 1, "window"),
        (52, 1, "window_from"),
        (52, u32::MAX, "window_from"),
        (164, 2, "global_every"),
        (168, nan, "score_cap"),
        (168, (-1f32).to_bits(), "score_cap"),
        (172, nan, "logit_cap"),
        (172, f32::INFINITY.to_bits(), "logit_cap"),
        (176, 1, "window_rope"),
        (116, (-1f32).to_bits(), "embedding_scale"),
        (116, (-0f32).to_bits(), "embedding_scale"),
        (120, 0x0001_0000, "token_types"),
        (124, 0x0000_0100, "headless"),
    ] {
        match refused(|b| put(b, at, value)) {
            BlobError::Arch(error) => assert_eq!(error.field, field, "{value} at {at}"),
            other => panic!("{value} at {at}: {other:?}"),
        }
    }
    let learned = refused(|b| b[97] = 0);
    assert!(matches!(learned, BlobError::Arch(e) if e.field == "rotary_dim"), "{learned:?}");
}

/// Which layers have a window, where there is no pattern to it.
#[test]
fn lists_of_windowed_layers_are_read_as_written() {
    let arch = Arch {
        layers: 35,
        window: 5,
        window_list: LayerSet::from_bits(1 << 34 | 0b1001),
        ..llama(5, 4, 1, 1, 1, 4, 9)
    };
    let header = |arch| Header { arch, ..*Model::new(&tiny::blob()).expect("a good blob").header() };
    let bytes = header(arch).to_bytes();
    assert_eq!((bytes[52], bytes[61], bytes[164]), (0b1001, 1, 0b100));
    assert_eq!(Header::read(&bytes).map(|header| header.arch), Ok(arch));
    let refused = |arch| match Header::read(&header(arch).to_bytes()) {
        Err(BlobError::Arch(error)) => assert_eq!(error.field, "window_list"),
        other => panic!("{other:?}"),
    };
    refused(Arch { layers: 34, ..arch });
    refused(Arch { layers: 65, ..arch });
    refused(Arch { window: 0, ..arch });
}

#[test]
fn wrong_sizes_are_refused() {
    let len = LEN as u64;
    assert_eq!(refused(|b| put(b, 24, LEN as u32 + 1)), BlobError::TooShort { expected: len + 1, found: len });
    assert_eq!(refused(|b| put(b, 24, LEN as u32 - 1)), BlobError::TooLong { expected: len - 1, found: len });
    assert_eq!(refused(|b| put(b, 28, 1)), BlobError::TooShort { expected: len | 1 << 32, found: len });
    assert_eq!(refused(|b| b[24..32].fill(0xFF)), BlobError::TooShort { expected: u64::MAX, found: len });
    let count = |found| BlobError::TensorCount { expected: TENSORS as u32, found };
    assert_eq!(refused(|b| put(b, 20, 9)), count(9));
    assert_eq!(refused(|b| put(b, 20, u32::MAX)), count(u32::MAX));
    assert_eq!(refused(|b| put(b, 72, 2)), BlobError::TensorCount { expected: 17, found: 10 });
    assert_eq!(refused(|b| put(b, 72, 4096)), BlobError::TensorCount { expected: 3 + 7 * 4096, found: 10 });
    // A section, a record and a tensor that the file cannot hold, however large.
    assert_eq!(refused(|b| put(b, 32, 1)), BlobError::TooShort { expected: len + 64, found: len });
    assert_eq!(refused(|b| put(b, 32, LEN as u32 + 1)), BlobError::TooShort { expected: len + 1, found: len });
    assert_eq!(refused(|b| b[32..40].fill(0xFF)), BlobError::TooShort { expected: u64::MAX, found: len });
    assert!(matches!(refused(|b| put(b, 64, 1 << 22)), BlobError::TooShort { expected, .. } if expected > 24 << 20));
    assert!(matches!(refused(|b| put(b, 88, 1 << 16)), BlobError::TooShort { .. }));
    let largest = refused(|b| {
        put(b, 64, 1 << 22);
        put(b, 68, 1 << 16);
        put(b, 88, 1 << 16);
        put(b, 92, 1 << 20);
    });
    assert!(matches!(largest, BlobError::TooShort { expected, .. } if expected > 1 << 38), "{largest:?}");
}

#[test]
fn bytes_behind_the_end_are_refused() {
    for more in [1, 63, 64, 4096] {
        let mut long = tiny::blob().to_vec();
        long.resize(LEN + more, 0);
        let error = BlobError::TooLong { expected: LEN as u64, found: (LEN + more) as u64 };
        assert_eq!(exercise_copy(&long), Err(error), "{more} more");
        // Also where the head admits to them.
        put(&mut long, 24, (LEN + more) as u32);
        seal(&mut long);
        assert_eq!(exercise_copy(&long), Err(error), "{more} more, admitted");
    }
}

#[test]
fn a_table_that_disagrees_with_the_record_is_refused() {
    for (index, place) in PLACES.iter().enumerate() {
        let entry = TABLE + index * ENTRY;
        let tensor = |field| BlobError::Tensor { index: index as u32, field };
        let exponent = |e: i32| move |b: &mut [u8]| put(b, entry + 16, e as u32);
        assert_eq!(refused(|b| b[entry] ^= 1), tensor("role"));
        assert_eq!(refused(|b| b[entry + 1] = 1), tensor("role"));
        assert_eq!(refused(|b| b[entry + 2] ^= 1), tensor("kind"));
        assert_eq!(refused(|b| b[entry + 2] = 2), tensor("kind"));
        assert_eq!(refused(|b| b[entry + 3] = 1), tensor("reserved"));
        assert_eq!(refused(|b| b[entry + 4] = 1), tensor("layer"));
        assert_eq!(refused(|b| put(b, entry + 4, u32::MAX)), tensor("layer"));
        assert_eq!(refused(|b| b[entry + 8] ^= 8), tensor("rows"));
        assert_eq!(refused(|b| put(b, entry + 12, u32::MAX)), tensor("cols"));
        assert_eq!(refused(|b| b[entry + 20] = 1), tensor("reserved"));
        assert_eq!(refused(|b| b[entry + 23] = 1), tensor("reserved"));
        assert_eq!(refused(|b| b[entry + 24] ^= 64), tensor("offset"));
        assert_eq!(refused(|b| b[entry + 24] ^= 1), tensor("offset"));
        assert_eq!(refused(|b| b[entry + 24..entry + 32].fill(0xFF)), tensor("offset"));
        assert_eq!(refused(exponent(101)), tensor("exponent"));
        assert_eq!(refused(exponent(-101)), tensor("exponent"));
        assert_eq!(refused(exponent(i32::MIN)), tensor("exponent"));
        assert_eq!(refused(exponent(i32::MAX)), tensor("exponent"));
        if !place.matrix {
            assert_eq!(refused(exponent(1)), tensor("exponent"), "vectors have none");
        }
    }
    // Two entries in each other's place, and one twice.
    let swapped = refused(|b| (0..ENTRY).for_each(|i| b.swap(TABLE + i, TABLE + ENTRY + i)));
    assert_eq!(swapped, BlobError::Tensor { index: 0, field: "role" });
    let twice = refused(|b| b.copy_within(TABLE..TABLE + ENTRY, TABLE + 3 * ENTRY));
    assert_eq!(twice, BlobError::Tensor { index: 3, field: "role" });
}

#[test]
fn the_largest_exponents_are_accepted() {
    for exponent in [100i32, -100] {
        let mut blob = tiny::blob();
        for (index, _) in PLACES.iter().enumerate().filter(|(_, place)| place.matrix) {
            put(&mut blob, TABLE + index * ENTRY + 16, exponent as u32);
        }
        seal(&mut blob);
        assert!(exercise(&blob).is_ok());
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for (index, &Place { matrix, offset, len, scales, scales_len, .. }) in (0u32..).zip(&PLACES) {
        if !matrix {
            for at in (offset..offset + len).step_by(4) {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    assert_eq!(refused(|b| put(b, at, value.to_bits())), BlobError::Value { index });
                }
            }
        } else {
            for at in (scales..scales + scales_len).step_by(2) {
                // Infinity, NaN, −0, −1: of padding rows too.
                for bits in [0x7C00u16, 0x7E00, 0x8000, 0xBC00, 0xFFFF] {
                    let error = refused(|b| b[at..at + 2].copy_from_slice(&bits.to_le_bytes()));
                    assert_eq!(error, BlobError::Scale { index });
                }
            }
        }
    }
}

#[test]
fn frequencies_are_bounded() {
    let frequencies = PLACES[1].offset;
    for value in [MAX_FREQUENCY.next_up(), -1e30] {
        assert_eq!(refused(|b| put(b, frequencies, value.to_bits())), BlobError::Value { index: 1 });
    }
    for value in [MAX_FREQUENCY, -MAX_FREQUENCY] {
        let mut blob = tiny::blob();
        put(&mut blob, frequencies, value.to_bits());
        // Another vector may hold more.
        put(&mut blob, PLACES[2].offset, f32::MAX.to_bits());
        seal(&mut blob);
        assert!(exercise(&blob).is_ok());
    }
}

#[test]
fn gaps_hold_zeros() {
    let mut used = vec![(0, TABLE + TENSORS * ENTRY)];
    for Place { offset, len, scales, scales_len, .. } in PLACES {
        used.extend([(offset, offset + len), (scales, scales + scales_len)]);
    }
    let gaps: Vec<usize> = (0..LEN).filter(|at| !used.iter().any(|(from, to)| (*from..*to).contains(at))).collect();
    assert!(gaps.len() > 400);
    for at in gaps {
        assert_eq!(refused(|b| b[at] = 1), BlobError::NotZero { offset: at as u64 });
    }
}

/// Without the right checksum, a change anywhere shows, before anything else is looked at.
#[test]
fn one_flipped_bit_anywhere_is_noticed() {
    let mut blob = tiny::blob();
    for at in 0..LEN {
        for bit in 0..8 {
            blob[at] ^= 1 << bit;
            let error = Model::new(&blob).map(drop).expect_err("a damaged blob");
            if at >= TABLE {
                assert_eq!(error, BlobError::ContentChecksum, "byte {at}");
            }
            blob[at] ^= 1 << bit;
        }
    }
    blob[40] ^= 1;
    assert_eq!(Model::new(&blob).map(drop), Err(BlobError::HeaderChecksum));
    blob[40] ^= 1;
    // A field whose every value is valid.
    blob[92] = 41;
    assert_eq!(Model::new(&blob).map(drop), Err(BlobError::HeaderChecksum));
    blob[92] = 40;
    assert!(Model::new(&blob).is_ok());
}

#[test]
fn a_blob_at_an_odd_address_is_refused() {
    let blob = tiny::blob();
    let mut room = AlignedBytes::zeroed(LEN + 64);
    for offset in 1..64 {
        room[offset..offset + LEN].copy_from_slice(&blob);
        assert_eq!(Model::new(&room[offset..offset + LEN]).map(drop), Err(BlobError::Misaligned), "{offset}");
    }
    room[64..].copy_from_slice(&blob);
    assert!(Model::new(&room[64..]).is_ok());
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    let whole = tiny::blob();
    for len in 0..LEN {
        let error = exercise_copy(&whole[..len]).expect_err("a cut blob");
        let expected = if len < 192 { 192 } else { LEN as u64 };
        assert_eq!(error, BlobError::TooShort { expected, found: len as u64 });
        // Also where the head says that it is whole.
        let mut cut = whole[..len].to_vec();
        if len >= 192 {
            put(&mut cut, 24, len as u32);
            seal(&mut cut);
            assert_eq!(exercise_copy(&cut), Err(error), "{len}");
        }
    }
}

/// Sections of a larger file in both layouts, a byte too early and a byte too late.
#[test]
fn a_cut_at_any_section_is_refused() {
    for (name, blob) in shapes::blobs(true) {
        let model = Model::new(&blob).expect("a good blob");
        let (arch, packing) = (*model.arch(), model.header().packing);
        let placed = thumbformer::blob::placement(&arch, packing, 0);
        let table = 192 + 32 * u64::from(model.header().tensor_count);
        let mut boundaries = vec![0, 192, table, thumbformer::blob::tokenizer_offset(model.header().tensor_count)];
        boundaries.extend(placed.flat_map(|p| [p.offset, p.offset + p.len, p.scales, p.end()]));
        let cuts = boundaries.iter().flat_map(|b| [b.saturating_sub(1), *b, b + 1]);
        for cut in cuts.filter(|cut| *cut < blob.len() as u64) {
            let mut cut = blob[..cut as usize].to_vec();
            let error = exercise_copy(&cut).expect_err("a cut blob");
            assert!(matches!(error, BlobError::TooShort { .. }), "{name}: {error:?}");
            if cut.len() >= 192 {
                let len = cut.len() as u32;
                put(&mut cut, 24, len);
                seal(&mut cut);
                assert_eq!(exercise_copy(&cut), Err(error), "{name}");
            }
        }
    }
}

/// Says which case it was when a test panics.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in case {}", self.0);
        }
    }
}

/// Half of the cases have their checksums made right again, so that what is behind them meets the damage.
#[test]
fn a_hundred_thousand_damaged_blobs_do_no_harm() {
    let odd = shapes::shapes().into_iter().find(|(name, _)| *name == "odd").expect("that shape").1;
    let odd = thumbformer::arch::Arch { dim: 10, heads: 2, kv_heads: 2, hidden: 9, vocab: 11, layers: 1, ..odd };
    let plain = thumbformer::arch::Arch { context: 8, vocab: 9, ..thumbformer_convert::synthetic::gpt2(9, 8, 1, 2, 8) };
    let narrow = thumbformer_convert::synthetic::llama(1, 4, 1, 1, 1, 4, 16);
    let with_tokenizer =
        |tokenizer| shapes::blob_with_tokenizer(narrow, Packing { layout: Layout::Rows8, group: 32 }, tokenizer);
    let originals = [
        with_tokenizer("fixtures/tokenizers/characters/meta.pkl"),
        with_tokenizer("fixtures/tokenizers/collapsed/tokenizer.model"),
        with_tokenizer("models/home-commands/tokenizer.json"),
        tiny::blob(),
        shapes::blob(odd, Packing { layout: Layout::Dsp, group: 32 }),
        shapes::blob(plain, Packing { layout: Layout::Rows8, group: 64 }),
        shapes::blob(plain, Packing { layout: Layout::Dsp, group: 0 }),
    ];
    let mut outcomes = BTreeMap::<String, u32>::new();
    for case in 0..100_000u64 {
        let said = Case(case);
        let rng = &mut Rng::with_seed(case);
        let mut bytes = originals[case as usize % originals.len()].to_vec();
        let tables = TABLE + ENTRY * Header::read(&bytes).expect("a good head").tensor_count as usize;
        damage(&mut bytes, tables, rng);
        if rng.bool() {
            let len = bytes.len() as u32;
            if let Some(field) = bytes.get_mut(24..28).filter(|_| rng.bool()) {
                field.copy_from_slice(&len.to_le_bytes());
            }
            seal(&mut bytes);
        }
        let outcome = exercise_copy(&bytes).map(drop);
        let kind = outcome.map_or_else(|error| format!("{error:?}"), |()| "Ran".into());
        *outcomes.entry(kind.split([' ', '(']).take(1).collect()).or_default() += 1;
        if let Ok(header) = Header::read(&bytes) {
            plan_everything(&header);
        }
        drop(said);
    }
    println!("{outcomes:?}");
    // The damage reaches what it is meant to reach.
    let of = |kind: &str| outcomes.get(kind).copied().unwrap_or(0);
    assert!(of("Ran") > 5_000, "few damaged blobs were run: {outcomes:?}");
    for kind in ["TooShort", "TooLong", "Magic", "Version", "Field", "Arch", "NotZero", "HeaderChecksum"] {
        assert!(of(kind) > 0, "no {kind}");
    }
    for kind in ["ContentChecksum", "TensorCount", "Tensor", "Scale", "Value", "Tokenizer"] {
        assert!(of(kind) > 0, "no {kind}");
    }
}

/// Damage to the tokenizer's section alone, which has a parser of its own, behind good checksums.
#[test]
fn damaged_tokenizers_do_no_harm() {
    let narrow = thumbformer_convert::synthetic::llama(1, 4, 1, 1, 1, 4, 16);
    for tokenizer in [
        "characters/meta.pkl",
        "collapsed/tokenizer.model",
        "inner/tokenizer.model",
        "gpt2",
        "llama2",
        "bert_uncased",
        "unigram_inner/tokenizer.model",
        "unigram_fallback",
    ] {
        let tokenizer = format!("fixtures/tokenizers/{tokenizer}");
        let whole = shapes::blob_with_tokenizer(narrow, Packing { layout: Layout::Dsp, group: 0 }, &tokenizer);
        let section = {
            let model = Model::new(&whole).expect("a good blob");
            let start = thumbformer::blob::tokenizer_offset(model.header().tensor_count) as usize;
            start..start + model.tokenizer_section().len()
        };
        let (mut ran, mut refused) = (0, 0);
        let mut blob = AlignedBytes::from(&whole[..]);
        for case in 0..6_000 {
            let _said = Case(case);
            let mut bytes = whole[section.clone()].to_vec();
            damage(&mut bytes, 256, &mut Rng::with_seed(case));
            bytes.resize(section.len(), 0);
            blob[section.clone()].copy_from_slice(&bytes);
            seal(&mut blob);
            match exercise(&blob) {
                Ok(_) => ran += 1,
                Err(BlobError::Tokenizer(_)) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        println!("{tokenizer}: {ran} ran, {refused} were refused");
        assert!(ran > 50 && refused > 50, "{tokenizer}: {ran} ran, {refused} were refused");
    }
}

/// The last entry of the table lies directly before the tokenizer section; an index beyond it must not read that.
#[test]
fn tensors_that_a_record_does_not_have_are_absent() {
    let blob = tiny::blob();
    let model = Model::new(&blob).expect("a good blob");
    for role in [Role::Head, Role::QkvBias, Role::PositionEmbedding, Role::FinalNormBias] {
        assert!(model.matrix(role, 0).is_none() && model.vector(role, 0).is_none());
    }
    assert!(model.matrix(Role::FinalNorm, 0).is_none() && model.vector(Role::Qkv, 0).is_none());
    for layer in [1, 2, u32::MAX] {
        assert!(model.matrix(Role::Qkv, layer).is_none() && model.layer(layer).is_none());
    }
}

#[test]
fn workers_find_what_one_finds() {
    let arch = llama(4096, 256, 2, 4, 4, 512, 64);
    let good = Synthetic { arch, seed: 3 }.blob(Packing { layout: Layout::Rows8, group: 32 }).expect("a valid shape");
    assert!(good.len() > 2 << 20, "{} bytes are not shared", good.len());
    let pools = [1, 2, 3, 7].map(Pool::new);
    let all_say = |blob: &[u8]| {
        let alone = Model::new(blob).map(drop);
        for pool in &pools {
            assert_eq!(Model::with_workers(blob, pool).map(drop), alone, "{} workers", pool.count());
        }
        alone
    };
    assert_eq!(all_say(&good), Ok(()));
    let mut rng = Rng::with_seed(5);
    for at in (192..good.len()).step_by(good.len() / 16) {
        let mut blob = AlignedBytes::from(&good[..]);
        blob[at] ^= 1 << rng.u8(..8);
        assert_eq!(all_say(&blob), Err(BlobError::ContentChecksum), "byte {at}");
    }
    let header = *Model::new(&good).expect("good").header();
    let placed: Vec<_> = placement(&arch, header.packing, 0).enumerate().collect();
    for &(index, placed) in &placed {
        let mut blob = AlignedBytes::from(&good[..]);
        let (at, expected) = match placed.spec.kind {
            Kind::Matrix => (placed.end() - 1, BlobError::Scale { index: index as u32 }),
            Kind::Vector => (placed.end() - 1, BlobError::Value { index: index as u32 }),
        };
        // Infinity and beyond, in an f16 as in an f32.
        blob[at as usize - 1..=at as usize].fill(0xFF);
        seal(&mut blob);
        assert_eq!(all_say(&blob), Err(expected), "{:?}", placed.spec);
    }
    let mut blob = AlignedBytes::from(&good[..]);
    for (_, placed) in placed.iter().rev().take(3) {
        blob[placed.end() as usize - 2..placed.end() as usize].fill(0xFF);
    }
    seal(&mut blob);
    let (first, _) = placed[placed.len() - 3];
    let found = all_say(&blob).expect_err("three bad tensors");
    assert!(
        matches!(found, BlobError::Scale { index } | BlobError::Value { index } if index == first as u32),
        "{found:?}"
    );
}
