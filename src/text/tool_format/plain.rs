//! Tools in conversations for templates that know none: the functions and how to call them become
//! part of the system message, past calls and their results become text.
//!
//! A model that was trained for tools has a template that knows them; this is what can be done for
//! the others.

use serde_json::{Value, json};

use super::{ToolFormat, spaced_json};

/// Rewrites `messages`, objects with a `role` and a string as `content`, so that roles and contents
/// are all they have. `tools` are the functions on offer, if any.
#[must_use]
pub fn with_tools_as_text(
    format: ToolFormat,
    messages: Vec<Value>,
    tools: Option<&Value>,
) -> Vec<Value> {
    let mut plain: Vec<Value> = Vec::with_capacity(messages.len() + 1);
    let mut after_result = false;
    for mut message in messages {
        let is_result = message["role"] == "tool";
        if is_result {
            let result = format!("<tool_response>\n{}\n</tool_response>", text(&message));
            match plain.last_mut().filter(|_| after_result) {
                Some(last) => last["content"] = joined(text(last), &result, "\n").into(),
                None => plain.push(json!({"role": "user", "content": result})),
            }
        } else {
            if let Some(calls) = message.as_object_mut().and_then(|m| m.swap_remove("tool_calls")) {
                let calls = format.write(&objects(format, &calls));
                message["content"] = joined(text(&message), &calls, "\n").into();
            }
            plain.push(message);
        }
        after_result = is_result;
    }
    if let Some(tools) = tools {
        let instructions = instructions(format, tools);
        match plain.first_mut().filter(|first| first["role"] == "system") {
            Some(system) => {
                system["content"] = joined(text(system), &instructions, "\n\n").into();
            }
            None => plain.insert(0, json!({"role": "system", "content": instructions})),
        }
    }
    plain
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

fn joined(first: &str, second: &str, between: &str) -> String {
    if first.is_empty() { second.to_owned() } else { format!("{first}{between}{second}") }
}

/// Past calls as the objects a model would have written.
fn objects(format: ToolFormat, calls: &Value) -> Vec<String> {
    let object = |call: &Value| {
        let function = &call["function"];
        let arguments = &function["arguments"];
        // A client sends them as it got them, a string of JSON.
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        let arguments = parsed.unwrap_or_else(|| arguments.clone());
        spaced_json(json!({"name": function["name"], format.arguments_key(): arguments}))
    };
    calls.as_array().into_iter().flatten().map(object).collect()
}

fn instructions(format: ToolFormat, tools: &Value) -> String {
    let functions = tools.as_array().into_iter().flatten();
    let functions: Vec<String> = functions.map(|tool| spaced_json(tool.clone())).collect();
    let key = format.arguments_key();
    let call = format.write(&[format!("{{\"name\": <name>, \"{key}\": <object>}}")]);
    format!(
        "You may call functions to help the user. These are their signatures:\n<tools>\n{}\n\
         </tools>\nTo call a function, answer with its name and an object of {key} in this form:\n\
         {call}",
        functions.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_text() {
        let call = |arguments: &str| json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let messages = vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "Go."}),
            json!({"role": "assistant", "content": "", "tool_calls": [call("{\"a\":1}"), call("broken")]}),
            json!({"role": "tool", "tool_call_id": "1", "content": "one"}),
            json!({"role": "tool", "tool_call_id": "1", "content": "two"}),
        ];
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let plain = with_tools_as_text(ToolFormat::Hermes, messages, Some(&tools));
        assert_eq!(plain.len(), 4);
        insta::assert_snapshot!(text(&plain[0]));
        assert_eq!(
            text(&plain[2]),
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"f\", \"arguments\": \"broken\"}\n</tool_call>"
        );
        assert_eq!(plain[3]["role"], "user");
        assert_eq!(
            text(&plain[3]),
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
        );
    }
}
