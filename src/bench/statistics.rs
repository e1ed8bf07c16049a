//! From many times to a few numbers.

use std::time::Duration;

use serde::Serialize;

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Distribution {
    /// Of these times; `None` of none.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut values: Vec<f64> =
            times.into_iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        values.sort_unstable_by(f64::total_cmp);
        let max = *values.last()?;
        Some(Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: quantile(&values, 0.5),
            p90: quantile(&values, 0.9),
            p99: quantile(&values, 0.99),
            max,
        })
    }
}

/// The value below which a fraction `q` of the `sorted` values lies, between two of them by linear
/// interpolation (as numpy's default; Hyndman and Fan's type 7). NaN of no values.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q.clamp(0.0, 1.0) * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let below = position as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (high - low) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(mut values: Vec<f64>) -> Vec<f64> {
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    #[test]
    fn quantiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in
            [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (0.99, 7.88), (1.0, 8.0)]
        {
            assert!((quantile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(Distribution::of([]), None);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_among_the_values_and_grows(
            values in proptest::collection::vec(-1e6..1e6, 1..50), a in 0.0..=1.0, b in 0.0..=1.0
        ) {
            let values = sorted(values);
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            let (low, high) = (quantile(&values, low), quantile(&values, high));
            let slack = 1e-9 * 1e6;
            prop_assert!(values[0] <= low + slack && low <= high + slack);
            prop_assert!(high <= values[values.len() - 1] + slack);
        }

        #[test]
        fn a_quantile_divides_the_values_in_its_proportion(
            values in proptest::collection::vec(0.0..1e3, 1..200), q in 0.0..=1.0
        ) {
            let values = sorted(values);
            let bound = quantile(&values, q);
            let others = (values.len() - 1) as f64;
            let above = values.iter().filter(|value| **value > bound + 1e-9).count() as f64;
            let below = values.iter().filter(|value| **value < bound - 1e-9).count() as f64;
            prop_assert!(above < (1.0 - q) * others + 1.0, "{above} of {others} above {q}");
            prop_assert!(below < q * others + 1.0, "{below} of {others} below {q}");
        }

        #[test]
        fn a_distribution_knows_no_order_and_scales(
            micros in proptest::collection::vec(0_u64..1_000_000, 1..50)
        ) {
            let of = |factor: u32| {
                move |micros: &u64| Duration::from_micros(*micros) * factor
            };
            let once = Distribution::of(micros.iter().map(of(1))).unwrap();
            let reversed = Distribution::of(micros.iter().rev().map(of(1))).unwrap();
            let thrice = Distribution::of(micros.iter().map(of(3))).unwrap();
            prop_assert_eq!(once.p99, reversed.p99);
            prop_assert!((once.mean - reversed.mean).abs() < 1e-6);
            for (a, b) in [(once.p50, thrice.p50), (once.p90, thrice.p90), (once.max, thrice.max)] {
                prop_assert!((3.0 * a - b).abs() < 1e-6);
            }
            prop_assert!(once.p50 <= once.p90 && once.p90 <= once.p99 && once.p99 <= once.max);
        }
    }
}
