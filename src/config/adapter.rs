//! An adapter as the command line names it, and which names there may be.

use std::path::PathBuf;
use std::str::FromStr;

use super::ConfigError;

/// `NAME=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterArg {
    /// What requests call it.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// True for names that may stand in requests, URLs and metrics as they are.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
    (1..=128).contains(&name.len()) && name.chars().all(allowed)
}

impl FromStr for AdapterArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, path) =
            text.split_once('=').ok_or_else(|| ConfigError::Adapter(text.to_owned()))?;
        if path.is_empty() {
            return Err(ConfigError::Adapter(text.to_owned()));
        }
        if !is_valid_name(name) {
            return Err(ConfigError::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_needs_a_name_and_a_path() {
        let adapter = |text: &str| text.parse::<AdapterArg>();
        let expected = AdapterArg { name: "acme".into(), path: "a/b=c".into() };
        assert_eq!(adapter("acme=a/b=c"), Ok(expected));
        assert_eq!(adapter("acme"), Err(ConfigError::Adapter("acme".into())));
        assert_eq!(adapter("acme="), Err(ConfigError::Adapter("acme=".into())));
        assert_eq!(adapter("a b=x"), Err(ConfigError::Name("a b".into())));
        assert_eq!(adapter("=x"), Err(ConfigError::Name(String::new())));
    }
}
