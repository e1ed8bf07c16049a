//! The types of JSON values, as sets.

use serde_json::{Map, Value};

use crate::grammar::error::GrammarError;

/// Some types. Integers are numbers; a set may have one kind of number without the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    pub(super) const FRACTION: Self = Self(8);
    pub(super) const NUMBER: Self = Self(4 | 8);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);

    /// The types that a schema allows.
    ///
    /// # Errors
    /// Where `type` names none.
    pub(super) fn of(map: &Map<String, Value>) -> Result<Self, GrammarError> {
        let invalid =
            || GrammarError::Invalid("`type` must be a type's name or an array of them".to_owned());
        match map.get("type") {
            None => Ok(Self::ALL),
            Some(Value::String(name)) => Self::named(name),
            Some(Value::Array(names)) => {
                let mut types = Self(0);
                for name in names {
                    types.0 |= Self::named(name.as_str().ok_or_else(invalid)?)?.0;
                }
                Ok(types)
            }
            Some(_) => Err(invalid()),
        }
    }

    fn named(name: &str) -> Result<Self, GrammarError> {
        match name {
            "null" => Ok(Self::NULL),
            "boolean" => Ok(Self::BOOLEAN),
            "integer" => Ok(Self::INTEGER),
            "number" => Ok(Self::NUMBER),
            "string" => Ok(Self::STRING),
            "array" => Ok(Self::ARRAY),
            "object" => Ok(Self::OBJECT),
            _ => Err(GrammarError::Invalid(format!(
                "`type` must name a type of JSON, not `{}`",
                super::document::short(name)
            ))),
        }
    }

    /// Types that are in both sets.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the sets have a type in common.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
