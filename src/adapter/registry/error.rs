//! Why a change of what is registered was refused.

use super::loader::LoadError;
use super::source::Origin;

/// A change that was not made. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No name for an adapter.
    #[error(
        "{name:?} is no name for an adapter: use 1 to 64 letters, digits, '.', '_' or '-', the \
         first of them a letter or a digit"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Nothing has that name.
    #[error("there is no adapter {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// An adapter has no version of that number.
    #[error("adapter {name:?} has no version {number}")]
    NoVersion {
        /// The adapter.
        name: String,
        /// The number.
        number: u64,
    },
    /// The name stands for something else.
    #[error("the name {name:?} is taken: it is {by}")]
    Taken {
        /// The name.
        name: String,
        /// What has it.
        by: &'static str,
    },
    /// Somebody else says what the name means.
    #[error("adapter {name:?} is registered by {}, and changed only there", origin.shown())]
    Elsewhere {
        /// The name.
        name: String,
        /// Who.
        origin: Origin,
    },
    /// It changed since the caller looked.
    #[error("adapter {name:?} is at revision {found}, not at {expected}")]
    Revision {
        /// The name.
        name: String,
        /// What the caller takes it for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Weights that share out nothing, or a version twice.
    #[error("a rollout names versions once each, with weights of 0 to 1000000, one above 0")]
    Split,
    /// Nothing to go back to.
    #[error("adapter {name:?} has nothing to go back to: nothing else answered before")]
    NoEarlier {
        /// The adapter.
        name: String,
    },
    /// There are as many names as there may be.
    #[error("there are {limit} names already, which is the limit")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The adapter cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The change cannot be written down at all, and so was not made.
    #[error("this cannot be stored: {0}")]
    Unstorable(String),
    /// The change could not be written down, and so was not made.
    #[error("the change could not be stored: {0}")]
    Store(String),
}
