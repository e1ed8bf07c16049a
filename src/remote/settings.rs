//! What the operator said about fetching.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::adapter::registry::LocationPrefix;

/// What the operator said about fetching.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From where adapters may be fetched; from nowhere else.
    pub allowed: Vec<LocationPrefix>,
    /// Where they are kept on this machine.
    pub cache_dir: PathBuf,
    /// Bytes that may be kept.
    pub cache_bytes: u64,
    /// Bytes of one adapter.
    pub max_bytes: u64,
    /// Time to fetch one adapter.
    pub timeout: Duration,
    /// How long a place may say nothing when it is asked for a file.
    pub silence: Duration,
    /// The fewest bytes that have to come.
    pub slowest: Pace,
    /// Variables of the stores, such as `AWS_ENDPOINT_URL`.
    pub stores: Variables,
    /// The Hugging Face hub.
    pub hub: Hub,
}

/// Time to connect to a place and to get the first line of its answer, redirects included.
pub const SILENCE: Duration = Duration::from_secs(10);

/// So many bytes in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many.
    pub bytes: u64,
    /// In this time.
    pub window: Duration,
}

impl Default for Pace {
    /// What even a poor line does. An adapter of some size would not come in time at this pace: who is
    /// slower is sick, or wants to be.
    fn default() -> Self {
        Self { bytes: 64 << 10, window: Duration::from_secs(10) }
    }
}

/// Variables of the environment by their names. Some are secret: none is printed.
#[derive(Clone, Default)]
pub struct Variables(pub Vec<(String, String)>);

/// A secret word. It is never printed.
#[derive(Clone)]
pub struct Token(pub String);

/// The Hugging Face hub.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Its address.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<Token>,
    /// Nothing is asked: what is kept has to do.
    pub offline: bool,
}

impl Default for Hub {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".into(), token: None, offline: false }
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
