//! A JSON schema as a document whose parts refer to each other.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::grammar::error::GrammarError;

/// Keywords that are obeyed.
const OBEYED: [&str; 29] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
    "uniqueItems",
];
/// Keywords of the standard that would change which values are valid, and are not supported.
const REFUSED: [&str; 16] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "extends",
    "if",
    "maxContains",
    "minContains",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "disallow",
];

/// Names a schema within a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SchemaId(usize);

/// A schema and the document, or the part of one with a name of its own, to which its references belong.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    schema: &'a Value,
    resource: &'a Value,
}

/// All schemas of a document that were looked at.
#[derive(Debug)]
pub(super) struct Document<'a> {
    places: Vec<Place<'a>>,
    /// By address: the document is borrowed, so that nothing moves.
    ids: HashMap<*const Value, SchemaId>,
}

/// Values that are schemas or hold some, and are not data.
fn holds_schemas(keyword: &str) -> bool {
    !matches!(keyword, "const" | "enum" | "default" | "examples")
}

/// Whether a schema begins a part whose references are its own.
fn is_resource(schema: &Value) -> bool {
    schema.get("$id").and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'))
}

impl<'a> Document<'a> {
    /// A document and the id of its root.
    pub(super) fn new(root: &'a Value) -> (Self, SchemaId) {
        let mut document = Self { places: Vec::new(), ids: HashMap::new() };
        let id = document.insert(Place { schema: root, resource: root });
        (document, id)
    }

    fn insert(&mut self, place: Place<'a>) -> SchemaId {
        let address: *const Value = place.schema;
        let next = SchemaId(self.places.len());
        let id = *self.ids.entry(address).or_insert(next);
        if id == next {
            self.places.push(place);
        }
        id
    }

    /// The schema of an id.
    pub(super) fn get(&self, id: SchemaId) -> &'a Value {
        self.places[id.0].schema
    }

    /// The schema of an id, where it is an object.
    pub(super) fn map(&self, id: SchemaId) -> Option<&'a Map<String, Value>> {
        self.get(id).as_object()
    }

    /// A schema that lies within another one.
    pub(super) fn child(&mut self, parent: SchemaId, schema: &'a Value) -> SchemaId {
        let resource = if is_resource(schema) { schema } else { self.places[parent.0].resource };
        self.insert(Place { schema, resource })
    }

    /// The schema that a reference of `from` leads to.
    ///
    /// # Errors
    /// Where it leads out of the document, or nowhere.
    pub(super) fn target(
        &mut self,
        from: SchemaId,
        reference: &str,
    ) -> Result<SchemaId, GrammarError> {
        let Some(fragment) = reference.strip_prefix('#') else {
            let message = "`$ref` must point into the schema itself, with `#`";
            return Err(GrammarError::Unsupported(message.to_owned()));
        };
        let resource = self.places[from.0].resource;
        let place = match decoded(fragment) {
            Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => {
                follow(resource, &pointer)
            }
            Some(anchor) => anchored(resource, &anchor),
            None => None,
        };
        let nowhere =
            || GrammarError::Invalid(format!("`$ref` `{}` leads nowhere", short(reference)));
        place.map(|place| self.insert(place)).ok_or_else(nowhere)
    }
}

/// The beginning of a text, for messages.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `%41` is `A` in a reference.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn follow<'a>(resource: &'a Value, pointer: &str) -> Option<Place<'a>> {
    let mut place = Place { schema: resource, resource };
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let schema = match place.schema {
            Value::Object(map) => map.get(&token)?,
            Value::Array(items) => items.get(token.parse::<usize>().ok()?)?,
            _ => return None,
        };
        let resource = if is_resource(schema) { schema } else { place.resource };
        place = Place { schema, resource };
    }
    Some(place)
}

fn anchored<'a>(resource: &'a Value, anchor: &str) -> Option<Place<'a>> {
    let mut stack = vec![resource];
    while let Some(value) = stack.pop() {
        match value {
            Value::Array(items) => stack.extend(items),
            Value::Object(map) => {
                let is = |keyword: &str| map.get(keyword).and_then(Value::as_str);
                let old = is("$id").and_then(|id| id.strip_prefix('#'));
                if [is("$anchor"), is("$dynamicAnchor"), old].contains(&Some(anchor)) {
                    return Some(Place { schema: value, resource });
                }
                let inner = map.iter().filter(|(keyword, _)| holds_schemas(keyword));
                stack.extend(inner.map(|(_, value)| value).filter(|value| !is_resource(value)));
            }
            _ => {}
        }
    }
    None
}

/// # Errors
/// Where a schema has keywords that would have to be ignored.
pub(super) fn check_keywords(map: &Map<String, Value>) -> Result<(), GrammarError> {
    let mut refused: Vec<&str> =
        map.keys().map(String::as_str).filter(|keyword| REFUSED.contains(keyword)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    refused.sort_unstable();
    let message = format!("the keywords {refused:?} are not supported");
    Err(GrammarError::Unsupported(message))
}

/// Whether a schema says anything about which values are valid.
pub(super) fn asserts(schema: &Value) -> bool {
    match schema {
        Value::Bool(everything) => !everything,
        Value::Object(map) => {
            map.keys().any(|keyword| OBEYED.contains(&&**keyword) || REFUSED.contains(&&**keyword))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_lead_where_they_say() {
        let schema = json!({
            "$id": "https://example.com/root",
            "$defs": {
                "a b": {"const": 1}, "x/y": {"const": 2}, "p%": {"const": 3},
                "named": {"$anchor": "here", "const": 4},
                "own": {"$id": "other", "$defs": {"in": {"const": 5}, "named": {"$anchor": "here", "const": 6}}},
            },
            "default": {"$anchor": "data"},
        });
        let (mut document, root) = Document::new(&schema);
        let mut value = |from: SchemaId, reference: &str| {
            document.target(from, reference).map(|id| (id, document.get(id)["const"].clone()))
        };
        let constants = [
            ("#/$defs/a%20b", 1),
            ("#/$defs/x~1y", 2),
            ("#/$defs/p%25", 3),
            ("#here", 4),
            ("#/$defs/own/$defs/in", 5),
        ];
        for (reference, constant) in constants {
            assert_eq!(value(root, reference).unwrap().1, json!(constant), "{reference}");
        }
        let own = value(root, "#/$defs/own").unwrap().0;
        assert_eq!(value(own, "#/$defs/in").unwrap().1, json!(5));
        assert_eq!(value(own, "#here").unwrap().1, json!(6));
        for wrong in ["#/nowhere", "#data", "other", "https://example.com/x", "#%zz", "#/$defs/0"] {
            assert!(value(root, wrong).is_err(), "{wrong}");
        }
        assert_eq!(value(root, "#").unwrap().0, root);
    }
}
