//! The Hugging Face hub: a repository's revision becomes a commit, whose files never change.
//!
//! A client of our own over the HTTP client that object stores need anyhow: hf-hub 1.0 brings two
//! hundred crates for uploads, chunked storage and a cache of its own.

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::error::RemoteError;
use super::place::Failure;
use super::redirects::{Allowed, Ticket};
use super::settings::Hub;
use super::web::{Web, refusal};
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

/// The files of a revision, as the commit that it is now. A repository that was renamed is found by its
/// old name, as the hub leads from there to the new one.
///
/// # Errors
/// Where the hub does not know it, or does not answer.
pub(super) async fn open(
    location: &Location,
    hub: &Hub,
    client: &Client,
    allowed: &Allowed,
) -> Result<Web, Failure> {
    let commit = match location.revision() {
        revision if is_commit(revision) => revision.to_owned(),
        revision => commit(location, revision, hub, client, allowed).await?,
    };
    let (base, token) = (files(location, &commit, hub)?, hub.token.clone());
    let (client, allowed) = (client.clone(), allowed.clone());
    Ok(Web { client, allowed, base, token, version: Some(commit) })
}

async fn commit(
    location: &Location,
    revision: &str,
    hub: &Hub,
    client: &Client,
    allowed: &Allowed,
) -> Result<String, Failure> {
    let url = files(location, revision, hub)?;
    let url = url.join(ANY_FILE).map_err(|_| Failure::passing("bug: that is no address"))?;
    let (token, headers) = (hub.token.as_ref(), HeaderMap::new());
    let ticket = Ticket { client, allowed, token, method: Method::HEAD, headers };
    let response = ticket.send(url, |response| commit_of(response).is_some()).await?;
    match (commit_of(&response), response.status()) {
        (Some(commit), _) => Ok(commit),
        (None, status) if status.is_success() => Err(Failure::passing("the hub names no commit")),
        (None, status) => Err(match refusal(status, response.headers()) {
            Failure::Lasting(RemoteError::Refused { .. }) if status == StatusCode::NOT_FOUND => {
                Failure::Lasting(RemoteError::NoRevision)
            }
            failure => failure,
        }),
    }
}

fn commit_of(response: &Response) -> Option<String> {
    let commit = response.headers().get(COMMIT)?.to_str().ok()?;
    is_commit(commit).then(|| commit.to_owned())
}

/// The address of a revision's files; a slash in its name is no border between parts.
fn files(location: &Location, revision: &str, hub: &Hub) -> Result<Url, Failure> {
    let mut url = endpoint(hub).map_err(Failure::Lasting)?;
    let parts = [location.root(), location.path(), "resolve", revision, ""];
    url.path_segments_mut()
        .map_err(|()| Failure::passing("bug: that is no address"))?
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
