//! The program `digests` on an emulated Cortex-M: a line for each file and backend, with the path of the .thumb file, the
//! backend's name and the digest.
//!
//! Paths come from the command line, files from the host by semihosting, so one build runs all models. They are read
//! into RAM; a firmware that executes its model from flash is firmware/.
#![no_std]
#![no_main]

use core::ffi::CStr;
use core::fmt;
use core::panic::PanicInfo;

// Linked for the critical section of this single core.
use cortex_m as _;
use cortex_m_rt::entry;
use digests::Failure;
use semihosting::experimental::env::args;
use semihosting::io::{self, Read};
use semihosting::process::exit;
use semihosting::{eprintln, fs, println};
use static_cell::ConstStaticCell;
use thumbformer::Aligned;

/// For the file and its session; the stack needs the rest of the RAM.
const ARENA: usize = 3 << 20;
static MEMORY: ConstStaticCell<Aligned<[u8; ARENA]>> = ConstStaticCell::new(Aligned([0; ARENA]));

/// Bytes of the longest command line and of the longest path.
const LINE: usize = 16 << 10;
const PATH: usize = 256;

enum Error {
    Path,
    File(io::Error),
    Large(u64),
    Digest(Failure),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Path => write!(f, "a path must have less than {PATH} bytes"),
            Error::File(e) => e.fmt(f),
            Error::Large(found) => write!(f, "the file has {found} bytes, there is room for {ARENA}"),
            Error::Digest(e) => e.fmt(f),
        }
    }
}

#[entry]
fn main() -> ! {
    let arena = &mut MEMORY.take().0;
    let args = match args::<LINE>() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: a command line of more than {LINE} bytes: {error}");
            exit(1)
        }
    };
    for path in (&args).skip(1) {
        let path = path.unwrap_or("not UTF-8");
        if let Err(error) = print(path, arena) {
            eprintln!("error: {path}: {error}");
            exit(1)
        }
    }
    exit(0)
}

fn print(path: &str, arena: &mut [u8]) -> Result<(), Error> {
    let mut buffer = [0; PATH];
    buffer.get_mut(..path.len()).ok_or(Error::Path)?.copy_from_slice(path.as_bytes());
    let mut file =
        fs::File::open(CStr::from_bytes_until_nul(&buffer).map_err(|_| Error::Path)?).map_err(Error::File)?;
    let len = file.metadata().map_err(Error::File)?.len();
    file.read_exact(arena.get_mut(..len as usize).ok_or(Error::Large(len))?).map_err(Error::File)?;
    digests::by_backend(arena, len as usize, |backend, digest| println!("{path}\t{backend}\t{digest:016x}"))
        .map_err(Error::Digest)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    exit(101)
}
