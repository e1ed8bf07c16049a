//! Methods of Python's strings, lists and dictionaries.
//!
//! Those that would change a list or a dictionary are refused, as the sandbox that transformers renders
//! in does.

mod case;
mod containers;
mod search;
mod strings;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::values::{invalid, type_name};

/// Methods that change what they are called on.
const CHANGING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
];
const DICT: [&str; 7] = ["copy", "fromkeys", "get", "items", "keys", "values", "__getitem__"];
const LIST: [&str; 3] = ["copy", "count", "index"];

/// True where a value of some type has a method of that name.
pub(super) fn is_method(name: &str) -> bool {
    DICT.contains(&name)
        || LIST.contains(&name)
        || CHANGING.contains(&name)
        || strings::is_method(name)
}

/// True for the methods that change what they are called on.
pub(super) fn is_changing(name: &str) -> bool {
    CHANGING.contains(&name)
}

/// True where `value` has a method of that name.
pub(super) fn has_method(value: &Value, name: &str) -> bool {
    match value.kind() {
        ValueKind::String => strings::is_method(name),
        ValueKind::Seq if value.is_tuple() => ["count", "index"].contains(&name),
        ValueKind::Seq | ValueKind::Iterable if type_name(value) == "list" => {
            LIST.contains(&name)
                || (CHANGING.contains(&name)
                    && !["popitem", "setdefault", "update", "add"].contains(&name))
        }
        ValueKind::Map if is_dict(value) => {
            DICT.contains(&name)
                || ["clear", "pop", "popitem", "setdefault", "update"].contains(&name)
        }
        _ => false,
    }
}

/// True for dictionaries; a namespace and a loop are none.
pub(super) fn is_dict(value: &Value) -> bool {
    let is_other = |name: &str| {
        ["Namespace", "Loop", "Macro", "Module"].iter().any(|other| name.ends_with(other))
    };
    value.kind() == ValueKind::Map
        && value.as_object().is_some_and(|object| !is_other(object.type_name()))
}

/// A call of a method that minijinja does not know.
///
/// # Errors
/// Where there is no such method, or not for these arguments.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if has_method(value, name) && CHANGING.contains(&name) {
        let message = format!("{} object must not be changed: {name}()", type_name(value));
        return Err(invalid(message));
    }
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if value.kind() == ValueKind::Iterable && type_name(value) != "list" {
        return Err(unknown());
    }
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().ok_or_else(unknown)?;
            let result = strings::call(state, text, name, args)?;
            // What is made of escaped text is escaped.
            Ok(match result.as_str() {
                Some(text) if value.is_safe() => Value::from_safe_string(text.to_owned()),
                _ => result,
            })
        }
        ValueKind::Map if is_dict(value) => containers::dict(value, name, args),
        ValueKind::Seq | ValueKind::Iterable => containers::list(value, name, args),
        ValueKind::Number if name == "is_integer" => {
            Ok(Value::from(super::values::float(value).is_none_or(|float| float.fract() == 0.0)))
        }
        _ => Err(unknown()),
    }
}
