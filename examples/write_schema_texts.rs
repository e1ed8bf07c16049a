//! Writes texts of JSON schemas, for another implementation to validate:
//! `cargo run --release --example write_schema_texts [COUNT] >TEXTS`.
//!
//! Each line of TEXTS is an object with a `schema` and a `text`, complete and written by random logits
//! under the schema's grammar. The schemas are the hand-written ones of tests/fixtures/schemas.jsonl,
//! and COUNT random and COUNT mutated ones of tests/support.

#[path = "../tests/support/grammar_texts.rs"]
#[allow(dead_code, reason = "shared with tests")]
mod grammar_texts;
#[path = "../tests/support/schema_mutations.rs"]
mod schema_mutations;
#[path = "../tests/support/schemas.rs"]
mod schemas;

use std::io::{BufWriter, Write};

use anyhow::Context;
use serde_json::{Value, json};
// Where the shared files look for it.
use sorsa::grammar;

use grammar::{GrammarCompiler, GrammarSpec};
use grammar_texts::{Written, compiler, write};

/// Tokens of a text; one that takes more is not written.
const TOKENS: usize = 400;

fn main() -> anyhow::Result<()> {
    let count = match std::env::args().nth(1) {
        Some(count) => count.parse().context("COUNT must be a number")?,
        None => 300,
    };
    let compiler = compiler();
    let mut output = BufWriter::new(std::io::stdout().lock());
    for schema in schema_mutations::by_hand() {
        let texts = texts(&compiler, &schema, 8)?;
        anyhow::ensure!(!texts.is_empty(), "{schema} has no complete text");
        print(&mut output, &schema, &texts)?;
    }
    for seed in 0..count {
        for schema in [schemas::random(seed), schema_mutations::mutated(seed)] {
            // What is refused is none of this program's business.
            let texts = texts(&compiler, &schema, 2).unwrap_or_default();
            print(&mut output, &schema, &texts)?;
        }
    }
    Ok(output.flush()?)
}

fn texts(compiler: &GrammarCompiler, schema: &Value, count: u64) -> anyhow::Result<Vec<String>> {
    let grammar = compiler.compile(GrammarSpec::JsonSchema(schema.clone()))?;
    let mut texts = Vec::new();
    for seed in 0..count {
        if let Written::Complete(bytes) = write(&grammar, seed, TOKENS, grammar_texts::brief) {
            texts.push(String::from_utf8(bytes)?);
        }
    }
    texts.dedup();
    Ok(texts)
}

fn print(output: &mut impl Write, schema: &Value, texts: &[String]) -> std::io::Result<()> {
    for text in texts {
        writeln!(output, "{}", json!({"schema": schema, "text": text}))?;
    }
    Ok(())
}
