//! A `pattern` of a JSON schema, in the dialect of ECMA-262: parsed, and turned into the set of all
//! strings in which it is found.
//!
//! Readers differ: to some `\d` is ten digits, to others every digit of Unicode, and `$` may stand before a
//! last line break. So there are two sets: what every reader finds the pattern in, and what any does. Texts
//! are written from the first; where a pattern must *not* be found, the second is left out.

mod parser;

use regex_syntax::hir::ClassUnicode;

use self::parser::parse;
use super::expression::Expression;
use super::spelling::{ANY_CHARACTER, CHARACTER, spell_set};
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Parts that an expression may have once what follows an alternative is written behind each.
const MAX_PARTS: usize = 4096;

/// Whose reading of patterns counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// What every reader finds: what a text is made of.
    Every,
    /// What any reader finds: what is ruled out where a text must not be found.
    Any,
}

/// The strings in which a pattern is found, between quotation marks; `None` for no string.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// By every reader.
    pub(super) surely: Option<Expression>,
    /// By any reader.
    pub(super) perhaps: Option<Expression>,
}

impl Pattern {
    /// # Errors
    /// Where it is malformed, too large, or asks for what is not supported.
    pub(super) fn new(text: &str) -> Result<Self, GrammarError> {
        limits::check_regex_bytes(text)?;
        let read = |wide: bool| -> Result<Option<Expression>, GrammarError> {
            let node = parse(text, wide)?;
            limits::check_count("look-aheads", node.num_look_aheads(), limits::MAX_CONJUNCTS)?;
            let mut translation = Translation { parts: 0 };
            let found = translation.search(&node, wide)?.map(Expression::quoted);
            found.as_ref().map_or(Ok(()), Expression::check)?;
            Ok(found)
        };
        Ok(Self { surely: read(false)?, perhaps: read(true)? })
    }

    /// The strings in which it is found.
    pub(super) fn read_by(&self, reading: Reading) -> Option<&Expression> {
        match reading {
            Reading::Every => self.surely.as_ref(),
            Reading::Any => self.perhaps.as_ref(),
        }
    }
}

/// A part of a pattern.
#[derive(Debug, Clone)]
enum Node {
    /// One character of a set.
    Set(ClassUnicode),
    Concat(Vec<Node>),
    Alternation(Vec<Node>),
    Repeat {
        inner: Box<Node>,
        least: u32,
        most: Option<u32>,
    },
    /// `^`
    Start,
    /// `$`
    End,
    /// What follows begins so, or does not.
    LookAhead {
        inner: Box<Node>,
        negative: bool,
    },
}

impl Node {
    fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        is(self)
            || match self {
                Self::Concat(nodes) | Self::Alternation(nodes) => nodes.iter().any(|n| n.any(is)),
                Self::Repeat { inner, .. } | Self::LookAhead { inner, .. } => inner.any(is),
                Self::Set(_) | Self::Start | Self::End => false,
            }
    }

    /// Whether it says something about what is around it.
    fn asserts(&self) -> bool {
        self.any(&|node| matches!(node, Self::Start | Self::End | Self::LookAhead { .. }))
    }

    fn num_look_aheads(&self) -> usize {
        match self {
            Self::Concat(nodes) | Self::Alternation(nodes) => {
                nodes.iter().map(Self::num_look_aheads).sum()
            }
            Self::Repeat { inner, .. } => inner.num_look_aheads(),
            Self::LookAhead { inner, .. } => 1 + inner.num_look_aheads(),
            Self::Set(_) | Self::Start | Self::End => 0,
        }
    }

    fn has_start(&self) -> bool {
        self.any(&|node| matches!(node, Self::Start))
    }

    fn is_zero_width(&self) -> bool {
        matches!(self, Self::Start | Self::End | Self::LookAhead { .. })
    }

    fn is_nullable(&self) -> bool {
        match self {
            Self::Set(_) => false,
            Self::Concat(nodes) => nodes.iter().all(Self::is_nullable),
            Self::Alternation(nodes) => nodes.iter().any(Self::is_nullable),
            Self::Repeat { inner, least, .. } => *least == 0 || inner.is_nullable(),
            Self::Start | Self::End | Self::LookAhead { .. } => true,
        }
    }
}

/// Where a part is looked for.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Nothing precedes it.
    start: bool,
    /// Any reader's reading counts, not only that of all.
    wide: bool,
}

/// What may follow a part, to the end of the string.
#[derive(Debug, Clone)]
enum Rest {
    /// Anything.
    Anything,
    /// One of these.
    Of(Expression),
}

/// From nodes to expressions: each part together with all that follows it, so that what is said about
/// what follows can be an intersection.
struct Translation {
    parts: usize,
}

type Translated = Result<Option<Expression>, GrammarError>;

fn unsupported(what: &str) -> GrammarError {
    GrammarError::Unsupported(format!("{what} in a pattern is not supported"))
}

impl Translation {
    /// The strings in which `node` is found.
    fn search(&mut self, node: &Node, wide: bool) -> Translated {
        if !node.has_start() {
            let found = self.follow(node, &Rest::Anything, Place { start: false, wide })?;
            return Ok(found.map(|found| found.after(&anything(wide))));
        }
        let at_start = self.follow(node, &Rest::Anything, Place { start: true, wide })?;
        let later = self.follow(node, &Rest::Anything, Place { start: false, wide })?;
        let later = later.map(|later| later.after(&format!("{}+", character(wide))));
        Ok(Expression::any(at_start.into_iter().chain(later).collect()))
    }

    /// `node` and `rest` behind it; `None` where that is impossible.
    fn follow(&mut self, node: &Node, rest: &Rest, at: Place) -> Translated {
        let Place { start, wide } = at;
        self.parts += 1;
        limits::check_count("parts of a pattern", self.parts, MAX_PARTS)?;
        if !node.asserts() {
            let Some(text) = plain(node, wide) else { return Ok(None) };
            return Ok(Some(rest.expression(wide).after(&text)));
        }
        match node {
            Node::Start if start => Ok(Some(rest.expression(wide))),
            Node::Start => Ok(None),
            Node::End => Ok(Some(rest.at_end(wide))),
            Node::Concat(nodes) => self.follow_all(nodes, rest, at),
            Node::Alternation(nodes) => {
                let mut options = Vec::new();
                for node in nodes {
                    options.extend(self.follow(node, rest, at)?);
                }
                Ok(Expression::any(options))
            }
            Node::Repeat { inner, least, most: Some(1) } => {
                let once = self.follow(inner, rest, at)?;
                let never = (*least == 0).then(|| rest.expression(wide));
                Ok(Expression::any(once.into_iter().chain(never).collect()))
            }
            Node::Repeat { .. } => Err(unsupported("an anchor or look-around that is repeated")),
            Node::LookAhead { inner, negative } => {
                let ahead =
                    self.follow(inner, &Rest::Anything, Place { start, wide: wide != *negative })?;
                Ok(with_ahead(rest.expression(wide), ahead, *negative))
            }
            Node::Set(_) => unreachable!("bug: a set asserts nothing"),
        }
    }

    fn follow_all(&mut self, nodes: &[Node], rest: &Rest, at: Place) -> Translated {
        let Place { start, wide } = at;
        let Some((first, others)) = nodes.split_first() else {
            return Ok(Some(rest.expression(wide)));
        };
        let starts_later = start && !first.is_zero_width() && others.iter().any(Node::has_start);
        let behind =
            self.follow_all(others, rest, Place { start: start && first.is_zero_width(), wide })?;
        let whole = match behind {
            Some(behind) => self.follow(first, &Rest::Of(behind), at)?,
            None => None,
        };
        if !starts_later || !first.is_nullable() {
            return Ok(whole);
        }
        if first.asserts() {
            return Err(unsupported("a second anchor behind an optional one"));
        }
        // The first part may be empty, so that the next one is at the start.
        let without = self.follow_all(others, rest, Place { start: true, wide })?;
        Ok(Expression::any(whole.into_iter().chain(without).collect()))
    }
}

impl Rest {
    fn expression(&self, wide: bool) -> Expression {
        match self {
            Self::Anything => Expression::Regex(anything(wide)),
            Self::Of(expression) => expression.clone(),
        }
    }

    /// The part of it that is the end of the string.
    fn at_end(&self, wide: bool) -> Expression {
        let end = Expression::Regex(if wide { r"(?:\\n)?" } else { "" }.to_owned());
        match self {
            Self::Anything => end,
            Self::Of(Expression::Regex(text)) if text.is_empty() => {
                Expression::Regex(String::new())
            }
            Self::Of(expression) => Expression::And(vec![expression.clone(), end]),
        }
    }
}

/// The part of `rest` that begins with what was found ahead, or of a negative look-ahead, does not.
fn with_ahead(rest: Expression, ahead: Option<Expression>, negative: bool) -> Option<Expression> {
    match (ahead, negative) {
        (None, true) => Some(rest),
        (None, false) => None,
        (Some(ahead), true) => Some(Expression::And(vec![rest, Expression::Not(Box::new(ahead))])),
        (Some(ahead), false) => Some(Expression::And(vec![rest, ahead])),
    }
}

fn character(wide: bool) -> &'static str {
    if wide { ANY_CHARACTER } else { CHARACTER }
}

fn anything(wide: bool) -> String {
    format!("{}*", character(wide))
}

/// A part that asserts nothing as a regular expression; `None` where it matches nothing.
fn plain(node: &Node, wide: bool) -> Option<String> {
    match node {
        Node::Set(set) => spell_set(set, wide),
        Node::Concat(nodes) => nodes.iter().map(|node| plain(node, wide)).collect(),
        Node::Alternation(nodes) => {
            let options: Vec<String> = nodes.iter().filter_map(|node| plain(node, wide)).collect();
            (!options.is_empty()).then(|| format!("(?:{})", options.join("|")))
        }
        Node::Repeat { inner, least, most } => {
            let Some(text) = plain(inner, wide) else {
                return (*least == 0).then(String::new);
            };
            let most = most.map_or_else(String::new, |most| most.to_string());
            Some(format!("(?:{text}){{{least},{most}}}"))
        }
        Node::Start | Node::End | Node::LookAhead { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::spelling::spell;
    use super::*;

    fn is_found(expression: Option<&Expression>, text: &str) -> bool {
        let quoted = format!("\"{}\"", spell(text));
        expression.is_some_and(|it| it.automaton().unwrap().is_match(&quoted))
    }

    /// Patterns with texts in which everybody finds them, and texts in which nobody does.
    #[test]
    fn look_aheads_are_what_follows() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            // A password: an upper-case letter, a digit and a sign, at least 8 in all.
            (
                r"^(?=.*[A-Z])(?=.*\d)(?=.*[@$!%*?&])[A-Za-z\d@$!%*?&]{8,}$",
                &["Passw0rd!", "!!!!!!A1", "1A$aaaaaaaa"],
                &["password", "Passw0rd", "PASSWORD!", "Pa0!", "Passw0rd! "],
            ),
            (r"^(?!foo)", &["", "bar foo", "oofoo"], &["foo", "foobar"]),
            (r"^(?!foo$)[a-z]*$", &["foobar", "food", ""], &["foo", "Foo"]),
            (r"^(?!-)(?!.*--)[a-z-]*[a-z]$", &["a", "a-b-c"], &["-a", "a--b", "a-"]),
            (r"^[a-z]+(?=\d$)[\da-z]+$", &["a1", "abc9"], &["a", "a12", "1", "ab"]),
            (r"a(?!b)", &["a", "ac", "abac"], &["", "ab", "abab"]),
            (r"a(?=b|$)", &["a", "ab", "ca"], &["ac", "b"]),
            (r"^(?:(?!0{4})[0-9a-f]{4}|x)$", &["0001", "abcd", "x"], &["0000", "00000"]),
            // What pydantic writes of a `Decimal`.
            (
                r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
                &["0", "-1.5", "+.5", "007"],
                &["", "-", ".", "+.", "1e5", "1.2.3"],
            ),
            // What zod writes of an e-mail address.
            (
                r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
                &["a@b.cd", "a.b+c@x-y.org"],
                &[".a@b.cd", "a..b@c.de", "a@b", "a.@b.cd"],
            ),
        ];
        for (pattern, right, wrong) in cases {
            let Ok(read) = Pattern::new(pattern) else {
                assert!(right.is_empty(), "{pattern} is refused");
                continue;
            };
            for text in *right {
                assert!(is_found(read.surely.as_ref(), text), "{pattern}: {text}");
                assert!(is_found(read.perhaps.as_ref(), text), "{pattern}: {text}");
            }
            for text in *wrong {
                assert!(!is_found(read.surely.as_ref(), text), "{pattern}: {text}");
                assert!(!is_found(read.perhaps.as_ref(), text), "{pattern}: {text}");
            }
        }
    }

    /// Patterns with texts in which only some readers find them.
    #[test]
    fn where_readers_differ_a_text_is_what_all_accept() {
        for (pattern, text) in [
            (r"^\d$", "٣"),
            (r"^\D$", "٣"),
            (r"^\w$", "é"),
            (r"^[^\w]$", "é"),
            (r"^\s$", "\u{85}"),
            (r"^(?!\d)", "٣"),
            (r"^(?!\D)", "٣"),
            (r"^a$", "a\n"),
            (r"^(?!a$)", "a\n"),
            (r"^.$", "\r"),
            // The kelvin sign is a `k` to readers that fold all of Unicode.
            ("(?i)^k$", "\u{212a}"),
            ("(?i)^[^k]$", "\u{212a}"),
            ("(?i)^(?!k)", "\u{212a}"),
        ] {
            let read = Pattern::new(pattern).unwrap();
            assert!(!is_found(read.surely.as_ref(), text), "{pattern}");
            assert!(is_found(read.perhaps.as_ref(), text), "{pattern}");
        }
        for (pattern, text) in [("(?i)^[^k]$", "K"), ("(?i)^[^a-k]$", "B"), (r"^(?!\w)", "é1")] {
            assert!(!is_found(Pattern::new(pattern).unwrap().surely.as_ref(), text), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_look_ahead_is_refused_by_name() {
        for (pattern, name) in [
            ("(?<=a)b", "a look-behind"),
            ("(?<!a)b", "a look-behind"),
            ("^(.)\\1$", "a back reference"),
            ("\\bword\\b", "a word boundary"),
            ("^(?:(?!ab).)*$", "an anchor or look-around that is repeated"),
            ("^(?:(?=a)){9}$", "an anchor or look-around that is repeated"),
        ] {
            let error = Pattern::new(pattern).unwrap_err();
            let expected =
                GrammarError::Unsupported(format!("{name} in a pattern is not supported"));
            assert_eq!(error, expected, "{pattern}");
        }
        let many = format!("^{}", "(?=a)".repeat(9));
        assert!(matches!(Pattern::new(&many), Err(GrammarError::TooLarge { .. })));
    }
}
