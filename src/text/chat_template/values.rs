//! Values written as Python writes them: `str()` and `repr()`.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use regex::Regex;

use super::super::json_dumps::{MAX_VALUES, python_float};
use super::MAX_OUTPUT_BYTES;
use super::methods::is_dict;
use super::views::{DictView, Generator};

/// How deep lists and dictionaries are written.
pub(in super::super) const MAX_DEPTH: usize = 200;

/// An error of the template.
pub(in super::super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// An error of a text that is longer than anything that may be rendered.
pub(super) fn too_long() -> Error {
    invalid(TooLong.to_string()).with_source(TooLong)
}

/// A text longer than anything that may be rendered.
#[derive(Debug, thiserror::Error)]
#[error("a text is longer than {MAX_OUTPUT_BYTES} bytes")]
pub(super) struct TooLong;

/// `str(value)`; nothing for what is undefined.
///
/// # Errors
/// Where it is longer than a rendering may be, or nested too deeply.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    repr(value)
}

/// `repr(value)`.
///
/// # Errors
/// As [`text`].
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut written = Written::default();
    write_repr(&mut written, value, 0)?;
    Ok(written.text)
}

/// A float, where the value is one.
pub(in super::super) fn float(value: &Value) -> Option<f64> {
    if value.is_number() && !value.is_integer() { f64::try_from(value.clone()).ok() } else { None }
}

/// The name of a value's type in Python.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if float(value).is_some() => "float",
        ValueKind::Number => "int",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        ValueKind::Iterable if value.downcast_object_ref::<Generator>().is_some() => "generator",
        ValueKind::Iterable if value.downcast_object_ref::<DictView>().is_some() => "dict view",
        // A part of a list, or several in a row.
        ValueKind::Iterable => "list",
        _ => "object",
    }
}

/// True for what Python's `str.isprintable` is true of.
pub(super) fn is_printable(c: char) -> bool {
    static UNPRINTABLE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    UNPRINTABLE.as_ref().is_none_or(|pattern| !pattern.is_match(c.encode_utf8(&mut [0; 4])))
}

/// A text as far as it is written, and of how many values.
#[derive(Default)]
struct Written {
    text: String,
    values: usize,
}

fn write_repr(out: &mut Written, value: &Value, depth: usize) -> Result<(), Error> {
    out.values += 1;
    if out.text.len() > MAX_OUTPUT_BYTES || out.values > MAX_VALUES {
        return Err(too_long());
    }
    if depth > MAX_DEPTH {
        return Err(invalid("a value is nested too deeply to be written"));
    }
    if let Some(view) = value.downcast_object_ref::<DictView>() {
        out.text.push_str(view.name());
        out.text.push('(');
        write_items(out, value, ["[", "]"], depth)?;
        out.text.push(')');
        return Ok(());
    }
    match value.kind() {
        ValueKind::Iterable if type_name(value) == "generator" => write_display(out, value),
        ValueKind::Undefined => out.text.push_str("Undefined"),
        ValueKind::None => out.text.push_str("None"),
        ValueKind::Bool => out.text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match float(value) {
            Some(float) => out.text.push_str(&python_float(float)),
            None => write_display(out, value),
        },
        ValueKind::String => write_quoted(&mut out.text, value),
        ValueKind::Seq if value.is_tuple() => {
            let is_single = value.downcast_object_ref::<Tuple>().is_some_and(|it| it.len() == 1);
            write_items(out, value, ["(", if is_single { ",)" } else { ")" }], depth)?;
        }
        ValueKind::Seq | ValueKind::Iterable => write_items(out, value, ["[", "]"], depth)?,
        ValueKind::Map if is_dict(value) => {
            out.text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.text.push_str(", ");
                }
                write_repr(out, &key, depth + 1)?;
                out.text.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.text.push('}');
        }
        _ => write_display(out, value),
    }
    Ok(())
}

fn write_items(
    out: &mut Written,
    value: &Value,
    [open, close]: [&str; 2],
    depth: usize,
) -> Result<(), Error> {
    out.text.push_str(open);
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.text.push_str(", ");
        }
        write_repr(out, &item, depth + 1)?;
    }
    out.text.push_str(close);
    Ok(())
}

fn write_display(out: &mut Written, value: &Value) {
    // Writing to a string does not fail.
    let _ = write!(out.text, "{value}");
}

/// A string in the quotes that Python chooses.
fn write_quoted(out: &mut String, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    if value.is_safe() {
        out.push_str("Markup(");
    }
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let code = u32::from(c);
        let _ = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\\' => out.write_str("\\\\"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => out.write_char(c),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x1_0000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
    if value.is_safe() {
        out.push(')');
    }
}
