//! What a run of `bench` found: the JSON object, the tables, and the ratios to an earlier run.

use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Everything that `bench --json` prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran, and the limits there.
    pub machine: Machine,
    /// One entry for each model and setting.
    pub results: Vec<Measured>,
}

/// A model in one setting. Times are medians.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The model's name.
    pub model: String,
    /// Parameters.
    pub parameters: u64,
    /// Layout of its weights.
    pub layout: String,
    /// Columns that share a scale, or `row`.
    pub group: String,
    /// Threads that worked.
    pub threads: usize,
    /// The backend's name.
    pub kernel: String,
    /// Tokens of the prompt; steps follow at this position.
    pub context: usize,
    /// Tokens that share one pass over the weights.
    pub chunk: usize,
    /// Tokens of the prompt a second.
    pub prefill_tokens_per_s: f64,
    /// Generated tokens a second.
    pub decode_tokens_per_s: f64,
    /// Bytes that decode read a second, in percent of the bandwidth measured beside it with as many threads at the size
    /// of those bytes: caches help both.
    pub percent_of_bandwidth: f64,
    /// The same in percent of the bandwidth of main memory. Above 100 for models that stay in a cache.
    pub percent_of_memory_bandwidth: f64,
    /// Multiply-adds of the prompt a second in percent of the kernel's peak.
    pub percent_of_int8_peak: f64,
    /// From the prompt's ids to the first generated id.
    pub first_token_ms: f64,
    /// Checking the file, which is all that loading is.
    pub load_ms: f64,
    /// Peak resident memory of a process that only loads and runs the model; `null` where the system does not tell.
    pub rss_mib: Option<f64>,
    /// The file's size.
    pub file_mib: f64,
    /// Digest of a fixed sequence's logits, hexadecimal: the same for all settings, or `bench` fails.
    pub digest: String,
}

impl Measured {
    /// What makes two measurements comparable.
    fn key(&self) -> (&str, &str, &str, usize, &str, usize) {
        (&self.model, &self.layout, &self.group, self.threads, &self.kernel, self.context)
    }
}

impl Report {
    /// An earlier run's `--json` output.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let not_ours = || format!("{} is not what `bench --json` prints", path.display());
        serde_json::from_slice(&text).with_context(not_ours)
    }

    /// The machine's limits.
    pub fn limits_table(&self) -> String {
        let mut table = table(&["limit", "threads", "measured"]);
        for b in &self.machine.bandwidth {
            let size = format!("read {:.1} MiB", mib(b.bytes as u64));
            table.add_row([size, b.threads.to_string(), format!("{:.1} GB/s", b.gb_per_s)]);
        }
        for i in &self.machine.int8 {
            let kernel = format!("int8 {}", i.kernel);
            table.add_row([kernel, i.threads.to_string(), format!("{:.0} G multiply-adds/s", i.gmac_per_s)]);
        }
        align_right(&mut table, 1);
        table.to_string()
    }

    /// All measurements.
    pub fn results_table(&self) -> String {
        let mut table = table(&[
            "model",
            "group",
            "kernel",
            "threads",
            "prompt",
            "prefill t/s",
            "% int8",
            "decode t/s",
            "% read",
            "% memory",
            "ratio",
            "first ms",
            "load ms",
            "RSS MiB",
            "file MiB",
            "digest",
        ]);
        for r in &self.results {
            table.add_row([
                r.model.clone(),
                r.group.clone(),
                r.kernel.clone(),
                r.threads.to_string(),
                r.context.to_string(),
                speed(r.prefill_tokens_per_s),
                format!("{:.0}", r.percent_of_int8_peak),
                speed(r.decode_tokens_per_s),
                format!("{:.0}", r.percent_of_bandwidth),
                format!("{:.0}", r.percent_of_memory_bandwidth),
                format!("{:.1}", r.prefill_tokens_per_s / r.decode_tokens_per_s),
                format!("{:.1}", r.first_token_ms),
                format!("{:.1}", r.load_ms),
                r.rss_mib.map_or_else(|| "?".to_owned(), |mib| format!("{mib:.1}")),
                format!("{:.1}", r.file_mib),
                r.digest.clone(),
            ]);
        }
        align_right(&mut table, 3);
        table.to_string()
    }

    /// This run's speeds as multiples of an earlier run's, for settings that both have; above 1 is faster. `None` if
    /// there are none.
    pub fn comparison_table(&self, old: &Report) -> Option<String> {
        let mut table = table(&[
            "model",
            "group",
            "kernel",
            "threads",
            "prompt",
            "prefill",
            "decode",
            "first token",
            "RSS",
            "logits",
        ]);
        for new in &self.results {
            let Some(old) = old.results.iter().find(|old| old.key() == new.key()) else { continue };
            let ratio = |new: f64, old: f64| format!("{:.2}x", new / old);
            table.add_row([
                new.model.clone(),
                new.group.clone(),
                new.kernel.clone(),
                new.threads.to_string(),
                new.context.to_string(),
                ratio(new.prefill_tokens_per_s, old.prefill_tokens_per_s),
                ratio(new.decode_tokens_per_s, old.decode_tokens_per_s),
                ratio(old.first_token_ms, new.first_token_ms),
                new.rss_mib.zip(old.rss_mib).map_or_else(|| "?".to_owned(), |(new, old)| ratio(new, old)),
                if new.digest == old.digest { "same" } else { "other" }.to_owned(),
            ]);
        }
        align_right(&mut table, 3);
        (!table.is_empty()).then(|| table.to_string())
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn speed(tokens_per_s: f64) -> String {
    if tokens_per_s < 100.0 { format!("{tokens_per_s:.1}") } else { format!("{tokens_per_s:.0}") }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.iter().copied());
    table
}

/// Numbers, from column `first` on, end at the same place.
fn align_right(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(model: &str, speed: f64, digest: &str) -> Measured {
        Measured {
            model: model.to_owned(),
            parameters: 1000,
            layout: "rows8".to_owned(),
            group: "32".to_owned(),
            threads: 2,
            kernel: "portable".to_owned(),
            context: 256,
            chunk: 64,
            prefill_tokens_per_s: 4.0 * speed,
            decode_tokens_per_s: speed,
            percent_of_bandwidth: 70.0,
            percent_of_memory_bandwidth: 140.0,
            percent_of_int8_peak: 50.0,
            first_token_ms: 256.0 / 4.0 / speed * 1000.0,
            load_ms: 0.1,
            rss_mib: None,
            file_mib: 1.0,
            digest: digest.to_owned(),
        }
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let report = Report { results: vec![measured("a", 10.0, "00")], ..Report::default() };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_vec(&report).unwrap()).unwrap();
        assert_eq!(Report::read(file.path()).unwrap().results_table(), report.results_table());
        std::fs::write(file.path(), "[]").unwrap();
        assert!(format!("{:#}", Report::read(file.path()).unwrap_err()).contains("bench --json"));
    }

    #[test]
    fn only_equal_settings_are_compared() {
        let old = Report { results: vec![measured("a", 10.0, "00"), measured("c", 1.0, "00")], ..Report::default() };
        let new = Report { results: vec![measured("a", 15.0, "01"), measured("b", 1.0, "00")], ..Report::default() };
        let table = new.comparison_table(&old).unwrap();
        assert!(table.contains("1.50x") && table.contains("other") && !table.contains("| b "), "{table}");
        assert_eq!(Report::default().comparison_table(&old), None);
    }
}
