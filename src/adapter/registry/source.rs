//! Where an adapter comes from, and who may say so.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file_digest::FileDigest;
use super::location::{Location, LocationError};

/// Longest name of an adapter that is given while serving.
const MAX_NAME: usize = 64;

/// Where an adapter's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A directory that the operator named.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// A directory beneath one that the operator named. Nothing in it, and nothing on the way to
    /// it, leads out.
    Beneath {
        /// The directory that the operator named.
        root: PathBuf,
        /// From there on: plain names only.
        path: PathBuf,
    },
    /// Files that are fetched from another machine.
    Remote {
        /// From where.
        location: Location,
        /// What the file of weights must be.
        digest: Option<FileDigest>,
    },
}

/// Why a text and a digest name no source. The text is not repeated: it may hold a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It has a scheme, and is no place.
    #[error("that is no place to fetch an adapter from: {0}")]
    Location(#[from] LocationError),
    /// A digest of something on this machine, which is read as it is.
    #[error("a digest is for adapters that are fetched, and this one is a path of this machine")]
    Digest,
}

impl Source {
    /// The source that `text` names, where that is a place to fetch from; `None` where it is a path
    /// of this machine. What is fetched must have `digest`, where there is one.
    ///
    /// # Errors
    /// Where it has a scheme and is no place, or a digest and is a path.
    pub fn remote(text: &str, digest: Option<FileDigest>) -> Result<Option<Self>, SourceError> {
        match Location::named(text)? {
            Some(location) => Ok(Some(Self::Remote { location, digest })),
            None if digest.is_some() => Err(SourceError::Digest),
            None => Ok(None),
        }
    }

    /// The source that a caller's `path` means, absolute or from one of `roots` on.
    ///
    /// # Errors
    /// Where it is beneath none of them.
    pub fn beneath(roots: &[PathBuf], path: &Path) -> Result<Self, OutsideRoots> {
        let plain = |path: &Path| {
            let mut parts = path.components();
            path.components().next().is_some()
                && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let within = |root: &PathBuf| {
            let relative = if path.is_absolute() { path.strip_prefix(root).ok()? } else { path };
            let source = Self::Beneath { root: root.clone(), path: relative.to_owned() };
            plain(relative).then_some(source)
        };
        let mut sources = roots.iter().filter_map(within).peekable();
        let first = sources.peek().cloned().ok_or(OutsideRoots)?;
        // Of several roots the one that has it; which one says that it is missing does not matter.
        Ok(sources.find(Self::exists).unwrap_or(first))
    }

    fn exists(&self) -> bool {
        matches!(self, Self::Beneath { root, path } if root.join(path).is_dir())
    }

    /// A word for it that tells nothing of the machine.
    #[must_use]
    pub fn shown(&self) -> String {
        let path = match self {
            Self::Directory { path } => Path::new(path.file_name().unwrap_or_default()),
            Self::Beneath { path, .. } => path,
            Self::Remote { location, .. } => return location.to_string(),
        };
        path.display().to_string()
    }
}

/// A path that no root allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path is outside the directories that adapters may be loaded from")]
pub struct OutsideRoots;

/// Who gave a name its meaning, and may take it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag.
    CommandLine,
    /// The file of adapters.
    File,
    /// A caller.
    Api,
    /// The directory of adapters.
    Directory,
}

impl Origin {
    /// In words.
    #[must_use]
    pub fn shown(self) -> &'static str {
        match self {
            Self::CommandLine => "the command line",
            Self::File => "the file of adapters",
            Self::Api => "a request",
            Self::Directory => "the directory of adapters",
        }
    }

    /// Whether other files in the same place are the adapter from then on. Elsewhere a name stands
    /// for what was loaded under it.
    #[must_use]
    pub fn follows_files(self) -> bool {
        matches!(self, Self::File | Self::Directory)
    }
}

/// True for names that may be given while serving: they are file names, parts of a URL and labels
/// as they are, and nothing else.
#[must_use]
pub fn is_adapter_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    first && name.len() <= MAX_NAME && name.bytes().all(allowed)
}

/// True for the name that stands for a tenant's own default in requests, and so for no adapter.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name == "default"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "sql-lora", "Acme.v2", "7", &"x".repeat(64)] {
            assert!(is_adapter_name(name), "{name}");
        }
        for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "ä", "a:b", &"x".repeat(65)] {
            assert!(!is_adapter_name(name), "{name}");
        }
    }

    #[test]
    fn paths_stay_beneath_a_root() {
        let roots = [PathBuf::from("/srv/one"), PathBuf::from("/srv/two")];
        let of = |path: &str| Source::beneath(&roots, Path::new(path));
        let beneath =
            |root: &str, path: &str| Source::Beneath { root: root.into(), path: path.into() };
        assert_eq!(of("/srv/two/acme/v1"), Ok(beneath("/srv/two", "acme/v1")));
        assert_eq!(of("acme"), Ok(beneath("/srv/one", "acme")));
        for bad in [
            "",
            ".",
            "..",
            "/",
            "/srv",
            "/srv/one",
            "/srv/one/../x",
            "a/../../b",
            "/etc/passwd",
            "../one/a",
            "/srv/onepath/a",
        ] {
            assert_eq!(of(bad), Err(OutsideRoots), "{bad}");
        }
        assert_eq!(Source::beneath(&[], Path::new("a")), Err(OutsideRoots));
    }
}
