//! Damaged blobs: how they are damaged, and what is done with them.

use fastrand::Rng;
use thumbformer::blob::header::Header;
use thumbformer::plan::PlanError;
use thumbformer::tokenizer::{EncodeOptions, Tokenizer, workspace_len};
use thumbformer::workers::Serial;
use thumbformer::{Backend, BlobError, Limits, Model, Plan};
use thumbformer_convert::memory::AlignedBytes;

use crate::sessions::{Setting, Trace, score};

/// Positions of the sessions that damaged models run in, at most.
const CONTEXT: u32 = 40;

/// What an application does with a file it was given: check it, and if it is good, use all of it. The entry point of
/// fuzzers. Panics where the runtime does, where two backends differ, or where a session would take memory out of
/// proportion to the file.
///
/// # Errors
/// Why the runtime refuses the file.
pub fn exercise(blob: &[u8]) -> Result<Trace, BlobError> {
    let model = Model::new(blob)?;
    let arch = *model.arch();
    for tensor in arch.tensors() {
        let (role, layer) = (tensor.role, tensor.layer);
        let matrix = model.matrix(role, layer);
        assert!(matrix.is_some() != model.vector(role, layer).is_some());
        if let Some(matrix) = matrix {
            let mut row = vec![0f32; matrix.cols()];
            matrix.dequantize_row(matrix.rows() - 1, &mut row);
            assert!(row.iter().all(|x| !x.is_nan()));
        }
    }
    assert!((0..arch.layers).all(|layer| model.layer(layer).is_some()));
    assert!(model.layer(arch.layers).is_none());

    if let Some(tokenizer) = model.tokenizer() {
        exercise_tokenizer(tokenizer, arch.vocab);
    }

    let ids: Vec<u32> = (0..7).map(|i| (i * 5 + arch.vocab - 1) % arch.vocab).collect();
    let run = |backend| {
        let setting = Setting { backend, chunk: 3, logit_rows: 2, dirt: [0xFF; 4] };
        let mut buffers = setting.buffers(&model, arch.context.min(CONTEXT));
        let bytes = buffers.plan.cache_bytes() + buffers.plan.scratch_bytes();
        assert!(bytes <= 256 * blob.len(), "{bytes} bytes for a file of {}", blob.len());
        let mut session = buffers.session(model, backend, Serial);
        let ids = &ids[..ids.len().min(session.context())];
        let trace = score(&mut session, ids);
        if arch.is_encoder() {
            // Another text in between.
            session.encode(&ids[..1], &[]).expect("a text that fits");
            assert_eq!(score(&mut session, ids), trace);
            return trace;
        }
        session.rewind(ids.len() / 2).expect("fewer tokens");
        assert_eq!(score(&mut session, &ids[ids.len() / 2..]), trace[ids.len() / 2..]);
        trace
    };
    let trace = run(Backend::PORTABLE);
    assert_eq!(run(Backend::detect()), trace);
    Ok(trace)
}

/// Texts that pre-tokenizers and merges stumble over.
const TEXTS: [&str; 7] = [
    "",
    " ",
    "dim the lamp to 40%",
    "<|end|> <s></s>\r\n\t  ",
    "naïve \u{65}\u{301}\u{2581}",
    "日本語🙂\u{1F1E6}",
    "aaaaaaaaaaaaaaaa",
];

/// Encodes and decodes. Whatever the tokenizer says, its ids are the model's.
fn exercise_tokenizer(tokenizer: &Tokenizer<'_>, vocab: u32) {
    assert!(tokenizer.vocab() <= vocab);
    for text in TEXTS {
        let mut workspace = [0; workspace_len(64) + 64];
        for room in [256, 3] {
            let mut ids = [u32::MAX; 256];
            for add_special_tokens in [true, false] {
                let options = EncodeOptions { add_special_tokens, ..EncodeOptions::default() };
                if let Ok(count) = tokenizer.encode(text, options, &mut workspace, &mut ids[..room]) {
                    assert!(ids[..count].iter().all(|id| *id < vocab), "{text}: {:?}", &ids[..count]);
                }
                let (pair, mut segments) = ([text, "a b"], [0; 256]);
                if let Ok(count) = tokenizer.encode_pair(pair, options, &mut workspace, &mut ids[..room], &mut segments)
                {
                    assert!(ids[..count].iter().all(|id| *id < vocab), "{text}: {:?}", &ids[..count]);
                }
            }
            if let Ok(count) = tokenizer.encode_prompt(text, &mut workspace, &mut ids[..room]) {
                assert!(ids[..count].iter().all(|id| *id < vocab), "{text}: {:?}", &ids[..count]);
            }
        }
    }
    let ids: Vec<u32> = (0..40).map(|i| i * i * 31 % (vocab + 2)).chain([vocab, u32::MAX]).collect();
    for skip_special in [true, false] {
        let (mut text, mut streamed) = (String::new(), String::new());
        tokenizer.decode(&ids, skip_special, &mut text).expect("a string takes all");
        let mut stream = tokenizer.stream(skip_special);
        ids.iter().for_each(|id| stream.push(*id, &mut streamed).expect("a string takes all"));
        stream.finish(&mut streamed).expect("a string takes all");
    }
    assert!(tokenizer.special_tokens().all(|id| id < vocab && tokenizer.is_special(id)));
    assert!([tokenizer.bos(), tokenizer.eos()].into_iter().flatten().all(|id| id < vocab));
    assert!(tokenizer.token_bytes(vocab).is_empty() && tokenizer.token_bytes(u32::MAX).is_empty());
}

/// [`exercise`] for bytes at any address.
///
/// # Errors
/// As [`exercise`].
pub fn exercise_copy(bytes: &[u8]) -> Result<Trace, BlobError> {
    exercise(&AlignedBytes::from(bytes))
}

/// Whatever limits are asked for: a plan is refused or keeps them, and no size wraps.
pub fn plan_everything(header: &Header) {
    for n in [1, 2, 1 << 10, 1 << 20, u32::MAX] {
        let context = header.arch.context;
        match Plan::for_header(header, Limits { context, chunk: n, logit_rows: n }) {
            Ok(plan) => {
                let limits = plan.limits();
                assert!(limits.chunk.max(limits.logit_rows) <= context);
                let logits = 4 * u64::from(limits.logit_rows) * u64::from(header.arch.logits());
                assert!(plan.scratch_bytes() as u64 > logits);
                let arch = &header.arch;
                let kept = |layer| if arch.windowed(layer) { context.min(arch.window) } else { context };
                let positions: u64 = (0..arch.cached_layers()).map(|layer| u64::from(kept(layer))).sum();
                assert!(plan.cache_bytes() as u64 >= positions * u64::from(arch.kv_width()) * 2);
            }
            Err(error) => assert!(matches!(error, PlanError::TooLarge { .. }), "{error}"),
        }
    }
}

/// Damages `bytes` in one place, often in up to four. Half of the damage goes to the first `hot` bytes, where every byte has a
/// meaning of its own.
pub fn damage(bytes: &mut Vec<u8>, hot: usize, rng: &mut Rng) {
    for _ in 0..rng.usize(1..=4).min(rng.usize(1..=4)) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let within = if rng.bool() { len } else { hot.min(len) };
        let at = rng.usize(..within);
        let span = rng.usize(1..=64).min(len - at);
        match rng.u8(..16) {
            0..6 => bytes[at] ^= 1 << rng.u8(..8),
            6 => bytes[at] = rng.u8(..),
            7 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][rng.usize(..5)],
            8..11 => number(bytes, at / 4 * 4, rng),
            11 => {
                let other = rng.usize(..=len - span);
                for i in 0..span {
                    bytes.swap(at + i, other + i);
                }
            }
            12 => {
                let other = rng.usize(..=len - span);
                bytes.copy_within(at..at + span, other);
            }
            13 => {
                let copy = bytes[at..at + span].to_vec();
                bytes.splice(at..at, copy);
            }
            14 => drop(bytes.drain(at..at + span)),
            _ => bytes.truncate(rng.usize(..=len)),
        }
    }
}

/// Puts a number that sizes and offsets stumble over into a word, or changes the word a little.
fn number(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let Some(word) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<4>()) else { return };
    let old = u32::from_le_bytes(*word);
    let new = match rng.u8(..6) {
        0 => {
            [0, 1, 2, 63, 64, 65, 1 << 16, 1 << 20, i32::MAX as u32, 1 << 31, u32::MAX - 63, u32::MAX][rng.usize(..12)]
        }
        1 => old.wrapping_add(1),
        2 => old.wrapping_sub(1),
        3 => old.wrapping_mul(2),
        4 => old / 2,
        _ => [f32::NAN, f32::INFINITY, -0.0, 1e-45, f32::MAX, -1.0][rng.usize(..6)].to_bits(),
    };
    *word = new.to_le_bytes();
}
