//! The board: its clocks and caches, and how it talks.
//!
//! Each board has a file that sets it up, and shares one of two ways to talk. In QEMU requests come from standard input
//! and answers go to standard error, both by semihosting; logs go to standard output, for `defmt-print`. On a real board
//! all three are channels of RTT, which `probe-rs` shows and feeds.

#[cfg_attr(emulated, path = "mps2.rs")]
#[cfg_attr(board = "nucleo-h743zi", path = "nucleo_h743zi.rs")]
#[cfg_attr(board = "nrf5340-dk", path = "nrf5340_dk.rs")]
#[cfg_attr(board = "pico2", path = "pico2.rs")]
mod chosen;
#[cfg_attr(emulated, path = "semihosting.rs")]
#[cfg_attr(not(emulated), path = "rtt.rs")]
mod console;

pub use chosen::TICK;
pub use console::{Console, exit};

/// Makes the processor as fast as it can be and starts clock, logs and console. To be called once, before anything else.
///
/// # Panics
/// At a second call.
pub fn start() -> Console {
    let core = cortex_m::Peripherals::take().expect("start is called once");
    let systick = chosen::start(core);
    crate::clock::start(systick);
    Console::open()
}
