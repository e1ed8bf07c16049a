//! Names: which adapter version, or the base model, a request's `model` means; which versions are
//! in memory; and how both change while requests run.
//!
//! ```text
//! request → names (snapshot) → shares → slot ─ in memory → Arc<AdapterVersion>
//!                                         └─ not yet → workers load it once for all who wait
//! change  → book (one lock) → store (one transaction) → names (next snapshot)
//! ```
//!
//! A request takes what a name means at that moment and keeps it to its end. The way to a version
//! in memory takes no lock; the engine knows nothing of any of this.

mod book;
mod change;
mod coming;
mod delivery;
mod error;
mod file_digest;
mod ledger;
mod listing;
mod loader;
mod location;
mod memory;
mod names;
mod pending;
mod queue;
mod record;
mod slot;
mod source;
mod store;
mod sync;
mod version;
mod workers;

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::book::{Book, Entry, Refused};
use self::memory::Memory;
use self::names::Names;
use self::record::Record;
use self::store::{Contents, Store};
use self::workers::{Begun, Workers};
use super::delta::LowRankDelta;
use crate::metrics::Metrics;
use crate::tenant::turns::Party;

pub use self::change::{Changed, Expect, Put};
pub use self::delivery::{Delivery, FetchOutcome, Fetched, Order};
pub use self::error::ChangeError;
pub use self::file_digest::{FileDigest, NoDigest};
pub use self::listing::{AdapterInfo, NameInfo, RefusedInfo, VersionInfo};
pub use self::loader::{LoadError, LoadErrorKind, Loader, ReadAdapter, Stamp, Wanted};
pub use self::location::{Location, LocationError, LocationPrefix, Scheme};
pub use self::memory::Budget;
pub use self::pending::{Load, Outcome};
pub use self::slot::{Facts, Residency};
pub use self::source::{Origin, OutsideRoots, Source, SourceError, is_adapter_name, is_reserved};
pub use self::store::StoreError;
pub use self::sync::{Declared, DeclaredVersion};
pub use self::version::AdapterVersion;

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Target {
    /// The base model (or the model merged at start).
    Base,
    /// An adapter on the base model.
    Adapter(Arc<AdapterVersion>),
}

/// What looking for a name finds.
#[derive(Debug)]
pub enum Found {
    /// Nothing has that name. Never the base model.
    Unknown,
    /// What it stands for.
    Ready(Target),
    /// An adapter that is being loaded.
    Loading(Load),
    /// An adapter that cannot be had now.
    Failed(LoadError),
}

/// What a registry may take, and where it keeps what was changed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory.
    pub budget: Budget,
    /// Threads that load.
    pub threads: usize,
    /// How long a load may wait for room.
    pub patience: Duration,
    /// Where changes are written down; without, they end with the process.
    pub state_dir: Option<PathBuf>,
}

/// All names this server answers to.
#[derive(Debug)]
pub struct Registry {
    base_names: Vec<String>,
    own: Option<Arc<AdapterVersion>>,
    names: ArcSwap<Names>,
    book: Mutex<Book>,
    memory: Arc<Memory>,
    workers: Workers,
    store: Option<Arc<Store>>,
    metrics: Arc<Metrics>,
    /// Where [`Registry::check_files`] goes on.
    next_check: AtomicUsize,
    started: Instant,
}

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system gives no thread.
    #[error("no thread can be started: {0}")]
    Threads(#[from] std::io::Error),
    /// The state directory cannot be used.
    #[error("--state-dir {}: {error}", dir.display())]
    State {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        error: StoreError,
    },
}

impl Registry {
    /// A registry of the base model under `base_names` (at least one; the first is its id), with
    /// the adapters that were registered in an earlier life. Where the weights are served only
    /// together with `own`, that answers to those names, and the weights alone have none.
    ///
    /// # Errors
    /// Where the state cannot be read or the system gives no thread.
    pub fn open(
        base_names: Vec<String>,
        own: Option<Arc<LowRankDelta>>,
        options: Options,
        loader: Arc<dyn Loader>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let stored = options.state_dir.clone().map(|dir| {
            let opened = Store::open(&dir, metrics.adapters.state_failing.clone());
            opened
                .and_then(|store| Ok((store.read()?, store)))
                .map_err(|error| OpenError::State { dir, error })
        });
        Self::with_store(base_names, own, options, loader, metrics, stored.transpose()?)
    }

    /// The same, with the store that is already open and what was in it.
    fn with_store(
        base_names: Vec<String>,
        own: Option<Arc<LowRankDelta>>,
        options: Options,
        loader: Arc<dyn Loader>,
        metrics: Arc<Metrics>,
        stored: Option<(Contents, Arc<Store>)>,
    ) -> Result<Self, OpenError> {
        let memory = Arc::new(Memory::new(options.budget, Arc::clone(&metrics)));
        let (threads, patience) = (options.threads, options.patience);
        let shared = (Arc::clone(&memory), Arc::clone(&metrics));
        let workers = Workers::start(threads, loader, shared.0, shared.1, patience)?;
        let (contents, store) = stored.unzip();
        let own = own.map(|delta| Arc::new(AdapterVersion::new(base_names[0].clone(), delta)));
        let registry = Self {
            base_names,
            own,
            names: ArcSwap::from_pointee(Names::default()),
            book: Mutex::default(),
            memory,
            workers,
            store,
            metrics,
            next_check: AtomicUsize::new(0),
            started: Instant::now(),
        };
        registry.restore(contents.unwrap_or_default());
        Ok(registry)
    }

    /// Registers what was stored. A record that is of no use costs nothing but itself, and stays.
    fn restore(&self, (records, revision): Contents) {
        let mut book = self.book();
        book.revision = revision;
        for (name, bytes) in records {
            let entry = serde_json::from_slice::<Record>(&bytes)
                .map_err(|error| format!("its record cannot be read: {error}"))
                .and_then(|record| Ok(Entry::restored(&name, record)?))
                .and_then(|entry| {
                    self.check_reserved(&name).map_err(|error| error.to_string())?;
                    Ok(entry)
                });
            match entry {
                Ok(entry) => {
                    book.revision = book.revision.max(entry.revision());
                    book.entries.insert(name, entry);
                }
                Err(reason) => self.refuse(&mut book, &name, Origin::Api, reason),
            }
        }
        self.publish(&book);
        self.count_refused(&book);
    }

    /// Notes, and tells once, that an adapter cannot be registered. A stored record of no use stays
    /// noted, whatever else is of the same name.
    fn refuse(&self, book: &mut Book, name: &str, origin: Origin, reason: String) {
        if book.is_stored(name) {
            return;
        }
        let refused = Refused { origin, reason };
        if book.refused.get(name) != Some(&refused) {
            let (shown, reason) = (origin.shown(), &refused.reason);
            tracing::warn!(adapter = name, "an adapter of {shown} is not served: {reason}");
            book.refused.insert(name.to_owned(), refused);
        }
    }

    /// What `name` stands for, for nobody in particular.
    #[must_use]
    pub fn find(&self, name: &str, hash: impl FnOnce() -> u64) -> Found {
        self.find_for(Party::OPERATOR, name, hash)
    }

    /// What `name` stands for. Where several versions answer for it, `hash`, of the request, says
    /// which one answers this one. What has to be fetched and loaded is so in the turns of `asker`.
    #[must_use]
    pub fn find_for(&self, asker: Party, name: &str, hash: impl FnOnce() -> u64) -> Found {
        if self.base_names.iter().any(|base| base == name) {
            return Found::Ready(self.own.clone().map_or(Target::Base, Target::Adapter));
        }
        let names = self.names.load();
        let Some(slot) = names.find(name).and_then(|shares| shares.pick(hash)) else {
            return Found::Unknown;
        };
        slot.hit(self.now());
        if let Some(version) = slot.resident() {
            return Found::Ready(Target::Adapter(version));
        }
        match self.workers.get(slot, asker) {
            Begun::Resident(version) => Found::Ready(Target::Adapter(version)),
            Begun::Loading(load) => Found::Loading(load),
            Begun::Failed(error) => Found::Failed(error),
        }
    }

    /// Whether `name` stands for anything; loads nothing.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.base_names.iter().any(|base| base == name) || self.names.load().find(name).is_some()
    }

    /// The base model's id.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.base_names[0]
    }

    /// True where the weights alone answer to a name; false where they are a residual.
    #[must_use]
    pub fn serves_base(&self) -> bool {
        self.own.is_none()
    }

    /// Every name of the base model.
    #[must_use]
    pub fn base_names(&self) -> &[String] {
        &self.base_names
    }

    /// Whether changes outlive the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.store.is_some()
    }

    /// Whether changes can be stored, as far as the last of them could be or something could since.
    #[must_use]
    pub fn stores_changes(&self) -> bool {
        self.store.as_ref().is_none_or(|store| !store.is_failing())
    }

    /// Bytes of adapters in memory.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.memory.ledger.used()
    }

    /// Microseconds of this registry's life.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets requests see the book.
    fn publish(&self, book: &Book) {
        self.names.store(Arc::new(book.names()));
    }

    fn count_refused(&self, book: &Book) {
        self.metrics.adapters.refused.set(book.refused.len() as f64);
    }
}

#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
pub(crate) mod made_up;
#[cfg(test)]
mod tests;
