//! A request's body as a JSON object, with every way to fail in the API's envelope; and the name in
//! its path. [`Admitted`] lets a request in before a byte of its body is read: who may not be
//! answered now costs the server a head and nothing more.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::body;
use super::call::Call;
use super::error::ApiError;
use super::openai::fields::Fields;
use super::state::AppState;
use super::tenancy::admission::Admission;

/// The body of a POST: a JSON object, whatever its fields.
#[derive(Debug)]
pub struct JsonObject(pub Fields);

impl FromRequest<Arc<AppState>> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let call = Call::from_request_parts(&mut parts, state).await?;
        check_head(&parts.headers, state.config.max_body_bytes)?;
        let charge = call.caller.body_charge(&state.bodies);
        let (object, _charge) = body::read(state, &call, body, charge).await?;
        Ok(Self(object.into()))
    }
}

/// A request that uses the model: who makes it, its place among those that run, and its body.
///
/// Its limits are asked before its body is read. A `100 Continue` is sent only once the body is
/// wanted.
#[derive(Debug)]
pub struct Admitted {
    /// The call.
    pub call: Call,
    /// Its place; dropped, the request is over.
    pub admission: Admission,
    /// The fields of its body.
    pub fields: Fields,
}

impl FromRequest<Arc<AppState>> for Admitted {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let call = Call::from_request_parts(&mut parts, state).await?;
        check_head(&parts.headers, state.config.max_body_bytes)?;
        let mut admission = state.admit(&call)?;
        state.serving()?;
        let charge = call.caller.body_charge(&state.bodies);
        let (object, charge) = tokio::select! {
            biased;
            read = body::read(state, &call, body, charge) => read?,
            () = admission.aborted() => return Err(ApiError::draining()),
        };
        admission.keep_body(charge);
        admission.reserve_record(state.usage.as_ref())?;
        Ok(Self { call, admission, fields: object.into() })
    }
}

/// Whether the body that such a head announces is one to be read.
fn check_head(headers: &HeaderMap, max_bytes: usize) -> Result<(), ApiError> {
    if !is_json(headers) {
        return Err(ApiError::media_type());
    }
    if is_encoded(headers) {
        return Err(ApiError::content_encoding());
    }
    if announced(headers).is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(ApiError::too_large(max_bytes));
    }
    Ok(())
}

/// The length that a head announces. The protocol's own reader has refused what is no length.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
