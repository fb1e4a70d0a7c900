//! Greedy decoding: always the likeliest token.

/// The index of the largest value; the lowest of equal ones. NaN is never larger; 0 if there is nothing to choose from.
///
/// ```
/// assert_eq!(thumbformer::decode::argmax(&[0.5, 2.0, -1.0, 2.0]), 1);
/// assert_eq!(thumbformer::decode::argmax(&[f32::NAN, -3.0]), 1);
/// ```
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}
