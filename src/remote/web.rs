//! Files beneath an address of the web.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_NONE_MATCH, RANGE,
};
use reqwest::{Response, StatusCode, Url};

use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure};
use super::settings::Token;
use crate::adapter::registry::{LocationPrefix, Scheme};

/// Redirects after one another.
const MAX_REDIRECTS: usize = 5;

/// Files beneath one address.
#[derive(Debug)]
pub(super) struct Web {
    pub client: reqwest::Client,
    /// Ends with a slash.
    pub base: Url,
    pub token: Option<Token>,
    /// Of all files, where none of them ever changes.
    pub version: Option<String>,
}

/// The hosts, with scheme and port, that a request may be sent to.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    exact: BTreeSet<(String, String, u16)>,
    /// Whether the hub's own hosts for large files are among them.
    hub: bool,
}

impl Hosts {
    /// Those of these prefixes.
    pub fn of(prefixes: &[LocationPrefix]) -> Self {
        let urls = prefixes.iter().filter_map(LocationPrefix::host).filter_map(|(scheme, host)| {
            let scheme = if scheme == Scheme::Http { "http" } else { "https" };
            Url::parse(&format!("{scheme}://{host}")).ok()
        });
        Self { exact: urls.filter_map(|url| origin(&url)).collect(), hub: false }
    }

    /// The same and those of the hub at `endpoint`.
    pub fn with_hub(mut self, endpoint: &Url) -> Self {
        self.exact.extend(origin(endpoint));
        self.hub = true;
        self
    }

    /// Whether a request may go there.
    pub fn allow(&self, url: &Url) -> bool {
        let Some(origin) = origin(url) else { return false };
        let of_hub = |domain: &str| {
            let rest = origin.1.strip_suffix(domain);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let hub = self.hub
            && (origin.0.as_str(), origin.2) == ("https", 443)
            && (of_hub("huggingface.co") || of_hub("hf.co"));
        hub || self.exact.contains(&origin)
    }

    /// Follows a redirect to them; another one is the answer itself.
    pub fn redirects(self) -> reqwest::redirect::Policy {
        reqwest::redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() <= MAX_REDIRECTS && self.allow(attempt.url()) {
                attempt.follow()
            } else {
                attempt.stop()
            }
        })
    }
}

fn origin(url: &Url) -> Option<(String, String, u16)> {
    let user = !url.username().is_empty() || url.password().is_some();
    if user || !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    Some((url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default()?))
}

impl Web {
    /// Asks for a file.
    pub async fn open(&self, file: &str, ask: Ask<'_>) -> Result<Answer, Failure> {
        let url = self.base.join(file).map_err(|_| Failure::Passing("bug: that is no address"))?;
        let mut request = self.client.get(url);
        if let Some(bearer) = self.token.as_ref().and_then(bearer) {
            request = request.header(AUTHORIZATION, bearer);
        }
        request = match ask {
            Ask::Whole => request,
            Ask::Unless(tag) => request.header(IF_NONE_MATCH, tag),
            Ask::Rest { from, tag } => {
                request.header(IF_MATCH, tag).header(RANGE, format!("bytes={from}-"))
            }
        };
        let response = request.send().await.map_err(|error| failure(&error))?;
        answer(response, ask)
    }
}

/// The header that says who asks.
pub(super) fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.0)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A request without an answer.
pub(super) fn failure(error: &reqwest::Error) -> Failure {
    Failure::Passing(if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    })
}

/// An answer that has nothing of the file.
pub(super) fn refusal(status: StatusCode) -> Failure {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_server_error() || again.contains(&status) {
        return Failure::Passing("the other side is busy or broken");
    }
    Failure::Lasting(if status.is_redirection() {
        RemoteError::Redirect
    } else {
        RemoteError::Refused { status: status.as_u16() }
    })
}

fn answer(response: Response, ask: Ask<'_>) -> Result<Answer, Failure> {
    let headers = response.headers();
    let tag = text(headers, ETAG).filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
    let (from, size) = match response.status() {
        StatusCode::OK => (0, text(headers, CONTENT_LENGTH).and_then(|size| size.parse().ok())),
        StatusCode::PARTIAL_CONTENT => {
            let range = text(headers, CONTENT_RANGE).and_then(range);
            range.ok_or(Failure::Passing("an answer of no known range"))?
        }
        StatusCode::NOT_MODIFIED => return Ok(Answer::Unchanged),
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::Missing),
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
            return Ok(Answer::Changed);
        }
        status => return Err(refusal(status)),
    };
    // Not every server minds the condition.
    if let Ask::Rest { tag: asked, .. } = ask
        && from > 0
        && tag.as_deref().is_some_and(|tag| tag != asked)
    {
        return Ok(Answer::Changed);
    }
    let chunks = response.bytes_stream();
    let chunks = chunks.map(|chunk| chunk.map_err(|error| failure(&error))).boxed();
    Ok(Answer::Body(Body { from, size, tag, chunks }))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Start and whole size of `bytes 5-9/10`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_allowed_hosts_only() {
        let prefix = |text: &str| text.parse::<LocationPrefix>().unwrap();
        let hosts = Hosts::of(&[
            prefix("https://a.example/x"),
            prefix("http://127.0.0.1:9000"),
            prefix("s3://b"),
        ]);
        let allow = |text: &str| hosts.allow(&Url::parse(text).unwrap());
        assert!(allow("https://a.example/other") && allow("https://A.example:443/"));
        assert!(allow("http://127.0.0.1:9000/y"));
        for bad in [
            "http://a.example/",
            "https://a.example:444/",
            "https://a.example.evil/",
            "https://evil/",
            "https://u@a.example/",
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "https://huggingface.co/",
            "https://b/",
        ] {
            assert!(!allow(bad), "{bad}");
        }
        let hub = Hosts::default().with_hub(&Url::parse("https://hub.example").unwrap());
        let allow = |text: &str| hub.allow(&Url::parse(text).unwrap());
        assert!(allow("https://cdn-lfs.hf.co/x") && allow("https://hub.example/y"));
        for bad in
            ["http://hf.co/", "https://evilhf.co/", "https://hf.co.evil/", "https://a.example/"]
        {
            assert!(!allow(bad), "{bad}");
        }
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "items 5-9/10", "bytes a-9/10"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
