//! An adapter's files, from a place to the cache.
//!
//! Files are fetched in rounds: in the first, those that are not here as they are there; then all are
//! asked for again, until none has changed. So the files of an adapter belong together although they
//! come one after the other. A file is another one where it holds something else: its tag may be new for
//! the same bytes, and a server that sends tags need not compare them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::{Cache, Kept, Reservation, remove};
use super::entry::{FileInfo, Manifest};
use super::error::RemoteError;
use super::place::Place;
use super::settings::Pace;
use super::transfer::{Bounds, Got, transfer};
use crate::adapter::parts::{CONFIGS, LFS_POINTER, MAX_CONFIG, parts};
use crate::adapter::registry::{Fetched as _, FileDigest, Location};

/// Rounds until files that change all the time are given up.
const MAX_ROUNDS: usize = 4;

/// One adapter on its way.
pub(super) struct Fetch<'a> {
    place: &'a Place,
    location: &'a Location,
    cache: &'a Arc<Cache>,
    /// What was fetched before.
    previous: Option<(Kept, Manifest)>,
    /// Where files lie that are on their way, and their room.
    room: Reservation,
    bounds: FetchBounds,
    files: BTreeMap<&'static str, Held>,
}

/// What a fetch may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct FetchBounds {
    /// Bytes of all files.
    pub bytes: u64,
    /// Until when.
    pub deadline: Instant,
    /// How long the place may say nothing.
    pub silence: Duration,
    /// The fewest bytes that have to come.
    pub slowest: Pace,
}

/// A file that is here.
#[derive(Debug, Clone)]
struct Held {
    path: PathBuf,
    info: FileInfo,
    is_new: bool,
}

impl<'a> Fetch<'a> {
    /// A fetch within `bounds`.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn new(
        place: &'a Place,
        location: &'a Location,
        cache: &'a Arc<Cache>,
        bounds: FetchBounds,
    ) -> Result<Self, RemoteError> {
        let previous = cache.newest(location).map(|kept| (kept.clone(), kept.0.manifest()));
        let room = cache.partial(location)?;
        Ok(Self { place, location, cache, previous, room, bounds, files: BTreeMap::new() })
    }

    /// Fetches what lies there now; its weights must have `digest`.
    ///
    /// # Errors
    /// Where it cannot be had, or is something else.
    pub async fn run(mut self, digest: Option<FileDigest>) -> Result<Kept, RemoteError> {
        let done = self.rounds(digest).await;
        if let Err(error) = &done
            && !error.leaves_something()
        {
            remove(self.room.dir())?;
        }
        done?;
        let dir = self.room.dir().to_owned();
        // What was moved to its place is of no use to another try.
        self.keep().inspect_err(|_| drop(remove(&dir)))
    }

    async fn rounds(&mut self, digest: Option<FileDigest>) -> Result<(), RemoteError> {
        for _ in 0..MAX_ROUNDS {
            let (trained, changed) = self.round().await?;
            if !changed {
                return digest.map_or(Ok(()), |digest| self.check(trained, digest));
            }
        }
        Err(RemoteError::Changed)
    }

    /// Asks for every file; the name of the one with the trained weights, and whether any was another
    /// one than before.
    async fn round(&mut self) -> Result<(&'static str, bool), RemoteError> {
        let before = std::mem::take(&mut self.files);
        let mut changed = false;
        for config in CONFIGS {
            if !self.get(config, MAX_CONFIG, &before, &mut changed).await? {
                continue;
            }
            let bytes = fs::read(&self.files[config].path)?;
            let mut trained = config;
            for part in parts(config, &bytes)? {
                let found = self.get(part.name, self.bounds.bytes, &before, &mut changed).await?;
                if part.needed && !found {
                    return Err(RemoteError::Missing { file: part.name });
                }
                if part.trained {
                    trained = part.name;
                }
            }
            return Ok((trained, changed));
        }
        Err(RemoteError::Missing { file: CONFIGS[0] })
    }

    /// Gets one file of at most `limit` bytes; false where there is none.
    async fn get(
        &mut self,
        name: &'static str,
        limit: u64,
        before: &BTreeMap<&'static str, Held>,
        changed: &mut bool,
    ) -> Result<bool, RemoteError> {
        let held = before.get(name).cloned().or_else(|| self.held_before(name));
        if let Some(held) = &held {
            // Nobody can say of a file without a tag whether it changed, but by fetching it. That is
            // done for what is small; the rest is fetched again where that did change.
            let untagged = held.is_new && held.info.tag.is_none();
            let asked = untagged && !CONFIGS.contains(&name) && !*changed;
            let version = self.place.version();
            if asked || (version.is_some() && held.info.tag.as_deref() == version) {
                self.files.insert(name, held.clone());
                return Ok(true);
            }
        }
        // A version of all files is no tag that a server would know.
        let tagged = held.as_ref().filter(|_| self.place.version().is_none());
        let known = tagged.and_then(|held| held.info.tag.as_deref());
        let sum = self.files.values().fold(0, |sum: u64, held| sum.saturating_add(held.info.bytes));
        let FetchBounds { bytes, deadline, silence, slowest } = self.bounds;
        let limit = limit.saturating_add(sum).min(bytes);
        let dir = self.room.dir().to_owned();
        let room = &mut self.room;
        let bounds = Bounds { before: sum, limit, room, deadline, silence, slowest };
        match transfer(self.place, name, &dir, known, bounds).await? {
            Got::Missing => Ok(false),
            Got::Unchanged => {
                self.files.extend(held.map(|held| (name, held)));
                Ok(true)
            }
            Got::Fetched(tag) => {
                let path = dir.join(name);
                refuse_pointer(name, &path)?;
                let tag = self.place.version().map(str::to_owned).or(tag);
                let info = FileInfo::of(&path, tag)?;
                let same = held.filter(|held| held.info.digest == info.digest);
                *changed |= same.is_none();
                let held = match same {
                    // The same file under another tag.
                    Some(held) => Held { info, ..held },
                    None => Held { path, info, is_new: true },
                };
                self.files.insert(name, held);
                Ok(true)
            }
        }
    }

    /// The file as it was fetched an earlier time.
    fn held_before(&self, name: &str) -> Option<Held> {
        let (kept, manifest) = self.previous.as_ref()?;
        let info = manifest.files.get(name)?.clone();
        Some(Held { path: kept.dir().join(name), info, is_new: false })
    }

    fn check(&self, file: &'static str, expected: FileDigest) -> Result<(), RemoteError> {
        let found = expected.of_same_kind(File::open(&self.files[file].path)?)?;
        if found == expected {
            return Ok(());
        }
        Err(RemoteError::Digest { file, expected, found })
    }

    /// What was fetched before, where it is still that; else the files as a new entry.
    fn keep(self) -> Result<Kept, RemoteError> {
        let same = self.files.values().all(|held| !held.is_new);
        if let Some((kept, manifest)) = &self.previous
            && same
            && manifest.files.len() == self.files.len()
        {
            remove(self.room.dir())?;
            let (order, files) = (self.cache.next_order(), self.infos());
            kept.0.note(|manifest| (manifest.order, manifest.files) = (order, files))?;
            return Ok(kept.clone());
        }
        // Into a directory of their own: in the other may be more, of an earlier try.
        let whole = self.room.dir().join("whole");
        for (name, held) in &self.files {
            place(held, &whole.join(name))?;
        }
        let (location, files) = (self.location.clone(), self.infos());
        let order = self.cache.next_order();
        let manifest = Manifest { location, files, content: None, order };
        let kept = self.cache.take(&whole, &manifest)?;
        remove(self.room.dir())?;
        Ok(kept)
    }

    fn infos(&self) -> BTreeMap<String, FileInfo> {
        self.files.iter().map(|(name, held)| ((*name).to_owned(), held.info.clone())).collect()
    }
}

/// Whether the trained weights of a fetched adapter have this digest.
pub(super) fn has_digest(kept: &Kept, digest: FileDigest) -> bool {
    let trained = CONFIGS.iter().find_map(|config| {
        let bytes = fs::read(kept.dir().join(config)).ok()?;
        let parts = parts(config, &bytes).ok()?;
        parts.iter().find(|part| part.trained).map(|part| part.name)
    });
    let file = trained.and_then(|trained| File::open(kept.dir().join(trained)).ok());
    file.and_then(|file| digest.of_same_kind(file).ok()) == Some(digest)
}

/// Refuses what stands for a file in a Git repository and is not that file.
fn refuse_pointer(name: &'static str, path: &Path) -> Result<(), RemoteError> {
    let mut start = Vec::with_capacity(LFS_POINTER.len());
    File::open(path)?.take(LFS_POINTER.len() as u64).read_to_end(&mut start)?;
    if start == LFS_POINTER { Err(RemoteError::LfsPointer { file: name }) } else { Ok(()) }
}

/// Gives a file its place: one that is kept stays where it is too.
fn place(held: &Held, to: &Path) -> Result<(), RemoteError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if held.is_new {
        fs::rename(&held.path, to)?;
    } else {
        fs::copy(&held.path, to)?;
    }
    Ok(())
}
