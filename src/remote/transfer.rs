//! One file, from a place to the disk: in a `.part` first, which another try goes on with where the
//! file still has the tag that it had, and renamed once it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::cache::Reservation;
use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure, Place};

/// Tries that bring nothing new, one after the other.
const MAX_TRIES: u32 = 5;
/// After the first; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Missing,
    /// It has the tag that was known.
    Unchanged,
    /// It lies in the directory, and had this tag.
    Fetched(Option<String>),
}

/// What a file may take.
pub(super) struct Bounds<'a> {
    /// Bytes of the adapter that are here already.
    pub before: u64,
    /// Bytes of the whole adapter.
    pub limit: u64,
    /// Room on the disk, for what is here and what comes.
    pub room: &'a mut Reservation,
}

/// A file on its way.
struct Part {
    path: PathBuf,
    tag_path: PathBuf,
    file: File,
    bytes: u64,
    tag: Option<String>,
}

/// Fetches `name` into `dir`, unless it still has the tag `known`.
///
/// # Errors
/// Where it cannot be had whole. A part of it may stay in `dir`, to go on with.
pub(super) async fn transfer(
    place: &Place,
    name: &'static str,
    dir: &Path,
    known: Option<&str>,
    mut bounds: Bounds<'_>,
) -> Result<Got, RemoteError> {
    let target = dir.join(name);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut part = Part::open(&target)?;
    let mut tries = Tries::default();
    loop {
        let ask = match (&part.tag, known) {
            (Some(tag), _) if part.bytes > 0 => Ask::Rest { from: part.bytes, tag },
            (_, Some(tag)) => Ask::Unless(tag),
            _ => Ask::Whole,
        };
        let what = match place.open(name, ask).await {
            Ok(Answer::Missing) => return part.discard().map(|()| Got::Missing),
            Ok(Answer::Unchanged) => return part.discard().map(|()| Got::Unchanged),
            Ok(Answer::Changed) => {
                part.restart(None)?;
                "it changes while it is fetched"
            }
            Ok(Answer::Body(body)) => {
                let before = part.bytes;
                match part.take(body, name, &mut bounds).await {
                    Ok(()) => return part.finish(&target).map(Got::Fetched),
                    Err(Failure::Lasting(error)) => return Err(error),
                    Err(Failure::Passing(what)) => {
                        tries.progress(part.bytes > before);
                        what
                    }
                }
            }
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(what)) => what,
        };
        tries.pause(what).await?;
    }
}

/// Counts tries in vain, and waits longer after each.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// One that brought something begins the count anew.
    fn progress(&mut self, made: bool) {
        if made {
            self.0 = 0;
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// Where there were enough.
    pub async fn pause(&mut self, what: &'static str) -> Result<(), RemoteError> {
        self.0 += 1;
        if self.0 >= MAX_TRIES {
            return Err(RemoteError::Unreachable { what });
        }
        // Half of it by chance: those that failed together do not come back together.
        let half = FIRST_PAUSE * (1 << (self.0 - 1)) / 2;
        let chance = OsRng.try_next_u32().unwrap_or_default();
        tokio::time::sleep(half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))).await;
        Ok(())
    }
}

impl Part {
    /// What an earlier try left, or nothing yet.
    fn open(target: &Path) -> io::Result<Self> {
        let beside = |ending: &str| {
            let mut name = target.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let (path, tag_path) = (beside(".part"), beside(".tag"));
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let tag = fs::read_to_string(&tag_path).ok();
        let mut part = Self { path, tag_path, bytes: file.metadata()?.len(), file, tag };
        if part.tag.is_none() {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// Begins anew, with a file of this tag.
    fn restart(&mut self, tag: Option<String>) -> io::Result<()> {
        self.file.set_len(0)?;
        self.bytes = 0;
        match &tag {
            Some(tag) => fs::write(&self.tag_path, tag)?,
            None => remove(&self.tag_path)?,
        }
        self.tag = tag;
        Ok(())
    }

    /// Writes what comes, to the file's end.
    async fn take(
        &mut self,
        mut body: Body,
        name: &'static str,
        bounds: &mut Bounds<'_>,
    ) -> Result<(), Failure> {
        let io = |error: io::Error| Failure::Lasting(error.into());
        if body.from != self.bytes {
            self.restart(body.tag).map_err(io)?;
            if body.from != 0 {
                return Err(Failure::Passing("an answer of another range"));
            }
        } else if body.from == 0 {
            self.restart(body.tag).map_err(io)?;
        }
        bounds.check(name, body.size.unwrap_or(self.bytes))?;
        while let Some(chunk) = body.chunks.next().await {
            let chunk = chunk?;
            let bytes = self.bytes + chunk.len() as u64;
            if body.size.is_some_and(|size| bytes > size) {
                return Err(Failure::Passing("more bytes than were announced"));
            }
            bounds.check(name, bytes)?;
            self.file.write_all(&chunk).map_err(io)?;
            self.bytes = bytes;
        }
        if body.size.is_some_and(|size| self.bytes < size) {
            return Err(Failure::Passing("the connection broke"));
        }
        Ok(())
    }

    /// Gives the whole file its name; its tag.
    fn finish(self, target: &Path) -> Result<Option<String>, RemoteError> {
        fs::rename(&self.path, target)?;
        remove(&self.tag_path)?;
        Ok(self.tag)
    }

    fn discard(self) -> Result<(), RemoteError> {
        remove(&self.path)?;
        Ok(remove(&self.tag_path)?)
    }
}

impl Bounds<'_> {
    /// Checks that a file of so many bytes is not too much, and makes room for it.
    fn check(&mut self, name: &'static str, bytes: u64) -> Result<(), Failure> {
        let whole = self.before.saturating_add(bytes);
        if whole > self.limit {
            let error = RemoteError::TooLarge { file: name, limit: self.limit };
            return Err(Failure::Lasting(error));
        }
        self.room.grow_to(whole).map_err(Failure::Lasting)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
