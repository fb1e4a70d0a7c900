//! QEMU's `mps2-an500` (Cortex-M7) and `mps2-an505` (Cortex-M33). There is nothing to set up.

use cortex_m::peripheral::{Peripherals, SYST};

use crate::clock::Tick;

/// With `-icount shift=0` an instruction takes a nanosecond; SysTick runs at 25 and 20 MHz.
pub const TICK: Tick = Tick::Instructions(if cfg!(board = "mps2-an500") { 40 } else { 50 });

pub(super) fn start(core: Peripherals) -> SYST {
    core.SYST
}
