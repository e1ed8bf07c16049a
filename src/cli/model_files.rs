//! What a model directory holds beside its weights: configuration, tokenizer and chat template.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::gguf_vocab::gguf_vocab;
use super::staging::Staging;
use super::tensor_files::WeightType;
use crate::model::chat_templates::ADDITIONAL;
use crate::model::checkpoint::{Checkpoint, TokenizerSource};

/// The files of a Hugging Face directory that say how text becomes tokens.
const TEXT_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Writes `config` as `config.json`, naming the weights' type where they are all of one, and
/// `generation_config.json`.
///
/// # Errors
/// Where a file cannot be written.
pub fn write_config(
    staging: &Staging,
    checkpoint: &Checkpoint,
    config: &Value,
    dtype: Option<WeightType>,
) -> anyhow::Result<()> {
    let mut config = config.clone();
    if let Some(dtype) = dtype {
        // Newer configurations have a field `dtype` instead; one of each would contradict.
        let field = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config[field] = dtype.config_name().into();
    }
    staging.write_json("config.json", &config)?;
    staging.write_json("generation_config.json", &checkpoint.generation_config_json)
}

/// Copies the tokenizer's files of the model at `path`, or writes those that its GGUF metadata
/// translates to.
///
/// # Errors
/// Where one cannot be read or written.
pub fn write_tokenizer(
    staging: &Staging,
    checkpoint: &Checkpoint,
    path: &Path,
) -> anyhow::Result<()> {
    if path.is_dir() {
        for name in TEXT_FILES {
            let from = path.join(name);
            if from.try_exists().with_context(|| from.display().to_string())? {
                fs::copy(&from, staging.path().join(name))
                    .with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        return copy_chat_templates(staging, path);
    }
    if let TokenizerSource::Gguf(metadata) = checkpoint.tokenizer()? {
        for (name, bytes) in gguf_vocab(metadata)?.to_hugging_face()?.files()? {
            staging.write(name, &bytes)?;
        }
    }
    Ok(())
}

/// Copies the templates that have names.
fn copy_chat_templates(staging: &Staging, path: &Path) -> anyhow::Result<()> {
    let (from, to) = (path.join(ADDITIONAL), staging.path().join(ADDITIONAL));
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir(&to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(&from)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "jinja") {
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, to.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}
