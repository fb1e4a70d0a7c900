//! The session's buffers as statics, their sizes known when the firmware is built: it fits or it does not compile.

use static_cell::ConstStaticCell;
use thumbformer::{Aligned, Model, Plan};

use crate::model::{FILE, HEADER};

const PLAN: Plan = match crate::plan(&HEADER, crate::limits(HEADER.arch.context), FILE) {
    Ok(plan) => plan,
    Err(_) => panic!("the model needs more memory than this chip can address"),
};

static CACHE: ConstStaticCell<Aligned<[u8; PLAN.cache_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.cache_bytes()]));
static SCRATCH: ConstStaticCell<Aligned<[u8; PLAN.scratch_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.scratch_bytes()]));
static IDS: ConstStaticCell<[u32; PLAN.limits().context as usize]> =
    ConstStaticCell::new([0; PLAN.limits().context as usize]);

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

/// There is too little memory. It cannot happen here.
#[derive(Clone, Copy, Debug, defmt::Format)]
pub enum Shortage {}

impl Buffers {
    /// The buffers for the model that was built in; at most once.
    ///
    /// # Errors
    /// None; on a heap there can be too little memory.
    pub fn new(_model: &Model<'_>) -> Result<Self, Shortage> {
        Ok(Self { plan: PLAN, cache: &mut CACHE.take().0, scratch: &mut SCRATCH.take().0, ids: IDS.take() })
    }
}
