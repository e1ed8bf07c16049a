//! Fields that change nothing here and are checked all the same, as OpenAI checks them: what is
//! wrong there should be found here.

use serde_json::{Map, Value};

use super::super::fields::Fields;
use super::effort::take_effort;
use crate::server::error::ApiError;

const STRINGS: [&str; 6] = [
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
    "verbosity",
];
const BOOLEANS: [&str; 2] = ["parallel_tool_calls", "store"];
const MAX_METADATA_PAIRS: usize = 16;
const MAX_METADATA_KEY_CHARS: usize = 64;
const MAX_METADATA_VALUE_CHARS: usize = 512;

/// Takes them.
///
/// # Errors
/// The first of another type.
pub fn take_accepted(fields: &mut Fields) -> Result<(), ApiError> {
    for name in STRINGS {
        fields.string(name)?;
    }
    // Where a conversation is rendered, the template has been told.
    take_effort(fields, "reasoning_effort")?;
    for name in BOOLEANS {
        fields.boolean(name, false)?;
    }
    fields.object("prediction")?;
    take_metadata(fields).map(drop)
}

/// Takes `metadata`, a few short strings by their names.
///
/// # Errors
/// Where it is something else, or too large.
pub fn take_metadata(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let wrong = || {
        let message = format!(
            "`metadata` must be an object of at most {MAX_METADATA_PAIRS} strings of at most \
             {MAX_METADATA_VALUE_CHARS} characters, with keys of at most {MAX_METADATA_KEY_CHARS}"
        );
        ApiError::invalid("metadata", message)
    };
    let within = |text: &str, limit: usize| text.chars().nth(limit).is_none();
    match fields.take("metadata") {
        None => Ok(Map::new()),
        Some(Value::Object(map)) if map.len() <= MAX_METADATA_PAIRS => {
            let fits = map.iter().all(|(key, value)| {
                within(key, MAX_METADATA_KEY_CHARS)
                    && value.as_str().is_some_and(|text| within(text, MAX_METADATA_VALUE_CHARS))
            });
            if fits { Ok(map) } else { Err(wrong()) }
        }
        Some(_) => Err(wrong()),
    }
}
