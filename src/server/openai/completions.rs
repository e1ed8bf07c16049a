//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::answer::{Answer, finish_fields};
use super::convert::{self, PromptRules};
use super::endpoint::{self, Delivery, Endpoint, Writer};
use super::fields::Fields;
use super::logprobs;
use super::model::Model;
use super::prompts::{PromptInput, take_prompts};
use super::types::{CompletionChoice, Envelope};
use super::validate::length::take_max_tokens;
use super::validate::logprobs::take_logprob_token_ids;
use super::validate::{self, Common, MAX_LOGPROBS};
use super::workbench::{Workbench, check_text};
use crate::server::choice::Delta;
use crate::server::error::ApiError;
use crate::server::extract::Admitted;
use crate::server::generation::{Generation, Job, TokenCounts};
use crate::server::openapi::{Completion, errors, requests};
use crate::server::state::{AppState, ServerConfig, Serving};
use crate::server::stream::Chunks;

const OBJECT: &str = "text_completion";
/// What OpenAI generates where a request does not say how much.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A checked request.
#[derive(Debug)]
struct CompletionRequest {
    common: Common,
    prompts: Vec<PromptInput>,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    logprob_token_ids: Option<Arc<[u32]>>,
    echo: bool,
    add_special_tokens: bool,
}

/// Answers `POST /v1/completions`.
///
/// # Errors
/// Every failure before the first byte.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "inference",
    summary = "Continue prompts",
    description = "One choice or `n` for each prompt, whole or as a stream of server-sent events.",
    request_body(
        content = requests::CompletionRequest,
        example = json!({"model": "smollm2", "prompt": "Gravity is", "max_tokens": 16}),
    ),
    responses(
        (
            status = 200,
            description = "The choices; with `stream`, events that hold pieces of them",
            content((Completion = "application/json"), (Completion = "text/event-stream")),
        ),
        errors::Generating,
    ),
)]
pub async fn completions(
    State(state): State<Arc<AppState>>,
    admitted: Admitted,
) -> Result<Response, ApiError> {
    endpoint::answer::<CompletionRequest>(&state, admitted).await
}

impl Endpoint for CompletionRequest {
    type Writer = CompletionWriter;

    fn take(
        fields: &mut Fields,
        model: Model,
        serving: &Serving,
        config: &ServerConfig,
    ) -> Result<Self, ApiError> {
        let common = Common::take(fields, model, serving)?;
        let prompts = take_prompts(fields, "prompt", serving.vocab_size, config.max_choices)?;
        convert::check_choices(config, prompts.len(), common.n)?;
        convert::check_prompts(serving, prompts.len())?;
        if common.truncation.is_none() {
            let mut texts = prompts.iter().filter_map(PromptInput::text);
            texts.try_for_each(|text| check_text(serving, "prompt", text))?;
        }
        validate::take_best_of(fields, common.n)?;
        let max_tokens = take_max_tokens(fields, &["max_tokens"], 0)?.map(|(_, asked)| asked);
        let logprobs = fields.count("logprobs", 0..=MAX_LOGPROBS)?;
        let asked = logprobs.is_some() && max_tokens != Some(0);
        let how = "`logprobs`, and where tokens are generated";
        Ok(Self {
            common,
            prompts,
            max_tokens,
            logprobs,
            logprob_token_ids: take_logprob_token_ids(fields, serving.vocab_size, asked, how)?,
            echo: fields.boolean("echo", false)?,
            add_special_tokens: fields.boolean("add_special_tokens", true)?,
        })
    }

    fn writer(&self, serving: &Arc<Serving>) -> (CompletionWriter, Delivery) {
        let answer = Answer::new("cmpl", &self.common, serving, self.logprobs.is_some());
        let delivery = answer.delivery();
        let Common { n, prompt_logprobs, .. } = self.common;
        (CompletionWriter { answer, n, prompt_logprobs, opened: Vec::new() }, delivery)
    }

    fn bytes(&self) -> usize {
        self.prompts.iter().map(PromptInput::bytes).sum()
    }

    fn into_job(self, bench: &Workbench<'_>) -> Result<Job, ApiError> {
        let rules = PromptRules {
            param: "prompt",
            add_special_tokens: self.add_special_tokens,
            echo: self.echo,
            skip_special_tokens: self.common.skip_special_tokens,
            marks: &[],
            truncation: self.common.truncation,
            max_tokens: self.max_tokens.map(|asked| ("max_tokens", asked)),
            default_max_tokens: DEFAULT_MAX_TOKENS,
            most_tokens: self.common.model.max_tokens,
        };
        let prompts = convert::prompts(bench, self.prompts, rules)?;
        // Both may ask for the prompt's: the larger number serves both.
        let echoed = self.logprobs.filter(|_| self.echo);
        let prompt_logprobs = self.common.prompt_logprobs.max(echoed);
        let job =
            convert::job(bench.config, &self.common, prompts, self.logprobs, prompt_logprobs)?;
        Ok(Job { logprob_token_ids: self.logprob_token_ids, ..job })
    }
}

/// The wire's choice, of a whole answer and of a chunk alike.
fn choice(answer: &Answer, delta: Delta) -> CompletionChoice {
    let (finish_reason, stop_reason) = finish_fields(delta.finish);
    // What was generated stands behind what was echoed.
    let echoed = delta.tokens.len().saturating_sub(delta.generated);
    CompletionChoice {
        index: delta.index,
        text: delta.text,
        token_ids: answer.token_ids(&delta.tokens[echoed..]),
        logprobs: answer.logprobs.then(|| logprobs::completion(answer.tokens(), delta.tokens)),
        finish_reason,
        stop_reason,
        prompt_logprobs: None,
        prompt_token_ids: None,
    }
}

/// Writes completions.
#[derive(Debug)]
struct CompletionWriter {
    answer: Answer,
    n: usize,
    prompt_logprobs: Option<usize>,
    /// For each choice of a stream, its prompt's tokens until its first chunk has them.
    opened: Vec<Option<Vec<u32>>>,
}

impl Writer for CompletionWriter {
    fn whole(self, answers: Vec<Delta>, generation: &Generation) -> Response {
        let answer = &self.answer;
        let prompt_logprobs = |index: usize| {
            let logprobs = generation.prompt_logprobs().get(index / self.n)?.as_ref()?;
            Some(logprobs::prompt(answer.tokens(), logprobs, self.prompt_logprobs?))
        };
        let choices = answers
            .into_iter()
            .map(|delta| {
                let prompt_logprobs = prompt_logprobs(delta.index);
                let prompt_token_ids = answer.prompt_token_ids(generation, delta.index / self.n);
                let choice = choice(answer, delta);
                CompletionChoice { prompt_logprobs, prompt_token_ids, ..choice }
            })
            .collect();
        let usage = Some(Some(generation.counts().into()));
        let body = Envelope { usage, ..answer.envelope(OBJECT, choices) };
        Json(body).into_response()
    }
}

impl Chunks for CompletionWriter {
    fn opening(&mut self, generation: &Generation) -> Vec<String> {
        let ids = |index| self.answer.prompt_token_ids(generation, index / self.n);
        self.opened = (0..generation.choices()).map(ids).collect();
        Vec::new()
    }

    fn piece(&mut self, delta: Delta, counts: TokenCounts) -> Vec<String> {
        let prompt_token_ids = self.opened.get_mut(delta.index).and_then(Option::take);
        let choice = CompletionChoice { prompt_token_ids, ..choice(&self.answer, delta) };
        vec![self.answer.chunk(OBJECT, choice, counts)]
    }

    fn closing(&mut self, counts: TokenCounts) -> Vec<String> {
        self.answer.usage_chunk(OBJECT, counts).into_iter().collect()
    }
}
