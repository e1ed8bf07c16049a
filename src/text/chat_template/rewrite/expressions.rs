//! Expressions, with no more parentheses than they need: minijinja bounds how deep they are nested.

use std::fmt::Write;

use minijinja::Value;
use minijinja::machinery::ast::{
    BinOp, BinOpKind, Call, CallArg, Compare, CompareOpKind, Const, Expr, Filter, Slice, Test,
    UnaryOp, UnaryOpKind,
};

use super::super::methods;
use super::{Printer, names};

/// Filters whose result is gone through once, and has neither a length nor items by index.
const GENERATORS: [&str; 10] = [
    "batch",
    "items",
    "map",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
    "unique",
];

/// How tightly an expression holds together, loosest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Conditional,
    Or,
    And,
    Not,
    Comparison,
    Sum,
    Product,
    Power,
    /// With filters, tests and a minus.
    Unary,
    Postfix,
}

impl Precedence {
    /// The next tighter one.
    fn tighter(self) -> Self {
        match self {
            Self::Conditional => Self::Or,
            Self::Or => Self::And,
            Self::And => Self::Not,
            Self::Not => Self::Comparison,
            Self::Comparison => Self::Sum,
            Self::Sum => Self::Product,
            Self::Product => Self::Power,
            Self::Power => Self::Unary,
            Self::Unary | Self::Postfix => Self::Postfix,
        }
    }

    fn of(expression: &Expr<'_>) -> Self {
        match expression {
            Expr::IfExpr(_) => Self::Conditional,
            Expr::BinOp(operation) => {
                operator(operation.op).map_or(Self::Postfix, |(_, level)| level)
            }
            Expr::Compare(_) => Self::Comparison,
            Expr::UnaryOp(operation) => match operation.op {
                UnaryOpKind::Not => Self::Not,
                UnaryOpKind::Neg => Self::Unary,
            },
            Expr::Filter(_) | Expr::Test(_) => Self::Unary,
            // A dot behind a number would be taken for a part of it.
            Expr::Const(constant) if constant.value.is_number() => Self::Unary,
            _ => Self::Postfix,
        }
    }
}

/// How an operator is written, and how tightly it binds; `None` where a function stands in.
fn operator(kind: BinOpKind) -> Option<(&'static str, Precedence)> {
    Some(match kind {
        BinOpKind::ScOr => (" or ", Precedence::Or),
        BinOpKind::ScAnd => (" and ", Precedence::And),
        BinOpKind::Eq => (" == ", Precedence::Comparison),
        BinOpKind::Ne => (" != ", Precedence::Comparison),
        BinOpKind::In => (" in ", Precedence::Comparison),
        BinOpKind::Sub => (" - ", Precedence::Sum),
        BinOpKind::Mul => (" * ", Precedence::Product),
        BinOpKind::Div => (" / ", Precedence::Product),
        BinOpKind::FloorDiv => (" // ", Precedence::Product),
        BinOpKind::Pow => (" ** ", Precedence::Power),
        _ => return None,
    })
}

/// The function that stands in for an operator.
fn stand_in(kind: BinOpKind) -> Option<&'static str> {
    match kind {
        BinOpKind::Add => Some(names::ADD),
        BinOpKind::Rem => Some(names::MODULO),
        BinOpKind::Concat => Some(names::CONCAT),
        _ => None,
    }
}

/// A comparison of two values that must have an order.
fn comparison(kind: BinOpKind) -> Option<&'static str> {
    match kind {
        BinOpKind::Lt => Some("<"),
        BinOpKind::Lte => Some("<="),
        BinOpKind::Gt => Some(">"),
        BinOpKind::Gte => Some(">="),
        _ => None,
    }
}

impl Printer {
    /// Writes an expression, in parentheses where it is looser than `least`.
    pub(super) fn expression(&mut self, expression: &Expr<'_>, least: Precedence) {
        self.sync(expression.span().start_line);
        let parentheses = Precedence::of(expression) < least;
        if parentheses {
            self.push("(");
        }
        self.bare(expression);
        if parentheses {
            self.push(")");
        }
    }

    fn any(&mut self, expression: &Expr<'_>) {
        self.expression(expression, Precedence::Conditional);
    }

    fn bare(&mut self, expression: &Expr<'_>) {
        match expression {
            Expr::Var(variable) => {
                self.variables.insert(variable.id.to_owned());
                self.push(variable.id);
            }
            Expr::Const(constant) => self.constant(constant),
            Expr::Slice(slice) => self.slice(slice),
            Expr::UnaryOp(operation) => self.unary(operation),
            Expr::BinOp(operation) => self.binary(operation),
            Expr::Compare(compare) => self.compare(compare),
            Expr::IfExpr(condition) => {
                self.expression(&condition.true_expr, Precedence::Or);
                self.push(" if ");
                self.expression(&condition.test_expr, Precedence::Or);
                if let Some(otherwise) = &condition.false_expr {
                    self.push(" else ");
                    self.any(otherwise);
                }
            }
            Expr::Filter(filter) => self.filter(filter),
            Expr::Test(test) => self.test(test),
            Expr::GetAttr(attribute) if methods::is_method(attribute.name) => {
                self.push(names::ATTRIBUTE);
                self.push("(");
                self.any(&attribute.expr);
                let _ = write!(self.out, ", \"{}\")", attribute.name);
            }
            Expr::GetAttr(attribute) => {
                self.expression(&attribute.expr, Precedence::Postfix);
                self.push(".");
                self.push(attribute.name);
            }
            Expr::GetItem(item) => {
                self.expression(&item.expr, Precedence::Postfix);
                self.push("[");
                self.any(&item.subscript_expr);
                self.push("]");
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.push("[");
                self.list(&list.items, Self::any);
                self.push("]");
            }
            Expr::Tuple(tuple) => {
                self.push("(");
                self.list(&tuple.items, Self::any);
                self.push(if tuple.items.len() == 1 { ",)" } else { ")" });
            }
            Expr::Map(map) => {
                let pairs: Vec<_> = map.keys.iter().zip(&map.values).collect();
                self.push("{");
                self.list(&pairs, |printer, (key, value)| {
                    printer.any(key);
                    printer.push(": ");
                    printer.any(value);
                });
                self.push("}");
            }
        }
    }

    fn constant(&mut self, constant: &Const) {
        let value = &constant.value;
        match value.as_str() {
            Some(text) => self.push(&literal(text)),
            None => self.push(&number(value)),
        }
    }

    fn slice(&mut self, slice: &Slice<'_>) {
        self.expression(&slice.expr, Precedence::Postfix);
        self.push("[");
        if let Some(start) = &slice.start {
            self.any(start);
        }
        self.push(":");
        if let Some(stop) = &slice.stop {
            self.any(stop);
        }
        if let Some(step) = &slice.step {
            self.push(":");
            self.any(step);
        }
        self.push("]");
    }

    fn unary(&mut self, operation: &UnaryOp<'_>) {
        match operation.op {
            UnaryOpKind::Not => {
                self.push("not ");
                self.expression(&operation.expr, Precedence::Not);
            }
            UnaryOpKind::Neg => {
                self.push("-");
                self.expression(&operation.expr, Precedence::Postfix);
            }
        }
    }

    fn binary(&mut self, operation: &BinOp<'_>) {
        if let Some((text, level)) = operator(operation.op) {
            // Comparisons in a row would be one of another meaning.
            let is_comparison = level == Precedence::Comparison;
            let left = if is_comparison { level.tighter() } else { level };
            self.expression(&operation.left, left);
            self.push(text);
            self.expression(&operation.right, level.tighter());
            return;
        }
        if let Some(comparison) = comparison(operation.op) {
            let _ = write!(self.out, "{}(\"{comparison}\", ", names::COMPARE);
            self.list(&[&operation.left, &operation.right], |printer, side| printer.any(side));
            return self.push(")");
        }
        let Some(function) = stand_in(operation.op) else { return };
        if function == names::MODULO {
            return self.function(function, &[&operation.left, &operation.right]);
        }
        // A chain is one call, however long it is.
        let mut operands = vec![&operation.right];
        let mut left = &operation.left;
        while let Expr::BinOp(inner) = left
            && stand_in(inner.op) == Some(function)
        {
            operands.push(&inner.right);
            left = &inner.left;
        }
        operands.push(left);
        operands.reverse();
        self.function(function, &operands);
    }

    fn compare(&mut self, compare: &Compare<'_>) {
        self.expression(&compare.expr, Precedence::Sum);
        for next in &compare.ops {
            self.push(match next.op {
                CompareOpKind::Eq => " == ",
                CompareOpKind::Ne => " != ",
                CompareOpKind::Lt => " < ",
                CompareOpKind::Lte => " <= ",
                CompareOpKind::Gt => " > ",
                CompareOpKind::Gte => " >= ",
                CompareOpKind::In => " in ",
                CompareOpKind::NotIn => " not in ",
            });
            self.expression(&next.expr, Precedence::Sum);
        }
    }

    fn filter(&mut self, filter: &Filter<'_>) {
        // A block's filter has no operand: its body is that.
        if let Some(operand) = &filter.expr {
            self.expression(operand, Precedence::Unary);
            self.push(" | ");
        }
        self.push(filter.name);
        if !filter.args.is_empty() {
            self.arguments(&filter.args);
        }
        if GENERATORS.contains(&filter.name) && filter.expr.is_some() {
            self.push(" | ");
            self.push(names::GENERATOR);
        }
    }

    fn test(&mut self, test: &Test<'_>) {
        self.expression(&test.expr, Precedence::Unary);
        self.push(" is ");
        self.push(test.name);
        // What follows must not be taken for an argument.
        self.arguments(&test.args);
    }

    pub(super) fn call(&mut self, call: &Call<'_>) {
        match &call.expr {
            Expr::GetAttr(method) => {
                self.expression(&method.expr, Precedence::Postfix);
                self.push(".");
                self.push(method.name);
            }
            other => self.expression(other, Precedence::Postfix),
        }
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>]) {
        self.push("(");
        self.list(arguments, |printer, argument| match argument {
            CallArg::Pos(value) => printer.any(value),
            CallArg::Kwarg(name, value) => {
                printer.push(name);
                printer.push("=");
                printer.any(value);
            }
            CallArg::PosSplat(values) => {
                printer.push("*");
                printer.any(values);
            }
            CallArg::KwargSplat(values) => {
                printer.push("**");
                printer.any(values);
            }
        });
        self.push(")");
    }

    /// A call of one of [`names`].
    pub(super) fn function(&mut self, name: &str, operands: &[&Expr<'_>]) {
        self.push(name);
        self.push("(");
        self.list(operands, |printer, operand| printer.any(operand));
        self.push(")");
    }
}

/// A string in quotes, on one line.
pub(super) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A number, `none`, `true` or `false`.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if value.is_number() && !value.is_integer() => {
            // Beyond the largest float, which is what a literal too large for one means.
            if float.is_finite() { format!("{float:?}") } else { "1e999".to_owned() }
        }
        _ => value.to_string(),
    }
}
