//! Passes over a whole vocabulary, written in lanes so that a compiler turns them into vector
//! instructions: with many sequences in a step, these are what choosing tokens costs.
//!
//! Every result is a function of the row alone.

/// Lanes of an accumulator.
const LANES: usize = 16;

/// The first logit that is NaN or +infinity.
pub(super) fn not_finite(logits: &[f32]) -> Option<usize> {
    let bad = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut found = [0_u32; LANES];
    for chunk in chunks {
        for (found, logit) in found.iter_mut().zip(chunk) {
            *found |= u32::from(bad(*logit));
        }
    }
    let any = found.iter().any(|found| *found != 0) || rest.iter().any(|logit| bad(*logit));
    if any { logits.iter().position(|logit| bad(*logit)) } else { None }
}

/// The largest of some numbers without NaN; minus infinity of none.
pub(super) fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (best, value) in best.iter_mut().zip(chunk) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Turns each logit into `e^((logit - best) * inverse)`, for `best` the largest and `inverse` not
/// negative: within 3e-7 of it relatively, and 0 below 1e-37.
pub(super) fn weigh(logits: &mut [f32], best: f32, inverse: f32) {
    for logit in logits {
        *logit = exp((*logit - best) * inverse);
    }
}

/// The sums of runs of `run` numbers.
pub(super) fn run_sums(values: &[f32], run: usize) -> Vec<f64> {
    let sum = |run: &[f32]| {
        let (chunks, rest) = run.as_chunks::<LANES>();
        let mut sums = [0.0_f32; LANES];
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value;
            }
        }
        sums.iter().chain(rest).copied().map(f64::from).sum()
    };
    values.chunks(run).map(sum).collect()
}

/// The weights that are positive, at least `min` and at least `least`, each with its index. Where
/// few are, most lanes are passed over together.
pub(super) fn at_least(weights: &[f32], min: f32, least: f64) -> Vec<(u32, f64)> {
    // The smallest float32 that is not below `least`, so that lanes compare as they are.
    let rounded = least as f32;
    let rounded = if f64::from(rounded) < least { rounded.next_up() } else { rounded };
    let threshold = rounded.max(min).max(f32::from_bits(1));
    let mut kept = Vec::new();
    for (chunk, first) in weights.chunks(LANES).zip((0..).step_by(LANES)) {
        let any = chunk.iter().fold(false, |any, weight| any | (*weight >= threshold));
        if any {
            let weights = (first..).zip(chunk).filter(|(_, weight)| **weight >= threshold);
            kept.extend(weights.map(|(token, weight)| (token, f64::from(*weight))));
        }
    }
    kept
}

/// `e^x` for `x <= 0` without a branch: 2 to the whole part of `x / ln 2`, times a polynomial of
/// what is left.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is left in the low bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -86.0 { x } else { -86.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = clamped - whole * LN_2_HIGH - whole * LN_2_LOW;
    // Taylor's series: the next term is below 6e-9 for |rest| <= ln(2) / 2.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * rest + coefficient;
    }
    let scaled = f32::from_bits(sum.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > -86.0 { scaled } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_collected_is_what_a_filter_leaves(
            weights in prop::collection::vec(
                prop_oneof![Just(0.0_f32), Just(1e-40), 0.0_f32..1.0, Just(0.25)], 0..100),
            min in prop_oneof![Just(0.0_f32), Just(0.25), 0.0_f32..1.0],
            least in prop_oneof![Just(0.0_f64), Just(0.25), Just(0.25 + 1e-12), 0.0_f64..1.0],
        ) {
            let allowed = |w: f32| w > 0.0 && w >= min && f64::from(w) >= least;
            let expected: Vec<(u32, f64)> = (0..).zip(&weights)
                .filter(|(_, w)| allowed(**w)).map(|(i, w)| (i, f64::from(*w))).collect();
            prop_assert_eq!(at_least(&weights, min, least), expected);
        }
    }

    proptest! {
        #[test]
        fn weights_are_the_exponentials(x in -86.0_f32..=0.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "{} {exact}", exp(x));
        }

        #[test]
        fn scans_see_every_element(
            values in prop::collection::vec(-1e3_f32..1e3, 0..100),
            place in any::<prop::sample::Index>(),
        ) {
            let naive = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(largest(&values), naive);
            prop_assert_eq!(not_finite(&values), None);
            let sum: f64 = values.iter().copied().map(f64::from).sum();
            let runs: f64 = run_sums(&values, 32).iter().sum();
            prop_assert!((sum - runs).abs() < 1e-2);
            if !values.is_empty() {
                let place = place.index(values.len());
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut values = values.clone();
                    values[place] = bad;
                    prop_assert_eq!(not_finite(&values), Some(place));
                }
                let mut values = values.clone();
                values[place] = f32::NEG_INFINITY;
                prop_assert_eq!(not_finite(&values), None);
            }
        }
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
    }
}
