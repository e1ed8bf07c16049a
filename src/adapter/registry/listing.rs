//! What is registered, for whoever wants to see it.

use std::sync::Arc;

use super::Registry;
use super::book::{Adapter, Entry, Refused, Version};
use super::names::Meaning;
use super::slot::{Facts, Residency, Slot};
use super::source::Origin;
use crate::adapter::delta::AdapterId;

/// One name and what answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameInfo {
    /// The name.
    pub name: String,
    /// The digest of the version that answers, where one alone does and it has been read.
    pub id: Option<AdapterId>,
}

/// An adapter that was declared or stored, and cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedInfo {
    /// Its name.
    pub name: String,
    /// Who named it.
    pub origin: Origin,
    /// What is wrong with it.
    pub reason: String,
}

/// An adapter and its versions.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// Who registered it.
    pub origin: Origin,
    /// Of its last change.
    pub revision: u64,
    /// Whether it stays in memory.
    pub pinned: bool,
    /// Ascending by number.
    pub versions: Vec<VersionInfo>,
}

/// A version of an adapter.
#[derive(Debug, Clone)]
pub struct VersionInfo {
    /// Its number.
    pub number: u64,
    /// Its weight among those that answer; 0 answers nobody.
    pub weight: u32,
    /// Where it came from, in a word.
    pub source: String,
    /// The digest of its content, where it was ever read.
    pub content: Option<AdapterId>,
    /// What is known once it has been read in this process.
    pub facts: Option<Facts>,
    /// Where it is.
    pub residency: Residency,
    /// Why it could not be loaded.
    pub error: Option<String>,
    /// When it was registered, in seconds since 1970.
    pub created: u64,
    /// Seconds since it was last asked for.
    pub idle_seconds: Option<u64>,
    /// How often it was asked for.
    pub hits: u64,
}

impl Registry {
    /// Every name of an adapter, aliases included, in order.
    #[must_use]
    pub fn names(&self) -> Vec<NameInfo> {
        let names = self.names.load();
        let mut found: Vec<NameInfo> = names.0.keys().filter_map(|name| self.name(name)).collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// One name of an adapter.
    #[must_use]
    pub fn name(&self, name: &str) -> Option<NameInfo> {
        let names = self.names.load();
        let mut slots = names.find(name)?.slots();
        let id = match (slots.next(), slots.next()) {
            (Some(slot), None) => slot.facts().map(|facts| facts.id),
            _ => None,
        };
        Some(NameInfo { name: name.to_owned(), id })
    }

    /// How many adapters are registered, aliases not counted.
    #[must_use]
    pub fn num_adapters(&self) -> usize {
        let names = self.names.load();
        names.0.values().filter(|meaning| matches!(meaning, Meaning::Adapter(_))).count()
    }

    /// How many adapters have a version that answers and could not be loaded, as far as is known.
    #[must_use]
    pub fn num_broken(&self) -> usize {
        let names = self.names.load();
        let broken = |meaning: &&Meaning| match meaning {
            Meaning::Adapter(shares) => shares.slots().any(|slot| slot.is_broken()),
            Meaning::Alias(_) => false,
        };
        names.0.values().filter(broken).count()
    }

    /// Every adapter, in the order of their names.
    #[must_use]
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        let book = self.book();
        let info = |(name, entry): (&String, &Entry)| match entry {
            Entry::Adapter(adapter) => Some(self.info(name, adapter, book.aliases_of(name))),
            Entry::Alias { .. } => None,
        };
        book.entries.iter().filter_map(info).collect()
    }

    /// What cannot be registered, in the order of the names.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedInfo> {
        let info = |(name, refused): (&String, &Refused)| {
            let Refused { origin, reason } = refused.clone();
            RefusedInfo { name: name.clone(), origin, reason }
        };
        self.book().refused.iter().map(info).collect()
    }

    /// One adapter, by its own name or an alias.
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<AdapterInfo> {
        let book = self.book();
        let name = match book.entries.get(name)? {
            Entry::Alias { target, .. } => target,
            Entry::Adapter(_) => name,
        };
        match book.entries.get(name)? {
            Entry::Adapter(adapter) => Some(self.info(name, adapter, book.aliases_of(name))),
            Entry::Alias { .. } => None,
        }
    }

    fn info(&self, name: &str, adapter: &Adapter, aliases: Vec<String>) -> AdapterInfo {
        let weight = |number: u64| {
            let share = adapter.split.iter().find(|(other, _)| *other == number);
            share.map_or(0, |(_, weight)| *weight)
        };
        let version = |version: &Version| self.version_info(version, weight(version.number));
        AdapterInfo {
            name: name.to_owned(),
            aliases,
            origin: adapter.origin,
            revision: adapter.revision,
            pinned: adapter.pinned,
            versions: adapter.versions.iter().map(version).collect(),
        }
    }

    fn version_info(&self, version: &Version, weight: u32) -> VersionInfo {
        let slot: &Arc<Slot> = &version.slot;
        let (residency, error) = slot.residency();
        let idle = |last: u64| self.now().saturating_sub(last) / 1_000_000;
        VersionInfo {
            number: version.number,
            weight,
            source: slot.source.shown(),
            content: slot.content(),
            facts: slot.facts(),
            residency,
            error: error.map(|error| error.to_string()),
            created: version.created,
            idle_seconds: Some(slot.last_used()).filter(|last| *last > 0).map(idle),
            hits: slot.hits(),
        }
    }
}
