//! The chat templates of one model: the default one, and one for conversations with tools where the
//! model has it.

use super::chat_template::{ChatTemplate, ChatTemplateError};
use super::tokenizer::Tokenizer;
use super::tokenizer_config::{SpecialTokens, TemplateSources, TokenizerConfigError};

/// The name of the template that is used unless another is asked for.
pub const DEFAULT: &str = "default";
/// The name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// Compiled templates, cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplates {
    default: ChatTemplate,
    tool_use: Option<ChatTemplate>,
}

/// Why a model's templates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatTemplatesError {
    /// One of them does not compile.
    #[error("{0}")]
    Template(#[from] ChatTemplateError),
    /// None of them has the name.
    #[error("{0}")]
    Name(#[from] TokenizerConfigError),
}

impl ChatTemplates {
    /// One template for every conversation.
    ///
    /// # Errors
    /// Where it does not compile.
    pub fn single(source: &str, special_tokens: SpecialTokens) -> Result<Self, ChatTemplatesError> {
        Ok(Self { default: ChatTemplate::new(source, special_tokens)?, tool_use: None })
    }

    /// A model's own templates; `None` where it has none.
    ///
    /// # Errors
    /// Where none is the default one, and where one that is used does not compile.
    pub fn of_model(
        sources: &TemplateSources,
        special_tokens: &SpecialTokens,
    ) -> Result<Option<Self>, ChatTemplatesError> {
        if sources.is_empty() {
            return Ok(None);
        }
        let compile = |source: &str| ChatTemplate::new(source, special_tokens.clone());
        let default = compile(sources.get(DEFAULT)?)?;
        let tool_use = sources.get(TOOL_USE).ok().map(compile).transpose()?;
        Ok(Some(Self { default, tool_use }))
    }

    /// The special tokens with which the templates close an assistant's turn.
    #[must_use]
    pub fn turn_ends(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let templates = [Some(&self.default), self.tool_use.as_ref()].into_iter().flatten();
        templates.filter_map(|template| template.turn_end(tokenizer)).collect()
    }

    /// The one for a conversation.
    #[must_use]
    pub fn pick(&self, with_tools: bool) -> &ChatTemplate {
        self.tool_use.as_ref().filter(|_| with_tools).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conversations_with_tools_have_a_template_of_their_own() {
        let config = json!({"chat_template": [
            {"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]});
        let sources = TemplateSources::new(&config, None, []).unwrap();
        let templates = ChatTemplates::of_model(&sources, &SpecialTokens::default());
        let templates = templates.unwrap().unwrap();
        assert_eq!([false, true].map(|tools| templates.pick(tools).source()), ["D", "T"]);
        let single = ChatTemplates::single("S", SpecialTokens::default()).unwrap();
        assert_eq!([false, true].map(|tools| single.pick(tools).source()), ["S", "S"]);
        let none = TemplateSources::new(&json!({}), None, []).unwrap();
        assert!(ChatTemplates::of_model(&none, &SpecialTokens::default()).unwrap().is_none());
    }
}
