//! What this x86-64 processor can do, without the standard library.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets that the processor has and the operating system saves registers for.
#[derive(Clone, Copy)]
pub(super) struct Features {
    /// AVX2 and F16C.
    pub avx2: bool,
    /// AVX-VNNI beside them.
    pub avx_vnni: bool,
    /// FMA, AVX-512 F, BW, VL and VNNI beside them.
    pub avx512_vnni: bool,
}

/// Asks the processor once and remembers.
pub(super) fn features() -> Features {
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    let mut bits = KNOWN.load(Ordering::Relaxed);
    if bits == 0 {
        let f = ask();
        bits = 1 | u8::from(f.avx2) << 1 | u8::from(f.avx_vnni) << 2 | u8::from(f.avx512_vnni) << 3;
        KNOWN.store(bits, Ordering::Relaxed);
    }
    Features { avx2: bits & 2 != 0, avx_vnni: bits & 4 != 0, avx512_vnni: bits & 8 != 0 }
}

fn ask() -> Features {
    let none = Features { avx2: false, avx_vnni: false, avx512_vnni: false };
    let bit = |register: u32, bit: u32| register >> bit & 1 != 0;
    let highest = __cpuid(0).eax;
    let basic = __cpuid(1);
    // XSAVE in use, AVX, F16C.
    if highest < 7 || !(bit(basic.ecx, 27) && bit(basic.ecx, 28) && bit(basic.ecx, 29)) {
        return none;
    }
    #[target_feature(enable = "xsave")]
    fn saved_registers() -> u64 {
        // SAFETY: the caller has seen OSXSAVE, so the instruction exists and register 0 can be read.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: bit 27 above says that the operating system has enabled XSAVE.
    let saved = unsafe { saved_registers() };
    let (ymm, zmm) = (saved & 0x06 == 0x06, saved & 0xE6 == 0xE6);
    let extended = __cpuid_count(7, 0);
    let more = if extended.eax >= 1 { __cpuid_count(7, 1).eax } else { 0 };
    let avx2 = ymm && bit(extended.ebx, 5);
    Features {
        avx2,
        avx_vnni: avx2 && bit(more, 4),
        // Rust's avx512f includes FMA. No kernel fuses, but the compiler may count on the instructions.
        avx512_vnni: avx2
            && zmm
            && bit(basic.ecx, 12)
            && bit(extended.ebx, 16)
            && bit(extended.ebx, 30)
            && bit(extended.ebx, 31)
            && bit(extended.ecx, 11),
    }
}
