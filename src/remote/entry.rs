//! One adapter as it was fetched: a directory of its files, and beside them a manifest that says where
//! they came from and what they must be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::adapter::delta::AdapterId;
use crate::adapter::registry::Location;

/// The manifest's name; no adapter has such a file.
pub(super) const MANIFEST: &str = "fetched.json";

/// What is known of a fetched adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Where it came from.
    pub location: Location,
    /// By name.
    pub files: BTreeMap<String, FileInfo>,
    /// What an adapter reader found in it, in hexadecimal digits.
    pub content: Option<String>,
    /// Grows with every fetch, whatever the clock says: of several contents of one place, the one
    /// with the highest was the newest there last. (It was a time once, under another name.)
    #[serde(alias = "confirmed")]
    pub order: u64,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileInfo {
    pub bytes: u64,
    /// The server's name for what it holds.
    pub tag: Option<String>,
    /// Its BLAKE3 digest.
    pub digest: String,
}

/// A fetched adapter on the disk.
#[derive(Debug)]
pub(super) struct Entry {
    pub dir: PathBuf,
    pub bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    manifest: Manifest,
    used: SystemTime,
}

impl FileInfo {
    /// Of the file at `path`.
    pub fn of(path: &Path, tag: Option<String>) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { bytes, tag, digest: digest(file)? })
    }
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The same for the same files from the same place, and a file name.
    pub fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let location = self.location.to_string();
        for (name, info) in std::iter::once((&location, ""))
            .chain(self.files.iter().map(|(name, info)| (name, info.digest.as_str())))
        {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(&(info.len() as u64).to_le_bytes()).update(info.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Writes it into `dir`, aside first.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let aside = dir.join(format!("{MANIFEST}.new"));
        fs::write(&aside, serde_json::to_vec(self)?)?;
        fs::rename(aside, dir.join(MANIFEST))
    }
}

impl Entry {
    /// What lies in `dir`; its files are looked at when it is asked for.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        let path = dir.join(MANIFEST);
        if !dir.symlink_metadata()?.is_dir() || !path.symlink_metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let manifest: Manifest = serde_json::from_slice(&fs::read(&path)?)?;
        let used = path.metadata()?.modified()?;
        Ok(Self { bytes: manifest.bytes(), dir, state: Mutex::new(State { manifest, used }) })
    }

    pub fn manifest(&self) -> Manifest {
        self.state().manifest.clone()
    }

    pub fn is_from(&self, location: &Location) -> bool {
        self.state().manifest.location == *location
    }

    pub fn holds(&self, content: AdapterId) -> bool {
        self.state().manifest.content.as_deref() == Some(&content.to_string())
    }

    pub fn order(&self) -> u64 {
        self.state().manifest.order
    }

    /// What was found in it, where it was read.
    pub fn content(&self) -> Option<AdapterId> {
        let digits = self.state().manifest.content.clone()?;
        blake3::Hash::from_hex(digits).ok().map(|hash| AdapterId(*hash.as_bytes()))
    }

    pub fn used(&self) -> SystemTime {
        self.state().used
    }

    /// Whether every file is as it was fetched.
    ///
    /// # Errors
    /// Where that cannot be told at the moment.
    pub fn is_whole(&self) -> io::Result<bool> {
        for (name, info) in &self.manifest().files {
            let path = self.dir.join(name);
            let is_same = path.symlink_metadata().and_then(|seen| {
                // A link leads to a file of somebody else's, and a pipe nowhere.
                Ok(seen.is_file() && FileInfo::of(&path, info.tag.clone())? == *info)
            });
            match is_same {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if is_damage(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Notes that it was used at `now`. Where that is not written down, it counts until the end of the
    /// process.
    pub fn touch(&self, now: SystemTime) {
        self.state().used = now;
        if let Err(error) = self.write_use(now) {
            tracing::warn!("the use of a fetched adapter is not noted: {}", error.kind());
        }
    }

    /// Changes what is known of it, on disk too.
    pub fn note(&self, change: impl FnOnce(&mut Manifest)) -> io::Result<()> {
        let mut state = self.state();
        change(&mut state.manifest);
        state.manifest.write(&self.dir)?;
        self.write_use(state.used)
    }

    fn write_use(&self, time: SystemTime) -> io::Result<()> {
        File::options().write(true).open(self.dir.join(MANIFEST))?.set_modified(time)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that what was there is not, or no longer: it will be the same next time. All
/// others (too many open files, a disk that is away, rights that were taken) say nothing of it.
pub(super) fn is_damage(error: &io::Error) -> bool {
    /// The disk itself cannot read it, on every Unix.
    const EIO: i32 = 5;
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidData | UnexpectedEof)
        || error.raw_os_error() == Some(EIO)
}

fn digest(file: File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}
