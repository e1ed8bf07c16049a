//! An adapter's files, from a place to the cache.
//!
//! Files are fetched in rounds: in the first, those that are not here as they are there; then all are
//! asked for again, until none has changed. So the files of an adapter belong together although they
//! come one after the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::{Cache, Kept, Reservation};
use super::entry::{FileInfo, Manifest, now};
use super::error::RemoteError;
use super::place::Place;
use super::transfer::{Bounds, Got, transfer};
use crate::adapter::parts::{CONFIGS, MAX_CONFIG, parts};
use crate::adapter::registry::{FileDigest, Location};

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
    limit: u64,
    files: BTreeMap<&'static str, Held>,
}

/// A file that is here.
#[derive(Debug, Clone)]
struct Held {
    path: PathBuf,
    bytes: u64,
    tag: Option<String>,
    is_new: bool,
}

impl<'a> Fetch<'a> {
    /// A fetch of at most `limit` bytes.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn new(
        place: &'a Place,
        location: &'a Location,
        cache: &'a Arc<Cache>,
        limit: u64,
    ) -> Result<Self, RemoteError> {
        let previous = cache.newest(location).map(|kept| (kept.clone(), kept.0.manifest()));
        let room = cache.partial(location)?;
        Ok(Self { place, location, cache, previous, room, limit, files: BTreeMap::new() })
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
            fs::remove_dir_all(self.room.dir())?;
        }
        done?;
        self.keep()
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
                let found = self.get(part.name, self.limit, &before, &mut changed).await?;
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
            // Nobody can say of a file without a tag whether it changed: it is asked for once.
            let asked = held.is_new && held.tag.is_none();
            if asked || (held.tag.is_some() && held.tag.as_deref() == self.place.version()) {
                self.files.insert(name, held.clone());
                return Ok(true);
            }
        }
        // A version of all files is no tag that a server would know.
        let tagged = held.as_ref().filter(|_| self.place.version().is_none());
        let known = tagged.and_then(|held| held.tag.as_deref());
        let sum = self.files.values().fold(0, |sum: u64, held| sum.saturating_add(held.bytes));
        let limit = limit.saturating_add(sum).min(self.limit);
        let dir = self.room.dir().to_owned();
        let bounds = Bounds { before: sum, limit, room: &mut self.room };
        match transfer(self.place, name, &dir, known, bounds).await? {
            Got::Missing => Ok(false),
            Got::Unchanged => {
                self.files.extend(held.map(|held| (name, held)));
                Ok(true)
            }
            Got::Fetched(tag) => {
                let path = dir.join(name);
                let tag = self.place.version().map(str::to_owned).or(tag);
                let bytes = path.metadata()?.len();
                self.files.insert(name, Held { path, bytes, tag, is_new: true });
                *changed = true;
                Ok(true)
            }
        }
    }

    /// The file as it was fetched an earlier time.
    fn held_before(&self, name: &str) -> Option<Held> {
        let (kept, manifest) = self.previous.as_ref()?;
        let info = manifest.files.get(name)?;
        let path = kept.dir().join(name);
        Some(Held { path, bytes: info.bytes, tag: info.tag.clone(), is_new: false })
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
            fs::remove_dir_all(self.room.dir())?;
            kept.0.note(|manifest| manifest.confirmed = now())?;
            return Ok(kept.clone());
        }
        // Into a directory of their own: in the other may be more, of an earlier try.
        let whole = self.room.dir().join("whole");
        let mut files = BTreeMap::new();
        for (name, held) in &self.files {
            let path = whole.join(name);
            place(held, &path)?;
            files.insert((*name).to_owned(), FileInfo::of(&path, held.tag.clone())?);
        }
        let location = self.location.clone();
        let manifest = Manifest { location, files, content: None, confirmed: now() };
        let kept = self.cache.take(&whole, &manifest)?;
        fs::remove_dir_all(self.room.dir())?;
        Ok(kept)
    }
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
