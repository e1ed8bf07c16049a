//! Values of the command line that cannot be used.

use crate::adapter::registry::SourceError;

/// A value of the command line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An adapter without a name or a path.
    #[error("{0:?} is not NAME=PATH")]
    Adapter(String),
    /// An adapter of a place that is none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A name that cannot stand in a URL or a metric.
    #[error(
        "{0:?} is no name for a model: use 1 to 128 letters, digits, '.', '_', '-', ':' or '/'"
    )]
    Name(String),
    /// A name that has another meaning in requests.
    #[error("the name {0:?} is taken: it is what requests call their tenant's own default")]
    Reserved(String),
    /// An unknown device.
    #[error("{0:?} is no device: use cpu, cuda or cuda:N")]
    Device(String),
    /// A key of no letters.
    #[error("an API key must be printable ASCII without blanks, and not empty")]
    Secret,
    /// A size that is no number of bytes.
    #[error("{0:?} is no size: use bytes, or a number with KiB, MiB, GiB, KB, MB or GB")]
    Size(String),
    /// A count out of its bounds.
    #[error("{0:?} is no count from 1 to {1}")]
    Count(String, usize),
    /// What is no level, and names no target either.
    #[error(
        "{0:?} is no log level: use error, warn, info, debug, trace or off, or TARGET=LEVEL such as \
         sorsa=debug, with commas between several"
    )]
    LogLevel(String),
    /// What `tracing` does not understand, and its reason.
    #[error("{0:?} are no log directives: {1}")]
    LogDirective(String, String),
}
