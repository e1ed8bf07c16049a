//! Places that an adapter's files are fetched from, as they are written: `s3://bucket/prefix`,
//! `gs://…`, `az://…`, `https://host/path`, `http://…` and `hf://org/name@revision`.
//!
//! What is written is taken literally or not at all: no query, no user, no escape, no `..`, no empty
//! part. So there is one reading of it, it holds no secret, and what lies beneath what can be told by
//! comparing text. Nothing here knows how to fetch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest text.
const MAX_BYTES: usize = 1024;
/// What a hub calls its newest revision.
const MAIN: &str = "main";

/// How a place is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// HTTP with TLS.
    Https,
    /// HTTP without.
    Http,
    /// The Hugging Face hub.
    Hf,
}

/// A place with an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location {
    scheme: Scheme,
    /// Bucket, container, or host with port; of a hub the organisation.
    root: String,
    /// From there on, without a slash at either end.
    path: String,
    /// Of a hub: a branch, a tag or a commit; else empty.
    revision: String,
}

/// A place, or the beginning of many: whole parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationPrefix(Location);

/// Why a text names no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// An unknown scheme.
    #[error("the scheme is none of s3, gs, az, https, http and hf")]
    Scheme,
    /// Something in it is not taken literally.
    #[error(
        "it is not SCHEME://ROOT/PATH of letters, digits and ._-+=~, without a query, a user, \
         escapes, empty parts, `.` or `..`"
    )]
    Form,
    /// A repository of a hub is two names and at most one revision.
    #[error("on the hub it is hf://ORG/NAME or hf://ORG/NAME@REVISION")]
    Repository,
}

impl Scheme {
    const ALL: [(&str, Self); 6] = [
        ("s3", Self::S3),
        ("gs", Self::Gs),
        ("az", Self::Az),
        ("https", Self::Https),
        ("http", Self::Http),
        ("hf", Self::Hf),
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    fn is_web(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

impl Location {
    /// The place that `text` names: by its scheme, or as `org/name@revision` of the hub. `None` where
    /// it is a path of this machine.
    ///
    /// # Errors
    /// Where it has a scheme and names no place all the same.
    pub fn named(text: &str) -> Result<Option<Self>, LocationError> {
        if text.contains("://") {
            return text.parse().map(Some);
        }
        let short = text.contains('@') && !text.starts_with(['/', '.']);
        Ok(if short { format!("hf://{text}").parse().ok() } else { None })
    }

    /// How it is reached.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bucket, container, host with port, or organisation.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// From the root on; of a hub the repository's own name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The revision of a hub's repository.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    fn parse(text: &str, is_prefix: bool) -> Result<Self, LocationError> {
        let (name, rest) = text.split_once("://").ok_or(LocationError::Scheme)?;
        let found = Scheme::ALL.iter().find(|(known, _)| *known == name);
        let scheme = found.ok_or(LocationError::Scheme)?.1;
        if text.len() > MAX_BYTES {
            return Err(LocationError::Form);
        }
        let (rest, revision) = match rest.split_once('@') {
            Some((rest, revision)) if scheme == Scheme::Hf => (rest, Some(revision)),
            _ => (rest, None),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (root, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_root(scheme, root) || (!path.is_empty() || rest.contains('/')) && !is_path(path) {
            return Err(LocationError::Form);
        }
        let mut location =
            Self { scheme, root: root.to_owned(), path: path.to_owned(), revision: String::new() };
        if scheme.is_web() {
            location.root.make_ascii_lowercase();
        }
        if scheme == Scheme::Hf {
            let whole = !path.is_empty() || is_prefix && revision.is_none();
            if !whole || path.contains('/') || !revision.is_none_or(is_path) {
                return Err(LocationError::Repository);
            }
            let revision = revision.unwrap_or(if is_prefix { "" } else { MAIN });
            revision.clone_into(&mut location.revision);
        }
        Ok(location)
    }
}

impl LocationPrefix {
    /// Whether a place is this one, or beneath it by whole parts.
    #[must_use]
    pub fn holds(&self, location: &Location) -> bool {
        let Self(prefix) = self;
        let beneath = |whole: &str, part: &str| {
            part.is_empty()
                || whole
                    .strip_prefix(part)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        prefix.scheme == location.scheme
            && prefix.root == location.root
            && beneath(&location.path, &prefix.path)
            && (prefix.revision.is_empty() || prefix.revision == location.revision)
    }

    /// The place itself.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.0
    }
}

/// A bucket, a host with or without a port, or an organisation.
fn is_root(scheme: Scheme, root: &str) -> bool {
    let plain = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        text.bytes().all(allowed) && !text.is_empty() && !text.starts_with(['.', '-'])
    };
    match root.split_once(':') {
        Some((host, port)) => {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            scheme.is_web() && plain(host) && digits && port.parse::<u16>().is_ok()
        }
        None => plain(root),
    }
}

/// One part or several, none of which means anything but itself.
fn is_path(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+=~".contains(&byte);
    let part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
    path.split('/').all(part)
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        Self::parse(text, false)
    }
}

impl FromStr for LocationPrefix {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        Location::parse(text, true).map(Self)
    }
}

impl From<Location> for LocationPrefix {
    fn from(location: Location) -> Self {
        Self(location)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.root)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        if !self.revision.is_empty() {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Location {
    type Error = LocationError;

    fn try_from(text: String) -> Result<Self, LocationError> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_read_and_written_alike() {
        for (text, written) in [
            ("s3://models/acme/v3", "s3://models/acme/v3"),
            ("s3://models/acme/v3/", "s3://models/acme/v3"),
            ("gs://models", "gs://models"),
            ("az://container/a=1/b+c~", "az://container/a=1/b+c~"),
            ("https://Models.Example:8443/a", "https://models.example:8443/a"),
            ("http://127.0.0.1:9000/a/", "http://127.0.0.1:9000/a"),
            ("hf://org/name", "hf://org/name@main"),
            ("hf://org/name@refs/pr/1", "hf://org/name@refs/pr/1"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), written);
            assert_eq!(written.parse(), Ok(location));
        }
        let short = Location::named("org/name@v1.0").unwrap().unwrap();
        assert_eq!((short.root(), short.path(), short.revision()), ("org", "name", "v1.0"));
        for path in ["acme/v3", "/srv/a/b@c", "./a/b@c", "a@b", "a/b/c@d", ""] {
            assert_eq!(Location::named(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_none() {
        for text in ["ftp://a/b", "file:///etc", "S3://a/b", "a/b", "", "://"] {
            assert_eq!(text.parse::<Location>(), Err(LocationError::Scheme), "{text}");
        }
        for text in [
            "s3://",
            "s3:///a",
            "s3://b/../c",
            "s3://b/./c",
            "s3://b//c",
            "s3://b/c//",
            "s3://b/%2e%2e/c",
            "s3://b/a?versionId=1",
            "s3://b/a#b",
            "s3://b/a b",
            "s3://b/a\\b",
            "s3://user@b/c",
            "s3://b:1/c",
            "s3://../c",
            "https://user:secret@host/a",
            "https://host:99999/a",
            "https://host:+1/a",
            "https://host\\@evil/a",
            "https://[::1]/a",
            "https://host/a\0",
            "https://ho st/a",
            "http://-a/b",
            "s3://b/é",
        ] {
            assert_eq!(text.parse::<Location>(), Err(LocationError::Form), "{text}");
        }
        assert!(format!("s3://b/{}", "a".repeat(MAX_BYTES)).parse::<Location>().is_err());
        for text in [
            "hf://org",
            "hf://org/name/more",
            "hf://org/name@",
            "hf://org@main",
            "hf://org/name@a/../b",
            "hf://org/name@a@b",
        ] {
            assert_eq!(text.parse::<Location>(), Err(LocationError::Repository), "{text}");
        }
    }

    #[test]
    fn a_prefix_holds_whole_parts() {
        let holds = |prefix: &str, text: &str| {
            prefix.parse::<LocationPrefix>().unwrap().holds(&text.parse().unwrap())
        };
        for (prefix, text) in [
            ("s3://b", "s3://b/acme/v1"),
            ("s3://b/", "s3://b"),
            ("s3://b/acme", "s3://b/acme"),
            ("s3://b/acme/", "s3://b/acme/v1"),
            ("https://host:1/a", "https://HOST:1/a/b"),
            ("hf://org", "hf://org/name@v1"),
            ("hf://org/name", "hf://org/name"),
            ("hf://org/name@v1", "hf://org/name@v1"),
        ] {
            assert!(holds(prefix, text), "{prefix} {text}");
        }
        for (prefix, text) in [
            ("s3://b", "gs://b/acme"),
            ("s3://b", "s3://bb/acme"),
            ("s3://b/acme", "s3://b/acme2"),
            ("https://host", "http://host/a"),
            ("https://host", "https://host:1/a"),
            ("https://host", "https://host.evil/a"),
            ("hf://org", "hf://org2/name"),
            ("hf://org/name", "hf://org/name2"),
            ("hf://org/name@v1", "hf://org/name@v2"),
        ] {
            assert!(!holds(prefix, text), "{prefix} {text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_a_place_of_plain_parts_or_none(text in "(s3|https|hf)://[a-z./@:%?#\\\\ ]{0,24}") {
            if let Ok(location) = text.parse::<Location>() {
                let written = location.to_string();
                prop_assert_eq!(written.parse::<Location>(), Ok(location.clone()));
                let parts = written.split_once("://").unwrap().1.split(['/', '@']);
                for part in parts {
                    prop_assert!(!part.is_empty() && part != "." && part != "..");
                }
                prop_assert!(!written.contains(['%', '?', '#', '\\', ' ']));
                prop_assert!(LocationPrefix::from(location.clone()).holds(&location));
            }
        }
    }
}
