//! Structured output: which tokens may come next so that a text obeys a JSON schema, a regular
//! expression, a choice or a grammar.
//!
//! A [`GrammarCompiler`] knows the model's [`Vocabulary`] and turns a [`GrammarSpec`] into a
//! [`Grammar`], within limits that no input gets around, and remembers it. A [`Matcher`] follows one
//! text through a grammar. The parsing is the `llguidance` crate's; this module holds it to limits,
//! and knows no HTTP, no sampler and no request.

mod compiler;
mod error;
mod lark;
mod limits;
mod matcher;
mod schema;
mod spec;
mod vocabulary;

pub use compiler::GrammarCompiler;
pub use error::{GrammarError, MatchError};
pub use matcher::{Allowed, Grammar, Matcher};
pub use spec::GrammarSpec;
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod tests;
