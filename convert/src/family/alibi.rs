//! The slopes of ALiBi (Press et al., 2022, arXiv:2108.12409), as its authors and all models compute them.

use half::bf16;

use crate::recipe::Source;

/// `2^(-8/n), 2^(-16/n), …` for a power of two of `heads`. For other numbers those of the next lower power of two, and then
/// every other one of the next higher.
pub(super) fn slopes(heads: u32) -> Source {
    Source::Values(of(heads))
}

/// The same rounded to bfloat16, for biases that are scaled with the scores they are added to.
pub(super) fn slopes_in_bf16(heads: u32, scale: f32) -> Source {
    Source::Values(of(heads).into_iter().map(|slope| bf16::from_f32(slope).to_f32() * scale).collect())
}

fn of(heads: u32) -> Vec<f32> {
    let lower = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let series = |n: u32| move |i: u32| libm::pow(2.0, -8.0 * f64::from(i) / f64::from(n)) as f32;
    let more = (0..heads - lower).map(|i| 2 * i + 1).map(series(2 * lower));
    (1..=lower).map(series(lower)).chain(more).collect()
}
