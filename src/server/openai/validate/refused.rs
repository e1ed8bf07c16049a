//! The fields that an endpoint leaves: those that change nothing, those that ask for what this server
//! does not do, and those nobody knows. A field that becomes supported leaves its list here and is
//! taken where it means something.

use serde_json::Value;

use super::super::fields::Fields;
use super::response_format::take_response_format;
use crate::server::error::ApiError;

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
