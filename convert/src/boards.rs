//! Microcontrollers that a model may be meant for: whether it fits, before anything is flashed.

use thumbformer::{Limits, Plan, blob::header::Header};

/// A board's memories.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Name, as its maker's documents spell it, in small letters.
    pub name: &'static str,
    /// What is on it.
    pub chip: &'static str,
    /// Bytes of flash that the processor can execute from.
    pub flash: u64,
    /// Bytes of the largest contiguous RAM.
    pub ram: u64,
}

/// Flash that firmware needs beside the model.
pub const FIRMWARE_FLASH: u64 = 64 * 1024;
/// RAM that firmware needs beside the session: stack, statics, a line of input.
pub const FIRMWARE_RAM: u64 = 24 * 1024;

/// The boards known here. Sizes are the manufacturers'.
pub const BOARDS: [Board; 3] = [
    Board { name: "nucleo-h743zi", chip: "STM32H743, Cortex-M7, 480 MHz", flash: 2 << 20, ram: 512 << 10 },
    Board { name: "nrf5340-dk", chip: "nRF5340, Cortex-M33, 128 MHz", flash: 1 << 20, ram: 512 << 10 },
    Board { name: "pico2", chip: "RP2350, Cortex-M33, 150 MHz", flash: 4 << 20, ram: 520 << 10 },
];

/// What a board can do with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It runs with this many positions (at most the model's).
    Context(u32),
    /// The file exceeds the flash by so many bytes.
    Flash {
        /// Bytes missing.
        missing: u64,
    },
    /// Not even 32 positions fit the RAM; so many bytes are missing.
    Ram {
        /// Bytes missing.
        missing: u64,
    },
}

/// Tokens of a prompt that firmware processes at a time.
pub const CHUNK: u32 = 8;

impl Board {
    /// The longest context with which the model of this head fits the board.
    pub fn fit(&self, header: &Header) -> Fit {
        let flash = header.file_len + FIRMWARE_FLASH;
        if flash > self.flash {
            return Fit::Flash { missing: flash - self.flash };
        }
        let needed = |context: u32| {
            Plan::for_header(header, Limits::new(context, CHUNK))
                .map_or(u64::MAX, |plan| (plan.cache_bytes() + plan.scratch_bytes()) as u64 + FIRMWARE_RAM)
        };
        // Memory grows with the context, in steps of a tile.
        let (mut fits, mut exceeds) = (0, header.arch.context + 1);
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if needed(middle) <= self.ram { fits = middle } else { exceeds = middle }
        }
        let least = header.arch.context.min(32);
        if fits >= least { Fit::Context(fits) } else { Fit::Ram { missing: needed(least) - self.ram } }
    }
}
