//! What completions and chats have in common: their shared fields, checked against the API's
//! bounds and the loaded model, and the fields that are refused, ignored or unknown.

use serde_json::Value;

use super::fields::{Fields, to_token, token_ids};
use crate::adapter::registry::Target;
use crate::engine::request::SamplingParams;
use crate::server::error::ApiError;
use crate::server::state::Serving;

/// Most top tokens that may be asked for.
pub const MAX_LOGPROBS: i64 = 20;
const MAX_CHOICES: i64 = 128;
/// Most tokens that may be guessed ahead: each is a row of its own to compute.
const MAX_SPECULATIVE_TOKENS: i64 = 16;
const MAX_STOPS: usize = 4;

/// Fields that change nothing here: accepted, checked by nobody.
const IGNORED: [&str; 18] = [
    "metadata",
    "moderation",
    "mm_processor_kwargs",
    "parallel_tool_calls",
    "prediction",
    "priority",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "request_id",
    "safety_identifier",
    "service_tier",
    "spaces_between_special_tokens",
    "store",
    "user",
    "verbosity",
    "length_penalty",
];

/// Fields that ask for what this server does not do. Refused, unless they ask for nothing.
const REFUSED: [&str; 30] = [
    "allowed_token_ids",
    "audio",
    "bad_words",
    "chat_template",
    "continue_final_message",
    "documents",
    "function_call",
    "functions",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "include_stop_str_in_output",
    "kv_transfer_params",
    "logits_processors",
    "prompt_embeds",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "structured_outputs",
    "suffix",
    "thinking_token_budget",
    "tool_choice",
    "tools",
    "truncate_prompt_tokens",
    "use_beam_search",
    "vllm_xargs",
    "web_search_options",
    "echo",
];

/// How a stream reports usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// One more chunk, with the usage and no choices.
    pub include_usage: bool,
    /// The usage so far on every chunk.
    pub continuous_usage_stats: bool,
}

/// The fields completions and chats share.
#[derive(Debug)]
pub struct Common {
    /// The name the client used, repeated in the answer.
    pub model: String,
    /// What it stands for.
    pub target: Target,
    /// Choices per prompt.
    pub n: usize,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// `None` asks for one whole answer.
    pub stream: Option<StreamOptions>,
    /// Everything but `max_tokens`, which depends on the prompt.
    pub sampling: SamplingParams,
    /// Leaves special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Top tokens to report for each prompt token.
    pub prompt_logprobs: Option<usize>,
    /// Cached prompts are shared among requests of one salt.
    pub cache_salt: String,
    /// Tokens to guess ahead at most.
    pub num_speculative_tokens: usize,
}

impl Common {
    /// Takes the shared fields.
    ///
    /// # Errors
    /// Each wrong field, and an unknown model.
    pub fn take(fields: &mut Fields, serving: &Serving) -> Result<Self, ApiError> {
        let (model, target) = take_model(fields, serving)?;
        let stream = take_stream(fields)?;
        let prompt_logprobs = fields.count("prompt_logprobs", 0..=MAX_LOGPROBS)?;
        if stream.is_some() && prompt_logprobs.is_some() {
            let message = "`prompt_logprobs` is not available with `stream`";
            return Err(ApiError::invalid("prompt_logprobs", message));
        }
        Ok(Self {
            model,
            target,
            n: fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1),
            stop: take_stop(fields)?,
            stream,
            sampling: take_sampling(fields, serving)?,
            skip_special_tokens: fields.boolean("skip_special_tokens", true)?,
            prompt_logprobs,
            cache_salt: take_cache_salt(fields)?,
            num_speculative_tokens: fields
                .count("num_speculative_tokens", 0..=MAX_SPECULATIVE_TOKENS)?
                .unwrap_or(serving.speculative_lookup),
        })
    }
}

/// Takes `model`, which is required.
fn take_model(fields: &mut Fields, serving: &Serving) -> Result<(String, Target), ApiError> {
    let model = fields.string("model")?.ok_or_else(|| fields.missing("model"))?;
    match serving.registry.resolve(&model) {
        Some(target) => Ok((model, target)),
        None => Err(ApiError::model_not_found(&model)),
    }
}

/// Takes vLLM's `cache_salt`; requests without one have the empty one in common.
fn take_cache_salt(fields: &mut Fields) -> Result<String, ApiError> {
    match fields.string("cache_salt")? {
        Some(salt) if salt.is_empty() => {
            Err(ApiError::invalid("cache_salt", "`cache_salt` must not be empty"))
        }
        salt => Ok(salt.unwrap_or_default()),
    }
}

fn take_stream(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.boolean("stream", false)?;
    let options = fields.object("stream_options")?;
    if !stream {
        return match options {
            None => Ok(None),
            Some(_) => Err(ApiError::invalid(
                "stream_options",
                "`stream_options` is only allowed with `stream`: true",
            )),
        };
    }
    let mut options = options.unwrap_or_else(|| Fields::new(serde_json::Map::new()));
    Ok(Some(StreamOptions {
        include_usage: options.boolean("include_usage", false)?,
        continuous_usage_stats: options.boolean("continuous_usage_stats", false)?,
    }))
}

fn take_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let wrong =
        || ApiError::invalid("stop", "`stop` must be a string or an array of 1 to 4 strings");
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => stops
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    if stops.len() > MAX_STOPS {
        return Err(wrong());
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "`stop` must not hold an empty string"));
    }
    Ok(stops)
}

/// Takes every field of [`SamplingParams`] but `max_tokens`.
fn take_sampling(fields: &mut Fields, serving: &Serving) -> Result<SamplingParams, ApiError> {
    let defaults = serving.sampling_defaults;
    let top_k = fields.integer("top_k", -1..=i64::MAX)?;
    let max_len = i64::try_from(serving.max_model_len).unwrap_or(i64::MAX);
    Ok(SamplingParams {
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
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        repetition_penalty: take_repetition_penalty(fields)?
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        logit_bias: take_logit_bias(fields, serving.vocab_size)?,
        // The engine wants 64 bits; every signed seed is one of its own.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
        max_tokens: 0,
        min_tokens: fields.count("min_tokens", 0..=max_len)?.unwrap_or(0),
        stop_token_ids: take_stop_token_ids(fields, serving)?,
    })
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

fn take_stop_token_ids(fields: &mut Fields, serving: &Serving) -> Result<Vec<u32>, ApiError> {
    let own = fields.tokens("stop_token_ids", serving.vocab_size)?.unwrap_or_default();
    let ignore_eos = fields.boolean("ignore_eos", false)?;
    let mut stops = if ignore_eos { Vec::new() } else { serving.eos_token_ids.clone() };
    stops.extend(own);
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

fn take_logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = |what: String| ApiError::invalid("logit_bias", what);
    let Some(value) = fields.take("logit_bias") else { return Ok(Vec::new()) };
    let Value::Object(map) = value else {
        return Err(wrong("`logit_bias` must be an object".to_owned()));
    };
    map.into_iter()
        .map(|(key, bias)| {
            let token = key
                .parse::<i64>()
                .ok()
                .and_then(|token| to_token(&Value::from(token), vocab_size))
                .ok_or_else(|| {
                    wrong(format!("the keys of `logit_bias` must be {}", token_ids(vocab_size)))
                })?;
            let bias = Fields::new([("logit_bias".to_owned(), bias)].into_iter().collect())
                .number("logit_bias", -100.0..=100.0)
                .map_err(|_| {
                    wrong("the values of `logit_bias` must be numbers from -100 to 100".to_owned())
                })?;
            Ok((token, bias.unwrap_or(0.0)))
        })
        .collect()
}

/// Looks at what is left: refuses what would change the answer's meaning, and counts what nobody
/// knows.
///
/// # Errors
/// The first refused field, by name.
pub fn take_rest(mut fields: Fields) -> Result<usize, ApiError> {
    take_response_format(&mut fields)?;
    let modalities = fields.array("modalities")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(ApiError::unsupported("modalities"));
    }
    for name in REFUSED {
        if fields.take(name).is_some_and(|value| asks_for_something(name, &value)) {
            return Err(ApiError::unsupported(name));
        }
    }
    Ok(fields.rest().filter(|name| !IGNORED.contains(name)).count())
}

/// False for values that ask for nothing: `false`, `""`, `[]`, `{}`, and a choice of no tool.
fn asks_for_something(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) if matches!(name, "tool_choice" | "function_call") => {
            text != "none" && text != "auto"
        }
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

fn take_response_format(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(()) };
    match format.string("type")?.as_deref() {
        Some("text") => Ok(()),
        Some("json_object" | "json_schema" | "grammar" | "structural_tag") => {
            Err(ApiError::unsupported("response_format"))
        }
        _ => {
            Err(ApiError::invalid("response_format.type", "`response_format.type` must be `text`"))
        }
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
