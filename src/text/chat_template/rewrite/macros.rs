//! Macros: arguments that no parameter takes, and defaults that name other parameters.

use std::collections::BTreeSet;
use std::fmt::Write;

use minijinja::machinery::ast::{CallBlock, Expr, Macro};

use super::expressions::Precedence;
use super::{Printer, names};

/// What a macro may name to be given the arguments that its parameters do not take.
const REST: [&str; 2] = ["varargs", "kwargs"];

impl Printer {
    pub(super) fn macro_block(&mut self, macro_: &Macro<'_>, line: u16) {
        self.open("macro", line);
        self.push(macro_.name);
        let variables = self.declaration(macro_);
        self.end("endmacro");
        if REST.iter().any(|rest| variables.contains(*rest)) {
            let names: Vec<&str> = macro_.args.iter().filter_map(parameter).collect();
            let _ = write!(
                self.out,
                "{{% set {name} = {}({name}, {names:?}) %}}",
                names::VARIADIC,
                name = macro_.name
            );
        }
    }

    pub(super) fn call_block(&mut self, block: &CallBlock<'_>, line: u16) {
        self.push("{% ");
        self.sync(line);
        self.push("call");
        let (call, _) = self.aside(|printer| {
            printer.push(" ");
            printer.call(&block.call);
        });
        self.caller(&block.macro_decl, &call);
        self.end("endcall");
    }

    /// The parameters and the body of a macro; gives the variables that they name.
    fn declaration(&mut self, macro_: &Macro<'_>) -> BTreeSet<String> {
        let (parameters, late, mut variables) = self.parameters(macro_);
        let (body, named) = self.aside(|printer| {
            printer.push(&late);
            printer.statements(&macro_.body);
        });
        let has_rest = REST.iter().any(|rest| named.contains(*rest));
        let rest = match (has_rest, parameters.is_empty()) {
            (false, _) => "",
            (true, true) => "varargs=(), kwargs={}",
            (true, false) => ", varargs=(), kwargs={}",
        };
        let _ = write!(self.out, "({parameters}{rest}) %}}{body}");
        variables.extend(named);
        self.variables.extend(variables.iter().cloned());
        variables
    }

    /// As [`Self::declaration`], for the block that is given to a call.
    fn caller(&mut self, block: &Macro<'_>, call: &str) {
        let (parameters, late, _) = self.parameters(block);
        if !parameters.is_empty() {
            let _ = write!(self.out, "({parameters})");
        }
        self.push(call);
        self.close();
        self.push(&late);
        self.statements(&block.body);
    }

    /// The parameters with their defaults; statements that set those whose default names another
    /// parameter; and the variables that all defaults name.
    fn parameters(&mut self, macro_: &Macro<'_>) -> (String, String, BTreeSet<String>) {
        let names: Vec<&str> = macro_.args.iter().filter_map(parameter).collect();
        let without = names.len() - macro_.defaults.len().min(names.len());
        let (mut written, mut late, mut variables) = (Vec::new(), String::new(), BTreeSet::new());
        written.extend(names[..without].iter().map(|name| (*name).to_owned()));
        for (name, default) in names[without..].iter().zip(&macro_.defaults) {
            let (text, named) =
                self.aside(|printer| printer.expression(default, Precedence::Conditional));
            if names.iter().any(|name| named.contains(*name)) {
                written.push(format!("{name}={}", names::MISSING));
                let _ = write!(
                    late,
                    "{{% if {name} is sameas({}) %}}{{% set {name} = {text} %}}{{% endif %}}",
                    names::MISSING
                );
            } else {
                written.push(format!("{name}={text}"));
            }
            variables.extend(named);
        }
        (written.join(", "), late, variables)
    }
}

fn parameter<'a>(expression: &Expr<'a>) -> Option<&'a str> {
    if let Expr::Var(variable) = expression { Some(variable.id) } else { None }
}
