//! What happens when something is wrong with the firmware itself: it says so and ends.
#![allow(unsafe_code)]

use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, exception};

use crate::board::exit;

/// Only where: the message would bring all of `core::fmt` into the image. Inlined, so that the optimizer sees that nobody
/// reads messages, and drops those of all panics with what formats them.
#[panic_handler]
#[allow(unused_attributes, reason = "the compiler says that it ignores `inline` here, and does not")]
#[inline(always)]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(place) = info.location() {
        defmt::error!("panic in {=str}, line {=u32}", place.file(), place.line());
    }
    exit(101)
}

// SAFETY: the handler touches nothing that the interrupted code may have left half-done, except the logger, which ends the
// program if it was in use.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:#010x}, called from {=u32:#010x}", frame.pc(), frame.lr());
    exit(102)
}
