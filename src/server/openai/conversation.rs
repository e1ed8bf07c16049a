//! A conversation as a chat template takes it: messages and tools in the form the template
//! understands, with what clients wrote made harmless.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::tools::Tools;
use crate::server::chat_format::ChatFormat;
use crate::server::work::text_bytes;
use crate::text::chat_template::abilities::ArgumentsForm;
use crate::text::tokenizer::Tokenizer;
use crate::text::tool_format::ToolFormat;
use crate::text::tool_format::plain::with_tools_as_text;

/// Checked messages, and the functions on offer.
#[derive(Debug)]
pub struct Conversation {
    /// Objects, as `messages.rs` makes them.
    pub messages: Vec<Value>,
    /// Where a call may be made.
    pub tools: Option<Tools>,
}

/// What a template is given.
#[derive(Debug)]
pub struct TemplateInput {
    /// The messages.
    pub messages: Value,
    /// The functions, where the template shows them itself.
    pub tools: Option<Value>,
}

impl Conversation {
    /// Bytes of the texts in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tools = self.tools.as_ref().map_or(0, Tools::bytes);
        self.messages.iter().map(text_bytes).sum::<usize>() + tools
    }

    /// JSON values in it, beside the definitions of functions.
    #[must_use]
    pub fn values(&self) -> usize {
        self.messages.iter().map(num_values).sum()
    }

    /// The conversation in the form that the template for it takes.
    #[must_use]
    pub fn into_input(self, format: &ChatFormat) -> TemplateInput {
        let abilities = format.templates.pick(self.tools.is_some()).abilities();
        let tools = self.tools.as_ref().map(Tools::definitions);
        if !abilities.knows_tools {
            let tool_format = format.tool_format.unwrap_or(ToolFormat::Hermes);
            let messages = with_tools_as_text(tool_format, self.messages, tools.as_ref());
            return TemplateInput { messages: messages.into(), tools: None };
        }
        let mut messages = self.messages;
        if abilities.arguments == ArgumentsForm::Object {
            messages.iter_mut().for_each(arguments_as_objects);
        }
        TemplateInput { messages: messages.into(), tools }
    }
}

/// Reads the arguments of a message's calls. What a model once wrote may be no JSON: it stays text.
fn arguments_as_objects(message: &mut Value) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        let object = arguments.as_str().and_then(|text| {
            let text = if text.is_empty() { "{}" } else { text };
            serde_json::from_str::<Map<String, Value>>(text).ok()
        });
        if let Some(object) = object {
            *arguments = Value::Object(object);
        }
    }
}

fn num_values(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(num_values).sum(),
        Value::Object(map) => map.values().map(num_values).sum(),
        _ => 0,
    }
}

impl TemplateInput {
    /// The same with every string protected: names, contents, results, arguments and definitions.
    #[must_use]
    pub fn protected(self, tokenizer: &Tokenizer) -> Self {
        Self {
            messages: protected(tokenizer, self.messages),
            tools: self.tools.map(|tools| protected(tokenizer, tools)),
        }
    }
}

fn protected(tokenizer: &Tokenizer, value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(protected_text(tokenizer, text)),
        Value::Array(values) => {
            values.into_iter().map(|value| protected(tokenizer, value)).collect()
        }
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (protected_text(tokenizer, key), protected(tokenizer, value)))
                .collect(),
        ),
        other => other,
    }
}

fn protected_text(tokenizer: &Tokenizer, text: String) -> String {
    match tokenizer.protect(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(text) => text,
    }
}
