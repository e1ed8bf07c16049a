//! `response_format`: which texts are allowed.

use super::super::fields::Fields;
use crate::server::error::ApiError;

/// Takes `response_format`, which may only ask for text.
///
/// # Errors
/// Where it asks for something else.
pub fn take_response_format(fields: &mut Fields) -> Result<(), ApiError> {
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
