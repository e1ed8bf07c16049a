//! Changes by callers: one at a time, whole or not at all, and written down before they are seen.
//!
//! A version is loaded before it answers for a name: what cannot be loaded changes nothing, and the
//! version that served goes on serving.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::book::{Adapter, Book, Entry};
use super::error::ChangeError;
use super::loader::LoadError;
use super::slot::{Facts, Slot};
use super::source::{Origin, Source, is_adapter_name, is_reserved};
use super::store::Edit;
use super::workers::Begun;
use super::{AdapterVersion, Registry};
use crate::tenant::turns::Party;

/// Largest weight of a version in a rollout.
const MAX_WEIGHT: u32 = 1_000_000;

/// What a caller takes a name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it is.
    Anything,
    /// Nothing has it.
    Absent,
    /// It is as the change of this revision left it.
    Revision(u64),
}

/// A version to register.
#[derive(Debug, Clone)]
pub struct Put<'a> {
    /// Under which name.
    pub name: &'a str,
    /// Where it lies.
    pub source: Source,
    /// What the caller takes the name for.
    pub expect: Expect,
    /// Whether it stays in memory; `None` leaves that as it is.
    pub pinned: Option<bool>,
    /// Whether it answers for the name at once.
    pub activate: bool,
}

/// What a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The name's revision now.
    pub revision: u64,
    /// The number of the version it was about.
    pub version: u64,
    /// Whether the name is new.
    pub created: bool,
    /// Whether anything is different.
    pub changed: bool,
}

impl Expect {
    fn check(self, name: &str, entry: Option<&Entry>) -> Result<(), ChangeError> {
        let found = entry.map(Entry::revision);
        let expected = match self {
            Self::Anything => return Ok(()),
            Self::Absent if found.is_none() => return Ok(()),
            Self::Revision(revision) if found == Some(revision) => return Ok(()),
            Self::Absent => "none".to_owned(),
            Self::Revision(revision) => revision.to_string(),
        };
        let found = found.map_or_else(|| "none".to_owned(), |revision| revision.to_string());
        Err(ChangeError::Revision { name: name.to_owned(), expected, found })
    }
}

impl Registry {
    /// Loads an adapter and registers it under a name, as a new version where the name has some.
    /// The same content again changes nothing. Blocks while it loads.
    ///
    /// # Errors
    /// Where the name may not have it, or it cannot be loaded.
    pub fn put(&self, put: Put<'_>) -> Result<Changed, ChangeError> {
        let name = put.name;
        self.check_name(name)?;
        {
            let book = self.book();
            book.check_room(name)?;
            let entry = book.entries.get(name);
            put.expect.check(name, entry)?;
            entry.map(|entry| adapter_of_api(name, entry)).transpose()?;
        }
        let slot = Slot::new(name, put.source.clone(), false, None);
        // Not evicted before it is registered.
        slot.pin(true);
        self.load(&slot)?;
        let done = self.edit(name, put.expect, |book, entry| {
            book.check_room(name)?;
            let created = entry.is_none();
            let adapter = match entry {
                Some(entry) => adapter_of_api(name, entry)?.clone(),
                None => Adapter::new(Origin::Api),
            };
            Ok(registered(adapter, &slot, &put, created))
        });
        // Either it is in the book now, or nobody will ever ask for it.
        if done.as_ref().map_or(true, |changed| !changed.changed) {
            self.memory.retire(&slot);
        }
        done
    }

    /// Loads an adapter as [`Registry::put`] does, and lets go of it.
    ///
    /// # Errors
    /// Where it cannot be loaded.
    pub fn dry_run(&self, name: &str, source: Source) -> Result<Facts, ChangeError> {
        self.check_name(name)?;
        let slot = Slot::new(name, source, false, None);
        slot.retire();
        self.load(&slot)?;
        slot.facts().ok_or_else(|| ChangeError::NotFound { name: name.to_owned() })
    }

    /// Forgets a name: an adapter with its aliases, or an alias alone. Requests that have a version
    /// keep it to their end.
    ///
    /// # Errors
    /// Where there is no such name, or it is registered elsewhere.
    pub fn remove(&self, name: &str, expect: Expect) -> Result<(), ChangeError> {
        let changed = self.edit(name, expect, |book, entry| {
            match entry {
                Some(entry) => check_origin(name, entry)?,
                None if book.is_stored(name) => {}
                None => return Err(not_found(name)),
            }
            Ok((None, Changed { revision: 0, version: 0, created: false, changed: true }))
        });
        changed.map(|_| ())
    }

    /// Makes `alias` another name for the adapter `target`.
    ///
    /// # Errors
    /// Where the name is taken or there is no such adapter.
    pub fn alias(&self, alias: &str, target: &str, expect: Expect) -> Result<Changed, ChangeError> {
        self.check_name(alias)?;
        self.edit(alias, expect, |book, entry| {
            book.check_room(alias)?;
            if !matches!(book.entries.get(target), Some(Entry::Adapter(_))) {
                return Err(not_found(target));
            }
            let created = entry.is_none();
            let mut revision = 0;
            match entry {
                Some(Entry::Adapter(_)) => {
                    return Err(ChangeError::Taken { name: alias.to_owned(), by: "an adapter" });
                }
                Some(entry @ Entry::Alias { target: present, .. }) => {
                    check_origin(alias, entry)?;
                    if present == target {
                        revision = entry.revision();
                    }
                }
                None => {}
            }
            let entry = Entry::Alias { target: target.to_owned(), origin: Origin::Api, revision };
            Ok((Some(entry), Changed { revision, version: 0, created, changed: revision == 0 }))
        })
    }

    /// Shares a name's requests out to versions by weight. Each is loaded before.
    ///
    /// # Errors
    /// Where a version is not there or cannot be loaded, or the weights are none.
    pub fn roll_out(
        &self,
        name: &str,
        weights: &BTreeMap<u64, u32>,
        expect: Expect,
    ) -> Result<Changed, ChangeError> {
        let fits = |weight: &u32| *weight <= MAX_WEIGHT;
        if !weights.values().all(fits) || weights.values().all(|weight| *weight == 0) {
            return Err(ChangeError::Split);
        }
        let split: Vec<(u64, u32)> =
            weights.iter().map(|(n, weight)| (*n, *weight)).filter(|(_, w)| *w > 0).collect();
        self.load_versions(name, split.iter().map(|(number, _)| *number))?;
        self.edit(name, expect, |_, entry| {
            let mut adapter = adapter_of_api(name, entry.ok_or_else(|| not_found(name))?)?.clone();
            let mut numbers = split.iter().map(|(number, _)| *number);
            if let Some(number) = numbers.find(|number| adapter.version(*number).is_none()) {
                return Err(ChangeError::NoVersion { name: name.to_owned(), number });
            }
            let changed = adapter.split != split;
            adapter.answer(split);
            Ok(edited(adapter, changed))
        })
    }

    /// Goes back to what answered before, be that one version or several.
    ///
    /// # Errors
    /// Where nothing did, or it cannot be loaded any more.
    pub fn roll_back(&self, name: &str, expect: Expect) -> Result<Changed, ChangeError> {
        loop {
            let (revision, split) = {
                let book = self.book();
                let entry = book.entries.get(name).ok_or_else(|| not_found(name))?;
                expect.check(name, Some(entry))?;
                let adapter = adapter_of_api(name, entry)?;
                let earlier = adapter.previous.last();
                let none = || ChangeError::NoEarlier { name: name.to_owned() };
                (adapter.revision, earlier.ok_or_else(none)?.clone())
            };
            let loaded = self.load_versions(name, split.iter().map(|(number, _)| *number));
            let done = loaded.and_then(|()| {
                self.edit(name, Expect::Revision(revision), |_, entry| {
                    let entry = entry.ok_or_else(|| not_found(name))?;
                    let mut adapter = adapter_of_api(name, entry)?.clone();
                    let changed = adapter.go_back();
                    Ok(edited(adapter, changed))
                })
            });
            match done {
                // Somebody else changed it meanwhile: what answered before is something else now.
                Err(ChangeError::Revision { .. } | ChangeError::NoVersion { .. })
                    if expect == Expect::Anything => {}
                done => return done,
            }
        }
    }

    /// Makes an adapter's versions stay in memory once they are there, or not.
    ///
    /// # Errors
    /// Where there is no such adapter, or it is registered elsewhere.
    pub fn pin(&self, name: &str, pinned: bool, expect: Expect) -> Result<Changed, ChangeError> {
        let changed = self.edit(name, expect, |_, entry| {
            let mut adapter = adapter_of_api(name, entry.ok_or_else(|| not_found(name))?)?.clone();
            let changed = adapter.pinned != pinned;
            adapter.pinned = pinned;
            Ok(edited(adapter, changed))
        })?;
        self.warm_up();
        Ok(changed)
    }

    /// Takes an adapter out of memory. It stays registered, and comes back when it is asked for.
    ///
    /// # Errors
    /// Where there is no such adapter.
    pub fn unload(&self, name: &str) -> Result<(), ChangeError> {
        let book = self.book();
        let Some(Entry::Adapter(adapter)) = book.entries.get(name) else {
            return Err(not_found(name));
        };
        adapter.versions.iter().for_each(|version| self.memory.unload(&version.slot));
        Ok(())
    }

    /// Checks that an adapter may have this name.
    pub(super) fn check_name(&self, name: &str) -> Result<(), ChangeError> {
        if !is_adapter_name(name) {
            return Err(ChangeError::Name { name: name.chars().take(64).collect() });
        }
        self.check_reserved(name)
    }

    /// Checks that a name has no other meaning already.
    pub(super) fn check_reserved(&self, name: &str) -> Result<(), ChangeError> {
        let by = match () {
            () if is_reserved(name) => "what requests call their tenant's own default",
            () if self.base_names.iter().any(|base| base == name) => "the base model's",
            () => return Ok(()),
        };
        Err(ChangeError::Taken { name: name.to_owned(), by })
    }

    /// Gets a version into memory, and waits for it.
    pub(super) fn load(&self, slot: &Arc<Slot>) -> Result<Arc<AdapterVersion>, LoadError> {
        slot.touch(self.now());
        match self.workers.get(slot, Party::OPERATOR) {
            Begun::Resident(version) => Ok(version),
            Begun::Loading(load) => load.wait(),
            Begun::Failed(error) => Err(error),
        }
    }

    fn load_versions(
        &self,
        name: &str,
        numbers: impl Iterator<Item = u64>,
    ) -> Result<(), ChangeError> {
        let slots: Vec<Arc<Slot>> = {
            let book = self.book();
            let adapter =
                adapter_of_api(name, book.entries.get(name).ok_or_else(|| not_found(name))?)?;
            let slot = |number| {
                let found = adapter.version(number).map(|version| Arc::clone(&version.slot));
                found.ok_or_else(|| ChangeError::NoVersion { name: name.to_owned(), number })
            };
            numbers.map(slot).collect::<Result<_, _>>()?
        };
        slots.iter().try_for_each(|slot| self.load(slot).map(drop)).map_err(ChangeError::from)
    }

    /// Changes what one name stands for: `new` says into what, and what that came to. It is written
    /// down first; then requests see it, and what nobody needs any more leaves memory.
    fn edit(
        &self,
        name: &str,
        expect: Expect,
        new: impl FnOnce(&Book, Option<&Entry>) -> Result<(Option<Entry>, Changed), ChangeError>,
    ) -> Result<Changed, ChangeError> {
        let mut book = self.book();
        expect.check(name, book.entries.get(name))?;
        let (entry, mut changed) = new(&book, book.entries.get(name))?;
        if !changed.changed {
            return Ok(changed);
        }
        changed.revision = book.next_revision();
        let mut edits = vec![(name.to_owned(), entry.map(|entry| entry.at(changed.revision)))];
        if edits[0].1.is_none() {
            edits.extend(book.aliases_of(name).into_iter().map(|alias| (alias, None)));
        }
        if let Some(store) = &self.store {
            let now = |(name, entry): &(String, Option<Entry>)| stored(name, entry.as_ref());
            let before = |(name, _): &(String, Option<Entry>)| {
                let entry = book.entries.get(name).filter(|entry| entry.origin() == Origin::Api);
                stored(name, entry)
            };
            let (after, before) = (
                edits.iter().map(now).collect::<Result<_, _>>()?,
                edits.iter().map(before).collect::<Result<_, _>>()?,
            );
            store
                .write(after, before, book.revision)
                .map_err(|error| ChangeError::Store(error.to_string()))?;
        }
        for (name, _) in &edits {
            book.refused.remove(name);
        }
        self.count_refused(&book);
        self.apply(&mut book, edits);
        Ok(changed)
    }

    /// Makes entries what they are to be, for requests and in memory.
    pub(super) fn apply(&self, book: &mut Book, edits: Vec<(String, Option<Entry>)>) {
        let mut before = Vec::new();
        for (name, entry) in edits {
            if let Some(Entry::Adapter(adapter)) = &entry {
                adapter.versions.iter().for_each(|version| version.slot.pin(adapter.pinned));
            }
            let old = match entry {
                Some(entry) => book.entries.insert(name, entry),
                None => book.entries.remove(&name),
            };
            if let Some(Entry::Adapter(adapter)) = old {
                before.extend(adapter.versions.into_iter().map(|version| version.slot));
            }
        }
        self.publish(book);
        let names = self.names.load();
        for slot in before {
            let answers =
                names.find(&slot.name).is_some_and(|s| s.slots().any(|s| Arc::ptr_eq(s, &slot)));
            if !book.slots_of(&slot.name).any(|kept| Arc::ptr_eq(kept, &slot)) {
                self.memory.retire(&slot);
            } else if !answers {
                self.memory.unload(&slot);
            }
        }
    }
}

/// An adapter with one more version, unless the newest that answers holds the same.
fn registered(
    mut adapter: Adapter,
    slot: &Arc<Slot>,
    put: &Put<'_>,
    created: bool,
) -> (Option<Entry>, Changed) {
    let same = |version: &&super::book::Version| version.slot.content() == slot.content();
    let alone = adapter.split.len() == 1;
    let pinned = put.pinned.unwrap_or(adapter.pinned);
    if let Some(version) = adapter.main().filter(same).filter(|_| alone && pinned == adapter.pinned)
    {
        let (revision, version) = (adapter.revision, version.number);
        let changed = Changed { revision, version, created: false, changed: false };
        return (Some(Entry::Adapter(adapter)), changed);
    }
    adapter.pinned = pinned;
    let slot = Arc::clone(slot);
    let version = if put.activate || created { adapter.add(slot) } else { adapter.push(slot) };
    adapter.trim();
    (Some(Entry::Adapter(adapter)), Changed { revision: 0, version, created, changed: true })
}

fn edited(adapter: Adapter, changed: bool) -> (Option<Entry>, Changed) {
    let version = adapter.main().map_or(0, |version| version.number);
    let revision = adapter.revision;
    (Some(Entry::Adapter(adapter)), Changed { revision, version, created: false, changed })
}

fn check_origin(name: &str, entry: &Entry) -> Result<(), ChangeError> {
    match entry.origin() {
        Origin::Api => Ok(()),
        origin => Err(ChangeError::Elsewhere { name: name.to_owned(), origin }),
    }
}

fn adapter_of_api<'a>(name: &str, entry: &'a Entry) -> Result<&'a Adapter, ChangeError> {
    check_origin(name, entry)?;
    match entry {
        Entry::Adapter(adapter) => Ok(adapter),
        Entry::Alias { .. } => {
            Err(ChangeError::Taken { name: name.to_owned(), by: "an alias of another adapter" })
        }
    }
}

/// An entry, or its absence, as it is stored.
fn stored(name: &str, entry: Option<&Entry>) -> Result<Edit, ChangeError> {
    let encode = |entry: &Entry| serde_json::to_vec(&entry.record());
    let record = entry.map(encode).transpose();
    let record = record.map_err(|error| ChangeError::Unstorable(error.to_string()))?;
    Ok((name.to_owned(), record))
}

fn not_found(name: &str) -> ChangeError {
    ChangeError::NotFound { name: name.chars().take(64).collect() }
}
