//! `stream` and `stream_options`.

use super::super::fields::Fields;
use crate::server::error::ApiError;

/// How a stream reports usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// One more chunk, with the usage and no choices.
    pub include_usage: bool,
    /// The usage so far on every chunk; only where `include_usage` is set too, as vLLM has it.
    pub continuous_usage_stats: bool,
}

/// Takes `stream` and `stream_options`; `None` asks for one whole answer.
///
/// # Errors
/// Where one is wrong, and for options of a stream that is none.
pub fn take_stream(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
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
    let include_usage = options.boolean("include_usage", false)?;
    let continuous_usage_stats = options.boolean("continuous_usage_stats", false)?;
    Ok(Some(StreamOptions {
        include_usage,
        continuous_usage_stats: include_usage && continuous_usage_stats,
    }))
}
