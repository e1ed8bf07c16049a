//! Typed access to the fields of a JSON configuration: absent and `null` are one, wrong is an error.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ModelError;

/// A JSON object read field by field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The fields of `value`, called `what` in errors.
    pub fn new(value: &'a Value, what: &str) -> Result<Self, ModelError> {
        value.as_object().map(Self).ok_or_else(|| invalid(what, value, "an object"))
    }

    /// The raw value, where it is neither absent nor null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// An object under `name`.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ModelError> {
        self.get(name).map(|value| Self::new(value, name)).transpose()
    }

    /// An integer of `range` under `name`.
    pub fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wanted = value.as_u64().filter(|integer| range.contains(integer));
        let wanted = wanted.and_then(|integer| usize::try_from(integer).ok()).ok_or_else(|| {
            invalid(name, value, &format!("an integer from {} to {}", range.start(), range.end()))
        })?;
        Ok(Some(wanted))
    }

    /// A finite number under `name` for which `accept` holds; `expected` says so in words.
    pub fn number(
        &self,
        name: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && accept(*number));
        number.map(Some).ok_or_else(|| invalid(name, value, expected))
    }

    /// A boolean under `name`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| invalid(name, value, "true or false"))
    }

    /// A string under `name`.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| invalid(name, value, "a string"))
    }

    /// One token id or a list of them under `name`; empty where absent.
    pub fn token_ids(&self, name: &str) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let wrong = || invalid(name, value, "a token id or a list of token ids");
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            single => Ok(vec![id(single)?]),
        }
    }
}

/// The error of a field that holds `value` instead of what was `expected`.
pub(super) fn invalid(field: &str, value: &Value, expected: &str) -> ModelError {
    const SHOWN_CHARS: usize = 80;
    let text = value.to_string();
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    ModelError::InvalidField {
        field: field.to_owned(),
        value: shown,
        expected: expected.to_owned(),
    }
}
