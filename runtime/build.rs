//! Names what the target can do, for `kernel/`: `cfg(neon)` on AArch64, and on a Cortex-M, where stable compilers hide
//! `cfg(target_feature = …)`, `cfg(dsp)` for the DSP extension and a single-precision FPU and `cfg(fpv5)` for the FPU's later
//! instructions, and `cfg(mla)` where one instruction that multiplies and adds is better than two. `cfg(portable)` is for
//! the portable kernels: they are there unless assembly does without them, and the feature of that name is off.
//!
//! `thumbv7em-none-eabihf` has DSP on every core; `-C target-cpu=cortex-m7` adds FPv5. On `thumbv8m.main-none-eabihf` DSP is
//! an option, and only the core's name says that it is there: `-C target-cpu=cortex-m33` or one of the others here.

/// Cores with both.
const CORES: [&str; 6] = ["cortex-m7", "cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(dsp, fpv5, mla, neon, portable)");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let cpu =
        flags.split('\x1f').filter_map(|flag| flag.trim_start_matches("-C").strip_prefix("target-cpu=")).next_back();
    let named = cpu.is_some_and(|cpu| CORES.contains(&cpu));
    let (dsp, fpv5) = match variable("TARGET").as_str() {
        "thumbv7em-none-eabihf" => (true, named),
        "thumbv8m.main-none-eabihf" => (named, named),
        _ => (false, false),
    };
    let mla = cpu == Some("cortex-m7");
    let neon = variable("CARGO_CFG_TARGET_ARCH") == "aarch64"
        && variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "neon");
    let portable = !dsp || std::env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let found = [("dsp", dsp), ("fpv5", fpv5), ("mla", mla), ("neon", neon), ("portable", portable)];
    for (name, _) in found.into_iter().filter(|&(_, has)| has) {
        println!("cargo::rustc-cfg={name}");
    }
}
