//! Values that a schema names: when two are the same, and how one is written.

use serde_json::{Map, Value};

use super::decimal::Decimal;
use super::spelling::spell;

/// Whether two values are the same to JSON Schema: numbers by their value, objects in any order.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    canonical(a) == canonical(b)
}

/// A text that two values have in common where they are the same.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => Decimal::new(number).to_string(),
        Value::String(_) | Value::Bool(_) | Value::Null => value.to_string(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Object(map) => {
            let pair = |(name, value): (&String, &Value)| {
                format!("{}:{}", Value::from(name.as_str()), canonical(value))
            };
            let mut pairs: Vec<String> = map.iter().map(pair).collect();
            pairs.sort_unstable();
            format!("{{{}}}", pairs.join(","))
        }
    }
}

/// A value that is no array and no object as it is written.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(format!("\"{}\"", spell(text))),
        Value::Array(_) | Value::Object(_) => None,
        value => Some(value.to_string()),
    }
}

/// A list of strings under a keyword.
pub(super) fn names<'a>(map: &'a Map<String, Value>, keyword: &str) -> Option<Vec<&'a str>> {
    map.get(keyword)?.as_array()?.iter().map(Value::as_str).collect()
}
