//! Numbers from texts, and sizes of files.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, Value};

use super::super::arguments::{bind, flag, integer};
use super::super::printf::truncated;
use super::super::values::{invalid, text};

pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("filesizeformat", file_size);
}

/// The default stands in for what is no number.
fn int(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [default, base] = bind("int", ["default", "base"], &args, &kwargs)?;
    let base =
        integer("int", base.as_ref())?.and_then(|base| u32::try_from(base).ok()).unwrap_or(10);
    if base == 1 || base > 36 {
        return Err(invalid("int() base must be >= 2 and <= 36, or 0"));
    }
    let default = default.unwrap_or_else(|| Value::from(0));
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(invalid("an undefined value has no integer")),
        ValueKind::Bool => Value::from(i32::from(value.is_true())),
        ValueKind::Number => truncated(value).unwrap_or(default),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let parsed = whole(text, base).map(Value::from);
            parsed.or_else(|| truncated(&Value::from(real(text)?)).ok()).unwrap_or(default)
        }
        _ => default,
    })
}

fn float(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [default] = bind("float", ["default"], &args, &kwargs)?;
    let default = default.unwrap_or_else(|| Value::from(0.0));
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(invalid("an undefined value has no float")),
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default, Value::from),
        ValueKind::String => value.as_str().and_then(real).map_or(default, Value::from),
        _ => default,
    })
}

/// An integer as Python reads it: white space around it, `_` between digits, a prefix of its base.
fn whole(text: &str, base: u32) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let (mut base, mut digits) = (base, digits);
    let mut prefixed = false;
    for (prefix, prefix_base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        let begins = digits.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if begins && (base == 0 || base == prefix_base) {
            (base, digits, prefixed) = (prefix_base, &digits[2..], true);
            break;
        }
    }
    let digits = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let number = i128::from_str_radix(&without_underscores(digits)?, base.clamp(2, 36)).ok();
    let number = if base == 0 { without_underscores(digits)?.parse().ok() } else { number };
    number.map(|number| if negative { -number } else { number })
}

fn real(text: &str) -> Option<f64> {
    let text = without_underscores(text.trim())?;
    // Rust reads what Python does, "infinity" and "nan" in any case included.
    text.parse().ok()
}

/// Underscores stand between digits only.
fn without_underscores(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('_').collect();
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric());
    let between = parts
        .windows(2)
        .all(|pair| is_digit(pair[0].chars().next_back()) && is_digit(pair[1].chars().next()));
    let is_signed_twice = text.get(1..).is_some_and(|rest| rest.starts_with(['+', '-']))
        && text.starts_with(['+', '-']);
    (between && !text.is_empty() && !is_signed_twice).then(|| parts.concat())
}

fn file_size(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let [binary] = bind("filesizeformat", ["binary"], &args, &kwargs)?;
    let binary = flag(binary.as_ref());
    let bytes = match value.as_str() {
        Some(text) => real(text),
        None => f64::try_from(value.clone()).ok(),
    };
    let text = text(value)?;
    let bytes =
        bytes.ok_or_else(|| invalid(format!("could not convert string to float: {text}")))?;
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let units = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut size = bytes / base;
    let mut index = 0;
    while size >= base && index + 1 < units.len() {
        size /= base;
        index += 1;
    }
    let unit = match (binary, index) {
        (true, 0) => "KiB".to_owned(),
        (true, _) => format!("{}iB", units[index]),
        (false, _) => format!("{}B", units[index]),
    };
    Ok(format!("{size:.1} {unit}"))
}
