//! The one thing that the rest asks of another machine: a file, whole, or from somewhere on, or only
//! if it is another one than before.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::RemoteError;
use super::store::Store;
use super::web::Web;

/// What happened where nothing did.
pub(super) const NO_ANSWER: &str = "no answer in time";

/// Where one adapter's files are.
#[derive(Debug)]
pub(super) enum Place {
    Store(Store),
    Web(Web),
}

/// How much of a file is asked for. A tag names what a file holds; it is the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    Whole,
    /// Nothing, where it still has this tag.
    Unless(&'a str),
    /// What follows `from` bytes, where it still has this tag.
    Rest {
        from: u64,
        tag: &'a str,
    },
}

/// What comes back.
pub(super) enum Answer {
    /// There is no such file.
    Missing,
    /// It has the tag of [`Ask::Unless`].
    Unchanged,
    /// It does not have that of [`Ask::Rest`].
    Changed,
    Body(Body),
}

/// Bytes of a file.
pub(super) struct Body {
    /// The first of them: 0, or as asked.
    pub from: u64,
    /// The size of the whole file, where the server says so.
    pub size: Option<u64>,
    /// Its tag, where it has one that stands for every byte.
    pub tag: Option<String>,
    pub chunks: BoxStream<'static, Result<Bytes, Failure>>,
}

/// A request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It would fail again.
    Lasting(RemoteError),
    /// No answer came in time.
    Silent,
    /// It may succeed next time.
    Passing {
        /// What happened, in a few words.
        what: &'static str,
        /// How long the other side wants to be left alone.
        after: Option<Duration>,
    },
}

impl Body {
    /// Whether it is what is here already, whatever was asked.
    pub fn is_still(&self, ask: Ask<'_>) -> bool {
        matches!(ask, Ask::Unless(tag) if self.from == 0 && self.tag.as_deref() == Some(tag))
    }
}

impl Failure {
    /// What comes of `work`, or that nothing has come for so long.
    pub async fn unless_silent<T>(
        silence: Duration,
        work: impl Future<Output = Result<T, Self>>,
    ) -> Result<T, Self> {
        tokio::time::timeout(silence, work).await.unwrap_or(Err(Self::Silent))
    }

    /// One that may succeed next time.
    pub fn passing(what: &'static str) -> Self {
        Self::Passing { what, after: None }
    }
}

impl Place {
    /// Asks for a file; the place may say nothing for at most `silence`.
    pub async fn open(
        &self,
        file: &str,
        ask: Ask<'_>,
        silence: Duration,
    ) -> Result<Answer, Failure> {
        let answer = async {
            match self {
                Self::Store(store) => store.open(file, ask).await,
                Self::Web(web) => web.open(file, ask).await,
            }
        };
        Failure::unless_silent(silence, answer).await
    }

    /// The version of all files here, where none of them ever changes.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Store(_) => None,
            Self::Web(web) => web.version.as_deref(),
        }
    }
}
