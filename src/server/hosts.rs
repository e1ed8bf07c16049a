//! Which names a server answers to, and from which pages.
//!
//! A server that asks for no key trusts whoever reaches it, and a browser lets every page reach this
//! machine: by a name of the page's own that resolves to this machine (DNS rebinding), or by a form that
//! is sent to it. So such a server answers only to names that nobody else can give it, and changes
//! nothing for pages of others. With keys neither helps a page: it has none, and a browser sends none.
//! How a request says whom it is for is checked of every server.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::state::AppState;

/// Where browsers say how the page that asks and the server stand to each other.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The longest name that DNS has.
const MAX_NAME_LEN: usize = 253;

/// The middleware.
pub async fn check_host(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let (uri, headers) = (request.uri(), request.headers());
    let checked = check_form(request.version(), headers).and_then(|()| {
        if !state.tenancy.is_open() {
            return Ok(());
        }
        check_names(uri, headers, &state.config.allowed_hosts)?;
        check_page(request.method(), headers)
    });
    // A body in chunks may have come with a length too, which the protocol's reader drops; a proxy that
    // went by it would take what follows for this client's next request (RFC 9112, 6.1).
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if chunked {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// A name that the server is to answer to, as in `Host`, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// It is no host's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a host's name, such as sorsa.example.com, without a scheme and without a port")]
pub struct NotAHost;

impl FromStr for HostName {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let fine = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let is_name = name.len() <= MAX_NAME_LEN && name.split('.').all(fine);
        if is_name { Ok(Self(name)) } else { Err(NotAHost) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One `Host` in HTTP/1.1 and at most one before, so that all who read it read the same (RFC 9112, 3.2).
fn check_form(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version >= Version::HTTP_11) {
        return Err(ApiError::malformed("the request needs one `host` header"));
    }
    Ok(())
}

/// Every name that the request gives the server must be one of its own.
fn check_names(uri: &Uri, headers: &HeaderMap, allowed: &[HostName]) -> Result<(), ApiError> {
    let mut names = Vec::new();
    if let Some(authority) = uri.authority() {
        names.push(authority.as_str());
    }
    if let Some(host) = headers.get(header::HOST) {
        names.push(host.to_str().map_err(|_| ApiError::host_not_allowed("?"))?);
    }
    match names.into_iter().find(|name| !is_own(name, allowed)) {
        Some(name) => Err(ApiError::host_not_allowed(name)),
        None => Ok(()),
    }
}

/// Nothing is changed for a page that another server has given out; browsers say so.
fn check_page(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        let own = [&b"same-origin"[..], b"none"].contains(&site.as_bytes());
        return if own { Ok(()) } else { Err(ApiError::cross_origin()) };
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    if own.is_some_and(|(_, of)| of.as_bytes().eq_ignore_ascii_case(host)) {
        Ok(())
    } else {
        Err(ApiError::cross_origin())
    }
}

/// Whether nobody but this machine's owner can have given it this name: an address, this machine's name
/// for itself, or what the operator allowed.
fn is_own(authority: &str, allowed: &[HostName]) -> bool {
    let Some(name) = without_port(authority) else { return false };
    if let Some(address) = name.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let Ok(name) = name.parse::<HostName>() else { return false };
    name.0 == "localhost" || name.0.ends_with(".localhost") || allowed.contains(&name)
}

/// The host of `host:port` or `[address]:port`; `None` where what follows it is no port.
fn without_port(authority: &str) -> Option<&str> {
    let end = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    let Some(colon) = authority[end..].find(':') else {
        return (end == 0 || end == authority.len()).then_some(authority);
    };
    let (name, port) = authority.split_at(end + colon);
    let is_port = port[1..].bytes().all(|b| b.is_ascii_digit()) && port.len() <= 6;
    ((end == 0 || colon == 0) && is_port).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_else_can_give_are_answered_to() {
        let allowed: Vec<HostName> =
            ["sorsa", "Api.Example.com."].map(|name| name.parse().unwrap()).into();
        for own in [
            "127.0.0.1",
            "127.0.0.1:8000",
            "10.1.2.3:80",
            "0.0.0.0:8000",
            "[::1]",
            "[::1]:8000",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:8000",
            "localhost",
            "localhost:",
            "LOCALHOST:8000",
            "localhost.",
            "a.localhost:8000",
            "sorsa",
            "SORSA:8000",
            "api.example.com",
            "api.example.com.:443",
        ] {
            assert!(is_own(own, &allowed), "{own}");
        }
        for other in [
            "",
            ":",
            ":8000",
            ".",
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "evillocalhost",
            "xlocalhost:8000",
            ".localhost",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io:8000",
            "127.1",
            "0177.0.0.1",
            "0x7f000001",
            "2130706433",
            "127.0.0.1:x",
            "127.0.0.1:80:80",
            "127.0.0.1:123456",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "user@127.0.0.1",
            "127.0.0.1/evil",
            "127.0.0.1, evil.example",
            " 127.0.0.1",
            "::1",
            "[::1",
            "[::1]evil.example",
            "[::1]x:80",
            "[evil]",
            "[127.0.0.1]",
            "[::1%25lo]",
            "sorsa.evil.example",
            "example.com",
            "b.api.example.com",
            "localhost..",
        ] {
            assert!(!is_own(other, &allowed), "{other}");
        }
    }

    #[test]
    fn a_name_is_one_that_a_host_can_have() {
        for name in ["sorsa", "a-b.example.com", "EXAMPLE.com.", "my_pod"] {
            assert!(name.parse::<HostName>().is_ok(), "{name}");
        }
        for wrong in ["", ".", "a..b", "a b", "http://a", "a:80", "*.a", "é", "a/b", "[::1]"] {
            assert_eq!(wrong.parse::<HostName>(), Err(NotAHost), "{wrong}");
        }
    }

    #[test]
    fn pages_of_others_change_nothing() {
        let with = |method: Method, pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("localhost:8000"));
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            check_page(&method, &headers).is_ok()
        };
        let (site, origin) = ("sec-fetch-site", "origin");
        for fine in [
            &[][..],
            &[(origin, "http://localhost:8000")],
            &[(origin, "http://LOCALHOST:8000")],
            &[(site, "same-origin"), (origin, "http://localhost:8000")],
            &[(site, "none")],
        ] {
            assert!(with(Method::POST, fine), "{fine:?}");
        }
        for wrong in [
            &[(origin, "null")][..],
            &[(origin, "http://evil.example")],
            &[(origin, "http://localhost:3000")],
            &[(origin, "http://localhost")],
            &[(origin, "localhost:8000")],
            &[(site, "cross-site")],
            &[(site, "same-site"), (origin, "http://localhost:3000")],
            &[(site, "cross-site"), (origin, "http://localhost:8000")],
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                assert!(!with(method, wrong), "{wrong:?}");
            }
            assert!(with(Method::GET, wrong) && with(Method::HEAD, wrong));
        }
    }
}
