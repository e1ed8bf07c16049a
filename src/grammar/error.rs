//! Why a grammar was refused, and why a text could not be followed through one.

/// Why a specification did not become a grammar. Messages are for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// More of something than is allowed.
    #[error("it has {found} {what}, and at most {limit} are allowed")]
    TooLarge {
        /// Bytes, values, levels.
        what: &'static str,
        /// How many there are, at least.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A choice among nothing.
    #[error("it must offer at least one string, none of them empty")]
    NoChoice,
    /// A regular expression is malformed or too large.
    #[error("a regular expression cannot be read: {0}")]
    Regex(String),
    /// A part of a JSON schema that is understood, and not supported.
    #[error("{0}")]
    Unsupported(String),
    /// No finite text obeys it.
    #[error("no finite text can satisfy it")]
    Unsatisfiable,
    /// It lets a text get to where nothing may follow.
    #[error("a text of it can get to where nothing that can be written may follow")]
    DeadEnd,
    /// It is no valid regular expression, schema or grammar, or too complex a one.
    #[error("{0}")]
    Invalid(String),
    /// Its compilation was ended: nobody waited for it any more.
    #[error("nobody waits for it")]
    Abandoned,
    /// The parser failed where it should have said why.
    #[error("it cannot be compiled")]
    Failed,
}

impl GrammarError {
    /// The parser's own words, without what is meant for its developers.
    pub(super) fn from_parser(error: &str) -> Self {
        if error.starts_with("panic") {
            tracing::warn!(error, "the grammar compiler failed");
            return Self::Failed;
        }
        let message = error.split("\n<").next().unwrap_or(error);
        let message = message.split("; following special tokens").next().unwrap_or(message).trim();
        Self::Invalid(message.to_owned())
    }
}

/// Why a text could not be followed on. The text's own request fails by it, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// What may follow is more than the limits allow to find out.
    #[error("the grammar became too complex to follow")]
    TooComplex,
    /// A token came that the grammar does not allow, or none is allowed.
    #[error("the grammar allows no token that can be written")]
    Stuck,
    /// A bug in the parser.
    #[error("following the grammar failed")]
    Failed,
}
