//! An adapter as the command line names it, and which names there may be.

use std::path::PathBuf;
use std::str::FromStr;

use super::ConfigError;
use crate::adapter::registry::{Source, is_reserved};

/// `NAME=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterArg {
    /// What requests call it.
    pub name: String,
    /// Its directory or place, as given.
    pub text: String,
    /// The same.
    pub source: Source,
}

/// True for names that may stand in requests, URLs and metrics as they are.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    // A client takes such a part of a path out before it sends it.
    let kept = |part: &str| !["", ".", ".."].contains(&part);
    (1..=128).contains(&name.len()) && name.chars().all(may_be_in_name) && name.split('/').all(kept)
}

/// True for characters that names may have.
#[must_use]
pub fn may_be_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-:/".contains(c)
}

impl FromStr for AdapterArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, place) =
            text.split_once('=').ok_or_else(|| ConfigError::Adapter(text.to_owned()))?;
        if place.is_empty() {
            return Err(ConfigError::Adapter(text.to_owned()));
        }
        if !is_valid_name(name) {
            return Err(ConfigError::Name(name.to_owned()));
        }
        if is_reserved(name) {
            return Err(ConfigError::Reserved(name.to_owned()));
        }
        let local = || Source::Directory { path: PathBuf::from(place) };
        let source = Source::remote(place, None)?.unwrap_or_else(local);
        Ok(Self { name: name.to_owned(), text: place.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_needs_a_name_and_a_path() {
        let adapter = |text: &str| text.parse::<AdapterArg>();
        let directory = Source::Directory { path: "a/b=c".into() };
        let expected = AdapterArg { name: "acme".into(), text: "a/b=c".into(), source: directory };
        assert_eq!(adapter("acme=a/b=c"), Ok(expected));
        let location = "s3://bucket/acme/v3".parse().unwrap();
        assert_eq!(
            adapter("acme=s3://bucket/acme/v3/").unwrap().source,
            Source::Remote { location, digest: None }
        );
        let error = adapter("acme=ftp://host/acme").unwrap_err().to_string();
        assert!(error.contains("none of s3, gs, az"), "{error}");
        assert_eq!(adapter("acme"), Err(ConfigError::Adapter("acme".into())));
        assert_eq!(adapter("acme="), Err(ConfigError::Adapter("acme=".into())));
        assert_eq!(adapter("a b=x"), Err(ConfigError::Name("a b".into())));
        assert_eq!(adapter("=x"), Err(ConfigError::Name(String::new())));
        assert_eq!(adapter("default=x"), Err(ConfigError::Reserved("default".into())));
        for name in [".", "..", "a/../b", "./a", "a/.", "a//b", "/a", "a/"] {
            let text = format!("{name}=x");
            assert_eq!(adapter(&text), Err(ConfigError::Name(name.into())), "{name}");
        }
        for name in ["org/base:v1", "a.b-c_d", "7", "a/.b"] {
            assert!(is_valid_name(name), "{name}");
        }
    }
}
