//! The session's buffers from a heap, sized when the firmware starts: for a model that is not known before.
//!
//! The heap is all RAM that the statics leave.

extern crate alloc;

use alloc::vec;

use embedded_alloc::LlffHeap;
use thumbformer::plan::PlanError;
use thumbformer::{Limits, Model, Plan};

use crate::memory;

#[global_allocator]
static HEAP: LlffHeap = LlffHeap::empty();

/// What a session works in.
pub struct Buffers {
    /// What it was sized for.
    pub plan: Plan,
    /// The KV cache.
    pub cache: &'static mut [u8],
    /// Everything else.
    pub scratch: &'static mut [u8],
    /// Room for the tokens of a full context.
    pub ids: &'static mut [u32],
}

/// There is too little memory.
#[derive(Clone, Copy, Debug, defmt::Format)]
pub enum Shortage {
    /// No machine of this kind has enough, or the context that was built in exceeds the model's.
    Plan(PlanError),
    /// The heap is too small.
    Heap {
        /// Positions asked for.
        context: u32,
        /// Bytes that they need.
        needed: usize,
        /// Bytes that are missing.
        missing: usize,
        /// Positions for which the heap has room: `THUMBFORMER_CONTEXT=` builds that in.
        would_fit: u32,
    },
}

impl Buffers {
    /// Buffers for the model; at most once.
    ///
    /// # Errors
    /// There is too little memory.
    pub fn new(model: &Model<'_>) -> Result<Self, Shortage> {
        let free = memory::give_to(&HEAP);
        let limits = crate::limits(model.arch().context);
        let plan = crate::plan(model.header(), limits, model.blob()).map_err(Shortage::Plan)?;
        let needed = needed(&plan);
        if needed > free {
            let (context, missing) = (limits.context, needed - free);
            let would_fit = longest_context(model, limits, free);
            return Err(Shortage::Heap { context, needed, missing, would_fit });
        }
        // Nothing is ever given back.
        let (cache, scratch) = (vec![0; plan.cache_bytes()].leak(), vec![0; plan.scratch_bytes()].leak());
        Ok(Self { plan, cache, scratch, ids: vec![0; limits.context as usize].leak() })
    }
}

/// What the heap keeps for itself: a head for each of three blocks.
const OVERHEAD: usize = 3 * 16;

fn needed(plan: &Plan) -> usize {
    plan.cache_bytes() + plan.scratch_bytes() + 4 * plan.limits().context as usize + OVERHEAD
}

fn longest_context(model: &Model<'_>, limits: Limits, free: usize) -> u32 {
    let fits = |context| {
        let plan = crate::plan(model.header(), Limits { context, ..limits }, model.blob());
        plan.is_ok_and(|plan| needed(&plan) <= free)
    };
    (1..=limits.context).rev().find(|&context| fits(context)).unwrap_or(0)
}
