//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::Value;

use super::answer::{Answer, finish_fields};
use super::convert::{self, PromptInput, PromptRules};
use super::fields::Fields;
use super::logprobs;
use super::messages::take_messages;
use super::render::{self, TemplateOptions};
use super::types::{ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, Envelope};
use super::validate::{self, Common, MAX_LOGPROBS};
use crate::server::choice::Delta;
use crate::server::error::ApiError;
use crate::server::extract::JsonObject;
use crate::server::generation::{Generation, Job, TokenCounts};
use crate::server::observe::Arrived;
use crate::server::state::{AppState, ServerConfig, Serving, text_work};
use crate::server::stream::{self, Chunks};

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
    Extension(Arrived(arrived)): Extension<Arrived>,
    JsonObject(fields): JsonObject,
) -> Result<Response, ApiError> {
    let running = state.lifecycle.admit()?;
    let serving = state.serving()?;
    let (request, unknown) = ChatRequest::take(fields, &serving, &state.config)?;
    state.metrics.unknown_fields(unknown);
    let common = &request.common;
    let answer = Answer::new(
        "chatcmpl",
        common.model.clone(),
        Arc::clone(&serving),
        request.logprobs.is_some(),
        common.stream,
    );
    let (n, streamed, top) = (common.n, common.stream.is_some(), common.prompt_logprobs);
    let (task_state, task_serving) = (Arc::clone(&state), Arc::clone(&serving));
    let job =
        text_work(&state, move || request.into_job(&task_serving, &task_state.config)).await?;
    let mut generation = Generation::start(&state, &serving, job, arrived, running).await?;
    if streamed {
        let chunks = ChatChunks { answer, n };
        return Ok(stream::respond(generation, chunks, state.config.keep_alive));
    }
    let answers = generation.collect().await?;
    let choices = answers.into_iter().map(|delta| choice(&answer, delta)).collect();
    let prompt_logprobs = generation
        .prompt_logprobs()
        .first()
        .and_then(|at| Some(logprobs::prompt(&serving.tokenizer, at.as_ref()?, top?)));
    let usage = Some(Some(generation.counts().into()));
    let body = Envelope { usage, prompt_logprobs, ..answer.envelope(OBJECT, choices) };
    Ok(Json(body).into_response())
}

impl ChatRequest {
    /// Reads a body; also returns how many of its fields nobody knows.
    fn take(
        mut fields: Fields,
        serving: &Serving,
        config: &ServerConfig,
    ) -> Result<(Self, usize), ApiError> {
        let common = Common::take(&mut fields, serving)?;
        convert::check_choices(config, 1, common.n)?;
        let names = ["max_completion_tokens", "max_tokens"];
        let request = Self {
            messages: take_messages(&mut fields)?,
            max_tokens: validate::take_max_tokens(&mut fields, &names, 1)?,
            logprobs: take_logprobs(&mut fields)?,
            template: TemplateOptions::take(&mut fields)?,
            // The template writes them itself.
            add_special_tokens: fields.boolean("add_special_tokens", false)?,
            common,
        };
        Ok((request, validate::take_rest(fields)?))
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

#[derive(Debug)]
struct ChatChunks {
    answer: Answer,
    n: usize,
}

impl ChatChunks {
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

impl Chunks for ChatChunks {
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
