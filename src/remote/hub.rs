//! The Hugging Face hub: a repository's revision becomes a commit, whose files never change.
//!
//! A client of our own over the HTTP client that object stores need anyhow: hf-hub 1.0 brings two
//! hundred crates for uploads, chunked storage and a cache of its own.

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, StatusCode, Url};

use super::error::RemoteError;
use super::place::Failure;
use super::settings::Hub;
use super::web::{Web, bearer, failure, refusal};
use crate::adapter::registry::Location;

/// Says which commit a revision is.
const COMMIT: &str = "x-repo-commit";
/// Any file will do, and need not be there.
const ANY_FILE: &str = "adapter_config.json";

/// The hub's address.
///
/// # Errors
/// Where it is none.
pub(super) fn endpoint(hub: &Hub) -> Result<Url, RemoteError> {
    let url = Url::parse(&hub.endpoint).ok();
    let fits = |url: &Url| matches!(url.scheme(), "http" | "https") && url.username().is_empty();
    url.filter(fits).ok_or_else(|| RemoteError::Settings("HF_ENDPOINT is no address".into()))
}

/// The files of a revision, as the commit that it is now. `asking` follows no redirects; `fetching`
/// follows them to the hub's hosts.
///
/// # Errors
/// Where the hub does not know it, or does not answer.
pub(super) async fn open(
    location: &Location,
    hub: &Hub,
    asking: &Client,
    fetching: &Client,
) -> Result<Web, Failure> {
    let commit = match location.revision() {
        revision if is_commit(revision) => revision.to_owned(),
        revision => commit(location, revision, hub, asking).await?,
    };
    let base = files(location, &commit, hub)?;
    let token = hub.token.clone();
    Ok(Web { client: fetching.clone(), base, token, version: Some(commit) })
}

async fn commit(
    location: &Location,
    revision: &str,
    hub: &Hub,
    asking: &Client,
) -> Result<String, Failure> {
    let url = files(location, revision, hub)?;
    let url = url.join(ANY_FILE).map_err(|_| Failure::Passing("bug: that is no address"))?;
    let mut request = asking.head(url);
    if let Some(bearer) = hub.token.as_ref().and_then(bearer) {
        request = request.header(AUTHORIZATION, bearer);
    }
    let response = request.send().await.map_err(|error| failure(&error))?;
    let commit = response.headers().get(COMMIT).and_then(|commit| commit.to_str().ok());
    match (commit.filter(|commit| is_commit(commit)), response.status()) {
        (Some(commit), _) => Ok(commit.to_owned()),
        (None, StatusCode::NOT_FOUND) => Err(Failure::Lasting(RemoteError::NoRevision)),
        (None, status) if !status.is_success() => Err(refusal(status)),
        (None, _) => Err(Failure::Passing("the hub names no commit")),
    }
}

/// The address of a revision's files; a slash in its name is no border between parts.
fn files(location: &Location, revision: &str, hub: &Hub) -> Result<Url, Failure> {
    let mut url = endpoint(hub).map_err(Failure::Lasting)?;
    let parts = [location.root(), location.path(), "resolve", revision, ""];
    url.path_segments_mut()
        .map_err(|()| Failure::Passing("bug: that is no address"))?
        .pop_if_empty()
        .extend(parts);
    Ok(url)
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_hub() {
        let of = |location: &str, endpoint: &str| {
            let location: Location = location.parse().unwrap();
            let hub = Hub { endpoint: endpoint.into(), ..Hub::default() };
            files(&location, location.revision(), &hub).unwrap().to_string()
        };
        let hub = "https://huggingface.co";
        assert_eq!(of("hf://org/name", hub), "https://huggingface.co/org/name/resolve/main/");
        assert_eq!(
            of("hf://org/name@refs/pr/1", "http://127.0.0.1:80/mirror/"),
            "http://127.0.0.1/mirror/org/name/resolve/refs%2Fpr%2F1/"
        );
        assert!(endpoint(&Hub { endpoint: "huggingface".into(), ..Hub::default() }).is_err());
        assert!(is_commit(&"0a".repeat(20)) && !is_commit("main") && !is_commit(&"g".repeat(40)));
    }
}
