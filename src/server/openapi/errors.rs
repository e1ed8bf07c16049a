//! Which failures an operation may answer with, for the document. What they mean is
//! [`super::super::error`]'s.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::server::error::ErrorResponse;

type Responses = BTreeMap<String, RefOr<Response>>;

/// Failures of an operation that generates.
#[derive(Debug)]
pub struct Generating;

/// Failures of an operation with a body that generates nothing.
#[derive(Debug)]
pub struct Reading;

/// Failures of an operation that needs a loaded model.
#[derive(Debug)]
pub struct Loaded;

/// The one failure of an operation on what is never there.
#[derive(Debug)]
pub struct Absent;

/// Failures of an operation that tells those who manage the server something.
#[derive(Debug)]
pub struct Watching;

/// Failures of an operation that changes adapters.
#[derive(Debug)]
pub struct Managing;

/// Failures of an operation that names a model in its path.
#[derive(Debug)]
pub struct Named;

impl IntoResponses for Generating {
    fn responses() -> Responses {
        table(&[400, 401, 403, 404, 408, 413, 415, 429, 500, 503])
    }
}

impl IntoResponses for Reading {
    fn responses() -> Responses {
        table(&[400, 401, 403, 404, 408, 413, 415, 429, 500, 503])
    }
}

impl IntoResponses for Loaded {
    fn responses() -> Responses {
        table(&[401, 403, 503])
    }
}

impl IntoResponses for Absent {
    fn responses() -> Responses {
        table(&[401, 403, 404])
    }
}

impl IntoResponses for Watching {
    fn responses() -> Responses {
        table(&[401, 403, 404, 503])
    }
}

impl IntoResponses for Managing {
    fn responses() -> Responses {
        table(&[400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503])
    }
}

impl IntoResponses for Named {
    fn responses() -> Responses {
        table(&[401, 403, 404, 503])
    }
}

fn table(statuses: &[u16]) -> Responses {
    statuses.iter().map(|status| (status.to_string(), RefOr::T(response(*status)))).collect()
}

fn response(status: u16) -> Response {
    let schema = Ref::from_schema_name(ErrorResponse::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(meaning(status)).content("application/json", content).build()
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => {
            "The body is no JSON object, or a field is wrong, missing or refused: `param` names it"
        }
        401 => "The key is missing, unknown or expired",
        403 => "The key is not for this, or the path lies outside the server's roots and sources",
        404 => "There is no model, adapter or response of that name",
        409 => "The adapter is not what the caller takes it for, or the change contradicts it",
        408 => "The body did not arrive in time",
        413 => "The body is too large",
        415 => "The body is not declared as JSON, or is compressed",
        429 => "A limit is reached, or the queue is full: try again after `retry-after` seconds",
        500 => "The server failed",
        _ => {
            "The model is not loaded yet, the server is shutting down, its engine has died, or \
             changes cannot be stored"
        }
    }
}
