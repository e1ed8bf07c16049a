//! `logprob_token_ids`: the tokens that log-probabilities are wanted of, whatever is likely.

use std::sync::Arc;

use super::super::fields::Fields;
use crate::server::error::ApiError;

const NAME: &str = "logprob_token_ids";
/// Most tokens that may be named, as with vLLM: each is written at each place of the answer.
const MAX_TOKENS: usize = 128;

/// Takes vLLM's `logprob_token_ids`, each once and in its order. `asked` says whether log-probabilities
/// of the answer were asked for, and `how` they are.
///
/// # Errors
/// Where it is empty, too long, without company, or an id is not the model's.
pub fn take_logprob_token_ids(
    fields: &mut Fields,
    vocab_size: usize,
    asked: bool,
    how: &str,
) -> Result<Option<Arc<[u32]>>, ApiError> {
    let Some(tokens) = fields.tokens(NAME, vocab_size, MAX_TOKENS)? else { return Ok(None) };
    if tokens.is_empty() {
        return Err(ApiError::invalid(NAME, format!("`{NAME}` must not be empty")));
    }
    if !asked {
        return Err(ApiError::invalid(NAME, format!("`{NAME}` is only allowed with {how}")));
    }
    let mut once: Vec<u32> = Vec::with_capacity(tokens.len());
    for token in tokens {
        if !once.contains(&token) {
            once.push(token);
        }
    }
    Ok(Some(once.into()))
}
