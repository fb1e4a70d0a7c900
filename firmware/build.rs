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

    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rustc-link-search={}", here.display());
    for script in ["link.x", "defmt.x"] {
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }
}
