//! Talk to a transformer on a Cortex-M: a line of text in, its answer out, token by token, as greedy decoding gives it.
//!
//! The model is executed in place, from flash. Its head says how large the session's buffers must be, so a model that does
//! not fit the board does not build. Logs tell the speed, the memory in use, and a digest of the logits, which is the one
//! that a desktop gets from the same file.
//!
//! Every request gets exactly one line of output, an empty one if it could not be answered; the log says why. A request of
//! the form `ids:1,482,297` gives token ids in place of text; to a model without a tokenizer that is the only way to talk,
//! and it answers in ids. To a model of encoder and decoder, a request is the source that it answers; to an encoder alone
//! it is a text with masks, which is given back with what the model would put in their places.
#![no_std]
#![no_main]

use core::fmt::{self, Write};

use cortex_m_rt::entry;
use firmware::board::{self, Console, TICK};
use firmware::buffers::{Buffers, Shortage};
use firmware::clock::{self, Tick};
use firmware::input::{Input, LINE, Line};
use firmware::{memory, model};
use static_cell::{ConstStaticCell, StaticCell};
#[cfg(feature = "cross")]
use thumbformer::blob::header::SpecialTokens;
use thumbformer::decode::argmax;
use thumbformer::tokenizer::{EncodeError, workspace_len};
#[cfg(any(feature = "cross", feature = "encoder"))]
use thumbformer::tokenizer::{EncodeOptions, Tokenizer};
use thumbformer::{BlobError, Digest, Model, Session, SessionError};

/// Room to tokenize a line that is a single word.
const WORKSPACE: usize = workspace_len(LINE);
static WORKSPACE_MEMORY: ConstStaticCell<[u32; WORKSPACE]> = ConstStaticCell::new([0; WORKSPACE]);
static SESSION: StaticCell<Session<'static, 'static>> = StaticCell::new();
static INPUT: ConstStaticCell<Input> = ConstStaticCell::new(Input::new());

/// Why the firmware cannot begin.
#[derive(defmt::Format)]
enum Failure {
    NoModel(model::NoModel),
    ModelRefused(BlobError),
    TooLittleMemory(Shortage),
    Session(SessionError),
}

/// Why a request cannot be answered. The next one can.
#[derive(defmt::Format)]
enum Refusal {
    Empty,
    TooLong {
        bytes: usize,
        room: usize,
    },
    NotUtf8 {
        valid_up_to: usize,
    },
    NotIds,
    NoTokenizer,
    #[cfg(feature = "encoder")]
    NoMask,
    Tokenizer(EncodeError),
    Session(SessionError),
    Output,
}

impl From<fmt::Error> for Refusal {
    fn from(_: fmt::Error) -> Self {
        Refusal::Output
    }
}

#[entry]
fn main() -> ! {
    let mut console = board::start();
    match start() {
        Ok((session, ids)) => {
            serve(session, ids, &mut console);
            board::exit(0)
        }
        Err(failure) => {
            defmt::error!("{}", failure);
            board::exit(1)
        }
    }
}

/// Checks the model and gives it memory. Not inlined: its own large frame is gone when the first token is computed.
#[inline(never)]
fn start() -> Result<(&'static mut Session<'static, 'static>, &'static mut [u32]), Failure> {
    begin(checked()?)
}

/// Two models in one, and what checks them, take half a stack: then the session's frame waits until that is gone.
#[cfg_attr(feature = "cross", inline(never))]
#[cfg_attr(not(feature = "cross"), inline(always))]
fn checked() -> Result<Model<'static>, Failure> {
    let blob = model::bytes().map_err(Failure::NoModel)?;
    Model::new(blob).map_err(Failure::ModelRefused)
}

#[cfg_attr(feature = "cross", inline(never))]
#[cfg_attr(not(feature = "cross"), inline(always))]
fn begin(model: Model<'static>) -> Result<(&'static mut Session<'static, 'static>, &'static mut [u32]), Failure> {
    let Buffers { plan, cache, scratch, ids } = Buffers::new(&model).map_err(Failure::TooLittleMemory)?;
    defmt::info!(
        "model of {=u64} parameters, {=usize} bytes of flash; context {=u32}",
        model.arch().parameters(),
        model.blob().len(),
        plan.limits().context
    );
    defmt::info!(
        "RAM: {=usize} bytes of cache, {=usize} of scratch; all statics {=usize}",
        plan.cache_bytes(),
        plan.scratch_bytes(),
        memory::statics()
    );
    let session = SESSION.init(Session::new(model, &plan, cache, scratch).map_err(Failure::Session)?);
    defmt::info!("kernel {=str}", session.backend().name());
    Ok((session, ids))
}

/// Answers one request after the other, until there are no more.
fn serve(session: &mut Session<'static, 'static>, ids: &mut [u32], console: &mut Console) {
    let (input, workspace) = (INPUT.take(), WORKSPACE_MEMORY.take());
    defmt::info!("waiting for a line");
    while let Some(line) = input.line(|| console.byte()) {
        let answered = match line {
            Line::Text(text) => answer(session, text, workspace, ids, console),
            Line::NotUtf8(e) => Err(Refusal::NotUtf8 { valid_up_to: e.valid_up_to() }),
            Line::TooLong { bytes } => Err(Refusal::TooLong { bytes, room: LINE }),
        };
        if let Err(refusal) = answered {
            defmt::error!("request refused: {}", refusal);
        }
        // Where nobody listens nobody misses the end of the line.
        let _ = console.write_str("\n");
    }
}

/// Answers one request: until the model ends it, or the context is full.
fn answer(
    session: &mut Session<'static, 'static>,
    request: &str,
    workspace: &mut [u32],
    ids: &mut [u32],
    console: &mut Console,
) -> Result<(), Refusal> {
    let (tokenizer, special) = (session.model().tokenizer(), *session.model().special());
    let count = match (request.strip_prefix("ids:"), tokenizer) {
        _ if request.is_empty() => return Err(Refusal::Empty),
        (Some(list), _) => parse(list, ids)?,
        // A text for an encoder: whole, and it may name special tokens, a mask or the language of its answer.
        #[cfg(feature = "cross")]
        (None, _) if session.model().arch().cross => {
            encode(session.model().source_tokenizer(), request, workspace, ids)?
        }
        #[cfg(feature = "encoder")]
        (None, _) if session.model().arch().is_encoder() => encode(tokenizer, request, workspace, ids)?,
        (None, Some(tokenizer)) => tokenizer.encode_prompt(request, workspace, ids).map_err(Refusal::Tokenizer)?,
        (None, None) => return Err(Refusal::NoTokenizer),
    };
    #[cfg(feature = "encoder")]
    if session.model().arch().is_encoder() {
        return fill(session, ids.get_mut(..count).unwrap_or(&mut []), console);
    }
    let prompt = ids.get(..count).unwrap_or(&[]);
    let mut stream = tokenizer.map(|tokenizer| tokenizer.stream(true));

    session.reset();
    let start = clock::now();
    #[cfg(feature = "cross")]
    let prompt = if session.model().arch().cross {
        session.encode_source(prompt).map_err(Refusal::Session)?;
        answer_start(&special, ids)
    } else {
        prompt
    };
    let mut logits = session.prefill(prompt).map_err(Refusal::Session)?;
    let prefill = clock::now() - start;

    let (mut digest, mut decode, mut generated) = (Digest::new(), 0, 0);
    loop {
        digest.update(logits);
        let id = argmax(logits);
        // As many as there are positions, and one behind the last.
        if let Some(slot) = ids.get_mut(generated) {
            *slot = id;
        }
        generated += 1;
        if special.end().contains(&id) {
            break;
        }
        match &mut stream {
            Some(stream) => stream.push(id, console)?,
            None => {
                console.write_str(if generated == 1 { "" } else { "," })?;
                console.write_str(itoa::Buffer::new().format(id))?;
            }
        }
        if session.position() == session.context() {
            defmt::warn!("the context is full");
            break;
        }
        let start = clock::now();
        logits = session.step(id).map_err(Refusal::Session)?;
        decode += clock::now() - start;
    }
    if let Some(stream) = stream {
        stream.finish(console)?;
    }

    report("prompt", count, prefill);
    report("answer", generated - 1, decode);
    conclude(ids.get(..generated).unwrap_or(ids), digest);
    Ok(())
}

/// The tokens of a text that is encoded whole.
#[cfg(any(feature = "cross", feature = "encoder"))]
fn encode(
    tokenizer: Option<&Tokenizer<'_>>,
    text: &str,
    workspace: &mut [u32],
    ids: &mut [u32],
) -> Result<usize, Refusal> {
    let tokenizer = tokenizer.ok_or(Refusal::NoTokenizer)?;
    tokenizer.encode(text, EncodeOptions::default(), workspace, ids).map_err(Refusal::Tokenizer)
}

/// Answers a text that has masks: with what the model finds likeliest in their places.
#[cfg(feature = "encoder")]
fn fill(session: &mut Session<'static, 'static>, text: &mut [u32], console: &mut Console) -> Result<(), Refusal> {
    let mask = session.model().special().mask.filter(|mask| text.contains(mask)).ok_or(Refusal::NoMask)?;
    let start = clock::now();
    session.encode(text, &[]).map_err(Refusal::Session)?;
    let mut digest = Digest::new();
    for (position, id) in text.iter_mut().enumerate().filter(|(_, id)| **id == mask) {
        let logits = session.token_logits(position).map_err(Refusal::Session)?;
        digest.update(logits);
        *id = argmax(logits);
    }
    let ticks = clock::now() - start;
    match session.model().tokenizer() {
        Some(tokenizer) => tokenizer.decode(text, true, console)?,
        None => {
            for (i, &id) in text.iter().enumerate() {
                console.write_str(if i == 0 { "" } else { "," })?;
                console.write_str(itoa::Buffer::new().format(id))?;
            }
        }
    }
    report("text", text.len(), ticks);
    conclude(text, digest);
    Ok(())
}

/// Logs what an answer was made of.
fn conclude(ids: &[u32], digest: Digest) {
    defmt::info!("tokens {}", ids);
    defmt::info!("digest {=u64:016x}", digest.value());
    let (used, size) = memory::stack();
    defmt::info!("stack: {=usize} of {=usize} bytes used so far", used, size);
}

/// What every answer to a source starts with, written to the front of `ids`.
#[cfg(feature = "cross")]
fn answer_start<'i>(special: &SpecialTokens, ids: &'i mut [u32]) -> &'i [u32] {
    let mut count = 0;
    for (slot, id) in ids.iter_mut().zip(special.start.into_iter().chain(special.second)) {
        *slot = id;
        count += 1;
    }
    ids.get(..count).unwrap_or(&[])
}

/// How fast so many tokens went. In floats, whose division the processor has, to seven digits.
fn report(what: &str, tokens: usize, ticks: u64) {
    let (count, ticks) = (tokens.max(1) as f32, ticks.max(1) as f32);
    match TICK {
        Tick::Instructions(each) => {
            let instructions = (ticks * each as f32 / count) as u32;
            defmt::info!("{=str}: {=usize} tokens, {=u32} instructions a token", what, tokens, instructions);
        }
        Tick::Cycle { hertz } => {
            let tenths = (10.0 * count * hertz as f32 / ticks) as u32;
            defmt::info!("{=str}: {=usize} tokens, {=u32}.{=u32} tokens/s", what, tokens, tenths / 10, tenths % 10);
        }
    }
}

/// Token ids separated by commas.
fn parse(list: &str, ids: &mut [u32]) -> Result<usize, Refusal> {
    let (mut count, capacity) = (0, ids.len());
    for id in list.as_bytes().split(|&byte| byte == b',') {
        let slot = ids.get_mut(count).ok_or(Refusal::Tokenizer(EncodeError::OutputFull { capacity }))?;
        *slot = number(id.trim_ascii()).ok_or(Refusal::NotIds)?;
        count += 1;
    }
    Ok(count)
}

/// Digits, and nothing else.
fn number(digits: &[u8]) -> Option<u32> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let append = |number: u32, &byte| number.checked_mul(10)?.checked_add(digit(byte)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, append) }
}
