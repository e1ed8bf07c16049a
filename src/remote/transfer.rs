//! One file, from a place to the disk: in a `.part` first, which another try goes on with where the
//! file still has the tag that it had, and renamed once it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::time::{Instant, timeout_at};

use super::cache::Reservation;
use super::error::RemoteError;
use super::place::{Answer, Ask, Body, Failure, NO_ANSWER, Place};
use super::settings::Pace;

/// Tries that bring nothing new, one after the other.
const MAX_TRIES: u32 = 5;
/// Tries without any answer: a place that says nothing is not asked for as long as it takes.
const MAX_SILENT: u32 = 3;
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
    /// Until when it may take.
    pub deadline: Instant,
    /// How long the place may say nothing.
    pub silence: Duration,
    /// The fewest bytes that have to come.
    pub slowest: Pace,
}

/// Bytes in the present window of time.
struct Meter {
    slowest: Pace,
    ends: Instant,
    bytes: u64,
}

/// A file on its way.
struct Part {
    path: PathBuf,
    tag_path: PathBuf,
    file: File,
    bytes: u64,
    tag: Option<String>,
    /// Of the whole file of this tag, where that was said.
    size: Option<u64>,
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
    let mut tries = Tries::until(bounds.deadline);
    loop {
        let ask = match (&part.tag, known) {
            (Some(tag), _) if part.bytes > 0 => Ask::Rest { from: part.bytes, tag },
            (_, Some(tag)) => Ask::Unless(tag),
            _ => Ask::Whole,
        };
        let failure = match place.open(name, ask, bounds.silence).await {
            Ok(Answer::Missing) => return part.discard().map(|()| Got::Missing),
            Ok(Answer::Unchanged) => return part.discard().map(|()| Got::Unchanged),
            Ok(Answer::Changed) => {
                part.restart(None)?;
                Failure::passing("it changes while it is fetched")
            }
            // Not every server minds the condition.
            Ok(Answer::Body(body)) if body.is_still(ask) => {
                return part.discard().map(|()| Got::Unchanged);
            }
            Ok(Answer::Body(body)) => {
                let before = part.bytes;
                match part.take(body, name, &mut bounds).await {
                    Ok(()) => return part.finish(&target).map(Got::Fetched),
                    Err(failure) => {
                        tries.progress(part.bytes.saturating_sub(before), bounds.slowest);
                        failure
                    }
                }
            }
            Err(failure) => failure,
        };
        tries.pause(failure).await?;
    }
}

/// Counts tries in vain, and waits longer after each.
#[derive(Debug)]
pub(super) struct Tries {
    vain: u32,
    /// Those of them that had no answer, since the last that had one.
    silent: u32,
    deadline: Instant,
}

impl Tries {
    /// None yet; the last may begin at `deadline`.
    pub fn until(deadline: Instant) -> Self {
        Self { vain: 0, silent: 0, deadline }
    }

    /// One that brought something worth the while begins the count anew.
    fn progress(&mut self, bytes: u64, slowest: Pace) {
        if bytes >= slowest.bytes {
            self.vain = 0;
        }
    }

    /// Waits before the next try, and no shorter than the other side asked for.
    ///
    /// # Errors
    /// The failure, where it lasts, where there were enough, or where the next try would come too late.
    pub async fn pause(&mut self, failure: Failure) -> Result<(), RemoteError> {
        let (what, after) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Silent => (NO_ANSWER, None),
            Failure::Passing { what, after } => (what, after),
        };
        self.silent = if matches!(failure, Failure::Silent) { self.silent + 1 } else { 0 };
        self.vain += 1;
        if self.vain >= MAX_TRIES || self.silent >= MAX_SILENT {
            return Err(RemoteError::Unreachable { what });
        }
        // Half of it by chance: those that failed together do not come back together.
        let half = FIRST_PAUSE * (1 << (self.vain - 1)) / 2;
        let chance = OsRng.try_next_u32().unwrap_or_default();
        let own = half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        let asked = after.unwrap_or_default();
        if Instant::now().checked_add(asked).is_none_or(|next| next > self.deadline) {
            return Err(RemoteError::Later { what, seconds: asked.as_secs() });
        }
        tokio::time::sleep(asked + own).await;
        Ok(())
    }
}

impl Meter {
    fn start(slowest: Pace) -> Self {
        Self { slowest, ends: Instant::now() + slowest.window, bytes: 0 }
    }

    /// The next chunk, where it comes in time.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Ok(chunk) = timeout_at(self.ends, body.chunks.next()).await {
                let chunk = chunk.transpose()?;
                self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                return Ok(chunk);
            }
            let Pace { bytes, window } = self.slowest;
            if self.bytes < bytes {
                let error = RemoteError::TooSlow { bytes, seconds: window.as_secs() };
                return Err(Failure::Lasting(error));
            }
            *self = Self::start(self.slowest);
        }
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
        let bytes = file.metadata()?.len();
        let mut part = Self { path, tag_path, bytes, file, tag, size: None };
        if part.tag.is_none() {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// Begins anew, with a file of this tag. A crash on the way leaves bytes without a tag, which
    /// nothing goes on with.
    fn restart(&mut self, tag: Option<String>) -> io::Result<()> {
        remove(&self.tag_path)?;
        self.file.set_len(0)?;
        (self.bytes, self.size) = (0, None);
        if let Some(tag) = &tag {
            fs::write(&self.tag_path, tag)?;
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
        if body.from == 0 {
            self.restart(body.tag.take()).map_err(io)?;
        } else if !self.goes_on_with(&body) {
            self.restart(None).map_err(io)?;
            return Err(Failure::passing("a part of another version came"));
        }
        self.size = body.size;
        bounds.check_size(name, body.size.unwrap_or(self.bytes))?;
        let mut meter = Meter::start(bounds.slowest);
        while let Some(chunk) = meter.next(&mut body).await? {
            let bytes = self.bytes + chunk.len() as u64;
            if body.size.is_some_and(|size| bytes > size) {
                self.restart(None).map_err(io)?;
                return Err(Failure::passing("more bytes than were announced"));
            }
            bounds.check_size(name, bytes)?;
            bounds.make_room(bytes)?;
            let written = self.write(&chunk, bounds.room);
            written.map_err(|error| self.not_written(name, error))?;
            self.bytes = bytes;
        }
        if body.size.is_some_and(|size| self.bytes < size) {
            return Err(Failure::passing("the connection broke"));
        }
        Ok(())
    }

    /// Writes to the file's end. A full disk has room once what is kept on it and nobody reads has left.
    fn write(&mut self, chunk: &[u8], room: &Reservation) -> io::Result<()> {
        loop {
            match self.file.write_all(chunk) {
                Err(error) if is_full(&error) && room.free_some() => {
                    self.file.set_len(self.bytes)?;
                }
                done => return done,
            }
        }
    }

    /// Why bytes of a file were not written. They were more than the disk takes, or it is broken.
    fn not_written(&self, name: &'static str, error: io::Error) -> Failure {
        let is_too_large = error.kind() == io::ErrorKind::FileTooLarge;
        Failure::Lasting(if is_full(&error) || is_too_large {
            RemoteError::Full { file: name, written: self.bytes, size: self.size, error }
        } else {
            error.into()
        })
    }

    /// Whether a part of a file is the rest of this one: it begins where this ends, says that it is of
    /// the same version, and that of no shorter file than what is here.
    fn goes_on_with(&self, body: &Body) -> bool {
        let same_tag = self.tag.is_some() && body.tag == self.tag;
        let same_size = self.size.is_none() || self.size == body.size;
        let fits = body.size.is_none_or(|size| self.bytes <= size);
        body.from == self.bytes && same_tag && same_size && fits
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
    /// Checks that a file of so many bytes is not too much.
    fn check_size(&self, name: &'static str, bytes: u64) -> Result<(), Failure> {
        if self.before.saturating_add(bytes) > self.limit {
            let error = RemoteError::TooLarge { file: name, limit: self.limit };
            return Err(Failure::Lasting(error));
        }
        Ok(())
    }

    /// Makes room for what has come of a file, and not for what was announced: nothing leaves the disk
    /// for bytes that never come.
    fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        self.room.grow_to(self.before.saturating_add(bytes)).map_err(Failure::Lasting)
    }
}

/// Whether it is for want of room that something was not written.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::super::cache::Cache;
    use super::*;

    /// What a server sends once: of which version, from where on, what it says of it, and how much comes.
    #[derive(Debug, Clone)]
    struct Sent {
        version: usize,
        /// Where what is here ends, where it is not said.
        from: Option<usize>,
        size: Option<u64>,
        is_tagged: bool,
        bytes: usize,
        breaks: bool,
    }

    fn versions() -> [Vec<u8>; 2] {
        [(0..40).collect(), (100..130).collect()]
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let size = prop_oneof![Just(None), Just(Some(40)), Just(Some(30)), Just(Some(5))];
        let from = prop_oneof![Just(Some(0)), Just(None), (0..45_usize).prop_map(Some)];
        let bytes = prop_oneof![Just(40), 0..45_usize];
        (0..2_usize, from, size, any::<bool>(), bytes, any::<bool>()).prop_map(
            |(version, from, size, is_tagged, bytes, breaks)| Sent {
                version,
                from,
                size,
                is_tagged,
                bytes,
                breaks,
            },
        )
    }

    /// A tag is of one version, as it has to be; all else may be wrong.
    fn body(sent: &Sent, here: u64) -> Body {
        let version = &versions()[sent.version];
        let from = sent.from.unwrap_or(here as usize);
        let rest = version.get(from..).unwrap_or_default();
        let chunks = rest[..sent.bytes.min(rest.len())].chunks(7).map(Bytes::copy_from_slice);
        let mut chunks: Vec<_> = chunks.map(Ok).collect();
        if sent.breaks {
            chunks.push(Err(Failure::passing("the connection broke")));
        }
        Body {
            from: from as u64,
            size: sent.size,
            tag: sent.is_tagged.then(|| format!("\"{}\"", sent.version)),
            chunks: stream::iter(chunks).boxed(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes, in whatever order: what is here is the beginning of one version, and its tag
        /// is that version's.
        #[test]
        fn a_file_is_never_made_of_two_versions(all in prop::collection::vec(sent(), 1..12)) {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(&dir.path().join("cache"), 1 << 20).unwrap();
            let location = "https://host/adapter".parse().unwrap();
            let mut room = cache.partial(&location).unwrap();
            let target = room.dir().join("file");
            let mut part = Part::open(&target).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for sent in &all {
                let (deadline, slowest) = runtime.block_on(async {
                    (Instant::now() + Duration::from_secs(600), Pace::default())
                });
                let (before, limit, silence) = (0, 1000, Duration::from_secs(600));
                let mut bounds =
                    Bounds { before, limit, room: &mut room, deadline, silence, slowest };
                let done = runtime.block_on(part.take(body(sent, part.bytes), "file", &mut bounds));
                let here = fs::read(&part.path).unwrap();
                prop_assert_eq!(here.len() as u64, part.bytes);
                let version = versions().iter().position(|version| version.starts_with(&here));
                prop_assert!(version.is_some(), "{:?} after {:?}", here, sent);
                if let Some(tag) = part.tag.as_ref().filter(|_| !here.is_empty()) {
                    prop_assert_eq!(tag, &format!("\"{}\"", version.unwrap_or(2)));
                }
                if done.is_ok() {
                    prop_assert!(sent.size.is_none_or(|size| size == part.bytes), "{:?}", sent);
                }
                // The next process, or the next try, goes on with what is on the disk.
                part = Part::open(&target).unwrap();
            }
        }
    }
}
