//! What callers changed, kept on disk: an embedded database, one transaction for each change.
//!
//! A change is there after a crash if and only if its transaction was committed, and it is
//! committed before anybody is told of it.

use std::fmt;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::book::{Book, Entry};
use super::record::Record;

/// A [`Record`] as JSON, by its name.
const ADAPTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("adapters");
/// The revision of the newest change.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";
const FILE: &str = "adapters.redb";

/// Names and what is kept of them, and the newest revision.
type Contents = (Vec<(String, Vec<u8>)>, u64);

/// The database.
pub(super) struct Store(Database);

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {problem}")]
pub struct StoreError {
    doing: &'static str,
    problem: String,
}

impl StoreError {
    pub(super) fn new(doing: &'static str, problem: &dyn fmt::Display) -> Self {
        Self { doing, problem: problem.to_string() }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the database in `dir`, which is made where it is not there. One process at a time.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| StoreError::new("making the state directory", &error))?;
        let database = Database::create(dir.join(FILE))
            .map_err(|error| StoreError::new("opening the adapters' state", &error))?;
        let store = Self(database);
        store.create_tables().map_err(|error| StoreError::new("preparing the state", &error))?;
        Ok(store)
    }

    #[allow(clippy::result_large_err)] // The database's own error, for the span of one line.
    fn create_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        transaction.open_table(ADAPTERS)?;
        transaction.open_table(COUNTERS)?;
        Ok(transaction.commit()?)
    }

    /// All that was registered.
    pub fn read(&self) -> Result<Book, StoreError> {
        let reading =
            |error: &dyn fmt::Display| StoreError::new("reading the adapters' state", error);
        let mut book = Book::default();
        let (records, revision) = self.records().map_err(|error| reading(&error))?;
        book.revision = revision;
        for (name, bytes) in records {
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| reading(&error))?;
            let entry = Entry::restored(&name, record);
            book.revision = book.revision.max(entry.revision());
            book.entries.insert(name, entry);
        }
        Ok(book)
    }

    #[allow(clippy::result_large_err)] // As above.
    fn records(&self) -> Result<Contents, redb::Error> {
        let transaction = self.0.begin_read()?;
        let revision = transaction.open_table(COUNTERS)?.get(REVISION)?.map_or(0, |r| r.value());
        let mut records = Vec::new();
        for row in transaction.open_table(ADAPTERS)?.iter()? {
            let (name, record) = row?;
            records.push((name.value().to_owned(), record.value().to_vec()));
        }
        Ok((records, revision))
    }

    /// Writes entries, or their absence, and the revision they brought: all of it or nothing.
    pub fn write(
        &self,
        edits: &[(String, Option<Entry>)],
        revision: u64,
    ) -> Result<(), StoreError> {
        self.commit(edits, revision)
            .map_err(|error| StoreError::new("writing the adapters' state", &error))
    }

    #[allow(clippy::result_large_err)] // As above.
    fn commit(&self, edits: &[(String, Option<Entry>)], revision: u64) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut adapters = transaction.open_table(ADAPTERS)?;
            for (name, entry) in edits {
                match entry {
                    Some(entry) => {
                        let json = serde_json::to_vec(&entry.record()).unwrap_or_default();
                        adapters.insert(name.as_str(), json.as_slice())?;
                    }
                    None => {
                        adapters.remove(name.as_str())?;
                    }
                }
            }
            transaction.open_table(COUNTERS)?.insert(REVISION, revision)?;
        }
        Ok(transaction.commit()?)
    }
}
