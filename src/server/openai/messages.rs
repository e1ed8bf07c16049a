//! The messages of a chat: checked, and brought to what chat templates understand, a role and a
//! string.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::server::error::ApiError;

/// Takes `messages`, which is required, as an array of `{"role", "content"}` and, where given,
/// `"name"`. Parts of text are joined by line breaks; a `developer` is the template's `system`.
///
/// # Errors
/// Where it is empty or not such an array, and for content other than text.
pub fn take_messages(fields: &mut Fields) -> Result<Value, ApiError> {
    let messages = fields.array("messages")?.ok_or_else(|| fields.missing("messages"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must not be empty"));
    }
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(number, value)| message(&format!("messages[{number}]"), value))
        .collect::<Result<_, _>>()?;
    Ok(Value::Array(messages))
}

fn message(param: &str, value: Value) -> Result<Value, ApiError> {
    let Value::Object(mut map) = value else {
        return Err(ApiError::invalid(param, format!("`{param}` must be an object")));
    };
    let content = map.swap_remove("content").unwrap_or(Value::Null);
    for name in ["tool_calls", "function_call", "tool_call_id", "audio"] {
        let asks = map.get(name).is_some_and(|value| !value.is_null() && *value != json!([]));
        if asks {
            return Err(ApiError::unsupported(format!("{param}.{name}")));
        }
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), Value::from(role(param, &mut map)?));
    message.insert("content".to_owned(), Value::from(text(&format!("{param}.content"), content)?));
    match map.swap_remove("name") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => {
            message.insert("name".to_owned(), Value::from(name));
        }
        Some(_) => {
            let param = format!("{param}.name");
            let message = format!("`{param}` must be a string");
            return Err(ApiError::invalid(param, message));
        }
    }
    Ok(Value::Object(message))
}

fn role(param: &str, map: &mut Map<String, Value>) -> Result<&'static str, ApiError> {
    let param = format!("{param}.role");
    match map.swap_remove("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some(role @ ("tool" | "function")) => {
            let message = format!("the role `{role}` is not supported by this server");
            Err(ApiError::invalid(param, message))
        }
        _ => {
            let message = format!("`{param}` must be `system`, `developer`, `user` or `assistant`");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// A message's text: a string, or the text parts of an array.
fn text(param: &str, content: Value) -> Result<String, ApiError> {
    let wrong =
        || ApiError::invalid(param, format!("`{param}` must be a string or an array of parts"));
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let texts = parts
                .into_iter()
                .enumerate()
                .map(|(number, part)| part_text(&format!("{param}[{number}]"), part))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(texts.join("\n"))
        }
        _ => Err(wrong()),
    }
}

fn part_text(param: &str, part: Value) -> Result<String, ApiError> {
    let Value::Object(mut part) = part else {
        return Err(ApiError::invalid(param, format!("`{param}` must be an object")));
    };
    match part.swap_remove("type").as_ref().and_then(Value::as_str) {
        Some("text") => match part.swap_remove("text") {
            Some(Value::String(text)) => Ok(text),
            _ => {
                let param = format!("{param}.text");
                let message = format!("`{param}` must be a string");
                Err(ApiError::invalid(param, message))
            }
        },
        Some(kind @ ("image_url" | "input_audio" | "file" | "video_url" | "audio_url")) => {
            let message = format!("parts of type `{kind}` are not supported by this server");
            Err(ApiError::invalid(format!("{param}.type"), message))
        }
        _ => {
            let param = format!("{param}.type");
            let message = format!("`{param}` must be `text`");
            Err(ApiError::invalid(param, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(messages: Value) -> Result<Value, ApiError> {
        take_messages(&mut Fields::new([("messages".to_owned(), messages)].into_iter().collect()))
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
    fn errors_name_the_very_place() {
        let cases = [
            (json!([]), "`messages` must not be empty"),
            (json!(["hi"]), "`messages[0]` must be an object"),
            (
                json!([{"content": "x"}]),
                "`messages[0].role` must be `system`, `developer`, `user` or `assistant`",
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
                json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]),
                "the role `tool` is not supported by this server",
            ),
            (
                json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
                "`messages[0].tool_calls` is not supported by this server",
            ),
        ];
        for (messages, expected) in cases {
            assert_eq!(take(messages).unwrap_err().to_string(), expected);
        }
    }
}
