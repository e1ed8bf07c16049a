//! How a model's conversations are read and written: chat template, function calls, thoughts.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::text::answer::reasoning;
use crate::text::chat_template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::text::tool_format::ToolFormat;

/// The arguments about chats.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chats")]
pub struct ChatArgs {
    /// Chat template to use instead of the model's default: a file, the name of another of the
    /// model's templates, or the template itself
    #[arg(long, env = "SORSA_CHAT_TEMPLATE", value_name = "FILE|NAME|TEMPLATE")]
    pub chat_template: Option<TemplateArg>,
    /// Format of the model's function calls; auto detects it from the chat template, none refuses
    /// tools
    #[arg(long, env = "SORSA_TOOL_CALL_PARSER", default_value = "auto", value_name = "PARSER")]
    pub tool_call_parser: ToolCallParserArg,
    /// Whether text between <think> and </think> is returned as reasoning; auto does so if the chat
    /// template or the tokenizer knows the tags
    #[arg(long, env = "SORSA_REASONING_PARSER", default_value = "auto", value_name = "PARSER")]
    pub reasoning_parser: ReasoningParserArg,
    /// Read special tokens in chat messages as tokens, as transformers does, instead of as text. A
    /// message can then pretend to be several
    #[arg(long, env = "SORSA_ALLOW_SPECIAL_TOKENS")]
    pub allow_special_tokens: bool,
}

/// A chat template named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateArg {
    /// The template itself.
    Inline(String),
    /// A file, or the name of one of the model's templates.
    Named(PathBuf),
}

impl FromStr for TemplateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let is_template = ["{{", "{%"].iter().any(|mark| text.contains(mark));
        let named = || Self::Named(PathBuf::from(text));
        Ok(if is_template { Self::Inline(text.to_owned()) } else { named() })
    }
}

/// `--tool-call-parser`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ToolCallParserArg {
    /// The format that the template uses; Hermes if the template has no tools.
    Auto,
    /// Refuse tools.
    None,
    /// `<tool_call>{…}</tool_call>`.
    Hermes,
    /// `{"name": …, "parameters": {…}}`.
    #[value(name = "llama3_json")]
    Llama3Json,
    /// `[TOOL_CALLS] [{…}]`.
    Mistral,
}

impl ToolCallParserArg {
    /// The format for a model whose conversations with tools are rendered by `template`.
    #[must_use]
    pub fn resolve(self, template: &ChatTemplate) -> Option<ToolFormat> {
        match self {
            Self::None => None,
            Self::Hermes => Some(ToolFormat::Hermes),
            Self::Llama3Json => Some(ToolFormat::Llama3Json),
            Self::Mistral => Some(ToolFormat::Mistral),
            Self::Auto if template.abilities().knows_tools => ToolFormat::detect(template.source()),
            Self::Auto => Some(ToolFormat::Hermes),
        }
    }
}

/// `--reasoning-parser`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReasoningParserArg {
    /// Yes, if the template or the tokenizer knows the tags.
    Auto,
    /// No: all text is the answer.
    None,
    /// Yes: text between `<think>` and `</think>`.
    #[value(aliases = ["deepseek_r1", "qwen3"])]
    Think,
}

impl ReasoningParserArg {
    /// Whether a model thinks.
    #[must_use]
    pub fn resolve(self, template: &ChatTemplate, tokenizer: &Tokenizer) -> bool {
        match self {
            Self::None => false,
            Self::Think => true,
            Self::Auto => {
                template.source().contains(reasoning::CLOSE)
                    || tokenizer.token_id(reasoning::CLOSE).is_some()
            }
        }
    }
}
