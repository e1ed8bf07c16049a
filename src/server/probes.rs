//! What orchestrators and scrapers ask: `/health`, `/ready`, `/version`, `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::state::AppState;

/// Answers `GET /health`: 200 while the process can do its work, also while it loads or drains.
///
/// # Errors
/// 503 once the engine has died: restart it.
pub async fn health(State(state): State<Arc<AppState>>) -> ApiResult<Value> {
    if state.is_healthy() {
        Ok(Json(json!({"status": "ok"})))
    } else {
        Err(ApiError::engine_dead())
    }
}

/// Answers `GET /ready`: 200 while requests are taken.
///
/// # Errors
/// 503 until the model is loaded, while the server drains, and once the engine has died.
pub async fn ready(State(state): State<Arc<AppState>>) -> ApiResult<Value> {
    state.check_ready().map(|()| Json(json!({"status": "ready"})))
}

/// Answers `GET /version`.
pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Answers `GET /metrics`.
pub async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], state.metrics.render())
}
