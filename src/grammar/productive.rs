//! Whether a schema that refers to itself has a finite value. One that requires itself, such as a
//! list node whose `next` must be another node, never ends, and no text would.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// False only where every value of the schema is certainly infinite.
pub(super) fn has_finite_value(root: &Value, references: &BTreeSet<String>) -> bool {
    // The least fixed point: nothing has a finite value until it is found to have one.
    let mut finite: BTreeMap<&str, bool> = BTreeMap::new();
    let mut targets = Vec::new();
    for reference in references {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        // Where an anchor leads is not looked up.
        finite.insert(reference, target.is_none());
        targets.extend(target.map(|target| (&**reference, target)));
    }
    loop {
        let (found, left): (Vec<_>, Vec<_>) =
            targets.into_iter().partition(|(_, target)| is_finite(target, &finite));
        if found.is_empty() {
            return is_finite(root, &finite);
        }
        finite.extend(found.into_iter().map(|(reference, _)| (reference, true)));
        targets = left;
    }
}

fn is_finite(schema: &Value, known: &BTreeMap<&str, bool>) -> bool {
    let Value::Object(map) = schema else { return *schema != Value::Bool(false) };
    let list = |name: &str| map.get(name).and_then(Value::as_array);
    let referred = map.get("$ref").and_then(Value::as_str);
    let finite = |schema: &Value| is_finite(schema, known);
    referred.is_none_or(|reference| known.get(reference).copied().unwrap_or(true))
        && list("allOf").is_none_or(|all| all.iter().all(finite))
        && list("anyOf").is_none_or(|any| any.iter().any(finite))
        && list("oneOf").is_none_or(|any| any.iter().any(finite))
        && is_finite_by_type(map, known)
}

fn is_finite_by_type(map: &Map<String, Value>, known: &BTreeMap<&str, bool>) -> bool {
    let by_type = |name: &str| match name {
        "object" => is_finite_object(map, known),
        "array" => is_finite_array(map, known),
        _ => true,
    };
    match map.get("type") {
        Some(Value::String(name)) => by_type(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(by_type),
        _ => true,
    }
}

fn is_finite_object(map: &Map<String, Value>, known: &BTreeMap<&str, bool>) -> bool {
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    let properties = map.get("properties").and_then(Value::as_object);
    let mut schemas = required.filter_map(|name| properties?.get(name.as_str()?));
    schemas.all(|schema| is_finite(schema, known))
}

fn is_finite_array(map: &Map<String, Value>, known: &BTreeMap<&str, bool>) -> bool {
    let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let prefix = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let needed = prefix.len().min(usize::try_from(least).unwrap_or(usize::MAX));
    let rest = least > prefix.len() as u64;
    prefix[..needed].iter().all(|schema| is_finite(schema, known))
        && (!rest || map.get("items").is_none_or(|items| is_finite(items, known)))
}
