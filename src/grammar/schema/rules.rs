//! A grammar as rules over lexemes, rid of what can never end, and written in llguidance's dialect of
//! Lark.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::expression::Expression;
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Symbols of all rules.
const MAX_SYMBOLS: usize = 60_000;
/// White space at each place where JSON allows some: a space, or a line break and an indentation.
/// Bounded, so that a text cannot go on in blanks for ever.
const WHITESPACE: &str = r"\x20|\n[\x20\x09]{0,64}";

/// Names a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RuleId(usize);

/// Names a lexeme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LexemeId(usize);

/// A part of an alternative of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Symbol {
    Lexeme(LexemeId),
    Rule(RuleId),
    /// A rule's texts one behind the other, `between` each two of them; at least one.
    Many {
        item: RuleId,
        between: LexemeId,
        least: u32,
        most: Option<u32>,
    },
}

/// All rules; the first is the start.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Vec<Vec<Symbol>>>,
    lexemes: Vec<String>,
    by_text: HashMap<String, LexemeId>,
    num_symbols: usize,
}

impl Rules {
    /// A rule without alternatives yet: as long as it has none, it matches nothing.
    pub(super) fn declare(&mut self) -> RuleId {
        self.rules.push(Vec::new());
        RuleId(self.rules.len() - 1)
    }

    /// # Errors
    /// Where there are too many symbols.
    pub(super) fn define(
        &mut self,
        rule: RuleId,
        alternatives: Vec<Vec<Symbol>>,
    ) -> Result<(), GrammarError> {
        self.num_symbols += alternatives.iter().map(|symbols| symbols.len() + 1).sum::<usize>();
        limits::check_count("symbols once it is a grammar", self.num_symbols, MAX_SYMBOLS)?;
        self.rules[rule.0] = alternatives;
        Ok(())
    }

    /// A new rule.
    ///
    /// # Errors
    /// As [`Self::define`].
    pub(super) fn rule(&mut self, alternatives: Vec<Vec<Symbol>>) -> Result<RuleId, GrammarError> {
        let rule = self.declare();
        self.define(rule, alternatives)?;
        Ok(rule)
    }

    /// A lexeme of these texts.
    pub(super) fn lexeme(&mut self, expression: &Expression) -> LexemeId {
        self.named(expression.lark())
    }

    /// Punctuation.
    pub(super) fn mark(&mut self, text: &str) -> LexemeId {
        self.named(Value::from(text).to_string())
    }

    fn named(&mut self, definition: String) -> LexemeId {
        let next = LexemeId(self.lexemes.len());
        let id = *self.by_text.entry(definition.clone()).or_insert(next);
        if id == next {
            self.lexemes.push(definition);
        }
        id
    }

    /// What the parser makes of a schema of its own.
    pub(super) fn schema(&mut self, mut schema: Value) -> Result<RuleId, GrammarError> {
        schema["x-guidance"] = json!({"whitespace_pattern": WHITESPACE});
        // A lexeme in the text, though not to the parser.
        let lexeme = self.named(format!("%json {schema}"));
        self.rule(vec![vec![Symbol::Lexeme(lexeme)]])
    }

    /// Removes whatever cannot end: what is left can be finished from everywhere. False where nothing
    /// is left.
    pub(super) fn prune(&mut self) -> bool {
        let mut finite = vec![false; self.rules.len()];
        loop {
            let mut changed = false;
            // What a rule is made of mostly comes behind it.
            for (index, alternatives) in self.rules.iter().enumerate().rev() {
                let ends =
                    |symbols: &Vec<Symbol>| symbols.iter().all(|symbol| symbol.ends(&finite));
                if !finite[index] && alternatives.iter().any(ends) {
                    finite[index] = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        for alternatives in &mut self.rules {
            alternatives.retain(|symbols| symbols.iter().all(|symbol| symbol.ends(&finite)));
        }
        finite.first() == Some(&true)
    }

    /// The grammar's text.
    pub(super) fn lark(&self) -> String {
        let mut text =
            format!("%llguidance {{\"ignore_once\": true}}\n%ignore /{WHITESPACE}/\nstart: r0\n");
        let (mut seen, mut stack) = (vec![false; self.rules.len()], vec![RuleId(0)]);
        let mut used = vec![false; self.lexemes.len()];
        while let Some(rule) = stack.pop() {
            if std::mem::replace(&mut seen[rule.0], true) {
                continue;
            }
            let alternatives = &self.rules[rule.0];
            let texts: Vec<String> =
                alternatives.iter().map(|symbols| self.sequence(symbols)).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "r{}: {}", rule.0, texts.join(" | "));
            for symbol in alternatives.iter().flatten().rev() {
                match symbol {
                    Symbol::Rule(rule) => stack.push(*rule),
                    Symbol::Lexeme(lexeme) => used[lexeme.0] = true,
                    Symbol::Many { item, between, .. } => {
                        stack.push(*item);
                        used[between.0] = true;
                    }
                }
            }
        }
        for (index, definition) in self.lexemes.iter().enumerate() {
            if used[index] && !definition.starts_with('%') {
                let _ = writeln!(text, "L{index}: {definition}");
            }
        }
        text
    }

    fn sequence(&self, symbols: &[Symbol]) -> String {
        let symbol = |symbol: &Symbol| match symbol {
            Symbol::Rule(rule) => format!("r{}", rule.0),
            Symbol::Lexeme(lexeme) if self.lexemes[lexeme.0].starts_with('%') => {
                self.lexemes[lexeme.0].clone()
            }
            Symbol::Lexeme(lexeme) => format!("L{}", lexeme.0),
            Symbol::Many { item: RuleId(item), between: LexemeId(between), least, most } => {
                let before = match (least.saturating_sub(1), most) {
                    (_, Some(1)) => String::new(),
                    (0, None) => format!("(r{item} L{between})* "),
                    (least, None) => format!("(r{item} L{between}){{{least},}} "),
                    (least, Some(most)) => format!("(r{item} L{between}){{{least},{}}} ", most - 1),
                };
                format!("{before}r{item}")
            }
        };
        if symbols.is_empty() {
            return "\"\"".to_owned();
        }
        symbols.iter().map(symbol).collect::<Vec<_>>().join(" ")
    }
}

impl Symbol {
    fn ends(&self, finite: &[bool]) -> bool {
        match self {
            Self::Lexeme(_) => true,
            Self::Rule(rule) | Self::Many { item: rule, .. } => finite[rule.0],
        }
    }
}
