//! Files beneath an address of the web.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE, RETRY_AFTER, TRANSFER_ENCODING,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure, NO_ANSWER};
use super::redirects::{Allowed, Ticket};
use super::settings::Token;

/// The hub says with it why it refuses.
const ERROR_CODE: &str = "x-error-code";

/// Files beneath one address.
#[derive(Debug)]
pub(super) struct Web {
    pub client: reqwest::Client,
    /// Where redirects may lead.
    pub allowed: Allowed,
    /// Ends with a slash.
    pub base: Url,
    pub token: Option<Token>,
    /// Of all files, where none of them ever changes.
    pub version: Option<String>,
}

impl Web {
    /// Asks for a file.
    pub async fn open(&self, file: &str, ask: Ask<'_>) -> Result<Answer, Failure> {
        let url = self.base.join(file).map_err(|_| Failure::passing("bug: that is no address"))?;
        let ticket = Ticket {
            client: &self.client,
            allowed: &self.allowed,
            token: self.token.as_ref(),
            method: Method::GET,
            headers: headers(ask).ok_or(Failure::passing("bug: that is no tag"))?,
        };
        answer(ticket.send(url, |_| false).await?, ask)
    }
}

/// What is said beside the address. Files come as they are: nothing here unpacks them.
fn headers(ask: Ask<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    match ask {
        Ask::Whole => {}
        Ask::Unless(tag) => {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(tag).ok()?);
        }
        Ask::Rest { from, tag } => {
            headers.insert(IF_MATCH, HeaderValue::from_str(tag).ok()?);
            headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={from}-")).ok()?);
        }
    }
    Some(headers)
}

/// The header that says who asks.
pub(super) fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.0)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A request without an answer.
pub(super) fn failure(error: &reqwest::Error) -> Failure {
    Failure::passing(if error.is_timeout() {
        NO_ANSWER
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    })
}

/// An answer that has nothing of the file.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_server_error() || again.contains(&status) {
        let what = match status {
            StatusCode::TOO_MANY_REQUESTS => "the other side is asked too often (429)",
            _ => "the other side is busy or broken",
        };
        return Failure::Passing { what, after: retry_after(headers, SystemTime::now()) };
    }
    Failure::Lasting(match text(headers, HeaderName::from_static(ERROR_CODE)) {
        Some("GatedRepo") => RemoteError::Gated,
        Some("RepoNotFound") => RemoteError::NoRepository,
        Some("RevisionNotFound") => RemoteError::NoRevision,
        _ => RemoteError::Refused { status: status.as_u16() },
    })
}

/// How long the other side wants to be left alone: so many seconds, or until a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = text(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn answer(response: Response, ask: Ask<'_>) -> Result<Answer, Failure> {
    let headers = response.headers();
    let tag = text(headers, ETAG).filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
    let (from, size) = match response.status() {
        StatusCode::OK => (0, text(headers, CONTENT_LENGTH).and_then(|size| size.parse().ok())),
        StatusCode::PARTIAL_CONTENT => match (ask, text(headers, CONTENT_RANGE).and_then(range)) {
            (Ask::Rest { .. }, Some((from, size))) => (from, Some(size)),
            // Of no use: what is here cannot go on with it.
            (Ask::Rest { .. }, None) => return Ok(Answer::Changed),
            _ => return Err(Failure::passing("a part of the file came, and all was asked for")),
        },
        StatusCode::NOT_MODIFIED => {
            return match ask {
                Ask::Unless(asked) if tag.as_deref().is_none_or(|tag| tag == asked) => {
                    Ok(Answer::Unchanged)
                }
                _ => Err(Failure::passing("\"not modified\" came, and is no answer")),
            };
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => return missing(response.status(), headers),
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
            return Ok(Answer::Changed);
        }
        status => return Err(refusal(status, headers)),
    };
    if text(headers, CONTENT_ENCODING)
        .is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        return Err(Failure::Lasting(RemoteError::Encoded));
    }
    // Of a body that ends with its connection nobody knows whether it is whole: its tag vouches for
    // nothing.
    let has_end = size.is_some() || headers.contains_key(TRANSFER_ENCODING);
    let tag = tag.filter(|_| has_end);
    let chunks = response.bytes_stream();
    let chunks = chunks.map(|chunk| chunk.map_err(|error| failure(&error))).boxed();
    Ok(Answer::Body(Body { from, size, tag, chunks }))
}

/// No such file, or nothing at all where it would be.
fn missing(status: StatusCode, headers: &HeaderMap) -> Result<Answer, Failure> {
    match refusal(status, headers) {
        Failure::Lasting(RemoteError::Refused { .. }) => Ok(Answer::Missing),
        failure => Err(failure),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Start and whole size of `bytes 5-9/10`, where it is the file's whole rest or a part of it.
fn range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, last) = range.split_once('-')?;
    let (from, last, size): (u64, u64, u64) =
        (from.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (from <= last && last < size).then_some((from, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(range("bytes 5-9/10"), Some((5, 10)));
        assert_eq!(range("bytes 0-0/1"), Some((0, 1)));
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "items 5-9/10",
            "bytes a-9/10",
            "bytes 5-9/*",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9/-1",
            "bytes 5-/10",
            "bytes -5/10",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let of = |text: &str| {
            let headers =
                HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(of("3"), Some(3));
        assert_eq!(of(" 120 "), Some(120));
        assert_eq!(of("0"), Some(0));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        for bad in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
