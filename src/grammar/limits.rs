//! What a specification may cost, found out before any of it is compiled.
//!
//! A stack that overflows cannot be caught, so depth is bounded here, and the compiler runs on a
//! stack that everything within these bounds fits.

use llguidance::api::ParserLimits;
use serde_json::Value;

use super::error::GrammarError;

/// Bytes of a schema, grammar, or all strings of a choice.
const MAX_BYTES: usize = 128 << 10;
/// Bytes of a regular expression.
const MAX_REGEX_BYTES: usize = 16 << 10;
/// Bytes that a compiled regular expression may take; repetitions multiply.
const MAX_COMPILED_REGEX_BYTES: usize = 4 << 20;
/// Levels of a JSON schema.
const MAX_DEPTH: usize = 64;
/// Values in a JSON schema.
pub(super) const MAX_VALUES: usize = 8 << 10;
/// Strings of a choice.
pub(super) const MAX_CHOICES: usize = 4 << 10;
/// Schemas in a grammar.
pub(super) const MAX_SCHEMAS: usize = 256;
/// A run of one prefix operator: each is a call of the parser's.
const MAX_PREFIX_RUN: usize = 64;
/// Things that must be true of one string at once: the work for it doubles with each.
pub(super) const MAX_CONJUNCTS: usize = 8;

/// The parser's own limits: what one mask may cost in time (some tens of milliseconds at most), and
/// one text in memory. Every schema and choice within the limits above needs less.
pub(super) fn parser() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 16_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 1_000_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// # Errors
/// Where there are more than `limit`.
pub(super) fn check_count(
    what: &'static str,
    found: usize,
    limit: usize,
) -> Result<(), GrammarError> {
    if found <= limit { Ok(()) } else { Err(GrammarError::TooLarge { what, found, limit }) }
}

/// # Errors
/// Where a specification is too long.
pub(super) fn check_bytes(bytes: usize) -> Result<(), GrammarError> {
    check_count("bytes", bytes, MAX_BYTES)
}

/// # Errors
/// Where a regular expression is too long.
pub(super) fn check_regex_bytes(text: &str) -> Result<(), GrammarError> {
    check_count("bytes", text.len(), MAX_REGEX_BYTES)
}

/// # Errors
/// Where a regular expression is none, or too large once its repetitions are written out.
pub(super) fn check_regex(text: &str) -> Result<(), GrammarError> {
    let compiled = regex::RegexBuilder::new(text).size_limit(MAX_COMPILED_REGEX_BYTES).build();
    let reason = match compiled {
        Ok(_) => return Ok(()),
        // Its last line is the reason; those above repeat the expression.
        Err(regex::Error::Syntax(text)) => {
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
        Err(_) => "it is too large once its repetitions are written out".to_owned(),
    };
    Err(GrammarError::Regex(reason))
}

/// # Errors
/// Where a Lark grammar is too long or nests operators too deeply. It has a limit on brackets
/// itself.
pub(super) fn check_lark(text: &str) -> Result<(), GrammarError> {
    check_bytes(text.len())?;
    let mut run = 0;
    for byte in text.bytes() {
        match byte {
            b'~' | b'!' => run += 1,
            byte if byte.is_ascii_whitespace() => {}
            _ => run = 0,
        }
        check_count("negations in a row", run, MAX_PREFIX_RUN)?;
    }
    Ok(())
}

/// # Errors
/// Where a JSON value is too deep, has too many values in it, or is too long.
pub(super) fn check_json(value: &Value) -> Result<(), GrammarError> {
    let mut stack = vec![(value, 1)];
    let (mut values, mut bytes) = (0, 0);
    while let Some((value, depth)) = stack.pop() {
        values += 1;
        check_count("levels", depth, MAX_DEPTH)?;
        check_count("values", values, MAX_VALUES)?;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                stack.extend(map.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
        check_bytes(bytes)?;
    }
    Ok(())
}
