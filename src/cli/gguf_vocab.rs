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
        context_length: metadata.unsigned("llama.context_length")?,
    })
}

fn token_id(metadata: &GgufMetadata, key: &str) -> Result<Option<u32>, ModelError> {
    let Some(id) = metadata.unsigned(key)? else { return Ok(None) };
    u32::try_from(id).map(Some).map_err(|_| ModelError::InvalidField {
        field: key.to_owned(),
        value: id.to_string(),
        expected: "a token id".to_owned(),
    })
}
