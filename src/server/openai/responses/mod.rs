//! `POST /v1/responses`: OpenAI's newer way to ask for an answer, without its memory. Nothing is
//! kept: a client gives back the items of past responses as input, and asking for a response by its
//! id finds none.

mod input;
mod items;
mod object;
mod output;
mod request;
mod text;
mod tools;
mod writer;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use self::request::ResponseRequest;
use super::endpoint;
use crate::server::call::Call;
use crate::server::error::ApiError;
use crate::server::extract::JsonObject;
use crate::server::state::AppState;

/// Answers `POST /v1/responses`.
///
/// # Errors
/// Every failure before the first byte.
pub async fn create_response(
    State(state): State<Arc<AppState>>,
    call: Call,
    JsonObject(fields): JsonObject,
) -> Result<Response, ApiError> {
    endpoint::answer::<ResponseRequest>(&state, &call, fields).await
}

/// Answers `GET` and `DELETE /v1/responses/{id}`: no response is kept.
pub async fn no_response(id: Result<Path<String>, PathRejection>) -> ApiError {
    match id {
        Ok(Path(id)) => ApiError::response_not_found(&id),
        Err(_) => ApiError::response_not_found("\u{FFFD}"),
    }
}
