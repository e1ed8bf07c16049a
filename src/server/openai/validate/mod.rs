//! What completions and chats have in common: their shared fields, checked against the API's bounds
//! and the loaded model. Each kind of field has a file of its own.

pub mod accepted;
pub mod effort;
pub mod form;
pub mod length;
pub mod logprobs;
pub mod refused;
pub mod sampling;
pub mod stop;
pub mod stream;
pub mod truncation;

use std::sync::Arc;

use self::form::take_form;
use self::sampling::take_sampling;
use self::stop::take_stop;
use self::stream::{StreamOptions, take_stream};
use self::truncation::Truncation;
use super::fields::Fields;
use super::model::Model;
use crate::engine::request::SamplingParams;
use crate::server::error::ApiError;
use crate::server::form::Form;
use crate::server::state::Serving;

/// Most top tokens that may be asked for.
pub const MAX_LOGPROBS: i64 = 20;
const MAX_CHOICES: i64 = 128;
const MAX_SALT_BYTES: usize = 1024;
/// Most tokens that may be guessed ahead: each is a row of its own to compute.
const MAX_SPECULATIVE_TOKENS: i64 = 16;

/// Which token ids an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenIds {
    /// Those of prompt and answer, in fields of their own.
    pub returned: bool,
    /// In place of the tokens' texts in log-probabilities.
    pub as_tokens: bool,
}

/// The fields completions and chats share.
#[derive(Debug)]
pub struct Common {
    /// What answers.
    pub model: Model,
    /// Choices per prompt.
    pub n: usize,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// Whether what ends a choice's text is part of it.
    pub include_stop: bool,
    /// Which part of a prompt is read, where not all is.
    pub truncation: Option<Truncation>,
    /// Which ids the answer repeats.
    pub token_ids: TokenIds,
    /// `None` asks for one whole answer.
    pub stream: Option<StreamOptions>,
    /// Everything but `max_tokens`, which depends on the prompt.
    pub sampling: SamplingParams,
    /// Leaves special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Top tokens to report for each prompt token.
    pub prompt_logprobs: Option<usize>,
    /// Cached prompts are shared among requests of one salt.
    pub cache_salt: Arc<str>,
    /// What each text obeys, until it is compiled.
    pub form: Option<Form>,
    /// Tokens to guess ahead at most.
    pub num_speculative_tokens: usize,
}

impl Common {
    /// Takes the shared fields.
    ///
    /// # Errors
    /// Each wrong field.
    pub fn take(fields: &mut Fields, model: Model, serving: &Serving) -> Result<Self, ApiError> {
        let stream = take_stream(fields)?;
        let prompt_logprobs = fields.count("prompt_logprobs", 0..=MAX_LOGPROBS)?;
        if stream.is_some() && prompt_logprobs.is_some() {
            let message = "`prompt_logprobs` is not available with `stream`";
            return Err(ApiError::invalid("prompt_logprobs", message));
        }
        Ok(Self {
            model,
            n: fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1),
            stop: take_stop(fields)?,
            include_stop: fields.boolean("include_stop_str_in_output", false)?,
            truncation: Truncation::take(fields, serving.max_model_len)?,
            token_ids: TokenIds {
                returned: fields.boolean("return_token_ids", false)?,
                as_tokens: fields.boolean("return_tokens_as_token_ids", false)?,
            },
            stream,
            sampling: take_sampling(fields, serving)?,
            skip_special_tokens: fields.boolean("skip_special_tokens", true)?,
            prompt_logprobs,
            cache_salt: take_cache_salt(fields)?,
            form: take_form(fields)?,
            num_speculative_tokens: fields
                .count("num_speculative_tokens", 0..=MAX_SPECULATIVE_TOKENS)?
                .unwrap_or(serving.speculative_lookup),
        })
    }
}

/// Takes vLLM's `cache_salt`; requests without one have the empty one in common.
///
/// # Errors
/// Where it is empty, too long or no string.
pub fn take_cache_salt(fields: &mut Fields) -> Result<Arc<str>, ApiError> {
    match fields.string("cache_salt")? {
        Some(salt) if salt.is_empty() => {
            Err(ApiError::invalid("cache_salt", "`cache_salt` must not be empty"))
        }
        Some(salt) if salt.len() > MAX_SALT_BYTES => {
            let message = format!("`cache_salt` must have at most {MAX_SALT_BYTES} bytes");
            Err(ApiError::invalid("cache_salt", message))
        }
        salt => Ok(salt.unwrap_or_default().into()),
    }
}

/// Takes `best_of`, which may only repeat `n`.
///
/// # Errors
/// Where it asks for more choices than it returns, or for fewer.
pub fn take_best_of(fields: &mut Fields, n: usize) -> Result<(), ApiError> {
    match fields.count("best_of", 0..=MAX_LOGPROBS)? {
        Some(best_of) if best_of > n => Err(ApiError::unsupported("best_of")),
        Some(best_of) if best_of > 0 && best_of < n => Err(ApiError::invalid(
            "best_of",
            format!("`best_of` must be at least `n`, which is {n}"),
        )),
        _ => Ok(()),
    }
}
