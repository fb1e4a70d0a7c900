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

/// A model in one setting. Times are medians, percentages medians of the percentages at the time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The model's name. That of a generated model tells what is unusual of its packing: `110M/row`.
    pub model: String,
    /// Threads that worked.
    pub threads: usize,
    /// The backend's name.
    pub kernel: String,
    /// Tokens of the prompt; steps follow at this position.
    pub context: usize,
    /// Tokens of the prompt a second.
    pub prefill_tokens_per_s: f64,
    /// Generated tokens a second.
    pub decode_tokens_per_s: f64,
    /// Bytes that decode read a second, in percent of the bandwidth measured beside it with as many threads at the size
    /// of those bytes: caches help both.
    pub percent_of_bandwidth: f64,
    /// Multiply-adds of the prompt a second in percent of the kernel's peak.
    pub percent_of_int8_peak: f64,
    /// From the start of a process to its first token, after a prompt of 32 tokens.
    pub first_token_ms: f64,
    /// Peak resident memory of a process that only loads and runs the model; `null` where the system does not tell.
    pub rss_mib: Option<f64>,
    /// The file's size.
    pub file_mib: f64,
    /// Digest of a fixed sequence's logits, hexadecimal: the same for all settings, or `bench` fails.
    pub digest: String,
}

impl Measured {
    /// What makes two measurements comparable.
    fn key(&self) -> (&str, usize, &str, usize) {
        (&self.model, self.threads, &self.kernel, self.context)
    }
}

/// What a step costs by the number of positions before it, for one model, backend and number of threads: the line that
/// fits its contexts.
#[derive(Clone, Debug)]
pub struct ContextCost {
    /// The model's name.
    pub model: String,
    /// The backend's name.
    pub kernel: String,
    /// Threads that worked.
    pub threads: usize,
    /// The longest context measured.
    pub context: usize,
    /// A step without context, in microseconds.
    pub base_us: f64,
    /// What each position adds, in nanoseconds.
    pub position_ns: f64,
    /// The time that reading a position's keys and values takes at the measured bandwidth, in nanoseconds.
    pub reading_ns: f64,
}

impl ContextCost {
    /// Attention's share of a step at the longest context, in percent.
    pub fn attention_percent(&self) -> f64 {
        let attention = self.position_ns * self.context as f64 / 1e3;
        100.0 * attention / (self.base_us + attention)
    }
}

/// A peer in one setting, and this runtime between its runs. Ratios are medians of those of each round; above 1 this
/// runtime is faster.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The peer's name.
    pub peer: String,
    /// The backend's name.
    pub kernel: String,
    /// Threads that both had.
    pub threads: usize,
    /// Tokens of the prompt.
    pub context: usize,
    /// Prefill in tokens a second: the peer's, and the ratio.
    pub prefill: Option<(f64, f64)>,
    /// Decode in tokens a second: the peer's, and the ratio.
    pub decode: Option<(f64, f64)>,
    /// First token in milliseconds: the peer's, and the ratio.
    pub first_token: Option<(f64, f64)>,
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
            let kernel = format!("int8 {}: {}", i.kernel, i.instructions);
            table.add_row([kernel, i.threads.to_string(), format!("{:.0} G multiply-adds/s", i.gmac_per_s)]);
        }
        align_right(&mut table, 1);
        table.to_string()
    }

    /// All measurements.
    pub fn results_table(&self) -> String {
        let mut table = table(&[
            "model",
            "kernel",
            "threads",
            "context",
            "prefill t/s",
            "% int8",
            "decode t/s",
            "% read",
            "first ms",
            "RSS MiB",
            "file MiB",
            "digest",
        ]);
        for r in &self.results {
            table.add_row([
                r.model.clone(),
                r.kernel.clone(),
                r.threads.to_string(),
                r.context.to_string(),
                speed(r.prefill_tokens_per_s),
                format!("{:.0}", r.percent_of_int8_peak),
                speed(r.decode_tokens_per_s),
                format!("{:.0}", r.percent_of_bandwidth),
                format!("{:.1}", r.first_token_ms),
                r.rss_mib.map_or_else(|| "?".to_owned(), |mib| format!("{mib:.1}")),
                format!("{:.1}", r.file_mib),
                r.digest.clone(),
            ]);
        }
        align_right(&mut table, 2);
        table.to_string()
    }

    /// How much of its limit each setting reaches, as bars: a line for prefill and one for decode, at the shortest and the
    /// longest context.
    pub fn plot(&self) -> String {
        let mut lines = Vec::new();
        for r in &self.results {
            let same = |o: &&Measured| (&o.model, &o.kernel, o.threads) == (&r.model, &r.kernel, r.threads);
            let contexts = || self.results.iter().filter(same).map(|o| o.context);
            if contexts().min() != Some(r.context) && contexts().max() != Some(r.context) {
                continue;
            }
            let name = format!("{} {}, {} thr., at {}", r.model, r.kernel, r.threads, r.context);
            for (what, percent, limit) in
                [("prefill", r.percent_of_int8_peak, "int8 peak"), ("decode", r.percent_of_bandwidth, "bandwidth")]
            {
                lines.push(format!("{name:<36} {what:<8}{} {percent:3.0} % of {limit}", bar(percent)));
            }
        }
        lines.join("\n")
    }

    /// This run's speeds as multiples of an earlier run's, for settings that both have; above 1 is faster. `None` if
    /// there are none.
    pub fn comparison_table(&self, old: &Report) -> Option<String> {
        let header = ["model", "kernel", "threads", "context", "prefill", "decode", "first token", "RSS", "logits"];
        let mut table = table(&header);
        for new in &self.results {
            let Some(old) = old.results.iter().find(|old| old.key() == new.key()) else { continue };
            let ratio = |new: f64, old: f64| format!("{:.2}x", new / old);
            table.add_row([
                new.model.clone(),
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
        align_right(&mut table, 2);
        (!table.is_empty()).then(|| table.to_string())
    }
}

/// What attention costs.
pub fn context_table(costs: &[ContextCost]) -> String {
    let header =
        ["model", "kernel", "threads", "step at 0, us", "a position, ns", "x its reading", "attention at", "%"];
    let mut table = table(&header);
    for c in costs {
        table.add_row([
            c.model.clone(),
            c.kernel.clone(),
            c.threads.to_string(),
            format!("{:.0}", c.base_us),
            format!("{:.1}", c.position_ns),
            format!("{:.2}", c.position_ns / c.reading_ns),
            c.context.to_string(),
            format!("{:.0}", c.attention_percent()),
        ]);
    }
    align_right(&mut table, 2);
    table.to_string()
}

/// Peers beside this runtime.
pub fn peers_table(compared: &[Compared]) -> String {
    let header =
        ["peer", "our kernel", "threads", "context", "prefill t/s", "ours", "decode t/s", "ours", "first ms", "ours"];
    let mut table = table(&header);
    for c in compared {
        let mut row = vec![c.peer.clone(), c.kernel.clone(), c.threads.to_string(), c.context.to_string()];
        for pair in [c.prefill, c.decode, c.first_token] {
            let (theirs, ratio) = pair.map_or_else(Default::default, |(t, r)| (speed(t), format!("{r:.2}x")));
            row.extend([theirs, ratio]);
        }
        table.add_row(row);
    }
    align_right(&mut table, 2);
    table.to_string()
}

/// Forty characters for 100 percent.
fn bar(percent: f64) -> String {
    let full = (percent / 2.5).round().clamp(0.0, 40.0) as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(40 - full))
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
            threads: 2,
            kernel: "portable".to_owned(),
            context: 256,
            prefill_tokens_per_s: 4.0 * speed,
            decode_tokens_per_s: speed,
            percent_of_bandwidth: 70.0,
            percent_of_int8_peak: 50.0,
            first_token_ms: 256.0 / 4.0 / speed * 1000.0,
            rss_mib: None,
            file_mib: 1.0,
            digest: digest.to_owned(),
        }
    }

    /// Others read it too.
    #[test]
    fn json_has_the_fields_that_are_promised() {
        let report = Report { results: vec![measured("a", 10.0, "00")], ..Report::default() };
        let json = serde_json::to_value(&report).unwrap();
        let mut top: Vec<_> = json.as_object().unwrap().keys().collect();
        top.sort();
        assert_eq!(top, ["machine", "results"]);
        let mut fields: Vec<_> = json["results"][0].as_object().unwrap().keys().collect();
        fields.sort();
        let expected = "context decode_tokens_per_s digest file_mib first_token_ms kernel model percent_of_bandwidth \
                        percent_of_int8_peak prefill_tokens_per_s rss_mib threads";
        assert_eq!(fields, expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn bars_end_at_their_limit() {
        assert_eq!(bar(0.0), ".".repeat(40));
        assert_eq!(bar(50.0), "#".repeat(20) + &".".repeat(20));
        assert_eq!(bar(130.0), "#".repeat(40));
    }

    #[test]
    fn attention_is_what_context_adds() {
        let cost = ContextCost {
            model: "a".to_owned(),
            kernel: "portable".to_owned(),
            threads: 1,
            context: 1000,
            base_us: 300.0,
            position_ns: 100.0,
            reading_ns: 80.0,
        };
        assert_eq!(cost.attention_percent(), 25.0);
        assert!(context_table(&[cost]).contains("1.25"));
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
