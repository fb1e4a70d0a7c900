//! The largest of many values, without sorting them and without moving them.

/// Bits of a key that one pass over the values decides.
const BITS: u32 = 4;

/// Where the largest keys end whose weights together first reach `target` (at least 1): the smallest such key, and how
/// much of the target falls to items with exactly that key. If all weights together are less, the key 0.
///
/// A radix selection: each pass over the items, from the highest bits on, adds up the weights of sixteen classes and goes
/// into the one where the target is reached. Eight passes and 128 bytes, whatever the number of items.
pub(super) fn threshold(items: impl Iterator<Item = (u32, u64)> + Clone, mut target: u64) -> (u32, u64) {
    let mut prefix = 0u32;
    for shift in (0..u32::BITS).step_by(BITS as usize).rev() {
        let mut classes = [0u64; 1 << BITS];
        // The bits above the class must be those already found; of the first class there are none.
        let above = shift + BITS;
        for (key, weight) in items.clone() {
            if key.checked_shr(above) == prefix.checked_shr(above)
                && let Some(class) = classes.get_mut((key >> shift) as usize % (1 << BITS))
            {
                *class += weight;
            }
        }
        let mut found = 0;
        for (class, &weight) in classes.iter().enumerate().rev() {
            if weight >= target {
                found = class as u32;
                break;
            }
            if class > 0 {
                target -= weight;
            }
        }
        prefix |= found << shift;
    }
    (prefix, target)
}

/// A key that orders as the float does: −0 below 0, NaN with the sign of plus above infinity.
#[inline]
pub(super) fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Inserts into the descending list `list[..len]`, of which at most `list.len()` entries are kept; equal ones stay in the
/// order in which they came. Returns the new length.
pub(super) fn insert<T: Copy>(list: &mut [T], len: usize, item: T, score: impl Fn(&T) -> f32) -> usize {
    let before = list.get(..len).unwrap_or(&[]).iter().rev().take_while(|old| score(old) < score(&item)).count();
    let at = len - before;
    if at >= list.len() {
        return len;
    }
    let len = (len + 1).min(list.len());
    if let Some(tail) = list.get_mut(at..len) {
        tail.rotate_right(1);
        if let Some(first) = tail.first_mut() {
            *first = item;
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn the_threshold_is_where_a_sorted_list_reaches_the_target(
            items in prop::collection::vec((prop_oneof![0u32..20, any::<u32>()], 0u64..50), 1..60),
            share in 0.0f64..1.2,
        ) {
            let mut classes = BTreeMap::new();
            items.iter().for_each(|&(key, weight)| *classes.entry(key).or_insert(0) += weight);
            let total: u64 = classes.values().sum();
            let target = ((total as f64 * share) as u64).max(1);
            let mut left = target;
            let mut reached = None;
            for (&key, &weight) in classes.iter().rev() {
                if weight >= left {
                    reached = Some((key, left));
                    break;
                }
                left -= weight;
            }
            let found = threshold(items.iter().copied(), target);
            match reached {
                Some(expected) => prop_assert_eq!(found, expected),
                None => prop_assert_eq!(found.0, 0),
            }
        }

        #[test]
        fn a_list_keeps_the_largest_in_order(values in prop::collection::vec(0u8..12, 0..40), capacity in 0usize..10) {
            let mut list = std::vec![(0.0f32, 0usize); capacity];
            let mut len = 0;
            for (index, &value) in values.iter().enumerate() {
                len = insert(&mut list, len, (f32::from(value), index), |item| item.0);
            }
            let mut expected: Vec<_> = values.iter().enumerate().map(|(i, &v)| (f32::from(v), i)).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            expected.truncate(capacity);
            prop_assert_eq!(&list[..len], &expected[..]);
        }
    }

    #[test]
    fn keys_order_as_floats() {
        let values = [f32::NEG_INFINITY, f32::MIN, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, f32::MAX, f32::INFINITY];
        assert!(values.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
    }
}
