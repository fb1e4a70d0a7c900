//! RP2350 on the Raspberry Pi Pico 2: 150 MHz; the boot ROM has turned the flash's cache on.

use cortex_m::peripheral::{Peripherals, SYST};
use embassy_rp::config::Config;

use crate::clock::Tick;

/// SysTick counts the processor's cycles.
pub const TICK: Tick = Tick::Cycle { hertz: 150_000_000 };

pub(super) fn start(core: Peripherals) -> SYST {
    // From the board's crystal of 12 MHz. The image definition that the boot ROM looks for is this crate's default.
    embassy_rp::init(Config::default());
    core.SYST
}
