//! Why an adapter could not be fetched. Messages are our own words and name no address but the
//! source's: what a library or a server says may hold a signed URL or a key.

use crate::adapter::AdapterError;
use crate::adapter::registry::{FileDigest, LoadErrorKind};

/// Why an adapter could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The operator did not allow it.
    #[error("adapters are not fetched from there: no --adapter-source names it")]
    NotAllowed,
    /// A file that an adapter has is not there.
    #[error("there is no {file}")]
    Missing {
        /// The file.
        file: &'static str,
    },
    /// The hub has no such repository or revision.
    #[error("the hub has no such repository or revision")]
    NoRevision,
    /// The other side understood and refused.
    #[error("the other side refused, with status {status}")]
    Refused {
        /// The status of its answer.
        status: u16,
    },
    /// The answer lies elsewhere.
    #[error("it redirects to a host that adapters are not fetched from")]
    Redirect,
    /// More bytes than allowed.
    #[error("{file} is too large: it and what came before it may have {limit} bytes")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// The most that it and the files before it may have.
        limit: u64,
    },
    /// A file is not what it was declared to be.
    #[error("{file} has the digest {found}, and {expected} was asked for")]
    Digest {
        /// The file.
        file: &'static str,
        /// As declared.
        expected: FileDigest,
        /// As fetched.
        found: FileDigest,
    },
    /// The configuration is no adapter's.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The hub may not be asked, and nothing is kept.
    #[error("HF_HUB_OFFLINE is set, and it was not fetched before")]
    Offline,
    /// No answer, or none that is of use, after several tries.
    #[error("it could not be fetched: {what}")]
    Unreachable {
        /// What happened last.
        what: &'static str,
    },
    /// It took too long.
    #[error("it could not be fetched in {seconds} s")]
    TimedOut {
        /// How long it may take.
        seconds: u64,
    },
    /// Somebody was writing there all the time.
    #[error("its files changed while they were fetched")]
    Changed,
    /// What is kept is being read, and there is no room beside it.
    #[error("there is no room for it beside the {limit} bytes of --adapter-cache-size")]
    NoRoom {
        /// Bytes that may be kept.
        limit: u64,
    },
    /// The disk.
    #[error("the directory for fetched adapters cannot be used: {0}")]
    Disk(#[from] std::io::Error),
    /// Another process keeps its adapters there.
    #[error(
        "the directory for fetched adapters belongs to another server: give each its own \
             --adapter-cache-dir"
    )]
    Shared,
    /// Something the operator said cannot be.
    #[error("{0}")]
    Settings(String),
}

impl RemoteError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> LoadErrorKind {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Changed
            | Self::Offline
            | Self::Disk(_)
            | Self::Shared
            | Self::Settings(_) => LoadErrorKind::Unreachable,
            Self::NoRoom { .. } => LoadErrorKind::NoRoom,
            _ => LoadErrorKind::Unusable,
        }
    }

    /// Whether what was fetched so far is of use to another try.
    pub(super) fn leaves_something(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}
