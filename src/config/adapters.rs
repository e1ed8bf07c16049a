//! Adapters that come and go while serving: from where, how many, and who may change them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::count::up_to;
use super::{AdapterDTypeArg, ByteSize, SourcesArgs, seconds};

/// Adapters beside those named one by one.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Adapters")]
pub struct AdaptersArgs {
    /// Serve every adapter directory in this directory under its own name. Each is loaded at its
    /// first request; new ones are noticed
    #[arg(long, env = "SORSA_ADAPTER_DIR", value_name = "DIR")]
    pub adapter_dir: Option<PathBuf>,
    /// Serve the adapters that this TOML file declares, and follow its changes
    #[arg(long = "adapters", env = "SORSA_ADAPTERS", value_name = "FILE")]
    pub adapters_file: Option<PathBuf>,
    /// Let clients on this machine register and change adapters through the HTTP API
    #[arg(long, env = "SORSA_ALLOW_RUNTIME_ADAPTERS")]
    pub allow_runtime_adapters: bool,
    /// Directory from which API callers may register adapters (repeatable)
    #[arg(
        long,
        env = "SORSA_ADAPTER_ROOT",
        value_delimiter = ',',
        requires = "allow_runtime_adapters",
        value_name = "DIR"
    )]
    pub adapter_root: Vec<PathBuf>,
    /// Directory in which changes made through the API are stored; without it they end with the
    /// process
    #[arg(long, env = "SORSA_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Type of the adapters' factors: auto follows --dtype; q8 holds 8 bits with a scale per 32
    /// values, on a CPU whose weights are bfloat16 or quantised
    #[arg(long, env = "SORSA_ADAPTER_DTYPE", default_value = "auto", value_name = "DTYPE")]
    pub adapter_dtype: AdapterDTypeArg,
    /// Memory limit for loaded adapters; the least recently used are evicted
    #[arg(long, env = "SORSA_ADAPTER_MEMORY", default_value = "4GiB", value_name = "BYTES")]
    pub adapter_memory: ByteSize,
    /// Maximum number of adapters kept ready to serve; others stay in host memory, unprepared,
    /// while there is room [default: as many as fit]
    #[arg(long, env = "SORSA_MAX_RESIDENT_ADAPTERS", value_name = "N")]
    pub max_resident_adapters: Option<NonZeroUsize>,
    /// Threads that load adapters
    #[arg(
        long,
        env = "SORSA_ADAPTER_LOADERS",
        default_value = "2",
        value_parser = up_to::<256>,
        value_name = "N"
    )]
    pub adapter_loaders: NonZeroUsize,
    /// Longest time that a request waits for its adapter to load, in seconds
    #[arg(
        long,
        env = "SORSA_ADAPTER_LOAD_TIMEOUT",
        default_value_t = 30,
        value_parser = seconds::from(0),
        value_name = "SECONDS"
    )]
    pub adapter_load_timeout: u64,
    /// Adapters of other machines
    #[command(flatten)]
    pub sources: SourcesArgs,
}

impl AdaptersArgs {
    /// Whether adapters may come after the start, and by which flag.
    #[must_use]
    pub fn runtime_flag(&self) -> Option<&'static str> {
        let flags = [
            (self.adapter_dir.is_some(), "--adapter-dir"),
            (self.adapters_file.is_some(), "--adapters"),
            (self.allow_runtime_adapters, "--allow-runtime-adapters"),
        ];
        flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }
}
