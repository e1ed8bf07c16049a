//! One version of an adapter by where it lies: whether it is in memory, and what is known of it.
//!
//! Who finds it in memory takes it without a lock. Everything else goes through its state, which is
//! locked for moments and never while something is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::ledger::Charge;
use super::loader::{LoadError, LoadErrorKind, ReadAdapter, Wanted};
use super::pending::{Load, Pending};
use super::source::Source;
use super::version::AdapterVersion;
use crate::adapter::delta::AdapterId;

/// For so long a failure answers for the next try.
const FAILURE_LASTS: Duration = Duration::from_secs(5);
/// The same where room was missing.
const NO_ROOM_LASTS: Duration = Duration::from_secs(1);

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
    parsed: Option<Parsed>,
    /// Of the files that were read last.
    stamp: Option<u64>,
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
    },
}

/// An adapter kept in memory as it was read, and what that is charged to.
#[derive(Debug)]
struct Parsed {
    read: ReadAdapter,
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
            Phase::Loading(pending) => return Start::Joined(Load(Arc::clone(pending))),
            Phase::Failed { error, until } if Instant::now() < *until => {
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
        state.parsed = None;
        Some(pending)
    }

    /// What is kept of it in memory as it was read.
    pub fn parsed(&self) -> Option<ReadAdapter> {
        self.state().parsed.as_ref().map(|parsed| parsed.read.clone())
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

    /// Ends a load with a version; false where nobody wants it any more, and then it is not kept.
    pub fn install(
        &self,
        version: &Arc<AdapterVersion>,
        read: ReadAdapter,
        stamp: Option<u64>,
        parsed: Option<Charge>,
    ) -> bool {
        let mut state = self.state();
        state.phase = Phase::Idle;
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
        state.stamp = stamp.or(state.stamp);
        if state.retired {
            return false;
        }
        if let Some(charge) = parsed {
            state.parsed = Some(Parsed { read, _charge: charge });
        }
        self.resident.store(Some(Arc::clone(version)));
        true
    }

    /// Ends a load without one. What is in memory stays there.
    pub fn fail(&self, error: LoadError, stamp: Option<u64>) {
        let lasts = match error.kind() {
            LoadErrorKind::NoRoom => NO_ROOM_LASTS,
            LoadErrorKind::Unusable | LoadErrorKind::Unreachable | LoadErrorKind::Bug => {
                FAILURE_LASTS
            }
        };
        let mut state = self.state();
        state.stamp = stamp.or(state.stamp);
        state.phase = Phase::Failed { error, until: Instant::now() + lasts };
    }

    /// Takes it out of memory, or out of one of its two forms there.
    pub fn evict(&self) -> Option<Arc<AdapterVersion>> {
        self.resident.swap(None)
    }

    /// Forgets it as it was read; true where there was something to forget.
    pub fn forget_parsed(&self) -> bool {
        self.state().parsed.take().is_some()
    }

    /// Nobody will ask for it again: it leaves memory, and a load under way leaves nothing behind.
    pub fn retire(&self) -> Option<Arc<AdapterVersion>> {
        let mut state = self.state();
        state.retired = true;
        state.parsed = None;
        drop(state);
        self.evict()
    }

    /// Whether it was retired.
    pub fn is_retired(&self) -> bool {
        self.state().retired
    }

    /// What is known of it.
    pub fn facts(&self) -> Option<Facts> {
        self.state().facts
    }

    /// The content it has, or has to have.
    pub fn content(&self) -> Option<AdapterId> {
        self.state().expected
    }

    /// The stamp of the files that were read last.
    pub fn stamp(&self) -> Option<u64> {
        self.state().stamp
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
                Phase::Idle if state.parsed.is_some() => Residency::InMemory,
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
