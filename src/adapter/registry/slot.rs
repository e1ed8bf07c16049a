//! One version of an adapter by where it lies: whether it is in memory, and what is known of it.
//!
//! Who finds it in memory takes it without a lock. Everything else goes through its state, which is
//! locked for moments and never while something is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::ledger::Charge;
use super::loader::{LoadError, LoadErrorKind, ReadAdapter, Stamp, Wanted};
use super::pending::{Load, Pending};
use super::source::Source;
use super::version::AdapterVersion;
use crate::adapter::delta::AdapterId;

/// For so long a failure answers for the next try.
const FAILURE_LASTS: Duration = Duration::from_secs(5);
/// The same where room was missing.
const NO_ROOM_LASTS: Duration = Duration::from_secs(1);
/// Changed files that cannot be used are read again after this long at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// One version of an adapter.
#[derive(Debug)]
pub(super) struct Slot {
    /// The name it was registered under.
    pub name: String,
    /// Where it lies.
    pub source: Source,
    /// Whether other files there are the adapter from then on; else they are an error.
    pub follows_files: bool,
    /// Whether what its place had last will do before it was ever read, where the place cannot be asked.
    settles: AtomicBool,
    resident: ArcSwapOption<AdapterVersion>,
    pinned: AtomicBool,
    last_used: AtomicU64,
    hits: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    facts: Option<Facts>,
    /// The content it must have, where that is known.
    expected: Option<AdapterId>,
    kept: Option<Kept>,
    /// Of the files that the resident version was read from.
    served: Option<Stamp>,
    /// Of the files that were looked through last, or read and found wrong; `None` before any were.
    checked: Option<Option<Stamp>>,
    /// Loads that failed since the last that did not.
    failures: u32,
    retired: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Loading(Arc<Pending>),
    Failed {
        error: LoadError,
        until: Instant,
        /// Of the files that could not be used.
        stamp: Option<Stamp>,
        /// When the same files are read again without being asked for.
        retry: Instant,
    },
}

/// An adapter as it was read, with the stamp of the files that it was read from.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub read: ReadAdapter,
    pub stamp: Option<Stamp>,
}

/// What is seen of a version's files without reading them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    /// The stamp of those where it lies.
    Files(Option<Stamp>),
    /// The content of what was fetched just now, where it is known.
    Fetched(Option<AdapterId>),
}

/// An adapter kept in memory as it was read, and what that is charged to.
#[derive(Debug)]
struct Kept {
    parsed: Parsed,
    _charge: Charge,
}

/// What is known of an adapter once it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The digest it is served under.
    pub id: AdapterId,
    /// The digest of what its files hold.
    pub content: AdapterId,
    /// How it was trained.
    pub kind: &'static str,
    /// Its rank as trained.
    pub rank: usize,
    /// Its directions as served.
    pub directions: usize,
    /// Modules it changes.
    pub modules: usize,
    /// Bytes as served.
    pub bytes: usize,
}

/// Where a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// Known by its place; nobody has read it yet.
    Registered,
    /// Being read.
    Loading,
    /// Ready to answer.
    Resident,
    /// In memory as it was read, to be prepared.
    InMemory,
    /// Read before, and to be read again.
    OnDisk,
    /// It could not be read.
    Failed,
}

/// What a request for a version meets.
pub(super) enum Start {
    /// It is in memory.
    Resident(Arc<AdapterVersion>),
    /// Somebody loads it already.
    Joined(Load),
    /// The caller is to load it.
    New(Arc<Pending>),
    /// It failed a moment ago.
    Failed(LoadError),
}

impl Slot {
    /// A version that nobody has read yet; `expected` is the content it had.
    pub fn new(
        name: &str,
        source: Source,
        follows: bool,
        expected: Option<AdapterId>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            source,
            follows_files: follows,
            settles: AtomicBool::new(follows),
            resident: ArcSwapOption::empty(),
            pinned: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            state: Mutex::new(State { expected, ..State::default() }),
        })
    }

    /// The version, where it is in memory; takes no lock.
    pub fn resident(&self) -> Option<Arc<AdapterVersion>> {
        self.resident.load_full()
    }

    /// Notes a request at `now`, in any unit that grows.
    pub fn hit(&self, now: u64) {
        self.touch(now);
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that it is wanted, by whomever.
    pub fn touch(&self, now: u64) {
        self.last_used.fetch_max(now, Ordering::Relaxed);
    }

    /// When it was last asked for; 0 is never.
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// How often it was asked for.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Whether it stays in memory.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Makes it stay in memory once it is there, or not.
    pub fn pin(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    /// Lets what its place had last do for a beginning.
    pub fn settle(&self) {
        self.settles.store(true, Ordering::Relaxed);
    }

    /// Bytes of the version that is ready to answer; 0 without one.
    pub fn resident_bytes(&self) -> usize {
        self.resident.load().as_ref().map_or(0, |version| version.delta.size_bytes())
    }

    /// Whether a request holds it.
    pub fn is_in_use(&self) -> bool {
        // One is the slot's own, one is the guard's.
        self.resident.load_full().is_some_and(|version| Arc::strong_count(&version) > 2)
    }

    /// Meets a request for it.
    pub fn start(&self) -> Start {
        let mut state = self.state();
        if let Some(version) = self.resident() {
            return Start::Resident(version);
        }
        match &state.phase {
            Phase::Loading(pending) => return Start::Joined(pending.load()),
            Phase::Failed { error, until, .. } if Instant::now() < *until => {
                return Start::Failed(error.clone());
            }
            Phase::Failed { .. } | Phase::Idle => {}
        }
        let pending = Arc::new(Pending::default());
        state.phase = Phase::Loading(Arc::clone(&pending));
        Start::New(pending)
    }

    /// Meets the wish to read its files again although it is in memory; `None` where somebody reads
    /// them already.
    pub fn restart(&self) -> Option<Arc<Pending>> {
        let mut state = self.state();
        if matches!(state.phase, Phase::Loading(_)) || state.retired {
            return None;
        }
        let pending = Arc::new(Pending::default());
        state.phase = Phase::Loading(Arc::clone(&pending));
        Some(pending)
    }

    /// Whether files of the stamp `now` are to be read again although a version is in memory: they
    /// are not those it was read from, and not those that could not be used a moment ago.
    pub fn is_outdated(&self, now: Stamp) -> bool {
        let state = self.state();
        if state.served.is_some_and(|served| served.still_holds(now)) {
            return false;
        }
        match &state.phase {
            Phase::Failed { stamp: Some(failed), retry, .. } => {
                !failed.still_holds(now) || Instant::now() >= *retry
            }
            _ => true,
        }
    }

    /// Whether files of this stamp are to be looked through: nobody did, or read them.
    pub fn is_check_due(&self, now: Option<Stamp>) -> bool {
        let files = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.files);
        let state = self.state();
        let known = state.checked.is_some_and(|checked| files(checked) == files(now));
        !known && self.resident().is_none() && !matches!(state.phase, Phase::Loading(_))
    }

    /// Notes what looking through files of this stamp came to; true for an error that is new. Whoever
    /// asks for it is not kept from trying.
    pub fn checked(&self, stamp: Option<Stamp>, outcome: Result<(), LoadError>) -> bool {
        let mut state = self.state();
        if matches!(state.phase, Phase::Loading(_)) {
            return false;
        }
        state.checked = Some(stamp);
        let before = match std::mem::take(&mut state.phase) {
            Phase::Failed { error, .. } => Some(error),
            Phase::Idle | Phase::Loading(_) => None,
        };
        let Err(error) = outcome else { return false };
        let is_new = before.as_ref() != Some(&error);
        let now = Instant::now();
        state.phase = Phase::Failed { error, until: now, stamp, retry: now };
        is_new
    }

    /// Whether it is not in memory and could not be loaded.
    pub fn is_broken(&self) -> bool {
        self.resident().is_none() && matches!(self.state().phase, Phase::Failed { .. })
    }

    /// Whether it is not in memory, and nobody has tried to load it.
    pub fn is_untried(&self) -> bool {
        matches!(self.state().phase, Phase::Idle) && self.resident().is_none()
    }

    /// Whether it could not be loaded, and is to be tried once more: it is time, or its files are no
    /// longer those that could not be used.
    pub fn is_retry_due(&self, now: impl FnOnce() -> Option<Stamp>) -> bool {
        let (retry, failed) = match &self.state().phase {
            Phase::Failed { retry, stamp, .. } => (*retry, *stamp),
            Phase::Idle | Phase::Loading(_) => return false,
        };
        let files = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.files);
        self.resident().is_none() && (Instant::now() >= retry || files(now()) != files(failed))
    }

    /// What is kept of it as it was read, where that is still what it is by what is `seen` of its
    /// files. What is kept of other files is forgotten.
    pub fn parsed(&self, seen: Seen) -> Option<Parsed> {
        let mut state = self.state();
        let same = |kept: &Kept| match (seen, kept.parsed.stamp) {
            (Seen::Fetched(content), _) => content == Some(kept.parsed.read.content),
            (Seen::Files(_), _) if !self.follows_files => true,
            (Seen::Files(Some(now)), Some(then)) => then.still_holds(now),
            (Seen::Files(_), _) => false,
        };
        state.kept = state.kept.take().filter(same);
        state.kept.as_ref().map(|kept| kept.parsed.clone())
    }

    /// Whether `parsed` could be taken later instead of reading the files again.
    pub fn may_keep(&self, parsed: &Parsed) -> bool {
        let fetched = matches!(self.source, Source::Remote { .. });
        !self.follows_files || fetched || parsed.stamp.is_some()
    }

    /// Whether it is `parsed` that is kept.
    pub fn keeps(&self, parsed: &Parsed) -> bool {
        self.state().kept.as_ref().is_some_and(|kept| kept.is(parsed))
    }

    /// What is to be read where it lies.
    pub fn wanted(&self) -> Wanted {
        match self.content() {
            _ if self.follows_files => Wanted::Newest,
            Some(content) => Wanted::Same(content),
            None if self.settles.load(Ordering::Relaxed) => Wanted::Newest,
            None => Wanted::Now,
        }
    }

    /// Compares what was read with what was there before.
    ///
    /// # Errors
    /// Where it is something else, and may not be.
    pub fn check_content(&self, content: AdapterId) -> Result<(), LoadError> {
        match self.state().expected {
            Some(expected) if expected != content && !self.follows_files => {
                Err(LoadError::unusable(format!(
                    "the files hold {content}, and were registered as {expected}: register them \
                     as a new version"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Ends a load whose files hold what is in memory already: that version, now of the stamp of
    /// those files.
    pub fn confirm(&self, parsed: &Parsed) -> Option<Arc<AdapterVersion>> {
        let mut state = self.state();
        let version = self.resident()?;
        if state.retired || state.facts.is_none_or(|facts| facts.content != parsed.read.content) {
            return None;
        }
        state.phase = Phase::Idle;
        state.failures = 0;
        state.served = parsed.stamp;
        Some(version)
    }

    /// Ends a load with a version; false where nobody wants it any more, and then it is not kept.
    /// What was read is kept with `charge`, or where it is kept already.
    pub fn install(
        &self,
        version: &Arc<AdapterVersion>,
        parsed: Parsed,
        charge: Option<Charge>,
    ) -> bool {
        let mut state = self.state();
        let read = &parsed.read;
        state.phase = Phase::Idle;
        state.failures = 0;
        state.expected = Some(read.content);
        state.facts = Some(Facts {
            id: version.id(),
            content: read.content,
            kind: read.kind,
            rank: read.rank,
            directions: version.delta.max_rank(),
            modules: version.delta.num_modules(),
            bytes: version.delta.size_bytes(),
        });
        if state.retired {
            return false;
        }
        state.served = parsed.stamp;
        let present = state.kept.take().filter(|kept| kept.is(&parsed));
        state.kept = charge.map(|charge| Kept { parsed, _charge: charge }).or(present);
        self.resident.store(Some(Arc::clone(version)));
        true
    }

    /// Ends a load of files of this stamp without a version. What is in memory stays there.
    pub fn fail(&self, error: LoadError, stamp: Option<Stamp>) {
        let lasts = match error.kind() {
            LoadErrorKind::NoRoom | LoadErrorKind::Busy => NO_ROOM_LASTS,
            LoadErrorKind::Unusable | LoadErrorKind::Unreachable | LoadErrorKind::Bug => {
                FAILURE_LASTS
            }
        };
        let mut state = self.state();
        let pause = lasts.saturating_mul(1 << state.failures.min(10)).min(LONGEST_PAUSE);
        state.failures = state.failures.saturating_add(1);
        state.checked = Some(stamp);
        let now = Instant::now();
        state.phase = Phase::Failed { error, until: now + lasts, stamp, retry: now + pause };
    }

    /// Ends a load that did not begin and that nobody waits for any more: whoever asks next begins anew.
    /// False where somebody waits.
    pub fn give_up(&self, pending: &Arc<Pending>) -> bool {
        let mut state = self.state();
        let given_up = !pending.is_wanted() && pending.begin();
        if given_up {
            state.end(pending);
        }
        given_up
    }

    /// Ends a load for want of a place in a queue: whoever asks next begins anew.
    pub fn turn_away(&self, pending: &Arc<Pending>) {
        self.state().end(pending);
    }

    /// Takes it out of memory, or out of one of its two forms there.
    pub fn evict(&self) -> Option<Arc<AdapterVersion>> {
        self.resident.swap(None)
    }

    /// Forgets it as it was read; true where there was something to forget.
    pub fn forget_parsed(&self) -> bool {
        self.state().kept.take().is_some()
    }

    /// Nobody will ask for it again: it leaves memory, and a load under way leaves nothing behind.
    pub fn retire(&self) -> Option<Arc<AdapterVersion>> {
        let mut state = self.state();
        state.retired = true;
        state.kept = None;
        drop(state);
        self.evict()
    }

    /// Whether it is being read.
    #[cfg(test)]
    pub fn is_loading(&self) -> bool {
        matches!(self.state().phase, Phase::Loading(_))
    }

    /// What is known of it.
    pub fn facts(&self) -> Option<Facts> {
        self.state().facts
    }

    /// The content it has, or has to have.
    pub fn content(&self) -> Option<AdapterId> {
        self.state().expected
    }

    /// Where it is, and why it failed.
    pub fn residency(&self) -> (Residency, Option<LoadError>) {
        let state = self.state();
        let error = match &state.phase {
            Phase::Failed { error, .. } => Some(error.clone()),
            _ => None,
        };
        let residency = if self.resident.load().is_some() {
            Residency::Resident
        } else {
            match &state.phase {
                Phase::Loading(_) => Residency::Loading,
                Phase::Failed { .. } => Residency::Failed,
                Phase::Idle if state.kept.is_some() => Residency::InMemory,
                Phase::Idle if state.facts.is_some() => Residency::OnDisk,
                Phase::Idle => Residency::Registered,
            }
        };
        (residency, error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing is being loaded any more, where it was this.
    fn end(&mut self, pending: &Arc<Pending>) {
        if matches!(&self.phase, Phase::Loading(loading) if Arc::ptr_eq(loading, pending)) {
            self.phase = Phase::Idle;
        }
    }
}

impl Kept {
    /// Whether this is what is kept.
    fn is(&self, parsed: &Parsed) -> bool {
        Arc::ptr_eq(&self.parsed.read.delta, &parsed.read.delta)
    }
}
