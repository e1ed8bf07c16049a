//! Adapters that lie on other machines: which may be fetched, and where they are kept.

use std::path::PathBuf;

use clap::Args;

use super::ByteSize;
use crate::adapter::registry::LocationPrefix;

/// Fetching.
#[derive(Debug, Clone, Args)]
pub struct SourcesArgs {
    /// From where adapters may be fetched: a place such as s3://BUCKET/PREFIX, https://HOST/PATH or
    /// hf://ORG/NAME, or what many begin with; may be repeated. Redirects are followed to places
    /// beneath them. Places of --adapter are allowed by themselves
    #[arg(long, env = "SORSA_ADAPTER_SOURCE", value_delimiter = ',', value_name = "PLACE")]
    pub adapter_source: Vec<LocationPrefix>,
    /// Where fetched adapters are kept; one server's alone [default: in the user's cache directory]
    #[arg(long, env = "SORSA_ADAPTER_CACHE_DIR", value_name = "DIR")]
    pub adapter_cache_dir: Option<PathBuf>,
    /// Disk space for fetched adapters; the least recently used leave it
    #[arg(long, env = "SORSA_ADAPTER_CACHE_SIZE", default_value = "16GiB", value_name = "BYTES")]
    pub adapter_cache_size: ByteSize,
    /// The largest adapter that is fetched, all its files together
    #[arg(long, env = "SORSA_MAX_ADAPTER_SIZE", default_value = "4GiB", value_name = "BYTES")]
    pub max_adapter_size: ByteSize,
    /// Seconds that fetching one adapter may take
    #[arg(
        long,
        env = "SORSA_ADAPTER_FETCH_TIMEOUT",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        value_name = "SECONDS"
    )]
    pub adapter_fetch_timeout: u64,
}
