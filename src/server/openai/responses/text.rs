//! `text`: which form the answer's text has.

use serde_json::{Value, json};

use super::super::fields::Fields;
use super::super::validate::form::{take_json_object, take_json_schema};
use super::object::TextSettings;
use crate::server::error::ApiError;
use crate::server::form::Form;

/// The text's form, with what a response repeats of it.
#[derive(Debug)]
pub struct Text {
    /// What is repeated.
    pub settings: TextSettings,
    /// What must be obeyed.
    pub form: Option<Form>,
}

/// Takes `text`.
///
/// # Errors
/// The first wrong field, by name.
pub fn take_text(fields: &mut Fields) -> Result<Text, ApiError> {
    let mut settings = TextSettings { format: json!({"type": "text"}), verbosity: None };
    let Some(mut text) = fields.object("text")? else { return Ok(Text { settings, form: None }) };
    settings.verbosity = text.string("verbosity")?;
    let Some(format) = text.take("format") else { return Ok(Text { settings, form: None }) };
    let form = take_format(format.clone())?;
    settings.format = format;
    Ok(Text { settings, form })
}

fn take_format(format: Value) -> Result<Option<Form>, ApiError> {
    const PLACE: &str = "text.format";
    let mut format = Fields::nested(PLACE, format)?;
    match format.string("type")?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => take_json_object(&mut format, PLACE).map(Some),
        Some("json_schema") => take_json_schema(&mut format, PLACE).map(Some),
        _ => {
            let message = "`text.format.type` must be `text`, `json_object` or `json_schema`";
            Err(ApiError::invalid("text.format.type", message))
        }
    }
}
