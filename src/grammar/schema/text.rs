//! The strings that a JSON schema allows.

use std::cell::RefCell;
use std::rc::Rc;

use llguidance::derivre::Regex;
use serde_json::{Map, Value};

use super::expression::Expression;
use super::format;
use super::lowering::Lowering;
use super::pattern::{Pattern, Reading};
use super::spelling::{ANY_CHARACTER, CHARACTER, spell};
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Characters that can be asked for. Each is a state of the automaton that counts them.
const MAX_LENGTH: u64 = 20_000;
/// Work that reading a pattern is reckoned as.
const PATTERN_WORK: usize = 2000;

/// A whole number, from 0 on, under a keyword.
///
/// # Errors
/// Where it is none.
pub(super) fn whole(map: &Map<String, Value>, keyword: &str) -> Result<Option<u64>, GrammarError> {
    let Some(value) = map.get(keyword) else { return Ok(None) };
    let number = match value {
        Value::Number(number) => super::decimal::Decimal::new(number),
        _ => return Err(not_whole(keyword)),
    };
    if !number.is_integer() || number < super::decimal::Decimal::integer(0) {
        return Err(not_whole(keyword));
    }
    let (value, _) = number.scaled(0);
    Ok(Some(u64::try_from(value).unwrap_or(u64::MAX)))
}

fn not_whole(keyword: &str) -> GrammarError {
    GrammarError::Invalid(format!("`{keyword}` must be a whole number, not below 0"))
}

/// The bounds of some schemas on a string's length.
///
/// # Errors
/// Where one is no whole number.
pub(super) fn length_bounds(
    schemas: &[&Map<String, Value>],
) -> Result<(u64, Option<u64>), GrammarError> {
    let (mut least, mut most) = (0, None::<u64>);
    for map in schemas {
        least = least.max(whole(map, "minLength")?.unwrap_or(0));
        if let Some(bound) = whole(map, "maxLength")? {
            most = Some(most.map_or(bound, |most| most.min(bound)));
        }
    }
    Ok((least, most))
}

/// A pattern and what says which names and values it is found in.
pub(super) struct ReadPattern {
    pub(super) pattern: Pattern,
    surely: RefCell<Option<Regex>>,
    perhaps: RefCell<Option<Regex>>,
}

impl ReadPattern {
    fn new(text: &str) -> Result<Self, GrammarError> {
        let pattern = Pattern::new(text)?;
        let automaton = |expression: &Option<Expression>| {
            expression.as_ref().map(Expression::automaton).transpose().map(RefCell::new)
        };
        let (surely, perhaps) = (automaton(&pattern.surely)?, automaton(&pattern.perhaps)?);
        Ok(Self { pattern, surely, perhaps })
    }

    /// Whether it is found in a text.
    pub(super) fn matches(&self, text: &str, reading: Reading) -> bool {
        let automaton = match reading {
            Reading::Every => &self.surely,
            Reading::Any => &self.perhaps,
        };
        let quoted = format!("\"{}\"", spell(text));
        automaton.borrow_mut().as_mut().is_some_and(|automaton| automaton.is_match(&quoted))
    }
}

impl Lowering<'_> {
    /// A pattern, which is read once.
    ///
    /// # Errors
    /// Where it is malformed, too large or not supported.
    pub(super) fn pattern(&mut self, text: &str) -> Result<Rc<ReadPattern>, GrammarError> {
        if let Some(read) = self.patterns.get(text) {
            return Ok(Rc::clone(read));
        }
        self.spend(PATTERN_WORK)?;
        let read = Rc::new(ReadPattern::new(text)?);
        self.patterns.insert(text.to_owned(), Rc::clone(&read));
        Ok(read)
    }

    /// The strings that satisfy every one of some schemas, as they are written; `None` where there are
    /// none.
    ///
    /// # Errors
    /// Where a keyword is malformed, or too large.
    pub(super) fn strings(
        &mut self,
        schemas: &[&Map<String, Value>],
        reading: Reading,
    ) -> Result<Option<Expression>, GrammarError> {
        let (least, most) = length_bounds(schemas)?;
        if most.is_some_and(|most| least > most) {
            return Ok(None);
        }
        if least > MAX_LENGTH {
            let message = format!("`minLength` is supported up to {MAX_LENGTH}");
            return Err(GrammarError::Unsupported(message));
        }
        let mut parts = Vec::new();
        for map in schemas {
            match map.get("pattern") {
                None => {}
                Some(Value::String(text)) => match self.pattern(text)?.pattern.read_by(reading) {
                    Some(expression) => parts.push(expression.clone()),
                    None => return Ok(None),
                },
                Some(_) => {
                    return Err(GrammarError::Invalid("`pattern` must be a string".to_owned()));
                }
            }
            if let Some(name) = map.get("format") {
                let Value::String(name) = name else {
                    return Err(GrammarError::Invalid("`format` must be a string".to_owned()));
                };
                parts.extend(format::expression(name).map(|text| Expression::Regex(text).quoted()));
            }
        }
        let counts = least > 0 || most.is_some();
        if counts || parts.is_empty() {
            let plain = parts.is_empty() && reading == Reading::Every;
            let character = if plain { CHARACTER } else { ANY_CHARACTER };
            let most = most.map(|most| most.min(MAX_LENGTH).to_string());
            let bounds = if counts {
                format!("{{{least},{}}}", most.unwrap_or_default())
            } else {
                "*".to_owned()
            };
            parts.push(Expression::Regex(format!("\"{character}{bounds}\"")));
        }
        parts.dedup();
        limits::check_count("patterns of one string", parts.len(), limits::MAX_CONJUNCTS)?;
        let simple = parts.len() == 1 && matches!(parts[0], Expression::Regex(_));
        let expression = Expression::all(parts);
        if !simple {
            self.spend(PATTERN_WORK)?;
            if expression.is_empty()? {
                return Ok(None);
            }
        }
        Ok(Some(expression))
    }
}
