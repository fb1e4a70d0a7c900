//! Time by SysTick, which every Cortex-M has and QEMU counts instructions with.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

/// What one tick is.
#[derive(Clone, Copy, Debug)]
pub enum Tick {
    /// So many instructions: QEMU with `-icount shift=0` counts them in place of time.
    Instructions(u32),
    /// A cycle, of which there are so many in a second.
    Cycle {
        /// The processor's clock.
        hertz: u32,
    },
}

/// The counter is 24 bits wide and counts down.
const RELOAD: u32 = 0x00FF_FFFF;
static WRAPS: AtomicU32 = AtomicU32::new(0);

/// Starts the clock.
pub fn start(mut systick: SYST) {
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(RELOAD);
    systick.clear_current();
    systick.enable_interrupt();
    systick.enable_counter();
}

/// Ticks since the start.
pub fn now() -> u64 {
    loop {
        let wraps = WRAPS.load(Ordering::Relaxed);
        let current = SYST::get_current();
        if wraps == WRAPS.load(Ordering::Relaxed) {
            return (u64::from(wraps) << 24) + u64::from(RELOAD - current);
        }
    }
}

#[exception]
fn SysTick() {
    // Without compare-and-swap: nobody else writes, and this handler does not interrupt itself.
    WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
