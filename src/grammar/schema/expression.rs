//! Regular expressions with intersection and complement: what a lexeme of a grammar may be.

use llguidance::derivre::{Regex, RegexAst, RegexBuilder};

use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Work to find out whether an expression matches anything.
const FUEL: u64 = 200_000;

/// A set of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Those that this expression, in Rust's syntax, matches as a whole. It stands in a sequence as it
    /// is: alternatives are in a group.
    Regex(String),
    /// One text of each behind the other.
    Concat(Vec<Expression>),
    /// Texts of all of these.
    And(Vec<Expression>),
    /// Texts of any of these.
    Or(Vec<Expression>),
    /// All texts but these; only ever beside others in an [`Expression::And`].
    Not(Box<Expression>),
}

impl Expression {
    /// The one text.
    pub(super) fn literal(text: &str) -> Self {
        Self::Regex(regex_syntax::escape(text))
    }

    /// Texts of any of some; `None` where there are none.
    pub(super) fn any(mut options: Vec<Self>) -> Option<Self> {
        let regexes: Vec<&str> = options.iter().filter_map(Self::as_regex).collect();
        if regexes.len() > 1 && regexes.len() == options.len() {
            return Some(Self::Regex(format!("(?:{})", regexes.join("|"))));
        }
        let last = options.pop()?;
        if options.is_empty() {
            return Some(last);
        }
        options.push(last);
        Some(Self::Or(options))
    }

    /// Texts of all of some, of which there is at least one.
    pub(super) fn all(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::And(parts) }
    }

    /// A text of this behind one of `before`.
    pub(super) fn after(self, before: &str) -> Self {
        match self {
            Self::Regex(text) => Self::Regex(format!("{before}{text}")),
            Self::Concat(mut parts) => {
                match parts.first_mut() {
                    Some(Self::Regex(first)) => first.insert_str(0, before),
                    _ => parts.insert(0, Self::Regex(before.to_owned())),
                }
                Self::Concat(parts)
            }
            other => Self::Concat(vec![Self::Regex(before.to_owned()), other]),
        }
    }

    /// The same texts within quotation marks.
    pub(super) fn quoted(self) -> Self {
        let each = |parts: Vec<Self>| parts.into_iter().map(Self::quoted).collect();
        match self {
            Self::Regex(text) => Self::Regex(format!("\"{text}\"")),
            Self::And(parts) => Self::And(each(parts)),
            Self::Or(parts) => Self::Or(each(parts)),
            Self::Not(inner) => Self::Not(Box::new(inner.quoted())),
            Self::Concat(mut parts) => {
                parts.push(Self::Regex("\"".to_owned()));
                Self::Concat(parts).after("\"")
            }
        }
    }

    fn as_regex(&self) -> Option<&str> {
        match self {
            Self::Regex(text) => Some(text),
            _ => None,
        }
    }

    /// In llguidance's dialect of Lark, as the definition of a terminal.
    pub(super) fn lark(&self) -> String {
        let group = |parts: &[Self], between: &str| {
            let parts: Vec<String> = parts.iter().map(Self::lark).collect();
            format!("({})", parts.join(between))
        };
        match self {
            Self::Regex(text) if text.is_empty() => "\"\"".to_owned(),
            Self::Regex(text) => format!("/{}/", llguidance::regex_to_lark(text, "")),
            Self::Concat(parts) => group(parts, " "),
            Self::And(parts) => group(parts, " & "),
            Self::Or(parts) => group(parts, " | "),
            Self::Not(inner) => format!("~({})", inner.lark()),
        }
    }

    fn ast(&self) -> RegexAst {
        let each = |parts: &[Self]| parts.iter().map(Self::ast).collect();
        match self {
            Self::Regex(text) => RegexAst::Regex(text.clone()),
            Self::Concat(parts) => RegexAst::Concat(each(parts)),
            Self::And(parts) => RegexAst::And(each(parts)),
            Self::Or(parts) => RegexAst::Or(each(parts)),
            Self::Not(inner) => RegexAst::Not(Box::new(inner.ast())),
        }
    }

    /// # Errors
    /// Where one of its expressions is too large.
    pub(super) fn check(&self) -> Result<(), GrammarError> {
        match self {
            Self::Regex(text) => limits::check_regex(text),
            Self::Concat(parts) | Self::And(parts) | Self::Or(parts) => {
                parts.iter().try_for_each(Self::check)
            }
            Self::Not(inner) => inner.check(),
        }
    }

    /// An automaton that says which texts it has.
    ///
    /// # Errors
    /// Where it is too large.
    pub(super) fn automaton(&self) -> Result<Regex, GrammarError> {
        let unknown = |_| {
            let reason = "it is too large, alone or with what else its text must obey";
            GrammarError::Regex(reason.to_owned())
        };
        let mut builder = RegexBuilder::new();
        let expression = builder.mk(&self.ast()).map_err(unknown)?;
        builder.into_regex_limited(expression, FUEL).map_err(unknown)
    }

    /// Whether it matches nothing.
    ///
    /// # Errors
    /// Where that is too much to find out.
    pub(super) fn is_empty(&self) -> Result<bool, GrammarError> {
        Ok(self.automaton()?.always_empty())
    }
}
