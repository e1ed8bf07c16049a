//! `format.format(values)`: fields in braces, with Python's conversions and specifications.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, from_args};
use minijinja::{Error, State, Value};

use super::MAX_OUTPUT_BYTES;
use super::values::{float, invalid, repr, text, too_long};

/// The largest number a specification may hold.
const MAX_WIDTH: usize = 1 << 16;

/// Puts the arguments into `pattern`.
///
/// # Errors
/// Where the two do not fit each other, and where the text becomes too long.
pub(super) fn str_format(state: &State, pattern: &str, args: &[Value]) -> Result<String, Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let mut arguments = Arguments { positional: positional.0, kwargs, next: 0 };
    fill(state, pattern, &mut arguments, 0)
}

struct Arguments {
    positional: Vec<Value>,
    kwargs: Kwargs,
    next: usize,
}

impl Arguments {
    /// The value of a field such as `0`, `name.attribute` or `[key]`.
    fn get(&mut self, field: &str) -> Result<Value, Error> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(end);
        let mut value = if name.is_empty() {
            self.next += 1;
            self.at(self.next - 1)?
        } else if let Ok(index) = name.parse() {
            self.at(index)?
        } else {
            self.kwargs.get(name)?
        };
        while !path.is_empty() {
            let (found, rest) = if let Some(attribute) = path.strip_prefix('.') {
                let end = attribute.find(['.', '[']).unwrap_or(attribute.len());
                (value.get_attr(&attribute[..end])?, &attribute[end..])
            } else {
                let key = path.strip_prefix('[').and_then(|key| key.split_once(']'));
                let (key, rest) = key.ok_or_else(|| invalid("expected ']' in a format"))?;
                let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                (value.get_item(&key)?, rest)
            };
            (value, path) = (found, rest);
        }
        Ok(value)
    }

    fn at(&self, index: usize) -> Result<Value, Error> {
        let message = || invalid(format!("a format has no argument {index}"));
        self.positional.get(index).cloned().ok_or_else(message)
    }
}

fn fill(
    state: &State,
    pattern: &str,
    arguments: &mut Arguments,
    depth: usize,
) -> Result<String, Error> {
    if depth > 1 {
        return Err(invalid("Max string recursion exceeded"));
    }
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(invalid("Single '}' encountered in format string"));
        }
        let end = field_end(rest).ok_or_else(|| invalid("expected '}' before end of string"))?;
        let piece = fill_field(state, &rest[..end], arguments, depth)?;
        state.consume_fuel((piece.len() / 64) as u64)?;
        out.push_str(&piece);
        rest = &rest[end + 1..];
        if out.len() > MAX_OUTPUT_BYTES {
            return Err(too_long());
        }
    }
    Ok(out + rest)
}

/// Where the brace is that closes a field; a specification may hold fields.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn fill_field(
    state: &State,
    field: &str,
    arguments: &mut Arguments,
    depth: usize,
) -> Result<String, Error> {
    let (field, specification) = field.split_once(':').unwrap_or((field, ""));
    let (name, conversion) = field.split_once('!').map_or((field, None), |(a, b)| (a, Some(b)));
    let value = arguments.get(name)?;
    let specification = fill(state, specification, arguments, depth + 1)?;
    let value = match conversion {
        None => value,
        Some("s") => Value::from(text(&value)?),
        Some("r" | "a") => Value::from(repr(&value)?),
        Some(other) => return Err(invalid(format!("Unknown conversion specifier {other}"))),
    };
    if specification.is_empty() {
        return text(&value);
    }
    let digits = specification.split(|c: char| !c.is_ascii_digit());
    if digits.filter_map(|digits| digits.parse::<usize>().ok()).any(|number| number > MAX_WIDTH) {
        return Err(invalid(format!("a width of a format is more than {MAX_WIDTH}")));
    }
    if let (Some(precision), Some(number)) =
        (specification.strip_suffix('%'), f64::try_from(value.clone()).ok())
    {
        let pattern = format!("{{:{precision}f}}");
        return Ok(format(FormatStyle::StrFormat, &pattern, &[Value::from(number * 100.0)])? + "%");
    }
    let is_plain = value.as_str().is_some() || value.is_number() || float(&value).is_some();
    let value = if is_plain { value } else { Value::from(text(&value)?) };
    format(FormatStyle::StrFormat, &format!("{{:{specification}}}"), &[value])
}
