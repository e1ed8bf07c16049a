//! `POST /v1/responses`: OpenAI's newer way to ask for an answer, without its memory. Nothing is
//! kept: a client gives back the items of past responses as input, and asking for a response by its
//! id finds none.

mod input;
pub mod items;
pub mod object;
mod output;
mod request;
mod text;
mod tools;
mod writer;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use self::items::ResponseEvent;
use self::object::ResponseObject;
use self::request::ResponseRequest;
use super::endpoint;
use crate::server::error::ApiError;
use crate::server::extract::{Admitted, PathName};
use crate::server::openapi::{errors, requests};
use crate::server::state::AppState;

/// Answers `POST /v1/responses`.
///
/// # Errors
/// Every failure before the first byte.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "inference",
    summary = "Answer, in the form of responses",
    description = "OpenAI's newer way to ask, without its memory: nothing is kept.",
    request_body(
        content = requests::ResponseRequest,
        example = json!({"model": "smollm2", "input": "What is the capital of France?"}),
    ),
    responses(
        (
            status = 200,
            description = "The response; with `stream`, events that tell how it grows",
            content(
                (ResponseObject<'static> = "application/json"),
                (ResponseEvent = "text/event-stream"),
            ),
        ),
        errors::Generating,
    ),
)]
pub async fn create_response(
    State(state): State<Arc<AppState>>,
    admitted: Admitted,
) -> Result<Response, ApiError> {
    endpoint::answer::<ResponseRequest>(&state, admitted).await
}

/// Answers `GET /v1/responses/{id}`: no response is kept.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "get_response",
    tag = "inference",
    summary = "Nothing: no response is kept",
    params(("id" = String, Path, description = "The id of a response")),
    responses(errors::Absent),
)]
pub async fn no_response(PathName(id): PathName) -> ApiError {
    ApiError::response_not_found(&id)
}

/// Answers `DELETE /v1/responses/{id}`: no response is kept.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "delete_response",
    tag = "inference",
    summary = "Nothing: no response is kept",
    params(("id" = String, Path, description = "The id of a response")),
    responses(errors::Absent),
)]
pub async fn delete_no_response(id: PathName) -> ApiError {
    no_response(id).await
}
