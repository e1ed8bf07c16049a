//! Parses ECMA-262's regular expressions, as far as they say which strings they are found in.

use std::iter::Peekable;
use std::str::Chars;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::Node;
use crate::grammar::error::GrammarError;
use crate::grammar::limits;

/// Groups within groups.
const MAX_DEPTH: usize = 100;
/// Repetitions of one part.
const MAX_REPETITIONS: u32 = 100_000;

/// # Errors
/// Where it is malformed, or asks for what is not supported.
pub(super) fn parse(text: &str, wide: bool) -> Result<Node, GrammarError> {
    let mut parser =
        Parser { rest: text.chars().peekable(), wide, depth: 0, folds: false, dot_is_all: false };
    parser.flags()?;
    let node = parser.alternation()?;
    match parser.rest.next() {
        None => Ok(node),
        Some(_) => Err(malformed("a `)` has no `(`")),
    }
}

fn malformed(reason: &str) -> GrammarError {
    GrammarError::Regex(reason.to_owned())
}

fn unsupported(what: &str) -> GrammarError {
    GrammarError::Unsupported(format!("{what} in a pattern is not supported"))
}

/// What an escape stands for.
enum Escape {
    Character(char),
    Set(ClassUnicode),
    Node(Node),
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    /// Where readers differ, what any of them accepts; within a negation, what all do.
    wide: bool,
    depth: usize,
    folds: bool,
    dot_is_all: bool,
}

impl Parser<'_> {
    /// `(?i)` and the like at the beginning, which Python has.
    fn flags(&mut self) -> Result<(), GrammarError> {
        let text: String = self.rest.clone().collect();
        let Some((flags, _)) = text.strip_prefix("(?").and_then(|rest| rest.split_once(')')) else {
            return Ok(());
        };
        if flags.is_empty() || !flags.chars().all(|c| c.is_ascii_alphabetic()) {
            return Ok(());
        }
        for flag in flags.chars() {
            match flag {
                'i' => self.folds = true,
                's' => self.dot_is_all = true,
                'u' => {}
                _ => return Err(unsupported(&format!("the flag `{flag}`"))),
            }
        }
        self.rest.by_ref().take(flags.len() + "(?)".len()).for_each(drop);
        Ok(())
    }

    fn eat(&mut self, c: char) -> bool {
        self.rest.next_if_eq(&c).is_some()
    }

    fn alternation(&mut self) -> Result<Node, GrammarError> {
        self.depth += 1;
        limits::check_count("groups within groups of a pattern", self.depth, MAX_DEPTH)?;
        let mut options = vec![self.concat()?];
        while self.eat('|') {
            options.push(self.concat()?);
        }
        self.depth -= 1;
        match options.len() {
            1 => Ok(options.remove(0)),
            _ => Ok(Node::Alternation(options)),
        }
    }

    fn concat(&mut self) -> Result<Node, GrammarError> {
        let mut nodes = Vec::new();
        while let Some(c) = self.rest.peek()
            && !matches!(c, '|' | ')')
        {
            let node = self.atom()?;
            nodes.push(self.repeated(node)?);
        }
        match nodes.len() {
            1 => Ok(nodes.remove(0)),
            _ => Ok(Node::Concat(nodes)),
        }
    }

    fn atom(&mut self) -> Result<Node, GrammarError> {
        let c = self.rest.next().ok_or_else(|| malformed("it ends too early"))?;
        match c {
            '^' => Ok(Node::Start),
            '$' => Ok(Node::End),
            '.' => Ok(Node::Set(self.dot())),
            '(' => self.group(),
            '[' => self.class().map(Node::Set),
            '*' | '+' | '?' => Err(malformed("a repetition has nothing to repeat")),
            '\\' => match self.escape(false)? {
                Escape::Character(c) => Ok(Node::Set(self.folded(one(c)))),
                Escape::Set(set) => Ok(Node::Set(set)),
                Escape::Node(node) => Ok(node),
            },
            c => Ok(Node::Set(self.folded(one(c)))),
        }
    }

    fn group(&mut self) -> Result<Node, GrammarError> {
        let node = if self.eat('?') {
            match self.rest.next() {
                Some(':') => self.alternation()?,
                Some('=') => self.look_ahead(false)?,
                Some('!') => self.look_ahead(true)?,
                Some('P') if self.eat('<') => self.named()?,
                Some('<') => match self.rest.peek() {
                    Some('=' | '!') => return Err(unsupported("a look-behind")),
                    _ => self.named()?,
                },
                _ => return Err(unsupported("a group that begins with `(?` so")),
            }
        } else {
            self.alternation()?
        };
        if self.eat(')') { Ok(node) } else { Err(malformed("a `(` has no `)`")) }
    }

    fn named(&mut self) -> Result<Node, GrammarError> {
        let is_name = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '$';
        while self.rest.next_if(is_name).is_some() {}
        if self.eat('>') { self.alternation() } else { Err(malformed("a group's name has no end")) }
    }

    fn look_ahead(&mut self, negative: bool) -> Result<Node, GrammarError> {
        self.wide ^= negative;
        let inner = Box::new(self.alternation()?);
        self.wide ^= negative;
        Ok(Node::LookAhead { inner, negative })
    }

    fn repeated(&mut self, node: Node) -> Result<Node, GrammarError> {
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => match self.bounds()? {
                Some(bounds) => bounds,
                // Not a repetition, but the character itself.
                None => return Ok(node),
            },
            _ => return Ok(node),
        };
        self.rest.next();
        // Lazy ones repeat as often as the others.
        self.eat('?');
        if matches!(self.rest.peek(), Some('*' | '+' | '?')) {
            return Err(malformed("a repetition is repeated"));
        }
        Ok(Node::Repeat { inner: Box::new(node), least, most })
    }

    /// Reads `{n}`, `{n,}` or `{n,m}` up to its last character; nothing where it is none of them.
    fn bounds(&mut self) -> Result<Option<(u32, Option<u32>)>, GrammarError> {
        let text: String = self.rest.clone().skip(1).take_while(|c| *c != '}').take(24).collect();
        let (least, most) = match text.split_once(',') {
            None => (&*text, Some(&*text)),
            Some((least, "")) => (least, None),
            Some((least, most)) => (least, Some(most)),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let closed = self.rest.clone().nth(text.chars().count() + 1) == Some('}');
        if closed && least.is_empty() && most.is_some_and(is_number) {
            return Err(unsupported("`{,n}`, which not all read the same way,"));
        }
        if !closed || !is_number(least) || !most.is_none_or(is_number) {
            return Ok(None);
        }
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number| *number <= MAX_REPETITIONS);
            number.ok_or_else(|| malformed("it repeats a part more than 100000 times"))
        };
        let bounds = (number(least)?, most.map(number).transpose()?);
        if bounds.1.is_some_and(|most| most < bounds.0) {
            return Err(malformed("a repetition's bounds are in the wrong order"));
        }
        self.rest.by_ref().take(text.chars().count() + 1).for_each(drop);
        Ok(Some(bounds))
    }

    fn class(&mut self) -> Result<ClassUnicode, GrammarError> {
        let negated = self.eat('^');
        self.wide ^= negated;
        let set = self.class_items().map(|set| self.folded(set));
        self.wide ^= negated;
        let mut set = set?;
        if negated {
            set.negate();
        }
        Ok(set)
    }

    fn class_items(&mut self) -> Result<ClassUnicode, GrammarError> {
        let mut set = ClassUnicode::empty();
        if self.rest.peek() == Some(&']') {
            return Err(unsupported("an empty set of characters"));
        }
        while !self.eat(']') {
            let first = match self.class_atom()? {
                Escape::Character(c) => c,
                Escape::Set(other) => {
                    set.union(&other);
                    continue;
                }
                Escape::Node(_) => return Err(malformed("a set of characters holds an assertion")),
            };
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            if !is_range {
                set.union(&one(first));
                continue;
            }
            self.rest.next();
            match self.class_atom()? {
                Escape::Character(last) if first <= last => {
                    set.union(&ClassUnicode::new([ClassUnicodeRange::new(first, last)]));
                }
                Escape::Character(_) => return Err(malformed("a range is in the wrong order")),
                // As ECMA-262 reads it: two characters and a set.
                Escape::Set(other) => {
                    set.union(&one(first));
                    set.union(&one('-'));
                    set.union(&other);
                }
                Escape::Node(_) => return Err(malformed("a set of characters holds an assertion")),
            }
        }
        Ok(set)
    }

    fn class_atom(&mut self) -> Result<Escape, GrammarError> {
        match self.rest.next() {
            None => Err(malformed("a `[` has no `]`")),
            Some('\\') => self.escape(true),
            Some(c) => Ok(Escape::Character(c)),
        }
    }

    fn escape(&mut self, in_class: bool) -> Result<Escape, GrammarError> {
        let c = self.rest.next().ok_or_else(|| malformed("it ends with a `\\`"))?;
        let character = |c| Ok(Escape::Character(c));
        match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' => Ok(Escape::Set(self.shorthand(c)?)),
            'p' | 'P' => self.property(c).map(Escape::Set),
            't' => character('\t'),
            'n' => character('\n'),
            'r' => character('\r'),
            'v' => character('\u{b}'),
            'f' => character('\u{c}'),
            'b' if in_class => character('\u{8}'),
            'A' if !in_class => Ok(Escape::Node(Node::Start)),
            'Z' | 'z' if !in_class => Ok(Escape::Node(Node::End)),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => character('\0'),
            'x' => self.hexadecimal(2).and_then(character),
            'u' => self.unicode().and_then(character),
            'c' => match self.rest.next() {
                Some(c) if c.is_ascii_alphabetic() => character(char::from(c as u8 % 32)),
                _ => Err(malformed("`\\c` must be followed by a letter")),
            },
            '1'..='9' => Err(unsupported("a back reference")),
            'b' | 'B' => Err(unsupported("a word boundary")),
            c if c.is_ascii_alphanumeric() => Err(unsupported(&format!("`\\{c}`"))),
            c => character(c),
        }
    }

    fn code(&mut self, digits: usize) -> Result<u32, GrammarError> {
        let text: String = self.rest.by_ref().take(digits).collect();
        let is_code = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(&text, 16).ok().filter(|_| is_code);
        code.ok_or_else(|| malformed("an escape needs more hexadecimal digits"))
    }

    fn hexadecimal(&mut self, digits: usize) -> Result<char, GrammarError> {
        let code = self.code(digits)?;
        char::from_u32(code).ok_or_else(|| malformed("an escape is half of a character"))
    }

    /// `\u1234`, `\ud83d\ude00` or `\u{1f600}`.
    fn unicode(&mut self) -> Result<char, GrammarError> {
        let half = || malformed("an escape is half of a character");
        if self.eat('{') {
            let text: String = self.rest.by_ref().take_while(|c| *c != '}').take(8).collect();
            let code = u32::from_str_radix(&text, 16).ok();
            return code.and_then(char::from_u32).ok_or_else(half);
        }
        let first = self.code(4)?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or_else(half);
        }
        if !(self.eat('\\') && self.eat('u')) {
            return Err(half());
        }
        let second = self.code(4)?.checked_sub(0xdc00).filter(|low| *low < 0x400);
        let code = second.map(|low| 0x10000 + ((first - 0xd800) << 10) + low);
        code.and_then(char::from_u32).ok_or_else(half)
    }

    /// `\p{…}`, which is the same to all readers that know it.
    fn property(&mut self, kind: char) -> Result<ClassUnicode, GrammarError> {
        let mut text = format!("\\{kind}");
        if self.eat('{') {
            text.push('{');
            text.extend(self.rest.by_ref().take_while(|c| *c != '}').take(64));
            text.push('}');
        } else {
            text.extend(self.rest.next());
        }
        rust_class(&text)
    }

    /// `\d` and its like.
    fn shorthand(&self, c: char) -> Result<ClassUnicode, GrammarError> {
        let negated = c.is_ascii_uppercase();
        let wide = self.wide != negated;
        let text = match (c.to_ascii_lowercase(), wide) {
            ('d', false) => "[0-9]",
            ('d', true) => r"\d",
            ('w', false) => "[0-9A-Za-z_]",
            ('w', true) => r"[\w\p{L}\p{N}_]",
            ('s', false) => r"[\t-\r ]",
            (_, _) => r"[\s\x{feff}\x{1c}-\x{1f}\x{85}]",
        };
        let mut set = rust_class(text)?;
        if negated {
            set.negate();
        }
        Ok(set)
    }

    fn dot(&self) -> ClassUnicode {
        let lines = match (self.dot_is_all, self.wide) {
            (true, _) => vec![],
            (false, true) => vec![('\n', '\n')],
            (false, false) => vec![('\n', '\n'), ('\r', '\r'), ('\u{2028}', '\u{2029}')],
        };
        let ranges = lines.into_iter().map(|(start, end)| ClassUnicodeRange::new(start, end));
        let mut set = ClassUnicode::new(ranges);
        set.negate();
        set
    }

    /// With both cases of its letters, where the pattern says so.
    fn folded(&self, mut set: ClassUnicode) -> ClassUnicode {
        if self.folds && self.wide {
            set.case_fold_simple();
        } else if self.folds {
            let letters = |first, last| ClassUnicode::new([ClassUnicodeRange::new(first, last)]);
            let shifted = |set: &ClassUnicode, from: ClassUnicode, upper: bool| {
                let mut of = from;
                of.intersect(set);
                let case =
                    |c: char| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
                let range = |range: &ClassUnicodeRange| {
                    ClassUnicodeRange::new(case(range.start()), case(range.end()))
                };
                ClassUnicode::new(of.ranges().iter().map(range).collect::<Vec<_>>())
            };
            let upper = shifted(&set, letters('a', 'z'), true);
            let lower = shifted(&set, letters('A', 'Z'), false);
            set.union(&upper);
            set.union(&lower);
        }
        set
    }
}

fn one(c: char) -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new(c, c)])
}

fn rust_class(text: &str) -> Result<ClassUnicode, GrammarError> {
    let read = regex_syntax::Parser::new().parse(text);
    let hir = read.map_err(|_| unsupported(&format!("`{text}`")))?;
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(set)) => Ok(set),
        HirKind::Literal(literal) => {
            let c = std::str::from_utf8(&literal.0).ok().and_then(|text| text.chars().next());
            Ok(c.map_or_else(ClassUnicode::empty, one))
        }
        _ => Ok(ClassUnicode::empty()),
    }
}
