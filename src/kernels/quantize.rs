//! Which 8 or 4 bits a group of weights becomes.

use half::f16;

use super::quantized_blocks::{GROUP, Group, SHIFT};
use super::quantized_panels::Bits;

/// The largest signed value in 8 bits that is used.
const LARGEST_8: f32 = 127.0;
/// The largest value in 4 bits.
const LARGEST_4: f32 = 15.0;
/// Grids that are tried for a group of 4 bits, from one that spans all values to narrower ones.
const GRIDS: usize = 8;
/// How much narrower each is, in steps of the first.
const NARROWER: f32 = 0.3;

/// A weight that cannot be rounded.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// It is infinite or no number.
    #[error("a weight is {0}")]
    NotFinite(f32),
    /// A scale of its group would be beyond float16.
    #[error("a weight of {0:e} is too large for a scale in float16")]
    TooLarge(f32),
}

/// Finds a weight that cannot be rounded.
///
/// # Errors
/// Where there is one.
pub(super) fn check(weights: &[f32], bits: Bits) -> Result<(), QuantizeError> {
    check_below(
        weights,
        match bits {
            Bits::Eight => LARGEST_8 * f16::MAX.to_f32(),
            // The minimum is one of the values.
            Bits::Four => f16::MAX.to_f32() / 2.0,
        },
    )
}

/// Finds a weight that cannot be rounded with a scale in float32.
///
/// # Errors
/// Where there is one.
pub(super) fn check_f32(weights: &[f32]) -> Result<(), QuantizeError> {
    check_below(weights, f32::MAX)
}

fn check_below(weights: &[f32], largest: f32) -> Result<(), QuantizeError> {
    let fault = weights.iter().find(|weight| weight.is_nan() || weight.abs() > largest);
    fault.map_or(Ok(()), |weight| {
        Err(if weight.is_finite() {
            QuantizeError::TooLarge(*weight)
        } else {
            QuantizeError::NotFinite(*weight)
        })
    })
}

/// `N` groups of a row from number `at * N` on. Beyond the end nothing is multiplied by them, so
/// they are filled with what widens no grid.
pub(super) fn groups<const N: usize>(row: &[f32], at: usize) -> [[f32; GROUP]; N] {
    std::array::from_fn(|index| {
        let start = row.len().min((at * N + index) * GROUP);
        let own = &row[start..row.len().min(start + GROUP)];
        let mut group = [own.last().copied().unwrap_or(0.0); GROUP];
        group[..own.len()].copy_from_slice(own);
        group
    })
}

/// The group in 8 bits by its largest value.
pub(super) fn q8(weights: &[f32; GROUP]) -> Group<f16> {
    let scale = f16::from_f32(largest(weights) / LARGEST_8);
    Group { values: q8_values(weights, scale.to_f32()), scale }
}

/// The same with a scale that is not rounded.
pub(super) fn q8_f32(weights: &[f32; GROUP]) -> Group<f32> {
    let scale = largest(weights) / LARGEST_8;
    Group { values: q8_values(weights, scale), scale }
}

fn largest(weights: &[f32; GROUP]) -> f32 {
    weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()))
}

fn q8_values(weights: &[f32; GROUP], scale: f32) -> [u8; GROUP] {
    let inverse = inverse(scale);
    weights.map(|weight| {
        let rounded = round((weight * inverse).clamp(-LARGEST_8, LARGEST_8));
        (rounded as i16 + SHIFT) as u8
    })
}

/// The group in 4 bits with the scale and minimum that, of a few tried, make the least squared
/// error.
pub(super) fn q4(weights: &[f32; GROUP]) -> Group<[f16; 2]> {
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut best = on_grid(weights, (high - low) / LARGEST_4, low);
    for narrower in 0..GRIDS {
        let steps = LARGEST_4 + NARROWER * narrower as f32;
        let scale = (high - low) / steps;
        let middle = (high + low) / 2.0;
        let (values, _, _) = on_grid(weights, scale, middle - scale * LARGEST_4 / 2.0);
        let (scale, minimum) = fit(weights, &values);
        let found = on_grid(weights, scale, minimum);
        if found.2 < best.2 {
            best = found;
        }
    }
    Group { values: best.0.map(|value| value as u8), scale: best.1 }
}

/// The nearest integer to a number of at most a few thousand, ties to even; unlike
/// [`f32::round_ties_even`] no call where the target's baseline lacks the instruction.
fn round(number: f32) -> f32 {
    const INTEGERS: f32 = 12_582_912.0; // 1.5 * 2^23
    number + INTEGERS - INTEGERS
}

/// The sum over a group, in as many lanes as vectorise.
#[inline(always)]
fn sum(term: impl Fn(usize) -> f32) -> f32 {
    const WIDTH: usize = 8;
    let mut lanes = [0.0; WIDTH];
    for i in (0..GROUP).step_by(WIDTH) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
    }
    lanes.iter().sum()
}

fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

/// The nearest values on a grid whose scale and minimum are rounded to float16, and their squared
/// error.
fn on_grid(weights: &[f32; GROUP], scale: f32, minimum: f32) -> ([f32; GROUP], [f16; 2], f32) {
    let held = [f16::from_f32(scale), f16::from_f32(minimum)];
    let [scale, minimum] = held.map(f16::to_f32);
    let inverse = inverse(scale);
    let value = |weight: f32| round(((weight - minimum) * inverse).clamp(0.0, LARGEST_4));
    let values = weights.map(value);
    let error = |i: usize| (values[i] * scale + minimum - weights[i]).powi(2);
    (values, held, sum(error))
}

/// The scale and minimum by which `values` come closest to the weights.
fn fit(weights: &[f32; GROUP], values: &[f32; GROUP]) -> (f32, f32) {
    let mean = |of: &[f32; GROUP]| sum(|i| of[i]) / GROUP as f32;
    let (weight, value) = (mean(weights), mean(values));
    let both = sum(|i| (weights[i] - weight) * (values[i] - value));
    let own = sum(|i| (values[i] - value).powi(2));
    let scale = if own > 0.0 { (both / own).max(0.0) } else { 0.0 };
    (scale, weight - scale * value)
}
