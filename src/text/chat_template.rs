//! Chat templates of Hugging Face models, rendered with minijinja as transformers does with Jinja.
//!
//! A template comes from the operator's model directory, never from a request or an adapter. It
//! still gets no more than bounded work, depth and output. Conversations are JSON values here; what
//! a valid message is, the server knows.

use std::io;
use std::sync::Arc;

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, Value, escape_formatter,
};

use super::tokenizer::Tokenizer;
use super::tokenizer_config::SpecialTokens;
use abilities::Abilities;
use globals::Raised;
use values::TooLong;

pub mod abilities;
mod arguments;
mod clock;
mod escape;
mod filters;
mod globals;
mod methods;
mod operators;
mod predicates;
mod printf;
mod rewrite;
mod str_format;
mod turn_end;
mod values;
mod views;

/// Work one rendering may do: instructions, and data made or read, at 64 bytes a unit.
const FUEL: u64 = 4_000_000;
/// Nested calls of macros one rendering may do.
const RECURSION_LIMIT: usize = 100;
/// Length of a rendered conversation in bytes, well above the context of any model.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// The name under which the template is known to its environment; it has no extension, for which
/// minijinja would escape the output.
const NAME: &str = "chat_template";

/// Why a template or a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatTemplateError {
    /// The source is no template: an error of the model directory.
    #[error("the chat template cannot be compiled: {0}")]
    Compile(String),
    /// The template itself refuses the conversation with `raise_exception`: the client's error,
    /// and the message is meant for it.
    #[error("the chat template refuses the conversation: {0}")]
    Raised(String),
    /// The conversation takes more work than a rendering may do.
    #[error("rendering the conversation takes more than {fuel} units of work")]
    TooMuchWork {
        /// The limit.
        fuel: u64,
    },
    /// The conversation is too long once rendered.
    #[error("the rendered conversation is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The template stumbles over the conversation, e.g. over a field that a message lacks.
    #[error("the chat template cannot render the conversation: {0}")]
    Render(String),
}

impl ChatTemplateError {
    /// What the template told the client with `raise_exception`, `None` for every other failure.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        if let Self::Raised(message) = self { Some(message) } else { None }
    }
}

/// What a template may be given besides the messages. The set is closed: a request cannot set any
/// other variable.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderOptions<'a> {
    /// The `tools` of an OpenAI request, a list of function definitions.
    pub tools: Option<&'a serde_json::Value>,
    /// The documents to answer from, a list of objects.
    pub documents: Option<&'a serde_json::Value>,
    /// Whether a model with a thinking mode thinks; `None` leaves it undefined.
    pub enable_thinking: Option<bool>,
    /// How much it thinks, in a word that the template knows; `None` leaves it undefined.
    pub reasoning_effort: Option<&'a str>,
    /// What `strftime_now` takes for now; `None` is the system's clock and time zone.
    pub now: Option<&'a ZonedDateTime>,
}

/// A compiled template, cheap to clone and shared between threads.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    special_tokens: SpecialTokens,
    abilities: Abilities,
}

impl ChatTemplate {
    /// Compiles `source`. The special tokens become the variables `bos_token` and so on.
    ///
    /// # Errors
    /// [`ChatTemplateError::Compile`] with the line and the reason.
    pub fn new(source: &str, special_tokens: SpecialTokens) -> Result<Self, ChatTemplateError> {
        let mut environment = Environment::new();
        // White space around tags was seen to when the template was written anew.
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(compile_error)?);
        // So that an error says what is undefined.
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_unknown_method_callback(methods::call);
        environment.set_formatter(print);
        operators::define(&mut environment);
        globals::define(&mut environment);
        filters::define(&mut environment);
        predicates::define(&mut environment);
        let prepared = rewrite::prepare(source);
        let rewritten = rewrite::rewrite(&prepared, NAME).map_err(compile_error)?;
        environment.add_template_owned(NAME, rewritten).map_err(compile_error)?;
        let environment = Arc::new(environment);
        let abilities = Abilities::default();
        let mut template = Self { environment, source: source.into(), special_tokens, abilities };
        template.abilities = Abilities::of(&template);
        Ok(template)
    }

    /// What it does with tools, found out by rendering.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// The special token with which the template closes an assistant's turn, where there is one.
    #[must_use]
    pub fn turn_end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        turn_end::turn_end(self, tokenizer)
    }

    /// The template's own text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders `messages`, a list of objects with `role` and `content`; `add_generation_prompt` ends
    /// the text where the assistant's answer begins.
    ///
    /// # Errors
    /// Every variant but [`ChatTemplateError::Compile`]; all of them lie in the conversation.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        add_generation_prompt: bool,
        options: &RenderOptions<'_>,
    ) -> Result<String, ChatTemplateError> {
        let template = self.environment.get_template(NAME).map_err(compile_error)?;
        let mut output = CappedOutput::default();
        let mut context = self.context(options);
        context.push(("messages", Value::from(Serde(messages))));
        context.push(("add_generation_prompt", Value::from(add_generation_prompt)));
        let rendered = template.render_captured_to(Value::from_pairs(context), &mut output);
        if output.is_full {
            return Err(ChatTemplateError::TooLong { limit: MAX_OUTPUT_BYTES });
        }
        rendered.map_err(|error| classify(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|error| ChatTemplateError::Render(error.to_string()))
    }

    /// The variables that transformers gives a template besides the conversation. `tools` and `documents` are `None` where
    /// there are none; a special token that the model lacks is undefined.
    fn context(&self, options: &RenderOptions<'_>) -> Vec<(&'static str, Value)> {
        let now = options.now.cloned().unwrap_or_else(ZonedDateTime::now);
        let strftime_now = move |pattern: &str| {
            clock::strftime(pattern, &now)
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        };
        let mut context = vec![
            ("tools", Value::from(Serde(options.tools))),
            ("documents", Value::from(Serde(options.documents))),
            ("strftime_now", Value::from_function(strftime_now)),
        ];
        let tokens = &self.special_tokens;
        let tokens = [
            ("bos_token", &tokens.bos_token),
            ("eos_token", &tokens.eos_token),
            ("unk_token", &tokens.unk_token),
            ("pad_token", &tokens.pad_token),
        ];
        let tokens = tokens.into_iter().filter_map(|(name, token)| Some((name, token.as_ref()?)));
        context.extend(tokens.map(|(name, token)| (name, Value::from(token))));
        context.extend(options.enable_thinking.map(|on| ("enable_thinking", Value::from(on))));
        let effort = options.reasoning_effort;
        context.extend(effort.map(|effort| ("reasoning_effort", Value::from(effort))));
        context
    }
}

/// Writes a value as Python would.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::None) {
        return escape_formatter(out, state, value);
    }
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None => {
            let text = values::text(value)?;
            state.consume_fuel((text.len() / 4) as u64)?;
            out.write_str(&text)?;
        }
    }
    Ok(())
}

fn compile_error(error: Error) -> ChatTemplateError {
    ChatTemplateError::Compile(error.to_string())
}

fn classify(error: &Error) -> ChatTemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ChatTemplateError::TooMuchWork { fuel: FUEL };
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return ChatTemplateError::Raised(message.clone());
        }
        if cause.is::<TooLong>() {
            return ChatTemplateError::TooLong { limit: MAX_OUTPUT_BYTES };
        }
        source = cause.source();
    }
    ChatTemplateError::Render(error.to_string())
}

/// Keeps [`MAX_OUTPUT_BYTES`] at most.
#[derive(Debug, Default)]
struct CappedOutput {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for CappedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
