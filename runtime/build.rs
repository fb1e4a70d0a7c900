//! Finds out what a Cortex-M can do, because stable compilers hide `cfg(target_feature = …)` for it: `cfg(dsp)` for the DSP
//! extension and a single-precision FPU, which compiles `kernel/dsp`, and `cfg(fpv5)` for the FPU's later instructions.
//!
//! `thumbv7em-none-eabihf` has DSP on every core; `-C target-cpu=cortex-m7` adds FPv5. On `thumbv8m.main-none-eabihf` DSP is
//! an option, and only the core's name says that it is there: `-C target-cpu=cortex-m33` or one of the others here.

/// Cores with both.
const CORES: [&str; 6] = ["cortex-m7", "cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(dsp, fpv5)");
    let target = std::env::var("TARGET").unwrap_or_default();
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu =
        flags.split('\x1f').filter_map(|flag| flag.trim_start_matches("-C").strip_prefix("target-cpu=")).next_back();
    let named = cpu.is_some_and(|cpu| CORES.contains(&cpu));
    let (dsp, fpv5) = match target.as_str() {
        "thumbv7em-none-eabihf" => (true, named),
        "thumbv8m.main-none-eabihf" => (named, named),
        _ => (false, false),
    };
    if dsp {
        println!("cargo::rustc-cfg=dsp");
    }
    if fpv5 {
        println!("cargo::rustc-cfg=fpv5");
    }
}
