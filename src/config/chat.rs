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
pub struct ChatArgs {
    /// The chat template instead of the model's default one: a file, the name of another template of
    /// the model, or the template itself
    #[arg(long, env = "SORSA_CHAT_TEMPLATE", value_name = "FILE|NAME|TEMPLATE")]
    pub chat_template: Option<TemplateArg>,
    /// How function calls stand in the model's answers; auto finds it in the chat template, none
    /// refuses tools
    #[arg(long, env = "SORSA_TOOL_CALL_PARSER", default_value = "auto", value_name = "PARSER")]
    pub tool_call_parser: ToolCallParserArg,
    /// Whether what stands between <think> and </think> is told from the answer; auto does where
    /// the chat template or the tokenizer knows the tags
    #[arg(long, env = "SORSA_REASONING_PARSER", default_value = "auto", value_name = "PARSER")]
    pub reasoning_parser: ReasoningParserArg,
    /// Read special tokens written in chat messages as tokens, as transformers reads a rendered
    /// chat: a message can then pretend to be several. Otherwise they are text
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
    /// What the template uses; the form of Hermes where the template knows no tools.
    Auto,
    /// Tools are refused.
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
    /// Where the template or the tokenizer knows the tags.
    Auto,
    /// All is answer.
    None,
    /// Between `<think>` and `</think>`.
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
