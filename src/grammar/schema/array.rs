//! The arrays that a JSON schema allows.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::document::SchemaId;
use super::expression::Expression;
use super::goal::Goal;
use super::lowering::Lowering;
use super::pattern::Reading;
use super::rules::{RuleId, Symbol};
use super::sequence::{Element, Sequence};
use super::text::whole;
use super::types::Types;
use super::value::{canonical, scalar};
use crate::grammar::error::GrammarError;

/// Items that can be asked for, and beyond which nobody counts.
const MAX_COUNTED: u64 = 1_000_000;
/// Values that the items of a set are among.
const MAX_SET: usize = 256;

/// What a schema says of an array as a whole.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) least: u64,
    pub(super) most: Option<u64>,
    pub(super) unique: bool,
}

impl Bounds {
    /// # Errors
    /// Where a keyword is malformed.
    pub(super) fn of(map: &Map<String, Value>) -> Result<Self, GrammarError> {
        let unique = match map.get("uniqueItems") {
            None => false,
            Some(Value::Bool(unique)) => *unique,
            Some(_) => {
                return Err(GrammarError::Invalid("`uniqueItems` must be a boolean".to_owned()));
            }
        };
        Ok(Self {
            least: whole(map, "minItems")?.unwrap_or(0),
            most: whole(map, "maxItems")?,
            unique,
        })
    }

    pub(super) fn allows(self, count: u64) -> bool {
        count >= self.least && self.most.is_none_or(|most| count <= most)
    }

    fn and(self, other: Self) -> Self {
        Self {
            least: self.least.max(other.least),
            most: [self.most, other.most].into_iter().flatten().min(),
            unique: self.unique || other.unique,
        }
    }
}

/// The items that have places of their own, and what follows them.
fn parts(map: &Map<String, Value>) -> Result<(&[Value], Option<&Value>), GrammarError> {
    let items = map.get("items");
    // In old drafts, a list of items.
    let (first, rest) = match items {
        Some(Value::Array(first)) => (Some(first), map.get("additionalItems")),
        _ => match map.get("prefixItems") {
            Some(Value::Array(first)) => (Some(first), items),
            None => (None, items),
            Some(_) => {
                return Err(GrammarError::Invalid("`prefixItems` must be an array".to_owned()));
            }
        },
    };
    Ok((first.map_or(&[], Vec::as_slice), rest))
}

impl<'a> Lowering<'a> {
    /// What one schema says of the item at a place.
    ///
    /// # Errors
    /// Where a keyword is malformed.
    pub(super) fn position(
        &mut self,
        schema: SchemaId,
        index: usize,
    ) -> Result<Option<SchemaId>, GrammarError> {
        let Some(map) = self.document.map(schema) else { return Ok(None) };
        let (first, rest) = parts(map)?;
        let said = first.get(index).or(rest);
        Ok(said.map(|said| self.document.child(schema, said)))
    }

    fn position_goal(&mut self, schemas: &[SchemaId], index: usize) -> Result<Goal, GrammarError> {
        let mut said = Vec::new();
        for schema in schemas {
            said.extend(self.position(*schema, index)?);
        }
        Ok(self.goal(said))
    }

    /// The bounds of some schemas together, and the number of items with places of their own.
    fn array_outline(&self, schemas: &[SchemaId]) -> Result<(Bounds, usize), GrammarError> {
        let (mut bounds, mut places) = (Bounds::default(), 0);
        for schema in schemas {
            let Some(map) = self.document.map(*schema) else { continue };
            bounds = bounds.and(Bounds::of(map)?);
            places = places.max(parts(map)?.0.len());
        }
        Ok((bounds, places))
    }

    /// Whether an item that must be there cannot be.
    ///
    /// # Errors
    /// Where a keyword is malformed.
    pub(super) fn is_array_impossible(
        &mut self,
        schemas: &[SchemaId],
        depth: usize,
    ) -> Result<bool, GrammarError> {
        let (bounds, places) = self.array_outline(schemas)?;
        if bounds.most.is_some_and(|most| most < bounds.least) {
            return Ok(true);
        }
        let needed = usize::try_from(bounds.least).unwrap_or(usize::MAX).min(places + 1);
        for index in 0..needed {
            let goal = self.position_goal(schemas, index)?;
            if self.is_impossible(&goal, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Arrays that satisfy every one of some schemas.
    ///
    /// # Errors
    /// Where a keyword is malformed or not supported, or where there are too many items.
    pub(super) fn arrays(&mut self, schemas: &[SchemaId]) -> Result<RuleId, GrammarError> {
        let (bounds, places) = self.array_outline(schemas)?;
        if bounds.unique && bounds.most.is_none_or(|most| most > 1) {
            return self.sets(schemas, bounds, places);
        }
        if bounds.least > MAX_COUNTED {
            let message = format!("`minItems` is supported up to {MAX_COUNTED}");
            return Err(GrammarError::Unsupported(message));
        }
        let most = bounds.most.filter(|most| *most <= MAX_COUNTED);
        if most.is_some_and(|most| most < bounds.least) {
            return self.rules.rule(Vec::new());
        }
        let [open, comma, close] = ["[", ",", "]"].map(|mark| self.rules.mark(mark));
        let array = |inner: Vec<Symbol>| {
            let inner = inner.into_iter();
            [Symbol::Lexeme(open)].into_iter().chain(inner).chain([Symbol::Lexeme(close)]).collect()
        };
        let mut alternatives = Vec::new();
        if bounds.least == 0 {
            alternatives.push(array(Vec::new()));
        }
        let allows = |count: u64| count >= bounds.least && most.is_none_or(|most| count <= most);
        // The first items up to each place.
        let mut before: Vec<Symbol> = Vec::new();
        for index in 0..places {
            self.spend(schemas.len())?;
            let count = index as u64 + 1;
            if most.is_some_and(|most| count > most) {
                break;
            }
            let goal = self.position_goal(schemas, index)?;
            let item = Symbol::Rule(self.rule_of(goal));
            if !before.is_empty() {
                before.push(Symbol::Lexeme(comma));
            }
            before.push(item);
            before = vec![Symbol::Rule(self.rules.rule(vec![before])?)];
            if allows(count) {
                alternatives.push(array(before.clone()));
            }
        }
        let first = places as u64;
        if most.is_none_or(|most| most > first) {
            let goal = self.position_goal(schemas, places)?;
            let item = self.rule_of(goal);
            let least =
                u32::try_from(bounds.least.saturating_sub(first)).unwrap_or(u32::MAX).max(1);
            let most = most.map(|most| u32::try_from(most - first).unwrap_or(u32::MAX));
            let between = (!before.is_empty()).then_some(Symbol::Lexeme(comma));
            let many = Symbol::Many { item, between: comma, least, most };
            alternatives.push(array(before.into_iter().chain(between).chain([many]).collect()));
        }
        self.rules.rule(alternatives)
    }

    /// Arrays without two items that are the same: those whose items are among a few values, in the
    /// schema's order.
    fn sets(
        &mut self,
        schemas: &[SchemaId],
        bounds: Bounds,
        places: usize,
    ) -> Result<RuleId, GrammarError> {
        let unsupported = || {
            let message = "`uniqueItems` is supported where `items` lists the values (`enum`, `const`, booleans), or \
                           where `maxItems` is at most 1";
            GrammarError::Unsupported(message.to_owned())
        };
        if places > 0 {
            return Err(unsupported());
        }
        let goal = self.position_goal(schemas, 0)?;
        let values = self.few_values(&goal)?.ok_or_else(unsupported)?;
        let mut elements = Vec::with_capacity(values.len());
        for value in values {
            let lexeme = self.rules.lexeme(&Expression::literal(&value));
            elements.push(Element { symbols: vec![Symbol::Lexeme(lexeme)], required: false });
        }
        let sequence = Sequence { elements, more: None, least: bounds.least, most: bounds.most };
        self.sequence(sequence, ("[", "]"))
    }

    /// The values of a goal as they are written, where they are few and scalars.
    fn few_values(&mut self, goal: &Goal) -> Result<Option<Vec<String>>, GrammarError> {
        let (mut values, mut seen) = (Vec::<Value>::new(), HashSet::new());
        for schemas in self.alternatives(goal)? {
            let here = match self.listed(&schemas, Reading::Every)? {
                Some(listed) => listed.into_iter().cloned().collect(),
                None => {
                    let types = self.types(&schemas)?;
                    if types.overlaps(Types::NUMBER)
                        || types.overlaps(Types::STRING)
                        || types.overlaps(Types::ARRAY)
                        || types.overlaps(Types::OBJECT)
                    {
                        return Ok(None);
                    }
                    let all = [
                        (Types::NULL, Value::Null),
                        (Types::BOOLEAN, false.into()),
                        (Types::BOOLEAN, true.into()),
                    ];
                    all.into_iter()
                        .filter(|(of, _)| types.overlaps(*of))
                        .map(|(_, value)| value)
                        .collect::<Vec<_>>()
                }
            };
            for value in here {
                if seen.insert(canonical(&value)) {
                    values.push(value);
                }
                if values.len() > MAX_SET {
                    return Ok(None);
                }
            }
        }
        Ok(values.iter().map(scalar).collect())
    }
}
