//! A hundred thousand seeded corruptions of each kind of file: opening, recognising and reading must end in a value or
//! in an error, never in a panic, a hang or an allocation of what a file merely claims.

use std::alloc::System;
use std::fs;
use std::path::Path;

use cap::Cap;
use serde_json::json;
use thumbformer_convert::checkpoint::pickle;
use thumbformer_convert::family;
use thumbformer_convert::source::{Overrides, Source};

mod tiny;
use tiny::{Tensors, fixture};

/// Far above what these small files need: an allocation beyond it fails, and the test aborts.
const MEMORY: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One to four changes within the first `within` bytes; one file in eight is cut off.
    fn corrupt(&mut self, bytes: &mut Vec<u8>, within: usize) {
        for _ in 0..=self.below(4) {
            let within = within.min(bytes.len());
            let at = self.below(within);
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes[at] = [0, 0xff, b'"', b'{', b'[', b'-', b'9', b'e'][self.below(8)],
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, self.next() as u8),
                5 => {
                    // A piece copied over another.
                    let len = self.below(24).min(within - at);
                    let from = self.below(within - len + 1);
                    bytes.copy_within(from..from + len, at);
                }
                _ => {
                    // A digit more: sizes that are too large.
                    if let Some(digit) = bytes[at..within].iter().position(u8::is_ascii_digit) {
                        let more = vec![b'9'; 1 + self.below(12)];
                        bytes.splice(at + digit..at + digit, more);
                    }
                }
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()).max(1));
        }
    }
}

/// Opens, recognises, reads everything. Whether it went through to the end.
fn use_it(path: &Path) -> bool {
    let Ok(source) = Source::find(path, &Overrides::default()) else { return false };
    let Ok(recipe) = family::recognise(&source) else { return false };
    let _ = source.special_tokens(recipe.arch.vocab);
    let mut out = Vec::new();
    recipe.tensors.iter().all(|tensor| {
        let rows = tensor.spec.rows as usize;
        out.resize(rows * tensor.spec.cols as usize, 0.0);
        recipe.read_rows(&source.checkpoint, tensor, 0..rows, &mut out).is_ok()
    })
}

/// `rounds` corruptions of `folder/file` by `corrupt`.
fn attack(folder: &Path, file: &str, rounds: usize, seed: u64, corrupt: impl Fn(&mut Random, &mut Vec<u8>)) {
    let path = folder.join(file);
    let good = fs::read(&path).expect("the file");
    assert!(use_it(folder), "{file} is good");
    let mut random = Random(seed);
    let mut survived = 0;
    for _ in 0..rounds {
        let mut bytes = good.clone();
        corrupt(&mut random, &mut bytes);
        fs::write(&path, &bytes).expect("written");
        survived += usize::from(use_it(folder));
    }
    // Some changes do no harm; if all or none did, this test would test nothing.
    assert!((rounds / 1000..rounds * 9 / 10).contains(&survived), "{file}: {survived} of {rounds} survived");
}

fn gpt2(folder: &Path) {
    let mut tensors =
        vec![("transformer.wte.weight".to_owned(), vec![5, 4]), ("transformer.wpe.weight".into(), vec![3, 4])];
    let layer = |name: &str| format!("transformer.h.0.{name}");
    for (name, rows, cols) in
        [("attn.c_attn", 12, 4), ("attn.c_proj", 4, 4), ("mlp.c_fc", 16, 4), ("mlp.c_proj", 4, 16)]
    {
        tensors.push((layer(&format!("{name}.weight")), vec![cols, rows]));
        tensors.push((layer(&format!("{name}.bias")), vec![rows]));
    }
    for name in [layer("ln_1"), layer("ln_2"), "transformer.ln_f".into()] {
        tensors.push((format!("{name}.weight"), vec![4]));
        tensors.push((format!("{name}.bias"), vec![4]));
    }
    Tensors(tensors).write(folder, |_, _, value| value);
    let config = json!({
        "model_type": "gpt2", "vocab_size": 5, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 3, "n_inner": 16,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "eos_token_id": [1, 2], "attn_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": true, "tie_word_embeddings": true
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
}

/// Memory where there is such a file system: files are written 100,000 times.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

#[test]
fn a_safetensors_header() {
    let folder = folder();
    gpt2(folder.path());
    let file = fs::read(folder.path().join("model.safetensors")).expect("the model");
    let header = 8 + u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
    attack(folder.path(), "model.safetensors", 100_000, 1, |random, bytes| {
        if random.below(2) == 0 {
            return random.corrupt(bytes, header);
        }
        // The header's length set right again, so that its content is met.
        let mut text = bytes[8..header].to_vec();
        random.corrupt(&mut text, usize::MAX);
        let len = (text.len() as u64).to_le_bytes();
        *bytes = [len.as_slice(), &text, &bytes[header..]].concat();
    });
}

#[test]
fn a_configuration() {
    let folder = folder();
    gpt2(folder.path());
    attack(folder.path(), "config.json", 100_000, 2, |random, bytes| random.corrupt(bytes, usize::MAX));
}

#[test]
fn a_zip_checkpoint() {
    let folder = folder();
    fs::copy(fixture("ckpt.pt"), folder.path().join("ckpt.pt")).expect("copied");
    attack(folder.path(), "ckpt.pt", 100_000, 3, |random, bytes| random.corrupt(bytes, usize::MAX));
}

#[test]
fn an_index_of_shards() {
    let folder = folder();
    gpt2(folder.path());
    let (model, shard) = (folder.path().join("model.safetensors"), folder.path().join("m-00001-of-00001.safetensors"));
    fs::rename(model, &shard).expect("renamed");
    let source = Source::find(&shard, &Overrides::default()).expect("one file");
    let names =
        source.checkpoint.tensors().map(|tensor| (tensor.name.to_owned(), "m-00001-of-00001.safetensors".into()));
    let map: serde_json::Map<String, serde_json::Value> = names.collect();
    let index = "model.safetensors.index.json";
    fs::write(folder.path().join(index), json!({"weight_map": map}).to_string()).expect("written");
    attack(folder.path(), index, 20_000, 4, |random, bytes| random.corrupt(bytes, usize::MAX));
}

#[test]
fn a_bare_pickle() {
    let good = fs::read(fixture("meta4.pkl")).expect("meta4.pkl");
    let mut random = Random(5);
    let mut survived = 0;
    for _ in 0..100_000 {
        let mut bytes = good.clone();
        random.corrupt(&mut bytes, usize::MAX);
        survived += usize::from(pickle::read(&bytes).is_ok());
    }
    assert!((1_000..90_000).contains(&survived), "{survived} survived");
}
