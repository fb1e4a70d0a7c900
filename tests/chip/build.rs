//! Puts the emulated machine's memory where the linker script of cortex-m-rt looks for it.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::var("TARGET")?;
    let memory = format!("memory/{target}.x");
    println!("cargo::rerun-if-changed={memory}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    if let Err(error) = std::fs::copy(&memory, out.join("memory.x")) {
        println!("cargo::error=no memory map of a machine for {target}: {memory}: {error}");
    }
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    Ok(())
}
