//! `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{ApiError, ApiResult};
use super::extract::Admitted;
use super::openai::conversation::Conversation;
use super::openai::convert;
use super::openai::fields::Fields;
use super::openai::messages::take_messages;
use super::openai::model::check_model;
use super::openai::render::{self, TemplateOptions};
use super::openai::tools::{AskedTools, FunctionStyle};
use super::openai::validate::refused;
use super::openapi::{errors, requests};
use super::state::{AppState, text_work};

/// What [`tokenize`] answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    #[schema(required = true)]
    token_strs: Option<Vec<String>>,
}

/// What [`detokenize`] answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenized {
    prompt: String,
}

/// What is to be tokenised.
enum Input {
    Prompt { text: String, add_special_tokens: bool },
    Messages { conversation: Conversation, template: TemplateOptions },
}

/// Answers `POST /tokenize`.
///
/// # Errors
/// Wrong fields, and text that cannot be rendered or tokenised.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "tokens",
    summary = "Text to token ids",
    request_body(
        content = requests::TokenizeRequest,
        example = json!({"model": "smollm2", "prompt": "Gravity is"}),
    ),
    responses((status = 200, description = "The tokens", body = Tokenized), errors::Reading),
)]
pub async fn tokenize(
    State(state): State<Arc<AppState>>,
    Admitted { call, admission: _admission, mut fields }: Admitted,
) -> ApiResult<Tokenized> {
    let serving = state.serving()?;
    check_model(&mut fields, &call, &serving).await?;
    let input = take_input(&mut fields)?;
    let with_strings = fields.boolean("return_token_strs", false)?;
    finish(&state, fields)?;
    let config = state.config.clone();
    let work = move || {
        let tokens = match input {
            Input::Prompt { text, add_special_tokens } => {
                let tokens = convert::encode(&serving, &text, add_special_tokens, "prompt")?;
                convert::known(&serving, tokens, "prompt")?
            }
            Input::Messages { conversation, template } => {
                let chat = render::chat(&config, &serving, conversation, template, None)?;
                convert::known(&serving, chat.tokens, "messages")?
            }
        };
        let string = |id: &u32| serving.tokenizer.token_text(*id).unwrap_or_default();
        let strings = || tokens.iter().map(string).collect();
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: serving.max_model_len,
            token_strs: with_strings.then(strings),
            tokens: tokens.to_vec(),
        })
    };
    text_work(&state, work).await.map(Json)
}

fn take_input(fields: &mut Fields) -> Result<Input, ApiError> {
    match fields.string("prompt")? {
        Some(text) => {
            let add_special_tokens = fields.boolean("add_special_tokens", true)?;
            Ok(Input::Prompt { text, add_special_tokens })
        }
        None => {
            let messages = take_messages(fields).map_err(|error| {
                if error == fields.missing("messages") { fields.missing("prompt") } else { error }
            })?;
            let conversation = Conversation {
                messages,
                tools: AskedTools::take(fields, FunctionStyle::Nested)?.offered(),
            };
            Ok(Input::Messages { conversation, template: TemplateOptions::take(fields)? })
        }
    }
}

/// Answers `POST /detokenize`. Special tokens stay in the text.
///
/// # Errors
/// Wrong fields, and ids that are not the model's.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "tokens",
    summary = "Token ids to text",
    request_body(
        content = requests::DetokenizeRequest,
        example = json!({"model": "smollm2", "tokens": [504, 8354, 314]}),
    ),
    responses((status = 200, description = "The text", body = Detokenized), errors::Reading),
)]
pub async fn detokenize(
    State(state): State<Arc<AppState>>,
    Admitted { call, admission: _admission, mut fields }: Admitted,
) -> ApiResult<Detokenized> {
    let serving = state.serving()?;
    check_model(&mut fields, &call, &serving).await?;
    let tokens = fields
        .tokens("tokens", serving.vocab_size, serving.max_model_len)?
        .ok_or_else(|| fields.missing("tokens"))?;
    finish(&state, fields)?;
    let work = move || {
        let prompt = serving
            .tokenizer
            .decode(&tokens, false)
            .map_err(|error| ApiError::invalid("tokens", error.to_string()))?;
        Ok(Detokenized { prompt })
    };
    text_work(&state, work).await.map(Json)
}

/// Answers `GET /tokenizer_info`: the model's `tokenizer_config.json`.
///
/// # Errors
/// Where no model is loaded yet.
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    tag = "tokens",
    summary = "The model's `tokenizer_config.json`",
    responses((status = 200, description = "The file", body = Object), errors::Loaded),
)]
pub async fn tokenizer_info(State(state): State<Arc<AppState>>) -> ApiResult<Value> {
    Ok(Json(state.serving()?.tokenizer_config.clone()))
}

/// Refuses or counts the other fields as the inference endpoints do.
fn finish(state: &AppState, fields: Fields) -> Result<(), ApiError> {
    state.metrics.unknown_fields(refused::take_rest(fields)?);
    Ok(())
}
