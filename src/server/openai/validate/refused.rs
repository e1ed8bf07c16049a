//! The fields that an endpoint leaves: those that change nothing, those that ask for what this server
//! does not do, and those nobody knows. A field that becomes supported leaves its list here and is
//! taken where it means something.

use serde_json::Value;

use super::super::fields::Fields;
use super::accepted::take_accepted;
use crate::server::error::ApiError;

/// Kinds of answers that a request lists, repeated or not.
const MAX_MODALITIES: usize = 8;

/// Fields that change nothing here: accepted, checked by nobody.
pub const IGNORED: [&str; 13] = [
    "moderation",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "priority",
    "prompt_cache_options",
    "request_id",
    "return_mm_kwargs",
    "return_token_offsets",
    "routed_experts_prompt_start",
    "session_id",
    "spaces_between_special_tokens",
    "stream_interval",
    "length_penalty",
];

/// Fields that ask for what this server does not do. Refused, unless they ask for nothing.
const REFUSED: [&str; 23] = [
    "audio",
    "bad_words",
    "chat_template",
    "documents",
    "ec_transfer_params",
    "function_call",
    "functions",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "kv_transfer_params",
    "logits_processors",
    "prompt_embeds",
    "repetition_detection",
    "return_prompt_text",
    "suffix",
    "thinking_token_budget",
    "tool_choice",
    "tools",
    "use_beam_search",
    "vllm_xargs",
    "watermarking",
    "web_search_options",
    "echo",
];

/// Looks at what is left: refuses what would change the answer's meaning, and counts what nobody
/// knows.
///
/// # Errors
/// The first refused field, by name.
pub fn take_rest(mut fields: Fields) -> Result<usize, ApiError> {
    take_accepted(&mut fields)?;
    let modalities = fields.array_of("modalities", MAX_MODALITIES)?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(ApiError::unsupported("modalities"));
    }
    refuse(&mut fields, &REFUSED)?;
    Ok(count_unknown(&fields))
}

/// Takes the fields of these names, which must ask for nothing.
///
/// # Errors
/// The first that asks for something, by name.
pub fn refuse(fields: &mut Fields, names: &[&str]) -> Result<(), ApiError> {
    for name in names {
        if fields.take(name).is_some_and(|value| asks_for_something(name, &value)) {
            return Err(ApiError::unsupported(name));
        }
    }
    Ok(())
}

/// How many of the fields that are left nobody knows.
#[must_use]
pub fn count_unknown(fields: &Fields) -> usize {
    fields.rest().filter(|name| !IGNORED.contains(name)).count()
}

/// Values that ask for what is done anyway.
const AS_IT_IS: [(&str, &[&str]); 5] = [
    ("tool_choice", &["none", "auto"]),
    ("function_call", &["none", "auto"]),
    ("embed_dtype", &["float32"]),
    ("endianness", &["native", "little"]),
    ("padding", &["do_not_pad"]),
];

/// False for values that ask for nothing: `false`, `""`, `[]`, `{}`, and those of [`AS_IT_IS`].
fn asks_for_something(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => {
            let mut as_it_is = AS_IT_IS.iter().filter(|(field, _)| *field == name);
            !text.is_empty() && !as_it_is.any(|(_, values)| values.contains(&text.as_str()))
        }
        Value::Array(values) => !values.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}
