//! A firmware's worth of thumbformer without std and without an allocator, for `.ci/no-std`. It is built, never run.
#![no_std]

#[cfg(feature = "leak-alloc")]
extern crate alloc;

use thumbformer::{Digest, Limits, Model, Plan, Session};

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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
