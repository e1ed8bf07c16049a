//! Statements, each in a tag of its own.

use minijinja::machinery::ast::{Expr, ForLoop, IfCond, SetBlock, Stmt, WithBlock};

use super::expressions::{Precedence, literal};
use super::{Printer, names};

impl Printer {
    pub(super) fn statements(&mut self, statements: &[Stmt<'_>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    pub(super) fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => self.raw(raw.raw),
            Stmt::EmitExpr(emit) => {
                self.push("{{ ");
                self.sync(emit.span().start_line);
                self.expression(&emit.expr, Precedence::Conditional);
                self.push(" }}");
            }
            Stmt::ForLoop(for_loop) => self.for_loop(for_loop, for_loop.span().start_line),
            Stmt::IfCond(condition) => self.condition(condition, condition.span().start_line),
            Stmt::WithBlock(with) => self.with_block(with, with.span().start_line),
            Stmt::Set(set) => {
                if let Expr::GetAttr(attribute) = &set.target {
                    // A macro's scope holds what is read in it; here a namespace is only changed.
                    self.push("{% if ");
                    self.target(&attribute.expr);
                    self.push(" %}{% endif %}");
                }
                self.open("set", set.span().start_line);
                self.target(&set.target);
                self.push(" = ");
                self.expression(&set.expr, Precedence::Conditional);
                self.close();
            }
            Stmt::SetBlock(set) => self.set_block(set, set.span().start_line),
            Stmt::AutoEscape(escape) => {
                self.open("autoescape", escape.span().start_line);
                self.expression(&escape.enabled, Precedence::Conditional);
                self.body(&escape.body, "endautoescape");
            }
            Stmt::FilterBlock(block) => {
                self.open("filter", block.span().start_line);
                self.expression(&block.filter, Precedence::Conditional);
                self.body(&block.body, "endfilter");
            }
            Stmt::Macro(macro_) => self.macro_block(macro_, macro_.span().start_line),
            Stmt::CallBlock(call) => self.call_block(call, call.span().start_line),
            Stmt::Continue(_) => self.push("{% continue %}"),
            Stmt::Break(_) => self.push("{% break %}"),
            Stmt::Do(call) => {
                self.open("do", call.span().start_line);
                self.call(&call.call);
                self.close();
            }
            Stmt::Block(block) => {
                self.open("block", block.span().start_line);
                self.push(block.name);
                self.body(&block.body, "endblock");
            }
            other => self.other_template(other),
        }
    }

    /// There are no other templates, not even for `ignore missing`: rendering the tag fails.
    fn other_template(&mut self, statement: &Stmt<'_>) {
        let (line, name) = match statement {
            Stmt::Extends(extends) => (extends.span().start_line, &extends.name),
            Stmt::Import(import) => (import.span().start_line, &import.expr),
            Stmt::FromImport(import) => (import.span().start_line, &import.expr),
            Stmt::Include(include) => (include.span().start_line, &include.name),
            _ => return,
        };
        self.open("include", line);
        self.expression(name, Precedence::Conditional);
        self.close();
    }

    /// Text that stands for itself.
    fn raw(&mut self, text: &str) {
        if text.contains('{') {
            self.push("{{ ");
            self.push(&literal(text));
            self.push(" }}");
        } else {
            self.push(text);
            self.line += text.matches('\n').count();
        }
    }

    pub(super) fn open(&mut self, tag: &str, line: u16) {
        self.push("{% ");
        self.sync(line);
        self.push(tag);
        self.push(" ");
    }

    pub(super) fn close(&mut self) {
        self.push(" %}");
    }

    /// Closes a tag, and writes what it holds and its end.
    pub(super) fn body(&mut self, body: &[Stmt<'_>], end: &str) {
        self.close();
        self.statements(body);
        self.end(end);
    }

    pub(super) fn end(&mut self, end: &str) {
        self.push("{% ");
        self.push(end);
        self.close();
    }

    fn for_loop(&mut self, for_loop: &ForLoop<'_>, line: u16) {
        self.open("for", line);
        self.target(&for_loop.target);
        self.push(" in ");
        self.function(names::ITERATE, &[&for_loop.iter]);
        if let Some(filter) = &for_loop.filter_expr {
            self.push(" if ");
            self.expression(filter, Precedence::Conditional);
        }
        if for_loop.recursive {
            self.push(" recursive");
        }
        self.close();
        self.statements(&for_loop.body);
        if !for_loop.else_body.is_empty() {
            self.end("else");
            self.statements(&for_loop.else_body);
        }
        self.end("endfor");
    }

    fn condition(&mut self, condition: &IfCond<'_>, line: u16) {
        self.open("if", line);
        self.expression(&condition.expr, Precedence::Or);
        self.close();
        self.statements(&condition.true_body);
        let mut otherwise = condition.false_body.as_slice();
        while let [Stmt::IfCond(condition)] = otherwise {
            self.open("elif", condition.span().start_line);
            self.expression(&condition.expr, Precedence::Or);
            self.close();
            self.statements(&condition.true_body);
            otherwise = &condition.false_body;
        }
        if !otherwise.is_empty() {
            self.end("else");
            self.statements(otherwise);
        }
        self.end("endif");
    }

    fn with_block(&mut self, with: &WithBlock<'_>, line: u16) {
        self.open("with", line);
        self.list(&with.assignments, |printer, (target, value)| {
            printer.target(target);
            printer.push(" = ");
            printer.expression(value, Precedence::Conditional);
        });
        self.body(&with.body, "endwith");
    }

    fn set_block(&mut self, set: &SetBlock<'_>, line: u16) {
        self.open("set", line);
        self.target(&set.target);
        if let Some(filter) = &set.filter {
            self.push(" | ");
            self.expression(filter, Precedence::Conditional);
        }
        self.body(&set.body, "endset");
    }

    /// What is assigned to: a name, an attribute of a namespace, or several of them.
    fn target(&mut self, target: &Expr<'_>) {
        match target {
            Expr::Var(name) => self.push(name.id),
            Expr::GetAttr(attribute) => {
                self.target(&attribute.expr);
                self.push(".");
                self.push(attribute.name);
            }
            Expr::List(list) => self.targets(&list.items),
            Expr::Tuple(tuple) => self.targets(&tuple.items),
            other => self.expression(other, Precedence::Postfix),
        }
    }

    fn targets(&mut self, targets: &[Expr<'_>]) {
        self.push("(");
        for target in targets {
            self.target(target);
            self.push(", ");
        }
        self.push(")");
    }
}
