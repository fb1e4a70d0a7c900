//! Microcontrollers that a model may be meant for: whether it fits, before anything is flashed.
//!
//! The firmware's build asks here too, and refuses with the same numbers.

use thumbformer::{Limits, Plan, blob::header::Header};

/// A board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Name, as its maker's documents spell it, in small letters.
    pub name: &'static str,
    /// What is on it: the chip, its processor, its clock.
    pub chip: &'static str,
    /// Its memories.
    pub memories: Memories,
}

/// What a board has for the firmware and the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memories {
    /// Bytes of flash that the processor can execute from.
    pub flash: u64,
    /// Bytes of the largest contiguous RAM, less the stack if it lies there.
    pub ram: u64,
}

/// The boards known here, with the memories that `firmware/memory/` gives them.
pub const BOARDS: [Board; 3] = [
    Board {
        name: "nucleo-h743zi",
        chip: "STM32H743, Cortex-M7, 480 MHz",
        memories: Memories { flash: 2 << 20, ram: 512 << 10 },
    },
    Board {
        name: "nrf5340-dk",
        chip: "nRF5340, Cortex-M33, 128 MHz",
        memories: Memories { flash: 1 << 20, ram: 496 << 10 },
    },
    Board { name: "pico2", chip: "RP2350, Cortex-M33, 150 MHz", memories: Memories { flash: 4 << 20, ram: 504 << 10 } },
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

impl Memories {
    /// Flash that is kept for the firmware. A model that is sent by itself begins behind it; where one is built in, the
    /// linker knows exactly how much is left.
    pub const FIRMWARE_FLASH: u64 = 128 * 1024;

    /// RAM that the firmware needs beside the session and the stack: a line of input and room to tokenize it, the tokens,
    /// the debugger's buffers. The linker knows it exactly.
    pub fn firmware_ram(context: u32) -> u64 {
        12 * 1024 + 4 * u64::from(context)
    }

    /// Bytes of flash that the model of this head lacks.
    pub fn missing_flash(&self, header: &Header) -> u64 {
        header.file_len.saturating_add(Self::FIRMWARE_FLASH).saturating_sub(self.flash)
    }

    /// Bytes of RAM that a session of so many positions lacks. `source` is the head of an encoder-decoder's encoder,
    /// whose sources are as long, or as long as it allows.
    pub fn missing_ram(&self, header: &Header, source: Option<&Header>, context: u32) -> u64 {
        let session = |plan: Plan| (plan.cache_bytes() + plan.scratch_bytes()) as u64 + Self::firmware_ram(context);
        let plan = Plan::for_header(header, Limits::new(context, CHUNK));
        let plan = match source {
            Some(source) => plan.and_then(|plan| plan.with_source(source, context.min(source.arch.context))),
            None => plan,
        };
        plan.map_or(u64::MAX, session).saturating_sub(self.ram)
    }

    /// The longest context whose session fits the RAM; 0 if none does. `source` as in [`Memories::missing_ram`].
    pub fn longest_context(&self, header: &Header, source: Option<&Header>) -> u32 {
        // Memory grows with the context, in steps of a tile.
        let (mut fits, mut exceeds) = (0, header.arch.context.saturating_add(1));
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if self.missing_ram(header, source, middle) == 0 { fits = middle } else { exceeds = middle }
        }
        fits
    }
}

impl Board {
    /// The name of the chip alone.
    pub fn chip_name(&self) -> &'static str {
        self.chip.split(',').next().unwrap_or(self.chip)
    }

    /// The longest context with which the model of this head fits the board. `source` as in [`Memories::missing_ram`].
    pub fn fit(&self, header: &Header, source: Option<&Header>) -> Fit {
        let missing = self.memories.missing_flash(header);
        if missing > 0 {
            return Fit::Flash { missing };
        }
        let least = header.arch.context.min(32);
        match self.memories.longest_context(header, source) {
            context if context >= least => Fit::Context(context),
            _ => Fit::Ram { missing: self.memories.missing_ram(header, source, least) },
        }
    }
}
