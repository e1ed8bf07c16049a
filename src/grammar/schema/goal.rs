//! What has to be true of one value: a set of schemas, taken apart into alternatives in each of which
//! the schemas' own keywords are all there is.

use std::collections::HashSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::decimal::Decimal;
use super::document::{SchemaId, asserts, check_keywords};
use super::lowering::Lowering;
use super::number::check_exact;
use super::pattern::Reading;
use super::value::canonical;
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Alternatives of one goal.
const MAX_ALTERNATIVES: usize = 2048;
/// Alternatives of a `oneOf`, each of which is held against each other.
const MAX_EXCLUSIVE: usize = 256;

/// Schemas that one value must satisfy, in the order in which they were met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Goal(Vec<SchemaId>);

impl Goal {
    /// The goal's name: schemas in no order.
    pub(super) fn key(&self) -> Vec<SchemaId> {
        let mut key = self.0.clone();
        key.sort_unstable();
        key
    }
}

/// Schemas whose own keywords, those that are about the value itself, must all be satisfied.
pub(super) type Conjunction = Vec<SchemaId>;

/// The schemas through which one was reached without going into the value.
#[derive(Debug)]
struct Path {
    schema: SchemaId,
    before: Option<Rc<Path>>,
}

/// An alternative on its way.
#[derive(Debug, Clone, Default)]
struct Branch {
    pending: Vec<(SchemaId, Option<Rc<Path>>)>,
    done: Conjunction,
}

fn list<'a>(
    map: &'a Map<String, Value>,
    keyword: &str,
) -> Result<Option<&'a Vec<Value>>, GrammarError> {
    match map.get(keyword) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(GrammarError::Invalid(format!("`{keyword}` must be an array"))),
    }
}

impl<'a> Lowering<'a> {
    /// A goal of the schemas that say anything.
    pub(super) fn goal(&self, schemas: impl IntoIterator<Item = SchemaId>) -> Goal {
        let mut goal = Goal::default();
        for schema in schemas {
            if asserts(self.document.get(schema)) && !goal.0.contains(&schema) {
                goal.0.push(schema);
            }
        }
        goal
    }

    /// The alternatives of a goal. One that would have to contain itself has no finite text, and is
    /// left out.
    ///
    /// # Errors
    /// Where a keyword is malformed or not supported, or where there are too many.
    pub(super) fn alternatives(&mut self, goal: &Goal) -> Result<Vec<Conjunction>, GrammarError> {
        let pending = goal.0.iter().rev().map(|schema| (*schema, None)).collect();
        let mut branches = vec![Branch { pending, done: Vec::new() }];
        let mut alternatives = Vec::new();
        while let Some(mut branch) = branches.pop() {
            self.spend(1)?;
            let Some((schema, path)) = branch.pending.pop() else {
                alternatives.push(branch.done);
                limits::check_count("alternatives", alternatives.len(), MAX_ALTERNATIVES)?;
                continue;
            };
            if is_within(schema, path.as_ref()) {
                continue;
            }
            if branch.done.contains(&schema) {
                branches.push(branch);
                continue;
            }
            branch.done.push(schema);
            let path = Some(Rc::new(Path { schema, before: path }));
            let next = self.take_apart(schema, path.as_ref(), branch)?;
            limits::check_count("alternatives", branches.len() + next.len(), MAX_ALTERNATIVES)?;
            branches.extend(next.into_iter().rev());
        }
        Ok(alternatives)
    }

    /// Goes on with what a schema says by other schemas about the same value.
    fn take_apart(
        &mut self,
        schema: SchemaId,
        path: Option<&Rc<Path>>,
        mut branch: Branch,
    ) -> Result<Vec<Branch>, GrammarError> {
        let map = match self.document.get(schema) {
            Value::Bool(true) => return Ok(vec![branch]),
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(map) => map,
            _ => {
                let message = "a schema must be an object or a boolean";
                return Err(GrammarError::Invalid(message.to_owned()));
            }
        };
        check_keywords(map)?;
        if !self.allows_not(map)? {
            return Ok(Vec::new());
        }
        let and = |branch: &mut Branch, schema| branch.pending.push((schema, path.cloned()));
        for part in list(map, "allOf")?.into_iter().flatten().rev() {
            let part = self.document.child(schema, part);
            and(&mut branch, part);
        }
        if let Some(reference) = map.get("$ref") {
            let Value::String(reference) = reference else {
                return Err(GrammarError::Invalid("`$ref` must be a string".to_owned()));
            };
            let target = self.document.target(schema, reference)?;
            and(&mut branch, target);
        }
        let mut branches = vec![branch];
        for keyword in ["anyOf", "oneOf"] {
            let Some(options) = list(map, keyword)? else { continue };
            let options: Vec<SchemaId> =
                options.iter().map(|option| self.document.child(schema, option)).collect();
            if keyword == "oneOf" {
                self.check_exclusive(&options)?;
            }
            let count = branches.len() * options.len();
            limits::check_count("alternatives", count, MAX_ALTERNATIVES)?;
            let with = |branch: &Branch, option: SchemaId| {
                let mut branch = branch.clone();
                branch.pending.push((option, path.cloned()));
                branch
            };
            branches = branches
                .iter()
                .flat_map(|branch| options.iter().map(move |option| with(branch, *option)))
                .collect();
        }
        Ok(branches)
    }

    /// `not` is supported where it forbids everything or nothing.
    pub(super) fn allows_not(&self, map: &Map<String, Value>) -> Result<bool, GrammarError> {
        match map.get("not") {
            None | Some(Value::Bool(false)) => Ok(true),
            Some(schema) if !asserts(schema) => Ok(false),
            Some(_) => {
                let message = "the keywords [\"not\"] are not supported";
                Err(GrammarError::Unsupported(message.to_owned()))
            }
        }
    }

    /// # Errors
    /// Where a value could satisfy two of them, as far as can be seen.
    fn check_exclusive(&mut self, options: &[SchemaId]) -> Result<(), GrammarError> {
        if self.are_different_constants(options) {
            return Ok(());
        }
        limits::check_count("alternatives of a `oneOf`", options.len(), MAX_EXCLUSIVE)?;
        for (index, a) in options.iter().enumerate() {
            for b in &options[index + 1..] {
                if self.exclusive.contains(&(*a, *b)) {
                    continue;
                }
                let both = self.goal([*a, *b]);
                if !self.is_impossible(&both, 0)? {
                    let message = "`oneOf` is supported where its alternatives evidently exclude each \
                                   other, by type, by range or by a required constant";
                    return Err(GrammarError::Unsupported(message.to_owned()));
                }
                self.exclusive.insert((*a, *b));
            }
        }
        Ok(())
    }

    /// Whether each is one string, and no two the same.
    fn are_different_constants(&self, options: &[SchemaId]) -> bool {
        let constant = |id: &SchemaId| self.document.map(*id)?.get("const")?.as_str();
        let constants: Option<std::collections::BTreeSet<&str>> =
            options.iter().map(constant).collect();
        constants.is_some_and(|constants| constants.len() == options.len())
    }

    /// The values that a conjunction is among, where its schemas list them.
    ///
    /// # Errors
    /// Where a list is none, or holds what cannot be written exactly.
    pub(super) fn listed(
        &mut self,
        schemas: &Conjunction,
        reading: Reading,
    ) -> Result<Option<Vec<&'a Value>>, GrammarError> {
        let mut shortest: Option<Vec<&'a Value>> = None;
        for schema in schemas {
            let Some(map) = self.document.map(*schema) else { continue };
            let lists = [
                map.get("const").map(|value| vec![value]),
                list(map, "enum")?.map(|it| it.iter().collect()),
            ];
            for values in lists.into_iter().flatten() {
                if shortest.as_ref().is_none_or(|shortest| values.len() < shortest.len()) {
                    shortest = Some(values);
                }
            }
        }
        let Some(values) = shortest else { return Ok(None) };
        for value in &values {
            check_numbers(value)?;
        }
        let mut kept: Vec<&'a Value> = Vec::new();
        for value in values {
            self.spend(1)?;
            if self.satisfies_all(schemas, value, reading)? {
                kept.push(value);
            }
        }
        let mut seen = HashSet::new();
        kept.retain(|value| seen.insert(canonical(value)));
        Ok(Some(kept))
    }
}

/// # Errors
/// Where a number in a value is beyond what is written exactly.
fn check_numbers(value: &Value) -> Result<(), GrammarError> {
    match value {
        Value::Number(number) => check_exact("const` or `enum", Decimal::new(number)),
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(map) => map.values().try_for_each(check_numbers),
        _ => Ok(()),
    }
}

fn is_within(schema: SchemaId, mut path: Option<&Rc<Path>>) -> bool {
    while let Some(step) = path {
        if step.schema == schema {
            return true;
        }
        path = step.before.as_ref();
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::lower;
    use crate::grammar::error::GrammarError;

    /// To Python `\w` is `é` too, and to ECMA-262 it is not.
    #[test]
    fn alternatives_that_some_reader_finds_together_are_refused() {
        let string = |pattern: &str| json!({"type": "string", "pattern": pattern});
        let named = |pattern: &str, value: &str| json!({"type": "object", "patternProperties": {pattern: {"const": value}}, "required": ["é"]});
        let cases = [
            (string(r"^\w+$"), string("^[äöü]+$"), false),
            (string(r"^\w+$"), json!({"enum": ["é", "!"]}), false),
            (string(r"^\d$"), json!({"enum": ["a", "٣"]}), false),
            // Sets that leave something out are written without control characters.
            (string("^[^a]$"), string(r"^\x01$"), false),
            (string("^a$"), string("^a\n$"), false),
            (string("^[a-z]+$"), string("^[äöü]+$"), true),
            (string("^[a-z]+$"), json!({"enum": ["é", "!"]}), true),
            // Whether the pattern says anything about `é` is up to the reader.
            (named(r"^\w$", "a"), named("^é$", "b"), false),
            (named("^é$", "a"), named("^é$", "b"), true),
        ];
        for (one, other, expected) in cases {
            let schema = json!({"oneOf": [one, other]});
            match lower(&schema) {
                Ok(_) => assert!(expected, "{schema} is taken"),
                Err(error) => {
                    assert!(!expected, "{schema}: {error}");
                    assert!(matches!(error, GrammarError::Unsupported(_)), "{schema}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_listed_value_is_of_one_alternative_to_every_reader() {
        let part = |other: &str| json!({"oneOf": [{"pattern": r"^\w$"}, {"const": other}]});
        let listing = |other: &str| json!({"enum": [["é"], ["!"]], "items": part(other)});
        // To some `é` is both.
        let both = lower(&listing("é")).unwrap_err();
        assert_eq!(both, GrammarError::Unsatisfiable);
        assert!(lower(&listing("!")).is_ok());
    }
}
