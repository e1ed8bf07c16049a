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
    /// The store has no such bucket.
    #[error("the store has no such bucket or container")]
    NoBucket,
    /// The hub has no such repository, or does not show it.
    #[error(
        "the hub has no such repository, or shows it only to others: is HF_TOKEN set, and its \
         account let in?"
    )]
    NoRepository,
    /// The hub has no such revision.
    #[error("the hub has no such repository or revision")]
    NoRevision,
    /// The hub's owner of it lets in whom he chose.
    #[error(
        "the repository is gated: set HF_TOKEN to a token of an account that its owner has let in"
    )]
    Gated,
    /// Nothing says who asks.
    #[error("there are no credentials for the store: set {variables}")]
    NoCredentials {
        /// The variables that hold them.
        variables: &'static str,
    },
    /// The other side understood and refused.
    #[error("the other side refused, with status {status}{}", hint(*status))]
    Refused {
        /// The status of its answer.
        status: u16,
    },
    /// The answer lies elsewhere.
    #[error(
        "it redirects to a place that adapters are not fetched from: no --adapter-source names it"
    )]
    Redirect,
    /// The answer lies elsewhere for ever.
    #[error("it redirects more than {limit} times")]
    Redirects {
        /// As often as it may.
        limit: usize,
    },
    /// The file would have to be unpacked.
    #[error("the files come compressed (content-encoding), which is not supported")]
    Encoded,
    /// The file's name for Git, instead of what it holds.
    #[error(
        "{file} is a pointer of Git LFS and not the file itself: fetch it with `git lfs pull` \
         where it was uploaded from, and upload it again"
    )]
    LfsPointer {
        /// The file.
        file: &'static str,
    },
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
    /// The other side wants to be left alone for longer than there is time.
    #[error("it could not be fetched: {what}, and is to be asked again in {seconds} s")]
    Later {
        /// What happened.
        what: &'static str,
        /// How long it wants to be left alone.
        seconds: u64,
    },
    /// Bytes come, and too few.
    #[error("it comes too slowly: fewer than {bytes} bytes in {seconds} s")]
    TooSlow {
        /// The fewest that have to come.
        bytes: u64,
        /// In this time.
        seconds: u64,
    },
    /// Others are fetched from there.
    #[error("too many adapters are being fetched from there")]
    Busy,
    /// It took too long.
    #[error("it could not be fetched in {seconds} s")]
    TimedOut {
        /// How long it may take.
        seconds: u64,
    },
    /// The server is going down.
    #[error("fetching it was given up: the server is going down")]
    Closed,
    /// A bug of this program.
    #[error("fetching it failed of a bug")]
    Bug,
    /// Somebody was writing there all the time.
    #[error("its files changed while they were fetched")]
    Changed,
    /// What is kept is being read, and there is no room beside it.
    #[error("there is no room for it beside the {limit} bytes of --adapter-cache-size")]
    NoRoom {
        /// Bytes that may be kept.
        limit: u64,
    },
    /// The disk takes no more of a file.
    #[error(
        "there is no room on the disk of --adapter-cache-dir: {written} bytes of {file}{} could be \
         written, and no more: {error}", size.map_or_else(String::new, |size| format!(", which has {size},"))
    )]
    Full {
        /// The file.
        file: &'static str,
        /// Bytes of it that the disk took.
        written: u64,
        /// Bytes that it has, where the other side says so.
        size: Option<u64>,
        /// What the system says.
        error: std::io::Error,
    },
    /// The disk.
    #[error("the directory for fetched adapters (--adapter-cache-dir) cannot be used: {0}")]
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

/// What is most often behind a status.
fn hint(status: u16) -> &'static str {
    match status {
        401 => ": it wants credentials, or others than these",
        403 => ": who asks may not read there",
        _ => "",
    }
}

impl RemoteError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> LoadErrorKind {
        match self {
            Self::Unreachable { .. }
            | Self::Later { .. }
            | Self::TooSlow { .. }
            | Self::TimedOut { .. }
            | Self::Changed
            | Self::Offline
            | Self::Closed
            | Self::NoCredentials { .. }
            | Self::Disk(_)
            | Self::Full { .. }
            | Self::Shared
            | Self::Settings(_) => LoadErrorKind::Unreachable,
            Self::NoRoom { .. } => LoadErrorKind::NoRoom,
            Self::Busy => LoadErrorKind::Busy,
            Self::Bug => LoadErrorKind::Bug,
            _ => LoadErrorKind::Unusable,
        }
    }

    /// Whether what was fetched so far is of use to another try.
    pub(super) fn leaves_something(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Later { .. }
                | Self::TooSlow { .. }
                | Self::TimedOut { .. }
                | Self::Closed
        )
    }

    /// Whether it says nothing of what lies there: the place could not be asked, or what it has could
    /// not be taken in.
    pub(super) fn tells_nothing(&self) -> bool {
        let redirected = matches!(self, Self::Redirect | Self::Redirects { .. });
        redirected || self.kind() != LoadErrorKind::Unusable
    }
}
