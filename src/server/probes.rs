//! What orchestrators and scrapers ask: `/health`, `/ready`, `/version`, `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ApiResult};
use super::openapi::errors;
use super::state::AppState;

/// What a probe answers that succeeds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    status: &'static str,
}

/// What [`version`] answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    version: &'static str,
}

/// Answers `GET /health`: 200 while the process can do its work, also while it loads or drains.
///
/// # Errors
/// 503 once the engine has died: restart it.
#[utoipa::path(
    get,
    path = "/health",
    tag = "probes",
    summary = "Whether the process can do its work",
    description = "Also while it loads or drains. 503 once the engine has died: restart it.",
    responses((status = 200, description = "It can", body = Status), errors::Loaded),
)]
pub async fn health(State(state): State<Arc<AppState>>) -> ApiResult<Status> {
    if state.is_healthy() {
        Ok(Json(Status { status: "ok" }))
    } else {
        Err(ApiError::engine_dead())
    }
}

/// Answers `GET /ready`: 200 while requests are taken.
///
/// # Errors
/// 503 until the model is loaded, while the server drains, once the engine has died, and from a
/// change that could not be stored until changes can be.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "probes",
    summary = "Whether requests are taken, and changes of adapters and tenants stored",
    description = "503 until the model is loaded, while the server drains, once its engine has died, \
                   and from a change that could not be stored until changes can be.",
    responses((status = 200, description = "They are", body = Status), errors::Loaded),
)]
pub async fn ready(State(state): State<Arc<AppState>>) -> ApiResult<Status> {
    state.check_ready().map(|()| Json(Status { status: "ready" }))
}

/// Answers `GET /version`.
#[utoipa::path(
    get,
    path = "/version",
    tag = "probes",
    summary = "The server's version",
    responses((status = 200, description = "The version", body = Version)),
)]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Answers `GET /metrics`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "probes",
    summary = "Counters, gauges and histograms, as Prometheus reads them",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let failing = !state.tenancy.stores_changes();
    state.metrics.tenant_state_failing.set(f64::from(u8::from(failing)));
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], state.metrics.render())
}
