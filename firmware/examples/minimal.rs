//! The least that answers a request: copy it into a project of your own. Nothing in it is this repository's but the crate
//! `thumbformer`; the model is a file, and its head sizes the two buffers when this is compiled.
#![no_std]
#![no_main]

use cortex_m as _; // the critical section that the logger takes
use cortex_m_rt::entry;
use defmt_semihosting as _; // on a board with a debugger: defmt_rtt
use semihosting::process::exit;
use static_cell::ConstStaticCell;
use thumbformer::{Aligned, Limits, Model, Plan, Session, blob::header::Header, decode::argmax};

const FILE: &[u8] = include_bytes!(env!("THUMBFORMER_MODEL"));
static MODEL: Aligned<[u8; FILE.len()]> = Aligned(*include_bytes!(env!("THUMBFORMER_MODEL")));

const CONTEXT: u32 = 64; // positions for request and answer; its memory grows with it
const PLAN: Plan = match Header::read(FILE) {
    Ok(header) => match Plan::for_header(&header, Limits::new(CONTEXT, 8)) {
        Ok(plan) => plan,
        Err(_) => panic!("the model's context is shorter than CONTEXT"),
    },
    Err(_) => panic!("not a .thumb file of this version"),
};
static CACHE: ConstStaticCell<[u8; PLAN.cache_bytes()]> = ConstStaticCell::new([0; PLAN.cache_bytes()]);
static SCRATCH: ConstStaticCell<[u8; PLAN.scratch_bytes()]> = ConstStaticCell::new([0; PLAN.scratch_bytes()]);

#[entry]
fn main() -> ! {
    let Ok(model) = Model::new(&MODEL.0) else { defmt::panic!("the model is damaged") };
    let Ok(mut session) = Session::new(model, &PLAN, CACHE.take(), SCRATCH.take()) else { defmt::unreachable!() };
    let Some(tokenizer) = model.tokenizer() else { defmt::panic!("the model has no tokenizer") };

    let (mut workspace, mut ids) = ([0; 512], [0; CONTEXT as usize]);
    let request = "please dim the bedroom lamp to forty percent";
    let Ok(count) = tokenizer.encode_prompt(request, &mut workspace, &mut ids) else { defmt::panic!("too long") };
    let (mut text, mut stream) = (heapless::String::<256>::new(), tokenizer.stream(true));
    let mut logits = session.prefill(&ids[..count]);
    while let Ok(values) = logits {
        let id = argmax(values);
        if model.special().end().contains(&id) || stream.push(id, &mut text).is_err() {
            break;
        }
        logits = session.step(id); // `ContextFull` when no position is left
    }
    defmt::println!("{=str}", text);
    exit(0)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
