//! `GET /v1/models` and `/v1/models/{id}`: the base model under each of its names, and adapters
//! with the base as their `parent`; of all of them those that the caller may use.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::adapter::registry::{Found, NameInfo, Target};
use crate::server::call::Call;
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::PathName;
use crate::server::openapi::errors;
use crate::server::state::{AppState, Serving};

/// One name this server answers to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The content digest as a URI: says which weights without saying where they lie. An adapter
    /// that nobody has read yet, and one that is several versions at once, has none.
    root: Option<String>,
    /// The base model of an adapter.
    #[schema(required = true)]
    parent: Option<String>,
    max_model_len: usize,
    permission: [Permission; 1],
}

/// OpenAI's former permission object, which vLLM still sends.
#[derive(Debug, Serialize, ToSchema)]
struct Permission {
    id: String,
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    #[schema(required = true)]
    group: Option<String>,
    is_blocking: bool,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// Answers `GET /v1/models`.
///
/// # Errors
/// Where no model is loaded yet.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    summary = "List the models",
    description = "Every name that is served: the base model's, and the adapters'.",
    responses((status = 200, description = "The models", body = ModelList), errors::Loaded),
)]
pub async fn list_models(State(state): State<Arc<AppState>>, call: Call) -> ApiResult<ModelList> {
    let serving = state.serving()?;
    let registry = &serving.registry;
    let own = |name: &str| call.caller.may_use(registry, name);
    let bases = registry.base_names().iter().filter(|name| own(name));
    let bases = bases.filter_map(|name| card(&serving, name));
    let adapters = registry.names().into_iter().filter(|adapter| own(&adapter.name));
    let adapters = adapters.map(|adapter| adapter_card(&serving, adapter));
    let data = bases.chain(adapters).collect();
    Ok(Json(ModelList { object: "list", data }))
}

/// Answers `GET /v1/models/{id}`.
///
/// # Errors
/// Where nothing has that name.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "models",
    summary = "Describe a model",
    params(("id" = String, Path, description = "A name from `/v1/models`; it may hold slashes")),
    responses((status = 200, description = "The model", body = ModelCard), errors::Named),
)]
pub async fn retrieve_model(
    State(state): State<Arc<AppState>>,
    call: Call,
    PathName(id): PathName,
) -> ApiResult<ModelCard> {
    let serving = state.serving()?;
    let own = call.caller.may_use(&serving.registry, &id);
    let card = if own { card(&serving, &id) } else { None };
    card.map(Json).ok_or_else(|| ApiError::model_not_found(&id))
}

fn card(serving: &Serving, name: &str) -> Option<ModelCard> {
    let registry = &serving.registry;
    if !registry.base_names().iter().any(|base| base == name) {
        return registry.name(name).map(|adapter| adapter_card(serving, adapter));
    }
    let own = match registry.find(name, || 0) {
        Found::Ready(Target::Adapter(version)) => Some(format!("blake3:{}", version.id())),
        _ => None,
    };
    Some(new_card(serving, name, Some(own.unwrap_or_else(|| serving.root.clone())), None))
}

fn adapter_card(serving: &Serving, adapter: NameInfo) -> ModelCard {
    let registry = &serving.registry;
    // Adapters on a residual have no parent here: what they are relative to is not served.
    let parent = registry.serves_base().then(|| registry.base_name().to_owned());
    new_card(serving, &adapter.name, adapter.id.map(|id| format!("blake3:{id}")), parent)
}

fn new_card(
    serving: &Serving,
    name: &str,
    root: Option<String>,
    parent: Option<String>,
) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: serving.created,
        owned_by: "sorsa",
        root,
        parent,
        max_model_len: serving.max_model_len,
        permission: [Permission {
            id: format!("modelperm-{name}"),
            object: "model_permission",
            created: serving.created,
            allow_create_engine: false,
            allow_sampling: true,
            allow_logprobs: true,
            allow_search_indices: false,
            allow_view: true,
            allow_fine_tuning: false,
            organization: "*",
            group: None,
            is_blocking: false,
        }],
    }
}
