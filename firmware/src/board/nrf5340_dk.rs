//! nRF5340 on Nordic's development kit: the application core at 128 MHz, its cache on.

use cortex_m::peripheral::{Peripherals, SYST};
use embassy_nrf::config::Config;
use embassy_nrf::pac::{CACHE_S, CLOCK_S, clock::vals::Hclk};

use crate::clock::Tick;

/// SysTick counts the processor's cycles.
pub const TICK: Tick = Tick::Cycle { hertz: 128_000_000 };

pub(super) fn start(core: Peripherals) -> SYST {
    embassy_nrf::init(Config::default());
    CLOCK_S.hfclkctrl().write(|w| w.set_hclk(Hclk::Div1));
    CACHE_S.enable().write(|w| w.set_enable(true));
    core.SYST
}
