//! Talking by RTT: memory that the debugger reads and writes while the program runs.

use core::fmt;

use cortex_m::peripheral::DCB;
use rtt_target::ChannelMode::NoBlockSkip;
use rtt_target::{DownChannel, UpChannel, rtt_init, set_defmt_channel};

/// Where requests come from and answers go.
pub struct Console {
    input: DownChannel,
    output: UpChannel,
}

impl Console {
    pub(super) fn open() -> Self {
        // Nobody may be listening: what does not fit is lost, unless probe-rs says that it wants to be waited for.
        let channels = rtt_init! {
            up: {
                0: { size: 1024, mode: NoBlockSkip, name: "defmt", section: ".uninit.rtt.defmt" }
                1: { size: 512, mode: NoBlockSkip, name: "answers", section: ".uninit.rtt.answers" }
            }
            down: {
                0: { size: 128, mode: NoBlockSkip, name: "requests", section: ".uninit.rtt.requests" }
            }
            section_cb: ".uninit.rtt.control"
        };
        set_defmt_channel(channels.up.0);
        Self { input: channels.down.0, output: channels.up.1 }
    }

    /// The next byte of input, waited for. There is always more to come.
    pub fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        while self.input.read(&mut byte) == 0 {
            // No interrupt tells of input. Not asleep, because some chips stop the debugger's access with the clock.
            cortex_m::asm::delay(10_000);
        }
        Some(byte[0])
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.output.write(text.as_bytes());
        Ok(())
    }
}

/// Ends the program, and probe-rs with this status. Without a debugger it only stops.
pub fn exit(code: i32) -> ! {
    if DCB::is_debugger_attached() {
        semihosting::process::exit(code);
    }
    loop {
        cortex_m::asm::wfi();
    }
}
