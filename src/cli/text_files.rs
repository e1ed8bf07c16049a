//! A checkpoint's tokenizer and chat templates, ready to use: the model side reads files, the text
//! side understands them, and neither knows the other.

use anyhow::Context;
use serde_json::Value;

use super::gguf_vocab::gguf_vocab;
use crate::config::{ChatArgs, TemplateArg};
use crate::model::checkpoint::{Checkpoint, TokenizerSource};
use crate::server::chat_format::ChatFormat;
use crate::text::chat_templates::ChatTemplates;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer_config::{SpecialTokens, TemplateSources};

/// Tokens that a warning names.
const MAX_NAMED: usize = 8;

/// What the server needs to turn text into tokens and back.
#[derive(Debug)]
pub struct TextFiles {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// `tokenizer_config.json`, an empty object where there is none.
    pub tokenizer_config: Value,
    /// The `eos_token` of `tokenizer_config.json` and that of `special_tokens_map.json`.
    pub eos_tokens: Vec<String>,
    special_tokens: SpecialTokens,
    templates: TemplateSources,
}

impl TextFiles {
    /// Reads them from a directory's files or a GGUF's metadata.
    ///
    /// # Errors
    /// Where the tokenizer is missing or unusable.
    pub fn open(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let (tokenizer, tokenizer_config, map, templates) = match checkpoint.tokenizer()? {
            TokenizerSource::HuggingFace(files) => {
                let config = files.tokenizer_config.unwrap_or_else(empty_object);
                let additional = files.additional_chat_templates;
                let sources = TemplateSources::new(&config, files.chat_template, additional)?;
                let map = files.special_tokens_map.unwrap_or_default();
                (files.tokenizer, config, map, sources)
            }
            TokenizerSource::Gguf(metadata) => {
                let files = gguf_vocab(metadata)?.to_hugging_face()?;
                let sources = TemplateSources::new(&files.tokenizer_config, None, [])?;
                let tokenizer = serde_json::to_vec(&files.tokenizer)?;
                (tokenizer, files.tokenizer_config, files.special_tokens_map, sources)
            }
        };
        let special_tokens = SpecialTokens::from_config(&tokenizer_config)?;
        let others = SpecialTokens::from_map(&map)?;
        let eos_tokens = [&special_tokens, &others].map(|tokens| tokens.eos_token.clone());
        let tokenizer = Tokenizer::from_json(&tokenizer).context("the tokenizer cannot be used")?;
        Ok(Self {
            tokenizer,
            tokenizer_config,
            eos_tokens: eos_tokens.into_iter().flatten().collect(),
            special_tokens: special_tokens.or(others),
            templates,
        })
    }

    /// Warns of tokens that a model of `vocab_size` does not know.
    pub fn warn_of_unknown_tokens(&self, vocab_size: usize) {
        if let Some(tokens) = unknown_tokens(&self.tokenizer, vocab_size) {
            tracing::warn!(
                "the tokenizer has tokens beyond the model's vocabulary of {vocab_size}: {tokens}. \
                 Prompts with them are refused"
            );
        }
    }

    /// How conversations are held, where there is a chat template.
    ///
    /// # Errors
    /// Where a template does not compile, or the one that `args` name is not there.
    pub fn chat(&self, args: &ChatArgs) -> anyhow::Result<Option<ChatFormat>> {
        let special_tokens = self.special_tokens.clone();
        let templates = match &args.chat_template {
            None => ChatTemplates::of_model(&self.templates, &special_tokens)?,
            Some(template) => {
                Some(ChatTemplates::single(&given(template, &self.templates)?, special_tokens)?)
            }
        };
        Ok(templates.map(|templates| ChatFormat {
            tool_format: args.tool_call_parser.resolve(templates.pick(true)),
            thinks: args.reasoning_parser.resolve(templates.pick(false), &self.tokenizer),
            templates,
        }))
    }
}

/// The tokens of a tokenizer that a model of `vocab_size` does not know, by their texts and ids.
fn unknown_tokens(tokenizer: &Tokenizer, vocab_size: usize) -> Option<String> {
    let ids = (0..).take(tokenizer.vocab_size()).skip(vocab_size);
    let named = |id: u32| Some(format!("{:?} ({id})", tokenizer.token_text(id)?));
    let named: Vec<String> = ids.filter_map(named).collect();
    let list = named.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match named.len() {
        0 => None,
        count if count > MAX_NAMED => Some(format!("{list} and {} more", count - MAX_NAMED)),
        _ => Some(list),
    }
}

/// The template that `--chat-template` names.
fn given(template: &TemplateArg, sources: &TemplateSources) -> anyhow::Result<String> {
    let named = match template {
        TemplateArg::Inline(source) => return Ok(source.clone()),
        TemplateArg::Named(named) => named,
    };
    if let Some(source) = named.to_str().and_then(|name| sources.get(name).ok()) {
        return Ok(source.to_owned());
    }
    std::fs::read_to_string(named).with_context(|| {
        format!(
            "--chat-template {} is neither a file that can be read nor the name of one of the \
             model's templates",
            named.display()
        )
    })
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_beyond_the_embedding_are_named() {
        let json = include_bytes!("../../tests/fixtures/tiny/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let size = tokenizer.vocab_size();
        assert_eq!(unknown_tokens(&tokenizer, size), None);
        assert_eq!(unknown_tokens(&tokenizer, size + 64), None);
        let last = tokenizer.token_text(u32::try_from(size).unwrap() - 1).unwrap();
        let named = unknown_tokens(&tokenizer, size - 1).unwrap();
        assert_eq!(named, format!("{last:?} ({})", size - 1));
        let named = unknown_tokens(&tokenizer, size - 20).unwrap();
        assert!(named.ends_with(" and 12 more"), "{named}");
    }
}
