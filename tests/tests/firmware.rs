//! The firmware in QEMU, on a Cortex-M7 and a Cortex-M33: it answers as the desktop does, bit for bit; it refuses damaged
//! models; nothing that it is sent stops it; and what does not fit does not build.
//!
//! These tests build firmware and need an emulator, so they run only when asked: `cargo test -p thumbformer-tests --test
//! firmware -- --ignored`. Without QEMU they fail.

#[path = "../../convert/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use thumbformer::arch::Arch;
use thumbformer::blob::{ENTRY_BYTES, header::HEADER_BYTES};
use thumbformer::decode::argmax;
use thumbformer::packing::{Layout, Packing};
use thumbformer::tokenizer::EncodeOptions;
use thumbformer::workers::Serial;
use thumbformer::{Backend, Digest, Feature, Limits, Model, Plan, Session};
use thumbformer_convert::boards::Memories;
use thumbformer_convert::memory::AlignedBytes;
use thumbformer_convert::pipeline::{Calibration, Options, Prepared, Silent};
use thumbformer_convert::synthetic::{Synthetic, gpt2, llama};
use thumbformer_tests::tiny;

const CORES: [&str; 2] = ["mps2-an500", "mps2-an505"];
const PACKING: Packing = Packing { layout: Layout::Dsp, group: 32 };

/// A program for a board.
#[derive(Clone)]
struct Firmware {
    elf: PathBuf,
}

/// What it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    /// Its answers.
    answers: String,
    /// Its log.
    log: String,
}

/// `firmware/run --build` with these options: the program, or why it cannot be built. Only one builds at a time, since
/// all builds for one processor have one output; what is built is kept, and copied out of the next one's way.
fn build(options: &[&str]) -> Result<Firmware, String> {
    static BUILT: Mutex<Option<HashMap<String, Firmware>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|e| e.into_inner());
    let built = built.get_or_insert_default();
    let key = options.join(" ");
    if let Some(firmware) = built.get(&key) {
        return Ok(firmware.clone());
    }
    let output = Command::new(common::repository("firmware/run"))
        .arg("--build")
        .args(options)
        .env_remove("THUMBFORMER_MODEL")
        .env_remove("THUMBFORMER_CONTEXT")
        .output()
        .expect("firmware/run starts");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let found = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim_end());
    let elf = file(&format!("firmware-{}.elf", built.len()), &std::fs::read(found).expect("the program"));
    built.insert(key, Firmware { elf: elf.clone() });
    Ok(Firmware { elf })
}

fn built(options: &[&str]) -> Firmware {
    build(options).unwrap_or_else(|e| panic!("firmware/run {options:?}:\n{e}"))
}

/// Everything that models can need of a decoder.
const ALL: &str = "model-in-flash,portable,classic,shaping,encoder,cross,normalizers,unigram,wordpiece";

/// The firmware that finds its model in flash of its own, whatever that needs.
fn without_model(board: &str) -> Firmware {
    built(&["--board", board, "--features", ALL])
}

/// A file for this test run.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

impl Firmware {
    /// Sends lines, with a model in flash if there is one.
    fn hears(&self, model: Option<&Path>, lines: &[u8]) -> Said {
        let mut child = Command::new(common::repository("firmware/runner"))
            .arg(&self.elf)
            .env("THUMBFORMER_FLASH", model.unwrap_or(Path::new("")))
            .env("THUMBFORMER_TIMEOUT", "600")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("firmware/runner starts");
        let mut input = child.stdin.take().expect("a pipe");
        std::thread::scope(|scope| {
            // A firmware that ends early does not read it all.
            scope.spawn(move || {
                let _ = input.write_all(lines);
            });
            let output = child.wait_with_output().expect("it ends");
            Said {
                code: output.status.code(),
                answers: String::from_utf8(output.stdout).expect("answers are text"),
                log: String::from_utf8(output.stderr).expect("logs are text"),
            }
        })
    }
}

impl Said {
    /// It ended well. Answers line by line.
    fn lines(&self) -> Vec<&str> {
        assert_eq!(self.code, Some(0), "{}", self.log);
        self.answers.lines().collect()
    }

    /// Interrupts included, half of the stack was enough.
    fn used_little_stack(&self, board: &str) {
        self.used_stack_below(board, 8 << 10);
    }

    fn used_stack_below(&self, board: &str, most: u32) {
        let stack = self.logged("stack:").last().copied().expect("it says so after every answer");
        println!("{board}: stack: {stack}");
        let used = stack.split(' ').next().and_then(|used| used.parse().ok());
        assert!(used.is_some_and(|used: u32| used < most), "{board}: {stack}");
    }

    /// What follows a word at the beginning of log messages.
    fn logged<'s>(&'s self, word: &str) -> Vec<&'s str> {
        let messages = self.log.lines().filter_map(|line| line.strip_prefix("INFO"));
        messages.filter_map(|line| line.trim_start().strip_prefix(word)?.strip_prefix(' ')).collect()
    }
}

/// What the desktop answers.
struct Answer {
    ids: Vec<u32>,
    digest: Digest,
}

/// By the portable backend: the definition of every result. An encoder-decoder's prompt is the source that it answers, an
/// encoder's the text that it fills in.
fn on_the_desk(model: Model<'_>, prompt: &[u32], context: u32) -> Answer {
    let plan = Plan::for_model(&model, Limits::new(context, 5)).expect("a plan");
    let (mut cache, mut scratch) = (vec![0; plan.cache_bytes()], vec![0; plan.scratch_bytes()]);
    let session = Session::with(model, &plan, &mut cache, &mut scratch, Backend::PORTABLE, Serial);
    let mut session = session.expect("buffers as planned");
    let mut answer = Answer { ids: Vec::new(), digest: Digest::new() };
    if model.arch().is_encoder() {
        session.encode(prompt, &[]).expect("a good text");
        let fill = |(position, &id): (usize, &u32)| {
            if Some(id) != model.special().mask {
                return id;
            }
            let logits = session.token_logits(position).expect("a position");
            answer.digest.update(logits);
            argmax(logits)
        };
        answer.ids = prompt.iter().enumerate().map(fill).collect();
        return answer;
    }
    let start: Vec<u32> = model.special().start.into_iter().chain(model.special().second).collect();
    let prompt = if model.arch().cross {
        session.encode_source(prompt).expect("a good source");
        &start
    } else {
        prompt
    };
    let mut logits = session.prefill(prompt).expect("a good prompt");
    loop {
        answer.digest.update(logits);
        let id = argmax(logits);
        answer.ids.push(id);
        if model.special().end().contains(&id) || session.position() == session.context() {
            return answer;
        }
        logits = session.step(id).expect("room");
    }
}

fn convert(folder: &Path, packing: Packing) -> AlignedBytes {
    let options = Options { packing, calibration: Calibration::None, ..Options::default() };
    let prepared = Prepared::open(folder, options).expect("a good checkpoint");
    prepared.to_memory(&Silent).expect("finite numbers").0
}

fn request(ids: &[u32]) -> String {
    let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
    format!("ids:{}\n", ids.join(","))
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn the_bundled_model_answers_as_on_the_desk() {
    let pairs = std::fs::read_to_string(common::repository("tests/models/home-commands/held_out.tsv")).expect("pairs");
    let pairs: Vec<_> = pairs.lines().filter_map(|line| line.split_once('\t')).take(12).collect();
    let lines: String = pairs.iter().map(|(request, _)| format!("{request}\n")).collect();
    // The build script converts with the defaults.
    let folder = common::repository("tests/models/home-commands");
    let prepared = Prepared::open(&folder, Options { packing: PACKING, ..Options::default() }).expect("a checkpoint");
    let (blob, _) = prepared.to_memory(&Silent).expect("finite numbers");
    let model = Model::new(&blob).expect("a good blob");
    let tokenizer = model.tokenizer().expect("a tokenizer");
    for board in CORES {
        let said = built(&["--board", board]).hears(None, lines.as_bytes());
        assert_eq!(said.logged("kernel"), ["dsp"], "{board}");
        let answers = said.lines();
        assert_eq!(answers.len(), pairs.len(), "{said:?}");
        let digests = said.logged("digest");
        for (((request, expected), answer), digest) in pairs.iter().zip(answers).zip(digests) {
            assert_eq!(answer, *expected, "{board}: {request}");
            let (mut workspace, mut ids) = (vec![0; 2048], vec![0; 128]);
            let count = tokenizer.encode_prompt(request, &mut workspace, &mut ids).expect("it fits");
            let desk = on_the_desk(model, &ids[..count], 128);
            assert_eq!(digest, format!("{:016x}", desk.digest.value()), "{board}: {request}");
        }
        assert_eq!(said.logged("digest").len(), pairs.len());
        said.used_little_stack(board);
    }
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn every_model_gives_the_desktops_bits() {
    for board in CORES {
        let (firmware, plain) = (without_model(board), built(&["--board", board, "--features", "model-in-flash"]));
        let mut run_by_both = 0;
        // The demonstration answers texts; what only encodes them is compared by the table of targets.
        let answers = |name: &String| common::open(&common::model(name), None).1.arch.causal;
        for name in common::models().into_iter().filter(answers) {
            // Both layouts: each has the other's kernel fall back.
            for layout in [Layout::Dsp, Layout::Rows8] {
                let blob = convert(&common::model(&name), Packing { layout, ..PACKING });
                let model = Model::new(&blob).expect("a good blob");
                let arch = model.arch();
                let reader = model.source().map_or(*arch, |encoder| *encoder.arch());
                let length = reader.context.min(arch.context) * 2 / 3;
                let prompt: Vec<u32> = (0..length).map(|i| (i * 7 + 3) % reader.vocab).collect();
                let path = file(&format!("every-{board}.thumb"), &blob);
                let said = firmware.hears(Some(&path), request(&prompt).as_bytes());
                let desk = on_the_desk(model, &prompt, arch.context);
                said.lines();
                assert_eq!(said.logged("tokens"), [format!("{:?}", desk.ids)], "{board}: {name}, {layout:?}: {said:?}");
                let digest = format!("{:016x}", desk.digest.value());
                assert_eq!(said.logged("digest"), [digest.as_str()], "{board}: {name}, {layout:?}");
                println!("{board}\t{name}\t{layout:?}\t{digest}");

                // Without any feature, either the same or a word on what is missing.
                let said = plain.hears(Some(&path), request(&prompt).as_bytes());
                let needed: Vec<_> = Feature::ALL.into_iter().filter(|&feature| model.needs(feature)).collect();
                if !needed.is_empty() {
                    let error = said.log.lines().last().unwrap_or_default();
                    let named = needed.iter().any(|feature| error.contains(&format!("\"{}\"", feature.name())));
                    assert!(named, "{board}: {name}, {layout:?}: {said:?}");
                    assert_eq!((said.code, said.answers.as_str()), (Some(1), ""), "{board}: {name}, {layout:?}");
                } else {
                    assert_eq!(said.logged("digest"), [digest.as_str()], "{board}: {name}, {layout:?}: {said:?}");
                    run_by_both += 1;
                }
            }
        }
        assert!(run_by_both >= 3, "only {run_by_both} models need nothing");
    }
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn sources_are_read_by_their_own_tokenizer() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("marian");
    std::fs::create_dir_all(&folder).expect("a folder");
    common::marian_of_two_vocabularies(&folder, "the lamp");
    let blob = convert(&folder, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let path = file("marian.thumb", &blob);
    let (mut workspace, mut ids) = (vec![0; 2048], vec![0; 64]);
    let tokenizer = model.source_tokenizer().expect("a tokenizer");
    let options = EncodeOptions::default();
    let count = tokenizer.encode("the lamp", options, &mut workspace, &mut ids).expect("it fits");
    let desk = on_the_desk(model, &ids[..count], 9);
    let text = thumbformer_convert::tokenizer::decode(model.tokenizer().expect("a tokenizer"), &desk.ids, true);
    assert!(!text.is_empty());
    let too_long = request(&[20; 10]);
    for board in CORES {
        // Sized when it is built, and when it starts.
        let built_in = built(&["--board", board, "--model", self::text(&path), "--context", "9", "--features", MARIAN]);
        let alloc = built(&["--board", board, "--context", "9", "--features", ALL]);
        for (firmware, model) in [(built_in, None), (alloc, Some(path.as_path()))] {
            let said = firmware.hears(model, format!("the lamp\n{too_long}\nthe lamp").as_bytes());
            assert_eq!(said.lines(), [&text, "", "", &text], "{board}: {}", said.log);
            assert_eq!(
                said.logged("tokens"),
                [format!("{:?}", desk.ids), format!("{:?}", desk.ids)],
                "{board}: {said:?}"
            );
            let digest = format!("{:016x}", desk.digest.value());
            assert_eq!(said.logged("digest"), [digest.as_str(); 2], "{board}: {said:?}");
            assert!(said.log.contains("OutputFull"), "{board}: {}", said.log);
            // Two models in one are checked.
            said.used_stack_below(board, 12 << 10);
        }
    }
    let error = build(&["--model", self::text(&path)]).err().expect("it needs features");
    assert!(error.contains(&format!("cargo run --release --features {MARIAN}\n")), "{error}");
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn masks_are_filled_in() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bert");
    common::encoder_with_vocabulary("bert", &folder);
    let blob = convert(&folder, PACKING);
    let model = Model::new(&blob).expect("a good blob");
    let path = file("bert.thumb", &blob);
    let (mut workspace, mut ids) = (vec![0; 2048], vec![0; 48]);
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let text = "Paris is [MASK] capital of [MASK].";
    let count = tokenizer.encode(text, EncodeOptions::default(), &mut workspace, &mut ids).expect("it fits");
    let desk = on_the_desk(model, &ids[..count], 48);
    let filled = thumbformer_convert::tokenizer::decode(tokenizer, &desk.ids, true);
    assert!(filled.starts_with("paris is ") && !filled.contains("[MASK]"), "{filled}");
    let digest = format!("{:016x}", desk.digest.value());
    let lines = format!("{text}\nparis is the capital.\n{}{text}", request(&ids[..count]));
    for board in CORES {
        // Sized when it is built, and when it starts.
        let built_in = built(&["--board", board, "--model", self::text(&path), "--features", BERT]);
        for (firmware, model) in [(built_in, None), (without_model(board), Some(path.as_path()))] {
            let said = firmware.hears(model, lines.as_bytes());
            assert_eq!(said.lines(), [&filled, "", &filled, &filled], "{board}: {}", said.log);
            assert_eq!(said.logged("tokens"), vec![format!("{:?}", desk.ids); 3], "{board}: {said:?}");
            assert_eq!(said.logged("digest"), [digest.as_str(); 3], "{board}: {said:?}");
            assert!(said.log.contains("NoMask"), "{board}: {}", said.log);
            said.used_stack_below(board, 12 << 10);
        }
    }
    let error = build(&["--model", self::text(&path)]).err().expect("it needs features");
    assert!(error.contains(&format!("cargo run --release --features {BERT}\n")), "{error}");
}

/// What the BERT of the tests needs.
const BERT: &str = "classic,encoder,normalizers,wordpiece";

/// What the Marian of the tests needs.
const MARIAN: &str = "classic,encoder,cross,normalizers,unigram";

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn a_model_with_a_damaged_byte_is_refused() {
    let blob = tiny::blob();
    let end = HEADER_BYTES + tiny::TENSORS * ENTRY_BYTES;
    assert!(Model::new(&blob).is_ok());
    // Every byte of head and table on one core; the other has the same parser, so a sample does.
    for (board, step) in CORES.into_iter().zip([1, 13]) {
        let firmware = without_model(board);
        let good = firmware.hears(Some(&file("good.thumb", &blob)), b"ids:1\n");
        assert_eq!(good.lines().len(), 1, "{good:?}");
        for at in (0..end).step_by(step) {
            let mut damaged = blob.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let said = firmware.hears(Some(&file(&format!("damaged-{board}.thumb"), &damaged)), b"ids:1\n");
            assert_eq!((said.code, said.answers.as_str()), (Some(1), ""), "byte {at} on {board}: {said:?}");
            let error = said.log.lines().last().expect("an error");
            let refused = error.contains("ModelRefused(") || error.contains("NoModel(");
            assert!(error.starts_with("ERROR") && refused, "byte {at} on {board}: {}", said.log);
        }
        for (bytes, error) in [(&blob[..1000], "ModelRefused("), (&[0xFF; 4096], "NoModel("), (&[], "NoModel(")] {
            let said = firmware.hears(Some(&file(&format!("damaged-{board}.thumb"), bytes)), b"ids:1\n");
            assert_eq!(said.code, Some(1), "{board}: {said:?}");
            assert!(said.log.contains(error), "{board}: {said:?}");
        }
    }
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn nothing_that_it_is_sent_stops_it() {
    let good = "please dim the bedroom lamp to forty percent";
    let bad: [(&[u8], &str); 9] = [
        (b"", "Empty"),
        (b"\r", "Empty"),
        (b"\xFF\xFE light", "NotUtf8"),
        (b"cut \xE2\x82", "NotUtf8"),
        (&[b'a'; 600], "TooLong"),
        (&[b'x'; 512], "OutputFull"),
        (b"ids:1,two", "NotIds"),
        (b"ids:512", "vocab: 512"),
        (b"ids:", "NotIds"),
    ];
    let mut lines = Vec::new();
    for (line, _) in bad {
        lines.extend_from_slice(line);
        lines.extend_from_slice(format!("\n{good}\n").as_bytes());
    }
    // The last line need not end.
    lines.extend_from_slice(good.as_bytes());
    for board in CORES {
        let said = built(&["--board", board]).hears(None, &lines);
        let expected: Vec<_> = bad.iter().flat_map(|_| ["", "light.dim(bedroom,40)"]).collect();
        assert_eq!(said.lines(), [expected, vec!["light.dim(bedroom,40)"]].concat(), "{board}: {}", said.log);
        let errors: Vec<_> = said.log.lines().filter(|line| line.starts_with("ERROR")).collect();
        assert_eq!(errors.len(), bad.len(), "{board}: {errors:?}");
        for ((line, reason), error) in bad.iter().zip(errors) {
            assert!(error.contains(reason), "{board}: {:?} gave {error}", String::from_utf8_lossy(line));
        }
    }
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn ten_thousand_requests_leave_it_as_it_was() {
    let blob = tiny::blob();
    let model = Model::new(&blob).expect("a good blob");
    let arch = *model.arch();
    let path = file("many.thumb", &blob);
    let prompts: Vec<Vec<u32>> =
        (1..=5).map(|n| (0..n.min(arch.context)).map(|i| (i * 2 + n) % arch.vocab).collect()).collect();
    let requests: Vec<String> = prompts.iter().map(|prompt| request(prompt)).collect();
    let too_long = request(&vec![1; arch.context as usize + 1]);
    let kinds: Vec<&[u8]> =
        requests.iter().map(|r| r.as_bytes()).chain([too_long.as_bytes(), b"\n", b"\xC0\n"]).collect();
    let desk: Vec<_> = prompts.iter().map(|prompt| on_the_desk(model, prompt, arch.context).digest).collect();
    for board in CORES {
        let lines: Vec<u8> = (0..10_000).flat_map(|i| kinds[i % kinds.len()]).copied().collect();
        // What answers sources checks two models in one, and takes more of the stack than the bound that all else keeps.
        let features = ALL.replace("cross,", "");
        let said = built(&["--board", board, "--features", &features]).hears(Some(&path), &lines);
        assert_eq!(said.lines().len(), 10_000, "{board}");
        let digests = said.logged("digest");
        assert_eq!(digests.len(), 10_000 / 8 * 5, "{board}");
        for (digest, desk) in digests.iter().zip(desk.iter().cycle()) {
            assert_eq!(*digest, format!("{:016x}", desk.value()), "{board}");
        }
        said.used_little_stack(board);
    }
}

/// A model of random weights, and its file.
fn random(name: &str, arch: Arch) -> (AlignedBytes, PathBuf) {
    let blob = Synthetic { arch, seed: 1 }.blob(PACKING).expect("a valid shape");
    let path = file(name, &blob);
    (blob, path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn what_does_not_fit_does_not_build() {
    // Both memories of the emulated board have 4 MiB; the stack takes 16 KiB of the RAM.
    let (flash, ram) = (4 << 20, (4 << 20) - (16 << 10));
    let (blob, path) = random("large.thumb", llama(512, 256, 8, 4, 4, 512, 64));
    let error = build(&["--model", text(&path)]).err().expect("it is too large");
    let missing = blob.len() as u64 + Memories::FIRMWARE_FLASH - flash;
    let expected = format!("does not fit the flash of mps2-an500: {missing} bytes are missing");
    assert!(error.contains(&expected), "expected {expected:?}: {error}");

    // 520 bytes of keys, values and scales for each position and layer: 8192 positions are 4 MiB and more.
    let (blob, path) = random("long.thumb", llama(64, 256, 1, 1, 1, 32, 8192));
    let header = *Model::new(&blob).expect("a good blob").header();
    let needed = |context| {
        let plan = Plan::for_header(&header, Limits::new(context, 8)).expect("a plan");
        (plan.cache_bytes() + plan.scratch_bytes()) as u64 + Memories::firmware_ram(context)
    };
    let fits = (1..8192).rev().find(|&context| needed(context) <= ram).expect("a context");
    let error = build(&["--model", text(&path)]).err().expect("its context is too long");
    let expected =
        format!("a context of 8192 does not fit the RAM of mps2-an500: {} bytes are missing", needed(8192) - ram);
    assert!(error.contains(&expected), "expected {expected:?}: {error}");
    assert!(error.contains(&format!("THUMBFORMER_CONTEXT={fits}")), "expected {fits}: {error}");

    // The advice is good, and exact.
    let shorter = built(&["--model", text(&path), "--context", &fits.to_string()]);
    let said = shorter.hears(None, b"");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.log.contains(&format!("context {fits}")), "{}", said.log);
    assert!(build(&["--model", text(&path), "--context", &(fits + 1).to_string()]).is_err());
    let error = build(&["--context", "129"]).err().expect("longer than the bundled model's");
    assert!(error.contains("exceeds the model's context of 128"), "{error}");
    let error = build(&["--context", "many"]).err().expect("not a number");
    assert!(error.contains("no number of positions"), "{error}");
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn what_does_not_fit_a_heap_is_refused_at_the_start() {
    let (_, path) = random("long-heap.thumb", llama(64, 256, 1, 1, 1, 32, 8192));
    let said = without_model("mps2-an500").hears(Some(&path), b"ids:1\n");
    assert_eq!(said.code, Some(1), "{said:?}");
    let fits = said.log.split("would_fit: ").nth(1).and_then(|rest| rest.split([' ', '}']).next());
    let fits = fits.unwrap_or_else(|| panic!("no advice: {}", said.log));
    // Another file than the firmware was built for, and a context of its own: the advice is good.
    let shorter = built(&["--features", ALL, "--context", fits]);
    let said = shorter.hears(Some(&path), b"");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.log.contains(&format!("context {fits}")), "{}", said.log);
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn a_wrong_build_says_what_to_do() {
    let error = build(&["--board", "arduino-uno"]).err().expect("there is no such board");
    assert!(error.contains("unknown board arduino-uno; known are: mps2-an500 "), "{error}");
    let error = build(&["--model", "nowhere.thumb"]).err().expect("there is no such file");
    assert!(error.contains("nowhere.thumb"), "{error}");
    let error = build(&["--model", "Cargo.toml"]).err().expect("it is no model");
    assert!(error.contains("not a .thumb file"), "{error}");
    let error = build(&["--features", "mps2-an505"]).err().expect("two boards");
    assert!(error.contains("the features of two boards are on: mps2-an500 and mps2-an505"), "{error}");
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn what_needs_a_feature_says_which_when_it_is_built() {
    let sized = llama(515, 64, 2, 4, 2, 96, 32);
    let shaped = Arch { window: 5, ..sized };
    let classic = gpt2(515, 64, 2, 4, 32);
    let rows8 = Packing { layout: Layout::Rows8, ..PACKING };
    for (name, arch, packing, features) in [
        ("shaped", shaped, PACKING, "shaping"),
        ("classic", classic, PACKING, "classic"),
        ("rows8", sized, rows8, "portable"),
        ("narrow", llama(64, 12, 1, 1, 1, 8, 16), PACKING, "portable"),
        ("both", shaped, rows8, "portable,shaping"),
    ] {
        let blob = Synthetic { arch, seed: 1 }.blob(packing).expect("a valid shape");
        let path = file(&format!("needs-{name}.thumb"), &blob);
        let error = build(&["--model", text(&path)]).err().unwrap_or_else(|| panic!("{name} needs {features}"));
        let names = features.split(',').map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        assert!(error.contains(&format!("needs-{name}.thumb needs the feature")), "{name}: {error}");
        assert!(error.contains(&format!(" {names}: cargo run --release --features {features}\n")), "{name}: {error}");
        let error = build(&["--board", CORES[1], "--model", text(&path)]).err().expect("no less on another board");
        let expected = format!("--features {},{features} --target thumbv8m.main-none-eabihf\n", CORES[1]);
        assert!(error.contains(&expected), "{name}: {error}");

        // The advice is good.
        let model = Model::new(&blob).expect("a good blob");
        let said = built(&["--model", text(&path), "--features", features]).hears(None, request(&[1, 2, 3]).as_bytes());
        let desk = on_the_desk(model, &[1, 2, 3], model.arch().context);
        assert_eq!(said.logged("digest"), [format!("{:016x}", desk.digest.value())], "{name}: {said:?}");
    }
    // Rows that are no multiple of a block's need nothing.
    let (blob, path) = random("odd.thumb", sized);
    let said = built(&["--model", text(&path)]).hears(None, request(&[1, 2, 3]).as_bytes());
    let desk = on_the_desk(Model::new(&blob).expect("a good blob"), &[1, 2, 3], sized.context);
    assert_eq!(said.logged("digest"), [format!("{:016x}", desk.digest.value())], "{said:?}");

    let mut damaged = blob.to_vec();
    damaged[blob.len() / 2] ^= 1;
    let error = build(&["--model", text(&file("damaged-build.thumb", &damaged))]).err().expect("it is damaged");
    assert!(error.contains("damaged-build.thumb: ") && error.contains("checksum"), "{error}");
}

#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn the_example_answers() {
    for board in CORES {
        let said = built(&["--board", board, "--example", "minimal"]).hears(None, b"");
        assert_eq!(said.code, Some(0), "{board}: {said:?}");
        assert_eq!(said.log.trim_end(), "light.dim(bedroom,40)", "{board}");
    }
}

/// A number behind `label` in a line of a table that starts so.
fn counted(table: &str, start: &str, label: &str) -> f64 {
    let line = table.lines().find(|line| line.trim_start().starts_with(start));
    let number = line.and_then(|line| line.split_once(label)?.1.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no number behind `{label}` of `{start}` in\n{table}"))
}

/// Exact, so that a kernel that has become slower shows. The bounds hold on a Cortex-M7; other cores are shown beside it.
#[test]
#[ignore = "builds firmware and needs qemu-system-arm"]
fn instructions_stay_within_their_bounds() {
    let (_, stories) = random("stories.thumb", llama(512, 64, 5, 8, 4, 172, 512));
    for board in CORES {
        let tables = [&[][..], &["--model", text(&stories)]].map(|model| {
            let said = built(&[&["--board", board, "--features", "portable", "--example", "counts"], model].concat())
                .hears(None, b"");
            assert_eq!(said.code, Some(0), "{}", said.log);
            println!("{board}:\n{}", said.answers);
            assert!(!said.answers.contains("WRONG"));
            said.answers
        });
        if board != "mps2-an500" {
            continue;
        }
        let [home, stories] = &tables;
        for (product, bound) in [
            ("768 x  288, group  64, 1", 1.10),
            ("64 x  172, group  32, 1", 1.30),
            ("172 x   64, group  32, 1", 1.30),
            ("96 x  256, group  32, 1", 1.30),
        ] {
            let each = counted(home, product, "tokens");
            assert!(each <= bound, "{product}: {each} instructions for each multiply-add");
        }
        for (positions, bound) in [("positions 16..17:", 1.6), ("positions 16..24:", 1.3)] {
            let each = counted(home, positions, "instructions, ");
            assert!(each <= bound, "{positions} {each} instructions for each multiply-add");
        }
        for (positions, bound) in [("positions 16..17:", 430_000.0), ("positions 256..257:", 900_000.0)] {
            let all = counted(stories, positions, positions);
            assert!(all <= bound, "{positions} {all} instructions");
        }
    }
}
