//! What ends a choice: strings, and token ids.

use std::sync::Arc;

use serde_json::Value;

use super::super::fields::Fields;
use crate::server::error::ApiError;
use crate::server::state::Serving;

const MAX_STOPS: usize = 4;
/// Longest stop string: text is held back as long as it may become one.
const MAX_STOP_BYTES: usize = 4096;

/// Takes `stop`: a string or a few, none of them empty.
///
/// # Errors
/// Where it is something else.
pub fn take_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
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
    if stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        let message = format!("a string of `stop` must have at most {MAX_STOP_BYTES} bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stops)
}

/// Takes `stop_token_ids` and `ignore_eos`: the ids that end a choice, the model's own among them
/// unless they are ignored, in ascending order.
///
/// # Errors
/// Where one is wrong, or an id is not the model's.
pub fn take_stop_token_ids(fields: &mut Fields, serving: &Serving) -> Result<Arc<[u32]>, ApiError> {
    let vocab_size = serving.vocab_size;
    let own = fields.tokens("stop_token_ids", vocab_size, vocab_size)?.unwrap_or_default();
    let ignore_eos = fields.boolean("ignore_eos", false)?;
    let mut stops = if ignore_eos { Vec::new() } else { serving.eos_token_ids.clone() };
    stops.extend(own);
    stops.sort_unstable();
    stops.dedup();
    Ok(stops.into())
}
