//! A transformer on a Cortex-M: checks the model that was built in, answers a prompt of token ids greedily, and prints the
//! digest of the logits, which must be the one that a desktop prints for the same file.
//!
//! The model is executed in place, from flash. Its head is read at compile time to size the two buffers, so a model that
//! does not fit this chip does not link. Nothing is allocated. Output is defmt over semihosting.
//!
//! Two environment variables choose what is built: `THUMBFORMER_MODEL`, the absolute path of a `.thumb` file, and
//! `THUMBFORMER_PROMPT`, token ids separated by commas.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

// Linked for the critical section of this single core, which the logger takes.
use cortex_m as _;
use cortex_m_rt::entry;
use defmt_semihosting as _;
use semihosting::process::exit;
use static_cell::ConstStaticCell;
use thumbformer::blob::header::Header;
use thumbformer::decode::argmax;
use thumbformer::{Aligned, BlobError, Digest, Limits, Model, Plan, Session, SessionError};

/// Tokens to generate at most.
const TOKENS: usize = 32;
/// Tokens of the prompt that share one pass over the weights: each costs scratch memory.
const CHUNK: u32 = 8;
/// For the bundled model: please dim the bedroom lamp to forty percent.
const PROMPT: &str = match option_env!("THUMBFORMER_PROMPT") {
    Some(ids) => ids,
    None => "1,482,297,76,80,264,460,332,289,319,442,406,2",
};

const BLOB: &[u8] = include_bytes!(env!("THUMBFORMER_MODEL"));
static MODEL: Aligned<[u8; BLOB.len()]> = Aligned(*include_bytes!(env!("THUMBFORMER_MODEL")));

const HEADER: Header = match Header::read(BLOB) {
    Ok(header) => header,
    Err(_) => panic!("THUMBFORMER_MODEL is not a .thumb file of this version"),
};
const PLAN: Plan = match Plan::for_header(&HEADER, Limits::new(HEADER.arch.context, CHUNK)) {
    Ok(plan) => plan,
    Err(_) => panic!("the model needs more memory than this chip can address"),
};
static CACHE: ConstStaticCell<Aligned<[u8; PLAN.cache_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.cache_bytes()]));
static SCRATCH: ConstStaticCell<Aligned<[u8; PLAN.scratch_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.scratch_bytes()]));

#[derive(defmt::Format)]
enum Failure {
    /// `THUMBFORMER_PROMPT` is no list of ids, or longer than the context.
    Prompt,
    Blob(BlobError),
    Session(SessionError),
}

#[entry]
fn main() -> ! {
    match answer() {
        Ok(()) => exit(0),
        Err(failure) => {
            defmt::error!("{}", failure);
            exit(1)
        }
    }
}

fn answer() -> Result<(), Failure> {
    let model = Model::new(&MODEL.0).map_err(Failure::Blob)?;
    defmt::info!(
        "model of {=u64} parameters: {=usize} bytes of flash; {=usize} of cache and {=usize} of scratch in RAM",
        model.arch().parameters(),
        BLOB.len(),
        PLAN.cache_bytes(),
        PLAN.scratch_bytes()
    );
    let mut prompt = [0; HEADER.arch.context as usize];
    let prompt = parse(PROMPT, &mut prompt).ok_or(Failure::Prompt)?;

    let (cache, scratch) = (&mut CACHE.take().0, &mut SCRATCH.take().0);
    let mut session = Session::new(model, &PLAN, cache, scratch).map_err(Failure::Session)?;
    let (mut answer, mut count, mut digest) = ([0; TOKENS], 0, Digest::new());
    let mut logits = session.prefill(prompt).map_err(Failure::Session)?;
    for slot in &mut answer {
        digest.update(logits);
        let id = argmax(logits);
        *slot = id;
        count += 1;
        if count == TOKENS || model.special().end().contains(&id) {
            break;
        }
        logits = session.step(id).map_err(Failure::Session)?;
    }
    defmt::info!("tokens {}", answer.get(..count).unwrap_or(&[]));
    defmt::info!("digest {=u64:016x}", digest.value());
    Ok(())
}

/// Token ids separated by commas, into `ids`; `None` if they are none or do not fit.
fn parse<'i>(text: &str, ids: &'i mut [u32]) -> Option<&'i [u32]> {
    let mut count = 0;
    for part in text.split(',') {
        *ids.get_mut(count)? = part.trim().parse().ok()?;
        count += 1;
    }
    ids.get(..count)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    defmt::error!("{}", defmt::Display2Format(info));
    exit(101)
}
