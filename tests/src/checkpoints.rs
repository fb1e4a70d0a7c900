//! The checkpoints behind the golden digests: those of tests/fixtures/models, and the bundled model.

use std::path::{Path, PathBuf};

use thumbformer::packing::Packing;
use thumbformer_convert::family;
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Calibration, Options, Prepared, Silent};
use thumbformer_convert::source::{Overrides, Source};

/// The golden digests' file.
pub const FILE: &str = "tests/fixtures/digests.tsv";

/// A path below the repository's root.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").join(path)
}

/// Names and folders, in the order of the file.
pub fn checkpoints() -> Vec<(String, PathBuf)> {
    let entries = repository("tests/fixtures/models").read_dir().expect("fixtures");
    let folders = entries.map(|entry| entry.expect("fixtures").path());
    let models = folders.filter(|folder| folder.join("expected.json").is_file());
    let name = |folder: &Path| folder.file_name().expect("a folder").to_string_lossy().into_owned();
    let mut all: Vec<_> = models.map(|folder| (name(&folder), folder)).collect();
    all.sort();
    assert!(all.len() >= 23, "only {all:?}");
    all.push(("home-commands".into(), repository("tests/models/home-commands")));
    all
}

/// A checkpoint's blob, with made-up mean keys: small, different for every head and dimension.
pub fn convert(folder: &Path, packing: Packing) -> AlignedBytes {
    let source = Source::find(folder, &Overrides::default()).expect("a good checkpoint");
    let arch = family::recognise(&source).expect("a known family").arch;
    let mean = |i: u32| (i * 37 % 64) as f32 / 64.0 - 0.5;
    let layer = |layer: u32| (0..arch.kv_width()).map(|i| mean(layer * 11 + i)).collect();
    let means = (0..arch.layers).map(layer).collect();
    let options = Options { packing, calibration: Calibration::Means(means), ..Options::default() };
    Prepared::open(folder, options).expect("a good checkpoint").to_memory(&Silent).expect("finite numbers").0
}

/// How the file spells a group size.
pub fn group_name(group: u32) -> String {
    if group == 0 { "row".into() } else { group.to_string() }
}
