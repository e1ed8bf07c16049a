//! An adapter of another machine on its way to this machine's disk: what is ordered, and what comes of
//! it. Nothing here knows how to fetch.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::file_digest::FileDigest;
use super::loader::{LoadError, LoadErrorKind, Wanted};
use super::location::Location;
use crate::adapter::delta::AdapterId;
use crate::tenant::turns::Party;

/// An adapter to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// From where.
    pub location: Location,
    /// What the file of weights must be.
    pub digest: Option<FileDigest>,
    /// Which of the contents that the place has in the course of time.
    pub wanted: Wanted,
    /// For whom.
    pub asker: Party,
}

/// An adapter's files on this machine's disk; they stay there for as long as this lives.
pub trait Fetched: fmt::Debug + Send + Sync {
    /// Their directory.
    fn dir(&self) -> &Path;

    /// What they hold, where they were read before.
    fn content(&self) -> Option<AdapterId>;

    /// Notes what they hold, by which they are found again whatever else has come from the same place.
    fn holds(&self, content: AdapterId);
}

/// How a fetch ended.
pub type FetchOutcome = Result<Arc<dyn Fetched>, LoadError>;

type Receiver = Box<dyn FnOnce(FetchOutcome) + Send>;
type Asked = Arc<dyn Fn() -> bool + Send + Sync>;

/// Who waits for a fetch. One that is dropped was given up, and who waits is told so.
pub struct Delivery {
    receiver: Option<Receiver>,
    wanted: Asked,
}

impl Delivery {
    /// Calls `receiver` once, on whatever thread the fetch ends.
    pub fn new(receiver: impl FnOnce(FetchOutcome) + Send + 'static) -> Self {
        Self { receiver: Some(Box::new(receiver)), wanted: Arc::new(|| true) }
    }

    /// The same, wanted as long as `asked` says so. What it said is not wanted is not wanted any more.
    #[must_use]
    pub fn wanted_while(mut self, asked: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.wanted = Arc::new(asked);
        self
    }

    /// Says whether somebody still waits for it: a fetch that nobody waits for need not begin.
    #[must_use]
    pub fn asked(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        Arc::clone(&self.wanted)
    }

    /// Ends the fetch.
    pub fn finish(mut self, outcome: FetchOutcome) {
        self.deliver(outcome);
    }

    fn deliver(&mut self, outcome: FetchOutcome) {
        if let Some(receiver) = self.receiver.take() {
            receiver(outcome);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.deliver(Err(LoadError::new(LoadErrorKind::Unreachable, "fetching it was given up")));
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delivery")
    }
}
