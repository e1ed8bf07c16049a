//! What is registered: names, their versions and who answers for them. Changed under one lock, and
//! from then on seen by requests as a new snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::coming::Coming;
use super::error::ChangeError;
use super::names::{Meaning, Names, Shares};
use super::record::{Record, StoredVersion};
use super::slot::Slot;
use super::source::{Origin, Source};

/// Names that there may be.
const MAX_NAMES: usize = 100_000;
/// Versions of one name that are remembered, those that answer or are gone back to not counted.
const MAX_HISTORY: usize = 16;
/// Times that one name can be gone back.
const MAX_PREVIOUS: usize = 16;

/// Numbers of the versions that answer together, ascending, with their weights.
pub(super) type Split = Vec<(u64, u32)>;

/// All that is registered.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub entries: BTreeMap<String, Entry>,
    /// Adapters that were declared or stored and cannot be registered, by name, and why.
    pub refused: BTreeMap<String, Refused>,
    /// What names in service are to mean once it has been loaded.
    pub coming: BTreeMap<String, Coming>,
    /// Of the newest change; no revision is given twice.
    pub revision: u64,
}

/// What one name stands for.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// An adapter.
    Adapter(Adapter),
    /// Another name for one.
    Alias {
        /// The adapter's name.
        target: String,
        /// Who said so.
        origin: Origin,
        /// Of the change that said so.
        revision: u64,
    },
}

/// An adapter and its versions.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    pub origin: Origin,
    pub revision: u64,
    /// The number of the next version.
    pub next: u64,
    /// Ascending by number.
    pub versions: Vec<Version>,
    /// The versions that answer; at least one.
    pub split: Split,
    /// What answered before, one time after the other, as far as it was not gone back from.
    pub previous: Vec<Split>,
    pub pinned: bool,
}

/// An adapter that has a name and no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub origin: Origin,
    pub reason: String,
}

/// One version and its number.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub number: u64,
    pub slot: Arc<Slot>,
    /// When it was registered, in seconds since 1970.
    pub created: u64,
}

impl Adapter {
    /// An adapter without versions.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            revision: 0,
            next: 1,
            versions: Vec::new(),
            split: Vec::new(),
            previous: Vec::new(),
            pinned: false,
        }
    }

    /// Adds a version that from now on answers alone; its number.
    pub fn add(&mut self, slot: Arc<Slot>) -> u64 {
        let number = self.push(slot);
        self.answer(vec![(number, 100)]);
        number
    }

    /// Lets `split` answer from now on. What answers until now is what is gone back to.
    pub fn answer(&mut self, split: Split) {
        let before = std::mem::replace(&mut self.split, split);
        if before.is_empty() || same_shares(&before, &self.split) {
            return;
        }
        self.previous.push(before);
        let excess = self.previous.len().saturating_sub(MAX_PREVIOUS);
        self.previous.drain(..excess);
    }

    /// Lets what answered before answer again; false where nothing did. What answers until now is not
    /// gone back to.
    pub fn go_back(&mut self) -> bool {
        let Some(split) = self.previous.pop() else { return false };
        self.split = split;
        true
    }

    /// Adds a version that answers nobody yet; its number.
    pub fn push(&mut self, slot: Arc<Slot>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.versions.push(Version { number, slot, created: now() });
        number
    }

    /// Forgets the oldest versions beyond what is remembered, but none that answers or would after
    /// going back once.
    pub fn trim(&mut self) {
        let needed = [Some(&self.split), self.previous.last()];
        let needed = |number| needed.into_iter().flatten().any(|split| names(split, number));
        let idle = self.versions.iter().filter(|version| !needed(version.number));
        let excess = idle.clone().count().saturating_sub(MAX_HISTORY);
        let forgotten: Vec<u64> = idle.take(excess).map(|version| version.number).collect();
        self.versions.retain(|version| !forgotten.contains(&version.number));
        self.previous.retain(|split| !forgotten.iter().any(|number| names(split, *number)));
    }

    /// The version of a number.
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// The version that answers most requests.
    pub fn main(&self) -> Option<&Version> {
        let (number, _) = self.split.iter().max_by_key(|(number, weight)| (*weight, *number))?;
        self.version(*number)
    }

    /// Versions that answer, with their weights.
    pub fn answering(&self) -> impl Iterator<Item = (&Version, u32)> {
        self.split.iter().filter_map(|(number, weight)| Some((self.version(*number)?, *weight)))
    }

    /// Whether there are all versions of a split, and one of them gets requests.
    fn can_answer(&self, split: &Split) -> bool {
        split.iter().all(|(number, _)| self.version(*number).is_some())
            && split.iter().any(|(_, weight)| *weight > 0)
    }

    fn shares(&self) -> Shares {
        Shares::new(self.answering().map(|(version, weight)| (Arc::clone(&version.slot), weight)))
    }
}

impl Entry {
    /// Who may change it.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Adapter(adapter) => adapter.origin,
            Self::Alias { origin, .. } => *origin,
        }
    }

    /// The same, changed at `revision`.
    pub fn at(mut self, at: u64) -> Self {
        match &mut self {
            Self::Adapter(adapter) => adapter.revision = at,
            Self::Alias { revision, .. } => *revision = at,
        }
        self
    }

    /// Of its last change.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Adapter(adapter) => adapter.revision,
            Self::Alias { revision, .. } => *revision,
        }
    }

    /// What is kept of it on disk.
    pub fn record(&self) -> Record {
        match self {
            Self::Alias { target, revision, .. } => {
                Record::Alias { target: target.clone(), revision: *revision }
            }
            Self::Adapter(adapter) => Record::Adapter {
                revision: adapter.revision,
                next: adapter.next,
                pinned: adapter.pinned,
                split: adapter.split.clone(),
                previous: adapter.previous.clone(),
                versions: adapter.versions.iter().map(StoredVersion::of).collect(),
            },
        }
    }

    /// What a record says.
    ///
    /// # Errors
    /// Where it contradicts itself.
    pub fn restored(name: &str, record: Record) -> Result<Self, &'static str> {
        let (revision, next, pinned, split, previous, versions) = match record {
            Record::Alias { target, revision } => {
                return Ok(Self::Alias { target, revision, origin: Origin::Api });
            }
            Record::Adapter { revision, next, pinned, split, previous, versions } => {
                (revision, next, pinned, split, previous, versions)
            }
        };
        let version = |stored: StoredVersion| {
            let slot = Slot::new(name, stored.source, false, stored.content.map(|id| id.0));
            slot.pin(pinned);
            Version { number: stored.number, slot, created: stored.created }
        };
        let versions = versions.into_iter().map(version).collect();
        let mut adapter =
            Adapter { origin: Origin::Api, revision, next, versions, split, previous, pinned };
        if !adapter.versions.is_sorted_by(|a, b| a.number < b.number)
            || adapter.versions.last().is_some_and(|version| version.number >= next)
        {
            return Err("the numbers of its versions are not in order");
        }
        if !adapter.can_answer(&adapter.split) {
            return Err("no version of it answers");
        }
        let previous = std::mem::take(&mut adapter.previous);
        adapter.previous = previous.into_iter().filter(|split| adapter.can_answer(split)).collect();
        Ok(Self::Adapter(adapter))
    }
}

/// Whether a split has a version of this number.
fn names(split: &Split, number: u64) -> bool {
    split.iter().any(|(other, _)| *other == number)
}

/// Whether two splits share requests out in the same way.
fn same_shares(one: &Split, other: &Split) -> bool {
    let total = |split: &Split| split.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>();
    let (sum, other_sum) = (total(one), total(other));
    let same = |(a, b): (&(u64, u32), &(u64, u32))| {
        a.0 == b.0 && u128::from(a.1) * other_sum == u128::from(b.1) * sum
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

impl Book {
    /// The snapshot that requests read.
    pub fn names(&self) -> Names {
        let meaning = |(name, entry): (&String, &Entry)| {
            let meaning = match entry {
                Entry::Adapter(adapter) => Meaning::Adapter(adapter.shares()),
                Entry::Alias { target, .. } => Meaning::Alias(target.clone()),
            };
            (name.clone(), meaning)
        };
        Names(self.entries.iter().map(meaning).collect())
    }

    /// Whether a record of this name is stored and of no use.
    pub fn is_stored(&self, name: &str) -> bool {
        self.refused.get(name).is_some_and(|refused| refused.origin == Origin::Api)
    }

    /// Forgets why `origin` could not have a name.
    pub fn unrefuse(&mut self, name: &str, origin: Origin) {
        if self.refused.get(name).is_some_and(|refused| refused.origin == origin) {
            self.refused.remove(name);
        }
    }

    /// A revision that none had.
    pub fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Checks that one more name fits.
    pub fn check_room(&self, name: &str) -> Result<(), ChangeError> {
        let fits = self.entries.contains_key(name) || self.entries.len() < MAX_NAMES;
        if fits { Ok(()) } else { Err(ChangeError::TooMany { limit: MAX_NAMES }) }
    }

    /// Every version of every adapter.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        let adapters = self.entries.values().filter_map(|entry| match entry {
            Entry::Adapter(adapter) => Some(adapter),
            Entry::Alias { .. } => None,
        });
        adapters.flat_map(|adapter| adapter.versions.iter().map(|version| &version.slot))
    }

    /// Every version that answers.
    pub fn slots_answering(&self) -> impl Iterator<Item = &Arc<Slot>> {
        let adapters = self.entries.values().filter_map(|entry| match entry {
            Entry::Adapter(adapter) => Some(adapter),
            Entry::Alias { .. } => None,
        });
        adapters.flat_map(|adapter| adapter.answering().map(|(version, _)| &version.slot))
    }

    /// Every version of one adapter.
    pub fn slots_of(&self, name: &str) -> impl Iterator<Item = &Arc<Slot>> {
        let adapter = match self.entries.get(name) {
            Some(Entry::Adapter(adapter)) => Some(adapter),
            Some(Entry::Alias { .. }) | None => None,
        };
        adapter.into_iter().flat_map(|adapter| adapter.versions.iter().map(|version| &version.slot))
    }

    /// Every version that is to be loaded before it takes over a name.
    pub fn slots_coming(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.coming.values().flat_map(|coming| &coming.first)
    }

    /// A version of `name` at `source` that is there already, or on its way.
    pub fn slot_at(&self, name: &str, source: &Source) -> Option<&Arc<Slot>> {
        let present = self.slots_of(name).find(|slot| slot.source == *source);
        present.or_else(|| self.coming.get(name)?.slots().find(|slot| slot.source == *source))
    }

    /// Whether a version answers for `name`.
    pub fn answers(&self, name: &str, slot: &Arc<Slot>) -> bool {
        match self.entries.get(name) {
            Some(Entry::Adapter(adapter)) => {
                adapter.answering().any(|(version, _)| Arc::ptr_eq(&version.slot, slot))
            }
            Some(Entry::Alias { .. }) | None => false,
        }
    }

    /// The names of aliases that lead to `name`.
    pub fn aliases_of(&self, name: &str) -> Vec<String> {
        let leads = |entry: &Entry| matches!(entry, Entry::Alias { target, .. } if target == name);
        self.entries.iter().filter(|(_, e)| leads(e)).map(|(alias, _)| alias.clone()).collect()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
