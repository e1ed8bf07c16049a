//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::{Answer, finish_fields};
use super::convert::{self, PromptRules};
use super::endpoint::{self, Delivery, Endpoint, Writer};
use super::fields::Fields;
use super::logprobs;
use super::messages::take_messages;
use super::model::Model;
use super::prompts::PromptInput;
use super::render::{self, TemplateOptions};
use super::types::{ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, Envelope};
use super::validate::length::take_max_tokens;
use super::validate::{Common, MAX_LOGPROBS};
use crate::server::call::Call;
use crate::server::choice::Delta;
use crate::server::error::ApiError;
use crate::server::extract::JsonObject;
use crate::server::generation::{Generation, Job, TokenCounts};
use crate::server::state::{AppState, ServerConfig, Serving};
use crate::server::stream::Chunks;

const OBJECT: &str = "chat.completion";
const CHUNK_OBJECT: &str = "chat.completion.chunk";
const ROLE: &str = "assistant";

/// A checked request.
#[derive(Debug)]
struct ChatRequest {
    common: Common,
    messages: Value,
    max_tokens: Option<(&'static str, usize)>,
    /// Top tokens, where log-probabilities were asked for.
    logprobs: Option<usize>,
    template: TemplateOptions,
    add_special_tokens: bool,
}

/// Answers `POST /v1/chat/completions`.
///
/// # Errors
/// Every failure before the first byte.
pub async fn chat_completions(
    State(state): State<Arc<AppState>>,
    call: Call,
    JsonObject(fields): JsonObject,
) -> Result<Response, ApiError> {
    endpoint::answer::<ChatRequest>(&state, &call, fields).await
}

impl Endpoint for ChatRequest {
    type Writer = ChatWriter;

    fn take(
        fields: &mut Fields,
        model: Model,
        serving: &Serving,
        config: &ServerConfig,
    ) -> Result<Self, ApiError> {
        let common = Common::take(fields, model, serving)?;
        convert::check_choices(config, 1, common.n)?;
        Ok(Self {
            messages: take_messages(fields)?,
            max_tokens: take_max_tokens(fields, &["max_completion_tokens", "max_tokens"], 1)?,
            logprobs: take_logprobs(fields)?,
            template: TemplateOptions::take(fields)?,
            // The template writes them itself.
            add_special_tokens: fields.boolean("add_special_tokens", false)?,
            common,
        })
    }

    fn writer(&self, serving: &Arc<Serving>) -> (ChatWriter, Delivery) {
        let answer = Answer::new("chatcmpl", &self.common, serving, self.logprobs.is_some());
        let delivery = answer.delivery();
        let Common { n, prompt_logprobs, .. } = self.common;
        (ChatWriter { answer, n, prompt_logprobs }, delivery)
    }

    fn into_job(self, serving: &Serving, config: &ServerConfig) -> Result<Job, ApiError> {
        let tokens =
            render::chat(config, serving, self.messages, self.template, self.add_special_tokens)?;
        let rules = PromptRules {
            param: "messages",
            add_special_tokens: false,
            echo: false,
            skip_special_tokens: self.common.skip_special_tokens,
            max_tokens: self.max_tokens,
            // The rest of the context, as far as the choices together may have it.
            default_max_tokens: (config.max_request_tokens / self.common.n).max(1),
            most_tokens: self.common.model.max_tokens,
        };
        let prompts = convert::prompts(serving, vec![PromptInput::Tokens(tokens)], rules)?;
        let prompt_logprobs = self.common.prompt_logprobs;
        convert::job(config, &self.common, prompts, self.logprobs, prompt_logprobs)
    }
}

/// Takes `logprobs` and `top_logprobs`, which needs it.
fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let logprobs = fields.boolean("logprobs", false)?;
    let top = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?;
    match (logprobs, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` is only allowed with `logprobs`: true",
        )),
    }
}

fn choice(answer: &Answer, delta: Delta) -> ChatChoice {
    let (finish_reason, stop_reason) = finish_fields(delta.finish);
    ChatChoice {
        index: delta.index,
        message: ChatMessage { role: ROLE, content: delta.text, refusal: None },
        logprobs: answer.logprobs.then(|| logprobs::chat(&answer.serving.tokenizer, delta.tokens)),
        finish_reason,
        stop_reason,
    }
}

/// Writes a chat's answers.
#[derive(Debug)]
struct ChatWriter {
    answer: Answer,
    n: usize,
    prompt_logprobs: Option<usize>,
}

impl Writer for ChatWriter {
    fn whole(self, answers: Vec<Delta>, generation: &Generation) -> Response {
        let answer = &self.answer;
        let choices = answers.into_iter().map(|delta| choice(answer, delta)).collect();
        let prompt_logprobs = generation.prompt_logprobs().first().and_then(|at| {
            let tokenizer = &answer.serving.tokenizer;
            Some(logprobs::prompt(tokenizer, at.as_ref()?, self.prompt_logprobs?))
        });
        let usage = Some(Some(generation.counts().into()));
        let body = Envelope { usage, prompt_logprobs, ..answer.envelope(OBJECT, choices) };
        Json(body).into_response()
    }
}

impl ChatWriter {
    fn chunk(
        &self,
        index: usize,
        delta: ChatDelta,
        logprobs: Option<ChatLogprobs>,
        counts: TokenCounts,
    ) -> String {
        let choice =
            ChatChunkChoice { index, delta, logprobs, finish_reason: None, stop_reason: None };
        self.answer.chunk(CHUNK_OBJECT, choice, counts)
    }
}

impl Chunks for ChatWriter {
    fn opening(&mut self, counts: TokenCounts) -> Vec<String> {
        let delta = || ChatDelta { role: Some(ROLE), content: Some(String::new()) };
        (0..self.n).map(|index| self.chunk(index, delta(), None, counts)).collect()
    }

    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<String> {
        let mut chunks = Vec::new();
        let logprobs = self.answer.logprobs && !delta.tokens.is_empty();
        if logprobs || !delta.text.is_empty() {
            let logprobs =
                logprobs.then(|| logprobs::chat(&self.answer.serving.tokenizer, delta.tokens));
            let content = ChatDelta { role: None, content: Some(delta.text) };
            chunks.push(self.chunk(delta.index, content, logprobs, counts));
        }
        if delta.finish.is_some() {
            let (finish_reason, stop_reason) = finish_fields(delta.finish);
            let choice = ChatChunkChoice {
                index: delta.index,
                delta: ChatDelta::default(),
                logprobs: None,
                finish_reason,
                stop_reason,
            };
            chunks.push(self.answer.chunk(CHUNK_OBJECT, choice, counts));
        }
        chunks
    }

    fn closing(&mut self, counts: TokenCounts) -> Vec<String> {
        self.answer.usage_chunk(CHUNK_OBJECT, counts).into_iter().collect()
    }
}
