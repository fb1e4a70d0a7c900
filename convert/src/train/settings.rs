//! What a training run is asked to do: stored beside the model, so that it can be resumed.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::architecture::{Preset, Sizes};
use super::optimizer::{AdamW, Schedule};
use super::parameters::LowRank;
use super::size::Budget;
use super::vocabulary::Markup;
use crate::cli::model::Group;
use crate::{Error, Result};

/// What the model learns to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The next token of a text
    Lm,
    /// The answers of request-answer pairs
    Sft,
    /// Hidden tokens of texts, a text a line
    Mlm,
    /// Answers to sources, which an encoder reads
    Seq2seq,
}

impl Objective {
    /// The families that can learn this; the first is the default.
    pub fn presets(self) -> &'static [Preset] {
        match self {
            Objective::Lm | Objective::Sft => &[Preset::Llama, Preset::Gpt2],
            Objective::Mlm => &[Preset::Bert],
            Objective::Seq2seq => &[Preset::EncoderDecoder],
        }
    }

    /// Special tokens of a vocabulary that is made for it.
    pub fn markup(self) -> &'static Markup {
        match self {
            Objective::Lm => &Markup::TEXT,
            Objective::Sft => &Markup::ANSWERS,
            Objective::Mlm => &Markup::MASKED,
            Objective::Seq2seq => &Markup::SOURCES,
        }
    }

    /// Refuses a family that cannot learn it.
    ///
    /// # Errors
    /// Both, and what would fit.
    pub fn check(self, preset: Preset) -> Result<()> {
        if self.presets().contains(&preset) {
            return Ok(());
        }
        let expected: Vec<String> = self.presets().iter().map(name).collect();
        let own = Objective::value_variants().iter().find(|objective| objective.presets().contains(&preset));
        Err(Error::Usage(format!(
            "--objective {} with a {}: expected {}, or --objective {}",
            name(&self),
            name(&preset),
            expected.join(" or "),
            own.map(name).unwrap_or_default()
        )))
    }
}

/// What the command line calls it.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Everything that decides what comes out.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// What to predict
    #[arg(long, value_enum, default_value = "lm")]
    pub objective: Objective,
    /// In sft, how much predictions of the request count; those of the answer count 1
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    pub prompt_weight: f32,
    /// Share of a text's tokens that mlm hides
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    pub mask_share: f32,
    /// Folder with a llama, gpt2, bert, marian or nanoGPT's ckpt.pt to fine-tune instead of a new model
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["preset", "vocab", "dim", "layers", "decoder_layers",
        "heads", "kv_heads", "hidden", "context"])]
    pub init: Option<PathBuf>,
    /// Train low-rank changes of the blocks' matrices alone (LoRA), of this rank; the model that is written has them added
    #[arg(long, value_name = "RANK", requires = "init")]
    pub lora: Option<usize>,
    /// The changes' factor, times the rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    pub lora_alpha: Option<f32>,
    /// File or folder to validate with [default: a part of the data, --valid-share]
    #[arg(long, value_name = "PATH")]
    pub valid: Option<PathBuf>,
    /// Share of the data that is set aside for validation if --valid is not given: a text's end, or examples drawn at
    /// random, at least one
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub valid_share: f32,
    /// The architecture [default: llama; bert for mlm, encoder-decoder for seq2seq]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Choose the largest sizes that fit a board with the whole context (fits:stm32h743), or a file (300K): those below
    /// that are not given
    #[arg(long, value_name = "BUDGET", conflicts_with = "init")]
    pub size: Option<Budget>,
    /// Its sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// `bpe`, `wordpiece` (for mlm) or `chars` to train one on the text, or a tokenizer's file or folder [default: bpe;
    /// wordpiece for mlm; with --init, its own]
    #[arg(long, value_name = "bpe|wordpiece|chars|PATH")]
    pub tokenizer: Option<String>,
    /// Tokens of the vocabulary that bpe or wordpiece learns
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub vocab: usize,
    /// Steps of the optimizer
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub steps: u64,
    /// Sequences that go through the model at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub batch: usize,
    /// Batches whose gradients are added up for a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub accumulate: usize,
    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    pub learning_rate: f32,
    /// Last learning rate, as a share of the largest
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub final_rate: f32,
    /// Steps in which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub warmup: u64,
    /// AdamW's β₁
    #[arg(long, value_name = "BETA", default_value_t = 0.9)]
    pub beta1: f32,
    /// AdamW's β₂
    #[arg(long, value_name = "BETA", default_value_t = 0.99)]
    pub beta2: f32,
    /// AdamW's weight decay, for matrices
    #[arg(long, value_name = "DECAY", default_value_t = 0.1)]
    pub weight_decay: f32,
    /// Largest norm of a gradient, to which longer ones are shortened; 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub clip: f32,
    /// Probability of dropout
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub dropout: f32,
    /// Share of the target's probability that is spread evenly over the vocabulary
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub label_smoothing: f32,
    /// Train with the runtime's rounding: weights, activations, keys and values as they will be in int8
    #[arg(long)]
    pub qat: bool,
    /// Columns that share a scale in --qat, as `convert --group` will be told
    #[arg(long, value_enum, value_name = "GROUP", requires = "qat", default_value = "32")]
    pub group: Group,
    /// What all random choices follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Steps between validations, after which a checkpoint is written
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub every: u64,
}

impl Settings {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The option, what it says and what it should.
    pub fn check(&self) -> Result<()> {
        let refuse = |option: &str, found: &dyn std::fmt::Display, expected: &str| {
            Err(Error::Usage(format!("--{option} {found}: expected {expected}")))
        };
        for (option, n) in [
            ("steps", self.steps),
            ("batch", self.batch as u64),
            ("accumulate", self.accumulate as u64),
            ("every", self.every),
            ("lora", self.lora.unwrap_or(1) as u64),
        ] {
            if n == 0 {
                return refuse(option, &n, "at least 1");
            }
        }
        if !(self.mask_share > 0.0 && self.mask_share <= 1.0) {
            return refuse("mask-share", &self.mask_share, "above 0, at most 1");
        }
        for (option, share) in [
            ("valid-share", self.valid_share),
            ("dropout", self.dropout),
            ("label-smoothing", self.label_smoothing),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
        ] {
            if !(0.0..1.0).contains(&share) {
                return refuse(option, &share, "at least 0, below 1");
            }
        }
        for (option, value) in [
            ("learning-rate", self.learning_rate),
            ("final-rate", self.final_rate),
            ("weight-decay", self.weight_decay),
            ("clip", self.clip),
            ("prompt-weight", self.prompt_weight),
            ("lora-alpha", self.lora_alpha.unwrap_or(1.0)),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(option, &value, "a number that is not negative");
            }
        }
        Ok(())
    }

    /// The family of a new model.
    pub fn preset(&self) -> Preset {
        self.preset.or(self.objective.presets().first().copied()).unwrap_or(Preset::Llama)
    }

    /// The changes of low rank that are trained, if not the whole model is.
    pub fn low_rank(&self) -> Option<LowRank> {
        self.lora.map(|rank| LowRank { rank, alpha: self.lora_alpha.unwrap_or(2.0 * rank as f32) })
    }

    /// The optimizer's constants.
    pub fn optimizer(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, eps: 1e-8, weight_decay: self.weight_decay, clip: self.clip }
    }

    /// The learning rates.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            least: self.learning_rate * self.final_rate,
            warmup: self.warmup.min(self.steps / 2),
            steps: self.steps,
        }
    }
}
