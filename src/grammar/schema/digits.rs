//! Regular expressions for the decimal texts of the numbers between two numbers.

/// Digits of the largest integer that has some behind the point too, next to a bound.
const MAX_FRACTIONAL: u32 = 10;

/// Integers from `least` to `most`; `None` where there are none.
pub(super) fn integers(least: Option<i128>, most: Option<i128>) -> Option<String> {
    let mut parts = Vec::new();
    if least.is_none_or(|least| least < 0) {
        let nearest = most.map_or(1, |most| (-most).max(1));
        parts.extend(natural(nearest, least.map(|least| -least)).map(|text| format!("-{text}")));
    }
    if most.is_none_or(|most| most >= 0) {
        parts.extend(natural(least.unwrap_or(0).max(0), most));
    }
    one_of(parts)
}

/// Decimals from `least` to `most`, which are given as multiples of 10^-`scale`. `None` where there are
/// none.
pub(super) fn decimals(least: Option<i128>, most: Option<i128>, scale: u32) -> Option<String> {
    let mut parts = Vec::new();
    if least.is_none_or(|least| least < 0) {
        let nearest = most.map_or(1, |most| (-most).max(1));
        let furthest = least.map(|least| -least);
        parts.extend(positive(nearest, furthest, scale).map(|text| format!("-{text}")));
    }
    if most.is_none_or(|most| most >= 0) {
        parts.extend(positive(least.unwrap_or(0).max(0), most, scale));
    }
    one_of(parts)
}

/// The text of `value × 10^-scale`.
pub(super) fn decimal(value: i128, scale: u32) -> String {
    let unit = 10_i128.pow(scale);
    let sign = if value < 0 { "-" } else { "" };
    let (whole, fraction) = (value.abs() / unit, value.abs() % unit);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{fraction:0width$}", width = scale as usize);
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

fn one_of(mut parts: Vec<String>) -> Option<String> {
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(format!("(?:{})", parts.join("|"))),
    }
}

/// Integers from 0 on.
fn natural(least: i128, most: Option<i128>) -> Option<String> {
    let length = least.to_string().len();
    let Some(most) = most else {
        let longest = 10_i128.checked_pow(u32::try_from(length).ok()?)? - 1;
        let same_length = natural(least, Some(longest));
        let longer = format!("[1-9][0-9]{{{length},}}");
        return one_of(same_length.into_iter().chain([longer]).collect());
    };
    if least > most {
        return None;
    }
    let longest = most.to_string().len();
    let mut parts = Vec::new();
    for length in length..=longest {
        let power = 10_i128.pow(u32::try_from(length).ok()? - 1);
        let first = if length == 1 { 0 } else { power };
        let (first, last) = (first.max(least), (power * 10 - 1).min(most));
        parts.push(between(&first.to_string(), &last.to_string()));
    }
    one_of(parts)
}

/// Strings of digits between two of the same length.
fn between(first: &str, last: &str) -> String {
    let rest = first.len().saturating_sub(1);
    if first == last {
        return first.to_owned();
    }
    let (a, b) = (first.as_bytes()[0], last.as_bytes()[0]);
    let (first_rest, last_rest) = (&first[1..], &last[1..]);
    if a == b {
        return format!("{}{}", char::from(a), between(first_rest, last_rest));
    }
    let any_rest = match rest {
        0 => String::new(),
        1 => "[0-9]".to_owned(),
        _ => format!("[0-9]{{{rest}}}"),
    };
    let mut parts = Vec::new();
    let (mut from, mut to) = (a, b);
    if first_rest.bytes().any(|digit| digit != b'0') {
        parts.push(format!("{}{}", char::from(a), between(first_rest, &"9".repeat(rest))));
        from += 1;
    }
    let cut = last_rest.bytes().any(|digit| digit != b'9');
    if cut {
        to -= 1;
    }
    if from <= to {
        parts.push(digit(from, to) + &any_rest);
    }
    if cut {
        parts.push(format!("{}{}", char::from(b), between(&"0".repeat(rest), last_rest)));
    }
    one_of(parts).unwrap_or_default()
}

fn digit(from: u8, to: u8) -> String {
    match (char::from(from), char::from(to)) {
        (from, to) if from == to => from.to_string(),
        (from, to) => format!("[{from}-{to}]"),
    }
}

/// Decimals from 0 on.
fn positive(least: i128, most: Option<i128>, scale: u32) -> Option<String> {
    let unit = 10_i128.pow(scale);
    let Some(most) = most else {
        // Up to as many digits as the bound has; longer ones are far from it.
        let length = u32::try_from((least / unit).to_string().len()).ok()?;
        let near = positive(least, Some(10_i128.checked_pow(length + scale)? - 1), scale);
        let far = format!(r"[1-9][0-9]{{{length},}}(?:\.[0-9]+)?");
        return one_of(near.into_iter().chain([far]).collect());
    };
    if least > most {
        return None;
    }
    let limit = 10_i128.pow(MAX_FRACTIONAL + scale);
    let mut parts = Vec::new();
    if least < limit {
        parts.push(with_fraction(least, most.min(limit - 1), scale));
    }
    if most >= limit {
        let first = least.max(limit);
        parts.extend(natural(
            first.div_euclid(unit) + i128::from(first % unit != 0),
            Some(most / unit),
        ));
    }
    one_of(parts)
}

/// Decimals between two of which neither is negative.
fn with_fraction(least: i128, most: i128, scale: u32) -> String {
    let unit = 10_i128.pow(scale);
    let width = scale as usize;
    let digits =
        |value: i128| if width == 0 { String::new() } else { format!("{:0width$}", value % unit) };
    let (zeros, nines) = ("0".repeat(width), "9".repeat(width));
    let (first, last) = (least / unit, most / unit);
    let (first_fraction, last_fraction) = (digits(least), digits(most));
    if first == last {
        return format!("{first}{}", fraction(&first_fraction, &last_fraction));
    }
    let mut parts = Vec::new();
    let (mut from, mut to) = (first, last);
    if first_fraction != zeros {
        parts.push(format!("{first}{}", fraction(&first_fraction, &nines)));
        from += 1;
    }
    if last_fraction != nines {
        parts.push(format!("{last}{}", fraction(&zeros, &last_fraction)));
        to -= 1;
    }
    if let Some(whole) = natural(from, Some(to)) {
        parts.push(whole + &fraction(&zeros, &nines));
    }
    one_of(parts).unwrap_or_default()
}

/// What may stand behind an integer, so that as many digits as the two bounds have, with zeros at the
/// end, lie between them: nothing, or a point and digits.
fn fraction(first: &str, last: &str) -> String {
    let may_be_nothing = first.bytes().all(|digit| digit == b'0');
    if last.bytes().all(|digit| digit == b'0') {
        // Zero alone.
        return match first.len() {
            0 => String::new(),
            digits => format!(r"(?:\.0{{1,{digits}}})?"),
        };
    }
    let text = format!(r"\.{}", fraction_digits(first, last, true));
    if may_be_nothing { format!("(?:{text})?") } else { text }
}

/// Digits, fewer than the bounds have or as many, that lie between them once zeros are added. At least
/// one, where `some` says so.
fn fraction_digits(first: &str, last: &str, some: bool) -> String {
    let length = first.len();
    if length == 0 {
        return String::new();
    }
    let is_all = |text: &str, digit: u8| text.bytes().all(|it| it == digit);
    let may_end = is_all(first, b'0') && !some;
    if is_all(first, b'0') && is_all(last, b'9') {
        return format!("[0-9]{{{},{length}}}", usize::from(some));
    }
    let (a, b) = (first.as_bytes()[0], last.as_bytes()[0]);
    let (zeros, nines) = ("0".repeat(length - 1), "9".repeat(length - 1));
    let mut parts = Vec::new();
    if a == b {
        parts.push(format!("{}{}", char::from(a), fraction_digits(&first[1..], &last[1..], false)));
    } else {
        let (mut from, mut to) = (a, b);
        if first[1..] != zeros {
            parts.push(format!("{}{}", char::from(a), fraction_digits(&first[1..], &nines, false)));
            from += 1;
        }
        if last[1..] != nines {
            parts.push(format!("{}{}", char::from(b), fraction_digits(&zeros, &last[1..], false)));
            to -= 1;
        }
        if from <= to {
            parts.push(digit(from, to) + &fraction_digits(&zeros, &nines, false));
        }
    }
    let text = one_of(parts).unwrap_or_default();
    if may_end { format!("(?:{text})?") } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> regex::Regex {
        regex::Regex::new(&format!("^(?:{text})$")).unwrap()
    }

    proptest! {
        #[test]
        fn integers_are_those_between(
            a in any::<i64>(), b in any::<i64>(), shift in 0..63_u32, near in -3..=3_i128,
        ) {
            let (a, b) = (i128::from(a >> shift), i128::from(b >> shift));
            let (least, most) = (a.min(b), a.max(b));
            for (from, to) in [(Some(least), Some(most)), (Some(least), None), (None, Some(most))] {
                let regex = whole(&integers(from, to).unwrap());
                let values = [least + near, most + near, (least + most) / 2, near, i128::from(i64::MAX), i128::from(i64::MIN)];
                for value in values {
                    let inside = from.is_none_or(|from| value >= from) && to.is_none_or(|to| value <= to);
                    prop_assert_eq!(regex.is_match(&value.to_string()), inside, "{} in {:?}..{:?}", value, from, to);
                }
            }
        }

        #[test]
        fn decimals_are_those_between(
            a in -2_000_000..2_000_000_i128, b in -2_000_000..2_000_000_i128, scale in 0..6_u32,
            c in -2_000_000..2_000_000_i128, near in -2..=2_i128, cut in 0..4_u32,
        ) {
            let (least, most) = (a.min(b), a.max(b));
            for (from, to) in [(Some(least), Some(most)), (Some(least), None), (None, Some(most))] {
                let regex = whole(&decimals(from, to, scale).unwrap());
                let rounded = c - c % 10_i128.pow(cut);
                for value in [least + near, most + near, c, rounded, near, 0] {
                    let inside = from.is_none_or(|from| value >= from) && to.is_none_or(|to| value <= to);
                    let text = decimal(value, scale);
                    prop_assert_eq!(regex.is_match(&text), inside, "{} in {:?}..{:?} at {}", text, from, to, scale);
                }
            }
        }
    }

    #[test]
    fn nothing_between_is_nothing() {
        assert_eq!(integers(Some(3), Some(2)), None);
        assert_eq!(decimals(Some(-2), Some(-3), 2), None);
        assert_eq!(integers(Some(7), Some(7)).as_deref(), Some("7"));
    }

    #[test]
    fn large_decimals_are_whole() {
        let most = i128::from(i64::MAX) * 100_000;
        let regex = whole(&decimals(Some(0), Some(most), 5).unwrap());
        for right in ["0", "0.00001", "9999999999.99999", "9223372036854775807", "10000000000"] {
            assert!(regex.is_match(right), "{right}");
        }
        for wrong in ["9223372036854775808", "10000000000.5", "-1", "0.000001"] {
            assert!(!regex.is_match(wrong), "{wrong}");
        }
    }
}
