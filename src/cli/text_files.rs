//! A checkpoint's tokenizer and chat template, ready to use: the model side reads files, the text
//! side understands them, and neither knows the other.

use anyhow::Context;
use serde_json::Value;

use super::gguf_vocab::gguf_vocab;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::text::chat_template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer_config::{SpecialTokens, chat_template_source};

/// What the server needs to turn text into tokens and back.
#[derive(Debug)]
pub struct TextFiles {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, where the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// `tokenizer_config.json`, an empty object where there is none.
    pub tokenizer_config: Value,
}

impl TextFiles {
    /// Reads them from a directory's files or a GGUF's metadata.
    ///
    /// # Errors
    /// Where the tokenizer is missing or unusable, or the chat template does not compile.
    pub fn open(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let (tokenizer, tokenizer_config, jinja) = match checkpoint.tokenizer()? {
            TokenizerSource::HuggingFace { tokenizer, tokenizer_config, chat_template } => {
                (tokenizer, tokenizer_config.unwrap_or_else(empty_object), chat_template)
            }
            TokenizerSource::Gguf(metadata) => {
                let files = gguf_vocab(metadata)?.to_hugging_face()?;
                (serde_json::to_vec(&files.tokenizer)?, files.tokenizer_config, None)
            }
        };
        let special_tokens = SpecialTokens::from_config(&tokenizer_config)?;
        let template = chat_template_source(&tokenizer_config, jinja.as_deref())?
            .map(|source| ChatTemplate::new(&source, special_tokens))
            .transpose()?;
        Ok(Self {
            tokenizer: Tokenizer::from_json(&tokenizer).context("the tokenizer cannot be used")?,
            chat_template: template,
            tokenizer_config,
        })
    }
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}
