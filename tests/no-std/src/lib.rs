//! A firmware's worth of thumbformer without std and without an allocator, for `.ci/no-std`. It is built, never run.
#![no_std]

#[cfg(feature = "leak-alloc")]
extern crate alloc;

use thumbformer::decode::{BeamSearch, BeamSettings, Constraint, EarlyStopping, Grammar, PromptLookup};
use thumbformer::decode::{Sampler, Sampling, Seen};
use thumbformer::{Digest, Limits, Model, Plan, Session, Snapshot};

/// Runs a prompt in the caller's buffers; uses the parser, the plan, the kernels and the session. 0 if anything is wrong.
pub fn run(blob: &[u8], prompt: &[u32], cache: &mut [u8], scratch: &mut [u8]) -> u64 {
    let mut digest = Digest::new();
    let Ok(model) = Model::new(blob) else { return 0 };
    let Ok(plan) = Plan::for_header(model.header(), Limits::new(64, 4)) else { return 0 };
    let Ok(mut session) = Session::new(model, &plan, cache, scratch) else { return 0 };
    if let Ok(logits) = session.prefill(prompt) {
        digest.update(logits);
    }
    digest.value()
}

/// Everything that decodes, likewise. `None` if anything is wrong.
pub fn decode(session: &mut Session<'_, '_>, prompt: &[u32], flash: &mut [u8], out: &mut [u32]) -> Option<usize> {
    let model = *session.model();
    session.prefill(prompt).ok()?;
    let len = session.snapshot(prompt, flash).ok()?;
    session.restore(&Snapshot::new(flash.get(..len)?, &model).ok()?, prompt.len()).ok()?;
    let grammar = Grammar::new(flash, model.tokenizer_section()).ok()?;
    let mut constraint = Constraint::new(grammar, *model.tokenizer()?, model.special().end());
    let mut seen = [Seen::default(); 64];
    let mut sampler = Sampler::new(Sampling::default(), 1, &mut seen).ok()?;
    constraint.apply(session.logits_mut(), out.len()).ok()?;
    constraint.push(sampler.choose(session.logits_mut()).ok()?);
    let early_stopping = EarlyStopping::Heuristic;
    let settings = BeamSettings { beams: 2, max_tokens: 8, length_penalty: 1.0, early_stopping, end: &[2] };
    let mut room = [0; BeamSearch::room(2, 8, 1)];
    let mut search = BeamSearch::new(settings, &mut room).ok()?;
    search.begin(session.step(1).ok()?);
    while !search.is_done() {
        search.step(session).ok()?;
    }
    search.hypothesis(0, out)?;
    PromptLookup::new(3, 4).step(session, prompt, out).ok()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
