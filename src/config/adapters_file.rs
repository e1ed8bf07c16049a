//! The file of adapters, in TOML.

use std::path::Path;

use serde::Deserialize;

use crate::adapter::registry::{Declared, DeclaredVersion, FileDigest, Source, SourceError};

/// Largest file that is read, in bytes.
pub const MAX_ADAPTERS_FILE: u64 = 16 << 20;
/// Weight of a version that has an adapter to itself.
const WHOLE: u32 = 100;
/// Largest weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// Why a file of adapters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdaptersFileError {
    /// It is not TOML, or has keys that nobody knows.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// An adapter without a place, or with two.
    #[error("adapter {0:?} needs either `path` or `rollout`, and each path its own `digest`")]
    Place(String),
    /// A place that is none.
    #[error("adapter {name:?}: {error}")]
    Source {
        /// The adapter.
        name: String,
        /// What is wrong.
        error: SourceError,
    },
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
    path: Option<String>,
    digest: Option<FileDigest>,
    rollout: Option<Vec<Share>>,
    #[serde(default)]
    pinned: bool,
    #[serde(default)]
    aliases: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    path: String,
    digest: Option<FileDigest>,
    weight: u32,
}

/// What the text of a file of adapters declares; paths in it start from `dir`, where it lies.
///
/// # Errors
/// Where it cannot be used.
pub fn parse_adapters(text: &str, dir: &Path) -> Result<Vec<Declared>, AdaptersFileError> {
    let file: File = toml::from_str(text)?;
    file.adapter.into_iter().map(|entry| entry.declared(dir)).collect()
}

impl Entry {
    fn declared(self, dir: &Path) -> Result<Declared, AdaptersFileError> {
        let version = |path: &str, digest, weight| {
            let local = || Source::Directory { path: dir.join(path) };
            let source = Source::remote(path, digest)
                .map_err(|error| AdaptersFileError::Source { name: self.name.clone(), error })?;
            Ok(DeclaredVersion { source: source.unwrap_or_else(local), weight })
        };
        let versions: Vec<DeclaredVersion> = match (&self.path, &self.rollout, self.digest) {
            (Some(path), None, digest) => vec![version(path, digest, WHOLE)?],
            (None, Some(shares), None) => {
                let versions = shares.iter();
                let versions =
                    versions.map(|share| version(&share.path, share.digest, share.weight));
                versions.collect::<Result<_, AdaptersFileError>>()?
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
    fn a_file_declares_adapters_of_other_machines() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let text = format!(
            "[[adapter]]\nname = 'acme'\npath = 's3://models/acme/v3'\ndigest = '{digest}'\n\
             [[adapter]]\nname = 'globex'\nrollout = [{{ path = 'org/globex@v1', weight = 1 }}]"
        );
        let declared = parse_adapters(&text, Path::new("/etc")).unwrap();
        let source = |text: &str, digest: Option<&str>| {
            let digest = digest.map(|digest| digest.parse().unwrap());
            Source::Remote { location: text.parse().unwrap(), digest }
        };
        let expected = source("s3://models/acme/v3", Some(&digest));
        assert_eq!(declared[0].versions[0].source, expected);
        assert_eq!(declared[1].versions[0].source, source("hf://org/globex@v1", None));
        let error = |text: &str| {
            let text = format!("[[adapter]]\nname = 'a'\n{text}");
            parse_adapters(&text, Path::new("")).unwrap_err().to_string()
        };
        assert!(error("path = 'ftp://a/b'").contains("\"a\": that is no place"));
        assert!(error("path = 's3://b/a'\ndigest = 'md5:0'").contains("64 hexadecimal digits"));
        assert!(
            error(&format!("path = 'b'\ndigest = '{digest}'")).contains("a path of this machine")
        );
        let split = format!("digest = '{digest}'\nrollout = [{{ path = 'b', weight = 1 }}]");
        assert!(error(&split).contains("each path its own"));
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
