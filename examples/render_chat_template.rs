//! Renders chat templates in bulk, to compare them with another implementation:
//! `cargo run --release --example render_chat_template <CASES >RESULTS`.
//!
//! Each line of CASES is an object with a `template`, `messages` and, where they are wanted, `tools`,
//! `documents`, `add_generation_prompt`, `enable_thinking` and `special_tokens`. Its line of RESULTS
//! has the `text`, or the `error`.

use std::io::{BufRead, BufWriter, Write};

use serde_json::{Value, json};
use sorsa::text::chat_template::{ChatTemplate, RenderOptions};
use sorsa::text::tokenizer_config::SpecialTokens;

fn main() -> anyhow::Result<()> {
    let mut results = BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let result = match render(&case) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(results, "{result}")?;
    }
    Ok(results.flush()?)
}

fn render(case: &Value) -> anyhow::Result<String> {
    let special_tokens = SpecialTokens::from_config(&case["special_tokens"])?;
    let source = case["template"].as_str().unwrap_or_default();
    let template = ChatTemplate::new(source, special_tokens)?;
    let given = |name: &str| case.get(name).filter(|value| !value.is_null());
    let options = RenderOptions {
        tools: given("tools"),
        documents: given("documents"),
        enable_thinking: given("enable_thinking").and_then(Value::as_bool),
        reasoning_effort: given("reasoning_effort").and_then(Value::as_str),
        now: None,
    };
    let prompt = case["add_generation_prompt"].as_bool().unwrap_or(false);
    Ok(template.render(&case["messages"], prompt, &options)?)
}
