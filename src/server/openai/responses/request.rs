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
use super::super::validate::form::only;
use super::super::validate::length::take_max_tokens;
use super::super::validate::{Common, refused};
use super::input::take_input;
use super::object::{Reasoning, Settings};
use super::text::{Text, take_text};
use super::tools;
use super::writer::ResponseWriter;
use crate::server::error::ApiError;
use crate::server::generation::Job;
use crate::server::state::{ServerConfig, Serving};

/// What needs a memory, another endpoint's fields, and what this server does not do.
const REFUSED: [&str; 14] = [
    "background",
    "context_management",
    "conversation",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "previous_response_id",
    "prompt",
    "prompt_logprobs",
    "response_format",
    "return_token_ids",
    "top_logprobs",
];

/// Of `include`, what changes nothing: thoughts are given as they are.
const INCLUDABLE: &str = "reasoning.encrypted_content";

/// A checked request.
#[derive(Debug)]
pub struct ResponseRequest {
    common: Common,
    conversation: Conversation,
    max_tokens: Option<(&'static str, usize)>,
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
        take_include(fields)?;
        let mut common = Common::take(fields, model, serving)?;
        let Text { settings: text, form } = take_text(fields)?;
        common.form = only([form, common.form.take()])?;
        let instructions = fields.string("instructions")?;
        let messages = take_input(fields, instructions.as_deref())?;
        let asked = AskedTools::take(fields, FunctionStyle::Flat)?;
        let max_tokens = take_max_tokens(fields, &["max_output_tokens"], 1)?;
        let settings = Settings {
            instructions,
            max_output_tokens: max_tokens.map(|(_, count)| count),
            max_tool_calls: fields.count("max_tool_calls", 1..=i64::MAX)?,
            metadata: take_metadata(fields)?,
            parallel_tool_calls: asked.parallel,
            reasoning: take_reasoning(fields)?,
            temperature: common.sampling.temperature,
            top_p: common.sampling.top_p,
            text,
            tool_choice: tools::choice(&asked),
            tools: tools::definitions(&asked),
            truncation: take_truncation(fields)?,
        };
        Ok(Self {
            common,
            conversation: Conversation { messages, tools: asked.offered() },
            max_tokens,
            template: TemplateOptions::take(fields)?,
            settings,
        })
    }

    fn writer(&self, serving: &Arc<Serving>) -> (ResponseWriter, Delivery) {
        let answer = Answer::new("resp", &self.common, serving, false);
        let delivery = answer.delivery();
        let answer = Answer { id: format!("resp_{}", Uuid::new_v4().simple()), ..answer };
        (ResponseWriter::new(answer, self.settings.clone()), delivery)
    }

    fn into_job(self, serving: &Serving, config: &ServerConfig) -> Result<Job, ApiError> {
        let common = &self.common;
        let asked = common.form.clone();
        let Rendered { tokens, answer, marks, form } =
            render::chat(config, serving, self.conversation, self.template, asked)
                .map_err(|error| error.renamed("messages", "input"))?;
        let rules = PromptRules {
            param: "input",
            add_special_tokens: false,
            echo: false,
            skip_special_tokens: common.skip_special_tokens,
            marks: &marks,
            truncate: common.truncate_prompt,
            max_tokens: self.max_tokens,
            default_max_tokens: config.max_request_tokens,
            most_tokens: common.model.max_tokens,
        };
        let prompts = convert::prompts(serving, vec![PromptInput::Tokens(tokens)], rules)?;
        let job = convert::job(config, common, prompts, None, None)
            .map_err(|error| error.renamed("max_tokens", "max_output_tokens"))?;
        Ok(Job { answer, form, ..job })
    }
}

fn take_include(fields: &mut Fields) -> Result<(), ApiError> {
    let include = fields.array("include")?.unwrap_or_default();
    match include.iter().find(|value| *value != INCLUDABLE) {
        None => Ok(()),
        Some(value) => {
            let message = format!("`include` of {value} is not supported by this server");
            Err(ApiError::invalid("include", message))
        }
    }
}

fn take_reasoning(fields: &mut Fields) -> Result<Reasoning, ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok(Reasoning::default()) };
    Ok(Reasoning { effort: reasoning.string("effort")?, summary: reasoning.string("summary")? })
}

fn take_truncation(fields: &mut Fields) -> Result<&'static str, ApiError> {
    match fields.string("truncation")?.as_deref() {
        None | Some("disabled") => Ok("disabled"),
        Some("auto") => Err(ApiError::unsupported("truncation")),
        Some(_) => Err(ApiError::invalid("truncation", "`truncation` must be `disabled`")),
    }
}
