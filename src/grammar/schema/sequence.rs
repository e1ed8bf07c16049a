//! Elements that come in one order, some of which may be left out, with commas between those that are
//! there.

use super::lowering::Lowering;
use super::rules::{RuleId, Symbol};
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Rules of a sequence whose elements are counted.
const MAX_COUNTED: usize = 20_000;

/// Elements beyond which nobody counts: no text is as long.
const MAX_NOTICED: u64 = 1_000_000;

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) symbols: Vec<Symbol>,
    pub(super) required: bool,
}

/// A sequence: elements, and behind them any number of a last kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    pub(super) elements: Vec<Element>,
    pub(super) more: Option<RuleId>,
    /// How many there may be, in all.
    pub(super) least: u64,
    pub(super) most: Option<u64>,
}

/// A part of a sequence that is there.
struct Part {
    symbols: Vec<Symbol>,
    /// Whether it may as well not be there.
    nullable: bool,
}

impl Lowering<'_> {
    /// Alternatives for a sequence between two marks.
    ///
    /// # Errors
    /// Where that takes too many rules.
    pub(super) fn sequence(
        &mut self,
        sequence: Sequence,
        marks: (&str, &str),
    ) -> Result<RuleId, GrammarError> {
        let (open, close) = (self.rules.mark(marks.0), self.rules.mark(marks.1));
        let enclosed = |symbols: Vec<Symbol>| {
            let inner = symbols.into_iter();
            [Symbol::Lexeme(open)].into_iter().chain(inner).chain([Symbol::Lexeme(close)]).collect()
        };
        let required = sequence.elements.iter().filter(|element| element.required).count() as u64;
        let most = sequence.most.filter(|most| *most <= MAX_NOTICED);
        let sequence = Sequence { most, ..sequence };
        if sequence.least > required || sequence.most.is_some() {
            let inner = self.counted(&sequence)?;
            return self.rules.rule(vec![enclosed(vec![Symbol::Rule(inner)])]);
        }
        let mut parts: Vec<Part> = sequence.elements.into_iter().map(Part::from).collect();
        if let Some(item) = sequence.more {
            let between = self.rules.mark(",");
            let symbols = vec![Symbol::Many { item, between, least: 1, most: None }];
            parts.push(Part { symbols, nullable: true });
        }
        // In pairs, and pairs of pairs: what may come next is then found in few steps.
        while parts.len() > 1 {
            let mut next = Vec::with_capacity(parts.len().div_ceil(2));
            let mut rest = parts.into_iter();
            while let Some(left) = rest.next() {
                next.push(match rest.next() {
                    Some(right) => self.join(left, right)?,
                    None => left,
                });
            }
            parts = next;
        }
        let Some(whole) = parts.pop() else {
            return self.rules.rule(vec![enclosed(Vec::new())]);
        };
        let empty = whole.nullable.then(|| enclosed(Vec::new()));
        self.rules.rule([enclosed(whole.symbols)].into_iter().chain(empty).collect())
    }

    fn join(&mut self, left: Part, right: Part) -> Result<Part, GrammarError> {
        let comma = Symbol::Lexeme(self.rules.mark(","));
        let nullable = left.nullable && right.nullable;
        let both = [&left.symbols[..], &[comma], &right.symbols[..]].concat();
        if !left.nullable && !right.nullable {
            return Ok(Part { symbols: both, nullable });
        }
        let mut alternatives = vec![both];
        if right.nullable {
            alternatives.push(left.symbols);
        }
        if left.nullable {
            alternatives.push(right.symbols);
        }
        let rule = self.rules.rule(alternatives)?;
        Ok(Part { symbols: vec![Symbol::Rule(rule)], nullable })
    }

    /// A rule for the elements where their number has bounds: one rule for each element and each number
    /// of those before it that are there.
    fn counted(&mut self, sequence: &Sequence) -> Result<RuleId, GrammarError> {
        let Sequence { elements, more, least, most } = sequence;
        let most = most.filter(|most| more.is_some() || *most < elements.len() as u64);
        // Beyond this, the number is of no interest.
        let last_count = most.unwrap_or(*least).min(elements.len() as u64 + 1);
        let counts = usize::try_from(last_count).unwrap_or(usize::MAX).saturating_add(1);
        let size = counts.saturating_mul(elements.len() + 1);
        limits::check_count("places for counted properties or items", size, MAX_COUNTED)?;
        let comma = Symbol::Lexeme(self.rules.mark(","));
        let mut behind = Vec::with_capacity(counts);
        for count in 0..=last_count {
            behind.push(self.counted_end(*more, count, (*least, most))?);
        }
        for element in elements.iter().rev() {
            let mut before = Vec::with_capacity(counts);
            for count in 0..counts {
                let mut alternatives = Vec::new();
                let next = if most.is_some() { count + 1 } else { (count + 1).min(counts - 1) };
                if let Some(rest) = behind.get(next) {
                    let first = (count > 0).then(|| comma.clone());
                    let there = first.into_iter().chain(element.symbols.iter().cloned());
                    alternatives.push(there.chain([Symbol::Rule(*rest)]).collect());
                }
                if !element.required {
                    alternatives.push(vec![Symbol::Rule(behind[count])]);
                }
                before.push(self.rules.rule(alternatives)?);
            }
            behind = before;
        }
        Ok(behind[0])
    }

    /// What may follow the elements, of which `count` were there.
    fn counted_end(
        &mut self,
        more: Option<RuleId>,
        count: u64,
        (least, most): (u64, Option<u64>),
    ) -> Result<RuleId, GrammarError> {
        let mut alternatives = Vec::new();
        if count >= least {
            alternatives.push(Vec::new());
        }
        let room = most.map(|most| most.saturating_sub(count));
        // Of the last kind two may be the same, which count once.
        if let Some(item) = more
            && least.saturating_sub(count) <= 1
            && room != Some(0)
        {
            let between = self.rules.mark(",");
            let comma = (count > 0).then_some(Symbol::Lexeme(between));
            let most = room.map(|room| u32::try_from(room).unwrap_or(u32::MAX));
            let many = Symbol::Many { item, between, least: 1, most };
            alternatives.push(comma.into_iter().chain([many]).collect());
        }
        self.rules.rule(alternatives)
    }
}

impl From<Element> for Part {
    fn from(element: Element) -> Self {
        Self { symbols: element.symbols, nullable: !element.required }
    }
}
