//! Prints a line for each file and backend: the path of the .thumb file, the backend's name, the digest.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use thumbformer::blob::ALIGN;

/// Room for a file and a session.
const ARENA: usize = 64 << 20;

fn main() -> ExitCode {
    let mut arena = vec![0; ARENA + ALIGN];
    let start = arena.as_ptr().align_offset(ALIGN).min(ALIGN);
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        eprintln!("usage: digests FILE.thumb...");
        return ExitCode::FAILURE;
    }
    for path in paths {
        if let Err(error) = print(&path, &mut arena[start..]) {
            eprintln!("error: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn print(path: &str, arena: &mut [u8]) -> Result<(), Box<dyn Error>> {
    let file = std::fs::read(path)?;
    arena.get_mut(..file.len()).ok_or("larger than the arena")?.copy_from_slice(&file);
    digests::by_backend(arena, file.len(), |backend, digest| println!("{path}\t{backend}\t{digest:016x}"))?;
    Ok(())
}
