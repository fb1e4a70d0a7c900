//! Finds out whether the target has the DSP extension and a single-precision FPU: `cfg(dsp)` compiles `kernel/dsp.rs`.
//!
//! Stable compilers hide `cfg(target_feature = "dsp")`. A Cortex-M4F or M7 (`thumbv7em-none-eabihf`) always has both. On
//! `thumbv8m.main-none-eabihf` DSP is an option of the core, so the flags must say which core it is:
//! `-C target-cpu=cortex-m33`, or `-C target-feature=+dsp`.

const CORES: [&str; 5] = ["cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(dsp)");
    let target = std::env::var("TARGET").unwrap_or_default();
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let named = |flag: &str| {
        let value = flag.trim_start_matches("-C").strip_prefix("target-cpu=");
        value.is_some_and(|cpu| CORES.contains(&cpu)) || flag.contains("target-feature=") && flag.contains("+dsp")
    };
    let has_dsp = match target.as_str() {
        "thumbv7em-none-eabihf" => true,
        "thumbv8m.main-none-eabihf" => flags.split('\x1f').any(named),
        _ => false,
    };
    if has_dsp {
        println!("cargo::rustc-cfg=dsp");
    }
}
