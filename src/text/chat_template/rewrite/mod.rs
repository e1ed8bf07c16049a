//! A template as its author meant it for Jinja2, written anew for minijinja.
//!
//! The syntax of the two is the same, but some operators are not. Those that minijinja computes
//! otherwise, and cannot be told about, become calls of functions that [`super::operators`] defines:
//! `a % b` becomes `__mod__(a, b)`. minijinja then parses what is written here. Every statement keeps
//! its line, so that errors name the lines of the source.

mod expressions;
mod macros;
mod statements;
mod tags;

use std::collections::BTreeSet;

use minijinja::Error;
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;

pub(super) use tags::prepare;

/// Names of what the rewritten template calls.
pub(super) mod names {
    /// `a + b`.
    pub(in super::super) const ADD: &str = "__add__";
    /// `a.b` where `b` is the name of a method.
    pub(in super::super) const ATTRIBUTE: &str = "__getattr__";
    /// `a < b` and so on.
    pub(in super::super) const COMPARE: &str = "__compare__";
    /// `a ~ b`.
    pub(in super::super) const CONCAT: &str = "__concat__";
    /// Calls its caller: what stands between `{% generation %}` and `{% endgeneration %}`.
    pub(in super::super) const GENERATION: &str = "__generation__";
    /// Makes the result of a filter an iterator that ends: what several filters give in Python.
    pub(in super::super) const GENERATOR: &str = "__generator__";
    /// What a `for` iterates over.
    pub(in super::super) const ITERATE: &str = "__iter__";
    /// The value of an argument that a call of a macro leaves out.
    pub(in super::super) const MISSING: &str = "__missing__";
    /// `a % b`.
    pub(in super::super) const MODULO: &str = "__mod__";
    /// A macro that takes any arguments.
    pub(in super::super) const VARIADIC: &str = "__variadic__";
}

/// Writes `source` anew.
///
/// # Errors
/// Where it is no template.
pub(super) fn rewrite(source: &str, name: &str) -> Result<String, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let template = parse(source, name, syntax)?;
    let mut printer = Printer { line: 1, ..Printer::default() };
    printer.statement(&template);
    Ok(printer.out)
}

/// The new text as far as it is written.
#[derive(Debug, Default)]
struct Printer {
    out: String,
    /// The line that `out` ends in.
    line: usize,
    /// Variables that were written since the innermost macro, or default of an argument, began.
    variables: BTreeSet<String>,
}

impl Printer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Goes on to a line of the source, inside a tag.
    fn sync(&mut self, line: u16) {
        while self.line < usize::from(line) {
            self.out.push('\n');
            self.line += 1;
        }
    }

    /// What `write` writes, and the variables it names; both are kept out of the text so far.
    fn aside(&mut self, write: impl FnOnce(&mut Self)) -> (String, BTreeSet<String>) {
        let (out, variables) = (std::mem::take(&mut self.out), std::mem::take(&mut self.variables));
        write(self);
        (std::mem::replace(&mut self.out, out), std::mem::replace(&mut self.variables, variables))
    }

    /// Writes `items` with commas between them.
    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.push(", ");
            }
            write(self, item);
        }
    }
}
