//! How the model that is served holds conversations: its templates, how it writes calls, whether it
//! thinks.

use crate::text::answer::{Shape, reasoning};
use crate::text::chat_templates::ChatTemplates;
use crate::text::tokenizer::Tokenizer;
use crate::text::tool_format::ToolFormat;

/// What is known of a model's conversations once it is loaded.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    /// Turns messages into a prompt.
    pub templates: ChatTemplates,
    /// How calls stand in answers; `None` where none are looked for.
    pub tool_format: Option<ToolFormat>,
    /// Whether an answer may begin with thoughts.
    pub thinks: bool,
}

impl ChatFormat {
    /// Special tokens that are looked for in the text of answers: they must not be skipped.
    #[must_use]
    pub fn marks(&self, tokenizer: &Tokenizer, with_tools: bool) -> Vec<u32> {
        let shape = self.tool_format.filter(|_| with_tools).map(ToolFormat::shape);
        let calls = shape.into_iter().flat_map(Shape::marks);
        let thoughts = [reasoning::OPEN, reasoning::CLOSE].into_iter().filter(|_| self.thinks);
        let ids = calls.chain(thoughts).filter_map(|mark| tokenizer.token_id(mark));
        ids.filter(|id| tokenizer.is_special(*id)).collect()
    }
}
