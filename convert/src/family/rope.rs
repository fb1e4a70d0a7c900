//! Rotary embeddings from a configuration, in either of transformers' spellings, in the float steps that transformers
//! takes.
//!
//! Hub files write `rope_theta` and `rope_scaling {type | rope_type, factor, …}`; transformers 5 writes all of it into
//! `rope_parameters`. [`Rope::read`] only reads, so that sizes can be checked before [`Rope::frequencies`] computes.

use thumbformer::arch::MAX_FREQUENCY;

use crate::Result;
use crate::config::Config;
use crate::recipe::Source;

/// Fields of a configuration that are read here.
pub(super) const FIELDS: [&str; 5] =
    ["original_max_position_embeddings", "partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta"];

/// The base of models that name none, Su et al.'s.
const DEFAULT_THETA: f64 = 10_000.0;

/// What families differ in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variant {
    /// The share of a head's dimensions that rotates if the configuration names none; `None` where it must be all.
    pub(super) partial: Option<f64>,
    /// Positions of the original training, for a family that has a default of its own and heeds no other spelling than
    /// the outermost.
    pub(super) original: Option<u32>,
    /// There is no other base than 10000.
    pub(super) fixed_theta: bool,
    /// Phi-3's first name for LongRoPE was `su`, its second `yarn`.
    pub(super) phi3_names: bool,
}

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    theta: f64,
    /// Leading dimensions of a head that rotate.
    pub(super) rotary_dim: u32,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    /// Also the dynamic rule within the context that the model was trained on, which is all that is converted.
    Plain,
    /// Positions divided by a factor (Chen et al., 2023, arXiv:2306.15595).
    Linear { factor: f64 },
    /// Low frequencies divided by a factor, high ones kept, a ramp between (Llama 3.1).
    Llama3 { factor: f64, low: f64, high: f64, context: f64 },
    /// The same idea with a ramp over dimensions (YaRN; Peng et al., 2023, arXiv:2309.00071).
    Yarn { factor: f64, fast: f64, slow: f64, truncate: bool, context: f64, attention: f64 },
    /// A factor of its own for each pair, found by search (LongRoPE; Ding et al., 2024, arXiv:2402.13753).
    Long { short: Vec<f64>, long: Vec<f64>, context: u32, attention: f64 },
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

/// What stands inside a rope object and outside of it must agree.
fn agreed(inner: &Config, outer: &Config, field: &str) -> Result<Option<f64>> {
    match (positive(inner, field)?, positive(outer, field)?) {
        (Some(inside), Some(outside)) if inside != outside => Err(inner.error(field, format!("{outside}, as outside"))),
        (inside, outside) => Ok(inside.or(outside)),
    }
}

impl Rope {
    /// Reads the rule for heads of `head_dim` and a context of `context` positions.
    ///
    /// # Errors
    /// A field of a wrong type or an impossible value, an unknown rule, two spellings that contradict each other.
    pub(super) fn read(
        config: &Config,
        head_dim: u32,
        context: u32,
        variant: Variant,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let sizes = Sizes { config, head_dim, context, variant };
        let mut found: Option<Rope> = None;
        for field in ["rope_parameters", "rope_scaling"] {
            if let Some(fields) = config.object(field)? {
                let rope = sizes.rope(&fields)?;
                // transformers 5 repeats one object under both names.
                if found.as_ref().is_some_and(|first| *first != rope) {
                    return Err(config.error(field, "the same as in `rope_parameters`"));
                }
                found = Some(rope);
            }
        }
        let rope = match found {
            Some(rope) => rope,
            None => sizes.rope(&Config::new(config.path(), "", serde_json::Map::new()))?,
        };
        let spelled = ["rope_parameters", "rope_scaling", "rope_theta"].iter().any(|field| config.get(field).is_some());
        if !spelled && !variant.fixed_theta {
            notes.push(format!("the configuration names no rope_theta: {DEFAULT_THETA} is assumed"));
        }
        if let Rule::Long { context: original, .. } = rope.rule
            && context > original
        {
            notes.push(format!(
                "LongRoPE: a context of more than {original} positions uses the long factors at every position, shorter \
                 ones the short factors; transformers chooses by the length of each text. --context {original} gives \
                 what it computes for short texts"
            ));
        }
        Ok(rope)
    }

    /// RoPE as it was first described, on `rotary_dim` dimensions of each head.
    pub(super) fn plain(rotary_dim: u32) -> Self {
        Rope { theta: DEFAULT_THETA, rotary_dim, rule: Rule::Plain }
    }

    /// `1/√head_dim` with the rule's factor, for families that do not scale a part of their queries.
    ///
    /// # Errors
    /// A rule with a factor where only a part of each head rotates.
    pub(super) fn attention_scale(&self, config: &Config, head_dim: u32) -> Result<f32> {
        let factor = self.score_factor();
        if factor != 1.0 && self.rotary_dim != head_dim {
            return Err(
                config.error("rope_scaling", "a rule without an attention factor: only a part of a head rotates")
            );
        }
        Ok((factor / f64::from(head_dim).sqrt()) as f32)
    }

    /// Factor of all attention scores' rotated part: YaRN and LongRoPE multiply sine and cosine of queries and keys by
    /// its root.
    pub(super) fn score_factor(&self) -> f64 {
        match self.rule {
            Rule::Yarn { attention, .. } | Rule::Long { attention, .. } => attention * attention,
            _ => 1.0,
        }
    }

    /// Radians per position of each rotated pair.
    ///
    /// Every step in f32, as PyTorch does it: `x / tensor` there is `(1/tensor)·x`. The power is computed in double
    /// precision and rounded once.
    ///
    /// # Errors
    /// Values that are not finite, or larger than the format has them, in the name of the configuration.
    pub(super) fn frequencies(&self, config: &Config) -> Result<Source> {
        let source = match &self.rule {
            Rule::Long { short, long, context, .. } => Source::ByContext {
                positions: *context,
                up_to: self.divided(short).collect(),
                beyond: self.divided(long).collect(),
            },
            _ => Source::Values(self.scaled()),
        };
        let fits = |x: &f32| x.abs() <= MAX_FREQUENCY;
        let fit = match &source {
            Source::Values(values) => values.iter().all(fits),
            Source::ByContext { up_to, beyond, .. } => up_to.iter().chain(beyond).all(fits),
            Source::Parts(_) => true,
        };
        if fit {
            return Ok(source);
        }
        Err(config.error("rope_scaling", format!("a rule with frequencies of at most {MAX_FREQUENCY} radians")))
    }

    /// `theta^(2i/rotary_dim)`: the wavelengths over 2π.
    fn powers(&self) -> impl Iterator<Item = f32> {
        let (base, dim) = (f64::from(self.theta as f32), self.rotary_dim);
        (0..dim / 2).map(move |pair| libm::pow(base, f64::from((2 * pair) as f32 / dim as f32)) as f32)
    }

    fn divided(&self, factors: &[f64]) -> impl Iterator<Item = f32> {
        self.powers().zip(factors).map(|(power, factor)| 1.0 / (*factor as f32 * power))
    }

    fn scaled(&self) -> Vec<f32> {
        let plain = self.powers().map(|power| 1.0 / power);
        match self.rule {
            Rule::Plain | Rule::Long { .. } => plain.collect(),
            Rule::Linear { factor } => plain.map(|frequency| frequency / factor as f32).collect(),
            Rule::Llama3 { factor, low, high, context } => {
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
            Rule::Yarn { factor, fast, slow, truncate, context, .. } => {
                let dim = f64::from(self.rotary_dim);
                // The dimension whose pair turns so many times within the original context.
                let turning = |turns: f64| {
                    dim * libm::log(context / (turns * std::f64::consts::TAU)) / (2.0 * libm::log(self.theta))
                };
                let (mut low, mut high) = (turning(fast), turning(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let interpolated = |(pair, power): (u32, f32)| {
                    let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
                };
                (0..).zip(self.powers()).map(interpolated).collect()
            }
        }
    }
}

/// What the rule is read for.
struct Sizes<'a> {
    config: &'a Config,
    head_dim: u32,
    context: u32,
    variant: Variant,
}

impl Sizes<'_> {
    /// The rule of the object `fields`.
    fn rope(&self, fields: &Config) -> Result<Rope> {
        let theta = agreed(fields, self.config, "rope_theta")?.unwrap_or(DEFAULT_THETA);
        let rotary_dim = self.rotary_dim(fields)?;
        let field = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
        let mut known = vec!["rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"];
        let rule = match fields.string(field)?.unwrap_or("default") {
            "default" => Rule::Plain,
            "dynamic" => {
                required(fields, "factor")?;
                Rule::Plain
            }
            "linear" => Rule::Linear { factor: required(fields, "factor")? },
            "llama3" => {
                known.extend(["low_freq_factor", "high_freq_factor", ORIGINAL]);
                let (low, high) = (required(fields, "low_freq_factor")?, required(fields, "high_freq_factor")?);
                if high <= low {
                    return Err(fields.error("high_freq_factor", "more than low_freq_factor"));
                }
                let context = self.original(fields)?.ok_or_else(|| fields.error(ORIGINAL, "a positive integer"))?;
                Rule::Llama3 { factor: required(fields, "factor")?, low, high, context: f64::from(context) }
            }
            "yarn" if !self.variant.phi3_names => {
                known.extend([ORIGINAL, "attention_factor", "beta_fast", "beta_slow"]);
                known.extend(["mscale", "mscale_all_dim", "truncate"]);
                if theta <= 1.0 {
                    let holder = if fields.get("rope_theta").is_some() { fields } else { self.config };
                    return Err(holder.error("rope_theta", "more than 1"));
                }
                self.yarn(fields)?
            }
            "longrope" => self.long(fields, rotary_dim, &mut known)?,
            "su" | "yarn" if self.variant.phi3_names => self.long(fields, rotary_dim, &mut known)?,
            _ => return Err(fields.error(field, "one of default, linear, dynamic, llama3, yarn, longrope")),
        };
        fields.refuse_unknown(&known)?;
        Ok(Rope { theta, rotary_dim, rule })
    }

    /// transformers truncates the product.
    fn rotary_dim(&self, fields: &Config) -> Result<u32> {
        let found = agreed(fields, self.config, "partial_rotary_factor")?;
        let holder = if fields.get("partial_rotary_factor").is_some() { fields } else { self.config };
        match self.variant.partial {
            None if found.is_some_and(|factor| factor != 1.0) => Err(holder.error("partial_rotary_factor", "1")),
            None => Ok(self.head_dim),
            Some(_) if found.is_some_and(|factor| factor > 1.0) => {
                Err(holder.error("partial_rotary_factor", "at most 1"))
            }
            Some(default) => Ok((f64::from(self.head_dim) * found.unwrap_or(default)) as u32),
        }
    }

    /// Positions of the original training: the outermost spelling comes first.
    fn original(&self, fields: &Config) -> Result<Option<u32>> {
        for config in [self.config, fields] {
            match config.integer(ORIGINAL)? {
                Some(0) => return Err(config.error(ORIGINAL, "a positive integer")),
                Some(context) => return Ok(Some(context)),
                None if self.variant.original.is_some() => return Ok(self.variant.original),
                None => {}
            }
        }
        Ok(None)
    }

    fn yarn(&self, fields: &Config) -> Result<Rule> {
        let factor = required(fields, "factor")?;
        let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 };
        let (mscale, all_dim) = (fields.number("mscale")?, fields.number("mscale_all_dim")?);
        let attention = match (positive(fields, "attention_factor")?, mscale, all_dim) {
            (Some(factor), ..) => factor,
            // Zero counts as absent.
            (None, Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => scale(mscale) / scale(all_dim),
            _ => scale(1.0),
        };
        if !(attention.is_finite() && attention > 0.0) {
            return Err(fields.error("mscale", "a number that gives a positive attention factor"));
        }
        Ok(Rule::Yarn {
            factor,
            fast: positive(fields, "beta_fast")?.unwrap_or(32.0),
            slow: positive(fields, "beta_slow")?.unwrap_or(1.0),
            truncate: fields.boolean("truncate")?.unwrap_or(true),
            context: f64::from(self.original(fields)?.unwrap_or(self.context)),
            attention,
        })
    }

    fn long(&self, fields: &Config, rotary_dim: u32, known: &mut Vec<&str>) -> Result<Rule> {
        known.extend([ORIGINAL, "attention_factor", "short_factor", "long_factor"]);
        let factors = |field: &str| {
            let expected = format!("a list of {} positive numbers", rotary_dim / 2);
            let list = fields.numbers(field)?.filter(|list| list.len() == (rotary_dim / 2) as usize);
            list.filter(|list| list.iter().all(|x| *x as f32 > 0.0 && (*x as f32).is_finite()))
                .ok_or_else(|| fields.error(field, expected))
        };
        let context = self.original(fields)?.unwrap_or(self.context);
        let ratio = f64::from(self.context) / f64::from(context);
        let factor = positive(fields, "factor")?.unwrap_or(ratio);
        let attention = match positive(fields, "attention_factor")? {
            Some(attention) => attention,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + libm::log(factor) / libm::log(f64::from(context))).sqrt(),
        };
        if !attention.is_finite() {
            return Err(fields.error(ORIGINAL, "more than 1"));
        }
        Ok(Rule::Long { short: factors("short_factor")?, long: factors("long_factor")?, context, attention })
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";
