//! JSON as Python's `json.dumps` writes it, which is what a chat template's `tojson` prints.
//!
//! Nothing is escaped for HTML; a model was trained on `", "` and `": "` between items.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

/// How deep lists and objects may be nested.
const MAX_DEPTH: usize = 200;
/// How many values may be written: one may stand in many places.
pub(super) const MAX_VALUES: usize = 1 << 20;

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Clone, Default)]
pub(super) struct DumpOptions {
    /// Write characters beyond printable ASCII as `\uNNNN`.
    pub(super) ensure_ascii: bool,
    /// The indentation of one level; `None` writes one line.
    pub(super) indent: Option<String>,
    /// Between items and after keys; `None` is Python's choice for `indent`.
    pub(super) separators: Option<(String, String)>,
    /// Order the keys of every object.
    pub(super) sort_keys: bool,
}

/// Why a value has no JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DumpError {
    /// It, or a value in it, is none of JSON's.
    #[error("a value of type {0} has no json")]
    Type(ValueKind),
    /// A key is a list or an object.
    #[error("a key of json is a {0}")]
    Key(ValueKind),
    /// It holds values in values in values.
    #[error("a value is nested too deeply for json")]
    Depth,
    /// It holds more values than [`MAX_VALUES`].
    #[error("json of more than {MAX_VALUES} values")]
    Values,
    /// It is longer than `limit`.
    #[error("json is longer than {limit} bytes")]
    Length {
        /// In bytes.
        limit: usize,
    },
}

/// Writes `value`, which may become `limit` bytes long.
///
/// # Errors
/// Where a value in it is none of JSON's, and where it is nested too deeply or too long.
pub(super) fn json_dumps(
    value: &Value,
    options: &DumpOptions,
    limit: usize,
) -> Result<String, DumpError> {
    let (item, key) = match &options.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if options.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = Writer { out: String::new(), options, item, key, depth: 0, values: 0, limit };
    writer.value(value)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    options: &'a DumpOptions,
    item: &'a str,
    key: &'a str,
    depth: usize,
    values: usize,
    limit: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), DumpError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(DumpError::Values);
        }
        if self.out.len() > self.limit {
            return Err(DumpError::Length { limit: self.limit });
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
                self.container(["[", "]"], &items, Self::value)?;
            }
            ValueKind::Map => {
                let keys = value.try_iter().into_iter().flatten();
                let mut pairs = Vec::new();
                for key in keys {
                    let value = value.get_item(&key).unwrap_or_default();
                    pairs.push((text_of_key(&key)?, value));
                }
                if self.options.sort_keys {
                    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.container(["{", "}"], &pairs, |writer, (key, value)| {
                    writer.string(key);
                    writer.out.push_str(writer.key);
                    writer.value(value)
                })?;
            }
            _ => self.out.push_str(&scalar(value).ok_or(DumpError::Type(value.kind()))?),
        }
        Ok(())
    }

    fn container<T>(
        &mut self,
        [open, close]: [&str; 2],
        items: &[T],
        write: impl Fn(&mut Self, &T) -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DumpError::Depth);
        }
        self.out.push_str(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(self.item);
            }
            self.new_line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.new_line();
        }
        self.out.push_str(close);
        Ok(())
    }

    fn new_line(&mut self) {
        let Some(indent) = &self.options.indent else { return };
        self.out.push('\n');
        (0..self.depth).for_each(|_| self.out.push_str(indent));
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' => self.escape(c),
                // Python takes DEL for a character to escape, too.
                c if self.options.ensure_ascii && c > '~' => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

/// What is neither text nor a container; `None` where it is none of JSON's values either.
fn scalar(value: &Value) -> Option<String> {
    Some(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => match f64::try_from(value.clone()).ok()? {
            float if float.is_nan() => "NaN".to_owned(),
            float if float.is_infinite() => {
                if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
            }
            float => python_float(float),
        },
        _ => return None,
    })
}

/// A key is a text: numbers and so on are written as one.
fn text_of_key(key: &Value) -> Result<String, DumpError> {
    match key.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => scalar(key).ok_or(DumpError::Key(key.kind())),
    }
}

/// A float as Python's `repr`: like Rust's, but with a sign and two digits in the exponent.
pub(super) fn python_float(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            format!("{mantissa}e{sign}{digits:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use serde_json::json;

    // The expected texts are what CPython's json.dumps prints for the same value.
    fn sample() -> Value {
        Value::from(Serde(
            json!({"b": [1, 2.0, 1e-5, 1.5e16, {}, []], "a": {"<é>&'": "\u{1}\n\"🙂\u{7f}/", "n": null, "t": true}}),
        ))
    }

    #[test]
    fn one_line() {
        let text = json_dumps(&sample(), &DumpOptions::default(), 1000).unwrap();
        assert_eq!(
            text,
            "{\"b\": [1, 2.0, 1e-05, 1.5e+16, {}, []], \
             \"a\": {\"<é>&'\": \"\\u0001\\n\\\"🙂\u{7f}/\", \"n\": null, \"t\": true}}"
        );
    }

    #[test]
    fn indented_sorted_and_ascii() {
        let options = DumpOptions {
            ensure_ascii: true,
            indent: Some("  ".to_owned()),
            sort_keys: true,
            separators: None,
        };
        let text = json_dumps(&sample(), &options, 1000).unwrap();
        let expected = r#"{
  "a": {
    "<\u00e9>&'": "\u0001\n\"\ud83d\ude42\u007f/",
    "n": null,
    "t": true
  },
  "b": [
    1,
    2.0,
    1e-05,
    1.5e+16,
    {},
    []
  ]
}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn given_separators() {
        let separators = Some((",".to_owned(), ":".to_owned()));
        let options = DumpOptions { separators, ..DumpOptions::default() };
        let value = Value::from(Serde(json!({"a": [1, 2]})));
        assert_eq!(json_dumps(&value, &options, 100).unwrap(), r#"{"a":[1,2]}"#);
    }
}
