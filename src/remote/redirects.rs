//! Where a request may go, and how it goes there: redirects are followed to places that the operator
//! named, and from the hub within it and to its stores of large files. Who asks is told to the first
//! host alone.

use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::error::RemoteError;
use super::place::Failure;
use super::settings::Token;
use super::web::{bearer, failure};
use crate::adapter::registry::{LocationPrefix, Scheme};

/// Redirects after one another.
const MAX_REDIRECTS: usize = 5;
/// The hub's own domains. Large files lie on hosts of theirs, such as `cdn-lfs.huggingface.co` and
/// `cas-bridge.xethub.hf.co`.
const HUB_DOMAINS: [&str; 2] = ["huggingface.co", "hf.co"];

/// Addresses that a request may be sent to.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed {
    /// What lies beneath one of them, by whole parts of the path.
    beneath: Vec<Url>,
    /// Whether the hub's own hosts are among them.
    hub: bool,
}

/// A request for something, wherever that is.
pub(super) struct Ticket<'a> {
    pub client: &'a Client,
    pub allowed: &'a Allowed,
    pub token: Option<&'a Token>,
    pub method: Method,
    pub headers: HeaderMap,
}

impl Allowed {
    /// What the operator named.
    pub fn of(prefixes: &[LocationPrefix]) -> Self {
        let web = prefixes
            .iter()
            .map(LocationPrefix::location)
            .filter(|location| matches!(location.scheme(), Scheme::Http | Scheme::Https));
        let urls = web.filter_map(|location| Url::parse(&location.to_string()).ok());
        Self { beneath: urls.collect(), hub: false }
    }

    /// The same and the hub at `endpoint`.
    pub fn with_hub(mut self, endpoint: &Url) -> Self {
        self.beneath.push(endpoint.clone());
        self.hub = true;
        self
    }

    /// Whether a request may go there.
    pub fn allow(&self, url: &Url) -> bool {
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || !matches!(url.scheme(), "http" | "https") || leads_up(url.path()) {
            return false;
        }
        self.beneath.iter().any(|place| is_beneath(place, url)) || (self.hub && is_of_hub(url))
    }
}

/// Whether a path that is unescaped, once or more often, leads upwards: for some servers it does.
fn leads_up(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    loop {
        let parts = plain.split(['/', '\\']);
        if parts.clone().any(|part| part == "..") {
            return true;
        }
        let once = [("%2f", "/"), ("%5c", "/"), ("%2e", "."), ("%25", "%")]
            .iter()
            .fold(plain.clone(), |text, (escape, byte)| text.replace(escape, byte));
        if once == plain {
            return false;
        }
        plain = once;
    }
}

fn is_beneath(place: &Url, url: &Url) -> bool {
    let prefix = place.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(prefix);
    origin(place) == origin(url)
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_of_hub(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let of = |domain: &str| {
        let rest = host.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    url.scheme() == "https"
        && url.port_or_known_default() == Some(443)
        && HUB_DOMAINS.iter().any(|domain| of(domain))
}

fn origin(url: &Url) -> (&str, Option<&str>, Option<u16>) {
    (url.scheme(), url.host_str(), url.port_or_known_default())
}

impl Ticket<'_> {
    /// Sends the request to `url` and where that leads; stops at an answer that `is_enough`.
    pub async fn send(
        &self,
        mut url: Url,
        is_enough: impl Fn(&Response) -> bool,
    ) -> Result<Response, Failure> {
        let first = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.request(self.method.clone(), url.clone());
            request = request.headers(self.headers.clone());
            if let Some(bearer) =
                self.token.filter(|_| origin(&url) == origin(&first)).and_then(bearer)
            {
                request = request.header(AUTHORIZATION, bearer);
            }
            let response = request.send().await.map_err(|error| failure(&error))?;
            if !leads_on(response.status()) || is_enough(&response) {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let target = target.and_then(|target| url.join(target).ok());
            match target.filter(|target| self.allowed.allow(target)) {
                Some(target) => url = target,
                None => return Err(Failure::Lasting(RemoteError::Redirect)),
            }
        }
        Err(Failure::Lasting(RemoteError::Redirects { limit: MAX_REDIRECTS }))
    }
}

fn leads_on(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_beneath_named_places_only() {
        let prefix = |text: &str| text.parse::<LocationPrefix>().unwrap();
        let places = Allowed::of(&[
            prefix("https://a.example/x"),
            prefix("http://127.0.0.1:9000"),
            prefix("s3://b"),
            prefix("hf://c.example/d"),
        ]);
        let allow = |text: &str| places.allow(&Url::parse(text).unwrap());
        for good in [
            "https://a.example/x",
            "https://A.example:443/x/y?signature=1",
            "https://a.example/z/../x/y",
            "http://127.0.0.1:9000/y",
            "http://127.0.0.1:9000/",
        ] {
            assert!(allow(good), "{good}");
        }
        for bad in [
            "https://a.example/",
            "https://a.example/other",
            "https://a.example/xy",
            "https://a.example/X/y",
            "https://a.example/x/../y",
            "https://a.example/x/%2e%2e/y",
            "https://a.example/x/..%2fy",
            "https://a.example/x/..%252fy",
            "https://a.example/x/%252e%252e%255cy",
            "https://a.example/x/%2E%2e%2Fy",
            "https://a.example/x/..%5Cy",
            "https://a.example//x",
            "http://a.example/x",
            "https://a.example:444/x",
            "https://a.example.evil/x",
            "https://evil/x",
            "https://u@a.example/x",
            "https://:p@a.example/x",
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "https://huggingface.co/",
            "https://b/",
            "https://c.example/d",
        ] {
            assert!(!allow(bad), "{bad}");
        }
    }

    #[test]
    fn the_hub_leads_within_itself_and_to_its_own_hosts() {
        let hub = Allowed::default().with_hub(&Url::parse("https://hub.example/mirror/").unwrap());
        let allow = |text: &str| hub.allow(&Url::parse(text).unwrap());
        for good in [
            "https://cdn-lfs.hf.co/x?signed",
            "https://cas-bridge.xethub.hf.co/x",
            "https://huggingface.co/org/name/resolve/main/x",
            "https://hub.example/mirror/org/new/resolve/main/x",
            "https://hub.example/mirror/org/new/resolve/refs%2Fpr%2F1/x",
        ] {
            assert!(allow(good), "{good}");
        }
        for bad in [
            "http://hf.co/",
            "https://hf.co:8443/",
            "https://evilhf.co/",
            "https://hf.co.evil/",
            "https://a.example/",
            "https://hub.example/other",
            "https://cdn.hub.example/mirror/x",
        ] {
            assert!(!allow(bad), "{bad}");
        }
    }
}
