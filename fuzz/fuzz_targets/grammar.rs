//! Any bytes as what a text must obey: an error of the client's, or a grammar whose texts obey it.
//!
//! The first byte says what the others are: a JSON schema, the number of a mutated one, a regular
//! expression, a choice of lines, a Lark grammar, or a schema within one. Texts are written by random
//! logits that depend on the input; src/grammar/tests/mutated.rs runs the same over inputs of its own.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
// Where the shared files look for it.
use sorsa::grammar;

#[path = "../../tests/support/grammar_texts.rs"]
#[allow(dead_code, reason = "shared with tests")]
mod grammar_texts;
#[path = "../../tests/support/schema_mutations.rs"]
mod schema_mutations;
#[path = "../../tests/support/schemas.rs"]
mod schemas;

static COMPILER: LazyLock<grammar::GrammarCompiler> = LazyLock::new(grammar_texts::compiler);

fuzz_target!(|input: &[u8]| {
    if let Some(spec) = grammar_texts::spec_of(input) {
        grammar_texts::obey(&COMPILER, &spec, grammar_texts::seed_of(input));
    }
});
