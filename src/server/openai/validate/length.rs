//! How much is generated: `max_tokens` under each of its names, against the context.

use super::super::fields::Fields;
use crate::server::error::ApiError;

/// Takes `max_tokens` under one of its names, at least `min`.
///
/// # Errors
/// Where it is no such integer.
pub fn take_max_tokens<'a>(
    fields: &mut Fields,
    names: &[&'a str],
    min: i64,
) -> Result<Option<(&'a str, usize)>, ApiError> {
    let mut asked = None;
    for name in names {
        // Every name is checked, the first that is there counts.
        let value = fields.count(name, min..=i64::MAX)?;
        asked = asked.or(value.map(|value| (*name, value)));
    }
    Ok(asked)
}

/// Tokens to generate for a prompt of `prompt_len` tokens: what was asked, or `default`, or all
/// that fits.
///
/// # Errors
/// Where prompt and answer do not fit `max_model_len`.
pub fn fit_max_tokens(
    prompt: (&str, usize),
    asked: Option<(&str, usize)>,
    default: usize,
    max_model_len: usize,
) -> Result<usize, ApiError> {
    let (prompt_param, prompt_len) = prompt;
    let room = max_model_len.saturating_sub(prompt_len);
    if room == 0 {
        return Err(ApiError::context_length(
            prompt_param,
            format!(
                "this model's maximum context length is {max_model_len} tokens, and the prompt \
                 has {prompt_len}: it needs room for an answer"
            ),
        ));
    }
    match asked {
        None => Ok(default.min(room)),
        Some((_, asked)) if asked <= room => Ok(asked),
        Some((param, asked)) => Err(ApiError::context_length(
            param,
            format!(
                "this model's maximum context length is {max_model_len} tokens, and {} were asked \
                 for: {prompt_len} of the prompt and {asked} of `{param}`",
                prompt_len.saturating_add(asked)
            ),
        )),
    }
}
