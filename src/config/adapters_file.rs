//! The file of adapters, in TOML.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::adapter::registry::{Declared, DeclaredVersion, Source};

/// Largest file that is read, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// Weight of a version that has an adapter to itself.
const WHOLE: u32 = 100;
/// Largest weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// Why a file of adapters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdaptersFileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is larger than any list of adapters.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// It is not TOML, or has keys that nobody knows.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// An adapter without a place, or with two.
    #[error("adapter {0:?} needs either `path` or `rollout`")]
    Place(String),
    /// Weights that share out nothing.
    #[error("adapter {0:?}: weights are 0 to {MAX_WEIGHT}, one of them above 0")]
    Weights(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    adapter: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    path: Option<PathBuf>,
    rollout: Option<Vec<Share>>,
    #[serde(default)]
    pinned: bool,
    #[serde(default)]
    aliases: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    path: PathBuf,
    weight: u32,
}

/// Reads the file at `path`; paths in it start from where it lies.
///
/// # Errors
/// Where it cannot be used.
pub fn read_adapters(path: &Path) -> Result<Vec<Declared>, AdaptersFileError> {
    let text = std::fs::read_to_string(path)?;
    if text.len() > MAX_BYTES {
        return Err(AdaptersFileError::TooLarge);
    }
    parse_adapters(&text, path.parent().unwrap_or(Path::new("")))
}

fn parse_adapters(text: &str, dir: &Path) -> Result<Vec<Declared>, AdaptersFileError> {
    let file: File = toml::from_str(text)?;
    file.adapter.into_iter().map(|entry| entry.declared(dir)).collect()
}

impl Entry {
    fn declared(self, dir: &Path) -> Result<Declared, AdaptersFileError> {
        let version = |path: &Path, weight| {
            let source = Source::Directory { path: dir.join(path) };
            DeclaredVersion { source, weight }
        };
        let versions: Vec<DeclaredVersion> = match (&self.path, &self.rollout) {
            (Some(path), None) => vec![version(path, WHOLE)],
            (None, Some(shares)) => {
                shares.iter().map(|share| version(&share.path, share.weight)).collect()
            }
            _ => return Err(AdaptersFileError::Place(self.name)),
        };
        let fits = versions.iter().all(|version| version.weight <= MAX_WEIGHT);
        if !fits || versions.iter().all(|version| version.weight == 0) {
            return Err(AdaptersFileError::Weights(self.name));
        }
        let Self { name, pinned, aliases, .. } = self;
        Ok(Declared { name, aliases, versions, pinned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_declares_adapters() {
        let text = r#"
            [[adapter]]
            name = "acme"
            path = "acme/v3"
            pinned = true
            aliases = ["acme-live"]

            [[adapter]]
            name = "globex"
            rollout = [{ path = "/srv/globex/v1", weight = 90 }, { path = "globex/v2", weight = 10 }]
        "#;
        let version = |path: &str, weight| DeclaredVersion {
            source: Source::Directory { path: path.into() },
            weight,
        };
        let expected = [
            Declared {
                name: "acme".into(),
                aliases: vec!["acme-live".into()],
                versions: vec![version("/etc/sorsa/acme/v3", 100)],
                pinned: true,
            },
            Declared {
                name: "globex".into(),
                aliases: Vec::new(),
                versions: vec![version("/srv/globex/v1", 90), version("/etc/sorsa/globex/v2", 10)],
                pinned: false,
            },
        ];
        assert_eq!(parse_adapters(text, Path::new("/etc/sorsa")).unwrap(), expected);
        assert!(parse_adapters("", Path::new("")).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| parse_adapters(text, Path::new("")).unwrap_err().to_string();
        assert!(
            error("[[adapter]]\nname = 'a'").contains("\"a\" needs either `path` or `rollout`")
        );
        assert!(error("[[adapter]]\nname = 'a'\nrollout = []").contains("weights are 0 to"));
        let both = "[[adapter]]\nname = 'a'\npath = 'x'\nrollout = []";
        assert!(error(both).contains("needs either"));
        assert!(error("[[adapter]]\nname = 'a'\npath = 'x'\npined = true").contains("pined"));
        assert!(error("[[adapters]]\nname = 'a'").contains("adapters"));
        assert!(error("[[adapter]\n").contains("TOML"));
    }
}
