//! Other engines, run as commands: how to start one, and how to read what it says.
//!
//! A command line is the user's own, with `{prompt}`, `{steps}` and `{threads}` where the numbers go. It prints JSON, with
//! anything before it that does not start with a bracket or a brace: either llama-bench's (`-o json`), or one object
//!
//! ```json
//! {"prefill_tokens_per_s": 485.0, "decode_tokens_per_s": 76.5, "first_token_ms": 354.0}
//! ```
//!
//! of which any may be missing. Decode is at the position that follows the prompt.

use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Another engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// What to call it.
    pub name: String,
    command: String,
}

/// What an engine says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speeds {
    /// Tokens of the prompt a second.
    pub prefill_tokens_per_s: Option<f64>,
    /// Generated tokens a second.
    pub decode_tokens_per_s: Option<f64>,
    /// From the start of a process to its first token.
    pub first_token_ms: Option<f64>,
}

impl FromStr for Peer {
    type Err = String;

    /// `NAME=COMMAND`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, command)) if !name.trim().is_empty() && !name.contains(['/', ' ']) => {
                Ok(Self { name: name.to_owned(), command: command.to_owned() })
            }
            _ => Err("expected NAME=COMMAND".to_owned()),
        }
    }
}

impl Peer {
    /// Runs the command once, in the system's shell.
    ///
    /// # Errors
    /// It cannot be run, fails, or does not print speeds.
    pub fn run(&self, prompt: usize, steps: usize, threads: usize) -> anyhow::Result<Speeds> {
        let mut line = self.command.clone();
        for (name, value) in [("{prompt}", prompt), ("{steps}", steps), ("{threads}", threads)] {
            line = line.replace(name, &value.to_string());
        }
        let (shell, option) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let output = Command::new(shell).args([option, &line]).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot run `{line}`"))?;
        ensure!(output.status.success(), "`{line}` ended with {}", output.status);
        parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("`{line}`"))
    }
}

/// Reads the speeds from an engine's output.
fn parse(output: &str) -> anyhow::Result<Speeds> {
    let starts = output.char_indices().filter(|(_, c)| matches!(c, '[' | '{')).map(|(at, _)| at);
    let json = |at| serde_json::from_str::<Value>(output.get(at..).unwrap_or_default().trim()).ok();
    let speeds = match starts.filter_map(json).next() {
        Some(Value::Array(runs)) => llama_bench(&runs)?,
        Some(object @ Value::Object(_)) => serde_json::from_value(object).context("not the speeds of an engine")?,
        _ => bail!("it printed no JSON, but {output:?}"),
    };
    let all = [speeds.prefill_tokens_per_s, speeds.decode_tokens_per_s, speeds.first_token_ms];
    ensure!(all.iter().any(Option::is_some), "it printed no speed");
    ensure!(all.iter().flatten().all(|x| x.is_finite() && *x > 0.0), "a speed is not positive: {speeds:?}");
    Ok(speeds)
}

/// llama-bench's array: a run with a prompt alone, one that generates alone.
fn llama_bench(runs: &[Value]) -> anyhow::Result<Speeds> {
    let mut speeds = Speeds::default();
    for run in runs {
        let field = |name: &str| run.get(name).and_then(Value::as_f64).with_context(|| format!("a run without {name}"));
        match (field("n_prompt")? > 0.0, field("n_gen")? > 0.0) {
            (true, false) => speeds.prefill_tokens_per_s = Some(field("avg_ts")?),
            (false, true) => speeds.decode_tokens_per_s = Some(field("avg_ts")?),
            _ => {}
        }
    }
    Ok(speeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_name_and_a_command() {
        let peer: Peer = "ct2=X=1 engine -p {prompt}".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.command.as_str()), ("ct2", "X=1 engine -p {prompt}"));
        for bad in ["engine", "=engine", "/bin/engine -x=1", "engine -x=1"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_engine_is_told_the_setting_and_heard() {
        let line = r#"echo loading; echo '{"prefill_tokens_per_s": {prompt}, "decode_tokens_per_s": {threads}.5}'"#;
        let peer: Peer = format!("echo={line}").parse().unwrap();
        let expected =
            Speeds { prefill_tokens_per_s: Some(64.0), decode_tokens_per_s: Some(2.5), first_token_ms: None };
        assert_eq!(peer.run(64, 8, 2).unwrap(), expected);
        for (bad, says) in [("exit 3", "exit status: 3"), ("echo fast", "no JSON"), ("echo '{\"speed\": 1}'", "speed")]
        {
            let error = Peer { name: "bad".into(), command: bad.into() }.run(64, 8, 2).unwrap_err();
            assert!(format!("{error:#}").contains(says) && format!("{error:#}").contains(bad), "{error:#}");
        }
    }

    #[test]
    fn llama_bench_is_understood() {
        let output = r#"[
          {"model_type": "llama 110M Q8_0", "n_prompt": 512, "n_gen": 0, "avg_ts": 235.25, "samples_ts": [235.25]},
          {"model_type": "llama 110M Q8_0", "n_prompt": 0, "n_gen": 64, "avg_ts": 44.5, "samples_ts": [44.5]}
        ]"#;
        let speeds = parse(output).unwrap();
        assert_eq!((speeds.prefill_tokens_per_s, speeds.decode_tokens_per_s), (Some(235.25), Some(44.5)));
    }

    #[test]
    fn speeds_that_are_none_are_refused() {
        for bad in ["", "{}", "[]", "[{}]", r#"{"prefill_tokens_per_s": 0}"#, r#"{"decode_tokens_per_s": -1}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
