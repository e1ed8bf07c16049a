//! Messages through the model's chat template to token ids. Templates are the operator's, never a
//! request's, and a request sets no variable of them but those named here. Where the operator asks
//! for it, only the template writes special tokens, and those in a message are text.

use std::borrow::Cow;

use serde_json::Value;

use super::convert;
use super::fields::Fields;
use crate::server::error::ApiError;
use crate::server::state::{ServerConfig, Serving};
use crate::text::chat_template::{ChatTemplateError, RenderOptions};
use crate::text::tokenizer::Tokenizer;

/// What a request may tell the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateOptions {
    add_generation_prompt: bool,
    enable_thinking: Option<bool>,
}

impl TemplateOptions {
    /// Takes `add_generation_prompt`, and `enable_thinking` from `chat_template_kwargs`.
    ///
    /// # Errors
    /// Where one is no boolean, and for any other variable.
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let add_generation_prompt = fields.boolean("add_generation_prompt", true)?;
        let mut enable_thinking = None;
        if let Some(mut variables) = fields.object("chat_template_kwargs")? {
            if variables.has("enable_thinking") {
                enable_thinking = Some(variables.boolean("enable_thinking", false)?);
            }
            if let Some(other) = variables.rest().next() {
                return Err(ApiError::unsupported(format!("chat_template_kwargs.{other}")));
            }
        }
        Ok(Self { add_generation_prompt, enable_thinking })
    }
}

/// Renders and tokenises checked messages. Slow for long ones: not for async threads.
///
/// # Errors
/// Where the model has no template, and where the template refuses the messages.
pub fn chat(
    config: &ServerConfig,
    serving: &Serving,
    messages: Value,
    options: TemplateOptions,
    add_special_tokens: bool,
) -> Result<Vec<u32>, ApiError> {
    let template = serving.chat_template.as_ref().ok_or_else(|| {
        let message = "this model has no chat template: use `/v1/completions`";
        ApiError::invalid("messages", message)
    })?;
    let tokenizer = &serving.tokenizer;
    let messages =
        if config.escape_special_tokens { protected(tokenizer, messages) } else { messages };
    let add_generation_prompt = options.add_generation_prompt;
    let options =
        RenderOptions { enable_thinking: options.enable_thinking, ..RenderOptions::default() };
    let text = template
        .render(&messages, add_generation_prompt, &options)
        .map_err(|error| refusal(tokenizer, &error))?;
    tokenizer
        .encode_rendered(&text, add_special_tokens)
        .map_err(|error| convert::not_tokenised(&error, "messages"))
}

/// Every string of the client's in `messages`, protected; a `role` is ours.
fn protected(tokenizer: &Tokenizer, mut messages: Value) -> Value {
    let messages_of = messages.as_array_mut().into_iter().flatten();
    for (name, value) in messages_of.filter_map(Value::as_object_mut).flatten() {
        if let Value::String(text) = value
            && name != "role"
            && let Cow::Owned(text) = tokenizer.protect(text)
        {
            *value = Value::String(text);
        }
    }
    messages
}

fn refusal(tokenizer: &Tokenizer, error: &ChatTemplateError) -> ApiError {
    match error {
        ChatTemplateError::Compile(_) => {
            tracing::error!(%error, "bug: a template that compiled does not compile");
            ApiError::internal()
        }
        ChatTemplateError::Render(_) => {
            // Its lines are the operator's, not the client's.
            tracing::warn!(%error, "a chat template failed");
            ApiError::invalid("messages", "the chat template cannot render these messages")
        }
        // A refusal may repeat the message it refuses.
        error => ApiError::invalid("messages", tokenizer.reveal(&error.to_string())),
    }
}
