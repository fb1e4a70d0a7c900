//! Checkpoint files against what PyTorch reads from them (`tests/fixtures/checkpoints/make.py`), and bad ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use base64::Engine;
use serde::Deserialize;
use thumbformer_convert::Result;
use thumbformer_convert::checkpoint::pickle::{self, Value};
use thumbformer_convert::checkpoint::{Checkpoint, Dtype};
use thumbformer_convert::recipe::{Interleaved, Part};

mod tiny;
use tiny::{Tensors, Tiny, fixture, mentions};

#[derive(Deserialize)]
struct Expected {
    dtype: String,
    shape: Vec<usize>,
    values: String,
}

impl Expected {
    fn values(&self) -> Vec<f32> {
        let bytes = base64::prelude::BASE64_STANDARD.decode(&self.values).expect("base64");
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).expect_err(&path.display().to_string()).to_string()
}

/// Rows and columns as `read_part` counts them.
fn matrix(shape: &[usize]) -> (usize, usize) {
    match *shape {
        [] => (1, 1),
        [rows] => (rows, 1),
        [rows, cols] => (rows, cols),
        _ => panic!("{shape:?}"),
    }
}

fn read(checkpoint: &Checkpoint, part: &Part, rows: std::ops::Range<usize>, cols: usize) -> Result<Vec<f32>> {
    let mut out = vec![f32::NAN; rows.len() * cols];
    checkpoint.read_part(part, rows, cols, &mut out).map(|()| out)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_value_is_pytorchs() {
    let expected = fs::read(fixture("expected.json")).expect("expected.json");
    let expected: BTreeMap<String, BTreeMap<String, Expected>> = serde_json::from_slice(&expected).expect("JSON");
    let mut compared = 0;
    for (file, tensors) in &expected {
        let checkpoint = open(file);
        for (name, tensor) in tensors {
            let info = checkpoint.tensor(name).unwrap_or_else(|| panic!("{file}: {name}"));
            assert_eq!(
                (info.shape, info.dtype.to_string()),
                (tensor.shape.as_slice(), tensor.dtype.clone()),
                "{file}: {name}"
            );
            let (rows, cols) = matrix(info.shape);
            let values = tensor.values();
            let whole = read(&checkpoint, &Part::whole(name, rows), 0..rows, cols).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(bits(&whole), bits(&values), "{file}: {name}");
            // The same transposed, in pieces of rows that cross tiles.
            let transposed: Vec<f32> = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
            let part = Part { transposed: true, ..Part::whole(name, cols) };
            let mut pieces = Vec::new();
            for start in (0..cols).step_by(5) {
                let piece = read(&checkpoint, &part, start..cols.min(start + 5), rows);
                pieces.extend(piece.unwrap_or_else(|e| panic!("{e}")));
            }
            assert_eq!(bits(&pieces), bits(&transposed), "{file}: {name}, transposed");
            compared += values.len();
        }
    }
    assert!(compared > 40_000, "{compared}");
}

#[test]
fn other_types_are_listed_but_not_read() {
    for (file, name) in [("types.safetensors", "I64"), ("types.pt", "long")] {
        let checkpoint = open(file);
        let info = checkpoint.tensor("ids").expect("ids");
        assert_eq!((info.shape, info.dtype), ([2, 3].as_slice(), &Dtype::Other(name.into())));
        let error = read(&checkpoint, &Part::whole("ids", 2), 0..2, 3).expect_err("integers").to_string();
        mentions(&error, &[file, "`ids`", name, "f32, f16, bf16 or f64"]);
    }
}

#[test]
fn a_pickled_state_dict_lists_its_tensors() {
    let checkpoint = open("strided.pt");
    assert_eq!(checkpoint.tensors().count(), 14);
    assert_eq!(checkpoint.shape("empty"), Some([0, 3].as_slice()));
    assert_eq!(checkpoint.shape("nothing"), None);
    assert_eq!(checkpoint.file_of("base"), fixture("strided.pt"));
    assert!(checkpoint.model_args().is_none());
    let args = open("ckpt.pt").model_args().cloned().expect("model_args");
    let expected = serde_json::json!({
        "n_layer": 2, "n_head": 2, "n_embd": 6, "block_size": 5, "bias": false, "vocab_size": 10, "dropout": 0.0
    });
    assert_eq!(serde_json::Value::Object(args), expected);
}

#[test]
fn parts_are_rows_of_a_tensor() {
    let tensors = Tensors(vec![("m".into(), vec![8, 3]), ("v".into(), vec![8])]);
    let tiny = Tiny::new(&tensors, None);
    let checkpoint = Checkpoint::open(tiny.folder.path()).expect("opened");
    let rows = |rows: &[usize]| rows.iter().flat_map(|&row| tensors.row("m", row)).collect::<Vec<_>>();

    let part = Part { first_row: 2, rows: 5, ..Part::whole("m", 0) };
    assert_eq!(read(&checkpoint, &part, 1..4, 3).expect("rows"), rows(&[3, 4, 5]));
    let halved = Part { scale: 0.5, ..part.clone() };
    let expected: Vec<f32> = rows(&[3]).iter().map(|x| x * 0.5).collect();
    assert_eq!(read(&checkpoint, &halved, 1..2, 3).expect("rows"), expected);
    // Two heads of four rows, of which all rotate: pairs (0, 1), (2, 3) become (0, 2), (1, 3).
    let whole = Interleaved { head_dim: 4, rotary_dim: 4 };
    let pairs = Part { interleaved: Some(whole), ..Part::whole("m", 8) };
    assert_eq!(read(&checkpoint, &pairs, 0..8, 3).expect("rows"), rows(&[0, 2, 1, 3, 4, 6, 5, 7]));
    assert_eq!(read(&checkpoint, &pairs, 5..7, 3).expect("rows"), rows(&[6, 5]));
    let v = |of: &[usize]| of.iter().map(|&i| tensors.value("v", i)).collect::<Vec<_>>();
    let pairs = Part { interleaved: Some(whole), ..Part::whole("v", 8) };
    assert_eq!(read(&checkpoint, &pairs, 0..8, 1).expect("rows"), v(&[0, 2, 1, 3, 4, 6, 5, 7]));
    // One head of eight rows, of which four rotate.
    let partial = Part { interleaved: Some(Interleaved { head_dim: 8, rotary_dim: 4 }), ..Part::whole("v", 8) };
    assert_eq!(read(&checkpoint, &partial, 0..8, 1).expect("rows"), v(&[0, 2, 1, 3, 4, 5, 6, 7]));

    // What a part may not ask for.
    for (part, rows, cols) in [
        (Part::whole("w", 8), 0..8, 3),
        (Part::whole("m", 8), 0..8, 2),
        (Part::whole("m", 9), 0..8, 3),
        (Part::whole("m", 8), 4..9, 3),
        (Part { first_row: usize::MAX, ..Part::whole("m", 8) }, 0..1, 3),
        (Part { transposed: true, ..Part::whole("m", 8) }, 0..8, 3),
        (Part { interleaved: Some(Interleaved { head_dim: 0, rotary_dim: 0 }), ..Part::whole("m", 8) }, 0..8, 3),
        (Part { interleaved: Some(Interleaved { head_dim: 4, rotary_dim: 6 }), ..Part::whole("m", 8) }, 0..8, 3),
        (Part { interleaved: Some(Interleaved { head_dim: 6, rotary_dim: 6 }), ..Part::whole("m", 8) }, 0..8, 3),
    ] {
        assert!(read(&checkpoint, &part, rows, cols).is_err(), "{part:?}");
    }
    assert!(checkpoint.read_part(&Part::whole("m", 8), 0..2, 3, &mut [0.0; 5]).is_err());
}

#[test]
fn values_that_are_not_finite_are_found() {
    let tensors = Tensors(vec![("m".into(), vec![3, 1100]), ("v".into(), vec![2000])]);
    let tiny = Tiny::changed(&tensors, None, |name, i, value| match (name, i) {
        ("m", 2300) => f32::NAN,
        ("v", 1999) => f32::NEG_INFINITY,
        _ => value,
    });
    let checkpoint = Checkpoint::open(tiny.folder.path()).expect("opened");
    let error = |part: Part, rows, cols| read(&checkpoint, &part, rows, cols).expect_err("not finite").to_string();
    mentions(&error(Part::whole("m", 3), 0..3, 1100), &["model.safetensors", "`m`", "NaN at [2, 100]", "finite"]);
    mentions(&error(Part::whole("m", 3), 2..3, 1100), &["NaN at [2, 100]"]);
    let transposed = Part { transposed: true, ..Part::whole("m", 1100) };
    mentions(&error(transposed.clone(), 90..101, 3), &["NaN at [2, 100]"]);
    assert!(read(&checkpoint, &transposed, 0..100, 3).is_ok());
    mentions(&error(Part::whole("v", 2000), 0..2000, 1), &["`v`", "-inf at [1999]"]);
    assert!(read(&checkpoint, &Part::whole("v", 2000), 0..1999, 1).is_ok());

    // Beyond f32's range, in double precision.
    let folder = tempfile::tempdir().expect("a folder");
    let bytes: Vec<u8> = [1.0, -1e300, 2.0, 3.0].into_iter().flat_map(f64::to_le_bytes).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![2, 2], &bytes).expect("a view");
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file([("wide", view)], None, &path).expect("written");
    let checkpoint = Checkpoint::open(&path).expect("opened");
    let error = read(&checkpoint, &Part::whole("wide", 2), 0..2, 2).expect_err("too large").to_string();
    mentions(&error, &["`wide`", "-1e300 at [0, 1]", "finite f32"]);
}

#[test]
fn equal_tensors_are_recognised() {
    let tensors =
        Tensors(vec![("a".into(), vec![700, 101]), ("b".into(), vec![700, 101]), ("c".into(), vec![101, 700])]);
    let equal = Tiny::changed(&tensors, None, |_, i, _| i as f32);
    let other = Tiny::changed(&tensors, None, |name, i, _| i as f32 + f32::from(name == "b" && i == 70_699));
    let open = |tiny: &Tiny| Checkpoint::open(tiny.folder.path()).expect("opened");
    assert!(open(&equal).same_values("a", "b"));
    assert!(!open(&equal).same_values("a", "c"));
    assert!(!open(&equal).same_values("a", "nothing"));
    assert!(!open(&other).same_values("a", "b"));
    // A head and an embedding that were tied when they were saved.
    assert!(self::open("ckpt.pt").same_values("_orig_mod.lm_head.weight", "_orig_mod.transformer.wte.weight"));
}

#[test]
fn pickles_are_read_but_not_executed() {
    mentions(&error_of(&fixture("attack.pt")), &["attack.pt", "system", "not executed"]);
    mentions(
        &error_of(&fixture("whole_module.pt")),
        &["whole_module.pt", "torch.nn.modules.linear.Linear", "state_dict"],
    );
    let attack = fs::read(fixture("attack.pkl")).expect("attack.pkl");
    mentions(&pickle::read(&attack).expect_err("an attack").to_string(), &["system"]);
    let text = fs::read(fixture("meta0.pkl")).expect("a pickle");
    mentions(&pickle::read(&text).expect_err("protocol 0").to_string(), &["opcode", "plain data"]);
    assert!(!Path::new("thumbformer-was-here").exists());
}

#[test]
fn nanogpts_meta_pkl_is_plain_data() {
    let characters = ["\n", " ", "!", "a", "b", "c", "é", "世", "🙂"];
    for protocol in 1..6 {
        let bytes = fs::read(fixture(&format!("meta{protocol}.pkl"))).expect("a pickle");
        let pickle = pickle::read(&bytes).unwrap_or_else(|error| panic!("{protocol}: {error}"));
        let Value::Dict(root) = pickle.root() else { panic!("{:?}", pickle.root().kind()) };
        assert!(matches!(root.get("vocab_size"), Some(Value::Int(9))));
        let Some(Value::Dict(itos)) = root.get("itos") else { panic!("itos") };
        for (i, (key, value)) in itos.iter().enumerate() {
            assert!(matches!((key, value), (Value::Int(k), Value::Str(c)) if k == i as i64 && c == characters[i]));
        }
        let Some(Value::Dict(stoi)) = root.get("stoi") else { panic!("stoi") };
        assert_eq!((itos.len(), stoi.len()), (9, 9));
        assert!(matches!(stoi.get("世"), Some(Value::Int(7))));
    }
}

#[test]
fn pickles_that_would_explode_do_not() {
    // 10⁶⁰ lists for Python, 600 references here.
    let bomb = fs::read(fixture("bomb.pkl")).expect("bomb.pkl");
    let pickle = pickle::read(&bomb).expect("a list");
    let (mut value, mut depth) = (pickle.root(), 0);
    while let Value::List(list) = value
        && let Some(first) = list.iter().next()
    {
        assert_eq!(list.len(), 10);
        (value, depth) = (first, depth + 1);
    }
    assert_eq!(depth, 60);
    let itself = fs::read(fixture("itself.pkl")).expect("itself.pkl");
    let pickle = pickle::read(&itself).expect("a list in itself");
    assert!(matches!(pickle.root(), Value::List(list) if matches!(list.iter().next(), Some(Value::List(_)))));
    // More values than the cap; lengths of 2⁶⁴ − 1 and 2³² − 1; memo entries that do not exist.
    let many = [b"\x80\x02(".as_slice(), &vec![b'N'; pickle::MAX_VALUES + 1]].concat();
    mentions(&pickle::read(&many).expect_err("too many").to_string(), &["more than 8388608 values"]);
    let long = [b"\x80\x04\x8d".as_slice(), &[0xff; 12]].concat();
    mentions(&pickle::read(&long).expect_err("too long").to_string(), &["ends too early"]);
    assert!(pickle::read(b"\x80\x02j\xff\xff\xff\xff.").is_err());
}

#[test]
fn malformed_pickles_say_where() {
    for (bytes, words) in [
        (b"".as_slice(), ["byte 0", "ends too early"]),
        (b"\x80\x02", ["byte 2", "ends too early"]),
        (b"\x80\x06N.", ["byte 0", "protocol 6"]),
        (b"\x80\x02.", ["byte 2", "empty stack"]),
        (b"\x80\x02(.", ["byte 3", "empty stack"]),
        (b"\x80\x02N(\x85.", ["byte 4", "empty stack"]),
        (b"\x80\x02t.", ["byte 2", "without a mark"]),
        (b"\x80\x02NNa.", ["byte 4", "not a list"]),
        (b"\x80\x02NNNs.", ["byte 5", "not a dict"]),
        (b"\x80\x02}(Nu.", ["byte 5", "key without a value"]),
        (b"\x80\x02h\x00.", ["byte 2", "memo entry 0"]),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", ["byte 2", "UTF-8"]),
        (b"\x80\x02\x8a\x09123456789.", ["byte 2", "64 bits"]),
        (b"\x80\x02cos\nsystem\n.", ["byte 2", "`os.system`"]),
        (b"\x80\x02cos", ["byte 2", "within a name"]),
        (b"\x80\x04NN\x93.", ["byte 4", "not a str"]),
        (b"\x80\x02N)R.", ["byte 4", "not a known name"]),
        (b"\x80\x02ccollections\nOrderedDict\nNR.", ["byte 28", "not a tuple"]),
        (b"\x80\x02ccollections\nOrderedDict\nN\x85R.", ["byte 29", "OrderedDict with 1 arguments"]),
        (b"\x80\x02NNb.", ["byte 4", "not an OrderedDict"]),
        (b"\x80\x02NQ.", ["byte 3", "persistent id"]),
        (b"\x80\x02(ios\nsystem\n.", ["byte 3", "`i`"]),
    ] {
        mentions(&pickle::read(bytes).expect_err(&bytes.escape_ascii().to_string()).to_string(), &words);
    }
}

#[test]
fn checkpoints_that_are_none_say_what_they_are() {
    for (file, words) in [
        ("legacy.pt", ["legacy.pt", "before 1.6", "torch.save"]),
        ("compressed.pt", ["compressed.pt", "data/0", "compressed"]),
        ("big_endian.pt", ["big_endian.pt", "byte order `big`", "little"]),
        ("short_storage.pt", ["`b`", "3 elements", "the 4 it was saved with"]),
        ("expanded.pt", ["`a`", "[1000, 1000]", "at most the 1 elements"]),
        ("make.py", ["make.py", "neither a safetensors file", "zip checkpoint"]),
        ("meta4.pkl", ["meta4.pkl", "bare pickle", "zip checkpoint"]),
        ("no such file", ["no such file", "No such file", ""]),
    ] {
        mentions(&error_of(&fixture(file)), &words);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.bin");
    for (bytes, word) in [
        (b"".as_slice(), "empty file"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04 and no more", "damaged zip"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "damaged safetensors"),
    ] {
        fs::write(&path, bytes).expect("written");
        mentions(&error_of(&path), &["model.bin", word]);
    }
}

/// A zip file of stored entries.
fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, options).expect("started");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("finished").into_inner()
}

/// The pickle of `{"a": tensor}` with one-byte sizes.
fn tensor_pickle(key: &str, elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let text = |s: &str| [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let tuple = |items: &[u8]| [b"(".to_vec(), items.iter().flat_map(|&i| [b'K', i]).collect(), b"t".to_vec()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("a"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        vec![b'K', elements, b't', b'Q', b'K', offset],
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn tensors_must_lie_in_their_storage() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.pt");
    let write =
        |pickle: &[u8]| fs::write(&path, zip_of(&[("x/data.pkl", pickle), ("x/data/0", &[0; 24])])).expect("written");
    for (elements, offset, shape, strides) in [
        (6, 0, [2u8, 3], [3u8, 1]),
        (6, 0, [3, 2], [1, 3]),
        (6, 4, [1, 2], [9, 1]),
        (6, 9, [0, 3], [3, 1]),
        (6, 5, [1, 1], [0, 0]),
    ] {
        write(&tensor_pickle("0", elements, offset, &shape, &strides));
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let (rows, cols) = (usize::from(shape[0]), usize::from(shape[1]));
        assert_eq!(read(&checkpoint, &Part::whole("a", rows), 0..rows, cols).expect("zeros"), vec![0.0; rows * cols]);
    }
    for (pickle, words) in [
        (tensor_pickle("0", 7, 0, &[2, 3], &[3, 1]), ["6 elements", "the 7"]),
        (tensor_pickle("0", 6, 1, &[2, 3], &[3, 1]), ["from element 1", "6 elements"]),
        (tensor_pickle("0", 6, 0, &[2, 3], &[4, 1]), ["strides [4, 1]", "6 elements"]),
        (tensor_pickle("0", 6, 0, &[3, 3], &[1, 1]), ["shape [3, 3]", "6 elements"]),
        (tensor_pickle("0", 6, 0, &[2, 3], &[1]), ["2 dimensions", "1 strides"]),
        (tensor_pickle("0", 6, 0, &[255; 9], &[255; 9]), ["255", "overflow"]),
        (tensor_pickle("1", 6, 0, &[2, 3], &[3, 1]), ["damaged zip", "data/1"]),
        (tensor_pickle("../data.pkl", 6, 0, &[2, 3], &[3, 1]), ["damaged zip", "data/../data.pkl"]),
        (b"\x80\x02].".to_vec(), ["a list", "state dict"]),
        (b"\x80\x02}.".to_vec(), ["no state dict", "model"]),
        (b"\x80\x02}X\x01\0\0\0aNs.".to_vec(), ["no state dict", "`a`"]),
    ] {
        write(&pickle);
        mentions(&error_of(&path), &words);
    }
    let pickle = tensor_pickle("0", 6, 0, &[2, 3], &[3, 1]);
    for (entries, word) in [
        (vec![("x/data/0", [0u8; 24].as_slice())], "without data.pkl"),
        (vec![("x/data.pkl", &pickle), ("y/data.pkl", &pickle), ("x/data/0", &[0; 24])], "more than one data.pkl"),
        (vec![("x/data.pkl", &pickle), ("x/constants.pkl", &pickle), ("x/data/0", &[0; 24])], "TorchScript"),
    ] {
        fs::write(&path, zip_of(&entries)).expect("written");
        mentions(&error_of(&path), &["model.pt", word]);
    }
}

#[test]
fn shards_are_found_from_any_side() {
    let folder = fixture("sharded");
    let index = folder.join("pytorch_model.bin.index.json");
    for path in [folder.clone(), index.clone(), folder.join("pytorch_model-00002-of-00002.bin")] {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(checkpoint.path(), index);
        assert_eq!(checkpoint.tensors().map(|t| t.name).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(checkpoint.file_of("c"), folder.join("pytorch_model-00002-of-00002.bin"));
    }
}

#[test]
fn indices_must_match_their_shards() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors");
    let shard = |name: &str, tensors: &[&str]| {
        Tensors(tensors.iter().map(|t| ((*t).into(), vec![2])).collect()).write(folder.path(), |_, _, value| value);
        fs::rename(folder.path().join("model.safetensors"), folder.path().join(name)).expect("renamed");
    };
    let index = folder.path().join("m.safetensors.index.json");
    let write = |json: serde_json::Value| fs::write(&index, json.to_string()).expect("written");
    shard(one, &["a", "b"]);
    shard(two, &["c"]);
    write(serde_json::json!({"weight_map": {"a": one, "b": one, "c": two}}));
    assert!(Checkpoint::open(&folder.path().join(one)).is_ok());
    for (json, words) in [
        (serde_json::json!({}), ["weight_map", "index of shards"]),
        (serde_json::json!({"weight_map": {}}), ["without any tensor", ""]),
        (serde_json::json!({"weight_map": {"a": 1}}), ["index of shards", "string"]),
        (
            serde_json::json!({"weight_map": {"a": one, "b": one, "c": "gone.safetensors"}}),
            ["gone.safetensors", "No such file"],
        ),
        (serde_json::json!({"weight_map": {"a": one, "b": one, "c": two, "d": two}}), ["`d`", two]),
        (serde_json::json!({"weight_map": {"a": one, "b": two, "c": two}}), ["`b`", two]),
        (
            serde_json::json!({"weight_map": {"a": one, "c": "../m-00002-of-00002.safetensors"}}),
            ["weight_map.c", "beside the index"],
        ),
        (serde_json::json!({"weight_map": {"a": one, "c": "/etc/hostname"}}), ["weight_map.c", "beside the index"]),
    ] {
        write(json);
        mentions(&error_of(&index), &words);
    }
    shard(two, &["c", "a"]);
    write(serde_json::json!({"weight_map": {"a": one, "b": one, "c": two}}));
    mentions(&error_of(&index), &["`a`", one, two, "once"]);
}

#[test]
fn folders_are_searched_in_a_fixed_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    mentions(&error_of(path), &["without weights", "model.safetensors"]);
    let opened = || Checkpoint::open(path).map(|checkpoint| checkpoint.path().to_owned());
    let copy = |name: &str| fs::copy(fixture("small.pt"), path.join(name)).expect("copied");
    for name in ["other.bin", "mine.pth", "mine.pt", "ckpt.pt", "pytorch_model.bin"] {
        copy(name);
        assert_eq!(opened().expect("opened"), path.join(name));
    }
    fs::copy(fixture("types.safetensors"), path.join("model.safetensors")).expect("copied");
    assert_eq!(opened().expect("opened"), path.join("model.safetensors"));
    for name in ["model.safetensors", "pytorch_model.bin", "ckpt.pt"] {
        fs::remove_file(path.join(name)).expect("removed");
    }
    copy("yours.pt");
    mentions(&error_of(path), &["several checkpoints", "mine.pt", "yours.pt"]);
}
