//! `POST /v1/embeddings`: the decoder's hidden states, after its final norm, as vectors.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use super::convert::known;
use super::endpoint::with_digest;
use super::fields::Fields;
use super::model::{Model, take_model};
use super::prompts::{PromptInput, take_prompts};
use super::validate::accepted::take_accepted;
use super::validate::truncation::Truncation;
use super::validate::{refused, take_cache_salt};
use super::workbench::{Workbench, check_text};
use crate::adapter::registry::Target;
use crate::engine::request::{Pooling, PromptTokens};
use crate::server::error::ApiError;
use crate::server::extract::Admitted;
use crate::server::openapi::{errors, requests};
use crate::server::state::{AppState, ServerConfig, Serving, text_work};
use crate::server::vectors::{PoolJob, pool};
use crate::server::work::Work;
use crate::text::tokenizer::{Added, Keep};

/// As many as OpenAI takes.
const MAX_INPUTS: usize = 2048;

/// Fields that ask for other vectors than these, or for other ways to write them.
const REFUSED: [&str; 5] = ["dimensions", "embed_dtype", "endianness", "messages", "padding"];

/// A checked request.
#[derive(Debug)]
struct EmbeddingRequest {
    inputs: Vec<PromptInput>,
    add_special_tokens: bool,
    truncation: Option<Truncation>,
    pooling: Pooling,
    cache_salt: Arc<str>,
    writing: Writing,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy)]
struct Writing {
    encoding: Encoding,
    normalize: bool,
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    /// The same numbers, each in four bytes, the lowest first.
    Base64(String),
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Answers `POST /v1/embeddings`.
///
/// # Errors
/// Every failure: there is no answer in parts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "inference",
    summary = "Turn texts into vectors",
    description = "The hidden states after the model's last norm, as one vector for each text.",
    request_body(
        content = requests::EmbeddingRequest,
        example = json!({"model": "smollm2", "input": "Gravity is"}),
    ),
    responses(
        (status = 200, description = "The vectors", body = EmbeddingList<'static>),
        errors::Generating,
    ),
)]
pub async fn embeddings(
    State(state): State<Arc<AppState>>,
    Admitted { call, admission, mut fields }: Admitted,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    let model = take_model(&mut fields, &call, &serving).await?;
    let digest = model.adapter_digest();
    let Model { name, target, .. } = model;
    let request = EmbeddingRequest::take(&mut fields, &serving, &state.config)?;
    refused::refuse(&mut fields, &REFUSED)?;
    take_accepted(&mut fields)?;
    state.metrics.unknown_fields(refused::count_unknown(&fields));
    let writing = request.writing;
    let of_serving = Arc::clone(&serving);
    let bytes = request.inputs.iter().map(PromptInput::bytes).sum();
    let of_state = Arc::clone(&state);
    let work = move |work: &Work| {
        let (config, serving) = (&of_state.config, &*of_serving);
        request.into_job(&Workbench { config, serving, work }, target)
    };
    let job = text_work(&state, &call, bytes, work).await?;
    let vectors = pool(&state, &serving, &job, &call, admission).await?;
    let tokens = job.prompts.iter().map(|prompt| prompt.len()).sum();
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    // Millions of numbers to write are no work for an async thread either.
    let bytes = vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum();
    let write = move |work: &Work| {
        work.charge(bytes);
        Ok(writing.list(&name, vectors, usage))
    };
    let json = text_work(&state, &call, bytes, write).await?;
    let json_type = HeaderValue::from_static("application/json");
    let response = ([(header::CONTENT_TYPE, json_type)], json).into_response();
    Ok(with_digest(response, digest))
}

impl EmbeddingRequest {
    fn take(
        fields: &mut Fields,
        serving: &Serving,
        config: &ServerConfig,
    ) -> Result<Self, ApiError> {
        let inputs = take_prompts(fields, "input", serving.vocab_size, MAX_INPUTS)?;
        let truncation = Truncation::take(fields, serving.max_model_len)?;
        if truncation.is_none() {
            let mut texts = inputs.iter().filter_map(PromptInput::text);
            texts.try_for_each(|text| check_text(serving, "input", text))?;
        }
        Ok(Self {
            inputs,
            add_special_tokens: fields.boolean("add_special_tokens", true)?,
            truncation,
            pooling: take_pooling(fields)?.unwrap_or(config.pooling),
            cache_salt: take_cache_salt(fields)?,
            writing: Writing {
                encoding: take_encoding(fields)?,
                normalize: take_normalize(fields)?,
            },
        })
    }

    /// Slow for long texts: not for async threads.
    fn into_job(self, bench: &Workbench<'_>, target: Target) -> Result<PoolJob, ApiError> {
        let serving = bench.serving;
        let most = serving.max_model_len;
        let tokens = |input| -> Result<PromptTokens, ApiError> {
            let (mut tokens, mut added) = match input {
                PromptInput::Tokens(tokens) => (tokens, Added::default()),
                PromptInput::Text(text) => {
                    let keep = self.truncation.map_or(Keep::AtMost(most), |cut| cut.keep(most));
                    let ids = bench.read(&text, "input", keep, self.add_special_tokens)?.ids;
                    let added = self.add_special_tokens.then(|| serving.tokenizer.added());
                    (ids, added.unwrap_or_default())
                }
            };
            if let Some(truncation) = self.truncation {
                truncation.apply(&mut tokens, &mut added, serving.max_model_len);
            }
            check_len(tokens.len(), serving.max_model_len)?;
            known(serving, tokens, "input")
        };
        Ok(PoolJob {
            prompts: self.inputs.into_iter().map(tokens).collect::<Result<_, _>>()?,
            pooling: self.pooling,
            adapter: match target {
                Target::Base => None,
                Target::Adapter(version) => Some(version),
            },
            cache_salt: self.cache_salt,
        })
    }
}

fn check_len(len: usize, max_model_len: usize) -> Result<(), ApiError> {
    match len {
        0 => Err(ApiError::invalid("input", "`input` has no tokens: at least one is needed")),
        len if len > max_model_len => Err(ApiError::context_length(
            "input",
            format!(
                "this model's maximum context length is {max_model_len} tokens, and the input has \
                 {len}"
            ),
        )),
        _ => Ok(()),
    }
}

/// Takes `pooling`, an extension: which of the hidden states become the vector.
fn take_pooling(fields: &mut Fields) -> Result<Option<Pooling>, ApiError> {
    match fields.string("pooling")?.as_deref() {
        None => Ok(None),
        Some("mean") => Ok(Some(Pooling::Mean)),
        Some("last") => Ok(Some(Pooling::Last)),
        Some(_) => Err(ApiError::invalid("pooling", "`pooling` must be `mean` or `last`")),
    }
}

/// Takes `normalize`, or `use_activation`, which is vLLM's name of it.
fn take_normalize(fields: &mut Fields) -> Result<bool, ApiError> {
    let normalize = fields.boolean("normalize", true)?;
    let asked = fields.has("use_activation");
    Ok(fields.boolean("use_activation", true)? && (normalize || asked))
}

fn take_encoding(fields: &mut Fields) -> Result<Encoding, ApiError> {
    match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(_) => {
            let message = "`encoding_format` must be `float` or `base64`";
            Err(ApiError::invalid("encoding_format", message))
        }
    }
}

impl Writing {
    fn list(self, model: &str, vectors: Vec<Vec<f32>>, usage: EmbeddingUsage) -> String {
        let data = vectors.into_iter().enumerate();
        let data = data.map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: self.vector(vector),
        });
        let list = EmbeddingList { object: "list", data: data.collect(), model, usage };
        serde_json::to_string(&list).expect("strings and finite numbers serialise")
    }

    fn vector(self, mut vector: Vec<f32>) -> Vector {
        if self.normalize {
            normalize(&mut vector);
        }
        match self.encoding {
            Encoding::Float => Vector::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Scales to length 1, so that a product of two vectors is their cosine. Zeros stay zeros.
fn normalize(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|value| f64::from(*value).powi(2)).sum();
    if square > 0.0 {
        let scale = square.sqrt().recip();
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_normalised_vector_has_length_one_and_its_direction(
            vector in prop::collection::vec(-1e6_f32..1e6, 1..600)
        ) {
            let mut unit = vector.clone();
            normalize(&mut unit);
            let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            prop_assume!(length(&vector) > 0.0);
            prop_assert!((length(&unit) - 1.0).abs() < 1e-6);
            for (unit, value) in unit.iter().zip(&vector) {
                prop_assert!((f64::from(*unit) * length(&vector) - f64::from(*value)).abs() < 1.0);
            }
        }
    }

    #[test]
    fn zeros_have_no_direction_and_stay() {
        let mut zeros = [0.0; 4];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 4]);
    }
}
