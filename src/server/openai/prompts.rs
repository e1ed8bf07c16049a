//! Prompts as clients write them: a string, strings, token ids, or arrays of them.

use serde_json::Value;

use super::fields::{Fields, to_token, token_ids};
use crate::server::error::ApiError;

/// A prompt as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// To be tokenised.
    Text(String),
    /// Token ids, each below the vocabulary size.
    Tokens(Vec<u32>),
}

/// Takes the prompts in field `param`, which is required; at most `max_prompts`, all of one kind.
///
/// # Errors
/// Where there are none or too many, and where one is something else.
pub fn take_prompts(
    fields: &mut Fields,
    param: &str,
    vocab_size: usize,
    max_prompts: usize,
) -> Result<Vec<PromptInput>, ApiError> {
    let wrong = || {
        let message = format!(
            "`{param}` must be a string, an array of strings, an array of {}, or an array of \
             such arrays",
            token_ids(vocab_size)
        );
        ApiError::invalid(param, message)
    };
    let tokens = |values: &[Value]| {
        values.iter().map(|value| to_token(value, vocab_size)).collect::<Option<Vec<u32>>>()
    };
    let values = match fields.take(param) {
        None => return Err(fields.missing(param)),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(values)) if !values.is_empty() => values,
        Some(_) => return Err(wrong()),
    };
    if values[0].is_number() {
        return Ok(vec![PromptInput::Tokens(tokens(&values).ok_or_else(wrong)?)]);
    }
    if values.len() > max_prompts {
        let message = format!("`{param}` must hold at most {max_prompts} prompts");
        return Err(ApiError::invalid(param, message));
    }
    // All must be of the first one's kind.
    let strings = values[0].is_string();
    let prompt = |value: Value| match value {
        Value::String(text) if strings => Some(PromptInput::Text(text)),
        Value::Array(values) if !strings => Some(PromptInput::Tokens(tokens(&values)?)),
        _ => None,
    };
    values.into_iter().map(prompt).collect::<Option<_>>().ok_or_else(wrong)
}
