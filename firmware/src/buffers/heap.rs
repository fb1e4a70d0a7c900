//! The session's buffers from a heap, sized when the firmware starts: for a model that is not known before.
//!
//! The heap is all RAM that the statics leave. It is cut up once, and nothing is ever given back, so no allocator is needed.

use thumbformer::plan::PlanError;
use thumbformer::{Limits, Model, Plan};

use crate::memory;

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
        let heap = memory::heap();
        // As statics are, and memory with error correction must be.
        heap.fill(0);
        let free = size_of_val(heap);
        let limits = crate::limits(model.arch().context);
        let plan = crate::plan(model.header(), limits, model.blob()).map_err(Shortage::Plan)?;
        match cut(heap, &plan) {
            Some((cache, scratch, ids)) => Ok(Self { plan, cache, scratch, ids }),
            None => {
                let needed = needed(&plan);
                let would_fit = longest_context(model, limits, free);
                Err(Shortage::Heap { context: limits.context, needed, missing: needed - free, would_fit })
            }
        }
    }
}

/// Cache, scratch, and room for tokens, if there is so much.
fn cut<'h>(heap: &'h mut [u32], plan: &Plan) -> Option<(&'h mut [u8], &'h mut [u8], &'h mut [u32])> {
    let (ids, rest) = heap.split_at_mut_checked(plan.limits().context as usize)?;
    let (cache, rest) = bytemuck::cast_slice_mut(rest).split_at_mut_checked(plan.cache_bytes())?;
    Some((cache, rest.get_mut(..plan.scratch_bytes())?, ids))
}

fn needed(plan: &Plan) -> usize {
    plan.cache_bytes() + plan.scratch_bytes() + size_of::<u32>() * plan.limits().context as usize
}

fn longest_context(model: &Model<'_>, limits: Limits, free: usize) -> u32 {
    let fits = |context| {
        let plan = crate::plan(model.header(), Limits { context, ..limits }, model.blob());
        plan.is_ok_and(|plan| needed(&plan) <= free)
    };
    (1..=limits.context).rev().find(|&context| fits(context)).unwrap_or(0)
}
