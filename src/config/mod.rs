//! Flags and environment, parsed and checked once. The only reader of the environment.
//!
//! Every flag of `sorsa serve` is an environment variable too: `--max-model-len` is
//! `SORSA_MAX_MODEL_LEN`. A flag wins over its variable.

mod access;
mod adapter;
mod adapters;
mod adapters_file;
mod chat;
mod device;
mod engine;
mod environment;
mod error;
mod serve;
mod size;
mod sources;
mod weights;

use clap::{Args, ValueEnum};

pub use self::access::{AccessArgs, Secret};
pub use self::adapter::{AdapterArg, is_valid_name};
pub use self::adapters::AdaptersArgs;
pub use self::adapters_file::{AdaptersFileError, read_adapters};
pub use self::chat::{ChatArgs, ReasoningParserArg, TemplateArg, ToolCallParserArg};
pub use self::device::DeviceArg;
pub use self::engine::{EngineArgs, KvCacheDTypeArg};
pub use self::environment::{hub, own_executable, store_variables, user_cache};
pub use self::error::ConfigError;
pub use self::serve::ServeArgs;
pub use self::size::ByteSize;
pub use self::sources::SourcesArgs;
pub use self::weights::{AdapterDTypeArg, DTypeArg, QuantizeArg};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: a level, or directives such as `sorsa=debug,tower_http=info`
    #[arg(long, env = "SORSA_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// How log lines look
    #[arg(long, env = "SORSA_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}
