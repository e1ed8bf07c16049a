//! Flags and environment, parsed and checked once. The only reader of the environment.
//!
//! Every flag of `sorsa serve` is an environment variable too: `--max-model-len` is
//! `SORSA_MAX_MODEL_LEN`. A flag wins over its variable.

mod access;
mod adapter;
mod adapters;
mod adapters_file;
mod chat;
mod count;
mod device;
mod engine;
mod environment;
mod error;
mod log;
mod seconds;
mod serve;
mod size;
mod sources;
mod weights;

pub use self::access::{AccessArgs, Secret};
pub use self::adapter::{AdapterArg, is_valid_name, may_be_in_name};
pub use self::adapters::AdaptersArgs;
pub use self::adapters_file::{AdaptersFileError, MAX_ADAPTERS_FILE, parse_adapters};
pub use self::chat::{ChatArgs, ReasoningParserArg, TemplateArg, ToolCallParserArg};
pub use self::device::DeviceArg;
pub use self::engine::{EngineArgs, KvCacheDTypeArg};
pub use self::environment::{hub, own_executable, store_variables, user_cache};
pub use self::error::ConfigError;
pub use self::log::{LogArgs, LogFilter, LogFormat};
pub use self::serve::ServeArgs;
pub use self::size::ByteSize;
pub use self::sources::SourcesArgs;
pub use self::weights::{AdapterDTypeArg, DTypeArg, QuantizeArg};
