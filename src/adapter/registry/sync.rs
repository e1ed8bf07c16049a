//! Names that are declared outside: in the file of adapters, or by lying in the directory of
//! adapters. What is declared holds together, or none of it counts; who needs no other version to be
//! loaded waits for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Registry;
use super::book::{Adapter, Book, Entry};
use super::coming::Coming;
use super::error::ChangeError;
use super::slot::Slot;
use super::source::{Origin, Source};
use crate::tenant::turns::Party;

/// An adapter as a file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Its versions; at least one.
    pub versions: Vec<DeclaredVersion>,
    /// Whether it is loaded at once and stays in memory.
    pub pinned: bool,
}

/// A version as a file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredVersion {
    /// Where it lies.
    pub source: Source,
    /// Its share of the requests.
    pub weight: u32,
}

impl Registry {
    /// Registers the adapters of the command line, and loads each.
    ///
    /// # Errors
    /// The first that cannot be loaded, or whose name is taken.
    pub fn declare(&self, name: &str, source: Source) -> Result<(), ChangeError> {
        let slot = Slot::new(name, source, false, None);
        slot.settle();
        self.check_reserved(name)?;
        {
            let mut book = self.book();
            let taken = book.entries.get(name).map(Entry::origin);
            if taken == Some(Origin::CommandLine) {
                let by = "given twice on the command line";
                return Err(ChangeError::Taken { name: name.to_owned(), by });
            }
            if taken.is_some() {
                tracing::warn!(adapter = name, "the command line hides what a caller registered");
            }
            let mut adapter = Adapter::new(Origin::CommandLine);
            adapter.add(Arc::clone(&slot));
            adapter.revision = book.next_revision();
            self.apply(&mut book, vec![(name.to_owned(), Some(Entry::Adapter(adapter)))]);
        }
        self.load(&slot)?;
        Ok(())
    }

    /// Makes the file's adapters what `declared` says: at once, but for names in service that other
    /// versions take over. Those are loaded beside, and take over one by one
    /// ([`Registry::take_over`]).
    ///
    /// # Errors
    /// Where the names do not go together; then all stay as they were.
    pub fn follow_file(&self, declared: &[Declared]) -> Result<(), ChangeError> {
        let mut names = BTreeSet::new();
        for name in declared.iter().flat_map(|d| std::iter::once(&d.name).chain(&d.aliases)) {
            self.check_name(name)?;
            if !names.insert(name.as_str()) {
                let by = "declared twice";
                return Err(ChangeError::Taken { name: name.clone(), by });
            }
        }
        let mut book = self.book();
        self.check_free(&book, &names)?;
        let (entries, coming) = entries_of(&mut book, declared);
        let gone = of_origin(&book, Origin::File).filter(|name| !names.contains(name.as_str()));
        let mut edits: Vec<_> = gone.map(|name| (name.clone(), None)).collect();
        edits.extend(entries.into_iter().map(|(name, entry)| (name, Some(entry))));
        edits.retain(|(name, entry)| differs(book.entries.get(name), entry.as_ref()));
        book.refused.retain(|_, refused| refused.origin != Origin::File);
        self.apply(&mut book, edits);
        self.replace_coming(&mut book, coming);
        drop(book);
        self.take_over();
        self.warm_up();
        Ok(())
    }

    /// The same at the start, when nobody is being answered yet: waits for the adapters of the file
    /// that stay in memory.
    ///
    /// # Errors
    /// As well where one of those cannot be loaded.
    pub fn open_file(&self, declared: &[Declared]) -> Result<(), ChangeError> {
        self.follow_file(declared)?;
        let slots: Vec<Arc<Slot>> = {
            let book = self.book();
            let pinned = declared.iter().filter(|adapter| adapter.pinned);
            let slots = pinned.flat_map(|adapter| book.slots_of(&adapter.name));
            slots.map(Arc::clone).collect()
        };
        Ok(slots.iter().try_for_each(|slot| self.load(slot).map(drop))?)
    }

    /// Begins to load the adapters that stay in memory.
    pub fn warm_up(&self) {
        let pinned: Vec<Arc<Slot>> =
            self.book().slots_answering().filter(|slot| slot.is_pinned()).map(Arc::clone).collect();
        // Whoever asks for one that fails is told; so is the log.
        pinned.iter().for_each(|slot| drop(self.workers.get(slot, Party::OPERATOR)));
    }

    /// Looks through the files of adapters that answer and are not in memory, of at most `count` of
    /// them until `deadline` and beginning where the last call ended. What is wrong with them is told
    /// before anybody asks for them.
    pub fn check_files(&self, count: usize, deadline: Instant) {
        let slots: Vec<Arc<Slot>> = {
            let book = self.book();
            let all = book.slots_answering().count();
            let first = self.next_check.load(Ordering::Relaxed) % all.max(1);
            let count = count.min(all);
            self.next_check.store(first + count, Ordering::Relaxed);
            let round = book.slots_answering().chain(book.slots_answering());
            round.skip(first).take(count).map(Arc::clone).collect()
        };
        for slot in slots {
            if Instant::now() >= deadline {
                break;
            }
            if slot.resident().is_some() {
                continue;
            }
            let stamp = self.workers.stamp(&slot);
            if !slot.is_check_due(stamp) {
                continue;
            }
            let found = self.workers.check(&slot);
            let error = found.as_ref().err().map(ToString::to_string);
            if slot.checked(stamp, found)
                && let Some(error) = error
            {
                tracing::warn!(adapter = slot.name, "this adapter cannot be loaded: {error}");
            }
        }
        self.metrics.adapters.broken.set(self.num_broken() as f64);
    }

    /// Loads those that stay in memory and could not be loaded before, less and less often.
    pub fn retry_pinned(&self) {
        let pinned = |slot: &&Arc<Slot>| slot.is_pinned();
        let slots: Vec<Arc<Slot>> =
            self.book().slots_answering().filter(pinned).map(Arc::clone).collect();
        let due = |slot: &&Arc<Slot>| slot.is_retry_due(|| self.workers.stamp(slot));
        slots.iter().filter(due).for_each(|slot| self.workers.refresh(slot));
    }

    /// Registers the adapters that lie in the directory `root` by the names of their own
    /// directories, and forgets those that no longer do. Nothing is read yet. Names that
    /// stand for something else are left to that.
    pub fn follow_directory(&self, root: &Path, found: &BTreeSet<String>) {
        let mut book = self.book();
        let gone = of_origin(&book, Origin::Directory).filter(|name| !found.contains(*name));
        let mut edits: Vec<_> = gone.map(|name| (name.clone(), None)).collect();
        book.refused
            .retain(|name, refused| refused.origin != Origin::Directory || found.contains(name));
        for name in found {
            if book.entries.contains_key(name) {
                continue;
            }
            let fits = self.check_name(name).and_then(|()| book.check_room(name));
            if let Err(error) = fits {
                self.refuse(&mut book, name, Origin::Directory, error.to_string());
                continue;
            }
            let source = Source::Beneath { root: root.to_owned(), path: name.into() };
            let mut adapter = Adapter::new(Origin::Directory);
            adapter.add(Slot::new(name, source, true, None));
            adapter.revision = book.next_revision();
            edits.push((name.clone(), Some(Entry::Adapter(adapter))));
        }
        if !edits.is_empty() {
            let gone = edits.iter().filter(|(_, entry)| entry.is_none()).count();
            tracing::info!(new = edits.len() - gone, gone, "the directory of adapters changed");
            self.apply(&mut book, edits);
        }
        self.count_refused(&book);
    }

    /// Reads again those adapters in memory that follow their files and whose files changed. What is
    /// in memory serves until the new one is, and on where that cannot be used.
    pub fn refresh(&self) {
        let slots: Vec<Arc<Slot>> = {
            let book = self.book();
            let follows = book.slots().filter(|slot| slot.follows_files);
            follows.filter(|slot| slot.resident().is_some()).map(Arc::clone).collect()
        };
        for slot in slots {
            if self.workers.stamp(&slot).is_some_and(|now| slot.is_outdated(now)) {
                tracing::info!(adapter = slot.name, "its files changed: loading it again");
                self.workers.refresh(&slot);
            }
        }
    }

    fn check_free(&self, book: &Book, names: &BTreeSet<&str>) -> Result<(), ChangeError> {
        for name in names {
            let origin = book.entries.get(*name).map(Entry::origin);
            if matches!(origin, Some(Origin::CommandLine | Origin::Api)) {
                let by = "registered by the command line or by a request";
                return Err(ChangeError::Taken { name: (*name).to_owned(), by });
            }
            book.check_room(name)?;
        }
        Ok(())
    }
}

/// The entries that a file means, made of the versions that are there already; and those of names in
/// service of which versions that do not answer yet have to be loaded before.
fn entries_of(
    book: &mut Book,
    declared: &[Declared],
) -> (BTreeMap<String, Entry>, BTreeMap<String, Coming>) {
    let (mut entries, mut coming) = (BTreeMap::new(), BTreeMap::new());
    for declared in declared {
        let name = declared.name.as_str();
        let (mut adapter, first) = adapter_of(book, declared);
        adapter.revision = book.next_revision();
        if first.is_empty() {
            entries.insert(name.to_owned(), Entry::Adapter(adapter));
        } else {
            coming.insert(name.to_owned(), Coming { adapter, first });
        }
        for alias in &declared.aliases {
            let (target, revision) = (name.to_owned(), book.next_revision());
            let entry = Entry::Alias { target, origin: Origin::File, revision };
            entries.insert(alias.clone(), entry);
        }
    }
    (entries, coming)
}

/// An adapter as a file declares it, and its versions that have to be loaded before.
fn adapter_of(book: &Book, declared: &Declared) -> (Adapter, Vec<Arc<Slot>>) {
    let name = declared.name.as_str();
    let in_service = matches!(book.entries.get(name), Some(Entry::Adapter(_)));
    let (mut adapter, mut first) = (Adapter::new(Origin::File), Vec::new());
    adapter.pinned = declared.pinned;
    for DeclaredVersion { source, weight } in &declared.versions {
        let present = book.slot_at(name, source).map(Arc::clone);
        let slot = present.unwrap_or_else(|| Slot::new(name, source.clone(), true, None));
        if in_service && *weight > 0 && !book.answers(name, &slot) {
            first.push(Arc::clone(&slot));
        }
        let number = adapter.push(slot);
        adapter.split.push((number, *weight));
    }
    adapter.split.retain(|(_, weight)| *weight > 0);
    (adapter, first)
}

fn of_origin(book: &Book, origin: Origin) -> impl Iterator<Item = &String> {
    let entries = book.entries.iter().filter(move |(_, entry)| entry.origin() == origin);
    entries.map(|(name, _)| name)
}

/// Whether two entries mean different things, whatever their revisions.
fn differs(before: Option<&Entry>, after: Option<&Entry>) -> bool {
    match (before, after) {
        (None, None) => false,
        (
            Some(Entry::Alias { target: a, origin: from, .. }),
            Some(Entry::Alias { target: b, origin: to, .. }),
        ) => a != b || from != to,
        (Some(Entry::Adapter(a)), Some(Entry::Adapter(b))) => {
            let versions = |adapter: &Adapter| -> Vec<_> {
                adapter.answering().map(|(v, weight)| (Arc::as_ptr(&v.slot), weight)).collect()
            };
            a.origin != b.origin || a.pinned != b.pinned || versions(a) != versions(b)
        }
        _ => true,
    }
}
