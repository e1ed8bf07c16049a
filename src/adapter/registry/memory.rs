//! Which adapters are in memory, and which leave it for others.
//!
//! Two bounds: so many adapters at hand, and so many bytes in all. The least recently asked for
//! goes first, one that nobody is being answered with before one that somebody is. The latter's
//! bytes come back with its last answer, and a load waits for them: the bound in bytes holds.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::ledger::{Charge, Ledger};
use super::loader::{LoadError, LoadErrorKind};
use super::slot::{Parsed, Slot};
use super::version::AdapterVersion;
use crate::metrics::Metrics;
use crate::metrics::adapters::{ResidentAdapter, ResidentAdapters};

/// What adapters may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of all in memory.
    pub max_bytes: usize,
    /// Adapters at hand, not counting those that leave once what they are answering is answered;
    /// `None` is any number.
    pub max_resident: Option<usize>,
    /// The memory they compute in, `cpu` or `gpu`.
    pub level: &'static str,
}

/// The adapters in memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes of all of them, those on their way out included.
    pub ledger: Arc<Ledger>,
    max_resident: Option<usize>,
    level: &'static str,
    metrics: Arc<Metrics>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Slots with a version ready to answer.
    resident: Vec<Arc<Slot>>,
    /// Slots that keep an adapter as it was read.
    parsed: Vec<Arc<Slot>>,
    /// Versions that were evicted while somebody was being answered with them.
    leaving: Vec<Weak<AdapterVersion>>,
    /// Names of adapters being loaded.
    loading: BTreeSet<String>,
}

impl Memory {
    /// Nothing in memory yet.
    pub fn new(budget: Budget, metrics: Arc<Metrics>) -> Self {
        let ledger = Ledger::new(budget.max_bytes, metrics.adapters.bytes.clone());
        let Budget { max_resident, level, .. } = budget;
        let memory = Self { ledger, max_resident, level, metrics, table: Mutex::default() };
        memory.publish(&memory.table());
        memory
    }

    /// Says that an adapter is being loaded, or no longer.
    pub fn loading(&self, name: &str, loading: bool) {
        let mut table = self.table();
        if loading {
            table.loading.insert(name.to_owned());
        } else {
            table.loading.remove(name);
        }
        self.publish(&table);
    }

    /// Makes room for `bytes`.
    ///
    /// # Errors
    /// Where there is none by `deadline`, or could never be.
    pub fn charge(&self, bytes: usize, deadline: Instant) -> Result<Charge, LoadError> {
        let limit = self.ledger.limit();
        if bytes > limit {
            return Err(LoadError::unusable(format!(
                "it needs {bytes} bytes of memory, and --adapter-memory gives all adapters {limit}"
            )));
        }
        loop {
            if let Some(charge) = self.ledger.charge(bytes) {
                return Ok(charge);
            }
            if self.evict_for(bytes) {
                continue;
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "it needs {bytes} bytes of memory; of the {limit} that --adapter-memory gives, {} \
                     are in use by adapters that are pinned or that requests are being answered with",
                    self.ledger.used()
                );
                return Err(LoadError::new(LoadErrorKind::NoRoom, message));
            }
            self.ledger.wait(deadline);
        }
    }

    /// Keeps a loaded version at hand, and its parsed form while there is room for it; another
    /// leaves where there are too many.
    pub fn install(&self, slot: &Arc<Slot>, version: &Arc<AdapterVersion>, parsed: Parsed) {
        let mut table = self.table();
        let present = slot.keeps(&parsed);
        // Worth its memory only where adapters leave for want of a place rather than of bytes.
        let keep = self.max_resident.is_some() && !present && slot.may_keep(&parsed);
        let bytes = parsed.read.delta.size_bytes();
        let charge = keep.then(|| self.ledger.charge(bytes)).flatten();
        let keeps = present || charge.is_some();
        if !slot.install(version, parsed, charge) {
            return;
        }
        let add = |slots: &mut Vec<Arc<Slot>>| {
            if !slots.iter().any(|other| Arc::ptr_eq(other, slot)) {
                slots.push(Arc::clone(slot));
            }
        };
        add(&mut table.resident);
        if keeps {
            add(&mut table.parsed);
        }
        while self.max_resident.is_some_and(|max| table.resident.len() > max) {
            if self.evict_resident(&mut table, Some(slot)).is_none() {
                break;
            }
        }
        self.publish(&table);
    }

    /// Takes a version out of memory; it stays known.
    pub fn unload(&self, slot: &Arc<Slot>) {
        self.remove(slot, Slot::evict);
    }

    /// Takes a version out of memory for ever.
    pub fn retire(&self, slot: &Arc<Slot>) {
        self.remove(slot, Slot::retire);
    }

    fn remove(&self, slot: &Arc<Slot>, how: fn(&Slot) -> Option<Arc<AdapterVersion>>) {
        let mut table = self.table();
        let version = how(slot);
        slot.forget_parsed();
        table.resident.retain(|other| !Arc::ptr_eq(other, slot));
        table.parsed.retain(|other| !Arc::ptr_eq(other, slot));
        self.publish(&table);
        drop(table);
        // Freeing takes its time: nobody waits for it here.
        drop(version);
    }

    /// Evicts something so that `bytes` fit; false where only waiting helps.
    fn evict_for(&self, bytes: usize) -> bool {
        let mut table = self.table();
        if let Some(index) = oldest(&table.parsed, |_| true) {
            table.parsed.swap_remove(index).forget_parsed();
            return true;
        }
        table.leaving.retain(|version| version.strong_count() > 0);
        let leaving = table.leaving.iter().filter_map(Weak::upgrade);
        let leaving: usize = leaving.map(|version| version.delta.size_bytes()).sum();
        if self.ledger.used().saturating_sub(leaving).saturating_add(bytes) <= self.ledger.limit() {
            return false;
        }
        let evicted = self.evict_resident(&mut table, None);
        self.publish(&table);
        let Some(version) = evicted else { return false };
        if Arc::strong_count(&version) > 1 {
            table.leaving.push(Arc::downgrade(&version));
        }
        true
    }

    /// Evicts the version that is missed least, but not that of `keep`.
    fn evict_resident(
        &self,
        table: &mut Table,
        keep: Option<&Arc<Slot>>,
    ) -> Option<Arc<AdapterVersion>> {
        let may =
            |slot: &Slot| !slot.is_pinned() && keep.is_none_or(|keep| !std::ptr::eq(&**keep, slot));
        let index = oldest(&table.resident, |slot| may(slot) && !slot.is_in_use())
            .or_else(|| oldest(&table.resident, may))?;
        let slot = table.resident.swap_remove(index);
        self.metrics.adapter(&slot.name).evicted();
        slot.evict()
    }

    fn publish(&self, table: &Table) {
        let mut resident: Vec<ResidentAdapter<'_>> = table
            .resident
            .iter()
            .map(|slot| ResidentAdapter {
                name: &slot.name,
                pinned: slot.is_pinned(),
                bytes: slot.resident_bytes(),
            })
            .collect();
        resident.sort_unstable_by_key(|adapter| adapter.name);
        // Versions of one adapter are one.
        resident.dedup_by(|other, first| {
            let same = other.name == first.name;
            if same {
                first.bytes += other.bytes;
                first.pinned |= other.pinned;
            }
            same
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.adapters.resident(&ResidentAdapters {
            resident: &resident,
            loading: &table.loading.iter().map(String::as_str).collect::<Vec<_>>(),
            max: self.max_resident,
            level: self.level,
            unix_seconds: now.as_secs_f64(),
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The least recently used of those that may go.
fn oldest(slots: &[Arc<Slot>], may: impl Fn(&Slot) -> bool) -> Option<usize> {
    let candidates = slots.iter().enumerate().filter(|(_, slot)| may(slot));
    candidates.min_by_key(|(_, slot)| slot.last_used()).map(|(index, _)| index)
}
