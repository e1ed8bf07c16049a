//! How an entry is written to disk, as JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::book::{Split, Version};
use super::source::Source;
use crate::adapter::delta::AdapterId;

/// One name, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum Record {
    Adapter {
        revision: u64,
        next: u64,
        pinned: bool,
        split: Split,
        /// Missing in records of versions that did not know what had answered before.
        #[serde(default)]
        previous: Vec<Split>,
        versions: Vec<StoredVersion>,
    },
    Alias {
        revision: u64,
        target: String,
    },
}

/// One version, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredVersion {
    pub number: u64,
    pub source: Source,
    pub content: Option<Digest>,
    pub created: u64,
}

impl StoredVersion {
    pub fn of(version: &Version) -> Self {
        Self {
            number: version.number,
            source: version.slot.source.clone(),
            content: version.slot.content().map(Digest),
            created: version.created,
        }
    }
}

/// A digest in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(pub AdapterId);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text).map_err(de::Error::custom)?;
        Ok(Self(AdapterId(*hash.as_bytes())))
    }
}
