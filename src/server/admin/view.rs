//! How adapters look in JSON.

use serde::Serialize;

use crate::adapter::registry::{AdapterInfo, Facts, Origin, Residency, VersionInfo};

/// An adapter and its versions.
#[derive(Debug, Serialize)]
pub struct AdapterView {
    name: String,
    aliases: Vec<String>,
    origin: Origin,
    revision: u64,
    pinned: bool,
    versions: Vec<VersionView>,
}

/// A version of an adapter.
#[derive(Debug, Serialize)]
pub struct VersionView {
    version: u64,
    weight: u32,
    source: String,
    state: &'static str,
    error: Option<String>,
    /// Of what the files hold.
    content: Option<String>,
    #[serde(flatten)]
    facts: Option<FactsView>,
    created: u64,
    idle_seconds: Option<u64>,
    hits: u64,
}

/// What is known of an adapter once it was read.
#[derive(Debug, Serialize)]
pub struct FactsView {
    /// Of what is served.
    digest: String,
    kind: &'static str,
    rank: usize,
    directions: usize,
    modules: usize,
    bytes: usize,
}

impl From<AdapterInfo> for AdapterView {
    fn from(info: AdapterInfo) -> Self {
        let AdapterInfo { name, aliases, origin, revision, pinned, versions } = info;
        let versions = versions.into_iter().map(VersionView::from).collect();
        Self { name, aliases, origin, revision, pinned, versions }
    }
}

impl From<VersionInfo> for VersionView {
    fn from(info: VersionInfo) -> Self {
        Self {
            version: info.number,
            weight: info.weight,
            source: info.source,
            state: state(info.residency),
            error: info.error,
            content: info.content.map(|content| format!("blake3:{content}")),
            facts: info.facts.map(FactsView::from),
            created: info.created,
            idle_seconds: info.idle_seconds,
            hits: info.hits,
        }
    }
}

impl From<Facts> for FactsView {
    fn from(facts: Facts) -> Self {
        let Facts { id, kind, rank, directions, modules, bytes, .. } = facts;
        Self { digest: format!("blake3:{id}"), kind, rank, directions, modules, bytes }
    }
}

fn state(residency: Residency) -> &'static str {
    match residency {
        Residency::Registered => "registered",
        Residency::Loading => "loading",
        Residency::Resident => "resident",
        Residency::InMemory => "in_memory",
        Residency::OnDisk => "on_disk",
        Residency::Failed => "failed",
    }
}
