//! `reasoning_effort`: how much a model is to think, as far as its chat template knows.

use super::super::fields::Fields;
use crate::server::error::ApiError;

/// What may be asked for; templates know some of it.
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// Takes an effort under the name `name`.
///
/// # Errors
/// Where it is none.
pub fn take_effort(fields: &mut Fields, name: &str) -> Result<Option<&'static str>, ApiError> {
    let Some(asked) = fields.take(name) else { return Ok(None) };
    let known = EFFORTS.into_iter().find(|effort| asked == **effort);
    known.map(Some).ok_or_else(|| {
        let param = fields.param(name);
        let message = format!("`{param}` must be one of {}", EFFORTS.join(", "));
        ApiError::invalid(param, message)
    })
}
