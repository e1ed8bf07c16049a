//! What is known of a call besides its body.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::ApiError;
use super::tenancy::caller::Caller;

/// When a request's head reached the server.
#[derive(Debug, Clone, Copy)]
pub struct Arrived(pub Instant);

/// A request's id, as it stands in the log and in the answer.
#[derive(Debug, Clone)]
pub struct CallId(pub Arc<str>);

/// A call as the layers around the handlers saw it. Handlers pass it on, so that what is added here
/// reaches name resolution and the engine without another parameter on the way.
#[derive(Debug, Clone)]
pub struct Call {
    /// When its head reached the server.
    pub arrived: Instant,
    /// Its id: the client's, or a new one.
    pub id: Arc<str>,
    /// Who makes it.
    pub caller: Caller,
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let arrived = parts.extensions.get::<Arrived>();
        let Some(caller) = parts.extensions.get::<Caller>() else {
            tracing::error!("bug: a route that serves tenants is open to everybody");
            return Err(ApiError::internal());
        };
        let id = parts.extensions.get::<CallId>();
        Ok(Self {
            id: id.map_or_else(Arc::default, |CallId(id)| Arc::clone(id)),
            arrived: arrived.map_or_else(Instant::now, |Arrived(at)| *at),
            caller: caller.clone(),
        })
    }
}
