//! `convert`: what it writes and says, and that nothing is left or lost when it fails.

use super::common::model;
use super::*;

#[test]
fn beside_the_weights() {
    let folder = folder();
    copy(&folder, &["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]);
    let summary = output(convert().arg(folder.path()));
    let words =
        ["model.thumb", "4 layers, dim 96", "455.5 K parameters", "8.66 bits a weight", "byte-level BPE", "RAM"];
    for words in words.iter().chain(&["at context 128", "boards", "accuracy", "least exact", "dB", "Try it:"]) {
        assert!(summary.contains(words), "{words}: {summary}");
    }
    let files = names(folder.path());
    assert_eq!(files, ["config.json", "model.safetensors", "model.thumb", "tokenizer.json", "tokenizer_config.json"]);
    // The same bytes whatever names the model and whatever is said of it.
    let thumb = folder.path().join("model.thumb");
    let first = std::fs::read(&thumb).expect("written");
    for path in [folder.path().join(""), folder.path().join("model.safetensors")] {
        std::fs::remove_file(&thumb).expect("removed");
        let (code, stdout, stderr) = all(convert().arg(&path).arg("--quiet"));
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""), "{}", path.display());
        assert!(first == std::fs::read(&thumb).expect("written"), "{}", path.display());
    }
    std::fs::remove_file(&thumb).expect("removed");
    output(convert().arg("model.safetensors").arg("-q").current_dir(folder.path()));
    assert!(first == std::fs::read(&thumb).expect("written"));
    assert!(first == std::fs::read(home_thumb()).expect("written"));
}

#[test]
fn the_summary_as_json() {
    let folder = folder();
    let thumb = folder.path().join("x.thumb");
    let summary = json(convert().arg(home()).args(["--group", "64", "--target", "dsp", "-o"]).arg(&thumb));
    assert_eq!(summary["output"], thumb.to_str().expect("UTF-8"));
    assert_eq!((&summary["family"], &summary["parameters"]), (&"llama".into(), &455_520.into()));
    assert_eq!((&summary["layout"], &summary["group"]), (&"dsp".into(), &64.into()));
    assert_eq!(summary["bytes"], std::fs::metadata(&thumb).expect("written").len());
    assert_eq!(summary["notes"], serde_json::json!([]));
    let bits = summary["bits_per_weight"].as_f64().expect("a number");
    // A byte, and an f16 scale for 64 of them (padding and head included).
    assert!((8.25..9.0).contains(&bits), "{bits}");
    let ram = summary["ram"].as_array().expect("a list");
    let total =
        |ram: &Value| ram["cache_bytes"].as_u64().expect("bytes") + ram["scratch_bytes"].as_u64().expect("bytes");
    assert!(ram.len() > 1 && ram.is_sorted_by(|a, b| total(a) < total(b)), "{ram:?}");
    assert_eq!(ram.last().expect("the context")["context"], 128);
    let worst = summary["worst_tensors"].as_array().expect("a list");
    let sqnr = |tensor: &Value| tensor["sqnr_db"].as_f64().expect("dB");
    assert!(!worst.is_empty() && worst.is_sorted_by(|a, b| sqnr(a) <= sqnr(b)));
    assert!(worst.iter().all(|tensor| (30.0..60.0).contains(&sqnr(tensor))), "{worst:?}");
}

#[test]
fn try_answers_at_once() {
    let folder = folder();
    let thumb = folder.path().join("x.thumb");
    let request = "please dim the bedroom lamp to forty percent";
    let (code, stdout, stderr) = all(convert().arg(home()).args(["--try", request, "-q", "-o"]).arg(&thumb));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "light.dim(bedroom,40)\n", ""));
    let loud = output(convert().arg(home()).args(["--force", "--group", "row", "--try", request, "-o"]).arg(&thumb));
    assert!(loud.ends_with("> please dim the bedroom lamp to forty percent\nlight.dim(bedroom,40)\n"), "{loud}");
    refused(convert().arg(model("gpt2")).args(["--try", "hi", "-o", "x.thumb"]), 1, &["--try", "tokenizer"]);
    refused(convert().arg(home()).args(["--try", "hi", "--json"]), 2, &["--try", "--json"]);
}

#[test]
fn names_of_the_result() {
    let folder = folder();
    copy(&folder, &["config.json", "tokenizer.json"]);
    for (weights, thumb) in [("a.b.v2.safetensors", "a.b.v2.thumb"), ("weights", "weights.thumb")] {
        std::fs::copy(home().join("model.safetensors"), folder.path().join(weights)).expect("copied");
        output(convert().arg(folder.path().join(weights)).arg("-q"));
        assert!(folder.path().join(thumb).is_file(), "{thumb}: {:?}", names(folder.path()));
    }
    // Shards, whichever of them is named.
    let shards = names(&model("llama-sharded"));
    assert!(shards.len() > 4, "{shards:?}");
    for name in ["", "model.safetensors.index.json", "model-00002-of-00004.safetensors"] {
        let folder = self::folder();
        for file in &shards {
            std::fs::copy(model("llama-sharded").join(file), folder.path().join(file)).expect("copied");
        }
        output(convert().arg(folder.path().join(name)).arg("-q"));
        assert!(folder.path().join("model.thumb").is_file(), "{name}: {:?}", names(folder.path()));
    }
}

#[test]
fn a_nanogpt_checkpoint_of_characters() {
    let folder = folder();
    let checkpoints = common::repository("tests/fixtures/checkpoints");
    std::fs::copy(checkpoints.join("ckpt.pt"), folder.path().join("ckpt.pt")).expect("copied");
    let bare = output(convert().arg(folder.path()));
    assert!(bare.contains("nanogpt: 2 layers") && bare.contains("no tokenizer"), "{bare}");
    assert!(bare.contains("--ids"), "no text without a tokenizer: {bare}");
    std::fs::copy(checkpoints.join("meta4.pkl"), folder.path().join("meta.pkl")).expect("copied");
    let summary = output(convert().arg(folder.path().join("ckpt.pt")).arg("--force"));
    assert!(summary.contains("characters, 9 tokens") && summary.contains("no end token"), "{summary}");
    let thumb = folder.path().join("ckpt.thumb");
    let inspected = json(thumbformer("inspect").arg(thumb));
    assert_eq!((&inspected["start_token"], &inspected["end_tokens"]), (&Value::Null, &serde_json::json!([])));
}

#[test]
fn baichuans_head_is_what_the_user_says() {
    let folder = folder();
    let thumb = folder.path().join("x.thumb");
    let notes = |arguments: &[&str]| {
        let summary = json(convert().arg(model("baichuan2")).args(arguments).arg("--force").arg("-o").arg(&thumb));
        summary["notes"].to_string()
    };
    let detected = notes(&[]);
    assert!(detected.contains("unit length, as the class"), "{detected}");
    let first = std::fs::read(&thumb).expect("written");
    let stored = notes(&["--normalize-head", "no"]);
    assert!(stored.contains("as it is stored, as --normalize-head says"), "{stored}");
    assert!(first != std::fs::read(&thumb).expect("written"));
    let same = notes(&["--normalize-head", "yes"]);
    assert!(same.contains("unit length, as --normalize-head says"), "{same}");
    assert!(first == std::fs::read(&thumb).expect("written"));
    refused(convert().arg(model("baichuan2")).args(["--normalize-head", "maybe"]), 2, &["maybe", "yes or no"]);
    refused(convert().arg(home()).args(["--normalize-head", "yes"]), 1, &["--normalize-head", "baichuan only"]);
}

#[test]
fn configuration_and_tokenizer_may_lie_elsewhere() {
    let folder = folder();
    copy(&folder, &["model.safetensors"]);
    let weights = folder.path().join("model.safetensors");
    refused(convert().arg(&weights), 1, &["model.safetensors", "no config.json", "--config"]);
    refused(convert().arg(&weights).args(["--config", "absent.json"]), 1, &["absent.json", "No such file"]);
    let config = home().join("config.json");
    let bare = output(convert().arg(&weights).arg("--config").arg(&config));
    assert!(bare.contains("no tokenizer beside the weights"), "{bare}");
    for tokenizer in [home(), home().join("tokenizer.json")] {
        let mut command = convert();
        command.arg(&weights).arg("--force").arg("--config").arg(&config).arg("--tokenizer").arg(tokenizer);
        assert!(output(&mut command).contains("byte-level BPE"));
    }
    let with = |option: &str, path: &Path| {
        let mut command = convert();
        command.arg(&weights).args(["--force", "-q"]).arg("--config").arg(&config).arg(option).arg(path);
        command
    };
    refused(&mut with("--tokenizer", Path::new("absent")), 1, &["absent", "No such file"]);
    refused(&mut with("--tokenizer", &config), 1, &["config.json", "not a tokenizer.json"]);
    refused(&mut with("--tokenizer", &model("gpt2")), 1, &["gpt2", "no tokenizer.json"]);
    let llama3 = common::repository("tests/fixtures/tokenizers/llama3");
    refused(&mut with("--tokenizer", &llama3), 1, &["tokenizer.json", "512"]);
    refused(&mut with("--calibrate", &config), 1, &["calibration", "tokenizer"]);
    refused(&mut with("--format", Path::new("{prompt}")), 1, &["prompt format", "tokenizer"]);
    refused(convert().arg(home()).args(["--format", "hi", "-o", "x.thumb"]), 1, &["hi", "{prompt}"]);
    refused(convert().arg(home()).args(["-o", "x.thumb", "--calibrate", "absent"]), 1, &["absent", "No such file"]);
    let empty = write(&folder, "empty.txt", "");
    refused(convert().arg(home()).args(["-o", "x.thumb", "--calibrate"]).arg(empty), 1, &["empty.txt", "empty file"]);
    let thumb = folder.path().join("calibrated.thumb");
    output(convert().arg(home()).arg("-o").arg(&thumb).arg("--calibrate").arg(home().join("held_out.tsv")));
    assert!(std::fs::read(thumb).expect("written") != std::fs::read(home_thumb()).expect("written"));
}

#[test]
fn a_shorter_context() {
    let folder = folder();
    let thumb = folder.path().join("x.thumb");
    for context in ["0", "129"] {
        let mut command = convert();
        command.arg(home()).args(["--context", context, "-o"]).arg(&thumb);
        refused(&mut command, 1, &["--context", context, "1 to 128"]);
    }
    for context in [1, 64] {
        output(convert().arg(home()).args(["--force", "--context", &context.to_string(), "-o"]).arg(&thumb));
        assert_eq!(json(thumbformer("inspect").arg(&thumb))["architecture"]["context"], context);
    }
}

#[test]
fn checkpoints_that_are_none() {
    let folder = folder();
    refused(convert().arg(folder.path()), 1, &["without weights", "model.safetensors, "]);
    refused(convert().arg(home_thumb()), 1, &[".thumb file already", "thumbformer run"]);
    refused(convert().arg(home().join("tokenizer.json")), 1, &["tokenizer.json", "neither a safetensors file"]);
    let attack = common::repository("tests/fixtures/checkpoints/attack.pt");
    refused(convert().arg(attack), 1, &["attack.pt", "posix.system", "not executed"]);

    // Each from the bundled model with one thing wrong.
    let weights = std::fs::read(home().join("model.safetensors")).expect("the weights");
    let config = std::fs::read_to_string(home().join("config.json")).expect("the configuration");
    let mut nan = weights.clone();
    let at = nan.len() - 4000;
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let weights_wrong: [(&[u8], &[&str]); 6] = [
        (b"", &["empty file"]),
        (&weights[..4], &["neither"]),
        (&weights[..100], &["damaged"]),
        (&weights[..weights.len() - 1], &["damaged"]),
        (&[&weights[..], b"x"].concat(), &["damaged"]),
        (&nan, &["v_proj.weight", "NaN", "finite"]),
    ];
    for (weights, words) in weights_wrong {
        let folder = self::folder();
        copy(&folder, &["config.json", "tokenizer.json"]);
        let path = write(&folder, "model.safetensors", weights);
        refused(convert().arg(folder.path()), 1, &[words, &[path.to_str().expect("UTF-8")]].concat());
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors", "tokenizer.json"]);
    }
    let changed = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        config.replace(from, to)
    };
    let config_wrong: [(String, &[&str]); 7] = [
        (String::new(), &["config.json", "not JSON"]),
        ("[]".into(), &["config.json", "JSON object"]),
        (changed("\"llama\"", "\"mamba\""), &["config.json", "mamba", "known: llama, "]),
        (changed("\"hidden_size\": 96", "\"hidden_size\": 97"), &["embed_tokens", "[512, 96]", "[512, 97]"]),
        (changed("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3"), &["model.layers.3", "beyond"]),
        (changed("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"), &["model.layers.4", "missing"]),
        (changed("\"num_attention_heads\": 6", "\"num_attention_heads\": 0"), &["config.json", "heads"]),
    ];
    for (config, words) in config_wrong {
        let folder = self::folder();
        copy(&folder, &["model.safetensors", "tokenizer.json"]);
        write(&folder, "config.json", config);
        refused(convert().arg(folder.path()), 1, words);
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors", "tokenizer.json"]);
    }
}

#[test]
fn nothing_is_replaced_unasked() {
    let folder = folder();
    copy(&folder, &["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]);
    let to = |output: &Path, options: &[&str]| {
        let mut command = convert();
        command.arg(folder.path()).arg("-q").args(options).arg("-o").arg(output);
        command
    };
    let old = write(&folder, "old.thumb", "old");
    refused(&mut to(&old, &[]), 1, &["old.thumb", "exists", "--force"]);
    assert_eq!(std::fs::read(&old).expect("still there"), b"old");
    output(&mut to(&old, &["--force"]));
    assert!(std::fs::read(&old).expect("replaced") == std::fs::read(home_thumb()).expect("written"));
    // Not even with --force: the checkpoint, whatever lies beside it, and what is no file.
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let path = folder.path().join(name);
        refused(&mut to(&path, &["--force"]), 1, &[name, "no .thumb file"]);
        assert!(std::fs::read(&path).expect("still there") == std::fs::read(home().join(name)).expect("there"));
    }
    refused(&mut to(folder.path(), &["--force"]), 1, &["a folder"]);
    refused(&mut to(&folder.path().join("absent/x.thumb"), &[]), 1, &["absent/x.thumb", "no folder"]);
    let deep = folder.path().join("config.json/x.thumb");
    refused(&mut to(&deep, &[]), 1, &["config.json/x.thumb"]);
    refused(convert().arg(home()).args(["-o", ""]), 2, &["--output"]);
}

#[cfg(unix)]
#[test]
fn links_and_sockets_stay() {
    let folder = folder();
    let (file, link, socket) =
        (folder.path().join("x.thumb"), folder.path().join("link.thumb"), folder.path().join("socket"));
    std::os::unix::fs::symlink("x.thumb", &link).expect("a link");
    write(&folder, "x.thumb", "old");
    output(convert().arg(home()).args(["-q", "--force", "-o"]).arg(&link));
    assert!(link.is_symlink());
    assert!(std::fs::read(&file).expect("replaced") == std::fs::read(home_thumb()).expect("written"));
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    refused(convert().arg(home()).args(["--force", "-o"]).arg(&socket), 1, &["socket", "not a regular file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).expect("allowed");
    let path = folder.path().join("x.thumb");
    if std::fs::write(folder.path().join("try"), "").is_err() {
        refused(convert().arg(home()).arg("-o").arg(path), 1, &["x.thumb", "Permission denied"]);
    } else {
        // Permissions do not stop root; /proc takes nobody's files.
        refused(convert().arg(home()).arg("-o").arg("/proc/x.thumb"), 1, &["/proc/x.thumb"]);
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk() {
    let folder = folder();
    let path = folder.path().join("x.thumb");
    // As a full disk: no file may grow beyond 100 blocks.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let mut command = program("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_convert")]).arg(home()).arg("-o").arg(&path);
    refused(&mut command, 1, &["x.thumb", "File too large"]);
    assert_eq!(names(folder.path()), [""; 0]);
}

/// A killed converter leaves nothing behind, and what was there before is unharmed.
#[cfg(target_os = "linux")]
#[test]
fn killed() {
    let folder = folder();
    large_checkpoint(&folder);
    let old = write(&folder, "model.thumb", "old");
    for signal in ["INT", "TERM", "KILL"] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_convert"))
            .arg(folder.path())
            .args(["--force", "--quiet"])
            .spawn()
            .expect("started");
        let id = child.id().to_string();
        // Only once the unfinished file is there and has grown.
        let growing = || {
            let open = Path::new("/proc").join(&id).join("fd").read_dir().into_iter().flatten().flatten();
            let files = open.filter(|fd| {
                let target = std::fs::read_link(fd.path()).unwrap_or_default();
                target.starts_with(folder.path()) && target.to_string_lossy().ends_with("(deleted)")
            });
            files.filter_map(|fd| std::fs::metadata(fd.path()).ok()).any(|file| file.len() > 0)
        };
        while !growing() {
            assert_eq!(child.try_wait().expect("a child"), None, "{signal}: it ended before it was killed");
            std::thread::yield_now();
        }
        let sent = std::process::Command::new("kill").args(["-s", signal, &id]).status().expect("started");
        assert!(sent.success(), "{signal}");
        assert_eq!(child.wait().expect("a child").code(), None, "{signal}: ended by itself");
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors", "model.thumb"], "{signal}");
        assert_eq!(std::fs::read(&old).expect("still there"), b"old", "{signal}");
    }
}

/// A model that takes a while: all zeros, as a file with a hole.
#[cfg(target_os = "linux")]
fn large_checkpoint(folder: &tempfile::TempDir) {
    let (vocab, dim, hidden, layers) = (32_000, 512, 1024, 12);
    let mut tensors = vec![("embed_tokens".to_owned(), vec![vocab, dim]), ("norm".to_owned(), vec![dim])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("layers.{layer}.{name}"), shape.to_vec()));
        ["q", "k", "v", "o"].iter().for_each(|name| add(&format!("self_attn.{name}_proj"), &[dim, dim]));
        ["gate", "up"].iter().for_each(|name| add(&format!("mlp.{name}_proj"), &[hidden, dim]));
        add("mlp.down_proj", &[dim, hidden]);
        ["input", "post_attention"].iter().for_each(|name| add(&format!("{name}_layernorm"), &[dim]));
    }
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let tensor = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("model.{name}.weight"), tensor);
    }
    let header = Value::from(header).to_string();
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let path = write(folder, "model.safetensors", &head);
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.set_len((head.len() + end) as u64).expect("grown");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": vocab, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
    });
    write(folder, "config.json", config.to_string());
}
