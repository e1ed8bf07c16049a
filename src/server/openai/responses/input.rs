//! `input` and `instructions` as the messages of a chat: items of a response given back by the client
//! become the turns they were.

use serde_json::{Map, Value, json};

use super::super::fields::{Fields, check_len};
use super::super::messages::{MAX_MESSAGES, past_call};
use super::super::text_parts::{MAX_PARTS, text};
use crate::server::error::ApiError;

/// Takes `input`, which is required, after the `instructions`.
///
/// # Errors
/// Where it is empty, neither a string nor an array of items, and for items that are not supported.
pub fn take_input(fields: &mut Fields, instructions: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let mut turns = Turns::default();
    if let Some(instructions) = instructions {
        turns.say("system", instructions.to_owned());
    }
    match fields.take("input") {
        None => return Err(fields.missing("input")),
        Some(Value::String(text)) => turns.say("user", text),
        Some(Value::Array(items)) if !items.is_empty() => {
            check_len("input", items.len(), MAX_MESSAGES)?;
            for (number, item) in items.into_iter().enumerate() {
                turns.take_item(&format!("input[{number}]"), item)?;
            }
        }
        Some(_) => {
            let message = "`input` must be a string or an array of at least one item";
            return Err(ApiError::invalid("input", message));
        }
    }
    Ok(turns.messages)
}

#[derive(Debug, Default)]
struct Turns {
    messages: Vec<Value>,
    /// Thoughts, until the turn they led to.
    reasoning: Option<String>,
}

impl Turns {
    fn take_item(&mut self, param: &str, item: Value) -> Result<(), ApiError> {
        let mut item = Fields::nested(param, item)?;
        match item.string("type")?.as_deref() {
            None | Some("message") => self.take_message(param, &mut item),
            Some("function_call") => self.take_call(&mut item),
            Some("function_call_output") => self.take_call_output(param, &mut item),
            Some("reasoning") => self.take_reasoning(param, &mut item),
            Some("item_reference") => {
                let message = "this server keeps no items: give the item itself";
                Err(ApiError::invalid(format!("{param}.type"), message))
            }
            Some(kind) => {
                let message = format!("items of type `{kind}` are not supported by this server");
                Err(ApiError::invalid(format!("{param}.type"), message))
            }
        }
    }

    fn take_message(&mut self, param: &str, item: &mut Fields) -> Result<(), ApiError> {
        let role = match item.string("role")?.as_deref() {
            Some("system" | "developer") => "system",
            Some("user") => "user",
            Some("assistant") => "assistant",
            _ => {
                let param = format!("{param}.role");
                let message =
                    format!("`{param}` must be `user`, `assistant`, `system` or `developer`");
                return Err(ApiError::invalid(param, message));
            }
        };
        let text = take_text(param, "content", item)?;
        self.say(role, text);
        Ok(())
    }

    /// A turn of its own. What was thought before belongs to the turn of an assistant.
    fn say(&mut self, role: &str, text: String) {
        let mut message = Map::new();
        message.insert("role".to_owned(), role.into());
        message.insert("content".to_owned(), text.into());
        self.push(message);
    }

    fn push(&mut self, mut message: Map<String, Value>) {
        let thoughts = self.reasoning.take().filter(|_| message["role"] == "assistant");
        if let Some(thoughts) = thoughts {
            message.insert("reasoning_content".to_owned(), thoughts.into());
        }
        self.messages.push(message.into());
    }

    /// Calls follow what was said in the same turn.
    fn take_call(&mut self, item: &mut Fields) -> Result<(), ApiError> {
        let id = item.string("call_id")?.ok_or_else(|| item.missing("call_id"))?;
        let name = item.string("name")?.ok_or_else(|| item.missing("name"))?;
        let arguments = item.string("arguments")?.ok_or_else(|| item.missing("arguments"))?;
        let continues = self.reasoning.is_none()
            && self.messages.last().is_some_and(|last| last["role"] == "assistant");
        if !continues {
            self.say("assistant", String::new());
        }
        let call = past_call(id, name, arguments);
        if let Some(Value::Object(turn)) = self.messages.last_mut() {
            let calls = turn.entry("tool_calls").or_insert_with(|| json!([]));
            calls.as_array_mut().into_iter().for_each(|calls| calls.push(call.clone()));
        }
        Ok(())
    }

    fn take_call_output(&mut self, param: &str, item: &mut Fields) -> Result<(), ApiError> {
        let id = item.string("call_id")?.ok_or_else(|| item.missing("call_id"))?;
        let text = take_text(param, "output", item)?;
        let mut message = Map::new();
        message.insert("role".to_owned(), "tool".into());
        message.insert("content".to_owned(), text.into());
        message.insert("tool_call_id".to_owned(), id.into());
        self.push(message);
        Ok(())
    }

    fn take_reasoning(&mut self, param: &str, item: &mut Fields) -> Result<(), ApiError> {
        let content = item.array_of("content", MAX_PARTS)?.unwrap_or_default();
        for (number, part) in content.into_iter().enumerate() {
            let mut part = Fields::nested(&format!("{param}.content[{number}]"), part)?;
            let text = part.string("text")?.ok_or_else(|| part.missing("text"))?;
            self.reasoning.get_or_insert_default().push_str(&text);
        }
        Ok(())
    }
}

/// Takes a text: a string, or the text parts of an array.
fn take_text(param: &str, name: &str, item: &mut Fields) -> Result<String, ApiError> {
    text(&format!("{param}.{name}"), item.take(name), &["input_text", "output_text", "text"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(input: Value, instructions: Option<&str>) -> Result<Value, ApiError> {
        let fields = [("input".to_owned(), input)].into_iter().collect();
        take_input(&mut Fields::new(fields), instructions).map(Value::Array)
    }

    #[test]
    fn items_become_the_turns_they_were() {
        let input = json!([
            {"role": "developer", "content": "be brief"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [],
             "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "let me see", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"x\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2",
             "output": [{"type": "input_text", "text": "2"}]},
            {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        ]);
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "be kind"},
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "let me see", "reasoning_content": "hm",
             "tool_calls": [call("c1", "f", "{}"), call("c2", "g", "{\"x\":1}")]},
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
            {"role": "tool", "content": "2", "tool_call_id": "c2"},
            {"role": "assistant", "content": "", "tool_calls": [call("c3", "f", "{}")]},
        ]);
        assert_eq!(take(input, Some("be kind")), Ok(expected));
    }

    #[test]
    fn errors_name_the_very_place() {
        let cases = [
            (json!([]), "`input` must be a string or an array of at least one item"),
            (json!(5), "`input` must be a string or an array of at least one item"),
            (json!([5]), "`input[0]` must be an object"),
            (json!([{"role": "user"}]), "`input[0].content` must be a string or an array of parts"),
            (
                json!([{"role": "robot", "content": "x"}]),
                "`input[0].role` must be `user`, `assistant`, `system` or `developer`",
            ),
            (
                json!([{"role": "user", "content": [{"type": "input_image"}]}]),
                "parts of type `input_image` are not supported by this server",
            ),
            (
                json!([{"type": "item_reference", "id": "msg_1"}]),
                "this server keeps no items: give the item itself",
            ),
            (
                json!([{"type": "web_search_call", "id": "ws_1"}]),
                "items of type `web_search_call` are not supported by this server",
            ),
            (
                json!([{"type": "function_call", "call_id": "c", "name": "f"}]),
                "`input[0].arguments` is required",
            ),
            (
                json!([{"type": "function_call_output", "output": "1"}]),
                "`input[0].call_id` is required",
            ),
        ];
        for (input, expected) in cases {
            assert_eq!(take(input, None).unwrap_err().to_string(), expected);
        }
    }
}
