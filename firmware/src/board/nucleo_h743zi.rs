//! STM32H743ZI on ST's Nucleo-144: 480 MHz from the internal oscillator, both caches on.

use cortex_m::peripheral::{Peripherals, SYST};
use embassy_stm32::Config;
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, HSIPrescaler, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk, VoltageScale,
};

use crate::clock::Tick;

/// SysTick counts the processor's cycles.
pub const TICK: Tick = Tick::Cycle { hertz: 480_000_000 };

pub(super) fn start(mut core: Peripherals) -> SYST {
    let mut config = Config::default();
    let rcc = &mut config.rcc;
    rcc.hsi = Some(HSIPrescaler::DIV1);
    // 64 MHz / 4 · 60 / 2. Chips before revision V end at 400 MHz and at Scale1.
    rcc.pll1 = Some(Pll {
        source: PllSource::HSI,
        prediv: PllPreDiv::DIV4,
        mul: PllMul::MUL60,
        fracn: None,
        divp: Some(PllDiv::DIV2),
        divq: None,
        divr: None,
    });
    rcc.sys = Sysclk::PLL1_P;
    rcc.voltage_scale = VoltageScale::Scale0;
    rcc.ahb_pre = AHBPrescaler::DIV2;
    rcc.apb1_pre = APBPrescaler::DIV2;
    rcc.apb2_pre = APBPrescaler::DIV2;
    rcc.apb3_pre = APBPrescaler::DIV2;
    rcc.apb4_pre = APBPrescaler::DIV2;
    embassy_stm32::init(config);

    core.SCB.enable_icache();
    core.SCB.enable_dcache(&mut core.CPUID);
    core.SYST
}
