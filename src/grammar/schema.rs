//! A client's JSON schema, made ready for the parser: measured, freed of what would be obeyed only
//! nearly, and given the form of JSON that texts are written in.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::error::GrammarError;
use super::{limits, productive};

/// Different references in a schema.
const MAX_REFERENCES: usize = 512;
/// White space at each place where JSON allows some: a space, or a line break and an indentation.
/// Bounded, so that a text cannot go on in blanks for ever.
const WHITESPACE: &str = r"\x20|\n[\x20\x09]{0,64}";
/// One way to write each string: with `\u` a second spelling of a key would go unnoticed.
const ESCAPES: &str = r#"nrbtf\""#;

/// A schema that the parser understands as JSON Schema does.
///
/// # Errors
/// Where it breaks a limit, asks for something that is not supported, or no finite value satisfies
/// it.
pub(super) fn prepare(schema: Value) -> Result<Value, GrammarError> {
    limits::check_json(&schema)?;
    let schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(GrammarError::Unsatisfiable),
        schema @ Value::Object(_) => schema,
        _ => {
            return Err(GrammarError::Invalid(
                "a schema must be an object or a boolean".to_owned(),
            ));
        }
    };
    let mut references = BTreeSet::new();
    check(&schema, &mut references)?;
    limits::check_count("different references", references.len(), MAX_REFERENCES)?;
    if !productive::has_finite_value(&schema, &references) {
        return Err(GrammarError::Unsatisfiable);
    }
    let mut inliner = Inliner { root: &schema, path: Vec::new(), left: limits::MAX_VALUES };
    let mut prepared = inliner.copy(&schema);
    let form = json!({"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES});
    if let Value::Object(map) = &mut prepared {
        map.insert("x-guidance".to_owned(), form);
    }
    Ok(prepared)
}

/// Keywords whose value has schemas under names that are no keywords.
fn names_schemas(keyword: &str) -> bool {
    matches!(keyword, "properties" | "patternProperties" | "$defs" | "definitions")
}

/// Looks at every object that may be a schema, and collects references.
fn check(value: &Value, references: &mut BTreeSet<String>) -> Result<(), GrammarError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check(item, references)),
        Value::Object(map) => {
            check_object(map, references)?;
            map.iter().try_for_each(|(name, value)| match (&**name, value) {
                (name, _) if is_data(name) => Ok(()),
                (name, Value::Object(named)) if names_schemas(name) => {
                    named.values().try_for_each(|schema| check(schema, references))
                }
                (_, value) => check(value, references),
            })
        }
        _ => Ok(()),
    }
}

/// Keywords whose value is data, not schemas.
fn is_data(keyword: &str) -> bool {
    matches!(keyword, "const" | "enum" | "default" | "examples")
}

fn check_object(
    map: &Map<String, Value>,
    references: &mut BTreeSet<String>,
) -> Result<(), GrammarError> {
    if let Some(Value::String(reference)) = map.get("$ref") {
        if !reference.starts_with('#') {
            let message = "`$ref` must point into the schema itself, with `#`";
            return Err(GrammarError::Unsupported(message.to_owned()));
        }
        references.insert(reference.clone());
    }
    if let Some(Value::String(pattern)) = map.get("pattern") {
        limits::check_regex(pattern)?;
    }
    if let Some(Value::Object(patterns)) = map.get("patternProperties") {
        patterns.keys().try_for_each(|pattern| limits::check_regex(pattern))?;
    }
    // Keys that nobody named could be the same one twice, which counts once.
    let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
    let least = map.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    if least > required as u64 + 1 {
        let message = "`minProperties` is not supported beyond one more than `required` names";
        return Err(GrammarError::Unsupported(message.to_owned()));
    }
    Ok(())
}

/// Copies a schema, putting into each `oneOf` what its references stand for: only so can the
/// alternatives be seen to exclude each other.
struct Inliner<'a> {
    root: &'a Value,
    /// References that are being put in; none is put into itself.
    path: Vec<&'a str>,
    /// Values that may still be written.
    left: usize,
}

impl<'a> Inliner<'a> {
    fn copy(&mut self, value: &'a Value) -> Value {
        self.left = self.left.saturating_sub(1);
        match value {
            Value::Array(items) => items.iter().map(|item| self.copy(item)).collect(),
            Value::Object(map) => {
                let copy = |(name, value): (&String, &'a Value)| {
                    let value = match (&**name, value) {
                        (name, value) if is_data(name) => value.clone(),
                        ("oneOf", Value::Array(options)) => {
                            options.iter().map(|option| self.copy_option(option)).collect()
                        }
                        (name, Value::Object(named)) if names_schemas(name) => {
                            let copy = |(name, schema): (&String, &'a Value)| {
                                (name.clone(), self.copy(schema))
                            };
                            named.iter().map(copy).collect()
                        }
                        (_, value) => self.copy(value),
                    };
                    (name.clone(), value)
                };
                map.iter().map(copy).collect()
            }
            value => value.clone(),
        }
    }

    fn copy_option(&mut self, option: &'a Value) -> Value {
        let reference = option.as_object().filter(|map| map.len() == 1);
        let Some(reference) = reference.and_then(|map| map.get("$ref")?.as_str()) else {
            return self.copy(option);
        };
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target.filter(|_| self.left > 0 && !self.path.contains(&reference))
        else {
            return option.clone();
        };
        self.path.push(reference);
        let copy = self.copy(target);
        self.path.pop();
        copy
    }
}
