//! What a `tokenizer_config.json` says besides the tokenizer: special tokens and chat template.

use serde_json::Value;

/// A value that is not of the form it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerConfigError {
    /// A special token that is neither a string nor an object with a `content`.
    #[error("{name} in tokenizer_config.json is neither a string nor an added token: {value}")]
    SpecialToken {
        /// Its key.
        name: &'static str,
        /// What stands there.
        value: String,
    },
    /// A `chat_template` that is neither a string nor a list of named templates.
    #[error("chat_template in tokenizer_config.json is neither a string nor a list of templates")]
    ChatTemplate,
    /// A list of templates without the one that is used by default.
    #[error("none of the chat templates {names:?} is named default")]
    NoDefaultTemplate {
        /// The names there are.
        names: Vec<String>,
    },
}

/// The special tokens that a chat template can name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos_token: Option<String>,
    /// Ends a sequence.
    pub eos_token: Option<String>,
    /// Stands for what the vocabulary cannot spell.
    pub unk_token: Option<String>,
    /// Fills a batch.
    pub pad_token: Option<String>,
}

impl SpecialTokens {
    /// Reads a parsed `tokenizer_config.json` (or `special_tokens_map.json`).
    ///
    /// # Errors
    /// [`TokenizerConfigError::SpecialToken`] names the one that is of another form.
    pub fn from_config(config: &Value) -> Result<Self, TokenizerConfigError> {
        let token = |name: &'static str| match &config[name] {
            Value::Null => Ok(None),
            Value::String(content) => Ok(Some(content.clone())),
            value => match value["content"].as_str() {
                Some(content) => Ok(Some(content.to_owned())),
                None => Err(TokenizerConfigError::SpecialToken { name, value: value.to_string() }),
            },
        };
        Ok(Self {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            unk_token: token("unk_token")?,
            pad_token: token("pad_token")?,
        })
    }
}

/// The chat template of a model: the contents of its `chat_template.jinja` where there is one,
/// else what a parsed `tokenizer_config.json` holds: one template, or a list of which the one named
/// `default` is taken. `None` where the model has none.
///
/// # Errors
/// [`TokenizerConfigError::ChatTemplate`] and [`TokenizerConfigError::NoDefaultTemplate`].
pub fn chat_template_source(
    config: &Value,
    chat_template_jinja: Option<&str>,
) -> Result<Option<String>, TokenizerConfigError> {
    if let Some(source) = chat_template_jinja {
        return Ok(Some(source.to_owned()));
    }
    let named = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(source) => return Ok(Some(source.clone())),
        Value::Array(named) => named,
        _ => return Err(TokenizerConfigError::ChatTemplate),
    };
    let mut names = Vec::new();
    for entry in named {
        match (entry["name"].as_str(), entry["template"].as_str()) {
            (Some("default"), Some(source)) => return Ok(Some(source.to_owned())),
            (Some(name), Some(_)) => names.push(name.to_owned()),
            _ => return Err(TokenizerConfigError::ChatTemplate),
        }
    }
    Err(TokenizerConfigError::NoDefaultTemplate { names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn special_tokens_are_strings_or_added_tokens() {
        let config = json!({
            "bos_token": {"content": "<s>", "lstrip": false, "__type": "AddedToken"},
            "eos_token": "</s>",
            "pad_token": null,
        });
        let tokens = SpecialTokens::from_config(&config).unwrap();
        assert_eq!(tokens.bos_token.as_deref(), Some("<s>"));
        assert_eq!(tokens.eos_token.as_deref(), Some("</s>"));
        assert_eq!((tokens.pad_token, tokens.unk_token), (None, None));

        let error = SpecialTokens::from_config(&json!({"eos_token": 2})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "eos_token in tokenizer_config.json is neither a string nor an added token: 2"
        );
    }

    #[test]
    fn a_template_is_a_string_a_named_default_or_a_file_of_its_own() {
        let source = |config: &Value, jinja| chat_template_source(config, jinja);
        let list = json!({"chat_template": [
            {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]});
        assert_eq!(source(&json!({}), None), Ok(None));
        assert_eq!(source(&json!({"chat_template": "S"}), None), Ok(Some("S".to_owned())));
        assert_eq!(source(&list, None), Ok(Some("D".to_owned())));
        assert_eq!(source(&list, Some("J")), Ok(Some("J".to_owned())));

        let unnamed = json!({"chat_template": [{"name": "rag", "template": "R"}]});
        let error = source(&unnamed, None).unwrap_err();
        assert_eq!(error.to_string(), r#"none of the chat templates ["rag"] is named default"#);
        for wrong in [json!({"chat_template": 1}), json!({"chat_template": ["a"]})] {
            assert_eq!(source(&wrong, None), Err(TokenizerConfigError::ChatTemplate));
        }
    }
}
