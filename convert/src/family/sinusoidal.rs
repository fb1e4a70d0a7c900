//! Positions that are added to embeddings and not trained: sines and cosines of wavelengths from 2π to 20000π (Vaswani et
//! al., 2017, arXiv:1706.03762). Of the dimensions of a pair `i`, one is `sin(p / 10000^(2i/dim))`, the other the cosine.

/// Where the sine and the cosine of a pair stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// All sines, then all cosines.
    Halves,
    /// Side by side.
    Interleaved,
}

/// `positions × dim`, computed in f64 and rounded once.
pub(crate) fn table(positions: u32, dim: u32, order: Order) -> Vec<f32> {
    let sines = dim.div_ceil(2);
    let value = |position: u32, d: u32| {
        let (pair, is_sine) = match order {
            Order::Halves => (if d < sines { d } else { d - sines }, d < sines),
            Order::Interleaved => (d / 2, d.is_multiple_of(2)),
        };
        let angle = f64::from(position) / libm::pow(10_000.0, f64::from(2 * pair) / f64::from(dim));
        (if is_sine { libm::sin(angle) } else { libm::cos(angle) }) as f32
    };
    (0..positions).flat_map(|position| (0..dim).map(move |d| value(position, d))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Order, table};

    #[test]
    fn pairs_stand_where_they_should() {
        let close = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7);
        let (one, slow) = (1f64, 0.01f64);
        let halves = table(2, 4, Order::Halves);
        assert_eq!(halves[..4], [0.0, 0.0, 1.0, 1.0]);
        assert!(close(&halves[4..], &[one.sin(), slow.sin(), one.cos(), slow.cos()]));
        assert!(close(&table(2, 4, Order::Interleaved)[4..], &[one.sin(), one.cos(), slow.sin(), slow.cos()]));
        // An odd width has a sine more.
        assert_eq!(table(1, 3, Order::Halves), [0.0, 0.0, 1.0]);
    }
}
