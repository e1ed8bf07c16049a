//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::answer::{Answer, finish_fields};
use super::conversation::Conversation;
use super::convert::{self, PromptRules};
use super::endpoint::{self, Delivery, Endpoint, Writer};
use super::fields::Fields;
use super::logprobs;
use super::messages::take_messages;
use super::model::Model;
use super::prompts::PromptInput;
use super::render::{self, Rendered, TemplateOptions};
use super::tools::{AskedTools, FunctionStyle};
use super::types::{
    ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, Envelope, ToolCall,
};
use super::validate::length::take_max_tokens;
use super::validate::logprobs::take_logprob_token_ids;
use super::validate::{Common, MAX_LOGPROBS};
use super::workbench::{Workbench, check_messages};
use crate::server::choice::{AnswerRules, CallDelta, Delta};
use crate::server::error::ApiError;
use crate::server::extract::Admitted;
use crate::server::generation::{Generation, Job, TokenCounts};
use crate::server::openapi::{ChatCompletion, ChatCompletionChunk, errors, requests};
use crate::server::state::{AppState, ServerConfig, Serving};
use crate::server::stream::Chunks;
use crate::text::answer::Place;

const OBJECT: &str = "chat.completion";
const CHUNK_OBJECT: &str = "chat.completion.chunk";
const ROLE: &str = "assistant";

/// A checked request.
#[derive(Debug)]
struct ChatRequest {
    common: Common,
    conversation: Conversation,
    max_tokens: Option<(&'static str, usize)>,
    /// Top tokens, where log-probabilities were asked for.
    logprobs: Option<usize>,
    logprob_token_ids: Option<Arc<[u32]>>,
    template: TemplateOptions,
    include_reasoning: bool,
}

/// Answers `POST /v1/chat/completions`.
///
/// # Errors
/// Every failure before the first byte.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "inference",
    summary = "Answer a conversation",
    description = "The model's chat template makes the prompt. One choice or `n`, whole or as a \
                   stream of server-sent events.",
    request_body(
        content = requests::ChatCompletionRequest,
        example = json!({
            "model": "smollm2",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }),
    ),
    responses(
        (
            status = 200,
            description = "The choices; with `stream`, events that hold pieces of them",
            content(
                (ChatCompletion = "application/json"),
                (ChatCompletionChunk = "text/event-stream"),
            ),
        ),
        errors::Generating,
    ),
)]
pub async fn chat_completions(
    State(state): State<Arc<AppState>>,
    admitted: Admitted,
) -> Result<Response, ApiError> {
    endpoint::answer::<ChatRequest>(&state, admitted).await
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
        let (logprobs, vocab_size) = (take_logprobs(fields)?, serving.vocab_size);
        let (asked, how) = (logprobs.is_some(), "`logprobs`: true");
        let conversation = Conversation {
            messages: take_messages(fields)?,
            tools: AskedTools::take(fields, FunctionStyle::Nested)?.offered(),
        };
        if common.truncation.is_none() {
            check_messages(serving, "messages", conversation.bytes())?;
        }
        Ok(Self {
            conversation,
            max_tokens: take_max_tokens(fields, &["max_completion_tokens", "max_tokens"], 1)?,
            logprobs,
            logprob_token_ids: take_logprob_token_ids(fields, vocab_size, asked, how)?,
            template: TemplateOptions::take(fields)?,
            include_reasoning: fields.boolean("include_reasoning", true)?,
            common,
        })
    }

    fn writer(&self, serving: &Arc<Serving>) -> (ChatWriter, Delivery) {
        let answer = Answer::new("chatcmpl", &self.common, serving, self.logprobs.is_some());
        let delivery = answer.delivery();
        let Common { n, prompt_logprobs, .. } = self.common;
        (ChatWriter { answer, n, prompt_logprobs }, delivery)
    }

    fn bytes(&self) -> usize {
        self.conversation.bytes()
    }

    fn into_job(self, bench: &Workbench<'_>) -> Result<Job, ApiError> {
        let common = &self.common;
        let keep = convert::keep(bench.serving, common.truncation, self.max_tokens);
        let Rendered { tokens, answer, marks, form } =
            render::chat(bench, self.conversation, self.template, keep, common.form.clone())?;
        let rules = PromptRules {
            param: "messages",
            add_special_tokens: false,
            echo: false,
            skip_special_tokens: common.skip_special_tokens,
            marks: &marks,
            truncation: common.truncation,
            max_tokens: self.max_tokens,
            // What the model says, or the rest of the context, as far as the choices together may have it.
            default_max_tokens: (bench.config.max_request_tokens / common.n)
                .min(bench.serving.sampling_defaults.max_tokens.unwrap_or(usize::MAX))
                .max(1),
            most_tokens: common.model.max_tokens,
        };
        let prompts = convert::prompts(bench, vec![PromptInput::Tokens(tokens)], rules)?;
        let job =
            convert::job(bench.config, common, prompts, self.logprobs, common.prompt_logprobs)?;
        let answer = AnswerRules { hide_reasoning: !self.include_reasoning, ..answer };
        Ok(Job { answer, form, logprob_token_ids: self.logprob_token_ids, ..job })
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
    // An answer that only calls says nothing, which is not the same as an empty text.
    let content = (!delta.text.is_empty() || delta.calls.is_empty()).then_some(delta.text);
    let logprobs = answer.logprobs.then(|| {
        let logprobs = logprobs::chat(answer.tokens(), &delta.tokens);
        ChatLogprobs { content: logprobs.content.filter(|_| content.is_some()), ..logprobs }
    });
    ChatChoice {
        index: delta.index,
        logprobs,
        message: ChatMessage {
            role: ROLE,
            content,
            reasoning_content: Some(delta.reasoning).filter(|text| !text.is_empty()),
            tool_calls: delta.calls.into_iter().map(|call| ToolCall::new(call, false)).collect(),
            refusal: None,
        },
        finish_reason,
        stop_reason,
        token_ids: answer.token_ids(&delta.tokens),
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
            Some(logprobs::prompt(answer.tokens(), at.as_ref()?, self.prompt_logprobs?))
        });
        let usage = Some(Some(generation.counts().into()));
        let prompt_token_ids = answer.prompt_token_ids(generation, 0);
        let body = Envelope {
            usage,
            prompt_logprobs,
            prompt_token_ids,
            ..answer.envelope(OBJECT, choices)
        };
        Json(body).into_response()
    }
}

impl ChatWriter {
    /// A chunk that adds `delta` to a choice.
    fn chunk(&self, index: usize, delta: ChatDelta, counts: TokenCounts) -> String {
        let choice = ChatChunkChoice { index, delta, ..ChatChunkChoice::default() };
        self.answer.chunk(CHUNK_OBJECT, choice, counts)
    }
}

impl Chunks for ChatWriter {
    fn opening(&mut self, generation: &Generation) -> Vec<String> {
        let counts = generation.counts();
        let delta =
            || ChatDelta { role: Some(ROLE), content: Some(String::new()), ..ChatDelta::default() };
        let ids = self.answer.prompt_token_ids(generation, 0);
        let chunk = |index| {
            let choice = ChatChunkChoice { index, delta: delta(), ..ChatChunkChoice::default() };
            self.answer.first_chunk(CHUNK_OBJECT, choice, counts, ids.clone())
        };
        (0..self.n).map(chunk).collect()
    }

    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<String> {
        let mut chunks = Vec::new();
        if !delta.reasoning.is_empty() {
            let reasoning_content = Some(delta.reasoning);
            let added = ChatDelta { reasoning_content, ..ChatDelta::default() };
            chunks.push(self.chunk(delta.index, added, counts));
        }
        let said = delta.tokens.iter().any(|token| token.place == Place::Content);
        let logprobs = (self.answer.logprobs && said)
            .then(|| logprobs::chat(self.answer.tokens(), &delta.tokens));
        let token_ids = self.answer.token_ids(&delta.tokens).filter(|ids| !ids.is_empty());
        if logprobs.is_some() || token_ids.is_some() || !delta.text.is_empty() {
            let content = (logprobs.is_some() || !delta.text.is_empty()).then_some(delta.text);
            let choice = ChatChunkChoice {
                index: delta.index,
                delta: ChatDelta { content, ..ChatDelta::default() },
                logprobs,
                token_ids,
                ..ChatChunkChoice::default()
            };
            chunks.push(self.answer.chunk(CHUNK_OBJECT, choice, counts));
        }
        for call in delta.calls.into_iter().flat_map(CallDelta::head_first) {
            let tool_calls = vec![ToolCall::new(call, true)];
            let added = ChatDelta { tool_calls, ..ChatDelta::default() };
            chunks.push(self.chunk(delta.index, added, counts));
        }
        if delta.finish.is_some() {
            let (finish_reason, stop_reason) = finish_fields(delta.finish);
            let index = delta.index;
            let choice =
                ChatChunkChoice { index, finish_reason, stop_reason, ..ChatChunkChoice::default() };
            chunks.push(self.answer.chunk(CHUNK_OBJECT, choice, counts));
        }
        chunks
    }

    fn closing(&mut self, counts: TokenCounts) -> Vec<String> {
        self.answer.usage_chunk(CHUNK_OBJECT, counts).into_iter().collect()
    }
}
