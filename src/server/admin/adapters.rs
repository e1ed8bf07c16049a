//! `/admin/adapters`: list, get, put, delete, versions, rollout, rollback, pin, unload.
//!
//! Every answer about one adapter has its revision as `etag`; a change with `if-match` is made only
//! where that is still the revision, one with `if-none-match: *` only where the name is free.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::guard::Admin;
use super::view::{AdapterList, AdapterView, FactsView, RefusedView, VersionList};
use super::{change, source};
use crate::adapter::registry::{ChangeError, Changed, Expect, FileDigest, NoDigest, Put, Registry};
use crate::server::error::{ApiError, ApiResult};
use crate::server::extract::{JsonObject, PathName};
use crate::server::openai::fields::{Fields, check_len, to_integer};
use crate::server::openapi::{errors, requests};
use crate::server::state::{AppState, Serving};

/// Versions that one split may name.
const MAX_WEIGHTS: usize = 1024;

/// What a caller takes an adapter for, by the conditions of its request.
#[derive(Debug)]
pub struct Condition(Expect);

impl FromRequestParts<Arc<AppState>> for Condition {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &Arc<AppState>,
    ) -> Result<Self, ApiError> {
        condition(&parts.headers).map(Self)
    }
}

fn condition(headers: &HeaderMap) -> Result<Expect, ApiError> {
    let value =
        |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let revision = |text: &str| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    match (value(header::IF_MATCH), value(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expect::Anything),
        (None, Some("*")) => Ok(Expect::Absent),
        (None, Some(_)) => Err(ApiError::invalid("if-none-match", "`if-none-match` must be `*`")),
        (Some(text), None) => revision(text).map(Expect::Revision).ok_or_else(|| {
            ApiError::invalid("if-match", "`if-match` must be an `etag` of the adapter")
        }),
        (Some(_), Some(_)) => {
            let message = "`if-match` and `if-none-match` exclude each other";
            Err(ApiError::invalid("if-match", message))
        }
    }
}

/// Answers `GET /admin/adapters`.
///
/// # Errors
/// Where the caller may not, or no model is loaded yet.
#[utoipa::path(
    get,
    path = "/admin/adapters",
    operation_id = "list_adapters",
    tag = "admin",
    summary = "List the adapters",
    responses((status = 200, description = "The adapters", body = AdapterList), errors::Watching),
)]
pub async fn list(_: Admin, State(state): State<Arc<AppState>>) -> ApiResult<AdapterList> {
    let serving = state.serving()?;
    let registry = &serving.registry;
    let adapters: Vec<AdapterView> =
        registry.adapters().into_iter().map(AdapterView::from).collect();
    Ok(Json(AdapterList {
        adapters,
        memory_bytes: registry.memory_used(),
        durable: registry.is_durable(),
        refused: registry.refused().into_iter().map(RefusedView::from).collect(),
    }))
}

/// Answers `GET /admin/adapters/{name}`.
///
/// # Errors
/// Where the caller may not, or there is no such adapter.
#[utoipa::path(
    get,
    path = "/admin/adapters/{name}",
    operation_id = "get_adapter",
    tag = "admin",
    summary = "Describe an adapter",
    params(requests::AdapterName),
    responses((status = 200, description = "The adapter", body = AdapterView), errors::Watching),
)]
pub async fn get(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
) -> Result<Response, ApiError> {
    shown(&*state.serving()?, &name, StatusCode::OK)
}

/// Answers `GET /admin/adapters/{name}/versions`.
///
/// # Errors
/// As [`get`].
#[utoipa::path(
    get,
    path = "/admin/adapters/{name}/versions",
    operation_id = "list_versions",
    tag = "admin",
    summary = "List an adapter's versions",
    params(requests::AdapterName),
    responses((status = 200, description = "The versions", body = VersionList), errors::Watching),
)]
pub async fn versions(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
) -> ApiResult<VersionList> {
    let adapter = state.serving()?.registry.adapter(&name);
    let adapter = adapter.ok_or_else(|| ApiError::adapter_not_found(&name))?;
    Ok(Json(VersionList::from(adapter)))
}

/// Answers `PUT /admin/adapters/{name}`: registers a version from `path`, or makes the name an alias.
///
/// # Errors
/// Where the caller may not, a field is wrong, the condition does not hold, or the adapter cannot be
/// loaded.
#[utoipa::path(
    put,
    path = "/admin/adapters/{name}",
    operation_id = "put_adapter",
    tag = "admin",
    summary = "Register a version of an adapter, or an alias",
    params(requests::AdapterName, requests::Conditions),
    request_body(content = requests::PutAdapter, example = json!({"path": "acme/2"})),
    responses((status = 200, description = "The adapter", body = AdapterView), (status = 201, description = "The adapter, which is new", body = AdapterView), errors::Managing),
)]
pub async fn put(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
    Condition(expect): Condition,
    JsonObject(mut fields): JsonObject,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    if let Some(target) = fields.string("alias_of")? {
        fields.none_left()?;
        let alias = move |registry: &Registry, name: &str| registry.alias(name, &target, expect);
        return make(&serving, name, alias).await;
    }
    let path = fields.string("path")?.ok_or_else(|| fields.missing("path"))?;
    let digest = take_digest(&mut fields)?;
    let source = source(&state, "path", &path, digest)?;
    let pinned = fields.has("pinned").then(|| fields.boolean("pinned", false)).transpose()?;
    let activate = fields.boolean("activate", true)?;
    let dry_run = fields.boolean("dry_run", false)?;
    fields.none_left()?;
    if dry_run {
        let facts = change(&serving, move |registry| registry.dry_run(&name, source)).await?;
        return Ok(Json(json!({"dry_run": FactsView::from(facts)})).into_response());
    }
    make(&serving, name, move |registry, name| {
        registry.put(Put { name, source, expect, pinned, activate })
    })
    .await
}

/// Answers `DELETE /admin/adapters/{name}`, an adapter or an alias.
///
/// # Errors
/// Where the caller may not, the condition does not hold, or there is nothing to delete.
#[utoipa::path(
    delete,
    path = "/admin/adapters/{name}",
    operation_id = "delete_adapter",
    tag = "admin",
    summary = "Delete an adapter or an alias",
    params(requests::AdapterName, requests::Conditions),
    responses((status = 204, description = "It is gone"), errors::Managing),
)]
pub async fn delete(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
    Condition(expect): Condition,
) -> Result<StatusCode, ApiError> {
    let serving = state.serving()?;
    change(&serving, move |registry| registry.remove(&name, expect)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers `PUT /admin/adapters/{name}/rollout`: `weights` by version.
///
/// # Errors
/// As [`put`].
#[utoipa::path(
    put,
    path = "/admin/adapters/{name}/rollout",
    operation_id = "roll_out_adapter",
    tag = "admin",
    summary = "Share requests out over versions",
    params(requests::AdapterName, requests::Conditions),
    request_body(content = requests::RollOut, example = json!({"weights": {"1": 9, "2": 1}})),
    responses((status = 200, description = "The adapter", body = AdapterView), errors::Managing),
)]
pub async fn roll_out(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
    Condition(expect): Condition,
    JsonObject(mut fields): JsonObject,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    let weights = take_weights(&mut fields)?;
    fields.none_left()?;
    make(&serving, name, move |registry, name| registry.roll_out(name, &weights, expect)).await
}

/// Answers `POST /admin/adapters/{name}/rollback`: what answered before answers again.
///
/// # Errors
/// As [`put`].
#[utoipa::path(
    post,
    path = "/admin/adapters/{name}/rollback",
    operation_id = "roll_back_adapter",
    tag = "admin",
    summary = "Go back to what answered before",
    params(requests::AdapterName, requests::Conditions),
    responses((status = 200, description = "The adapter", body = AdapterView), errors::Managing),
)]
pub async fn roll_back(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
    Condition(expect): Condition,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    make(&serving, name, move |registry, name| registry.roll_back(name, expect)).await
}

/// Answers `PUT /admin/adapters/{name}/pin`: `pinned`.
///
/// # Errors
/// As [`put`].
#[utoipa::path(
    put,
    path = "/admin/adapters/{name}/pin",
    operation_id = "pin_adapter",
    tag = "admin",
    summary = "Keep an adapter in memory, or no longer",
    params(requests::AdapterName, requests::Conditions),
    request_body(content = requests::Pin, example = json!({"pinned": true})),
    responses((status = 200, description = "The adapter", body = AdapterView), errors::Managing),
)]
pub async fn pin(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
    Condition(expect): Condition,
    JsonObject(mut fields): JsonObject,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    let pinned = fields.boolean("pinned", true)?;
    fields.none_left()?;
    make(&serving, name, move |registry, name| registry.pin(name, pinned, expect)).await
}

/// Answers `POST /admin/adapters/{name}/unload`: out of memory, until it is asked for.
///
/// # Errors
/// Where the caller may not, or there is no such adapter.
#[utoipa::path(
    post,
    path = "/admin/adapters/{name}/unload",
    operation_id = "unload_adapter",
    tag = "admin",
    summary = "Free an adapter's memory until it is asked for",
    params(requests::AdapterName),
    responses((status = 200, description = "The adapter", body = AdapterView), errors::Managing),
)]
pub async fn unload(
    _: Admin,
    State(state): State<Arc<AppState>>,
    PathName(name): PathName,
) -> Result<Response, ApiError> {
    let serving = state.serving()?;
    let of = name.clone();
    change(&serving, move |registry| registry.unload(&of)).await?;
    shown(&serving, &name, StatusCode::OK)
}

/// `digest`: what the file of weights must be.
fn take_digest(fields: &mut Fields) -> Result<Option<FileDigest>, ApiError> {
    let digest = fields.string("digest")?.map(|text| text.parse()).transpose();
    digest.map_err(|error: NoDigest| ApiError::invalid("digest", error.to_string()))
}

/// `weights`: an object from version numbers to integers.
fn take_weights(fields: &mut Fields) -> Result<BTreeMap<u64, u32>, ApiError> {
    let wrong = || {
        let message = "`weights` must be an object of version numbers and integers from 0";
        ApiError::invalid("weights", message)
    };
    let Some(value) = fields.take("weights") else { return Err(fields.missing("weights")) };
    let Value::Object(map) = value else { return Err(wrong()) };
    check_len("weights", map.len(), MAX_WEIGHTS)?;
    let weight = |(number, weight): (&String, &Value)| {
        let weight = to_integer(weight).and_then(|weight| u32::try_from(weight).ok());
        Some((number.parse().ok()?, weight?))
    };
    map.iter().map(weight).collect::<Option<_>>().ok_or_else(wrong)
}

/// Makes a change of the adapter `name`, and answers with what has become of it.
async fn make<F>(serving: &Serving, name: String, work: F) -> Result<Response, ApiError>
where
    F: FnOnce(&Registry, &str) -> Result<Changed, ChangeError> + Send + 'static,
{
    let of = name.clone();
    let changed = change(serving, move |registry| work(registry, &of)).await?;
    let status = if changed.created { StatusCode::CREATED } else { StatusCode::OK };
    shown(serving, &name, status)
}

fn shown(serving: &Serving, name: &str, status: StatusCode) -> Result<Response, ApiError> {
    let adapter = serving.registry.adapter(name);
    let adapter = adapter.ok_or_else(|| ApiError::adapter_not_found(name))?;
    let etag = format!("\"{}\"", adapter.revision);
    let mut response = (status, Json(AdapterView::from(adapter))).into_response();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_strictly() {
        let of = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            condition(&headers)
        };
        assert_eq!(condition(&HeaderMap::new()), Ok(Expect::Anything));
        assert_eq!(of("if-match", "\"7\""), Ok(Expect::Revision(7)));
        assert_eq!(of("if-none-match", "*"), Ok(Expect::Absent));
        for bad in ["", "*", "7", "\"\"", "\"x\"", "W/\"7\"", "\"7\", \"8\""] {
            assert!(of("if-match", bad).is_err(), "{bad}");
        }
        assert!(of("if-none-match", "\"7\"").is_err());
    }
}
