//! Messages through the model's chat template. Templates are the operator's, never a request's.

use serde_json::Value;

use super::fields::Fields;
use crate::server::error::ApiError;
use crate::server::state::Serving;
use crate::text::chat_template::RenderOptions;

/// Renders checked messages. Slow for long ones: not for async threads.
///
/// # Errors
/// Where the model has no template, and where the template refuses the messages.
pub fn chat(
    serving: &Serving,
    messages: &Value,
    add_generation_prompt: bool,
) -> Result<String, ApiError> {
    let template = serving.chat_template.as_ref().ok_or_else(|| {
        let message = "this model has no chat template: use `/v1/completions`";
        ApiError::invalid("messages", message)
    })?;
    let options = RenderOptions::default();
    template.render(messages, add_generation_prompt, &options).map_err(|error| {
        match error.refusal() {
            Some(refusal) => ApiError::invalid(
                "messages",
                format!("the chat template refuses these messages: {refusal}"),
            ),
            None => {
                tracing::warn!(%error, "the chat template failed");
                ApiError::invalid("messages", "the chat template cannot render these messages")
            }
        }
    })
}

/// Takes `chat_template_kwargs`, which may be empty.
///
/// # Errors
/// Where it is not.
pub fn take_template_options(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.object("chat_template_kwargs")? {
        Some(options) if options.rest().next().is_some() => {
            Err(ApiError::unsupported("chat_template_kwargs"))
        }
        _ => Ok(()),
    }
}
