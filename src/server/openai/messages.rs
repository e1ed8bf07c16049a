//! The messages of a chat: checked, and brought to what chat templates understand: roles, strings,
//! and calls whose arguments are strings of JSON.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::text_parts::text;
use crate::server::error::ApiError;

/// Messages of a conversation.
pub const MAX_MESSAGES: usize = 16_384;
/// Past calls of one message.
const MAX_CALLS: usize = 1024;

/// Takes `messages`, which is required. Parts of text are joined by line breaks; a `developer` is
/// the template's `system`.
///
/// # Errors
/// Where it is empty or no array of messages, and for content other than text.
pub fn take_messages(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let messages =
        fields.array_of("messages", MAX_MESSAGES)?.ok_or_else(|| fields.missing("messages"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must not be empty"));
    }
    let numbered = messages.into_iter().enumerate();
    numbered.map(|(number, value)| message(&format!("messages[{number}]"), value)).collect()
}

fn message(param: &str, value: Value) -> Result<Value, ApiError> {
    let mut fields = Fields::nested(param, value)?;
    for name in ["function_call", "audio"] {
        if fields.take(name).is_some() {
            return Err(ApiError::unsupported(format!("{param}.{name}")));
        }
    }
    let role = role(param, &mut fields)?;
    let calls = fields.array_of("tool_calls", MAX_CALLS)?.unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        return Err(only_for(param, "tool_calls", "assistant"));
    }
    let content_param = format!("{param}.content");
    let content = match fields.take("content") {
        // An assistant may have said nothing: it called, or was cut off.
        None if role == "assistant" && (!calls.is_empty() || fields.has("refusal")) => {
            fields.string("refusal")?.unwrap_or_default()
        }
        content => text(&content_param, content, &["text"])?,
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content.into());
    let (name, thoughts) = (fields.string("name")?, fields.string("reasoning_content")?);
    // Its newer name, which templates do not know.
    let thoughts = thoughts.or(fields.string("reasoning")?);
    for (key, text) in [("name", name), ("reasoning_content", thoughts)] {
        if let Some(text) = text {
            message.insert(key.to_owned(), text.into());
        }
    }
    match fields.string("tool_call_id")? {
        Some(_) if role != "tool" => return Err(only_for(param, "tool_call_id", "tool")),
        Some(id) => {
            message.insert("tool_call_id".to_owned(), id.into());
        }
        None if role == "tool" => return Err(fields.missing("tool_call_id")),
        None => {}
    }
    if !calls.is_empty() {
        let numbered = calls.into_iter().enumerate();
        let calls: Result<Vec<Value>, ApiError> = numbered
            .map(|(number, value)| call(&format!("{param}.tool_calls[{number}]"), value))
            .collect();
        message.insert("tool_calls".to_owned(), calls?.into());
    }
    Ok(Value::Object(message))
}

fn only_for(param: &str, name: &str, role: &str) -> ApiError {
    let param = format!("{param}.{name}");
    let message = format!("`{param}` is only allowed where the role is `{role}`");
    ApiError::invalid(param, message)
}

fn role(param: &str, fields: &mut Fields) -> Result<&'static str, ApiError> {
    let param = format!("{param}.role");
    match fields.take("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some("function") => {
            let message = "the role `function` is not supported by this server: use `tool`";
            Err(ApiError::invalid(param, message))
        }
        _ => {
            let message =
                format!("`{param}` must be `system`, `developer`, `user`, `assistant` or `tool`");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// A past call of a function.
fn call(param: &str, value: Value) -> Result<Value, ApiError> {
    let mut fields = Fields::nested(param, value)?;
    match fields.string("type")?.as_deref() {
        None | Some("function") => {}
        Some(kind) => {
            let message = format!("calls of type `{kind}` are not supported by this server");
            return Err(ApiError::invalid(format!("{param}.type"), message));
        }
    }
    let id = fields.string("id")?.ok_or_else(|| fields.missing("id"))?;
    let mut function = fields.object("function")?.ok_or_else(|| fields.missing("function"))?;
    let name = function.string("name")?.ok_or_else(|| function.missing("name"))?;
    let arguments = function.string("arguments")?.ok_or_else(|| function.missing("arguments"))?;
    Ok(past_call(id, name, arguments))
}

/// A past call as it stands in a message; `arguments` are a string of JSON.
#[must_use]
pub fn past_call(id: String, name: String, arguments: String) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"id": id, "type": "function", "function": function})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(messages: Value) -> Result<Value, ApiError> {
        let fields = [("messages".to_owned(), messages)].into_iter().collect();
        take_messages(&mut Fields::new(fields)).map(Value::Array)
    }

    #[test]
    fn parts_are_joined_and_developers_are_systems() {
        let messages = json!([
            {"role": "developer", "content": "be brief", "name": "op"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ]);
        let expected = json!([
            {"role": "system", "content": "be brief", "name": "op"},
            {"role": "user", "content": "a\nb"},
        ]);
        assert_eq!(take(messages), Ok(expected));
    }

    #[test]
    fn calls_and_their_results_are_passed_on() {
        let call =
            json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let messages = json!([
            {"role": "assistant", "content": null, "tool_calls": [call], "refusal": null, "audio": null},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}]},
            {"role": "assistant", "refusal": "no"},
            {"role": "assistant", "content": "a", "reasoning": "hm"},
            {"role": "assistant", "content": "a", "reasoning": "hm", "reasoning_content": "so"},
        ]);
        let expected = json!([
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
            {"role": "assistant", "content": "no"},
            {"role": "assistant", "content": "a", "reasoning_content": "hm"},
            {"role": "assistant", "content": "a", "reasoning_content": "so"},
        ]);
        assert_eq!(take(messages), Ok(expected));
    }

    #[test]
    fn errors_name_the_very_place() {
        let called =
            |call: Value| json!([{"role": "assistant", "content": "a", "tool_calls": [call]}]);
        let cases = [
            (json!([]), "`messages` must not be empty"),
            (json!(["hi"]), "`messages[0]` must be an object"),
            (
                json!([{"content": "x"}]),
                "`messages[0].role` must be `system`, `developer`, `user`, `assistant` or `tool`",
            ),
            (
                json!([{"role": "user"}]),
                "`messages[0].content` must be a string or an array of parts",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "parts of type `image_url` are not supported by this server",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "`messages[0].content[0].text` is required",
            ),
            (
                json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]),
                "`messages[1].tool_call_id` is required",
            ),
            (
                json!([{"role": "function", "name": "f", "content": "b"}]),
                "the role `function` is not supported by this server: use `tool`",
            ),
            (
                json!([{"role": "user", "content": "a", "tool_call_id": "b"}]),
                "`messages[0].tool_call_id` is only allowed where the role is `tool`",
            ),
            (called(json!({})), "`messages[0].tool_calls[0].id` is required"),
            (
                called(json!({"id": "1", "type": "custom"})),
                "calls of type `custom` are not supported by this server",
            ),
            (
                called(json!({"id": "1", "function": {"name": "f", "arguments": {}}})),
                "`messages[0].tool_calls[0].function.arguments` must be a string",
            ),
        ];
        for (messages, expected) in cases {
            assert_eq!(take(messages).unwrap_err().to_string(), expected);
        }
    }
}
