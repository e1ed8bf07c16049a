//! The objects that a JSON schema allows: named properties in the schema's order, then any others.

use serde_json::{Map, Value};

use super::document::SchemaId;
use super::expression::Expression;
use super::goal::Goal;
use super::lowering::Lowering;
use super::pattern::Reading;
use super::rules::{RuleId, Symbol};
use super::sequence::{Element, Sequence};
use super::spelling::{ANY_CHARACTER, CHARACTER, spell};
use super::text::whole;
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Kinds of names that patterns tell apart.
const MAX_KINDS: usize = 64;
/// Properties of one object that may be left out: a text may go on with each.
const MAX_OPTIONAL: usize = 1000;

/// What some schemas say of an object as a whole.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    pub(super) least: u64,
    pub(super) most: Option<u64>,
}

impl Bounds {
    /// # Errors
    /// Where a bound is no whole number.
    pub(super) fn of(schemas: &[&Map<String, Value>]) -> Result<Self, GrammarError> {
        let mut bounds = Self::default();
        for map in schemas {
            bounds.least = bounds.least.max(whole(map, "minProperties")?.unwrap_or(0));
            if let Some(most) = whole(map, "maxProperties")? {
                bounds.most = Some(bounds.most.map_or(most, |old| old.min(most)));
            }
        }
        Ok(bounds)
    }
}

/// The objects of a conjunction, as far as they do not depend on values.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    names: Vec<&'a str>,
    required: Vec<&'a str>,
    bounds: Bounds,
}

fn object<'a>(
    map: &'a Map<String, Value>,
    keyword: &str,
) -> Result<Option<&'a Map<String, Value>>, GrammarError> {
    match map.get(keyword) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(GrammarError::Invalid(format!("`{keyword}` must be an object"))),
    }
}

impl<'a> Lowering<'a> {
    /// # Errors
    /// Where a keyword is malformed.
    pub(super) fn outline(&mut self, schemas: &[SchemaId]) -> Result<Outline<'a>, GrammarError> {
        let maps: Vec<_> = schemas.iter().filter_map(|schema| self.document.map(*schema)).collect();
        let (mut names, mut required) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for map in &maps {
            names.extend(
                object(map, "properties")?.into_iter().flat_map(Map::keys).map(String::as_str),
            );
        }
        for map in &maps {
            let Some(list) = map.get("required") else { continue };
            // In old drafts, a boolean within a property.
            if list.is_boolean() {
                continue;
            }
            let invalid =
                || GrammarError::Invalid("`required` must be an array of strings".to_owned());
            required.extend(super::value::names(map, "required").ok_or_else(invalid)?);
            debug_assert!(list.is_array());
        }
        names.extend(&required);
        names.retain(|name| seen.insert(*name));
        required.sort_unstable();
        required.dedup();
        Ok(Outline { names, required, bounds: Bounds::of(&maps)? })
    }

    /// What one schema says of the value of a property: by a reading of every reader, all that any of
    /// them may find said.
    ///
    /// # Errors
    /// Where a keyword is malformed.
    pub(super) fn property(
        &mut self,
        schema: SchemaId,
        name: &str,
        reading: Reading,
    ) -> Result<Vec<SchemaId>, GrammarError> {
        let Some(map) = self.document.map(schema) else { return Ok(Vec::new()) };
        let mut said = Vec::new();
        let named = object(map, "properties")?.and_then(|properties| properties.get(name));
        said.extend(named.map(|named| self.document.child(schema, named)));
        let (says, covers) = match reading {
            Reading::Every => (Reading::Any, Reading::Every),
            Reading::Any => (Reading::Every, Reading::Any),
        };
        let mut covered = named.is_some();
        for (pattern, value) in object(map, "patternProperties")?.into_iter().flatten() {
            let read = self.pattern(pattern)?;
            if read.matches(name, says) {
                said.push(self.document.child(schema, value));
            }
            covered |= read.matches(name, covers);
        }
        if let Some(others) = map.get("additionalProperties")
            && !covered
        {
            said.push(self.document.child(schema, others));
        }
        Ok(said)
    }

    /// # Errors
    /// As [`Self::property`].
    pub(super) fn property_goal(
        &mut self,
        schemas: &[SchemaId],
        name: &str,
        reading: Reading,
    ) -> Result<Goal, GrammarError> {
        let mut said = Vec::new();
        for schema in schemas {
            said.extend(self.property(*schema, name, reading)?);
        }
        Ok(self.goal(said))
    }

    /// Whether a property that must be there cannot be.
    ///
    /// # Errors
    /// As [`Self::property`].
    pub(super) fn is_object_impossible(
        &mut self,
        schemas: &[SchemaId],
        depth: usize,
    ) -> Result<bool, GrammarError> {
        let outline = self.outline(schemas)?;
        for name in outline.required {
            let goal = self.property_goal(schemas, name, Reading::Any)?;
            if self.is_impossible(&goal, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Objects that satisfy every one of some schemas.
    ///
    /// # Errors
    /// Where a keyword is malformed or not supported, or where there are too many properties.
    pub(super) fn objects(&mut self, schemas: &[SchemaId]) -> Result<RuleId, GrammarError> {
        let outline = self.outline(schemas)?;
        let optional = outline.names.len() - outline.required.len();
        limits::check_count(
            "properties of one object that are not required",
            optional,
            MAX_OPTIONAL,
        )?;
        let colon = self.rules.mark(":");
        let mut elements = Vec::with_capacity(outline.names.len());
        for name in &outline.names {
            self.spend(1 + schemas.len())?;
            let goal = self.property_goal(schemas, name, Reading::Every)?;
            let value = self.rule_of(goal);
            let name_lexeme = self.rules.lexeme(&Expression::literal(&spell(name)).quoted());
            let symbols =
                vec![Symbol::Lexeme(name_lexeme), Symbol::Lexeme(colon), Symbol::Rule(value)];
            let required = outline.required.binary_search(name).is_ok();
            elements.push(Element { symbols, required });
        }
        let mut pairs = Vec::new();
        for (name, goal) in self.kinds_of_names(schemas, &outline.names)? {
            let value = self.rule_of(goal);
            let name = self.rules.lexeme(&name);
            pairs.push(vec![Symbol::Lexeme(name), Symbol::Lexeme(colon), Symbol::Rule(value)]);
        }
        let more = if pairs.is_empty() { None } else { Some(self.rules.rule(pairs)?) };
        let Bounds { least, most } = outline.bounds;
        if more.is_some() && least > elements.len() as u64 + 1 {
            let message = "`minProperties` is not supported beyond one more than there are names in \
                           `properties` and `required`";
            return Err(GrammarError::Unsupported(message.to_owned()));
        }
        self.sequence(Sequence { elements, more, least, most }, ("{", "}"))
    }

    /// Names that are none of `names`, by the patterns that they match, with what is said of their
    /// values. Kinds without a name, and kinds whose values are forbidden, are left out.
    fn kinds_of_names(
        &mut self,
        schemas: &[SchemaId],
        names: &[&str],
    ) -> Result<Vec<(Expression, Goal)>, GrammarError> {
        /// Parts of an expression, and the patterns of a kind by number.
        type Kind = (Vec<Expression>, Vec<usize>);
        let mut patterns: Vec<&'a str> = Vec::new();
        for schema in schemas {
            let Some(map) = self.document.map(*schema) else { continue };
            for pattern in object(map, "patternProperties")?.into_iter().flat_map(Map::keys) {
                if !patterns.contains(&&**pattern) {
                    patterns.push(pattern);
                }
            }
        }
        let character = if patterns.is_empty() { CHARACTER } else { ANY_CHARACTER };
        let mut all = Vec::new();
        if patterns.is_empty() || !names.is_empty() {
            all.push(Expression::Regex(format!("\"{character}*\"")));
        }
        if !names.is_empty() {
            let taken =
                names.iter().map(|name| Expression::literal(&spell(name)).quoted()).collect();
            all.extend(Expression::any(taken).map(|taken| Expression::Not(Box::new(taken))));
        }
        let mut kinds: Vec<Kind> = vec![(all, Vec::new())];
        for (number, pattern) in patterns.iter().enumerate() {
            let read = self.pattern(pattern)?;
            let mut next: Vec<Kind> = Vec::new();
            for (parts, matched) in kinds {
                if let Some(surely) = &read.pattern.surely {
                    let parts = [&parts[..], std::slice::from_ref(surely)].concat();
                    if !self.is_nothing(&parts)? {
                        next.push((parts, [&matched[..], &[number]].concat()));
                    }
                }
                let not = read.pattern.perhaps.clone().map(|it| Expression::Not(Box::new(it)));
                let everything = Expression::Regex(format!("\"{CHARACTER}*\""));
                let first = if parts.is_empty() { vec![everything] } else { parts };
                let parts: Vec<_> = first.into_iter().chain(not).collect();
                if !self.is_nothing(&parts)? {
                    next.push((parts, matched));
                }
            }
            limits::check_count("kinds of names by `patternProperties`", next.len(), MAX_KINDS)?;
            kinds = next;
        }
        let mut named = Vec::with_capacity(kinds.len());
        for (parts, matched) in kinds {
            let matched: Vec<&str> = matched.into_iter().map(|number| patterns[number]).collect();
            let goal = self.kind_goal(schemas, &matched)?;
            if !self.is_forbidden(&goal) {
                named.push((Expression::all(parts), goal));
            }
        }
        Ok(named)
    }

    /// What is said of the values of names that match these patterns and no others.
    fn kind_goal(&mut self, schemas: &[SchemaId], matched: &[&str]) -> Result<Goal, GrammarError> {
        let mut said = Vec::new();
        for schema in schemas {
            let Some(map) = self.document.map(*schema) else { continue };
            let before = said.len();
            for (pattern, value) in object(map, "patternProperties")?.into_iter().flatten() {
                if matched.contains(&&**pattern) {
                    said.push(self.document.child(*schema, value));
                }
            }
            if said.len() == before
                && let Some(others) = map.get("additionalProperties")
            {
                said.push(self.document.child(*schema, others));
            }
        }
        Ok(self.goal(said))
    }

    fn is_nothing(&mut self, parts: &[Expression]) -> Result<bool, GrammarError> {
        if let [Expression::Regex(_)] = parts {
            return Ok(false);
        }
        self.spend(300)?;
        Expression::all(parts.to_vec()).is_empty()
    }
}
