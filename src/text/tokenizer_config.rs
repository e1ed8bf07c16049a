//! What a `tokenizer_config.json` says besides the tokenizer: special tokens and chat template.

use std::collections::BTreeMap;

use serde_json::Value;

use super::chat_templates::DEFAULT;

/// A value that is not of the form it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerConfigError {
    /// A special token that is neither a string nor an object with a `content`.
    #[error("{name} in {file} is neither a string nor an added token: {value}")]
    SpecialToken {
        /// The file.
        file: &'static str,
        /// Its key.
        name: &'static str,
        /// What stands there.
        value: String,
    },
    /// A `chat_template` that is neither a string nor a list of named templates.
    #[error("chat_template in tokenizer_config.json is neither a string nor a list of templates")]
    ChatTemplate,
    /// None of the model's templates has the name that is asked for.
    #[error("none of the chat templates {names:?} is named {name}")]
    NoTemplate {
        /// The name.
        name: String,
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
    /// Reads a parsed `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`TokenizerConfigError::SpecialToken`] names the one that is of another form.
    pub fn from_config(config: &Value) -> Result<Self, TokenizerConfigError> {
        Self::read(config, "tokenizer_config.json")
    }

    /// Reads a parsed `special_tokens_map.json`.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub fn from_map(map: &Value) -> Result<Self, TokenizerConfigError> {
        Self::read(map, "special_tokens_map.json")
    }

    /// These, and those of `others` that are missing here.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            bos_token: self.bos_token.or(others.bos_token),
            eos_token: self.eos_token.or(others.eos_token),
            unk_token: self.unk_token.or(others.unk_token),
            pad_token: self.pad_token.or(others.pad_token),
        }
    }

    fn read(fields: &Value, file: &'static str) -> Result<Self, TokenizerConfigError> {
        let token = |name: &'static str| match &fields[name] {
            Value::Null => Ok(None),
            Value::String(content) => Ok(Some(content.clone())),
            value => match value["content"].as_str() {
                Some(content) => Ok(Some(content.to_owned())),
                None => {
                    let value = value.to_string();
                    Err(TokenizerConfigError::SpecialToken { file, name, value })
                }
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

/// The chat templates of a model by name, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateSources(BTreeMap<String, String>);

impl TemplateSources {
    /// Those of a parsed `tokenizer_config.json`, one template or a list of named ones; those of
    /// files, `chat_template.jinja` and `additional`, outrank them.
    ///
    /// # Errors
    /// [`TokenizerConfigError::ChatTemplate`].
    pub fn new(
        config: &Value,
        chat_template_jinja: Option<String>,
        additional: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, TokenizerConfigError> {
        let default = |source: String| (DEFAULT.to_owned(), source);
        let mut sources = BTreeMap::new();
        match &config["chat_template"] {
            Value::Null => {}
            Value::String(source) => sources.extend([default(source.clone())]),
            Value::Array(named) => {
                for entry in named {
                    let (Some(name), Some(source)) =
                        (entry["name"].as_str(), entry["template"].as_str())
                    else {
                        return Err(TokenizerConfigError::ChatTemplate);
                    };
                    sources.insert(name.to_owned(), source.to_owned());
                }
            }
            _ => return Err(TokenizerConfigError::ChatTemplate),
        }
        sources.extend(chat_template_jinja.map(default));
        sources.extend(additional);
        Ok(Self(sources))
    }

    /// True where the model has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`TokenizerConfigError::NoTemplate`] with the names there are.
    pub fn get(&self, name: &str) -> Result<&str, TokenizerConfigError> {
        self.0.get(name).map(String::as_str).ok_or_else(|| TokenizerConfigError::NoTemplate {
            name: name.to_owned(),
            names: self.0.keys().cloned().collect(),
        })
    }
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
        let default = |config: &Value, jinja: Option<&str>| {
            let additional = [("rag".to_owned(), "R".to_owned())];
            let sources = TemplateSources::new(config, jinja.map(str::to_owned), additional);
            sources.unwrap().get("default").map(str::to_owned)
        };
        let list = json!({"chat_template": [
            {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]});
        assert_eq!(default(&json!({"chat_template": "S"}), None).unwrap(), "S");
        assert_eq!(default(&list, None).unwrap(), "D");
        assert_eq!(default(&list, Some("J")).unwrap(), "J");
        let error = default(&json!({}), None).unwrap_err();
        assert_eq!(error.to_string(), r#"none of the chat templates ["rag"] is named default"#);
        for wrong in [json!({"chat_template": 1}), json!({"chat_template": ["a"]})] {
            let error = TemplateSources::new(&wrong, None, []).unwrap_err();
            assert_eq!(error, TokenizerConfigError::ChatTemplate);
        }
    }
}
