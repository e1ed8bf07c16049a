//! What names in service are to mean once the versions that take over have been loaded. Until then
//! each goes on as it is, whatever the others do, and so it does where a version cannot be loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Registry;
use super::book::{Adapter, Book, Entry};
use super::slot::Slot;
use super::source::Origin;

/// What one name is to mean.
#[derive(Debug)]
pub(super) struct Coming {
    /// What it is to mean then.
    pub adapter: Adapter,
    /// The versions that are to be loaded before. Until then they are pinned.
    pub first: Vec<Arc<Slot>>,
}

impl Coming {
    /// Every version of it.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.adapter.versions.iter().map(|version| &version.slot)
    }

    fn is_here(&self) -> bool {
        self.first.iter().all(|slot| slot.resident().is_some())
    }

    fn is_broken(&self) -> bool {
        self.first.iter().any(|slot| slot.is_broken())
    }

    /// Why it does not come, as far as is known.
    fn error(&self) -> Option<String> {
        let error = self.first.iter().find_map(|slot| slot.residency().1)?;
        Some(format!("its new version cannot be loaded, and the one before answers: {error}"))
    }
}

impl Registry {
    /// Makes names in service mean what the file says of them, as far as the versions for that are in
    /// memory by now, and loads those again that could not be loaded. Whether more may come at any
    /// moment.
    pub fn take_over(&self) -> bool {
        let mut book = self.book();
        if book.coming.is_empty() {
            return false;
        }
        let (mut edits, mut rest) = (Vec::new(), BTreeMap::new());
        // Of what fails after it was looked at here, the reason is still to be told.
        let mut is_open = false;
        for (name, coming) in std::mem::take(&mut book.coming) {
            let origin = book.entries.get(&name).map(Entry::origin);
            let is_free = !matches!(origin, Some(Origin::CommandLine | Origin::Api));
            if is_free && (origin.is_none() || coming.is_here()) {
                let entry = Entry::Adapter(coming.adapter).at(book.next_revision());
                book.unrefuse(&name, Origin::File);
                edits.push((name, Some(entry)));
                continue;
            }
            match coming.error() {
                Some(reason) => self.refuse(&mut book, &name, Origin::File, reason),
                None => is_open = true,
            }
            rest.insert(name, coming);
        }
        book.coming = rest;
        self.count_refused(&book);
        let some_do = !edits.is_empty();
        if some_do {
            self.apply(&mut book, edits);
        }
        drop(book);
        if some_do {
            self.warm_up();
        }
        self.load_coming() || is_open
    }

    /// From now on it is `coming` that is waited for; what was before and is nowhere else is let go.
    pub(super) fn replace_coming(&self, book: &mut Book, coming: BTreeMap<String, Coming>) {
        let before = std::mem::replace(&mut book.coming, coming);
        book.slots_coming().for_each(|slot| slot.pin(true));
        for (name, before) in before {
            for slot in before.slots() {
                let coming = book.coming.get(&name).into_iter().flat_map(Coming::slots);
                let mut wanted = book.slots_of(&name).chain(coming);
                if !wanted.any(|other| Arc::ptr_eq(other, slot)) {
                    self.memory.retire(slot);
                }
            }
        }
    }

    /// Loads what is waited for, where nobody does or it is time to try again; whether some of it may
    /// come at any moment.
    fn load_coming(&self) -> bool {
        let slots: Vec<Arc<Slot>> = self.book().slots_coming().map(Arc::clone).collect();
        for slot in &slots {
            if slot.is_untried() || slot.is_retry_due(|| self.workers.stamp(slot)) {
                self.workers.refresh(slot);
            }
        }
        self.book().coming.values().any(|coming| !coming.is_broken())
    }
}
