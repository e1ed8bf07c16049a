//! How tokens are chosen: every field of [`SamplingParams`] within its bounds.

use std::sync::Arc;

use serde_json::Value;

use super::super::fields::{Fields, token_ids};
use super::stop::take_stop_token_ids;
use crate::engine::request::{SamplingParams, TokenSet};
use crate::server::error::ApiError;
use crate::server::state::Serving;

/// Of a wrong key, as much as an error repeats.
const MAX_SHOWN_KEY_CHARS: usize = 40;

/// Takes every field of [`SamplingParams`] but `max_tokens`, which depends on the prompt.
///
/// # Errors
/// The first wrong one.
pub fn take_sampling(fields: &mut Fields, serving: &Serving) -> Result<SamplingParams, ApiError> {
    let defaults = serving.sampling_defaults;
    let top_k = fields.integer("top_k", -1..=i64::MAX)?;
    let max_len = i64::try_from(serving.max_model_len).unwrap_or(i64::MAX);
    let params = SamplingParams {
        temperature: fields
            .number("temperature", 0.0..=2.0)?
            .or(defaults.temperature)
            .unwrap_or(1.0),
        top_p: fields.number("top_p", 0.0..=1.0)?.or(defaults.top_p).unwrap_or(1.0),
        top_k: match top_k {
            None => defaults.top_k,
            Some(top_k) => usize::try_from(top_k).ok(),
        }
        .filter(|top_k| *top_k > 0),
        min_p: fields.number("min_p", 0.0..=1.0)?.or(defaults.min_p).unwrap_or(0.0),
        repetition_penalty: take_repetition_penalty(fields)?
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        logit_bias: take_logit_bias(fields, serving.vocab_size)?,
        allowed_token_ids: take_allowed_token_ids(fields, serving.vocab_size)?,
        // The engine wants 64 bits; every signed seed is one of its own.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
        max_tokens: 0,
        min_tokens: fields.count("min_tokens", 0..=max_len)?.unwrap_or(0),
        stop_token_ids: take_stop_token_ids(fields, serving)?,
    };
    check_can_begin(&params)?;
    Ok(params)
}

/// Checks that there is a first token: what ends an answer may not come before `min_tokens`.
fn check_can_begin(params: &SamplingParams) -> Result<(), ApiError> {
    let ends = |token: u32| params.stop_token_ids.binary_search(&token).is_ok();
    match &params.allowed_token_ids {
        Some(allowed) if params.min_tokens > 0 && allowed.iter().all(ends) => {
            let message = format!(
                "`allowed_token_ids` must hold a token that does not end the answer, for \
                 `min_tokens` is {}",
                params.min_tokens
            );
            Err(ApiError::invalid("allowed_token_ids", message))
        }
        _ => Ok(()),
    }
}

/// Finite and above zero; the upper bound keeps logits finite.
fn take_repetition_penalty(fields: &mut Fields) -> Result<Option<f32>, ApiError> {
    let penalty = fields.number("repetition_penalty", 0.0..=100.0)?;
    match penalty {
        Some(penalty) if penalty < 0.01 => Err(ApiError::invalid(
            "repetition_penalty",
            "`repetition_penalty` must be a number from 0.01 to 100",
        )),
        penalty => Ok(penalty),
    }
}

/// Takes vLLM's `allowed_token_ids`; none at all could never answer.
fn take_allowed_token_ids(
    fields: &mut Fields,
    vocab_size: usize,
) -> Result<Option<Arc<TokenSet>>, ApiError> {
    match fields.tokens("allowed_token_ids", vocab_size, vocab_size)? {
        Some(ids) if ids.is_empty() => {
            Err(ApiError::invalid("allowed_token_ids", "`allowed_token_ids` must not be empty"))
        }
        ids => Ok(ids.map(|ids| Arc::new(TokenSet::new(&ids, vocab_size)))),
    }
}

/// Takes `logit_bias`. A token is written in one way only, so that no two keys are the same token.
fn take_logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let wrong = |what: String| ApiError::invalid("logit_bias", what);
    let Some(value) = fields.take("logit_bias") else { return Ok(Arc::default()) };
    let Value::Object(map) = value else {
        return Err(wrong("`logit_bias` must be an object".to_owned()));
    };
    map.into_iter()
        .map(|(key, bias)| {
            let token = to_token_key(&key, vocab_size).ok_or_else(|| {
                let expected = token_ids(vocab_size);
                let key = shown(&key);
                wrong(format!("the keys of `logit_bias` must be {expected}: {key} is none"))
            })?;
            let bias = Fields::new([("logit_bias".to_owned(), bias)].into_iter().collect())
                .number("logit_bias", -100.0..=100.0)
                .map_err(|_| {
                    let key = shown(&key);
                    wrong(format!(
                        "the values of `logit_bias` must be numbers from -100 to 100: that of \
                         {key} is none"
                    ))
                })?;
            Ok((token, bias.unwrap_or(0.0)))
        })
        .collect()
}

/// The token that a key names: its id in digits, without a sign or zeros before them.
fn to_token_key(key: &str, vocab_size: usize) -> Option<u32> {
    let token = key.parse::<u32>().ok().filter(|token| token.to_string() == key)?;
    usize::try_from(token).is_ok_and(|token| token < vocab_size).then_some(token)
}

/// A key of a request, quoted and no longer than an error should be.
fn shown(key: &str) -> String {
    match key.char_indices().nth(MAX_SHOWN_KEY_CHARS) {
        Some((end, _)) => format!("{:?}…", &key[..end]),
        None => format!("{key:?}"),
    }
}
