//! Tests of Jinja2 (`is iterable` and so on) that minijinja lacks or answers otherwise.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use super::methods;
use super::values::type_name;

/// Makes them known.
pub(super) fn define(environment: &mut Environment<'_>) {
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("mapping", methods::is_dict);
    environment.add_test("callable", is_callable);
}

/// Asked without going through an iterator.
fn is_iterable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable => true,
        ValueKind::Map => methods::is_dict(value),
        _ => false,
    }
}

/// What has a length and items by index: texts and dictionaries, too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq => true,
        ValueKind::Map => methods::is_dict(value),
        ValueKind::Iterable => type_name(value) == "list",
        _ => false,
    }
}

/// Functions, macros, methods and loops.
fn is_callable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Plain => true,
        ValueKind::Map => {
            !methods::is_dict(value)
                && !value
                    .as_object()
                    .is_some_and(|object| object.type_name().ends_with("Namespace"))
        }
        _ => false,
    }
}
