//! What callers changed, kept on disk: an embedded database, one transaction for each change.
//!
//! A change is there after a crash if and only if its transaction was committed, and it is
//! committed before anybody is told of it.
//!
//! After an error of the disk the database refuses everything until it is opened again. So it is, at
//! the next change and every second: a disk that was full is of use again once it has room. What a
//! failed change left on it is not known then, and is written anew with what was there before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

/// A record as JSON, by its name.
const ADAPTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("adapters");
/// The revision of the newest change.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";
const FILE: &str = "adapters.redb";

/// Between two tries to write again.
const PAUSE: Duration = Duration::from_secs(1);

/// A name and its record, or that it has none.
pub(super) type Edit = (String, Option<Vec<u8>>);

/// Names and their records, and the newest revision.
pub(super) type Contents = (Vec<(String, Vec<u8>)>, u64);

/// Opens the database, which no other is open of.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The database.
pub(super) struct Store {
    open: Opener,
    state: Mutex<State>,
    failing: AtomicBool,
    /// 1 while changes cannot be stored.
    gauge: Gauge,
}

struct State {
    /// `None` from an error until it is opened again.
    database: Option<Database>,
    /// Records of changes that failed, as they were before: the disk may hold something else.
    owed: BTreeMap<String, Option<Vec<u8>>>,
    revision: u64,
    /// Whether a thread tries to write again.
    healing: bool,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(String);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("failing", &self.failing).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database in `dir`, which is made where it is not there. One process at a time.
    /// `gauge` is 1 while changes cannot be stored.
    pub fn open(dir: &Path, gauge: Gauge) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| match error.kind() {
            _ if dir.exists() && !dir.is_dir() => StoreError("it is not a directory".to_owned()),
            _ => StoreError(format!("the directory cannot be made: {error}")),
        })?;
        let path = dir.join(FILE);
        Self::of(Box::new(move || Database::create(&path)), gauge)
    }

    /// The same of any database.
    pub(super) fn of(open: Opener, gauge: Gauge) -> Result<Arc<Self>, StoreError> {
        let state = State { database: None, owed: BTreeMap::new(), revision: 0, healing: false };
        let store = Self { open, state: Mutex::new(state), failing: AtomicBool::new(false), gauge };
        let made = store.opened(&mut store.state()).and_then(create_tables);
        made.map_err(|error| StoreError(told(&error)))?;
        Ok(Arc::new(store))
    }

    /// All that was registered.
    pub fn read(&self) -> Result<Contents, StoreError> {
        let mut state = self.state();
        let contents = self.opened(&mut state).and_then(contents);
        let contents = contents.map_err(|error| StoreError(told(&error)))?;
        state.revision = contents.1;
        Ok(contents)
    }

    /// Writes records, or their absence, and the revision they brought: all of it or nothing. `before`
    /// is what the same names had until now.
    pub fn write(
        self: &Arc<Self>,
        edits: Vec<Edit>,
        before: Vec<Edit>,
        revision: u64,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut all = state.owed.clone();
        all.extend(edits);
        let error = match self.commit(&mut state, &all, revision) {
            Ok(()) => {
                state.owed.clear();
                state.revision = revision;
                self.set_failing(false);
                return Ok(());
            }
            Err(error) => error,
        };
        for (name, record) in before {
            state.owed.entry(name).or_insert(record);
        }
        self.set_failing(true);
        self.heal_later(&mut state);
        Err(StoreError(told(&error)))
    }

    /// Whether the last change could not be stored, and nothing could since.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Writes what failed changes may have left as it was; true where the disk took it.
    fn heal(&self) -> bool {
        let mut state = self.state();
        if self.is_failing() {
            let (owed, revision) = (state.owed.clone(), state.revision);
            if self.commit(&mut state, &owed, revision).is_err() {
                return false;
            }
            state.owed.clear();
            self.set_failing(false);
            tracing::info!("changes of adapters can be stored again");
        }
        state.healing = false;
        true
    }

    /// Heals on a thread of its own, for as long as it takes and somebody holds the store.
    fn heal_later(self: &Arc<Self>, state: &mut State) {
        if state.healing {
            return;
        }
        let store = Arc::downgrade(self);
        let heal = move || {
            while store.upgrade().is_some_and(|store| !store.heal()) {
                std::thread::park_timeout(PAUSE);
            }
        };
        let thread = std::thread::Builder::new().name("adapter-state".into()).spawn(heal);
        // Without a thread the next change tries again.
        state.healing = thread.is_ok();
    }

    /// Commits in the database that is open, or once more in one that was opened anew.
    #[allow(clippy::result_large_err)] // The database's own error, for the span of one call.
    fn commit(
        &self,
        state: &mut State,
        edits: &BTreeMap<String, Option<Vec<u8>>>,
        revision: u64,
    ) -> Result<(), redb::Error> {
        if let Some(database) = &state.database
            && commit(database, edits, revision).is_ok()
        {
            return Ok(());
        }
        // It is closed before it is opened again.
        state.database = None;
        let done = self.opened(state).and_then(|database| commit(database, edits, revision));
        if done.is_err() {
            state.database = None;
        }
        done
    }

    #[allow(clippy::result_large_err)] // As above.
    fn opened<'a>(&self, state: &'a mut State) -> Result<&'a Database, redb::Error> {
        if state.database.is_none() {
            state.database = Some((self.open)()?);
        }
        state.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
        self.gauge.set(f64::from(u8::from(failing)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::result_large_err)] // As above.
fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ADAPTERS)?;
    transaction.open_table(COUNTERS)?;
    Ok(transaction.commit()?)
}

#[allow(clippy::result_large_err)] // As above.
fn contents(database: &Database) -> Result<Contents, redb::Error> {
    let transaction = database.begin_read()?;
    let revision = transaction.open_table(COUNTERS)?.get(REVISION)?.map_or(0, |r| r.value());
    let mut records = Vec::new();
    for row in transaction.open_table(ADAPTERS)?.iter()? {
        let (name, record) = row?;
        records.push((name.value().to_owned(), record.value().to_vec()));
    }
    Ok((records, revision))
}

#[allow(clippy::result_large_err)] // As above.
fn commit(
    database: &Database,
    edits: &BTreeMap<String, Option<Vec<u8>>>,
    revision: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut adapters = transaction.open_table(ADAPTERS)?;
        for (name, record) in edits {
            match record {
                Some(record) => drop(adapters.insert(name.as_str(), record.as_slice())?),
                None => drop(adapters.remove(name.as_str())?),
            }
        }
        transaction.open_table(COUNTERS)?.insert(REVISION, revision)?;
    }
    Ok(transaction.commit()?)
}

/// What is wrong, in words for who runs the server.
fn told(error: &redb::Error) -> String {
    match error {
        redb::Error::DatabaseAlreadyOpen => format!("{FILE} is in use by another process"),
        redb::Error::UpgradeRequired(_) | redb::Error::LockProtocolMismatch => {
            format!("{FILE} was written by another version of this program")
        }
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => format!(
            "{FILE} is damaged ({error}): restore it, or move it away to begin without the adapters \
             that were registered"
        ),
        error => format!("{FILE}: {error}"),
    }
}
