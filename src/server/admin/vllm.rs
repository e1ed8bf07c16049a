//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, with the bodies and answers of vLLM.

use std::sync::Arc;

use axum::extract::State;

use super::guard::Admin;
use super::{change, source};
use crate::adapter::registry::{ChangeError, Expect, Put};
use crate::server::error::ApiError;
use crate::server::extract::JsonObject;
use crate::server::openai::fields::Fields;
use crate::server::openapi::{errors, requests};
use crate::server::state::AppState;

/// Answers `POST /v1/load_lora_adapter`: `lora_name`, `lora_path`, and `load_inplace` where the name
/// may be in use.
///
/// # Errors
/// Where the caller may not, a field is wrong, the name is in use, or the adapter cannot be loaded.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    operation_id = "load_lora_adapter",
    tag = "admin",
    summary = "Register an adapter, as with vLLM",
    request_body(content = requests::LoadLoraAdapter, example = json!({"lora_name": "acme", "lora_path": "acme/1"})),
    responses((status = 200, description = "It is there", body = String, content_type = "text/plain"), errors::Managing),
)]
pub async fn load_lora_adapter(
    _: Admin,
    State(state): State<Arc<AppState>>,
    JsonObject(mut fields): JsonObject,
) -> Result<String, ApiError> {
    let serving = state.serving()?;
    let name = take_name(&mut fields)?;
    let path = fields.string("lora_path")?.ok_or_else(|| fields.missing("lora_path"))?;
    let in_place = fields.boolean("load_inplace", false)?;
    fields.none_left()?;
    let source = source(&state, "lora_path", &path, None)?;
    let expect = if in_place { Expect::Anything } else { Expect::Absent };
    let of = name.clone();
    let loaded = change(&serving, move |registry| {
        let put = Put { name: &of, source, expect, pinned: None, activate: true };
        match registry.put(put) {
            Err(ChangeError::Revision { .. }) => Ok(Loaded::NameInUse),
            Err(ChangeError::Load(error)) if error.is_missing() => {
                Ok(Loaded::NothingThere(error.to_string()))
            }
            done => done.map(|_| Loaded::Added),
        }
    });
    match loaded.await.map_err(in_its_words)? {
        Loaded::Added => Ok(format!("Success: LoRA adapter '{name}' added successfully.")),
        Loaded::NameInUse => {
            let message = format!(
                "The lora adapter '{name}' has already been loaded. If you want to load the \
                 adapter in place, set 'load_inplace' to True."
            );
            Err(ApiError::invalid("lora_name", message))
        }
        Loaded::NothingThere(message) => Err(ApiError::nothing_there("lora_path", message)),
    }
}

/// What came of loading an adapter.
enum Loaded {
    Added,
    NameInUse,
    /// Nothing lies at its path.
    NothingThere(String),
}

/// The error with this interface's names of the fields.
fn in_its_words(error: ApiError) -> ApiError {
    error.renamed("path", "lora_path").renamed("name", "lora_name")
}

/// Answers `POST /v1/unload_lora_adapter`: `lora_name`.
///
/// # Errors
/// Where the caller may not, or there is no such adapter.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    operation_id = "unload_lora_adapter",
    tag = "admin",
    summary = "Delete an adapter, as with vLLM",
    request_body(content = requests::UnloadLoraAdapter, example = json!({"lora_name": "acme"})),
    responses((status = 200, description = "It is gone", body = String, content_type = "text/plain"), errors::Managing),
)]
pub async fn unload_lora_adapter(
    _: Admin,
    State(state): State<Arc<AppState>>,
    JsonObject(mut fields): JsonObject,
) -> Result<String, ApiError> {
    let serving = state.serving()?;
    let name = take_name(&mut fields)?;
    // vLLM's number of the adapter, which says nothing beside its name.
    fields.take("lora_int_id");
    fields.none_left()?;
    let of = name.clone();
    let removed = change(&serving, move |registry| registry.remove(&of, Expect::Anything));
    removed.await.map_err(in_its_words)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}

fn take_name(fields: &mut Fields) -> Result<String, ApiError> {
    fields.string("lora_name")?.ok_or_else(|| fields.missing("lora_name"))
}
