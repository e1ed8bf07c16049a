//! Chat templates of Hugging Face models, rendered with minijinja as transformers does with Jinja.
//!
//! A template comes from the operator's model directory, never from a request or an adapter. It
//! still gets no more than bounded work, depth and output. Conversations are JSON values here; what
//! a valid message is, the server knows.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::json_dumps::{DumpOptions, json_dumps};
use super::strftime::strftime;
use super::tokenizer_config::SpecialTokens;
use abilities::Abilities;

pub mod abilities;

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
    /// What `strftime_now` takes for now, in UTC; `None` is the system's clock.
    pub now: Option<SystemTime>,
}

/// A compiled template, cheap to clone and shared between threads.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    special_tokens: SpecialTokens,
    abilities: Abilities,
}

/// The reason a template gives to `raise_exception`, found again in the error's sources.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles `source`. The special tokens become the variables `bos_token` and so on.
    ///
    /// # Errors
    /// [`ChatTemplateError::Compile`] with the line and the reason.
    pub fn new(source: &str, special_tokens: SpecialTokens) -> Result<Self, ChatTemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(compile_error)?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, plain_generation_tags(source))
            .map_err(compile_error)?;
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
        let now = options.now.unwrap_or_else(SystemTime::now);
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let strftime_now = move |pattern: &str| {
            strftime(pattern, now)
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

/// `{% generation %}` marks, for training, what the assistant said. Text is not changed by it:
/// a condition that always holds stands in, with the same whitespace control.
fn plain_generation_tags(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        plain.push_str(before);
        let Some(close) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close + 2);
        let word = tag[2..close].trim_matches(['-', '+']).trim();
        match word {
            "generation" => plain.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => plain.push_str(&tag.replacen(word, "endif", 1)),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

fn raise_exception(message: String) -> Result<String, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// The filter as transformers defines it: `json.dumps`, with its keyword arguments.
fn tojson(state: &State, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let invalid = |error: String| Error::new(ErrorKind::InvalidOperation, error);
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(indent) => indent.to_owned(),
            None => " ".repeat(usize::from(u8::try_from(indent)?)),
        }),
    };
    let separators = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        None => None,
        Some([item, key]) => Some((item.clone(), key.clone())),
        Some(_) => return Err(invalid("separators of json are two strings".to_owned())),
    };
    let options = DumpOptions {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators,
    };
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(invalid("an undefined value has no json".to_owned()));
    }
    let value = serde_json::to_value(value).map_err(|error| invalid(error.to_string()))?;
    let json = json_dumps(value, &options).map_err(|error| invalid(error.to_string()))?;
    // Walking a value costs more than copying bytes does; minijinja charges its own filter so.
    state.consume_fuel((json.len() / 4) as u64)?;
    Ok(json)
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
