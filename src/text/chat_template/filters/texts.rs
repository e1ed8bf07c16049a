//! Filters of texts.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::super::MAX_OUTPUT_BYTES;
use super::super::arguments::{bind, flag, length};
use super::super::methods;
use super::super::values::{text, too_long};

pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_filter("trim", trim);
    environment.add_filter("center", center);
    environment.add_filter("indent", indent);
    environment.add_filter("capitalize", |state: &mut State, value: &Value| {
        methods::call(state, &Value::from(text(value)?), "capitalize", &[])
    });
    environment.add_filter("urlencode", urlencode);
}

/// Escaped text stays escaped.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let subject = if value.as_str().is_some() { value.clone() } else { Value::from(text(value)?) };
    methods::call(state, &subject, name, args)
}

fn trim(
    state: &mut State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let [chars] = bind("trim", ["chars"], &args, &kwargs)?;
    method(state, value, "strip", &[chars.unwrap_or_else(|| Value::from(()))])
}

fn center(
    state: &mut State,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let [width] = bind("center", ["width"], &args, &kwargs)?;
    method(state, value, "center", &[width.unwrap_or_else(|| Value::from(80))])
}

/// Every line but the first, and but those that are empty, begins with blanks or a given text.
fn indent(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [width, first, blank] = bind("indent", ["width", "first", "blank"], &args, &kwargs)?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let margin = match width.as_str() {
        Some(margin) => margin.to_owned(),
        None => " ".repeat(length("indent", Some(&width))?.unwrap_or(4)),
    };
    // Jinja2 adds a line break, so that one at the end begins a line of its own.
    let body = text(value)? + "\n";
    let lines: Vec<&str> =
        body.split_inclusive('\n').map(|line| line.trim_end_matches(['\n', '\r'])).collect();
    let grown = margin.len().saturating_mul(lines.len()).saturating_add(body.len());
    if grown > MAX_OUTPUT_BYTES {
        return Err(too_long());
    }
    state.consume_fuel((grown / 64) as u64)?;
    let mut indented = String::with_capacity(grown);
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let is_first = index == 0;
        let wanted =
            if is_first { flag(first.as_ref()) } else { flag(blank.as_ref()) || !line.is_empty() };
        if wanted {
            indented.push_str(&margin);
        }
        indented.push_str(line);
    }
    Ok(if value.is_safe() { Value::from_safe_string(indented) } else { Value::from(indented) })
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let is_pairs = matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable);
    if !is_pairs {
        return Ok(quoted(&text(value)?, "/", "%20"));
    }
    let mut pairs = Vec::new();
    for item in value.try_iter()? {
        let (key, value) = if value.kind() == ValueKind::Map {
            (item.clone(), value.get_item(&item)?)
        } else {
            (item.get_item_by_index(0)?, item.get_item_by_index(1)?)
        };
        pairs.push(quoted(&text(&key)?, "", "+") + "=" + &quoted(&text(&value)?, "", "+"));
    }
    Ok(pairs.join("&"))
}

/// Percent-encoding, but for letters, digits, `_.-~` and what is `safe`.
fn quoted(text: &str, safe: &str, blank: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => quoted.push_str(blank),
            byte if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) => {
                quoted.push(byte.into())
            }
            byte if safe.as_bytes().contains(&byte) => quoted.push(byte.into()),
            byte => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted
}
