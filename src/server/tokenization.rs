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
use super::openai::workbench::Workbench;
use super::openapi::{errors, requests};
use super::state::{AppState, Serving, text_work};
use super::work::Work;
use crate::text::detokenizer::Detokenizer;
use crate::text::tokenizer::{Keep, TokenizerError};

/// All tokens of a text.
const ALL: Keep = Keep::AtMost(usize::MAX);
/// So many bytes are tokenised here whatever the context holds.
const ALWAYS_COUNTED: usize = 1 << 20;
/// Tokens that are turned into text between two looks at who else waits.
const PIECE: usize = 8192;

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

impl Input {
    /// # Errors
    /// 400 for more text than the context could hold, where that is more than is always counted.
    fn check_bytes(&self, bytes: usize, serving: &Serving) -> Result<(), ApiError> {
        let most = serving.tokenizer.most_bytes(serving.max_model_len).unwrap_or(0);
        let most = most.max(ALWAYS_COUNTED);
        let param = match self {
            Self::Prompt { .. } => "prompt",
            Self::Messages { .. } => "messages",
        };
        if bytes <= most {
            return Ok(());
        }
        let message = format!("`{param}` must be at most {most} bytes long to be tokenised");
        Err(ApiError::invalid(param, message))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Prompt { text, .. } => text.len(),
            Self::Messages { conversation, .. } => conversation.bytes(),
        }
    }
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
    let bytes = input.bytes();
    input.check_bytes(bytes, &serving)?;
    let work = move |work: &Work| {
        let bench = Workbench { config: &config, serving: &serving, work };
        let tokens = match input {
            Input::Prompt { text, add_special_tokens } => {
                let tokens = bench.read(&text, "prompt", ALL, add_special_tokens)?.ids;
                convert::known(&serving, tokens, "prompt")?
            }
            Input::Messages { conversation, template } => {
                let chat = render::chat(&bench, conversation, template, ALL, None)?;
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
    text_work(&state, &call, bytes, work).await.map(Json)
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
    let bytes = size_of_val(tokens.as_slice());
    let work = move |work: &Work| {
        let invalid = |error: TokenizerError| ApiError::invalid("tokens", error.to_string());
        let mut detokenizer = Detokenizer::new(serving.tokenizer.clone(), false);
        let mut prompt = String::new();
        for piece in tokens.chunks(PIECE) {
            for token in piece {
                prompt.push_str(&detokenizer.push(*token).map_err(invalid)?);
            }
            if !work.checkpoint(size_of_val(piece)) {
                // The client has gone: nobody reads this.
                return Err(ApiError::internal());
            }
        }
        prompt.push_str(&detokenizer.finish().map_err(invalid)?);
        Ok(Detokenized { prompt })
    };
    text_work(&state, &call, bytes, work).await.map(Json)
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
