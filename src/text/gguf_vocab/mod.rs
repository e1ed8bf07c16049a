//! The vocabulary of a GGUF file as the files Hugging Face keeps it in.
//!
//! A GGUF stores tokens, their types, merges or scores, and a *name* for how text is cut before
//! merging; the rest of a `tokenizer.json` is implied by that name and written out here. Reading
//! the GGUF is not done here. Where a fact comes from:
//!
//! | fact | source |
//! |---|---|
//! | tokens, merges, special ids, `add_bos`, `add_space_prefix`, chat template, context | metadata |
//! | special tokens | token types 2 (unknown), 3 (control), and every special id |
//! | added tokens that are not special | token type 4 (user-defined) |
//! | pre-tokenizer, normaliser, post-processor, decoder | the names `model` and `pre` |
//! | merges of a SentencePiece vocabulary | its scores |
//! | `additional_special_tokens` | special tokens that the chat template writes |
//! | `tokenizer_class` | the names `model` and `pre` |

mod byte_level;
mod sentencepiece;

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::chat_templates::DEFAULT;

/// What the GGUF metadata says about text; keys are under `tokenizer.ggml.` unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` is byte-level BPE, `llama` SentencePiece BPE.
    pub model: String,
    /// `pre`: how text is cut before merging. Only byte-level BPE has it.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id; empty where the file has none.
    pub token_types: Vec<i32>,
    /// `merges`, best first, each two tokens with a space between. Only byte-level BPE has them.
    pub merges: Vec<String>,
    /// `scores`, by id. Only SentencePiece has them.
    pub scores: Vec<f32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`; where absent, the habit of the vocabulary's kind.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`; where absent, the habit of the vocabulary's kind.
    pub add_prefix_space: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, by name.
    pub named_chat_templates: Vec<(String, String)>,
    /// `ARCHITECTURE.context_length`.
    pub context_length: Option<u64>,
}

/// Why a vocabulary cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufVocabError {
    /// A kind of tokenizer that is not supported.
    #[error("tokenizer model {0:?} is not supported: only \"gpt2\" and \"llama\" are")]
    Model(String),
    /// A way to cut text that is not supported.
    #[error("pre-tokenizer {0:?} is not supported: only {supported} are", supported = byte_level::NAMES.join(", "))]
    PreTokenizer(String),
    /// A list of another length than the list of tokens.
    #[error("{name} has {len} entries for {tokens} tokens")]
    Length {
        /// Its key.
        name: &'static str,
        /// Its length.
        len: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A special id that is no token.
    #[error("{name} {id} is not one of {tokens} tokens")]
    TokenId {
        /// Its key.
        name: &'static str,
        /// The id.
        id: u32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// Two tokens with the same text.
    #[error("tokens {first} and {second} are both {text:?}")]
    DuplicateToken {
        /// The text.
        text: String,
        /// The smaller id.
        first: usize,
        /// The larger id.
        second: usize,
    },
    /// The vocabulary puts a first token before each text, but names none.
    #[error("add_bos_token is set, but there is no bos_token_id")]
    NoBos,
}

/// The tokenizer files of a Hugging Face model directory.
#[derive(Debug, Clone, PartialEq)]
pub struct HuggingFaceTokenizer {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, with the chat template.
    pub tokenizer_config: Value,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Value,
}

/// The types a GGUF gives its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Special,
    UserDefined,
    /// A byte, or a piece that is not used.
    Other,
}

impl HuggingFaceTokenizer {
    /// Name and contents of each file, formatted as the Hugging Face libraries do.
    ///
    /// # Errors
    /// Where JSON cannot be written, which a value in memory does not make happen.
    pub fn files(&self) -> Result<[(&'static str, Vec<u8>); 3], serde_json::Error> {
        let mut tokenizer = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut tokenizer, formatter);
        self.tokenizer.serialize(&mut serializer)?;
        let with_newline = |value: &Value| {
            serde_json::to_vec_pretty(value).map(|mut bytes| {
                bytes.push(b'\n');
                bytes
            })
        };
        Ok([
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", with_newline(&self.tokenizer_config)?),
            ("special_tokens_map.json", with_newline(&self.special_tokens_map)?),
        ])
    }
}

impl GgufVocab {
    /// Converts the vocabulary.
    ///
    /// # Errors
    /// [`GgufVocabError`] names what is not supported or contradicts itself.
    pub fn to_hugging_face(&self) -> Result<HuggingFaceTokenizer, GgufVocabError> {
        self.check()?;
        let (parts, class) = match self.model.as_str() {
            "gpt2" => {
                let kind = byte_level::Kind::by_name(self.pre.as_deref())?;
                (byte_level::parts(self, kind)?, kind.tokenizer_class())
            }
            "llama" => (sentencepiece::parts(self)?, "LlamaTokenizer"),
            other => return Err(GgufVocabError::Model(other.to_owned())),
        };
        let mut tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
        });
        if let (Value::Object(tokenizer), Value::Object(parts)) = (&mut tokenizer, parts) {
            tokenizer.extend(parts);
        }
        Ok(HuggingFaceTokenizer {
            tokenizer,
            tokenizer_config: self.tokenizer_config(class),
            special_tokens_map: self.special_tokens_map().into(),
        })
    }

    fn check(&self) -> Result<(), GgufVocabError> {
        let tokens = self.tokens.len();
        for (name, len) in [("token_type", self.token_types.len()), ("scores", self.scores.len())] {
            if len != 0 && len != tokens {
                return Err(GgufVocabError::Length { name, len, tokens });
            }
        }
        for (name, id) in self.special_ids() {
            if id as usize >= tokens {
                return Err(GgufVocabError::TokenId { name, id, tokens });
            }
        }
        let mut seen = HashMap::with_capacity(tokens);
        for (second, text) in self.tokens.iter().enumerate() {
            if let Some(first) = seen.insert(text, second) {
                let text = text.clone();
                return Err(GgufVocabError::DuplicateToken { text, first, second });
            }
        }
        Ok(())
    }

    fn special_ids(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let ids = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
        ];
        ids.into_iter().filter_map(|(name, id)| Some((name, id?)))
    }

    fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    fn token_type(&self, index: usize) -> TokenType {
        if self.special_ids().any(|(_, id)| id as usize == index) {
            return TokenType::Special;
        }
        match self.token_types.get(index) {
            Some(2 | 3) => TokenType::Special,
            Some(4) => TokenType::UserDefined,
            Some(5 | 6) => TokenType::Other,
            _ => TokenType::Normal,
        }
    }

    /// Id and token of every special or user-defined token.
    fn added(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        self.tokens.iter().enumerate().filter_map(|(id, token)| match self.token_type(id) {
            TokenType::Special => Some((id, token.as_str(), true)),
            TokenType::UserDefined => Some((id, token.as_str(), false)),
            _ => None,
        })
    }

    fn added_tokens(&self) -> Value {
        let added_token = |(id, content, special)| {
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            })
        };
        self.added().map(added_token).collect()
    }

    /// The vocabulary as the model part of `tokenizer.json` has it.
    fn vocab(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect()
    }

    /// Puts the first token before each text, for encoders that are asked for special tokens.
    fn add_bos_processor(&self) -> Result<Value, GgufVocabError> {
        let (Some(id), Some(bos)) = (self.bos, self.token(self.bos)) else {
            return Err(GgufVocabError::NoBos);
        };
        let first = |type_id: u32| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
        let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
        Ok(json!({
            "type": "TemplateProcessing",
            "single": [first(0), text("A", 0)],
            "pair": [first(0), text("A", 0), first(1), text("B", 1)],
            "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
        }))
    }

    /// Keys in alphabetical order, as the library writes them.
    fn tokenizer_config(&self, class: &str) -> Value {
        let decoder: Map<String, Value> = self
            .added()
            .map(|(id, content, special)| {
                let token = json!({
                    "content": content,
                    "lstrip": false,
                    "normalized": false,
                    "rstrip": false,
                    "single_word": false,
                    "special": special,
                });
                (id.to_string(), token)
            })
            .collect();
        let is_llama = self.model == "llama";
        let mut config = Map::new();
        if is_llama || self.add_bos == Some(true) {
            config.insert("add_bos_token".to_owned(), self.add_bos.unwrap_or(is_llama).into());
        }
        let prefix_space = self.add_prefix_space.unwrap_or(is_llama);
        config.insert("add_prefix_space".to_owned(), prefix_space.into());
        config.insert("added_tokens_decoder".to_owned(), decoder.into());
        if let Some(templates) = self.chat_templates() {
            config.insert("chat_template".to_owned(), templates);
        }
        config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        if let Some(length) = self.context_length {
            config.insert("model_max_length".to_owned(), length.into());
        }
        config.insert("tokenizer_class".to_owned(), class.into());
        config.extend(self.special_tokens_map());
        config.sort_keys();
        config.into()
    }

    /// The template, or all of them by name where some have names.
    fn chat_templates(&self) -> Option<Value> {
        let default = self.chat_template.as_deref();
        if self.named_chat_templates.is_empty() {
            return default.map(Value::from);
        }
        let named = self.named_chat_templates.iter().map(|(name, text)| (&**name, &**text));
        let all = default.map(|text| (DEFAULT, text)).into_iter().chain(named);
        Some(all.map(|(name, text)| json!({"name": name, "template": text})).collect())
    }

    /// Keys in alphabetical order. Control tokens that a chat template writes itself are the
    /// additional ones: they mean something beside the four that have a name.
    fn special_tokens_map(&self) -> Map<String, Value> {
        let named = self.named_chat_templates.iter().map(|(_, text)| text);
        let templates: Vec<&String> = self.chat_template.iter().chain(named).collect();
        let written = |token: &str| templates.iter().any(|template| template.contains(token));
        let additional: Vec<&str> = self
            .added()
            .filter(|&(_, token, special)| special && written(token))
            .map(|(_, token, _)| token)
            .collect();
        let mut map = Map::new();
        if !additional.is_empty() {
            map.insert("additional_special_tokens".to_owned(), additional.into());
        }
        let names = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("pad_token", self.pad),
            ("unk_token", self.unk),
        ];
        for (name, id) in names {
            if let Some(token) = self.token(id) {
                map.insert(name.to_owned(), token.into());
            }
        }
        map
    }
}

#[cfg(test)]
mod tests;
