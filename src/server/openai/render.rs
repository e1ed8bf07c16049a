//! Conversations through the model's chat template to token ids. Templates are the operator's, never
//! a request's, and a request sets no variable of them but those named here. Only the template
//! writes special tokens, and those in a message are text, unless the operator allows them.

use uuid::Uuid;

use super::conversation::Conversation;
use super::demand;
use super::fields::Fields;
use super::tools::{ToolChoice, Tools};
use super::validate::effort::take_effort;
use super::workbench::Workbench;
use crate::server::body::json::VALUE_BYTES;
use crate::server::chat_format::ChatFormat;
use crate::server::choice::AnswerRules;
use crate::server::error::ApiError;
use crate::server::form::Form;
use crate::server::state::ServerConfig;
use crate::text::answer::{AnswerParser, Calls, Thoughts, reasoning};
use crate::text::chat_template::{ChatTemplateError, RenderOptions};
use crate::text::tokenizer::{Keep, Tokenizer};
use crate::text::tool_format::ToolFormat;

/// What a request may tell the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateOptions {
    opening: Opening,
    enable_thinking: Option<bool>,
    reasoning_effort: Option<&'static str>,
    /// Lets the tokenizer add its own tokens; templates write them themselves.
    add_special_tokens: bool,
}

/// Where the answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// In a turn of its own.
    Turn,
    /// Wherever the conversation ends.
    End,
    /// Within the last message.
    LastMessage,
}

impl TemplateOptions {
    /// Takes `add_generation_prompt`, `continue_final_message`, `add_special_tokens`,
    /// `reasoning_effort`, and `enable_thinking` from `chat_template_kwargs`.
    ///
    /// # Errors
    /// Where one is no boolean, and for any other variable.
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let has_prompt = fields.has("add_generation_prompt");
        let adds_prompt = fields.boolean("add_generation_prompt", true)?;
        let continues = fields.boolean("continue_final_message", false)?;
        let opening = match (continues, adds_prompt) {
            (true, true) if has_prompt => {
                let message = "`continue_final_message` is not allowed with \
                               `add_generation_prompt`: true";
                return Err(ApiError::invalid("continue_final_message", message));
            }
            (true, _) => Opening::LastMessage,
            (false, true) => Opening::Turn,
            (false, false) => Opening::End,
        };
        let mut enable_thinking = None;
        if let Some(mut variables) = fields.object("chat_template_kwargs")? {
            if variables.has("enable_thinking") {
                enable_thinking = Some(variables.boolean("enable_thinking", false)?);
            }
            if let Some(other) = variables.rest().next() {
                return Err(ApiError::unsupported(format!("chat_template_kwargs.{other}")));
            }
        }
        let add_special_tokens = fields.boolean("add_special_tokens", false)?;
        let reasoning_effort = take_effort(fields, "reasoning_effort")?;
        Ok(Self { opening, enable_thinking, reasoning_effort, add_special_tokens })
    }

    /// With an effort that stands elsewhere in the request, where there is one.
    #[must_use]
    pub fn with_effort(self, effort: Option<&'static str>) -> Self {
        Self { reasoning_effort: effort.or(self.reasoning_effort), ..self }
    }

    /// Whether a model that can think first does. An effort says so too, as with vLLM.
    fn thinks(self) -> Option<bool> {
        self.enable_thinking.or(self.reasoning_effort.map(|effort| effort != "none"))
    }
}

/// A conversation as the model reads it.
#[derive(Debug)]
pub struct Rendered {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How the answer to it is taken apart.
    pub answer: AnswerRules,
    /// Special tokens that stand in the answer's text.
    pub marks: Vec<u32>,
    /// What the answer must obey.
    pub form: Option<Form>,
}

/// Renders a conversation and takes the tokens that `keep` wants; the content of its answer must be of
/// the form `asked`. Slow
/// for long ones: not for async threads.
///
/// # Errors
/// Where the model has no template or calls no functions, and where the template refuses the
/// messages.
pub fn chat(
    bench: &Workbench<'_>,
    conversation: Conversation,
    options: TemplateOptions,
    keep: Keep,
    asked: Option<Form>,
) -> Result<Rendered, ApiError> {
    let Workbench { config, serving, .. } = *bench;
    let format = serving.chat.as_ref().ok_or_else(|| {
        let message = "this model has no chat template: use `/v1/completions`";
        ApiError::invalid("messages", message)
    })?;
    let calls = conversation.tools.as_ref().map(|tools| calls(format, tools)).transpose()?;
    let forced_call = conversation
        .tools
        .as_ref()
        .is_some_and(|tools| matches!(tools.choice, ToolChoice::Named(_)));
    let tokenizer = &serving.tokenizer;
    let with_tools = calls.is_some();
    let last = last_content(&conversation, options)?;
    let tools = conversation.tools.clone();
    bench.work.hold(copies(&conversation))?;
    let text = text(config, tokenizer, format, conversation, options)?;
    bench.work.hold(text.len())?;
    let tokens = bench.read_rendered(&text, keep, options.add_special_tokens)?;
    let thoughts = format.thinks.then(|| thoughts(&text, last.as_deref()));
    let form =
        demand::form(format, (tokenizer, serving.vocab_size), tools.as_ref(), asked, thoughts)?;
    let parser = (thoughts.is_some() || with_tools).then(|| AnswerParser::new(thoughts, calls));
    let short_ids = format.tool_format.is_some_and(ToolFormat::has_short_ids);
    let answer = AnswerRules { parser, hide_reasoning: false, forced_call, short_ids };
    Ok(Rendered { tokens, answer, marks: format.marks(tokenizer, with_tools), form })
}

/// Bytes that rendering takes beside the text that it gives: the messages once more in the form that the
/// template takes, once more without special tokens, and once more as its values.
fn copies(conversation: &Conversation) -> usize {
    3 * conversation.bytes() + VALUE_BYTES * conversation.values()
}

/// The calls that an answer may hold.
fn calls(format: &ChatFormat, tools: &Tools) -> Result<Calls, ApiError> {
    let Some(tool_format) = format.tool_format else {
        let message = "this server does not know how the model calls functions";
        return Err(ApiError::invalid("tools", message));
    };
    let only_one = !tools.parallel || matches!(tools.choice, ToolChoice::Named(_));
    Ok(Calls { shape: tool_format.shape(), names: tools.names(), only_one })
}

/// The text of the message that is to be continued.
fn last_content(
    conversation: &Conversation,
    options: TemplateOptions,
) -> Result<Option<String>, ApiError> {
    if options.opening != Opening::LastMessage {
        return Ok(None);
    }
    let last = conversation.messages.last();
    let last = last.filter(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    match last.and_then(|last| last["content"].as_str()) {
        Some(content) => Ok(Some(content.to_owned())),
        None => {
            let message = "`continue_final_message` needs an assistant's text as the last message";
            Err(ApiError::invalid("continue_final_message", message))
        }
    }
}

fn text(
    config: &ServerConfig,
    tokenizer: &Tokenizer,
    format: &ChatFormat,
    conversation: Conversation,
    options: TemplateOptions,
) -> Result<String, ApiError> {
    let template = format.templates.pick(conversation.tools.is_some());
    let mut input = conversation.into_input(format);
    if !config.allow_special_tokens {
        input = input.protected(tokenizer);
    }
    // Stands where the last message ends, whatever the template does around it: only digits, which
    // no template changes.
    let end = Uuid::new_v4().as_u128().to_string();
    if options.opening == Opening::LastMessage
        && let Some(last) = input.messages.as_array_mut().and_then(|messages| messages.last_mut())
    {
        last["content"] = format!("{}{end}", last["content"].as_str().unwrap_or_default()).into();
    }
    let variables = RenderOptions {
        tools: input.tools.as_ref(),
        enable_thinking: options.thinks(),
        reasoning_effort: options.reasoning_effort,
        ..RenderOptions::default()
    };
    let mut text = template
        .render(&input.messages, options.opening == Opening::Turn, &variables)
        .map_err(|error| refusal(tokenizer, &error))?;
    if options.opening == Opening::LastMessage {
        let Some(place) = text.rfind(&end) else {
            let message = "the chat template leaves the final message out: it cannot be continued";
            return Err(ApiError::invalid("continue_final_message", message));
        };
        text.truncate(place);
    }
    Ok(text)
}

/// Whether thoughts are open where the answer begins: at the end of the rendered `text`, or in the
/// `last` message, which the answer continues.
fn thoughts(text: &str, last: Option<&str>) -> Thoughts {
    let opened = match last {
        None => text.trim_end().ends_with(reasoning::OPEN),
        Some(last) => {
            last.rfind(reasoning::OPEN).is_some_and(|at| !last[at..].contains(reasoning::CLOSE))
        }
    };
    if opened { Thoughts::Opened } else { Thoughts::Unopened }
}

fn refusal(tokenizer: &Tokenizer, error: &ChatTemplateError) -> ApiError {
    match error {
        ChatTemplateError::Compile(_) => {
            tracing::error!(%error, "bug: a template that compiled does not compile");
            ApiError::internal()
        }
        ChatTemplateError::Render(_) => {
            // Most likely a fault of the template, which is the operator's to mend.
            tracing::warn!("a chat template failed: {}", tokenizer.reveal(&error.to_string()));
            ApiError::invalid("messages", tokenizer.reveal(&error.to_string()))
        }
        // A refusal may repeat the message it refuses.
        error => ApiError::invalid("messages", tokenizer.reveal(&error.to_string())),
    }
}
