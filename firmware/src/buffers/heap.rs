//! The session's buffers from a heap, sized when the firmware starts: for a model that is not known before.
//!
//! The heap is all RAM that the statics leave.

extern crate alloc;

use alloc::boxed::Box;

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
        let block = bytemuck::try_zeroed_slice_box(words(&plan)).ok();
        // It is never given back.
        match block.and_then(|block| cut(Box::leak(block), &plan)) {
            Some((cache, scratch, ids)) => Ok(Self { plan, cache, scratch, ids }),
            None => {
                let needed = needed(&plan);
                let would_fit = longest_context(model, limits, free);
                let missing = needed.saturating_sub(free);
                Err(Shortage::Heap { context: limits.context, needed, missing, would_fit })
            }
        }
    }
}

/// Cache, scratch, and room for tokens, of a block with so many [`words`].
fn cut<'h>(block: &'h mut [u32], plan: &Plan) -> Option<(&'h mut [u8], &'h mut [u8], &'h mut [u32])> {
    let (ids, rest) = block.split_at_mut_checked(plan.limits().context as usize)?;
    let (cache, rest) = bytemuck::cast_slice_mut(rest).split_at_mut_checked(plan.cache_bytes())?;
    Some((cache, rest.get_mut(..plan.scratch_bytes())?, ids))
}

/// What the heap keeps for itself.
const OVERHEAD: usize = 16;

/// Words of memory for tokens, cache and scratch.
fn words(plan: &Plan) -> usize {
    plan.limits().context as usize + (plan.cache_bytes() + plan.scratch_bytes()).div_ceil(size_of::<u32>())
}

fn needed(plan: &Plan) -> usize {
    size_of::<u32>() * words(plan) + OVERHEAD
}

fn longest_context(model: &Model<'_>, limits: Limits, free: usize) -> u32 {
    let fits = |context| {
        let plan = crate::plan(model.header(), Limits { context, ..limits }, model.blob());
        plan.is_ok_and(|plan| needed(&plan) <= free)
    };
    (1..=limits.context).rev().find(|&context| fits(context)).unwrap_or(0)
}
