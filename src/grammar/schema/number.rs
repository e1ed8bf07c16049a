//! The numbers that a JSON schema allows, written exactly: integers of 64 bits to the last digit, and
//! decimals with so few digits that whoever reads them as doubles finds them within the same bounds.

use serde_json::{Map, Value, json};

use super::decimal::Decimal;
use super::digits;
use crate::grammar::error::GrammarError;

/// Any integer.
const ANY_INTEGER: &str = "-?(?:0|[1-9][0-9]*)";
/// Any number that is sure to fit a double: a long one has no exponent, and an exponent has two digits.
const ANY_NUMBER: &str = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?";
/// Decimal digits that every double keeps.
const DOUBLE_DIGITS: i32 = 15;
/// Digits before the decimal point of a number that may have some behind it, next to a bound.
const MAX_INTEGER_DIGITS: i32 = 10;
/// Digits behind the decimal point.
const MAX_SCALE: i32 = 18;
/// Multiples that are written out one by one.
const MAX_LISTED: i128 = 1024;
/// The largest step of multiples that are neither listed nor those of a power of ten, in units of its
/// last digit: the parser tells multiples by the remainder, and looks at each remainder.
const MAX_STEP: i128 = 10_000;
/// Integers that a double holds, for what is left to the parser.
const DOUBLE_INTEGERS: i128 = 1 << 53;
const MIN: i128 = i64::MIN as i128;
const MAX: i128 = i64::MAX as i128;

/// What may stand at a number's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    /// A regular expression.
    Regex(String),
    /// Multiples, as the parser's own schema.
    Multiples(Value),
}

/// One side of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    value: Decimal,
    exclusive: bool,
}

/// Numbers between bounds.
#[derive(Debug, Clone, Default)]
pub(super) struct NumberRange {
    integer: bool,
    least: Option<Bound>,
    most: Option<Bound>,
    steps: Vec<Decimal>,
}

/// The value of a keyword that must be a number.
///
/// # Errors
/// Where it is none.
pub(super) fn number(
    map: &Map<String, Value>,
    keyword: &str,
) -> Result<Option<Decimal>, GrammarError> {
    match map.get(keyword) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(Decimal::new(number))),
        Some(_) => Err(GrammarError::Invalid(format!("`{keyword}` must be a number"))),
    }
}

/// # Errors
/// Where a number is beyond what is written exactly.
pub(super) fn check_exact(keyword: &str, value: Decimal) -> Result<(), GrammarError> {
    if is_exact(value) {
        return Ok(());
    }
    let message = format!(
        "`{keyword}` holds {value}; numbers are supported from {MIN} to {MAX}, where they are exact"
    );
    Err(GrammarError::Unsupported(message))
}

fn is_exact(value: Decimal) -> bool {
    Decimal::integer(MIN) <= value && value <= Decimal::integer(MAX)
}

impl NumberRange {
    /// Numbers that satisfy every one of some schemas.
    ///
    /// # Errors
    /// Where a keyword is malformed or a bound beyond what is written exactly.
    pub(super) fn new(
        integer: bool,
        schemas: &[&Map<String, Value>],
    ) -> Result<Self, GrammarError> {
        let mut range = Self { integer, ..Self::default() };
        for map in schemas {
            range.add_bounds(map)?;
            if let Some(step) = number(map, "multipleOf")? {
                if !step.is_positive() {
                    let message = "`multipleOf` must be more than 0";
                    return Err(GrammarError::Invalid(message.to_owned()));
                }
                range.steps.push(step);
            }
        }
        if range.steps.iter().any(|step| step.is_integer()) {
            range.integer = true;
        }
        Ok(range)
    }

    fn add_bounds(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        for (keyword, exclusive_keyword, is_least) in
            [("minimum", "exclusiveMinimum", true), ("maximum", "exclusiveMaximum", false)]
        {
            // In old drafts, a boolean beside the bound.
            let flag = map.get(exclusive_keyword).and_then(Value::as_bool);
            let mut bounds = vec![(keyword, number(map, keyword)?, flag == Some(true))];
            if flag.is_none() {
                bounds.push((exclusive_keyword, number(map, exclusive_keyword)?, true));
            }
            for (keyword, value, exclusive) in bounds {
                if let Some(value) = value {
                    self.add_bound(keyword, Bound { value, exclusive }, is_least)?;
                }
            }
        }
        Ok(())
    }

    fn add_bound(
        &mut self,
        keyword: &str,
        bound: Bound,
        is_least: bool,
    ) -> Result<(), GrammarError> {
        let far = if is_least {
            bound.value < Decimal::integer(MIN)
        } else {
            bound.value > Decimal::integer(MAX)
        };
        // A decimal is never written as long as to come near it.
        if !far || self.integer {
            check_exact(keyword, bound.value)?;
        }
        let side = if is_least { &mut self.least } else { &mut self.most };
        let is_tighter = |old: &Bound| match (bound.value.cmp(&old.value), is_least) {
            (std::cmp::Ordering::Equal, _) => bound.exclusive,
            (order, true) => order.is_gt(),
            (order, false) => order.is_lt(),
        };
        if side.as_ref().is_none_or(is_tighter) {
            *side = Some(bound);
        }
        Ok(())
    }

    /// Whether a number satisfies it.
    pub(super) fn contains(&self, value: Decimal) -> bool {
        let above =
            |bound: &Bound| value > bound.value || (value == bound.value && !bound.exclusive);
        let below =
            |bound: &Bound| value < bound.value || (value == bound.value && !bound.exclusive);
        (!self.integer || value.is_integer())
            && self.least.as_ref().is_none_or(above)
            && self.most.as_ref().is_none_or(below)
            && self.steps.iter().all(|step| value.is_multiple_of(*step))
    }

    /// Its numbers; `None` where there are none.
    ///
    /// # Errors
    /// Where there are, and none that can be written, or where multiples cannot be told.
    pub(super) fn numbers(&self) -> Result<Option<Numbers>, GrammarError> {
        if !self.steps.is_empty() {
            return self.multiples();
        }
        if self.integer {
            return Ok(self.integers());
        }
        self.decimals()
    }

    /// The smallest and the largest at `scale` digits behind the point.
    fn at_scale(&self, scale: u32) -> (Option<i128>, Option<i128>) {
        // What lies further away than is written exactly bounds nothing that is.
        let least = self.least.map(|bound| {
            let (floor, exact) = bound.value.max(Decimal::integer(MIN)).scaled(scale);
            floor + i128::from(!exact || bound.exclusive)
        });
        let most = self.most.map(|bound| {
            let (floor, exact) = bound.value.min(Decimal::integer(MAX)).scaled(scale);
            floor - i128::from(exact && bound.exclusive)
        });
        (least, most)
    }

    fn integers(&self) -> Option<Numbers> {
        let (least, most) = self.at_scale(0);
        if least.is_none() && most.is_none() {
            return Some(Numbers::Regex(ANY_INTEGER.to_owned()));
        }
        digits::integers(least, most).map(Numbers::Regex)
    }

    fn decimals(&self) -> Result<Option<Numbers>, GrammarError> {
        let bounds = || self.least.iter().chain(&self.most).map(|bound| bound.value);
        if bounds().next().is_none() {
            return Ok(Some(Numbers::Regex(ANY_NUMBER.to_owned())));
        }
        let near = bounds().filter(|value| is_exact(*value));
        let integer_digits = near.map(Decimal::num_integer_digits).max().unwrap_or(1);
        let integer_digits = integer_digits.min(MAX_INTEGER_DIGITS);
        let scale = (DOUBLE_DIGITS - integer_digits).clamp(0, MAX_SCALE).unsigned_abs();
        let (least, most) = self.at_scale(scale);
        let regex = digits::decimals(least, most, scale).map(Numbers::Regex);
        if regex.is_none() && self.has_some() {
            let message = format!(
                "between `minimum` and `maximum` is no number of at most {scale} digits behind the point"
            );
            return Err(GrammarError::Unsupported(message));
        }
        Ok(regex)
    }

    /// Whether its bounds leave any real number.
    fn has_some(&self) -> bool {
        match (self.least, self.most) {
            (Some(least), Some(most)) => {
                least.value < most.value
                    || (least.value == most.value && !least.exclusive && !most.exclusive)
            }
            _ => true,
        }
    }

    fn multiples(&self) -> Result<Option<Numbers>, GrammarError> {
        let unsupported = || {
            let steps: Vec<String> = self.steps.iter().map(Decimal::to_string).collect();
            let steps = steps.join(" and ");
            let message =
                format!("`multipleOf` {steps} is not supported, or not within such bounds");
            GrammarError::Unsupported(message)
        };
        let (step, scale) = self.step().ok_or_else(unsupported)?;
        let step = i128::from(step);
        let (least, most) = self.at_scale(scale);
        let least =
            least.map(|least| least.div_euclid(step) + i128::from(least.rem_euclid(step) != 0));
        let most = most.map(|most| most.div_euclid(step));
        if let (Some(least), Some(most)) = (least, most) {
            if least > most {
                return Ok(None);
            }
            if most - least < MAX_LISTED {
                let all = (least..=most).map(|factor| digits::decimal(factor * step, scale));
                let all: Vec<String> = all.map(|text| regex_syntax::escape(&text)).collect();
                return Ok(Some(Numbers::Regex(format!("(?:{})", all.join("|")))));
            }
        }
        if scale == 0
            && let Some(zeros) = zeros(step)
        {
            return Ok(with_zeros(least, most, zeros).map(Numbers::Regex));
        }
        let (least, most) = (least.map(|it| it * step), most.map(|it| it * step));
        // Every decimal of that many digits is one.
        if step == 1 {
            let regex = match (scale, least, most) {
                (0, None, None) => Some(ANY_INTEGER.to_owned()),
                (0, ..) => digits::integers(least, most),
                (_, None, None) => {
                    Some(format!(r"-?(?:0|[1-9][0-9]{{0,8}})(?:\.[0-9]{{1,{scale}}})?"))
                }
                _ => digits::decimals(least, most, scale),
            };
            return Ok(regex.map(Numbers::Regex));
        }
        let schema = multiples_schema(step, scale, (least, most)).ok_or_else(unsupported)?;
        Ok(Some(Numbers::Multiples(schema)))
    }

    /// The one number, as a coefficient and digits behind the point, of which all are multiples that
    /// are multiples of every step.
    fn step(&self) -> Option<(u64, u32)> {
        let steps: Option<Vec<_>> = self.steps.iter().map(|step| step.as_step()).collect();
        let steps = steps?;
        let scale = steps.iter().map(|(_, scale)| *scale).max()?;
        let unit = 10_u64.checked_pow(scale)?;
        let mut step = if self.integer { unit } else { 1 };
        for (coefficient, digits) in steps {
            let coefficient = coefficient.checked_mul(10_u64.checked_pow(scale - digits)?)?;
            step = (step / gcd(step, coefficient)).checked_mul(coefficient)?;
        }
        // Whole numbers need no digits behind the point.
        if step % unit == 0 { Some((step / unit, 0)) } else { Some((step, scale)) }
    }
}

/// The zeros of a power of ten from 10 on.
fn zeros(step: i128) -> Option<u32> {
    let zeros = step.ilog10();
    (zeros > 0 && step == 10_i128.pow(zeros)).then_some(zeros)
}

/// Integers between bounds with zeros behind each but 0.
fn with_zeros(least: Option<i128>, most: Option<i128>, zeros: u32) -> Option<String> {
    let below = (least.is_none_or(|least| least < 0))
        .then(|| digits::integers(least, Some(most.map_or(-1, |most| most.min(-1)))));
    let above = (most.is_none_or(|most| most > 0))
        .then(|| digits::integers(Some(least.map_or(1, |least| least.max(1))), most));
    let others = [below, above].into_iter().flatten().flatten();
    let others = others.map(|text| format!("{text}0{{{zeros}}}"));
    let zero = least.is_none_or(|least| least <= 0) && most.is_none_or(|most| most >= 0);
    let all: Vec<String> = others.chain(zero.then(|| "0".to_owned())).collect();
    (!all.is_empty()).then(|| format!("(?:{})", all.join("|")))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Multiples of `step` within bounds, all of them in units of 10^-`scale`, as a schema that the parser
/// reads exactly; `None` where it would not.
fn multiples_schema(
    step: i128,
    scale: u32,
    (least, most): (Option<i128>, Option<i128>),
) -> Option<Value> {
    let fits = |bound: &i128| bound.abs() <= DOUBLE_INTEGERS;
    if !least.iter().chain(&most).all(fits) {
        return None;
    }
    let double = |value: i128| digits::decimal(value, scale).parse::<f64>().ok();
    let value = double(step)?;
    // The parser takes the double apart by multiplying it with tens.
    let (mut shifted, mut num_digits) = (value, 0);
    while shifted.fract() != 0.0 && num_digits <= scale {
        (shifted, num_digits) = (shifted * 10.0, num_digits + 1);
    }
    if num_digits != scale || shifted != step as f64 || step > MAX_STEP {
        return None;
    }
    let mut schema = json!({"type": "number", "multipleOf": value});
    if scale == 0 {
        schema = json!({"type": "integer", "multipleOf": u32::try_from(step).ok()?});
    }
    for (keyword, bound) in [("minimum", least), ("maximum", most)] {
        if let Some(bound) = bound {
            schema[keyword] = json!(double(bound)?);
        }
    }
    Some(schema)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(schema: &Value) -> Result<Option<Numbers>, GrammarError> {
        let map = schema.as_object().unwrap();
        NumberRange::new(schema["type"] == "integer", &[map])?.numbers()
    }

    fn whole(schema: &Value) -> regex::Regex {
        match numbers(schema) {
            Ok(Some(Numbers::Regex(text))) => regex::Regex::new(&format!("^(?:{text})$")).unwrap(),
            other => panic!("{schema}: {other:?}"),
        }
    }

    /// The parser would look at each remainder of one of these.
    #[test]
    fn multiples_of_what_is_large_are_refused_unless_they_are_few() {
        for step in [json!(10_001), json!(1_u64 << 31), json!(1_000_003), json!(12.345)] {
            let all = json!({"type": "number", "multipleOf": step});
            assert!(matches!(numbers(&all), Err(GrammarError::Unsupported(_))), "{step}");
            let mut few = all.clone();
            (few["minimum"], few["maximum"]) = (json!(-1), json!(1000));
            assert!(whole(&few).is_match("0"));
        }
        for step in [json!(10_000), json!(9973), json!(7), json!(0.7)] {
            let some = json!({"type": "number", "multipleOf": step});
            assert!(numbers(&some).is_ok(), "{step}");
        }
    }

    /// The nearest text on each side of a bound, of as many digits as there may be.
    #[test]
    fn what_is_written_next_to_a_bound_is_within_as_a_double_too() {
        for bound in [0.3, 1.1, 0.07, 4.35, 123.456, 99_999.9, 1e9 + 0.7] {
            let number = serde_json::Number::from_f64(bound).unwrap();
            for (keyword, step) in [("exclusiveMaximum", -1), ("exclusiveMinimum", 1)] {
                let regex = whole(&json!({"type": "number", keyword: bound}));
                let mut num_written = 0;
                for scale in 4..=18 {
                    let (floor, exact) = Decimal::new(&number).scaled(scale);
                    assert!(exact, "{bound}");
                    let text = digits::decimal(floor + step, scale);
                    if regex.is_match(&text) {
                        num_written += 1;
                        let read: f64 = text.parse().unwrap();
                        assert!(
                            if step < 0 { read < bound } else { read > bound },
                            "{keyword} {bound}: {text}"
                        );
                    }
                }
                assert!(num_written > 1, "{keyword} {bound}");
            }
        }
    }

    proptest! {
        #[test]
        fn multiples_of_a_power_of_ten_end_in_zeros(
            a in -9_999_999..9_999_999_i64, b in -9_999_999..9_999_999_i64, zeros in 1..6_u32,
            value in -9_999_999..9_999_999_i64, near in -2..=2_i64,
        ) {
            let (least, most, step) = (a.min(b), a.max(b), 10_i64.pow(zeros));
            for (from, to) in [(Some(least), Some(most)), (Some(least), None), (None, Some(most)), (None, None)] {
                // Not so few that they are listed.
                if from.zip(to).is_some_and(|(from, to)| (to - from) / step <= 1024) {
                    continue;
                }
                let mut schema = json!({"type": "integer", "multipleOf": step});
                for (keyword, bound) in [("minimum", from), ("maximum", to)] {
                    if let Some(bound) = bound {
                        schema[keyword] = json!(bound);
                    }
                }
                let regex = whole(&schema);
                for value in [value, value * step, (least / step + near) * step, (most / step + near) * step, 0] {
                    let inside = from.is_none_or(|from| value >= from) && to.is_none_or(|to| value <= to);
                    let expected = inside && value % step == 0;
                    prop_assert_eq!(regex.is_match(&value.to_string()), expected, "{} of {}", value, schema);
                }
            }
        }
    }
}
