//! Every failure a client can see: one type, one table of statuses, one body (OpenAI's envelope).
//!
//! Messages are for clients: they name what was asked and what is allowed, never paths or internals.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::adapter::registry::{ChangeError, LoadError, LoadErrorKind, OutsideRoots, SourceError};
use crate::engine::handle::SubmitError;

/// What the official SDKs ask before they try again.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The longest message, in characters.
const MAX_MESSAGE_CHARS: usize = 1000;

/// A failure in the words of the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    kind: Kind,
    message: String,
    param: Option<String>,
    /// Seconds after which another try may succeed, where it is known for this one.
    retry_after: Option<u64>,
}

/// What went wrong: decides status, `type` and `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Invalid,
    Malformed,
    Unauthorized,
    Forbidden,
    HostNotAllowed,
    CrossOrigin,
    ContextLength,
    ModelNotFound,
    AdapterNotFound,
    Outside,
    Conflict,
    RevisionMismatch,
    NotFound,
    MethodNotAllowed,
    InFile,
    Timeout,
    TooLarge,
    MediaType,
    QueueFull,
    RateLimited,
    BeyondLimit,
    Unavailable,
    AdapterLoading,
    AdapterFailed,
    SourceUnavailable,
    Draining,
    EngineDead,
    UsageBehind,
    StateUnavailable,
    Internal,
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::Malformed | Self::ContextLength => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ModelNotFound | Self::AdapterNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::Forbidden | Self::HostNotAllowed | Self::CrossOrigin | Self::Outside => {
                StatusCode::FORBIDDEN
            }
            Self::Conflict | Self::InFile | Self::RevisionMismatch => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull | Self::RateLimited | Self::BeyondLimit => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Unavailable
            | Self::AdapterLoading
            | Self::AdapterFailed
            | Self::SourceUnavailable
            | Self::Draining
            | Self::EngineDead
            | Self::UsageBehind
            | Self::StateUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn type_name(self) -> &'static str {
        match self {
            Self::QueueFull | Self::RateLimited => "rate_limit_error",
            Self::BeyondLimit => "insufficient_quota",
            Self::Forbidden | Self::HostNotAllowed | Self::CrossOrigin => "permission_error",
            Self::Unavailable
            | Self::AdapterLoading
            | Self::AdapterFailed
            | Self::SourceUnavailable
            | Self::Draining
            | Self::EngineDead
            | Self::UsageBehind
            | Self::StateUnavailable
            | Self::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn code(self) -> Option<&'static str> {
        match self {
            Self::ContextLength => Some("context_length_exceeded"),
            Self::ModelNotFound => Some("model_not_found"),
            Self::Unauthorized => Some("invalid_api_key"),
            Self::InFile => Some("declared_in_file"),
            Self::QueueFull | Self::RateLimited | Self::BeyondLimit => Some("rate_limit_exceeded"),
            Self::AdapterNotFound => Some("adapter_not_found"),
            Self::Forbidden => Some("insufficient_permissions"),
            Self::HostNotAllowed => Some("host_not_allowed"),
            Self::CrossOrigin => Some("cross_origin"),
            Self::Outside => Some("path_outside_roots"),
            Self::Conflict => Some("adapter_conflict"),
            Self::RevisionMismatch => Some("revision_mismatch"),
            Self::Unavailable => Some("model_not_ready"),
            Self::AdapterLoading => Some("adapter_loading"),
            Self::AdapterFailed => Some("adapter_failed"),
            Self::SourceUnavailable => Some("source_unavailable"),
            Self::Draining => Some("shutting_down"),
            Self::EngineDead => Some("engine_dead"),
            Self::UsageBehind => Some("usage_log_behind"),
            Self::StateUnavailable => Some("state_unavailable"),
            _ => None,
        }
    }

    /// Seconds after which another try may succeed, where nothing more is known.
    fn retry_after(self) -> Option<u64> {
        match self {
            Self::QueueFull | Self::RateLimited | Self::AdapterLoading => Some(1),
            Self::Unavailable
            | Self::AdapterFailed
            | Self::SourceUnavailable
            | Self::Draining
            | Self::EngineDead
            | Self::UsageBehind
            | Self::StateUnavailable => Some(5),
            _ => None,
        }
    }
}

/// What went wrong, in the words of the API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
struct Body<'a> {
    /// For people.
    message: &'a str,
    /// The kind of failure.
    r#type: &'static str,
    /// The field that is wrong.
    #[schema(required = true)]
    param: Option<&'a str>,
    /// For programs, where there is one.
    #[schema(required = true)]
    code: Option<&'static str>,
}

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorResponse<'a> {
    error: Body<'a>,
}

impl ApiError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // What a client sent may be repeated to it, but not megabytes of it.
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
            message.truncate(end);
            message.push('…');
        }
        Self { kind, message, param: None, retry_after: None }
    }

    /// 400: the head can be read in more than one way; the connection ends.
    #[must_use]
    pub fn malformed(message: &str) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// 403: the request is for a server of another name than this one may have without keys.
    #[must_use]
    pub fn host_not_allowed(host: &str) -> Self {
        let message = format!(
            "without keys this server answers only to addresses, localhost and the names given by \
             --allowed-host, and not to {host:?}"
        );
        Self::new(Kind::HostNotAllowed, message)
    }

    /// 403: a page of another server asks for a change.
    #[must_use]
    pub fn cross_origin() -> Self {
        let message = "without keys this server takes no requests from pages of other servers";
        Self::new(Kind::CrossOrigin, message)
    }

    /// 400: the value of `param` is wrong.
    #[must_use]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Kind::Invalid, message) }
    }

    /// 400: the body as a whole is wrong.
    #[must_use]
    pub fn body(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// 400: `param` asks for something this server does not do.
    #[must_use]
    pub fn unsupported(param: impl fmt::Display) -> Self {
        let message = format!("`{param}` is not supported by this server");
        Self::invalid(param.to_string(), message)
    }

    /// 400: prompt and answer do not fit the context.
    #[must_use]
    pub fn context_length(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(Kind::ContextLength, message) }
    }

    /// 401: the call has no key, or none that opens anything: which of them is not said.
    #[must_use]
    pub fn unauthorized() -> Self {
        let message = "a valid API key is needed, as `authorization: Bearer KEY`";
        Self::new(Kind::Unauthorized, message)
    }

    /// 403: the key is valid, and not for this.
    #[must_use]
    pub fn not_allowed() -> Self {
        Self::new(Kind::Forbidden, "this API key is not allowed to do that")
    }

    /// 403: there is nothing to manage, or nobody who may.
    #[must_use]
    pub fn no_keys_file() -> Self {
        Self::new(Kind::Forbidden, "tenants are managed on a server that was started with --keys")
    }

    /// 404: what the path names is not there.
    #[must_use]
    pub fn unknown(name: &str) -> Self {
        Self::new(Kind::NotFound, format!("there is no `{name}`"))
    }

    /// 409: it is declared in the keys file, and changed there.
    #[must_use]
    pub fn in_file(message: impl Into<String>) -> Self {
        Self::new(Kind::InFile, message)
    }

    /// 429: a rate of `limit` per minute is used up for `time`.
    #[must_use]
    pub fn rate_limited(what: &str, limit: u64, time: Duration) -> Self {
        // Never a second early.
        let seconds = time.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let message =
            format!("the limit of {limit} {what} per minute is reached: try again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(Kind::RateLimited, message) }
    }

    /// 429: the request alone is more than a minute's `limit`: no other try will succeed.
    #[must_use]
    pub fn beyond_limit(what: &str, amount: u64, limit: u64) -> Self {
        let message = format!(
            "this request may use {amount} {what}, and the limit is {limit} per minute: ask for less"
        );
        Self::new(Kind::BeyondLimit, message)
    }

    /// 429: the work that a request needs has no place in the queue, or none in time.
    #[must_use]
    pub fn work_refused(reason: &impl fmt::Display) -> Self {
        Self::new(Kind::QueueFull, format!("the queue for this work is full: {reason}"))
    }

    /// 429: a tenant has `limit` requests running.
    #[must_use]
    pub fn too_many_running(limit: usize) -> Self {
        let message = format!("the limit of {limit} requests at once is reached");
        Self::new(Kind::RateLimited, message)
    }

    /// 404: no model or adapter of that name.
    #[must_use]
    pub fn model_not_found(name: &str) -> Self {
        let message = format!("the model `{name}` does not exist");
        Self { param: Some("model".to_owned()), ..Self::new(Kind::ModelNotFound, message) }
    }

    /// 404: no such response; none is kept.
    #[must_use]
    pub fn response_not_found(id: &str) -> Self {
        Self::new(Kind::NotFound, format!("the response `{id}` does not exist: none is kept"))
    }

    /// 404: no such route.
    #[must_use]
    pub fn not_found(method: &str, path: &str) -> Self {
        Self::new(Kind::NotFound, format!("unknown request URL: {method} {path}"))
    }

    /// 405: the route knows other methods.
    #[must_use]
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("method {method} is not allowed for {path}"))
    }

    /// 408: the body did not arrive in time.
    #[must_use]
    pub fn body_timeout() -> Self {
        Self::new(Kind::Timeout, "the request body did not arrive in time")
    }

    /// 413: the body is larger than `limit` bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(Kind::TooLarge, format!("the request body is larger than {limit} bytes"))
    }

    /// 413: the body holds more than `limit` values.
    #[must_use]
    pub fn too_many_values(limit: usize) -> Self {
        let message =
            format!("the request body holds more than {limit} values, token ids not counted");
        Self::new(Kind::TooLarge, message)
    }

    /// 429: the bodies of other requests hold all the memory that there is for them.
    #[must_use]
    pub fn bodies_full() -> Self {
        Self::new(Kind::QueueFull, "too many bytes of request bodies are being read")
    }

    /// 415: the body is not declared as JSON.
    #[must_use]
    pub fn media_type() -> Self {
        Self::new(Kind::MediaType, "the request needs `content-type: application/json`")
    }

    /// 415: the body is compressed.
    #[must_use]
    pub fn content_encoding() -> Self {
        Self::new(Kind::MediaType, "compressed request bodies are not supported by this server")
    }

    /// 503: the model is still loading.
    #[must_use]
    pub fn not_ready() -> Self {
        Self::new(Kind::Unavailable, "the model is not loaded yet")
    }

    /// 403: the caller may not do that.
    #[must_use]
    pub fn forbidden(message: &str) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    /// 403: `param` leads to where adapters are not loaded from.
    #[must_use]
    pub fn outside(param: &str, error: &OutsideRoots) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(Kind::Outside, error.to_string()) }
    }

    /// 403: `param` names a place that adapters are not fetched from.
    #[must_use]
    pub fn not_fetched(param: &str) -> Self {
        let message = "the source is outside the places that adapters may be fetched from";
        Self { param: Some(param.to_owned()), ..Self::new(Kind::Outside, message) }
    }

    /// 400: what `param`, or the digest beside it, says of a source cannot be.
    #[must_use]
    pub fn source(param: &str, error: &SourceError) -> Self {
        let param = if *error == SourceError::Digest { "digest" } else { param };
        Self::invalid(param, error.to_string())
    }

    /// 404: no adapter of that name is registered.
    #[must_use]
    pub fn adapter_not_found(name: &str) -> Self {
        Self::new(Kind::AdapterNotFound, format!("there is no adapter {name:?}"))
    }

    /// 404: nothing lies at the place that `param` names.
    #[must_use]
    pub fn nothing_there(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(Kind::AdapterNotFound, message) }
    }

    /// 503: the adapter did not come into memory in time.
    #[must_use]
    pub fn adapter_loading(name: &str) -> Self {
        let message = format!("the model `{name}` is still being loaded");
        Self { param: Some("model".to_owned()), ..Self::new(Kind::AdapterLoading, message) }
    }

    /// The adapter cannot be had now; the registry and the log say why.
    #[must_use]
    pub fn adapter(name: &str, error: &LoadError) -> Self {
        match error.kind() {
            LoadErrorKind::NoRoom => Self::adapter_loading(name),
            LoadErrorKind::Busy => Self::new(Kind::QueueFull, "too many adapters are being loaded"),
            LoadErrorKind::Unusable | LoadErrorKind::Unreachable | LoadErrorKind::Bug => {
                let message = format!("the model `{name}` could not be loaded");
                Self { param: Some("model".to_owned()), ..Self::new(Kind::AdapterFailed, message) }
            }
        }
    }

    /// 503: the server shuts down.
    #[must_use]
    pub fn draining() -> Self {
        Self::new(Kind::Draining, "the server is shutting down")
    }

    /// 503: the engine's thread has ended.
    #[must_use]
    pub fn engine_dead() -> Self {
        Self::new(Kind::EngineDead, "the engine has stopped")
    }

    /// 503: what requests used cannot be written down as fast as they come.
    #[must_use]
    pub fn usage_behind() -> Self {
        Self::new(Kind::UsageBehind, "usage records cannot be written at the moment")
    }

    /// 503: changes of adapters or tenants cannot be stored.
    #[must_use]
    pub fn state_unavailable() -> Self {
        Self::new(Kind::StateUnavailable, "changes cannot be stored at the moment")
    }

    /// 500: our fault; the cause goes to the log, not to the client.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "internal server error")
    }

    /// 500: a choice failed in the engine, which says why.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// The same of the field `to`, where it is of the field `from`: endpoints call one thing by
    /// several names.
    #[must_use]
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        if self.param.as_deref() == Some(from) {
            self.param = Some(to.to_owned());
            self.message = self.message.replace(&format!("`{from}`"), &format!("`{to}`"));
        }
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The body, `{"error": {...}}`, as it stands in a response or in an event of a stream.
    #[must_use]
    pub fn to_json(&self) -> String {
        let error = Body {
            message: &self.message,
            r#type: self.kind.type_name(),
            param: self.param.as_deref(),
            code: self.kind.code(),
        };
        serde_json::to_string(&ErrorResponse { error }).expect("strings serialise")
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull { .. } | SubmitError::ShareFull { .. } => {
                Self::new(Kind::QueueFull, error.to_string())
            }
            SubmitError::Dead => Self::engine_dead(),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        let kind = match &error {
            ChangeError::Name { .. } => return Self::invalid("name", message),
            ChangeError::Unstorable(_) => return Self::invalid("path", message),
            ChangeError::Split => return Self::invalid("weights", message),
            ChangeError::NotFound { .. } | ChangeError::NoVersion { .. } => Kind::AdapterNotFound,
            ChangeError::Revision { .. } => Kind::RevisionMismatch,
            ChangeError::Taken { .. }
            | ChangeError::Elsewhere { .. }
            | ChangeError::NoEarlier { .. }
            | ChangeError::TooMany { .. } => Kind::Conflict,
            ChangeError::Load(error) => match error.kind() {
                LoadErrorKind::Unusable => return Self::invalid("path", message),
                LoadErrorKind::NoRoom => Kind::AdapterLoading,
                LoadErrorKind::Busy => Kind::QueueFull,
                LoadErrorKind::Unreachable => Kind::SourceUnavailable,
                LoadErrorKind::Bug => Kind::Internal,
            },
            ChangeError::Store(reason) => {
                tracing::error!(reason, "a change of adapters could not be stored");
                return Self::new(
                    Kind::StateUnavailable,
                    "the change could not be stored, and was not made",
                );
            }
        };
        Self::new(kind, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status(), self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after.or(self.kind.retry_after()) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::BeyondLimit {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.kind, Kind::Draining | Kind::Malformed | Kind::TooLarge | Kind::Timeout) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A JSON answer, or a failure.
pub type ApiResult<T> = Result<Json<T>, ApiError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_only_so_much_of_a_request() {
        let error = ApiError::model_not_found(&"é".repeat(5000));
        assert_eq!(error.to_string().chars().count(), MAX_MESSAGE_CHARS + 1);
    }

    #[test]
    fn too_many_loads_are_told_as_too_many_requests() {
        let busy = LoadError::new(LoadErrorKind::Busy, "too many");
        let error = ApiError::adapter("a", &busy);
        assert_eq!((error.status().as_u16(), error.kind.retry_after()), (429, Some(1)));
        assert_eq!(ApiError::from(ChangeError::Load(busy)).status(), 429);
    }

    #[test]
    fn the_envelope_always_has_its_four_keys() {
        insta::assert_snapshot!(
            ApiError::internal().to_json(),
            @r#"{"error":{"message":"internal server error","type":"server_error","param":null,"code":null}}"#
        );
        insta::assert_snapshot!(
            ApiError::model_not_found("nobody").to_json(),
            @r#"{"error":{"message":"the model `nobody` does not exist","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
    }
}
