//! Rotary frequencies from a configuration, in either of transformers' spellings, in the float steps that transformers
//! takes.
//!
//! Hub files write `rope_theta` and `rope_scaling {type | rope_type, factor, …}`; transformers 5 writes all of it into
//! `rope_parameters`. Rules beyond `default`, `linear` and `llama3` are refused.

use crate::Result;
use crate::config::Config;
/// Fields of a configuration that are read here.
pub(super) const FIELDS: [&str; 4] = ["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"];

/// The base of models that name none, Su et al.'s.
const DEFAULT_THETA: f64 = 10_000.0;

/// How positions become angles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rope {
    theta: f64,
    scaling: Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    None,
    /// Positions divided by a factor (Chen et al., 2023, arXiv:2306.15595).
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by a factor, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
}

/// Radians per position of each of the `head_dim / 2` pairs.
///
/// # Errors
/// A field of a wrong type or an impossible value, an unknown rule, two spellings that contradict each other.
pub(super) fn frequencies(config: &Config, head_dim: u32, notes: &mut Vec<String>) -> Result<Vec<f32>> {
    let theta = positive(config, "rope_theta")?;
    let mut found = Vec::new();
    for field in ["rope_parameters", "rope_scaling"] {
        if let Some(fields) = config.object(field)? {
            let rope = Rope::read(&fields, theta)?;
            // transformers 5 repeats one object under both names.
            if found.first().is_some_and(|first| *first != rope) {
                return Err(config.error(field, "the same as in `rope_parameters`"));
            }
            found.push(rope);
        }
    }
    let partial = positive(config, "partial_rotary_factor")?;
    if partial.is_some_and(|factor| factor != 1.0) {
        return Err(config.error("partial_rotary_factor", "1"));
    }
    let plain = Rope { theta: theta.unwrap_or(DEFAULT_THETA), scaling: Scaling::None };
    if found.is_empty() && theta.is_none() {
        notes.push(format!("the configuration names no rope_theta: {DEFAULT_THETA} is assumed"));
    }
    Ok(found.first().unwrap_or(&plain).frequencies(head_dim))
}

fn positive(config: &Config, field: &str) -> Result<Option<f64>> {
    match config.number(field)? {
        // As f32, because that is what it becomes.
        Some(value) if value as f32 <= 0.0 || !(value as f32).is_finite() => {
            Err(config.error(field, "a positive number"))
        }
        value => Ok(value),
    }
}

fn required(config: &Config, field: &str) -> Result<f64> {
    positive(config, field)?.ok_or_else(|| config.error(field, "a positive number"))
}

impl Rope {
    fn read(config: &Config, outer_theta: Option<f64>) -> Result<Self> {
        let theta = match (positive(config, "rope_theta")?, outer_theta) {
            (Some(inner), Some(outer)) if inner != outer => {
                return Err(config.error("rope_theta", format!("{outer}, as outside")));
            }
            (inner, outer) => inner.or(outer).unwrap_or(DEFAULT_THETA),
        };
        if positive(config, "partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(config.error("partial_rotary_factor", "1"));
        }
        let field = if config.get("rope_type").is_some() { "rope_type" } else { "type" };
        let mut known = vec!["rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"];
        let scaling = match config.string(field)?.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: required(config, "factor")? },
            "llama3" => {
                known.extend(["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]);
                let (low, high) = (required(config, "low_freq_factor")?, required(config, "high_freq_factor")?);
                if high <= low {
                    return Err(config.error("high_freq_factor", "more than low_freq_factor"));
                }
                let context = required(config, "original_max_position_embeddings")?;
                Scaling::Llama3 { factor: required(config, "factor")?, low, high, context }
            }
            _ => return Err(config.error(field, "one of default, linear, llama3")),
        };
        config.refuse_unknown(&known)?;
        Ok(Rope { theta, scaling })
    }

    /// Every step in f32, as PyTorch does it: `x / tensor` there is `(1/tensor)·x`. The power is computed in double
    /// precision and rounded once.
    fn frequencies(&self, head_dim: u32) -> Vec<f32> {
        let base = f64::from(self.theta as f32);
        let plain = (0..head_dim / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            1.0 / libm::pow(base, f64::from(exponent)) as f32
        });
        match self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|frequency| frequency / factor as f32).collect(),
            Scaling::Llama3 { factor, low, high, context } => {
                let (longest, shortest) = ((context / low) as f32, (context / high) as f32);
                let scaled = |frequency: f32| {
                    let wavelength = (1.0 / frequency) * std::f64::consts::TAU as f32;
                    if wavelength > longest {
                        frequency / factor as f32
                    } else if wavelength < shortest {
                        frequency
                    } else {
                        let smooth = ((1.0 / wavelength) * context as f32 - low as f32) / (high - low) as f32;
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                plain.map(scaled).collect()
            }
        }
    }
}
