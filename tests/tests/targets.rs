//! The same bits everywhere: a table of targets and digests, which must all be equal.
//!
//! The program `digests` is built for each target and run on it, under QEMU where it is not this machine, for all golden
//! checkpoints and all awkward shapes in every packing. It needs cross compilers and QEMU (`.ci/run` installs them), so it
//! only runs when told to:
//!
//!     cargo test -p thumbformer-tests --test targets -- --ignored --nocapture

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;

use thumbformer::packing::Packing;
use thumbformer::{Backend, Model};
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_tests::checkpoints::{FILE, checkpoints, convert, group_name, repository};
use thumbformer_tests::sessions::{combine, reference};
use thumbformer_tests::shapes::{GROUPS, LAYOUTS, blob, encoders, ids, pair, pairs, shapes};

/// A processor that QEMU emulates.
struct Target {
    name: &'static str,
    triple: &'static str,
    /// The machine of a microcontroller, which runs tests/chip; none for a program under Linux, tests/digests.
    machine: Option<&'static str>,
    cpu: &'static str,
    /// What must be there, the fastest first.
    backends: &'static [&'static str],
}

const TARGETS: [Target; 4] = [
    Target {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        machine: None,
        cpu: "max",
        backends: &["neon-dotprod", "neon", "portable"],
    },
    Target {
        name: "Cortex-A53",
        triple: "aarch64-unknown-linux-gnu",
        machine: None,
        cpu: "cortex-a53",
        backends: &["neon", "portable"],
    },
    Target {
        name: "Cortex-M7",
        triple: "thumbv7em-none-eabihf",
        machine: Some("mps2-an500"),
        cpu: "cortex-m7",
        backends: &["dsp", "portable"],
    },
    Target {
        name: "Cortex-M33",
        triple: "thumbv8m.main-none-eabihf",
        machine: Some("mps2-an505"),
        cpu: "cortex-m33",
        backends: &["dsp", "portable"],
    },
];

/// Runs a command to its end and returns what it prints.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}{command:?} failed: {}", output.status);
    out.into_owned()
}

impl Target {
    /// Builds the program.
    fn build(&self) -> PathBuf {
        let name = if self.machine.is_some() { "chip" } else { "digests" };
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets");
        let mut cargo = Command::new(repository(".ci/cargo-for"));
        cargo.arg(self.triple).args(["build", "--release", "--locked", "--quiet"]);
        // There lies its configuration. Flags for this machine are none for another.
        cargo.current_dir(repository("tests").join(name));
        cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        output(&mut cargo);
        target.join(self.triple).join("release").join(name)
    }

    /// Runs the program with files as its arguments.
    fn run(&self, program: &Path, folder: &Path, files: &[String]) -> String {
        // A chip that hangs must not hang whoever waits for it.
        let mut qemu = Command::new("timeout");
        qemu.args(["600", if self.machine.is_some() { "qemu-system-arm" } else { "qemu-aarch64" }]);
        qemu.current_dir(folder).args(["-cpu", self.cpu]);
        if let Some(machine) = self.machine {
            qemu.args(["-machine", machine, "-display", "none", "-monitor", "none", "-serial", "none"]);
            qemu.args(["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"]);
            qemu.arg("-kernel").arg(program).arg("-append").arg(files.join(" "));
        } else {
            qemu.args(["-L", "/usr/aarch64-linux-gnu"]).arg(program).args(files);
        }
        output(&mut qemu)
    }

    /// The digests of all files in `folder`, `[backend][file]`.
    fn digests(&self, program: &Path, folder: &Path, files: &[String]) -> Vec<Vec<u64>> {
        let printed = self.run(program, folder, files);
        let mut found = HashMap::new();
        for line in printed.lines() {
            let [file, backend, digest] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let digest = u64::from_str_radix(digest, 16).expect("a digest");
            assert!(self.backends.contains(&backend), "{} has a backend `{backend}` that nobody expects", self.name);
            assert_eq!(found.insert((file, backend), digest), None, "{line:?} twice");
        }
        let take = |file: &String, backend: &'static str| found.get(&(file.as_str(), backend)).copied();
        let column = |&backend| {
            let digests = files.iter().map(|file| take(file, backend));
            digests.collect::<Option<_>>().unwrap_or_else(|| panic!("{} has no backend `{backend}`", self.name))
        };
        self.backends.iter().map(column).collect()
    }
}

/// A model in one group size: what the digest must be, and its files in both layouts.
struct Row {
    name: String,
    expected: u64,
    blobs: [AlignedBytes; 2],
}

/// All models: the golden ones, and random ones by what portable code on this machine says of them.
fn rows() -> Vec<Row> {
    let golden = read_to_string(repository(FILE)).expect("the golden digests");
    let mut rows = Vec::new();
    for (name, folder) in checkpoints() {
        for group in GROUPS {
            let name = format!("{name}, {}", group_name(group));
            let start = name.replace(", ", "\t") + "\t";
            let line = golden.lines().find(|line| line.starts_with(&start)).expect("a golden digest");
            let digest = line.rsplit('\t').next().and_then(|digest| u64::from_str_radix(digest, 16).ok());
            let blobs = LAYOUTS.map(|layout| convert(&folder, Packing { layout, group }));
            rows.push(Row { name, expected: digest.expect("a digest"), blobs });
        }
    }
    for (name, arch) in shapes().into_iter().chain(encoders()) {
        for group in GROUPS {
            let blobs = LAYOUTS.map(|layout| blob(arch, Packing { layout, group }));
            let trace = reference(Model::new(&blobs[0]).expect("a good blob"), &ids(arch.vocab, arch.context as usize));
            rows.push(Row { name: format!("random {name}, {}", group_name(group)), expected: combine(&trace), blobs });
        }
    }
    for (name, decoder, encoder) in pairs() {
        for group in GROUPS {
            let blobs = LAYOUTS.map(|layout| pair(decoder, encoder, Packing { layout, group }));
            let ids = ids(decoder.vocab, decoder.context as usize);
            let trace = reference(Model::new(&blobs[0]).expect("a good blob"), &ids);
            rows.push(Row {
                name: format!("random pair {name}, {}", group_name(group)),
                expected: combine(&trace),
                blobs,
            });
        }
    }
    rows
}

#[test]
#[ignore = "needs QEMU and compilers for other targets: .ci/run runs it"]
fn every_target_computes_the_same_bits() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("blobs");
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let rows = rows();
    let mut files = Vec::new();
    for (row, entry) in rows.iter().enumerate() {
        for (blob, layout) in entry.blobs.iter().zip(LAYOUTS) {
            files.push(format!("{row}.{}", layout.name()));
            std::fs::write(folder.join(&files[files.len() - 1]), &blob[..]).expect("a writable folder");
        }
    }
    // Name of the target and the backend, and a digest for each file.
    let here = std::env::consts::ARCH;
    let mut columns: Vec<(String, Vec<u64>)> = Vec::new();
    for backend in Backend::available() {
        let blobs = rows.iter().flat_map(|row| &row.blobs);
        let mut memory = vec![0; 64 << 20];
        let digests = blobs.map(|blob| {
            digests::digest(Model::new(blob).expect("a good blob"), backend, &mut memory).expect("enough memory")
        });
        columns.push((format!("{here}, {}", backend.name()), digests.collect()));
    }
    for target in TARGETS {
        let digests = target.digests(&target.build(), &folder, &files);
        let names = target.backends.iter().map(|backend| format!("{}, {backend}", target.name));
        columns.extend(names.zip(digests));
    }

    println!("\nDigests of all logits; = is the same by that column's target and backend, in both layouts.\n");
    for (i, (name, _)) in columns.iter().enumerate() {
        println!("{:>4}  {name}", letter(i));
    }
    let heads: Vec<String> = (0..columns.len()).map(|i| letter(i).to_string()).collect();
    println!("\n{:28} {:16}  {}", "model, group", "digest", heads.join(" "));
    let mut differences = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let mut marks = Vec::new();
        for (column, (name, digests)) in columns.iter().enumerate() {
            let found = &digests[2 * i..2 * i + 2];
            let same = found.iter().all(|digest| *digest == row.expected);
            marks.push(if same { "=".to_owned() } else { letter(column).to_uppercase().to_string() });
            if !same {
                let [rows8, dsp] = [found[0], found[1]];
                differences.push(format!("{}: {name}: rows8 {rows8:016x}, dsp {dsp:016x}", row.name));
            }
        }
        println!("{:28} {:016x}  {}", row.name, row.expected, marks.join(" "));
    }
    println!();
    assert!(differences.is_empty(), "{} digests differ:\n{}", differences.len(), differences.join("\n"));
}

fn letter(column: usize) -> char {
    char::from(b'a' + column as u8)
}
