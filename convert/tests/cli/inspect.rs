//! `thumbformer inspect`.

use super::*;

#[test]
fn everything_the_head_knows() {
    let report = json(thumbformer("inspect").arg(home_thumb()));
    assert_eq!(report["version"], 1);
    assert_eq!(report["bytes"], std::fs::metadata(home_thumb()).expect("the blob").len());
    assert_eq!((&report["layout"], &report["group"]), (&"rows8".into(), &32.into()));
    // The model's README.
    assert_eq!(report["parameters"], 455_520);
    for (field, value) in
        [("vocab", 512), ("dim", 96), ("hidden", 256), ("layers", 4), ("heads", 6), ("kv_heads", 3), ("context", 128)]
    {
        assert_eq!(report["architecture"][field], value, "{field}");
    }
    assert_eq!(report["architecture"]["tied_head"], true);
    assert_eq!(report["end_tokens"], serde_json::json!([3]));
    assert_eq!(report["prompt_format"], serde_json::json!([[1], [2]]));
    let ram = report["ram"].as_array().expect("a list");
    assert_eq!(ram.last().expect("the whole context")["context"], 128);
    let tensors = report["tensors"].as_array().expect("a list");
    // Embedding and its frequencies, seven for each layer, the final norm.
    assert_eq!(tensors.len(), 2 + 4 * 7 + 1);
    let mut end = 0;
    for tensor in tensors {
        let (offset, bytes) = (tensor["offset"].as_u64().expect("a number"), tensor["bytes"].as_u64());
        assert!(offset >= end, "{tensor}");
        end = offset + bytes.expect("a number");
    }
    assert!(end <= report["bytes"].as_u64().expect("a number"));
}

#[test]
fn as_a_table() {
    let table = output(thumbformer("inspect").arg(home_thumb()));
    for words in ["4 layers, dim 96", "455.5 K parameters", "byte-level BPE", "\"<|end|>\"", "RAM", "pico2", "31 (list"]
    {
        assert!(table.contains(words), "{words}: {table}");
    }
    let long = output(thumbformer("inspect").arg(home_thumb()).arg("--tensors"));
    let lines: Vec<_> = long.lines().filter(|line| line.contains(" at ") && line.starts_with("    ")).collect();
    assert!(lines.iter().any(|line| line.contains("layer 3 mlp_down") && line.contains("96 × 256")), "{long}");
}

#[test]
fn checkpoints_are_to_be_converted_first() {
    for path in [home(), home().join("model.safetensors"), home().join("config.json")] {
        refused(thumbformer("inspect").arg(&path), 1, &["not a .thumb file", "`convert`"]);
    }
}
