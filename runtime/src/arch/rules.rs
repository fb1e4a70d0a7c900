//! The rules that a record keeps: what each field may be, alone and beside the others.

use super::{Arch, CROSS, ENCODER, HeadNorm, Norm, Position, SHAPING};

/// Largest width the format allows for `dim`, `hidden` and `heads·head_dim`: an int8 dot product of one row stays in i32.
pub const MAX_WIDTH: u32 = 65_536;
/// Largest `head_dim`: an int8 dot product of one head converts to f32 exactly.
pub const MAX_HEAD_DIM: u32 = 1_024;
/// Largest vocabulary.
pub const MAX_VOCAB: u32 = 1 << 22;
/// Largest context.
pub const MAX_CONTEXT: u32 = 1 << 20;
/// Largest number of token types.
pub const MAX_TOKEN_TYPES: u32 = 255;
/// Largest distance that relative positions tell apart: the vector of all heads' stays below 2³² values.
pub const MAX_RELATIVE_DISTANCE: u32 = 16_384;
/// Largest frequency of a rotated pair, in radians per position. The largest angle is 2²⁸ then: sine and cosine of larger
/// ones take arithmetic of a thousand bits, and rotate by chance, because an f32 there is off by whole turns.
pub const MAX_FREQUENCY: f32 = 256.0;
/// Largest number of layers.
pub const MAX_LAYERS: u32 = 4_096;

/// Which rule an [`Arch`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ArchError {
    /// The offending field.
    pub field: &'static str,
    /// What holds for it in a valid record.
    pub rule: &'static str,
}

impl core::fmt::Display for ArchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "architecture field `{}` must be {}", self.field, self.rule)
    }
}

impl core::error::Error for ArchError {}

impl Arch {
    /// Checks every field's range, so that no later size computation overflows on a 64-bit machine and 32-bit ones can
    /// report a model that is too large for them.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub const fn validate(&self) -> Result<(), ArchError> {
        macro_rules! rule {
            ($ok:expr, $field:literal, $rule:literal) => {
                if !$ok {
                    return Err(ArchError { field: $field, rule: $rule });
                }
            };
        }
        rule!(self.vocab >= 1 && self.vocab <= MAX_VOCAB, "vocab", "in 1..=4194304");
        rule!(self.dim >= 1 && self.dim <= MAX_WIDTH, "dim", "in 1..=65536");
        rule!(self.layers >= 1 && self.layers <= MAX_LAYERS, "layers", "in 1..=4096");
        rule!(self.heads >= 1 && self.heads <= MAX_WIDTH, "heads", "in 1..=65536");
        rule!(self.head_dim >= 1 && self.head_dim <= MAX_HEAD_DIM, "head_dim", "in 1..=1024");
        rule!(
            self.heads as u64 * self.head_dim as u64 <= MAX_WIDTH as u64,
            "heads",
            "such that heads x head_dim <= 65536"
        );
        rule!(
            self.kv_heads >= 1 && self.kv_heads <= self.heads && self.heads.is_multiple_of(self.kv_heads),
            "kv_heads",
            "a divisor of heads"
        );
        rule!(self.hidden >= 1 && self.hidden <= MAX_WIDTH, "hidden", "in 1..=65536");
        rule!(self.context >= 1 && self.context <= MAX_CONTEXT, "context", "in 1..=1048576");
        rule!(self.norm_eps.is_finite() && self.norm_eps >= 0.0, "norm_eps", "finite and not negative");
        rule!(self.embedding_scale.is_finite() && self.embedding_scale > 0.0, "embedding_scale", "finite and positive");
        rule!(self.attention_scale.is_finite() && self.attention_scale > 0.0, "attention_scale", "finite and positive");
        rule!(self.score_cap.is_finite() && self.score_cap >= 0.0, "score_cap", "finite and not negative");
        rule!(self.logit_cap.is_finite() && self.logit_cap >= 0.0, "logit_cap", "finite and not negative");
        rule!(self.window <= MAX_CONTEXT, "window", "at most 1048576");
        rule!(!self.output_norms || matches!(self.norm, Norm::Rms), "output_norms", "unset without RMSNorm");
        if SHAPING {
            rule!(
                if self.window > 0 { self.window_from < self.layers } else { self.window_from == 0 },
                "window_from",
                "a layer, and 0 without a window"
            );
            let list = self.window_list.bits();
            let listed = self.layers < 64 && list >> self.layers == 0 || self.layers == 64;
            let no_pattern = self.window > 0 && self.window_from == 0 && self.global_every == 0;
            rule!(
                list == 0 || (listed && no_pattern),
                "window_list",
                "some of at most 64 layers, and none without a window or with a pattern"
            );
        }
        rule!(self.window > 0 || self.global_every == 0, "global_every", "0 without a window");
        rule!(
            !self.window_rope || (self.window > 0 && matches!(self.position, Position::Rope)),
            "window_rope",
            "unset without a window and RoPE"
        );
        rule!(
            self.rotary_dim.is_multiple_of(2) && self.rotary_dim <= self.head_dim,
            "rotary_dim",
            "even and at most head_dim"
        );
        rule!(
            matches!(self.position, Position::Rope) == (self.rotary_dim > 0),
            "rotary_dim",
            "positive with RoPE and 0 without"
        );
        if ENCODER {
            rule!(self.token_types <= MAX_TOKEN_TYPES, "token_types", "at most 255");
            rule!(!self.causal || self.token_types == 0, "token_types", "0 in a causal model");
            rule!(!(self.post_norm && self.is_parallel()), "post_norm", "false in a parallel model");
            rule!(
                !(self.normed_residual && (self.post_norm || self.is_parallel())),
                "normed_residual",
                "false in a parallel model, and with norms behind sublayers"
            );
            rule!(self.final_norm || !self.post_norm, "final_norm", "true with norms behind sublayers");
            rule!(self.causal || self.window == 0, "window", "0 in an encoder");
            rule!(
                self.causal || !matches!(self.position, Position::Alibi),
                "position",
                "another than ALiBi in an encoder"
            );
            let head = !self.tied_head || self.head_transform || self.biases.head;
            rule!(
                !self.headless || !(self.causal || head),
                "headless",
                "false in a causal model, and with parts of a head"
            );
        }
        if CROSS {
            rule!(
                matches!(self.position, Position::Relative) == (self.relative_distance > 0),
                "relative_distance",
                "positive with relative positions and 0 without"
            );
            rule!(self.relative_distance <= MAX_RELATIVE_DISTANCE, "relative_distance", "at most 16384");
            let head_norms = !matches!(self.head_norm, HeadNorm::None);
            let plain = !(self.is_parallel() || head_norms || self.output_norms);
            rule!(
                !self.cross || (self.causal && plain),
                "cross",
                "false in an encoder, in parallel layers, and with norms of heads or outputs"
            );
            rule!(!self.shared_embedding || self.headless, "shared_embedding", "false in a model with a head");
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "encoder"))]
mod tests {
    use super::*;
    use crate::arch::{Biases, Wiring};

    #[test]
    fn encoders_that_contradict_themselves_are_refused() {
        let refused = |arch: Arch, field| assert_eq!(arch.validate().unwrap_err().field, field);
        refused(Arch { token_types: 2, ..Arch::PLAIN }, "token_types");
        let encoder = Arch { causal: false, ..Arch::PLAIN };
        encoder.validate().unwrap();
        refused(Arch { token_types: 256, ..encoder }, "token_types");
        refused(Arch { post_norm: true, wiring: Wiring::Parallel, ..encoder }, "post_norm");
        refused(Arch { normed_residual: true, wiring: Wiring::Parallel, ..encoder }, "normed_residual");
        refused(Arch { normed_residual: true, post_norm: true, ..encoder }, "normed_residual");
        refused(Arch { final_norm: false, post_norm: true, ..encoder }, "final_norm");
        refused(Arch { window: 5, ..encoder }, "window");
        refused(Arch { position: Position::Alibi, ..encoder }, "position");
        let headless = Arch { headless: true, ..encoder };
        headless.validate().unwrap();
        refused(Arch { causal: true, ..headless }, "headless");
        refused(Arch { shared_embedding: true, ..encoder }, "shared_embedding");
        refused(Arch { cross: true, ..encoder }, "cross");
        refused(Arch { cross: true, wiring: Wiring::Parallel, ..Arch::PLAIN }, "cross");
        refused(Arch { relative_distance: 3, ..Arch::PLAIN }, "relative_distance");
        let relative = Arch { position: Position::Relative, ..Arch::PLAIN };
        refused(relative, "relative_distance");
        refused(Arch { relative_distance: 16_385, ..relative }, "relative_distance");
        refused(Arch { tied_head: false, ..headless }, "headless");
        refused(Arch { head_transform: true, ..headless }, "headless");
        refused(Arch { biases: Biases { head: true, ..Biases::default() }, ..headless }, "headless");
    }
}
