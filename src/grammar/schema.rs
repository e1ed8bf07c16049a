//! A client's JSON schema, turned into a grammar that says the same, to the last digit and character.
//!
//! The parser's own reading of schemas takes numbers for doubles and drops characters, so this module
//! does it: a [`lowering`] takes [`goal`]s apart and writes [`rules`]. Whatever it cannot say exactly it
//! says more narrowly, or refuses by name; nothing that validates is ignored.

mod array;
mod decimal;
mod digits;
mod document;
mod expression;
mod format;
mod goal;
mod lowering;
mod number;
mod object;
mod pattern;
mod rules;
mod sequence;
mod spelling;
mod text;
mod types;
mod validity;
mod value;

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::GrammarError;
use super::limits;

/// Different references in a schema.
const MAX_REFERENCES: usize = 512;

/// A schema's grammar, in llguidance's dialect of Lark.
///
/// # Errors
/// Where it breaks a limit, asks for something that is not supported, or no finite value satisfies it.
pub(super) fn lower(schema: &Value) -> Result<String, GrammarError> {
    limits::check_json(schema)?;
    if !(schema.is_object() || schema.is_boolean()) {
        let message = "a schema must be an object or a boolean";
        return Err(GrammarError::Invalid(message.to_owned()));
    }
    limits::check_count("different references", references(schema).len(), MAX_REFERENCES)?;
    lowering::lower(schema)
}

fn references(schema: &Value) -> BTreeSet<&str> {
    let (mut found, mut stack) = (BTreeSet::new(), vec![schema]);
    while let Some(value) = stack.pop() {
        match value {
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                stack.extend(map.values());
            }
            _ => {}
        }
    }
    found
}
