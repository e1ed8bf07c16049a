//! From a JSON schema to the rules of a grammar: one rule for each set of schemas that a value has to
//! satisfy together.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use super::document::{Document, SchemaId};
use super::expression::Expression;
use super::goal::{Conjunction, Goal};
use super::number::{NumberRange, Numbers};
use super::pattern::Reading;
use super::rules::{RuleId, Rules, Symbol};
use super::text::ReadPattern;
use super::types::Types;
use super::value::scalar;
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Steps of a lowering, each of about a microsecond.
const MAX_WORK: usize = 500_000;
/// Levels down to which schemas are looked at for what cannot be.
const MAX_DEPTH: usize = 4;

/// A lowering under way.
pub(super) struct Lowering<'a> {
    pub(super) document: Document<'a>,
    pub(super) rules: Rules,
    pub(super) patterns: HashMap<String, Rc<ReadPattern>>,
    /// Schemas that no value satisfies both of.
    pub(super) exclusive: HashSet<(SchemaId, SchemaId)>,
    /// The values that an `enum` lists, by schema.
    pub(super) lists: HashMap<SchemaId, HashSet<String>>,
    goals: HashMap<Vec<SchemaId>, RuleId>,
    waiting: Vec<(RuleId, Goal)>,
    work: usize,
}

/// A schema's grammar in llguidance's dialect of Lark.
///
/// # Errors
/// Where it is malformed, asks for what is not supported, takes too much, or no finite value satisfies
/// it.
pub(super) fn lower(schema: &Value) -> Result<String, GrammarError> {
    let (document, root) = Document::new(schema);
    let mut lowering = Lowering {
        document,
        rules: Rules::default(),
        patterns: HashMap::new(),
        exclusive: HashSet::new(),
        lists: HashMap::new(),
        goals: HashMap::new(),
        waiting: Vec::new(),
        work: 0,
    };
    let root = lowering.goal([root]);
    lowering.rule_of(root);
    while let Some((rule, goal)) = lowering.waiting.pop() {
        let alternatives = lowering.values(&goal)?;
        lowering.rules.define(rule, alternatives)?;
    }
    if lowering.rules.prune() {
        Ok(lowering.rules.lark())
    } else {
        Err(GrammarError::Unsatisfiable)
    }
}

impl<'a> Lowering<'a> {
    /// # Errors
    /// Where too much was done already.
    pub(super) fn spend(&mut self, work: usize) -> Result<(), GrammarError> {
        self.work += work;
        limits::check_count("steps once its parts are put together", self.work, MAX_WORK)
    }

    /// The rule of a goal. What it is made of is found later.
    pub(super) fn rule_of(&mut self, goal: Goal) -> RuleId {
        let key = goal.key();
        if let Some(rule) = self.goals.get(&key) {
            return *rule;
        }
        let rule = self.rules.declare();
        self.goals.insert(key, rule);
        self.waiting.push((rule, goal));
        rule
    }

    /// The types that every one of some schemas allows.
    ///
    /// # Errors
    /// Where `type` is malformed.
    pub(super) fn types(&self, schemas: &Conjunction) -> Result<Types, GrammarError> {
        let maps = schemas.iter().filter_map(|schema| self.document.map(*schema));
        maps.map(Types::of).try_fold(Types::ALL, |types, more| Ok(types.and(more?)))
    }

    /// The values of a goal, as alternatives of a rule.
    fn values(&mut self, goal: &Goal) -> Result<Vec<Vec<Symbol>>, GrammarError> {
        let (mut alternatives, mut scalars) = (Vec::new(), Vec::new());
        for schemas in self.alternatives(goal)? {
            match self.listed(&schemas, Reading::Every)? {
                Some(values) => {
                    for value in values {
                        match scalar(value) {
                            Some(text) => scalars.push(Expression::literal(&text)),
                            None => alternatives.push(vec![Symbol::Rule(self.constant(value)?)]),
                        }
                    }
                }
                None => self.typed(&schemas, &mut scalars, &mut alternatives)?,
            }
        }
        scalars.dedup();
        if let Some(scalars) = Expression::any(scalars) {
            let lexeme = self.rules.lexeme(&scalars);
            alternatives.push(vec![Symbol::Lexeme(lexeme)]);
        }
        Ok(alternatives)
    }

    /// The values of a conjunction that lists none.
    fn typed(
        &mut self,
        schemas: &Conjunction,
        scalars: &mut Vec<Expression>,
        alternatives: &mut Vec<Vec<Symbol>>,
    ) -> Result<(), GrammarError> {
        let types = self.types(schemas)?;
        let maps: Vec<_> = schemas.iter().filter_map(|schema| self.document.map(*schema)).collect();
        if types.overlaps(Types::OBJECT) {
            alternatives.push(vec![Symbol::Rule(self.objects(schemas)?)]);
        }
        if types.overlaps(Types::ARRAY) {
            alternatives.push(vec![Symbol::Rule(self.arrays(schemas)?)]);
        }
        if types.overlaps(Types::STRING) {
            scalars.extend(self.strings(&maps, Reading::Every)?);
        }
        if types.overlaps(Types::NUMBER) {
            let integer = !types.overlaps(Types::FRACTION);
            match NumberRange::new(integer, &maps)?.numbers()? {
                None => {}
                Some(Numbers::Regex(text)) => scalars.push(Expression::Regex(text)),
                Some(Numbers::Multiples(schema)) => {
                    alternatives.push(vec![Symbol::Rule(self.rules.schema(schema)?)]);
                }
            }
        }
        if types.overlaps(Types::BOOLEAN) {
            scalars.push(Expression::Regex("(?:true|false)".to_owned()));
        }
        if types.overlaps(Types::NULL) {
            scalars.push(Expression::Regex("null".to_owned()));
        }
        Ok(())
    }

    /// An array or an object that a schema lists.
    fn constant(&mut self, value: &Value) -> Result<RuleId, GrammarError> {
        self.spend(1)?;
        let [comma, colon] = [",", ":"].map(|mark| Symbol::Lexeme(self.rules.mark(mark)));
        let (open, close) = if value.is_array() { ("[", "]") } else { ("{", "}") };
        let mut symbols = vec![Symbol::Lexeme(self.rules.mark(open))];
        let names =
            value.as_object().into_iter().flatten().map(|(name, value)| (Some(name), value));
        let items = value.as_array().into_iter().flatten().map(|value| (None, value));
        for (index, (name, value)) in names.chain(items).enumerate() {
            if index > 0 {
                symbols.push(comma.clone());
            }
            if let Some(name) = name.and_then(|name| scalar(&Value::from(name.as_str()))) {
                symbols.push(Symbol::Lexeme(self.rules.lexeme(&Expression::literal(&name))));
                symbols.push(colon.clone());
            }
            symbols.push(match scalar(value) {
                Some(text) => Symbol::Lexeme(self.rules.lexeme(&Expression::literal(&text))),
                None => Symbol::Rule(self.constant(value)?),
            });
        }
        symbols.push(Symbol::Lexeme(self.rules.mark(close)));
        self.rules.rule(vec![symbols])
    }

    /// Whether a goal is the one that nothing satisfies.
    pub(super) fn is_forbidden(&self, goal: &Goal) -> bool {
        goal.key().iter().any(|schema| *self.document.get(*schema) == Value::Bool(false))
    }

    /// Whether no value satisfies a goal, in any reading of its patterns, as far as can be seen without
    /// looking far.
    ///
    /// # Errors
    /// Where a keyword is malformed or not supported.
    pub(super) fn is_impossible(
        &mut self,
        goal: &Goal,
        depth: usize,
    ) -> Result<bool, GrammarError> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        for schemas in self.alternatives(goal)? {
            if !self.is_conjunction_impossible(&schemas, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_conjunction_impossible(
        &mut self,
        schemas: &Conjunction,
        depth: usize,
    ) -> Result<bool, GrammarError> {
        if let Some(values) = self.listed(schemas, Reading::Any)? {
            return Ok(values.is_empty());
        }
        let types = self.types(schemas)?;
        let maps: Vec<_> = schemas.iter().filter_map(|schema| self.document.map(*schema)).collect();
        if types.overlaps(Types::NULL) || types.overlaps(Types::BOOLEAN) {
            return Ok(false);
        }
        if types.overlaps(Types::NUMBER) {
            let range = NumberRange::new(!types.overlaps(Types::FRACTION), &maps)?;
            if !matches!(range.numbers(), Ok(None)) {
                return Ok(false);
            }
        }
        if types.overlaps(Types::STRING) && self.strings(&maps, Reading::Any)?.is_some() {
            return Ok(false);
        }
        Ok((!types.overlaps(Types::ARRAY) || self.is_array_impossible(schemas, depth)?)
            && (!types.overlaps(Types::OBJECT) || self.is_object_impossible(schemas, depth)?))
    }
}
