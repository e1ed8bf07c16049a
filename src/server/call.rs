//! What is known of a call besides its body.

use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::ApiError;
use super::tenancy::caller::Caller;

/// When a request's head reached the server.
#[derive(Debug, Clone, Copy)]
pub struct Arrived(pub Instant);

/// A call as the layers around the handlers saw it. Handlers pass it on, so that what is added here
/// reaches name resolution and the engine without another parameter on the way.
#[derive(Debug, Clone)]
pub struct Call {
    /// When its head reached the server.
    pub arrived: Instant,
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
        Ok(Self {
            arrived: arrived.map_or_else(Instant::now, |Arrived(at)| *at),
            caller: caller.clone(),
        })
    }
}
