//! The fields of a request for a response, checked.

use std::sync::Arc;

use uuid::Uuid;

use super::super::answer::Answer;
use super::super::conversation::Conversation;
use super::super::convert::{self, PromptRules};
use super::super::endpoint::{Delivery, Endpoint};
use super::super::fields::Fields;
use super::super::model::Model;
use super::super::prompts::PromptInput;
use super::super::render::{self, Rendered, TemplateOptions};
use super::super::tools::{AskedTools, FunctionStyle};
use super::super::validate::accepted::take_metadata;
use super::super::validate::effort::take_effort;
use super::super::validate::form::only;
use super::super::validate::length::take_max_tokens;
use super::super::validate::logprobs::take_logprob_token_ids;
use super::super::validate::{Common, MAX_LOGPROBS, refused};
use super::super::workbench::{Workbench, check_messages};
use super::input::take_input;
use super::object::{Reasoning, Settings};
use super::text::{Text, take_text};
use super::tools;
use super::writer::ResponseWriter;
use crate::server::error::ApiError;
use crate::server::generation::Job;
use crate::server::state::{ServerConfig, Serving};

/// What needs a memory, another endpoint's fields, and what this server does not do.
const REFUSED: [&str; 16] = [
    "background",
    "context_management",
    "conversation",
    "enable_response_messages",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "previous_input_messages",
    "previous_response",
    "previous_response_id",
    "prompt",
    "prompt_logprobs",
    "response_format",
    "return_token_ids",
];

/// Of `include`, what adds log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";
/// Of `include`, what changes nothing: thoughts are given as they are.
const THOUGHTS: &str = "reasoning.encrypted_content";

/// A checked request.
#[derive(Debug)]
pub struct ResponseRequest {
    common: Common,
    conversation: Conversation,
    max_tokens: Option<(&'static str, usize)>,
    /// Top tokens, where log-probabilities were asked for.
    logprobs: Option<usize>,
    logprob_token_ids: Option<Arc<[u32]>>,
    template: TemplateOptions,
    settings: Settings,
}

impl Endpoint for ResponseRequest {
    type Writer = ResponseWriter;

    fn take(
        fields: &mut Fields,
        model: Model,
        serving: &Serving,
        _config: &ServerConfig,
    ) -> Result<Self, ApiError> {
        refused::refuse(fields, &REFUSED)?;
        let logprobs = take_logprobs(fields)?;
        let (asked, how) = (logprobs.is_some(), format!("`include`: [\"{LOGPROBS}\"]"));
        let logprob_token_ids = take_logprob_token_ids(fields, serving.vocab_size, asked, &how)?;
        let mut common = Common::take(fields, model, serving)?;
        let Text { settings: text, form } = take_text(fields)?;
        common.form = only([form, common.form.take()])?;
        let instructions = fields.string("instructions")?;
        let messages = take_input(fields, instructions.as_deref())?;
        let asked = AskedTools::take(fields, FunctionStyle::Flat)?;
        let max_tokens = take_max_tokens(fields, &["max_output_tokens"], 1)?;
        let (reasoning, effort) = take_reasoning(fields)?;
        let settings = Settings {
            instructions,
            max_output_tokens: max_tokens.map(|(_, count)| count),
            max_tool_calls: fields.count("max_tool_calls", 1..=i64::MAX)?,
            metadata: take_metadata(fields)?,
            parallel_tool_calls: asked.parallel,
            reasoning,
            temperature: common.sampling.temperature,
            top_logprobs: logprobs.unwrap_or(0),
            top_p: common.sampling.top_p,
            text,
            tool_choice: tools::choice(&asked),
            tools: tools::definitions(&asked),
            truncation: take_truncation(fields)?,
        };
        let conversation = Conversation { messages, tools: asked.offered() };
        if common.truncation.is_none() {
            check_messages(serving, "input", conversation.bytes())?;
        }
        Ok(Self {
            common,
            conversation,
            max_tokens,
            logprobs,
            logprob_token_ids,
            template: TemplateOptions::take(fields)?.with_effort(effort),
            settings,
        })
    }

    fn writer(&self, serving: &Arc<Serving>) -> (ResponseWriter, Delivery) {
        let answer = Answer::new("resp", &self.common, serving, self.logprobs.is_some());
        let delivery = answer.delivery();
        let answer = Answer { id: format!("resp_{}", Uuid::new_v4().simple()), ..answer };
        (ResponseWriter::new(answer, self.settings.clone()), delivery)
    }

    fn bytes(&self) -> usize {
        self.conversation.bytes()
    }

    fn into_job(self, bench: &Workbench<'_>) -> Result<Job, ApiError> {
        let common = &self.common;
        let asked = common.form.clone();
        let keep = convert::keep(bench.serving, common.truncation, self.max_tokens);
        let Rendered { tokens, answer, marks, form } =
            render::chat(bench, self.conversation, self.template, keep, asked)
                .map_err(|error| error.renamed("messages", "input"))?;
        let rules = PromptRules {
            param: "input",
            add_special_tokens: false,
            echo: false,
            skip_special_tokens: common.skip_special_tokens,
            marks: &marks,
            truncation: common.truncation,
            max_tokens: self.max_tokens,
            default_max_tokens: bench
                .config
                .max_request_tokens
                .min(bench.serving.sampling_defaults.max_tokens.unwrap_or(usize::MAX)),
            most_tokens: common.model.max_tokens,
        };
        let prompts = convert::prompts(bench, vec![PromptInput::Tokens(tokens)], rules)?;
        let job = convert::job(bench.config, common, prompts, self.logprobs, None)
            .map_err(|error| error.renamed("max_tokens", "max_output_tokens"))?;
        Ok(Job { answer, form, logprob_token_ids: self.logprob_token_ids, ..job })
    }
}

/// Things to include, repeated or not.
const MAX_INCLUDES: usize = 32;

/// Takes `include`, and `top_logprobs`, which needs log-probabilities in it.
fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let include = fields.array_of("include", MAX_INCLUDES)?.unwrap_or_default();
    if let Some(value) = include.iter().find(|value| *value != LOGPROBS && *value != THOUGHTS) {
        let message = format!("`include` of {value} is not supported by this server");
        return Err(ApiError::invalid("include", message));
    }
    let top = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?;
    match (include.iter().any(|value| value == LOGPROBS), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message =
                format!("`top_logprobs` is only allowed with `include`: [\"{LOGPROBS}\"]");
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

/// Takes `reasoning`, and from it the effort that the template is told.
fn take_reasoning(fields: &mut Fields) -> Result<(Reasoning, Option<&'static str>), ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok((Reasoning::default(), None));
    };
    let effort = take_effort(&mut reasoning, "effort")?;
    let summary = reasoning.string("summary")?;
    Ok((Reasoning { effort: effort.map(str::to_owned), summary }, effort))
}

fn take_truncation(fields: &mut Fields) -> Result<&'static str, ApiError> {
    match fields.string("truncation")?.as_deref() {
        None | Some("disabled") => Ok("disabled"),
        Some("auto") => Err(ApiError::unsupported("truncation")),
        Some(_) => Err(ApiError::invalid("truncation", "`truncation` must be `disabled`")),
    }
}
