//! What a MODEL argument names: a Hugging Face directory or a GGUF file, behind one door.
//!
//! Configuration and weights are checked when it is opened; the tokenizer is handed on as it lies
//! there, for the text side to read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat_templates;
use super::config::ModelConfig;
use super::disk::{JSON_LIMIT_BYTES, is_there, read, read_json, read_optional_json};
use super::error::ModelError;
use super::generation_config::GenerationConfig;
use super::gguf::{GgufFile, GgufMetadata};
use super::gguf_config;
use super::safetensors_file::is_pickle;
use super::sorsa::SorsaCheckpoint;
use super::weights::Weights;
use crate::adapter::delta::ModuleSpec;

/// The largest tokenizer accepted.
const TOKENIZER_LIMIT_BYTES: u64 = 512 << 20;

/// An opened model on disk.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its configuration.
    pub config: ModelConfig,
    /// `config.json` as it lies in the directory, or as a GGUF's metadata translates to it.
    pub config_json: Value,
    /// Its sampling defaults.
    pub generation_config: GenerationConfig,
    /// `generation_config.json`, likewise; an empty object where there is none.
    pub generation_config_json: Value,
    /// Its tensors.
    pub weights: Weights,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Directory(PathBuf),
    Gguf(Box<GgufMetadata>),
}

/// Where a model's tokenizer and chat template come from.
#[derive(Debug)]
pub enum TokenizerSource<'a> {
    /// The files of a Hugging Face directory.
    HuggingFace(Box<TokenizerFiles>),
    /// The vocabulary in a GGUF file's metadata.
    Gguf(&'a GgufMetadata),
}

/// The files of a Hugging Face directory that say how text becomes tokens.
#[derive(Debug)]
pub struct TokenizerFiles {
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, parsed, where there is one.
    pub tokenizer_config: Option<Value>,
    /// `special_tokens_map.json`, parsed, where there is one.
    pub special_tokens_map: Option<Value>,
    /// The text of `chat_template.jinja`, where there is one; it outranks the one in
    /// `tokenizer_config`.
    pub chat_template: Option<String>,
    /// The texts of `additional_chat_templates/NAME.jinja`, by name.
    pub additional_chat_templates: Vec<(String, String)>,
}

impl Checkpoint {
    /// Opens `path`, a Hugging Face directory or a `.gguf` file. Tensors stay on disk.
    ///
    /// # Errors
    /// Where there is no model, or none this server computes; the error says what is wrong.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let kind = fs::metadata(path).map_err(ModelError::io(path))?;
        if kind.is_dir() {
            return Self::open_directory(path);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::open_gguf(path);
        }
        if is_pickle(path) {
            return Err(ModelError::Pickle { path: path.to_owned() });
        }
        Err(ModelError::not_a_model(path, "is neither a model directory nor a .gguf file"))
    }

    /// The tokenizer and chat template.
    ///
    /// # Errors
    /// Where a directory has no `tokenizer.json`, or a file of it cannot be read.
    pub fn tokenizer(&self) -> Result<TokenizerSource<'_>, ModelError> {
        let directory = match &self.origin {
            Origin::Gguf(metadata) => return Ok(TokenizerSource::Gguf(metadata)),
            Origin::Directory(directory) => directory,
        };
        let tokenizer = directory.join("tokenizer.json");
        if !is_there(&tokenizer)? {
            return Err(ModelError::not_a_model(directory, "holds no tokenizer.json"));
        }
        Ok(TokenizerSource::HuggingFace(Box::new(TokenizerFiles {
            tokenizer: read(&tokenizer, TOKENIZER_LIMIT_BYTES)?,
            tokenizer_config: read_optional_json(&directory.join("tokenizer_config.json"))?,
            special_tokens_map: read_optional_json(&directory.join("special_tokens_map.json"))?,
            chat_template: chat_templates::main(directory)?,
            additional_chat_templates: chat_templates::additional(directory)?,
        })))
    }

    /// The linear modules that adapters may target, without loading the model: every matrix but
    /// the embedding, and the output head only where it is one of its own.
    #[must_use]
    pub fn linear_modules(&self) -> Vec<ModuleSpec> {
        let module = |name: String| {
            let path = name.strip_suffix(".weight")?;
            let &[out_features, in_features] = self.weights.shape(&name)?.as_slice() else {
                return None;
            };
            let tied = path == "lm_head" && self.config.tie_word_embeddings;
            (!tied && path != "model.embed_tokens").then(|| ModuleSpec {
                path: path.to_owned(),
                in_features,
                out_features,
            })
        };
        self.weights.names().into_iter().filter_map(module).collect()
    }

    fn open_directory(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        if !is_there(&path)? {
            return Err(ModelError::not_a_model(directory, "holds no config.json"));
        }
        let config_json = read_json(&path, JSON_LIMIT_BYTES)?;
        if config_json.get("model_type").and_then(Value::as_str) == Some("sorsa") {
            return Err(refused_sorsa(directory));
        }
        let generation = read_optional_json(&directory.join("generation_config.json"))?;
        let generation = generation.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        Ok(Self {
            config: ModelConfig::from_json(&config_json)?,
            config_json,
            generation_config: GenerationConfig::from_json(&generation)?,
            generation_config_json: generation,
            weights: Weights::open(directory)?,
            origin: Origin::Directory(directory.to_owned()),
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let (file, metadata) = GgufFile::open(path)?;
        let config_json = gguf_config::config_json(&metadata, &file)?;
        let generation = gguf_config::generation_config_json(&metadata)?;
        Ok(Self {
            config: ModelConfig::from_json(&config_json)?,
            config_json,
            generation_config: GenerationConfig::from_json(&generation)?,
            generation_config_json: generation,
            weights: Weights::from_gguf(file),
            origin: Origin::Gguf(Box::new(metadata)),
        })
    }
}

/// Why a directory whose configuration is the SORSA library's cannot be served as a model. What it
/// is, its tensors say: the library's merge leaves the old configuration beside plain weights.
fn refused_sorsa(directory: &Path) -> ModelError {
    if SorsaCheckpoint::is_at(directory).is_ok_and(|sorsa| !sorsa) {
        let reason = "holds a config.json of model_type \"sorsa\" beside weights without factors, as \
                      after a merge that left the old configuration: put the base model's \
                      config.json in its place";
        return ModelError::not_a_model(directory, reason);
    }
    ModelError::SorsaCheckpoint { path: directory.to_owned() }
}
