//! A request's body as a JSON object, with every way to fail in the API's envelope; and the name in
//! its path.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::error::ApiError;
use super::openai::fields::Fields;
use super::state::AppState;

/// The body of a POST: a JSON object, whatever its fields.
#[derive(Debug)]
pub struct JsonObject(pub Fields);

impl FromRequest<Arc<AppState>> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::media_type());
        }
        if is_encoded(request.headers()) {
            return Err(ApiError::content_encoding());
        }
        let reading = Bytes::from_request(request, state);
        let bytes = tokio::time::timeout(state.config.body_timeout, reading)
            .await
            .map_err(|_| ApiError::body_timeout())?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(state.config.max_body_bytes),
                _ => ApiError::body("the request body could not be read"),
            })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(Fields::new(map))),
            Ok(_) => Err(ApiError::body("the request body must be a JSON object")),
            Err(error) => Err(ApiError::body(format!("the request body is not JSON: {error}"))),
        }
    }
}

/// What a path names. No name holds what is no UTF-8 once decoded, and it cannot be repeated: in its
/// place stands a character that is in no name either.
#[derive(Debug)]
pub struct PathName(pub String);

impl FromRequestParts<Arc<AppState>> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, Infallible> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(name.map_or_else(|_| "\u{FFFD}".to_owned(), |Path(name)| name)))
    }
}

/// True for `application/json` and `application/*+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    subtype == "json" || subtype.ends_with("+json")
}

/// True where the body is compressed: it is read as it comes, so that its size is what it costs.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn json_is_recognised_by_its_media_type() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(is("application/json"));
        assert!(is("Application/JSON; charset=utf-8"));
        assert!(is("application/problem+json"));
        assert!(!is("text/json"));
        assert!(!is("application/x-www-form-urlencoded"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
