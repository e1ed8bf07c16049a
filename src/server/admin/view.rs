//! How adapters look in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use crate::adapter::registry::{AdapterInfo, Facts, Origin, RefusedInfo, Residency, VersionInfo};

/// All adapters.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdapterList {
    pub(super) adapters: Vec<AdapterView>,
    /// What those in memory take together.
    pub(super) memory_bytes: usize,
    /// Whether changes outlive the server.
    pub(super) durable: bool,
    /// What was declared or stored, and cannot be registered.
    pub(super) refused: Vec<RefusedView>,
}

/// An adapter that cannot be registered.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefusedView {
    name: String,
    #[schema(value_type = String)]
    origin: Origin,
    reason: String,
}

/// The versions of an adapter.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionList {
    pub(super) versions: Vec<VersionView>,
}

/// An adapter and its versions.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdapterView {
    name: String,
    aliases: Vec<String>,
    #[schema(value_type = String)]
    origin: Origin,
    revision: u64,
    pinned: bool,
    versions: Vec<VersionView>,
}

/// A version of an adapter.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    version: u64,
    weight: u32,
    source: String,
    state: &'static str,
    #[schema(required = true)]
    error: Option<String>,
    /// Of what the files hold.
    #[schema(required = true)]
    content: Option<String>,
    /// Once it was read.
    #[serde(flatten)]
    #[schema(value_type = FactsView)]
    facts: Option<FactsView>,
    created: u64,
    #[schema(required = true)]
    idle_seconds: Option<u64>,
    hits: u64,
}

/// What is known of an adapter once it was read.
#[derive(Debug, Serialize, ToSchema)]
pub struct FactsView {
    /// Of what is served.
    #[schema(required = false)]
    digest: String,
    #[schema(required = false)]
    kind: &'static str,
    #[schema(required = false)]
    rank: usize,
    #[schema(required = false)]
    directions: usize,
    #[schema(required = false)]
    modules: usize,
    #[schema(required = false)]
    bytes: usize,
}

impl From<RefusedInfo> for RefusedView {
    fn from(info: RefusedInfo) -> Self {
        let RefusedInfo { name, origin, reason } = info;
        Self { name, origin, reason }
    }
}

impl From<AdapterInfo> for AdapterView {
    fn from(info: AdapterInfo) -> Self {
        let AdapterInfo { name, aliases, origin, revision, pinned, versions } = info;
        let versions = versions.into_iter().map(VersionView::from).collect();
        Self { name, aliases, origin, revision, pinned, versions }
    }
}

impl From<AdapterInfo> for VersionList {
    fn from(info: AdapterInfo) -> Self {
        Self { versions: AdapterView::from(info).versions }
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
