//! Names the model file to embed and the linker scripts to use.

use std::path::PathBuf;

const DEFAULT_MODEL: &str = "../tests/models/home-commands/model.thumb";

fn main() {
    println!("cargo::rerun-if-env-changed=THUMBFORMER_MODEL");
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // Relative paths are the caller's: cargo runs this script elsewhere.
    let model = match std::env::var_os("THUMBFORMER_MODEL") {
        Some(model) if PathBuf::from(&model).is_absolute() => PathBuf::from(model),
        Some(model) => return println!("cargo::error=THUMBFORMER_MODEL={model:?} must be an absolute path"),
        None => here.join(DEFAULT_MODEL),
    };
    if !model.is_file() {
        println!("cargo::error={} does not exist; convert a model first:", model.display());
        println!("cargo::error=cargo run --release --bin convert -- tests/models/home-commands --target dsp");
        return;
    }
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=THUMBFORMER_MODEL={}", model.display());

    // The memory of QEMU's board for the core.
    println!("cargo::rustc-check-cfg=cfg(thumbv8m)");
    let core = std::env::var("TARGET").unwrap_or_default();
    let memory = if core.starts_with("thumbv8m") {
        println!("cargo::rustc-cfg=thumbv8m");
        "memory-an505.x"
    } else {
        "memory.x"
    };
    println!("cargo::rerun-if-changed={memory}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(error) = std::fs::copy(here.join(memory), out.join("memory.x")) {
        return println!("cargo::error={memory}: {error}");
    }
    println!("cargo::rustc-link-search={}", out.display());
    for script in ["link.x", "defmt.x"] {
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }
}
