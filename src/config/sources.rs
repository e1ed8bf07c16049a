//! Adapters that lie on other machines: which may be fetched, and where they are kept.

use std::path::PathBuf;

use clap::Args;

use super::{ByteSize, seconds};
use crate::adapter::registry::LocationPrefix;

/// Fetching.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fetched adapters")]
pub struct SourcesArgs {
    /// Source from which adapters may be fetched (repeatable): s3://BUCKET/PREFIX,
    /// https://HOST/PATH, hf://ORG/NAME or the like, or a prefix of many. Redirects are followed
    /// beneath it only. Sources named by --adapter are allowed without this flag
    #[arg(long, env = "SORSA_ADAPTER_SOURCE", value_delimiter = ',', value_name = "PLACE")]
    pub adapter_source: Vec<LocationPrefix>,
    /// Cache directory for fetched adapters, not shared with another server [default: in the user's
    /// cache directory]
    #[arg(long, env = "SORSA_ADAPTER_CACHE_DIR", value_name = "DIR")]
    pub adapter_cache_dir: Option<PathBuf>,
    /// Disk space for fetched adapters; the least recently used are evicted
    #[arg(long, env = "SORSA_ADAPTER_CACHE_SIZE", default_value = "16GiB", value_name = "BYTES")]
    pub adapter_cache_size: ByteSize,
    /// Largest adapter that is fetched, all its files together
    #[arg(long, env = "SORSA_MAX_ADAPTER_SIZE", default_value = "4GiB", value_name = "BYTES")]
    pub max_adapter_size: ByteSize,
    /// Longest time that fetching one adapter may take, in seconds
    #[arg(
        long,
        env = "SORSA_ADAPTER_FETCH_TIMEOUT",
        default_value_t = 600,
        value_parser = seconds::from(1),
        value_name = "SECONDS"
    )]
    pub adapter_fetch_timeout: u64,
}
