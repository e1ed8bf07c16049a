//! What a pre-tokenizer's regular expression can do at one place of a text, without running it.
//!
//! The expression becomes positions (Glushkov's construction): each stands for a character, and says
//! which may come after it. If none that takes `a` is followed by one that takes `b`, no way through
//! the expression passes from `a` to `b`, whatever stands around them: what is matched before lies
//! before, and what is matched after begins after. Expressions that look further than one character
//! are not understood, and then no such thing is claimed.

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::translate::Translator;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

/// The one way to look ahead that is understood, as every published tokenizer has it: white space
/// ends before the last blank of a run that a word follows.
const LOOKAHEAD: &str = r"(?!\S)";
/// Stands for it: a character that no text has.
const MARK: char = '\u{10FFFF}';
/// More positions are not looked at.
const MAX_POSITIONS: usize = 2000;

/// A regular expression, as positions.
#[derive(Debug)]
pub(super) struct Pattern {
    classes: Vec<ClassUnicode>,
    follow: Vec<Vec<usize>>,
    /// Positions that are a whole match.
    alone: Vec<usize>,
}

/// A part of an expression.
#[derive(Debug, Default)]
struct Part {
    nullable: bool,
    first: Vec<usize>,
    last: Vec<usize>,
    alone: Vec<usize>,
}

impl Pattern {
    /// Understands an expression; `None` where that is beyond this.
    pub fn parse(pattern: &str) -> Option<Self> {
        let plain = pattern.replace(LOOKAHEAD, &MARK.to_string());
        let ast = ast::parse::Parser::new().parse(&plain).ok()?;
        if has_possessive(&ast) {
            return None;
        }
        let hir = Translator::new().translate(&plain, &ast).ok()?;
        let mut positions = Self { classes: Vec::new(), follow: Vec::new(), alone: Vec::new() };
        let whole = positions.add(&hir)?;
        positions.alone = whole.alone;
        let marks_end_blanks = positions.marks_end_blanks(&whole.first);
        (!whole.nullable && marks_end_blanks).then_some(positions)
    }

    /// Whether one match may hold `a` and `b` next to each other.
    pub fn may_continue(&self, a: char, b: char) -> bool {
        let from = (0..self.classes.len()).filter(|position| self.takes(*position, a));
        from.into_iter().any(|from| self.follow[from].iter().any(|to| self.takes(*to, b)))
    }

    /// Whether `c` is a match by itself, so that it never stays unmatched.
    pub fn matches_alone(&self, c: char) -> bool {
        self.alone.iter().any(|position| self.takes(*position, c))
    }

    fn takes(&self, position: usize, c: char) -> bool {
        let order = |range: &ClassUnicodeRange| {
            if range.end() < c {
                std::cmp::Ordering::Less
            } else if range.start() > c {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Equal
            }
        };
        self.classes[position].ranges().binary_search_by(order).is_ok()
    }

    /// Whether looking ahead comes last, and behind white space only: beside any other character the
    /// next one is then looked at by nobody.
    fn marks_end_blanks(&self, first: &[usize]) -> bool {
        let is_mark = |position: &usize| {
            let [range] = self.classes[*position].ranges() else { return false };
            range.start() == MARK
        };
        let marks: Vec<usize> = (0..self.classes.len()).filter(is_mark).collect();
        let blank = |position: usize| {
            let mut ranges = self.classes[position].ranges().iter();
            ranges.all(|range| (range.start()..=range.end()).all(char::is_whitespace))
        };
        let before = |mark: &usize| {
            let all = 0..self.classes.len();
            all.into_iter().filter(|from| self.follow[*from].contains(mark)).all(blank)
        };
        let is_last = |mark: &usize| self.follow[*mark].is_empty() && !first.contains(mark);
        marks.iter().all(|mark| is_last(mark) && before(mark))
    }

    fn position(&mut self, class: ClassUnicode) -> Option<Part> {
        let place = self.classes.len();
        self.classes.push(class);
        self.follow.push(Vec::new());
        let one = || vec![place];
        let part = Part { nullable: false, first: one(), last: one(), alone: one() };
        (place < MAX_POSITIONS).then_some(part)
    }

    fn link(&mut self, last: &[usize], first: &[usize]) {
        for from in last {
            for to in first {
                if !self.follow[*from].contains(to) {
                    self.follow[*from].push(*to);
                }
            }
        }
    }

    fn add(&mut self, hir: &Hir) -> Option<Part> {
        match hir.kind() {
            HirKind::Empty => Some(Part { nullable: true, ..Part::default() }),
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).ok()?;
                let start = Part { nullable: true, ..Part::default() };
                text.chars().try_fold(start, |before, c| {
                    let next = self.position(ClassUnicode::new([ClassUnicodeRange::new(c, c)]))?;
                    Some(self.join(before, next))
                })
            }
            HirKind::Class(Class::Unicode(class)) => self.position(class.clone()),
            HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) => None,
            HirKind::Repetition(repetition) => {
                let mut part = self.add(&repetition.sub)?;
                if repetition.max.is_none_or(|max| max > 1) {
                    let (last, first) = (part.last.clone(), part.first.clone());
                    self.link(&last, &first);
                }
                if repetition.min > 1 && !part.nullable {
                    part.alone.clear();
                }
                part.nullable |= repetition.min == 0;
                Some(part)
            }
            HirKind::Capture(capture) => self.add(&capture.sub),
            HirKind::Concat(parts) => {
                let start = Part { nullable: true, ..Part::default() };
                parts.iter().try_fold(start, |before, part| {
                    let next = self.add(part)?;
                    Some(self.join(before, next))
                })
            }
            HirKind::Alternation(parts) => {
                parts.iter().try_fold(Part::default(), |mut all, part| {
                    let part = self.add(part)?;
                    all.nullable |= part.nullable;
                    all.first.extend(part.first);
                    all.last.extend(part.last);
                    all.alone.extend(part.alone);
                    Some(all)
                })
            }
        }
    }

    /// `before`, then `next`.
    fn join(&mut self, before: Part, next: Part) -> Part {
        self.link(&before.last, &next.first);
        let mut joined = Part { nullable: before.nullable && next.nullable, ..Part::default() };
        joined.first = before.first;
        joined.last = next.last;
        if before.nullable {
            joined.first.extend(next.first);
            joined.alone.extend(next.alone);
        }
        if next.nullable {
            joined.last.extend(before.last);
            joined.alone.extend(before.alone);
        }
        joined
    }
}

/// `a++` takes what it can and gives nothing back, where it is understood; here it reads as a
/// repetition of a repetition.
fn has_possessive(ast: &Ast) -> bool {
    match ast {
        Ast::Repetition(outer) => {
            matches!(*outer.ast, Ast::Repetition(_)) || has_possessive(&outer.ast)
        }
        Ast::Group(group) => has_possessive(&group.ast),
        Ast::Alternation(alternation) => alternation.asts.iter().any(has_possessive),
        Ast::Concat(concat) => concat.asts.iter().any(has_possessive),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT_2: &str =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    #[test]
    fn what_a_match_may_hold_is_known() {
        let gpt_2 = Pattern::parse(GPT_2).unwrap();
        for (a, b, together) in [
            ('a', 'b', true),
            ('a', ' ', false),
            (' ', 'a', true),
            ('a', '1', false),
            ('a', '.', false),
            ('.', 'a', false),
            ('\'', 's', true),
            ('日', '本', true),
            ('日', '。', false),
            (' ', ' ', true),
        ] {
            assert_eq!(gpt_2.may_continue(a, b), together, "{a:?} {b:?}");
        }
        let llama = Pattern::parse(LLAMA_3).unwrap();
        assert!(llama.may_continue('.', 'a') && llama.may_continue('.', '\n'));
        assert!(!llama.may_continue('a', '.') && !llama.may_continue('a', '\n'));
        assert!(llama.may_continue('\'', 'S'));
        assert!(['a', '1', '.', ' ', '\n'].iter().all(|c| llama.matches_alone(*c)));
    }

    #[test]
    fn what_is_not_a_match_alone_is_known() {
        let pattern = Pattern::parse("ab|c{2,}|d?e").unwrap();
        assert_eq!(
            ['a', 'b', 'c', 'd', 'e'].map(|c| pattern.matches_alone(c)),
            [false, false, false, false, true]
        );
    }

    #[test]
    fn what_looks_further_is_not_understood() {
        for pattern in [
            r"\w+(?=x)",
            r"(?<=a)b",
            r"a++b",
            r"\bfoo",
            "^a",
            "a*",
            r"a(?!\S)",
            r"(?!\S)a",
            "(",
            r"\s+(?!\S)x",
            r"(?>a)",
            r"(a)\1",
        ] {
            assert!(Pattern::parse(pattern).is_none(), "{pattern}");
        }
    }
}
