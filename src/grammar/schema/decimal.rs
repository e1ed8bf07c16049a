//! A JSON number as it was written: an exact decimal, never a binary fraction.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Number;

/// `coefficient × 10^exponent`, without zeros at the coefficient's end; the coefficient has at most 20 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    coefficient: i128,
    exponent: i32,
}

impl Decimal {
    /// The value of a JSON number. One that was read as a double has the value of the shortest decimal
    /// that stands for that double.
    pub(super) fn new(number: &Number) -> Self {
        let text = number.to_string();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        // Numbers of `serde_json` have at most 20 significant digits; zeros in front say nothing.
        let coefficient = format!("{whole}{fraction}").parse().unwrap_or(0);
        let fraction = i32::try_from(fraction.len()).unwrap_or(0);
        Self { coefficient, exponent: exponent - fraction }.reduced()
    }

    pub(super) fn integer(value: i128) -> Self {
        Self { coefficient: value, exponent: 0 }.reduced()
    }

    fn reduced(mut self) -> Self {
        if self.coefficient == 0 {
            return Self { coefficient: 0, exponent: 0 };
        }
        while self.coefficient % 10 == 0 {
            self.coefficient /= 10;
            self.exponent += 1;
        }
        self
    }

    pub(super) fn is_integer(self) -> bool {
        self.exponent >= 0
    }

    pub(super) fn is_positive(self) -> bool {
        self.coefficient > 0
    }

    /// Digits before the decimal point; of a number below 1, minus the zeros behind it.
    pub(super) fn num_integer_digits(self) -> i32 {
        match self.coefficient.unsigned_abs() {
            0 => 0,
            coefficient => digits(coefficient) + self.exponent,
        }
    }

    /// `self × 10^scale`, rounded down, and whether that is exact. For numbers within 64 bits and a
    /// scale of at most 18.
    pub(super) fn scaled(self, scale: u32) -> (i128, bool) {
        let shift = self.exponent.saturating_add(i32::try_from(scale).unwrap_or(i32::MAX));
        let power = 10_i128.checked_pow(shift.unsigned_abs());
        if shift >= 0 {
            let product = power.and_then(|power| self.coefficient.checked_mul(power));
            let bound = if self.coefficient < 0 { i128::MIN } else { i128::MAX };
            return (product.unwrap_or(bound), product.is_some());
        }
        let floor = power
            .map_or(-i128::from(self.coefficient < 0), |power| self.coefficient.div_euclid(power));
        let exact = power.is_some_and(|power| self.coefficient % power == 0);
        (floor, exact || self.coefficient == 0)
    }

    /// Whether this is a whole number of times `step`, which is positive.
    pub(super) fn is_multiple_of(self, step: Self) -> bool {
        let shift = self.exponent.saturating_sub(step.exponent);
        if self.coefficient == 0 {
            return true;
        }
        // The coefficient ends in no zero, so it has no factor of ten to give.
        let Ok(shift) = u32::try_from(shift) else { return false };
        let modulus = step.coefficient.unsigned_abs();
        let mut rest = self.coefficient.unsigned_abs() % modulus;
        for _ in 0..shift {
            rest = rest * 10 % modulus;
            if rest == 0 {
                return true;
            }
        }
        rest == 0
    }

    /// The coefficient and the number of decimals of a positive number, where both are small.
    pub(super) fn as_step(self) -> Option<(u64, u32)> {
        let coefficient = u64::try_from(self.coefficient).ok()?;
        match u32::try_from(self.exponent) {
            Ok(exponent) => Some((coefficient.checked_mul(10_u64.checked_pow(exponent)?)?, 0)),
            Err(_) => Some((coefficient, self.exponent.unsigned_abs())),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = u32::try_from(self.exponent).ok().filter(|exponent| *exponent < 20);
        match power.and_then(|exponent| self.coefficient.checked_mul(10_i128.pow(exponent))) {
            Some(integer) => integer.fmt(f),
            None => write!(f, "{}e{}", self.coefficient, self.exponent),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.coefficient.signum().cmp(&other.coefficient.signum());
        let magnitudes = || {
            let by_digits = self.num_integer_digits().cmp(&other.num_integer_digits());
            by_digits.then_with(|| {
                // As many digits before the point: the exponents differ by fewer than 20.
                let least = self.exponent.min(other.exponent);
                let aligned = |it: &Self| {
                    it.coefficient.unsigned_abs()
                        * 10_u128.pow((it.exponent - least).unsigned_abs())
                };
                aligned(self).cmp(&aligned(other))
            })
        };
        signs.then_with(|| match self.coefficient.signum() {
            0 => Ordering::Equal,
            1 => magnitudes(),
            _ => magnitudes().reverse(),
        })
    }
}

fn digits(value: u128) -> i32 {
    i32::try_from(value.checked_ilog10().map_or(1, |log| log + 1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::new(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn numbers_are_read_exactly() {
        let cases = [
            ("0", 0, 0),
            ("-0", 0, 0),
            ("9223372036854775807", 9_223_372_036_854_775_807, 0),
            ("-9223372036854775808", -9_223_372_036_854_775_808, 0),
            ("18446744073709551615", 18_446_744_073_709_551_615, 0),
            ("120", 12, 1),
            ("0.1", 1, -1),
            ("-1.50", -15, -1),
            ("5e-324", 5, -324),
            ("1.7976931348623157e308", 17_976_931_348_623_157, 292),
        ];
        for (text, coefficient, exponent) in cases {
            assert_eq!(decimal(text), Decimal { coefficient, exponent }, "{text}");
        }
    }

    #[test]
    fn rounding_is_downwards() {
        let cases = [
            ("1.5", 0, (1, false)),
            ("-1.5", 0, (-2, false)),
            ("1.5", 1, (15, true)),
            ("5e-324", 15, (0, false)),
            ("-5e-324", 15, (-1, false)),
            ("9223372036854775807", 0, (9_223_372_036_854_775_807, true)),
            ("0", 3, (0, true)),
        ];
        for (text, scale, expected) in cases {
            assert_eq!(decimal(text).scaled(scale), expected, "{text} at {scale}");
        }
    }

    #[test]
    fn multiples_are_exact() {
        for (value, step, expected) in [
            ("0.3", "0.1", true),
            ("9223372036854775806", "2", true),
            ("9223372036854775807", "2", false),
            ("1e300", "7", false),
            ("5", "2.5", true),
            ("0.07", "0.02", false),
            ("0", "7", true),
            ("-21", "7", true),
        ] {
            let (value, step) = (decimal(value), decimal(step));
            assert_eq!(value.is_multiple_of(step), expected, "{value:?} {step:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_numbers(a in any::<f64>(), b in any::<f64>(), c in any::<i64>(), d in any::<i64>()) {
            let number = |value: f64| serde_json::Number::from_f64(value).map(|n| Decimal::new(&n));
            if let (Some(x), Some(y)) = (number(a), number(b)) {
                prop_assert_eq!(Some(x.cmp(&y)), a.partial_cmp(&b));
            }
            let (x, y) = (Decimal::new(&c.into()), Decimal::new(&d.into()));
            prop_assert_eq!(x.cmp(&y), c.cmp(&d));
            prop_assert_eq!(x.scaled(0), (i128::from(c), true));
        }
    }
}
