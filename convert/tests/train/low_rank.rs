//! `thumbformer train --lora`: what is trained, what is written, and that it goes on where it was.

use std::path::Path;

use safetensors::SafeTensors;

use super::command::{bytes, fail, first_checkpoint, spawn, succeed, text, thumbformer, train, write};

/// All tensors of a folder's model: name, shape, values.
fn tensors(folder: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let file = bytes(folder, "model.safetensors");
    let tensors = SafeTensors::deserialize(&file).expect("a checkpoint");
    let values = |data: &[u8]| data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("4"))).collect();
    let one = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
        (name, tensor.shape().to_vec(), values(tensor.data()))
    };
    let mut all: Vec<_> = tensors.tensors().into_iter().map(one).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn losses(folder: &Path) -> Vec<f32> {
    let csv = String::from_utf8(bytes(folder, "log.csv")).expect("text");
    csv.lines().skip(1).map(|line| line.split(',').nth(2).expect("a loss").parse().expect("a number")).collect()
}

#[test]
fn changes_of_low_rank_are_merged_into_the_blocks_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    // Other sentences of the same letters.
    let other = write(&folder, "other.txt", text().replace("sees", "eats").replace("cat", "hen"));
    for preset in ["llama", "gpt2"] {
        let (init, out) = (folder.path().join(preset), folder.path().join(format!("{preset}-more")));
        let bpe = ["--preset", preset, "--vocab", "270", "--steps", "40", "--learning-rate", "1e-2"];
        succeed(&mut train(&data, &init, &bpe));
        let more = ["--lora", "1", "--steps", "40", "--learning-rate", "1e-2", "--batch", "8", "--every", "10"];
        let mut command = thumbformer(&["train"]);
        let (_, told) = succeed(command.arg(&other).arg("-o").arg(&out).arg("--init").arg(&init).args(more));
        assert!(told.contains("in factors of rank 1 are trained"), "{told}");

        let losses = losses(&out);
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        assert!(mean(&losses[35..]) < 0.95 * mean(&losses[..3]), "{preset}: {losses:?}");

        for ((name, shape, before), (_, _, after)) in tensors(&init).into_iter().zip(tensors(&out)) {
            let change: Vec<f32> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
            let largest = change.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let in_block = name.contains(".layers.") || name.contains(".h.");
            let &[_, cols] = shape.as_slice() else {
                assert_eq!(largest, 0.0, "{name}");
                continue;
            };
            assert_eq!(largest > 0.0, in_block, "{name}");
            // Rank 1: every row is a multiple of the row with the largest change.
            let at = change.iter().position(|x| x.abs() == largest).expect("the largest");
            let (row, col) = (&change[at / cols * cols..][..cols], at % cols);
            for other in change.chunks(cols) {
                for (x, of_row) in other.iter().zip(row) {
                    let multiple = other[col] / change[at].abs().max(1e-20).copysign(change[at]) * of_row;
                    assert!((x - multiple).abs() <= 1e-3 * largest, "{name}: {x}, {multiple}, largest {largest}");
                }
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let init = folder.path().join("init");
    succeed(&mut train(&data, &init, &["--vocab", "270", "--steps", "5"]));
    let tune = |out: &Path| {
        let mut command =
            thumbformer(&["train", "--lora", "4", "--lora-alpha", "4", "--steps", "200", "--every", "10"]);
        command.arg(&data).arg("-o").arg(out).arg("--init").arg(&init).args(["--batch", "4"]);
        command
    };
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    succeed(&mut tune(&whole));
    let mut child = spawn(&mut tune(&killed));
    first_checkpoint(&mut child, &killed);
    child.kill().expect("killed");
    child.wait().expect("a status");
    // The model it began with is not asked for again.
    std::fs::remove_dir_all(&init).expect("removed");
    succeed(thumbformer(&["train", "--resume"]).arg(&killed));
    for name in ["model.safetensors", "training.safetensors", "log.csv"] {
        assert!(bytes(&killed, name) == bytes(&whole, name), "{name} differs after resuming");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = write(&folder, "text.txt", text());
    let (init, out) = (folder.path().join("init"), folder.path().join("out"));
    succeed(&mut train(&data, &init, &["--vocab", "270", "--steps", "1"]));
    let error = fail(thumbformer(&["train", "--lora", "0"]).arg(&data).arg("-o").arg(&out).arg("--init").arg(&init));
    assert!(error.contains("--lora 0: expected at least 1"), "{error}");
    let error = fail(thumbformer(&["train", "--lora", "4", "--init", "nowhere"]).arg(&data).arg("-o").arg(&out));
    assert!(error.contains("--init nowhere: no such folder"), "{error}");
    let output = thumbformer(&["train", "--lora", "4"]).arg(&data).arg("-o").arg(&out).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "a new model has nothing to be frozen");
    assert!(!out.exists());
}
