//! The `Response` object, field by field as OpenAI documents it.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::items::{OutputItem, Status};
use crate::server::generation::TokenCounts;

/// What a response repeats of its request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseSettings)]
pub struct Settings {
    /// What stood before the input.
    #[schema(required = true)]
    pub instructions: Option<String>,
    /// As asked.
    #[schema(required = true)]
    pub max_output_tokens: Option<usize>,
    /// As asked; there are no built-in tools that it could bound.
    #[schema(required = true)]
    pub max_tool_calls: Option<usize>,
    /// As given.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Map<String, Value>,
    /// Whether an answer may hold several calls.
    pub parallel_tool_calls: bool,
    /// As asked.
    pub reasoning: Reasoning,
    /// As used.
    pub temperature: f32,
    /// As asked.
    pub top_logprobs: usize,
    /// As used.
    pub top_p: f32,
    /// The text's form.
    pub text: TextSettings,
    /// As asked, else `auto`.
    pub tool_choice: Value,
    /// The functions on offer.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// `disabled`.
    pub truncation: &'static str,
}

/// `reasoning`.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ResponseReasoning)]
pub struct Reasoning {
    /// As asked.
    #[schema(required = true)]
    pub effort: Option<String>,
    /// As asked.
    #[schema(required = true)]
    pub summary: Option<String>,
}

/// `text`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseText)]
pub struct TextSettings {
    /// As asked, else `{"type": "text"}`.
    #[schema(value_type = Object)]
    pub format: Value,
    /// As asked; it changes nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// A response, at any time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Response)]
pub struct ResponseObject<'a> {
    /// Unique. Nobody remembers it.
    pub id: &'a str,
    /// `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// How far it has come.
    pub status: Status,
    /// The name the client asked for.
    pub model: &'a str,
    /// What it consists of so far.
    #[schema(value_type = Vec<OutputItem>)]
    pub output: &'a [OutputItem],
    /// Why it failed.
    #[schema(required = true)]
    pub error: Option<ResponseError>,
    /// Why it was cut off.
    #[schema(required = true)]
    pub incomplete_details: Option<IncompleteDetails>,
    /// At its end.
    #[schema(required = true)]
    pub usage: Option<ResponseUsage>,
    /// Never: there is only the foreground.
    pub background: bool,
    /// Never: nothing is kept.
    pub store: bool,
    /// Never: nothing is kept.
    #[schema(required = true)]
    pub previous_response_id: Option<String>,
    /// `default`.
    pub service_tier: &'static str,
    /// What it repeats of its request.
    #[serde(flatten)]
    #[schema(value_type = Settings)]
    pub settings: &'a Settings,
}

/// Why a response failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResponseError {
    /// `server_error`.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// Why a response was cut off.
#[derive(Debug, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// `ResponseUsage`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputTokensDetails,
    output_tokens: usize,
    output_tokens_details: OutputTokensDetails,
    total_tokens: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct InputTokensDetails {
    cached_tokens: usize,
    cache_write_tokens: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct OutputTokensDetails {
    reasoning_tokens: usize,
}

impl From<TokenCounts> for ResponseUsage {
    fn from(counts: TokenCounts) -> Self {
        Self {
            input_tokens: counts.prompt,
            input_tokens_details: InputTokensDetails {
                cached_tokens: counts.cached,
                // Nobody pays for what is put there.
                cache_write_tokens: 0,
            },
            output_tokens: counts.completion,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: counts.reasoning.unwrap_or(0),
            },
            total_tokens: counts.prompt + counts.completion,
        }
    }
}
