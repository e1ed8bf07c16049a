//! Whether a value that a schema lists satisfies it, and all others that are about the same value. A
//! `format` is not asked: what is listed was meant.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::decimal::Decimal;
use super::document::SchemaId;
use super::lowering::Lowering;
use super::number::NumberRange;
use super::pattern::Reading;
use super::text::length_bounds;
use super::types::Types;
use super::value::{canonical, is_same, names};
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Schemas that lead to each other without going into the value.
const MAX_DEPTH: usize = 512;

type Answer = Result<bool, GrammarError>;

/// Whose reading of patterns counts, and how many schemas led here.
#[derive(Debug, Clone, Copy)]
struct At {
    reading: Reading,
    depth: usize,
}

impl At {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn otherwise(self) -> Self {
        let reading = match self.reading {
            Reading::Every => Reading::Any,
            Reading::Any => Reading::Every,
        };
        Self { reading, ..self }
    }
}

impl<'a> Lowering<'a> {
    /// Whether a value satisfies the own keywords of every one of some schemas.
    ///
    /// # Errors
    /// Where a keyword is malformed or not supported, or a number cannot be written exactly.
    pub(super) fn satisfies_all(
        &mut self,
        schemas: &[SchemaId],
        value: &Value,
        reading: Reading,
    ) -> Answer {
        for schema in schemas {
            if !self.satisfies_own(*schema, value, At { reading, depth: 0 })? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn satisfies(&mut self, schema: SchemaId, value: &Value, at: At) -> Answer {
        limits::check_count("schemas that lead to each other", at.depth, MAX_DEPTH)?;
        self.spend(1)?;
        let map = match self.document.get(schema) {
            Value::Bool(everything) => return Ok(*everything),
            Value::Object(map) => map,
            _ => {
                return Err(GrammarError::Invalid(
                    "a schema must be an object or a boolean".to_owned(),
                ));
            }
        };
        if !self.satisfies_own(schema, value, at)? {
            return Ok(false);
        }
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            let target = self.document.target(schema, reference)?;
            if !self.satisfies(target, value, at.deeper())? {
                return Ok(false);
            }
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let Some(parts) = map.get(keyword).and_then(Value::as_array) else { continue };
            let count = self.count_satisfied(schema, parts, value, at)?;
            let enough = match keyword {
                "allOf" => count == parts.len(),
                "anyOf" => count > 0,
                _ => {
                    let other = self.count_satisfied(schema, parts, value, at.otherwise())?;
                    // By every reader one and no other, or by some reader one alone.
                    match at.reading {
                        Reading::Every => count == 1 && other == 1,
                        Reading::Any => count > 0 && other <= 1,
                    }
                }
            };
            if !enough {
                return Ok(false);
            }
        }
        super::document::check_keywords(map)?;
        self.allows_not(map)
    }

    fn count_satisfied(
        &mut self,
        schema: SchemaId,
        parts: &'a [Value],
        value: &Value,
        at: At,
    ) -> Result<usize, GrammarError> {
        let mut count = 0;
        for part in parts {
            let part = self.document.child(schema, part);
            count += usize::from(self.satisfies(part, value, at.deeper())?);
        }
        Ok(count)
    }

    fn satisfies_own(&mut self, schema: SchemaId, value: &Value, at: At) -> Answer {
        let Some(map) = self.document.map(schema) else { return Ok(true) };
        if !Types::of(map)?.overlaps(type_of(value)) {
            return Ok(false);
        }
        if map.get("const").is_some_and(|constant| !is_same(constant, value)) {
            return Ok(false);
        }
        if let Some(values) = map.get("enum").and_then(Value::as_array)
            && !self.is_among(schema, values, value)
        {
            return Ok(false);
        }
        match value {
            Value::Null | Value::Bool(_) => Ok(true),
            Value::Number(number) => {
                let number = Decimal::new(number);
                Ok(NumberRange::new(false, &[map])?.contains(number))
            }
            Value::String(text) => self.allows_string(map, text, at.reading),
            Value::Array(items) => self.allows_array(schema, map, items, at),
            Value::Object(object) => self.allows_object(schema, map, object, at),
        }
    }

    /// Whether a value is one of those that a schema lists.
    fn is_among(&mut self, schema: SchemaId, values: &[Value], value: &Value) -> bool {
        let list = || values.iter().map(canonical).collect();
        self.lists.entry(schema).or_insert_with(list).contains(&canonical(value))
    }

    fn allows_string(&mut self, map: &Map<String, Value>, text: &str, reading: Reading) -> Answer {
        let (least, most) = length_bounds(&[map])?;
        let length = text.chars().count() as u64;
        if length < least || most.is_some_and(|most| length > most) {
            return Ok(false);
        }
        match map.get("pattern") {
            Some(Value::String(pattern)) => Ok(self.pattern(pattern)?.matches(text, reading)),
            _ => Ok(true),
        }
    }

    fn allows_array(
        &mut self,
        schema: SchemaId,
        map: &Map<String, Value>,
        items: &[Value],
        at: At,
    ) -> Answer {
        let shape = super::array::Bounds::of(map)?;
        if !shape.allows(items.len() as u64) {
            return Ok(false);
        }
        if shape.unique {
            let different: HashSet<String> = items.iter().map(canonical).collect();
            if different.len() < items.len() {
                return Ok(false);
            }
        }
        for (index, item) in items.iter().enumerate() {
            if let Some(position) = self.position(schema, index)?
                && !self.satisfies(position, item, at.deeper())?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn allows_object(
        &mut self,
        schema: SchemaId,
        map: &Map<String, Value>,
        object: &Map<String, Value>,
        at: At,
    ) -> Answer {
        let bounds = super::object::Bounds::of(&[map])?;
        let count = object.len() as u64;
        if count < bounds.least || bounds.most.is_some_and(|most| count > most) {
            return Ok(false);
        }
        let required = names(map, "required").unwrap_or_default();
        if !required.iter().all(|name| object.contains_key(*name)) {
            return Ok(false);
        }
        for (name, value) in object {
            for property in self.property(schema, name, at.reading)? {
                if !self.satisfies(property, value, at.deeper())? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn type_of(value: &Value) -> Types {
    match value {
        Value::Null => Types::NULL,
        Value::Bool(_) => Types::BOOLEAN,
        Value::Number(number) if Decimal::new(number).is_integer() => Types::INTEGER,
        Value::Number(_) => Types::FRACTION,
        Value::String(_) => Types::STRING,
        Value::Array(_) => Types::ARRAY,
        Value::Object(_) => Types::OBJECT,
    }
}
