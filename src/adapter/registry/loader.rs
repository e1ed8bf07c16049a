//! What the registry asks of whoever reads adapters: it knows no file and no model itself.

use std::fmt;
use std::sync::Arc;

use super::delivery::{Delivery, Fetched, Order};
use super::source::Source;
use crate::adapter::delta::{AdapterId, LowRankDelta};

/// Reads adapters and prepares them for the model that is served.
pub trait Loader: fmt::Debug + Send + Sync + 'static {
    /// Begins to bring the files of an adapter of another machine to this machine's disk, and returns
    /// at once: whatever the other machine does, no thread that loads waits for it.
    fn fetch(&self, order: Order, delivery: Delivery);

    /// Reads, checks and compacts what lies at `source`, or in the directory to which it was fetched.
    /// Slow; runs on the registry's own threads.
    ///
    /// # Errors
    /// Where it cannot be used with the model that is served.
    fn read(
        &self,
        source: &Source,
        fetched: Option<&dyn Fetched>,
    ) -> Result<ReadAdapter, LoadError>;

    /// The adapter in the form in which the model's batches take it.
    ///
    /// # Errors
    /// Where the device has no room, or a factor overflows.
    fn prepare(&self, delta: &LowRankDelta) -> Result<LowRankDelta, LoadError>;

    /// Finds what is wrong with what lies at `source` without reading its weights. What is found wrong
    /// cannot be read; the rest may be.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, source: &Source) -> Result<(), LoadError>;

    /// What is seen of the files at `source` without reading them. `None` where they cannot be seen,
    /// as on another machine.
    fn stamp(&self, source: &Source) -> Option<Stamp>;
}

/// What is seen of an adapter's files without reading them. It belongs to what was read from those
/// files, and to nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Differs wherever a file was replaced, written, or only touched.
    pub files: u64,
    /// False where a file changed so recently that one more change need not show in `files`, as
    /// file systems round times.
    pub settled: bool,
}

impl Stamp {
    /// Whether files of the stamp `now` still hold what files of this stamp held.
    #[must_use]
    pub fn still_holds(self, now: Self) -> bool {
        self.files == now.files && (self.settled || !now.settled)
    }
}

/// Which of the contents that a place has in the course of time is to be read. Matters where what was
/// fetched before is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What lies there now.
    Now,
    /// What lies there now, or where nobody can tell, what lay there last.
    Newest,
    /// What was read there before, whatever lies there now.
    Same(AdapterId),
}

/// An adapter as it was read.
#[derive(Debug, Clone)]
pub struct ReadAdapter {
    /// Its weights, float32 on the CPU.
    pub delta: Arc<LowRankDelta>,
    /// The digest of what its files hold, however it is then served.
    pub content: AdapterId,
    /// How it was trained, in a word.
    pub kind: &'static str,
    /// Its rank as trained.
    pub rank: usize,
}

/// Why an adapter could not be loaded. The message names no path outside the adapter's own
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    kind: LoadErrorKind,
    is_missing: bool,
    message: Arc<str>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// What lies there is no adapter for this model.
    Unusable,
    /// There is no room, or there was none in time; later there may be.
    NoRoom,
    /// Too many others wait to be loaded.
    Busy,
    /// The machine that it lies on did not answer; later it may.
    Unreachable,
    /// A bug of this program.
    Bug,
}

impl LoadError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: LoadErrorKind, message: impl Into<String>) -> Self {
        Self { kind, is_missing: false, message: message.into().into() }
    }

    /// What lies there is no adapter for this model.
    #[must_use]
    pub fn unusable(message: impl Into<String>) -> Self {
        Self::new(LoadErrorKind::Unusable, message)
    }

    /// Nothing lies there at all.
    #[must_use]
    pub fn missing(message: impl Into<String>) -> Self {
        Self { is_missing: true, ..Self::unusable(message) }
    }

    /// Whether that is because nothing lies there at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> LoadErrorKind {
        self.kind
    }
}
