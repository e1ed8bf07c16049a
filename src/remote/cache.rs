//! Fetched adapters on this machine's disk, within a number of bytes: the least recently used leave,
//! those that are being read never.
//!
//! ```text
//! lock               held by the one process that uses the directory
//! adapters/NAME/     a fetched adapter and its manifest; appears whole, by a rename
//! partial/NAME/      what is on its way; of no use to the next process
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::entry::{Entry, Manifest, is_damage};
use super::error::RemoteError;
use crate::adapter::delta::AdapterId;
use crate::adapter::registry::{Fetched, Location};

/// The directory.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    limit: u64,
    table: Mutex<Table>,
    /// Given back by the system when the process ends, however it does.
    lock: Mutex<File>,
}

#[derive(Debug)]
struct Table {
    entries: Vec<Arc<Entry>>,
    /// Bytes of those.
    used: u64,
    /// Bytes promised to what is on its way, or left by it.
    reserved: u64,
    /// What was given up and may go on, the oldest first, with its bytes.
    left: Vec<(PathBuf, u64)>,
    /// Of the fetch that ended last.
    order: u64,
    /// When an entry was used last. Later than ever before, whatever the clock says.
    clock: SystemTime,
}

/// A fetched adapter, which stays on the disk while this lives.
#[derive(Debug, Clone)]
pub struct Kept(pub(super) Arc<Entry>);

/// Room for what is on its way in a directory. When it is dropped, what lies there still keeps its
/// room until others need it.
#[derive(Debug)]
pub(super) struct Reservation {
    cache: Arc<Cache>,
    dir: PathBuf,
    bytes: u64,
}

impl Fetched for Kept {
    fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn content(&self) -> Option<AdapterId> {
        self.0.content()
    }

    fn holds(&self, content: AdapterId) {
        if self.0.holds(content) {
            return;
        }
        let noted = self.0.note(|manifest| manifest.content = Some(content.to_string()));
        if let Err(error) = noted {
            tracing::warn!("the content of a fetched adapter is not noted: {}", error.kind());
        }
    }
}

impl Cache {
    /// Opens the directory for this process alone. What other processes left half done is removed.
    ///
    /// # Errors
    /// Where it cannot be used, or another process uses it.
    pub fn open(dir: &Path, limit: u64) -> Result<Arc<Self>, RemoteError> {
        let lock = Mutex::new(lock(dir)?);
        remove(&dir.join("partial"))?;
        let table = Table::read(&dir.join("adapters"))?;
        let cache = Self { dir: dir.to_owned(), limit, table: Mutex::new(table), lock };
        // It may have been larger before.
        cache.table().make_room(0, limit);
        Ok(Arc::new(cache))
    }

    /// Makes the directory anew where somebody removed it. What was in it is forgotten, and fetched
    /// again when it is asked for.
    ///
    /// # Errors
    /// Where it cannot be made, or belongs to another process by now.
    pub fn revive(&self) -> Result<(), RemoteError> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if is_at(&held, &self.dir.join("lock")) && self.dir.join("adapters").is_dir() {
            return Ok(());
        }
        if !is_at(&held, &self.dir.join("lock")) {
            *held = lock(&self.dir)?;
        }
        fs::create_dir_all(self.dir.join("adapters"))?;
        tracing::warn!("the directory for fetched adapters was removed, and is made anew");
        let mut table = self.table();
        let gone = |entry: &&Arc<Entry>| matches!(entry.dir.try_exists(), Ok(false));
        let gone: Vec<_> = table.entries.iter().filter(gone).cloned().collect();
        gone.iter().for_each(|entry| table.remove(entry));
        Ok(())
    }

    /// The order of a fetch that ends now.
    pub fn next_order(&self) -> u64 {
        let mut table = self.table();
        table.order = table.order.saturating_add(1);
        table.order
    }

    /// What was last known to be the newest of a place.
    pub fn newest(&self, location: &Location) -> Option<Kept> {
        self.find(|entry| entry.is_from(location))
    }

    /// Whether [`Cache::holding`] would find something, for all that is known without looking.
    pub fn has(&self, location: &Location, content: AdapterId) -> bool {
        let table = self.table();
        table.entries.iter().any(|entry| entry.is_from(location) && entry.holds(content))
    }

    /// What came from a place and holds `content`.
    pub fn holding(&self, location: &Location, content: AdapterId) -> Option<Kept> {
        self.find(|entry| entry.is_from(location) && entry.holds(content))
    }

    /// The one that fits and was fetched last. One that is damaged is removed; one that cannot be read at
    /// the moment is none.
    fn find(&self, fits: impl Fn(&Entry) -> bool) -> Option<Kept> {
        loop {
            let found = {
                let table = self.table();
                let fitting = table.entries.iter().filter(|entry| fits(entry));
                Kept(Arc::clone(fitting.max_by_key(|entry| entry.order())?))
            };
            match found.0.is_whole() {
                Ok(true) => {
                    let now = self.table().later();
                    found.0.touch(now);
                    return Some(found);
                }
                Ok(false) => {
                    tracing::warn!("a fetched adapter was damaged on disk and is removed");
                    self.table().remove(&found.0);
                }
                Err(error) => {
                    let error = error.kind();
                    tracing::warn!("a fetched adapter cannot be read at the moment: {error}");
                    return None;
                }
            }
        }
    }

    /// A directory for files from a place while they are fetched, with the room of what an earlier
    /// try left in it.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn partial(self: &Arc<Self>, location: &Location) -> Result<Reservation, RemoteError> {
        let name = blake3::hash(location.to_string().as_bytes()).to_hex();
        let dir = self.dir.join("partial").join(&name[..32]);
        let mut table = self.table();
        let place = table.left.iter().position(|(left, _)| *left == dir);
        let bytes = place.map_or(0, |place| table.left.remove(place).1);
        drop(table);
        // From here on its room is given back or left again.
        let room = Reservation { cache: Arc::clone(self), dir, bytes };
        fs::create_dir_all(&room.dir)?;
        Ok(room)
    }

    /// Takes in the files that lie in `dir`, whole from one moment to the next.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn take(&self, dir: &Path, manifest: &Manifest) -> Result<Kept, RemoteError> {
        manifest.write(dir)?;
        let target = self.dir.join("adapters").join(manifest.name());
        let mut table = self.table();
        let present = table.entries.iter().find(|entry| entry.dir == target).cloned();
        let entry = if let Some(entry) = present {
            entry.note(|noted| {
                noted.order = manifest.order;
                noted.files.clone_from(&manifest.files);
            })?;
            remove(dir)?;
            entry
        } else {
            remove(&target)?;
            fs::rename(dir, &target)?;
            let entry = Arc::new(Entry::open(target)?);
            table.used += entry.bytes;
            table.entries.push(Arc::clone(&entry));
            entry
        };
        entry.touch(table.later());
        Ok(Kept(entry))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// What lies in the directory; what is no fetched adapter is removed, what cannot be read is left.
    fn read(dir: &Path) -> io::Result<Self> {
        let (entries, left) = (Vec::new(), Vec::new());
        let (used, reserved, order, clock) = (0, 0, 0, UNIX_EPOCH);
        let mut table = Self { entries, used, reserved, left, order, clock };
        for found in fs::read_dir(dir)? {
            let path = found?.path();
            match Entry::open(path.clone()) {
                Ok(entry) => {
                    table.used = table.used.saturating_add(entry.bytes);
                    table.order = table.order.max(entry.order());
                    table.clock = table.clock.max(entry.used());
                    table.entries.push(Arc::new(entry));
                }
                Err(error) if is_damage(&error) => remove(&path)?,
                Err(error) => {
                    let (path, error) = (path.display(), error.kind());
                    tracing::warn!("what was fetched to {path} cannot be read, and stays: {error}");
                }
            }
        }
        Ok(table)
    }

    /// Removes what was given up, and then the least recently used, until `more` bytes fit; false where
    /// they do not.
    fn make_room(&mut self, more: u64, limit: u64) -> bool {
        loop {
            let whole = self.used.saturating_add(self.reserved).saturating_add(more);
            if whole <= limit {
                return true;
            }
            if !self.free_some() {
                return false;
            }
        }
    }

    /// Removes what was given up first, or the least recently used; false where all is in use.
    fn free_some(&mut self) -> bool {
        if !self.left.is_empty() {
            let (dir, bytes) = self.left.remove(0);
            self.reserved -= bytes;
            told(remove(&dir));
            return true;
        }
        // The table's own is the only holder: nobody reads it.
        let idle = self.entries.iter().filter(|entry| Arc::strong_count(entry) == 1);
        let oldest = idle.min_by_key(|entry| entry.used()).cloned();
        if let Some(oldest) = &oldest {
            self.remove(oldest);
        }
        oldest.is_some()
    }

    /// Now, and later than any time before.
    fn later(&mut self) -> SystemTime {
        self.clock = SystemTime::now().max(self.clock + Duration::from_millis(1));
        self.clock
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        let before = self.entries.len();
        self.entries.retain(|other| !Arc::ptr_eq(other, entry));
        if self.entries.len() < before {
            self.used -= entry.bytes;
            told(remove(&entry.dir));
        }
    }
}

impl Reservation {
    /// Where the files lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes room for `bytes` in all.
    ///
    /// # Errors
    /// Where everything else is in use.
    pub fn grow_to(&mut self, bytes: u64) -> Result<(), RemoteError> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let mut table = self.cache.table();
            if !table.make_room(more, self.cache.limit) {
                return Err(RemoteError::NoRoom { limit: self.cache.limit });
            }
            table.reserved += more;
            self.bytes += more;
        }
        Ok(())
    }
}

impl Reservation {
    /// Removes something that nobody reads, as the disk itself is full; false where there is nothing.
    pub fn free_some(&self) -> bool {
        let freed = self.cache.table().free_some();
        if freed {
            tracing::warn!("the disk is full: a fetched adapter leaves it for another");
        }
        freed
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut table = self.cache.table();
        if self.dir.exists() {
            table.left.push((std::mem::take(&mut self.dir), self.bytes));
        } else {
            table.reserved -= self.bytes;
        }
    }
}

/// Says in the log that something stays on the disk which should not.
fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!("a fetched adapter cannot be removed: {}", error.kind());
    }
}

/// Makes the directory, and takes it for this process.
fn lock(dir: &Path) -> Result<File, RemoteError> {
    fs::create_dir_all(dir.join("adapters"))?;
    let lock = File::create(dir.join("lock"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => RemoteError::Shared,
        TryLockError::Error(error) => error.into(),
    })?;
    Ok(lock)
}

/// Whether an open file is the one that has this path now.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |seen: fs::Metadata| (seen.dev(), seen.ino());
    file.metadata().ok().map(identity) == path.metadata().ok().map(identity)
}

/// Whether an open file is the one that has this path now, as far as can be told.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes a directory, or whatever it is, where it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
