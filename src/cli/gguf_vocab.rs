//! From the model side to the text side: the vocabulary in a GGUF file's metadata.
//!
//! Neither side knows the other; this copies fields and interprets none.

use crate::model::error::ModelError;
use crate::model::gguf::GgufMetadata;
use crate::text::gguf_vocab::GgufVocab;

/// The vocabulary's fields as they are stored.
///
/// # Errors
/// Where one has the wrong type, or the model or the tokens are missing.
pub fn gguf_vocab(metadata: &GgufMetadata) -> Result<GgufVocab, ModelError> {
    let text = |key| Ok::<_, ModelError>(metadata.string(key)?.map(str::to_owned));
    let need = |key: &'static str| ModelError::MissingField(key);
    let (model, tokens) = ("tokenizer.ggml.model", "tokenizer.ggml.tokens");
    Ok(GgufVocab {
        model: text(model)?.ok_or(need(model))?,
        pre: text("tokenizer.ggml.pre")?,
        tokens: metadata.strings(tokens)?.ok_or(need(tokens))?,
        token_types: metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default(),
        merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        scores: metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default(),
        bos: token_id(metadata, "tokenizer.ggml.bos_token_id")?,
        eos: token_id(metadata, "tokenizer.ggml.eos_token_id")?,
        unk: token_id(metadata, "tokenizer.ggml.unknown_token_id")?,
        pad: token_id(metadata, "tokenizer.ggml.padding_token_id")?,
        add_bos: metadata.boolean("tokenizer.ggml.add_bos_token")?,
        add_prefix_space: metadata.boolean("tokenizer.ggml.add_space_prefix")?,
        chat_template: text("tokenizer.chat_template")?,
        named_chat_templates: named_chat_templates(metadata)?,
        context_length: metadata.unsigned("llama.context_length")?,
    })
}

/// Templates with names of their own, which a list names.
fn named_chat_templates(metadata: &GgufMetadata) -> Result<Vec<(String, String)>, ModelError> {
    const NAMES: &str = "tokenizer.chat_templates";
    let names = metadata.strings(NAMES)?.unwrap_or_default();
    let named = names.into_iter().map(|name| {
        let key = format!("tokenizer.chat_template.{name}");
        match metadata.string(&key)? {
            Some(text) => Ok((name, text.to_owned())),
            None => Err(ModelError::InvalidField {
                field: NAMES.to_owned(),
                value: name,
                expected: "the name of a template in the file".to_owned(),
            }),
        }
    });
    named.collect()
}

fn token_id(metadata: &GgufMetadata, key: &str) -> Result<Option<u32>, ModelError> {
    let Some(id) = metadata.unsigned(key)? else { return Ok(None) };
    u32::try_from(id).map(Some).map_err(|_| ModelError::InvalidField {
        field: key.to_owned(),
        value: id.to_string(),
        expected: "a token id".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use candle_core::quantized::gguf_file::{self, Value};
    use serde_json::json;

    use super::*;
    use crate::model::gguf::GgufFile;
    use crate::text::tokenizer_config::TemplateSources;

    /// The vocabulary of a file of two tokens and these fields.
    fn vocab(more: &[(&str, Value)]) -> Result<GgufVocab, ModelError> {
        let string = |text: &str| Value::String(text.to_owned());
        let tokens = Value::Array(vec![string("<|a|>"), string("b")]);
        let types = Value::Array(vec![Value::I32(3), Value::I32(1)]);
        let mut metadata = vec![
            ("general.architecture", string("llama")),
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.tokens", tokens),
            ("tokenizer.ggml.token_type", types),
        ];
        metadata.extend(more.iter().cloned());
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        gguf_file::write(&mut File::create(&path).unwrap(), &metadata, &[]).unwrap();
        let (_, metadata) = GgufFile::open(&path)?;
        gguf_vocab(&metadata)
    }

    #[test]
    fn chat_templates_may_have_names() {
        let string = |text: &str| Value::String(text.to_owned());
        let default = ("tokenizer.chat_template", string("D"));
        let names = |names: &[&str]| Value::Array(names.iter().map(|name| string(name)).collect());
        let tools = ("tokenizer.chat_template.tool_use", string("T<|a|>"));
        let list = ("tokenizer.chat_templates", names(&["tool_use"]));
        let of = |more: &[(&str, Value)]| {
            let config = vocab(more).unwrap().to_hugging_face().unwrap().tokenizer_config;
            let sources = TemplateSources::new(&config, None, []).unwrap();
            let found =
                ["default", "tool_use"].map(|name| sources.get(name).ok().map(str::to_owned));
            (found, config["additional_special_tokens"].clone())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[]).0, [None, None]);
        assert_eq!(of(std::slice::from_ref(&default)).0, [some("D"), None]);
        let all = of(&[default.clone(), tools, list.clone()]);
        assert_eq!(all, ([some("D"), some("T<|a|>")], json!(["<|a|>"])));
        let error = vocab(&[default, list]).unwrap_err().to_string();
        assert!(
            error.contains("tokenizer.chat_templates") && error.contains("tool_use"),
            "{error}"
        );
    }
}
