//! Any bytes as a blob, as they are and with both checksums made right; what parses is run. A corpus with a few small blobs
//! in it (`convert` makes them) gets deep much faster than an empty one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thumbformer_tests::damage::exercise_copy;
use thumbformer_tests::tiny::seal;

fuzz_target!(|bytes: &[u8]| {
    let _ = exercise_copy(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    let _ = exercise_copy(&sealed);
});
