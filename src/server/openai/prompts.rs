//! Prompts as clients write them: a string, strings, token ids, or arrays of them.

use serde_json::Value;

use super::fields::{Fields, are_tokens, token_ids};
use crate::server::body::json::Ids;
use crate::server::error::ApiError;

/// A prompt as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// To be tokenised.
    Text(String),
    /// Token ids, each below the vocabulary size.
    Tokens(Vec<u32>),
}

impl PromptInput {
    /// Its text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => size_of_val(tokens.as_slice()),
        }
    }
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
    if let Some(ids) = fields.ids(param) {
        let lists = match ids {
            Ids::One(list) => vec![list],
            Ids::Many(lists) => lists,
        };
        check_count(param, lists.len(), max_prompts)?;
        if lists.iter().all(|list| are_tokens(list, vocab_size)) {
            return Ok(lists.into_iter().map(PromptInput::Tokens).collect());
        }
        return Err(wrong());
    }
    let values = match fields.take(param) {
        None => return Err(fields.missing(param)),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(values)) if !values.is_empty() => values,
        Some(_) => return Err(wrong()),
    };
    check_count(param, values.len(), max_prompts)?;
    let prompt = |value: Value| match value {
        Value::String(text) => Some(PromptInput::Text(text)),
        _ => None,
    };
    values.into_iter().map(prompt).collect::<Option<_>>().ok_or_else(wrong)
}

fn check_count(param: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("`{param}` must hold at most {most} prompts")))
}
